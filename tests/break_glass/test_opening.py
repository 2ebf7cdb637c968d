"""restore.py opens what Lifeboat has written, by itself, and refuses everything else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo import storage
from lifeboat import sealing
from lifeboat.custody import rewrap
from lifeboat.keys import CLASSIC, HYBRID, Identity, Keyring, SigningKey, write_key
from lifeboat.manifest import PAYLOAD_TYPE
from lifeboat.repositories.azure import AzureBlobRepository
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.repositories.s3 import S3Repository
from lifeboat.signing import sign_record
from lifeboat.snapshot import Kind
from lifeboat.vault import Member, Snapshot, Vault
from tests.break_glass.alone import GOLDEN, RESTORE, TRUST, Stranger, load
from tests.fixtures_storage import BUCKET, azure_client_of, s3_client_of

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
LONG = b"".join(b"%d\n" % n for n in range(100_000))
NOISE = os.urandom(5 * sealing.PLAIN_SEGMENT // 2)


@dataclass(frozen=True)
class Kept:
    """A snapshot in a folder, and the keys in another."""

    vault: Vault
    snapshot: Snapshot
    place: Path
    keys: Path

    def object(self, name: str) -> Path:
        return self.place / "snapshots" / self.snapshot.label / name

    @property
    def label(self) -> str:
        return self.snapshot.label


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    vault, keys = make_vault(LocalDiskRepository(tmp_path / "place", "local"), tmp_path / "keys")
    return Kept(vault, back_up(vault), tmp_path / "place", keys)


def make_vault(repository: Repository, keys: Path, algorithm: str = CLASSIC) -> tuple[Vault, Path]:
    for name in ("operations", "escrow"):
        identity = Identity.generate(name, algorithm)
        write_key(keys, identity)
        write_key(keys, identity.recipient)
    signing = SigningKey.generate("host-1")
    write_key(keys, signing)
    write_key(keys, signing.signer)
    Vault.create([Member(repository)])
    return Vault.open([Member(repository)], Keyring.from_folder(keys), ["operations", "escrow"]), keys


def back_up(vault: Vault, *, noise: bytes = NOISE) -> Snapshot:
    writer = vault.begin("orders", Kind.POSTGRES, began=NOW)
    writer("dump", [noise], media_type="application/octet-stream")
    writer("globals", [b"CREATE ROLE sme_user;"], media_type="application/sql")
    writer("empty", [], media_type="application/octet-stream")
    return writer.commit({"database": "orders"})


def test_lifeboat_cannot_be_imported_where_restore_runs(stranger: Stranger) -> None:
    command = [sys.executable, "-I", "-c", "import lifeboat"]
    ended = subprocess.run(command, cwd=stranger.folder, capture_output=True, text=True, check=False)

    assert "No module named 'lifeboat'" in ended.stderr


@pytest.mark.parametrize("version", sorted(path.name for path in GOLDEN.glob("v*")))
@pytest.mark.parametrize("name", ["operations", "escrow", "classic"])
def test_every_golden_object_opens_for_every_recipient(version: str, name: str, stranger: Stranger) -> None:
    place, keys = GOLDEN / version / "vault", stranger.folder / "keys"
    keys.mkdir()
    for file in (f"{name}.identity", "host-1.signer"):
        shutil.copy(GOLDEN / version / "keys" / file, keys)

    listed = stranger.run("list", place, "--keys", keys)
    verified = stranger.run("verify", place, "orders", "--keys", keys)
    stranger.run("unseal", place, "orders", "--keys", keys, "--to", "out")

    assert b"orders/daily/20261123T020000Z-57186255" in listed.out
    assert b"signed by host-1" in listed.out
    assert verified.out.count(b"whole") == 3
    assert stranger.files() == ["empty", "long", "short"]
    assert (stranger.folder / "out" / "long").read_bytes() == LONG
    assert (stranger.folder / "out" / "short").read_bytes() == b"one row\n"
    assert (stranger.folder / "out" / "empty").read_bytes() == b""


@pytest.mark.parametrize("algorithm", [HYBRID, CLASSIC])
def test_both_kinds_of_keys_open_artifacts_of_several_segments(
    algorithm: str, tmp_path: Path, stranger: Stranger
) -> None:
    vault, keys = make_vault(LocalDiskRepository(tmp_path / "place", "local"), tmp_path / "keys", algorithm)
    snapshot = back_up(vault)

    poured = stranger.run("unseal", tmp_path / "place", str(snapshot.id), "dump", "--keys", keys, "--to", "-")

    assert poured.out == NOISE


def test_show_names_artifacts_facts_and_signer(kept: Kept, stranger: Stranger) -> None:
    shown = stranger.run("show", kept.place, "orders", "--keys", kept.keys).out.decode()

    assert shown.startswith(f"{kept.label}  signed by host-1\n")
    assert '"database": "orders"' in shown
    assert f"dump  {len(NOISE)} bytes" in shown


def test_a_source_stands_for_its_newest_snapshot(kept: Kept, stranger: Stranger) -> None:
    newest = back_up(kept.vault, noise=b"newest")
    later = kept.vault.begin("orders", Kind.POSTGRES, began=NOW.replace(day=24))
    later("dump", [b"of the 24th"], media_type="application/octet-stream")
    later.commit({})

    poured = stranger.run("unseal", kept.place, "orders", "dump", "--keys", kept.keys, "--to", "-")
    by_id = stranger.run("unseal", kept.place, str(newest.id), "dump", "--keys", kept.keys, "--to", "-")

    assert (poured.out, by_id.out) == (b"of the 24th", b"newest")


def test_a_snapshot_dated_into_the_future_is_passed_over_and_told(kept: Kept, stranger: Stranger) -> None:
    ahead = kept.vault.begin("orders", Kind.POSTGRES, began=datetime.now(UTC) + timedelta(days=400))
    ahead("dump", [b"stale"], media_type="application/octet-stream")
    stale = ahead.commit({})

    poured = stranger.run("unseal", kept.place, "orders", "dump", "--keys", kept.keys, "--to", "-")
    by_id = stranger.run("unseal", kept.place, str(stale.id), "dump", "--keys", kept.keys, "--to", "-")

    assert (poured.out, by_id.out) == (NOISE, b"stale")
    assert f"{stale.id} is passed over" in poured.err


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)


def resize_in_manifest(kept: Kept) -> None:
    """Sign what is stored now, as a host would whose storage lied to it: only seals can tell then."""
    key = kept.vault.keyring.signing_key
    assert key is not None
    manifest = kept.snapshot.manifest
    artifacts = []
    for artifact in manifest.artifacts:
        data = kept.object(f"{artifact.name}.sealed").read_bytes()
        artifacts.append(replace(artifact, sealed_size=len(data), sealed_sha256=hashlib.sha256(data).hexdigest()))
    envelope = replace(manifest, artifacts=tuple(artifacts)).sign(key)
    kept.object("manifest.json").write_bytes(envelope)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit of the magic": lambda path: flip(path, 3),
    "a bit of the salt": lambda path: flip(path, 20),
    "a bit of the commitment": lambda path: flip(path, 60),
    "a bit of a key id": lambda path: flip(path, 84),
    "a bit of the other wrapped key": lambda path: flip(path, 190),
    "a bit of the first segment": lambda path: flip(path, 5000),
    "a bit of the last tag": lambda path: flip(path, -1),
    "cut inside the header": lambda path: cut(path, 50),
    "cut after the header": lambda path: cut(path, 83 + 2 * (18 + 80)),
    "cut between segments": lambda path: cut(path, 83 + 2 * (18 + 80) + sealing.SEGMENT),
    "cut by a byte": lambda path: cut(path, -1),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "nothing at all": lambda path: cut(path, 0),
    "gone": lambda path: path.unlink(),
    "another artifact": lambda path: path.write_bytes(path.with_name("globals.sealed").read_bytes()),
}


@pytest.mark.parametrize("signed_anew", [False, True], ids=["manifest as it was", "manifest agrees"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_artifact_is_refused_and_nothing_of_it_is_written(
    damage: str, signed_anew: bool, kept: Kept, stranger: Stranger
) -> None:
    DAMAGE[damage](kept.object("dump.sealed"))
    if signed_anew and damage != "gone":
        resize_in_manifest(kept)

    stranger.run("unseal", kept.place, "orders", "--keys", kept.keys, "--to", "out", expect=1)
    verified = stranger.run("verify", kept.place, "orders", "--keys", kept.keys, expect=1)

    assert stranger.files() == ["empty", "globals"]
    assert verified.out.count(b"whole") == 2


def test_swapped_artifacts_are_refused(kept: Kept, stranger: Stranger) -> None:
    one, other = kept.object("dump.sealed"), kept.object("globals.sealed")
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    resize_in_manifest(kept)

    stranger.run("unseal", kept.place, "orders", "dump", "globals", "--keys", kept.keys, "--to", "out", expect=1)

    assert stranger.files() == []


def test_a_pipe_that_ends_in_a_refusal_says_so(kept: Kept, stranger: Stranger) -> None:
    flip(kept.object("dump.sealed"), -1)

    poured = stranger.run("unseal", kept.place, "orders", "dump", "--keys", kept.keys, "--to", "-", expect=1)

    assert NOISE.startswith(poured.out)
    assert f"{len(poured.out)} bytes had gone out" in poured.err


def test_nothing_of_an_artifact_of_another_size_goes_into_a_pipe(kept: Kept, stranger: Stranger) -> None:
    cut(kept.object("dump.sealed"), -1)

    assert stranger.run("unseal", kept.place, "orders", "dump", "--keys", kept.keys, "--to", "-", expect=1).out == b""


def altered(envelope: dict[str, object]) -> dict[str, object]:
    payload = base64.b64decode(str(envelope["payload"])).replace(b'"orders"', b'"ORDERS"', 1)
    return envelope | {"payload": base64.b64encode(payload).decode()}


def resigned(envelope: dict[str, object]) -> dict[str, object]:
    payload = base64.b64decode(str(envelope["payload"]))
    stranger_key = SigningKey.generate("stranger")
    record: dict[str, object] = json.loads(sign_record(payload, PAYLOAD_TYPE, stranger_key))
    return record


FORGERIES: dict[str, Callable[[dict[str, object]], object]] = {
    "altered": altered,
    "signed by a stranger": resigned,
    "unsigned": lambda envelope: envelope | {"signatures": []},
    "of another type": lambda envelope: envelope | {"payloadType": "application/vnd.lifeboat.attestation+json"},
    "no record": lambda _: "nonsense",
    "a bare manifest": lambda envelope: json.loads(base64.b64decode(str(envelope["payload"]))),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_manifest_is_refused_and_nothing_is_written(forgery: str, kept: Kept, stranger: Stranger) -> None:
    path = kept.object("manifest.json")
    path.write_text(json.dumps(FORGERIES[forgery](json.loads(path.read_bytes()))))

    for command in (["list"], ["show", "orders"], ["verify", "orders"], ["unseal", "orders", "--to", "out"]):
        name, *rest = command
        stranger.run(name, kept.place, *rest, "--keys", kept.keys, TRUST, expect=1)

    assert stranger.files() == []


def test_another_record_of_a_trusted_signer_is_not_taken_for_a_manifest(kept: Kept, stranger: Stranger) -> None:
    signing = kept.vault.keyring.signing_key
    assert signing is not None
    path = kept.object("manifest.json")
    payload = base64.b64decode(json.loads(path.read_bytes())["payload"])
    path.write_bytes(sign_record(payload, "application/vnd.lifeboat.attestation+json", signing))

    stranger.run("show", kept.place, "orders", "--keys", kept.keys, expect=1)


@pytest.mark.parametrize("wrong", [{"plain_size": 1}, {"plain_sha256": "00" * 32}], ids=["size", "digest"])
def test_an_artifact_with_other_bytes_inside_than_signed_is_refused(
    wrong: dict[str, Any], kept: Kept, stranger: Stranger
) -> None:
    signing = kept.vault.keyring.signing_key
    assert signing is not None
    manifest = kept.snapshot.manifest
    artifacts = (replace(manifest.artifact("dump"), **wrong), manifest.artifact("globals"))
    kept.object("manifest.json").write_bytes(replace(manifest, artifacts=artifacts).sign(signing))

    stranger.run("unseal", kept.place, "orders", "--keys", kept.keys, "--to", "out", expect=1)

    assert stranger.files() == ["globals"]


def test_a_manifest_moved_to_another_place_is_refused(kept: Kept, stranger: Stranger) -> None:
    other = back_up(kept.vault, noise=b"other")
    there = kept.place / "snapshots" / other.label / "manifest.json"
    shutil.copy(kept.object("manifest.json"), there)

    listed = stranger.run("list", kept.place, "--keys", kept.keys, expect=1)

    assert kept.label.encode() in listed.out
    assert other.label.encode() not in listed.out
    assert "belongs to another place" in listed.err


def test_a_snapshot_of_another_vault_is_refused(kept: Kept, stranger: Stranger) -> None:
    (kept.place / "lifeboat.json").write_text('{"format": 1, "vault_id": "00000000000000000000000000000000"}')

    stranger.run("unseal", kept.place, "orders", "--keys", kept.keys, "--to", "out", expect=1)

    assert stranger.files() == []


@pytest.mark.parametrize("record", ['{"format": 2, "vault_id": "x"}', "[]", "{", None])
def test_an_unknown_or_damaged_vault_is_refused(record: str | None, kept: Kept, stranger: Stranger) -> None:
    (kept.place / "lifeboat.json").write_text(record or "")
    if record is None:
        (kept.place / "lifeboat.json").unlink()

    stranger.run("list", kept.place, "--keys", kept.keys, expect=1)


@pytest.mark.parametrize("name", ["../escape", "UPPER", "dump", ""])
def test_artifacts_with_impossible_names_are_refused(name: str, kept: Kept, stranger: Stranger) -> None:
    signing = kept.vault.keyring.signing_key
    assert signing is not None
    manifest = kept.snapshot.manifest
    renamed = replace(manifest.artifact("globals"), name=name)
    artifacts = (manifest.artifact("dump"), renamed)
    kept.object("manifest.json").write_bytes(replace(manifest, artifacts=artifacts).sign(signing))

    stranger.run("unseal", kept.place, "orders", "--keys", kept.keys, "--to", "out", expect=1)

    assert stranger.files(".") == ["restore.py"]


def test_the_wrong_identity_is_refused_and_says_which_would_do(kept: Kept, stranger: Stranger) -> None:
    keys = stranger.folder / "keys"
    write_key(keys, Identity.generate("somebody", CLASSIC))
    shutil.copy(kept.keys / "host-1.signer", keys)

    for command in (["verify", "orders"], ["unseal", "orders", "--to", "out"]):
        refused = stranger.run(command[0], kept.place, *command[1:], "--keys", keys, expect=1)
        assert kept.vault.keyring.recipients["escrow"].key_id.hex() in refused.err

    assert stranger.files() == []


def test_without_an_identity_digests_are_compared_and_it_says_that_nothing_was_opened(
    kept: Kept, stranger: Stranger
) -> None:
    keys = stranger.folder / "keys"
    keys.mkdir()
    shutil.copy(kept.keys / "host-1.signer", keys)

    verified = stranger.run("verify", kept.place, "orders", "--keys", keys, expect=1)
    flip(kept.object("dump.sealed"), 5000)
    flipped = stranger.run("verify", kept.place, "orders", "--keys", keys, expect=1)

    assert verified.out.count(b"whole") == 3
    assert "no seal was opened" in verified.err
    assert flipped.out.count(b"whole") == 2


@pytest.mark.parametrize("line", ["lifeboat:identity:x25519:AAAA", "", "lifeboat:identity:rot13:AAAA", "nonsense", "ü"])
def test_a_mistyped_key_is_refused_and_not_repeated(line: str, kept: Kept, stranger: Stranger) -> None:
    (kept.keys / "typed.identity").write_text(line)

    refused = stranger.run("list", kept.place, "--keys", kept.keys, expect=1)

    assert "typed.identity" in refused.err
    assert "AAAA" not in refused.err


def test_a_key_with_one_wrong_letter_is_refused(kept: Kept, stranger: Stranger) -> None:
    path = kept.keys / "escrow.identity"
    text = path.read_text()
    path.write_text(text[:40] + ("A" if text[40] != "A" else "B") + text[41:])

    assert "mistyped" in stranger.run("list", kept.place, "--keys", kept.keys, expect=1).err


def test_without_a_signer_it_warns_and_opens_nothing_unless_told_so_in_ugly_words(
    kept: Kept, stranger: Stranger
) -> None:
    (kept.keys / "host-1.signer").unlink()
    unseal = ("unseal", kept.place, "orders", "--keys", kept.keys, "--to", "out")

    listed = stranger.run("list", kept.place, "--keys", kept.keys, expect=1)
    refused = stranger.run(*unseal, expect=1)
    before = stranger.files()
    trusted = stranger.run(*unseal, TRUST)

    assert b"SIGNATURE NOT CHECKED" in listed.out
    assert "SIGNATURES WERE NOT CHECKED" in listed.err
    assert TRUST in refused.err
    assert before == []
    assert stranger.files() == ["dump", "empty", "globals"]
    assert "SIGNATURES WERE NOT CHECKED" in trusted.err


def test_nothing_is_overwritten(kept: Kept, stranger: Stranger) -> None:
    (stranger.folder / "out").mkdir()
    (stranger.folder / "out" / "globals").write_text("mine")

    stranger.run("unseal", kept.place, "orders", "--keys", kept.keys, "--to", "out", expect=1)

    assert stranger.files() == ["globals"]
    assert (stranger.folder / "out" / "globals").read_text() == "mine"


def test_what_is_written_is_for_its_owner_alone(kept: Kept, stranger: Stranger) -> None:
    stranger.run("unseal", kept.place, "orders", "dump", "--keys", kept.keys, "--to", "out")

    assert (stranger.folder / "out").stat().st_mode & 0o777 == 0o700
    assert (stranger.folder / "out" / "dump").stat().st_mode & 0o777 == 0o600


def test_an_identity_that_came_later_opens_what_was_rewrapped_for_it(kept: Kept, stranger: Stranger) -> None:
    later = Identity.generate("escrow-2027")
    keys = stranger.folder / "keys"
    write_key(keys, later)
    shutil.copy(kept.keys / "host-1.signer", keys)
    unseal = ("unseal", kept.place, "orders", "--keys", keys, "--to", "out")

    stranger.run(*unseal, expect=1)
    rewrap(kept.vault, [kept.snapshot], [later.recipient])
    [of_globals] = kept.object("rewrapped").glob("globals-*")
    shutil.copy(of_globals, of_globals.with_name("dump-00000000.json"))
    of_globals.with_name("dump-ffffffff.json").write_text("junk")
    stranger.run(*unseal)

    assert (stranger.folder / "out" / "dump").read_bytes() == NOISE


def test_a_repository_in_s3_is_read_there(s3_store: storage.S3Server, tmp_path: Path, stranger: Stranger) -> None:
    repository = S3Repository(s3_client_of(s3_store), BUCKET, "break/glass", "s3")
    vault, keys = make_vault(repository, tmp_path / "keys")
    back_up(vault)
    place = (f"s3://{BUCKET}/break/glass", "--endpoint-url", s3_store.endpoint, "--keys", keys)
    login = {"AWS_ACCESS_KEY_ID": s3_store.access_key, "AWS_SECRET_ACCESS_KEY": s3_store.secret_key}

    listed = stranger.run("list", *place, **login)
    stranger.run("unseal", place[0], "orders", *place[1:], "--to", "out", **login)
    refused = stranger.run("list", *place, expect=1, **login | {"AWS_SECRET_ACCESS_KEY": "wrong-secret"})

    assert b"orders/daily/" in listed.out
    assert (stranger.folder / "out" / "dump").read_bytes() == NOISE
    assert "wrong-secret" not in refused.err


def test_a_repository_copied_out_of_s3_is_read_from_the_folder(
    s3_store: storage.S3Server, tmp_path: Path, stranger: Stranger
) -> None:
    client = s3_client_of(s3_store)
    vault, keys = make_vault(S3Repository(client, BUCKET, "copied", "s3"), tmp_path / "keys")
    back_up(vault)
    for item in client.list_objects_v2(Bucket=BUCKET, Prefix="copied/")["Contents"]:
        path = stranger.folder / item["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, item["Key"], str(path))

    verified = stranger.run("verify", "copied", "orders", "--keys", keys)

    assert verified.out.count(b"whole") == 3


def test_a_repository_in_azure_is_read_there(
    azurite: storage.AzuriteServer, tmp_path: Path, stranger: Stranger
) -> None:
    container = azure_client_of(azurite).get_container_client(BUCKET)
    vault, keys = make_vault(AzureBlobRepository(container, "break/glass", "azure"), tmp_path / "keys")
    back_up(vault)
    login = f"AccountName={azurite.account};AccountKey={azurite.key};BlobEndpoint={azurite.endpoint};"
    place = (f"azure://{BUCKET}/break/glass", "orders", "--keys", keys, "--to", "out")

    stranger.run("unseal", *place, AZURE_STORAGE_CONNECTION_STRING=login)
    refused = stranger.run("unseal", *place, expect=1)

    assert (stranger.folder / "out" / "dump").read_bytes() == NOISE
    assert "AZURE_STORAGE_CONNECTION_STRING" in refused.err


def test_a_place_that_is_not_there_is_refused(kept: Kept, stranger: Stranger) -> None:
    assert "nowhere" in stranger.run("list", "nowhere", "--keys", kept.keys, expect=1).err
    assert "no-keys" in stranger.run("list", kept.place, "--keys", "no-keys", expect=1).err
    assert "no snapshot" in stranger.run("show", kept.place, "orders2", "--keys", kept.keys, expect=1).err
    assert "no artifact" in stranger.run(
        "unseal", kept.place, "orders", "nothing", "--keys", kept.keys, "--to", "out", expect=1
    ).err  # fmt: skip


def test_memory_does_not_grow_with_the_artifact(kept: Kept, stranger: Stranger) -> None:
    block = os.urandom(16 << 20)
    writer = kept.vault.begin("large", Kind.POSTGRES, began=NOW)
    writer("small", [block[:1000]], media_type="application/octet-stream")
    writer("large", [block] * 12, media_type="application/octet-stream")
    writer.commit({})

    def peak(artifact: str) -> int:
        command = stranger.command("unseal", kept.place, "large", artifact, "--keys", kept.keys, "--to", artifact)
        process = subprocess.Popen(command, cwd=stranger.folder)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss // 1024

    assert peak("large") - peak("small") < 64


def test_the_page_shows_commands_that_are_understood() -> None:
    page = RESTORE.with_name("README.md").read_text()
    lines = re.findall(r"^    python3 restore\.py ([^|>\n]+)", page, re.MULTILINE)

    assert [load().parser().parse_args(shlex.split(line)).run.__name__ for line in lines] == [
        "list_snapshots",
        "unseal",
        "commands",
        "extract",
        "unseal",
    ]
