"""`keys check`, `keys rewrap` and `thaw`, as people and scripts use them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from demo.storage import S3Server, free_ports
from lifeboat.assembly import open_vault
from lifeboat.cli.thaw_command import _look_again
from lifeboat.connections import connections_in
from lifeboat.env_file import read_env_file
from lifeboat.errors import ObjectNotFound
from lifeboat.keys import Identity, Keyring, write_key
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.settings import load_platform
from lifeboat.snapshot import Tier
from lifeboat.thawing import thaw_state
from lifeboat.vault import Member, Vault
from tests.cli.conftest import Place
from tests.core.storage_faults import FailingRepository
from tests.custody.vaults import DUMP, back_up, read, vault_of
from tests.fixtures_storage import BUCKET

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path, ministack: S3Server) -> Place:
    """A platform with its vault in archive storage, which it uses for monthly snapshots, and in a folder."""
    made = Place(tmp_path, "orders", ("lifeboat:identity", "lifeboat:signing"))
    (tmp_path / "platform.yaml").write_text(
        f"""\
platform: orders
recipients: [operations, escrow]
repositories:
  - name: s3
    url: s3://{BUCKET}/{tmp_path.name}
    connection: lifeboat_s3
    storage_class: {{monthly: GLACIER}}
  - {{name: local, url: "file://{made.local}"}}
sources:
  databases:
    - {{name: orders, connection: orders_db}}
"""
    )
    (tmp_path / ".env").write_text(
        f"AIRFLOW_CONN_LIFEBOAT_S3='{json.dumps(ministack.connection)}'\n"
        f'AIRFLOW_CONN_LIFEBOAT_KEYS={{"conn_type": "generic", "extra": {{"keyring": "{made.keyring}"}}}}\n'
    )
    made.run("init")
    return made


def vault_at(place: Place) -> Vault:
    return open_vault(
        load_platform(place.folder / "platform.yaml"), connections_in(read_env_file(place.folder / ".env"))
    )


def to_escrow(place: Place) -> Path:
    """Take the escrow identity away from the keyring, to a folder of its own, as `init` tells people to."""
    folder = place.folder / "medium"
    folder.mkdir()
    return Path(shutil.move(place.keyring / "escrow.identity", folder)).parent


def add_recipient(place: Place, name: str) -> None:
    place.run("keys", "new", name)
    file = place.folder / "platform.yaml"
    file.write_text(file.read_text().replace("[operations, escrow]", f"[operations, escrow, {name}]"))


def test_keys_that_open_everything_pass_the_check(place: Place) -> None:
    label = back_up(vault_at(place)).label

    ended = place.run("keys", "check")

    assert [line.split()[:3] for line in ended.out.splitlines()[1:]] == [
        ["escrow", label, "opens"],
        ["operations", label, "opens"],
    ]
    assert ended.err == ""


def test_an_identity_that_is_not_at_hand_is_remarked_and_may_be_brought_along(place: Place) -> None:
    back_up(vault_at(place))
    medium = to_escrow(place)

    alone, both = place.run("keys", "check"), place.run("keys", "check", "--identities", str(medium))

    assert "Nobody has shown that escrow opens anything (platform.yaml, 1 snapshot)" in alone.err
    assert both.err == ""
    assert both.out.count(" opens") == 2


def test_a_wrong_identity_and_an_unopened_snapshot_are_failures(place: Place) -> None:
    snapshot = back_up(vault_at(place))
    for path in place.keyring.glob("*.identity"):
        path.unlink()
    write_key(place.keyring, Identity.generate("operations"))

    ended = place.run("keys", "check", expect=3)

    assert "The identity operations is not the private half of the recipient operations." in ended.out
    assert f"No identity at hand opens {snapshot.label}. It is sealed for escrow, operations." in ended.out


def test_damage_is_its_own_exit_code(place: Place) -> None:
    snapshot = back_up(vault_at(place))
    vault = vault_at(place)
    for member in vault.members:
        [info] = [i for i in member.repository.list("snapshots/") if i.key.endswith("globals.sealed")]
        data = bytearray(b"".join(member.repository.get(info.key)))
        data[-1] ^= 1
        member.repository.delete(info.key)
        member.repository.put(info.key, [bytes(data)])

    record = place.run("keys", "check", "--json", expect=5).json

    assert {trial["opening"] for trial in record["trials"]} == {"fails"}
    assert record["unopened"].keys() == {snapshot.label}


def test_a_repository_that_is_away_degrades_the_check(place: Place) -> None:
    back_up(vault_at(place))
    extra = {"endpoint_url": f"http://127.0.0.1:{free_ports(1)[0]}", "region_name": "us-east-1"}
    down = {"AIRFLOW_CONN_LIFEBOAT_S3": json.dumps({"conn_type": "aws", "extra": extra, "login": "a", "password": "b"})}

    record = place.run("keys", "check", "--json", expect=6, **down).json

    assert record["unreadable"].keys() == {"s3"}
    assert {trial["opening"] for trial in record["trials"]} == {"opens"}


def test_a_new_recipient_opens_old_snapshots_once_they_are_rewrapped(place: Place) -> None:
    old = back_up(vault_at(place))
    add_recipient(place, "recovery")
    before = place.run("keys", "check")
    assert "not sealed for it" in before.out
    assert "Nobody has shown that recovery opens anything (platform.yaml)." in before.err

    ended = place.run("keys", "rewrap")

    assert f"1 of 1: {old.label}: 2 artifacts for recovery" in ended.err
    assert "Rewrapped 2 data keys of 1 snapshot." in ended.out
    for name in ("operations", "escrow"):
        (place.keyring / f"{name}.identity").unlink()
    assert [read(vault_at(place), old, name) for name in ("s3", "local")] == [DUMP, DUMP]
    assert "recovery" in place.run("keys", "check").out
    assert place.run("keys", "rewrap", "--json").json["rewrappings"] == [
        {"snapshot": old.label, "added": {}, "faults": {}, "lacking": {}}
    ]


def test_what_is_rewrapped_can_be_chosen(place: Place) -> None:
    vault = vault_at(place)
    first, second, other = back_up(vault), back_up(vault, days=1), back_up(vault, source="invoices")
    add_recipient(place, "recovery")

    one = place.run("keys", "rewrap", str(first.id), "--json").json["rewrappings"]
    source = place.run("keys", "rewrap", "orders", "--json").json["rewrappings"]

    assert [(r["snapshot"], len(r["added"])) for r in one] == [(first.label, 2)]
    assert [(r["snapshot"], len(r["added"])) for r in source] == [(first.label, 0), (second.label, 2)]
    again = place.run("keys", "rewrap", str(first.id), "orders", "orders", "--json").json["rewrappings"]
    assert [one["snapshot"] for one in again] == [one["snapshot"] for one in source]
    assert other.label in place.run("keys", "rewrap").err
    place.run("keys", "rewrap", "nothing", expect=4)


def test_rewrapping_needs_an_identity_and_may_be_lent_one(place: Place) -> None:
    back_up(vault_at(place))
    medium = to_escrow(place)
    (place.keyring / "operations.identity").unlink()
    add_recipient(place, "recovery")

    refused = place.run("keys", "rewrap", expect=3)
    place.run("keys", "rewrap", "--identities", str(medium))

    assert "No identity at hand opens" in refused.err


def test_a_snapshot_is_thawed_and_waited_for(place: Place) -> None:
    monthly = back_up(vault_at(place), tier=Tier.MONTHLY)

    asked = place.run("thaw", str(monthly.id), "--repository", "s3", "--json", expect=75).json
    waited = place.run("thaw", str(monthly.id), "--repository", "s3", "--wait", "--every", "0.5")

    assert (asked["state"], asked["expected"], asked["repository"]) == ("thawing", "3 to 5 hours", "s3")
    assert asked["artifacts"] == {"dump": "thawing", "globals": "thawing"}
    assert "s3 gives 0 of 2 artifacts; thawing takes 3 to 5 hours" in waited.err
    assert f"All of {monthly.label} can be read from s3." in waited.out
    assert read(vault_at(place), monthly, "s3") == DUMP


def test_a_wait_outlives_a_passing_fault_and_no_other() -> None:
    repository = MemoryRepository("local")
    snapshot = back_up(vault_of(repository))
    before = thaw_state(vault_of(repository), snapshot)
    away = FailingRepository(repository, lambda _, method, __: method == "describe")

    assert _look_again(Vault.open([Member(away)], Keyring(), ()), before) is before
    repository.delete(before.artifacts["dump"].key)
    with pytest.raises(ObjectNotFound):
        _look_again(vault_of(repository), before)


def test_what_can_be_read_elsewhere_is_not_thawed(place: Place) -> None:
    monthly = back_up(vault_at(place), tier=Tier.MONTHLY)

    assert f"All of {monthly.label} can be read from local." in place.run("thaw", "orders").out
    assert "cannot be read yet" in place.run("thaw", "orders", "--repository", "s3", expect=75).out
