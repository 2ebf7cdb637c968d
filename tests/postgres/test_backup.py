"""A database through the vault: made once, found again, healed, and never half there, whatever fails or is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psycopg import sql

from lifeboat.attestation import Verdict, attestations_of
from lifeboat.backup import DatabaseSource, back_up_database, check_ready, restore_snapshot
from lifeboat.errors import (
    EndedFromOutside,
    IntegrityError,
    NotReady,
    ObjectNotFound,
    RepositoryUnavailable,
    SettingsError,
    WrongIdentity,
)
from lifeboat.healing import make_whole
from lifeboat.keys import CLASSIC, Identity, Keyring, SigningKey, write_key
from lifeboat.outcome import BackupOutcome
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.selection import Selection
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.vault import Member, Progress, Vault
from tests.core.storage_faults import FailingRepository
from tests.fixtures_postgres import PROGRAMS, new_name
from tests.processes import children_of, wait_until

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
INSTALLED = tuple(PROGRAMS.values())

ORDERS = """
    CREATE TABLE orders AS SELECT n AS id, repeat(md5(n::text), 40) AS note FROM generate_series(1, 9000) n;
    CREATE TABLE customers AS SELECT n AS id FROM generate_series(1, 10) n;
"""

Fails = Callable[[int, str, str], bool]


@dataclass(frozen=True)
class Place:
    """A folder with keys and the repositories `near` and `far`, and a database to be backed up there."""

    folder: Path
    source: DatabaseSource

    @property
    def keyring(self) -> Keyring:
        return Keyring.from_folder(self.folder / "keys")

    def vault(self, far_fails: Fails = lambda *_: False, near_fails: Fails = lambda *_: False) -> Vault:
        repositories = [
            FailingRepository(LocalDiskRepository(self.folder / name, name), fails)
            for name, fails in (("near", near_fails), ("far", far_fails))
        ]
        return Vault.open([Member(repository) for repository in repositories], self.keyring, ["operations", "escrow"])

    def back_up(
        self,
        vault: Vault | None = None,
        *,
        source: DatabaseSource | None = None,
        scheduled_for: datetime = NOW,
        selection: Selection | None = None,
        progress: Progress | None = None,
    ) -> BackupOutcome:
        return back_up_database(
            vault or self.vault(),
            source or self.source,
            installed=INSTALLED,
            began=NOW,
            scheduled_for=scheduled_for,
            selection=selection,
            progress=progress,
        )


@pytest.fixture(scope="module")
def orders(postgres: PostgresServer) -> str:
    name = new_name("orders")
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with postgres.visit(name) as connection:
        connection.execute(ORDERS.encode())
    return name


@pytest.fixture
def place(tmp_path: Path, postgres: PostgresServer, orders: str) -> Place:
    (tmp_path / "keys").mkdir(mode=0o700)
    operations, escrow = Identity.generate("operations", CLASSIC), Identity.generate("escrow", CLASSIC)
    signing = SigningKey.generate("host")
    for key in (operations, operations.recipient, escrow.recipient, signing, signing.signer):
        write_key(tmp_path / "keys", key)
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
    Vault.create([Member(LocalDiskRepository(tmp_path / name, name)) for name in ("near", "far")])
    return Place(tmp_path, DatabaseSource("orders", postgres, orders, content_hash=True, stream_size=1024 * 1024))


def down(call: int, method: str, key: str) -> bool:
    return True


def failing_at(suffix: str) -> Fails:
    return lambda _, method, key: method == "put" and key.endswith(suffix)


# ---- repositories that fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "far_fails",
    [down, *map(failing_at, ("dump.sealed", "rows-0001.sealed", "evidence.sealed", "manifest.json"))],
    ids=["from the start", "at the dump", "at a table", "at the evidence", "at the manifest"],
)
def test_a_backup_with_one_repository_down_is_degraded_says_why_and_is_healed(
    place: Place, postgres: PostgresServer, far_fails: Fails
) -> None:
    outcome = place.back_up(place.vault(far_fails))

    assert outcome.snapshot.repositories == ("near",)
    assert list(outcome.lacking) == ["far"]
    assert "failed on purpose" in outcome.lacking["far"]

    vault = place.vault()
    healed = vault.replicate(vault.find("orders"))
    assert healed.snapshot.repositories == ("near", "far")
    assert healed.lacking == {}
    report = restore_snapshot(
        vault, vault.find("orders"), postgres, new_name("healed"), installed=INSTALLED, repository="far"
    )
    assert report.evidence.rows == 9010


@pytest.mark.parametrize("suffix", ["dump.sealed", "rows-0001.sealed", "evidence.sealed", "manifest.json"])
def test_a_backup_no_repository_takes_fails_and_the_next_one_works(place: Place, suffix: str) -> None:
    with pytest.raises(RepositoryUnavailable, match=r"near: .* far: ") as failed:
        place.back_up(place.vault(failing_at(suffix), failing_at(suffix)))

    assert failed.value.transient
    assert children_of(os.getpid(), "pg_dump") == []
    assert place.vault().list().snapshots == ()
    assert place.back_up().lacking == {}


def test_one_repository_failing_early_and_the_other_late_makes_no_snapshot(place: Place) -> None:
    with pytest.raises(RepositoryUnavailable, match=r"far: .* near: "):
        place.back_up(place.vault(failing_at("dump.sealed"), failing_at("manifest.json")))

    assert place.vault().list().snapshots == ()


# ---- runs that are repeated -----------------------------------------------------------------------------------------


def test_a_run_that_has_finished_is_found_and_the_server_is_not_even_asked(place: Place) -> None:
    first = place.back_up()
    gone = replace(place.source, server=PostgresServer("127.0.0.1", 1))

    again = place.back_up(source=gone)

    assert not first.reused
    assert again.reused
    assert again.snapshot == first.snapshot
    assert again.lacking == {}


def test_a_degraded_run_that_is_repeated_still_tells_what_is_lacking(place: Place) -> None:
    first = place.back_up(place.vault(failing_at("dump.sealed")))

    again = place.back_up()

    assert again.snapshot == first.snapshot
    assert again.lacking == {"far": "it was not written there"}


@pytest.mark.parametrize(
    ("scheduled_for", "selection"),
    [(NOW + timedelta(days=1), None), (NOW, Selection(("customers",))), (NOW, Selection(schema_only=True))],
    ids=["the next night", "a table", "definitions"],
)
def test_another_run_is_not_taken_for_the_finished_one(
    place: Place, scheduled_for: datetime, selection: Selection | None
) -> None:
    first = place.back_up()

    other = place.back_up(scheduled_for=scheduled_for, selection=selection)

    assert not other.reused
    assert other.snapshot.id != first.snapshot.id


def test_a_run_whose_table_is_named_twice_is_the_one_that_named_it_once(place: Place) -> None:
    first = place.back_up(selection=Selection(("customers",)))

    again = place.back_up(selection=Selection(("customers", "customers")))

    assert (again.reused, again.snapshot.id) == (True, first.snapshot.id)


# ---- preflight ------------------------------------------------------------------------------------------------------


def test_preflight_of_what_is_well_has_no_remarks(place: Place) -> None:
    place.back_up()

    assert check_ready(place.vault(), place.source, INSTALLED) == ()


def test_preflight_names_every_obstacle_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.back_up()
    (place.folder / "keys" / "host.signing").unlink()
    vault = place.vault()
    vault.absent["elsewhere"] = SettingsError("Its connection is missing.")
    monkeypatch.setattr(LocalDiskRepository, "free_bytes", lambda _: 1000)

    with pytest.raises(NotReady) as refused:
        check_ready(vault, place.source, ())

    for told in ("orders cannot be backed up", "no signing key", "there are none", "No repository has room"):
        assert told in refused.value.message
    assert "postgresql-client-17" in refused.value.message
    assert not refused.value.transient


def test_preflight_remarks_on_a_repository_that_is_down_and_one_without_room(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.back_up()
    monkeypatch.setattr(
        LocalDiskRepository, "free_bytes", lambda repository: 1000 if repository.name == "near" else None
    )

    remarks = check_ready(place.vault(), place.source, INSTALLED)
    assert len(remarks) == 1
    assert "near has room for 1000 bytes; a snapshot of orders needs about" in remarks[0]

    monkeypatch.undo()
    (remark,) = check_ready(place.vault(far_fails=down), place.source, INSTALLED)
    assert remark.startswith("The repository far is left out: ")


@pytest.mark.parametrize("with_key", [True, False], ids=["alone", "beside a lasting one"])
def test_preflight_is_worth_a_retry_only_if_every_obstacle_may_pass(place: Place, with_key: bool) -> None:
    if not with_key:
        (place.folder / "keys" / "host.signing").unlink()
    gone = replace(place.source, server=PostgresServer("127.0.0.1", 1))

    with pytest.raises(NotReady, match="does not answer") as refused:
        check_ready(place.vault(), gone, INSTALLED)

    assert refused.value.transient is with_key


# ---- what is killed -------------------------------------------------------------------------------------------------


def test_a_dump_that_is_killed_makes_no_snapshot_and_the_next_run_works(place: Place) -> None:
    def kill(artifact: str, count: int) -> None:
        if artifact == "rows-0001":
            for process in children_of(os.getpid(), "pg_dump"):
                os.kill(process, signal.SIGKILL)

    with pytest.raises(EndedFromOutside):
        place.back_up(progress=kill)

    assert place.vault().list().snapshots == ()
    assert place.back_up().lacking == {}


@pytest.mark.parametrize("step", ["dump flows", "rows-0001 flows", "globals put", "evidence put", "near manifest put"])
def test_a_backup_killed_before_its_manifest_makes_no_snapshot_and_the_next_run_works(
    place: Place, postgres: PostgresServer, step: str
) -> None:
    die_at(step, place)

    wait_until(lambda: connections_to(postgres, place.source.database) == 0)
    assert place.vault().list().snapshots == ()
    again = place.back_up()
    assert not again.reused
    assert again.lacking == {}
    assert place.vault().list().problems == ()


def test_a_backup_killed_between_two_manifests_is_a_snapshot_and_replication_heals_it(place: Place) -> None:
    die_at("far manifest put", place)

    again = place.back_up()

    assert again.reused
    assert again.snapshot.repositories == ("near",)
    assert place.vault().replicate(again.snapshot).snapshot.repositories == ("near", "far")


def die_at(step: str, place: Place) -> None:
    """Back up in a process of its own, which kills itself at a step."""
    server = place.source.server
    command = [sys.executable, "-m", "tests.postgres.test_backup", step, str(place.folder), str(server.port)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PASSWORD": server.password}
    done = subprocess.run([*command, place.source.database], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


def back_up_and_die(step: str, folder: str, port: str, database: str) -> None:
    *where, what, how = step.split()

    def die() -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    def at_put(repository: str) -> Fails:
        mine = how == "put" and where in ([], [repository])
        return lambda _, method, key: mine and method == "put" and Path(key).stem == what and die()

    def at_flow(artifact: str, count: int) -> None:
        if how == "flows" and artifact == what:
            die()

    server = PostgresServer("127.0.0.1", int(port), "postgres", os.environ["PASSWORD"])
    place = Place(Path(folder), DatabaseSource("orders", server, database, stream_size=1024 * 1024))
    place.back_up(place.vault(at_put("far"), at_put("near")), progress=at_flow)


def connections_to(server: PostgresServer, database: str) -> int:
    with server.visit("postgres") as admin:
        rows = admin.execute("SELECT FROM pg_stat_activity WHERE datname = %s", [database]).fetchall()
    return len(rows)


# ---- the restore ----------------------------------------------------------------------------------------------------


def test_a_wrong_identity_is_refused_before_anything_is_made_on_the_server(
    place: Place, postgres: PostgresServer
) -> None:
    place.back_up()
    (place.folder / "keys" / "operations.identity").unlink()
    write_key(place.folder / "keys", Identity.generate("stranger", CLASSIC))
    vault, target = place.vault(), new_name("wrong")

    with pytest.raises(WrongIdentity, match="No identity at hand opens"):
        restore_snapshot(vault, vault.find("orders"), postgres, target, installed=INSTALLED)

    with postgres.visit("postgres") as admin:
        assert admin.execute("SELECT FROM pg_database WHERE datname = %s", [target]).fetchone() is None


def test_a_restore_goes_on_from_the_other_repository_when_one_fails(place: Place, postgres: PostgresServer) -> None:
    place.back_up()
    vault = place.vault(near_fails=lambda _, method, key: method == "get" and key.endswith(".sealed"))

    report = restore_snapshot(vault, vault.find("orders"), postgres, new_name("other"), installed=INSTALLED)

    assert report.evidence.rows == 9010
    assert report.damaged == {}
    assert any("near was passed over" in note for note in report.notes)


# ---- copies that are damaged ----------------------------------------------------------------------------------------


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)


def flip_a_bit_of_the_header(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.chmod(0o600)
    os.truncate(file, file.stat().st_size // 2)


DAMAGES = pytest.mark.parametrize("spoil", [flip_a_bit, truncate, Path.unlink], ids=["bit", "truncated", "missing"])


def spoil_copy(place: Place, repository: str, artifact: str, spoil: Callable[[Path], None]) -> None:
    (file,) = (place.folder / repository).rglob(f"{artifact}.sealed")
    spoil(file)


@DAMAGES
@pytest.mark.parametrize("artifact", ["dump", "rows-0001", "evidence", "globals"])
def test_a_restore_goes_on_to_the_next_copy_when_one_is_damaged_and_says_so(
    place: Place, postgres: PostgresServer, artifact: str, spoil: Callable[[Path], None]
) -> None:
    place.back_up()
    spoil_copy(place, "near", artifact, spoil)
    vault, name, told = place.vault(), new_name("whole"), list[str]()
    snapshot = vault.find("orders")

    report = restore_snapshot(vault, snapshot, postgres, name, installed=INSTALLED, report=told.append)

    assert report.evidence.rows == 9010
    assert list(report.damaged) == ["near"]
    assert [line for line in told if line.startswith("the copy in near is damaged: ")]
    assert [note for note in report.notes if note.startswith("The copy in near is damaged: ")]
    assert "damaged copy in near" in report.seconds
    (attestation,) = attestations_of(vault, snapshot)
    assert (attestation.verdict, attestation.repository) == (Verdict.FAILED, "near")


def test_a_damaged_header_does_not_stop_a_restore(place: Place, postgres: PostgresServer) -> None:
    place.back_up()
    spoil_copy(place, "near", "dump", flip_a_bit_of_the_header)
    vault = place.vault()

    report = restore_snapshot(vault, vault.find("orders"), postgres, new_name("header"), installed=INSTALLED)

    assert report.evidence.rows == 9010


def test_bytes_of_two_copies_are_told_apart_and_only_the_damaged_one_is_blamed(
    place: Place, postgres: PostgresServer
) -> None:
    place.back_up()
    spoil_copy(place, "far", "dump", flip_a_bit)
    asked: list[str] = []

    def first_time(_: int, method: str, key: str) -> bool:
        if method == "get" and key.endswith("dump.sealed"):
            asked.append(key)
        return len(asked) == 1 and asked[-1] == key

    vault = place.vault(near_fails=first_time)
    report = restore_snapshot(vault, vault.find("orders"), postgres, new_name("mixed"), installed=INSTALLED)

    assert report.evidence.rows == 9010
    assert list(report.damaged) == ["far"]


def test_no_signing_key_and_no_right_to_write_are_needed_to_restore_past_a_damaged_copy(
    place: Place, postgres: PostgresServer
) -> None:
    place.back_up()
    spoil_copy(place, "near", "dump", flip_a_bit)
    told: list[str] = []
    vault = place.vault(failing_at(".json"), failing_at(".json"))
    restore_snapshot(
        vault, vault.find("orders"), postgres, new_name("refused"), installed=INSTALLED, report=told.append
    )
    assert [line for line in told if line.startswith("that could not be attested: ")]

    next((place.folder / "keys").glob("host.sign*")).unlink()
    vault = place.vault()
    assert vault.keyring.signing_key is None
    report = restore_snapshot(vault, vault.find("orders"), postgres, new_name("keyless"), installed=INSTALLED)
    assert list(report.damaged) == ["near"]
    assert attestations_of(vault, vault.find("orders")) == ()


@DAMAGES
def test_a_snapshot_damaged_everywhere_or_where_it_was_asked_for_leaves_no_database(
    place: Place, postgres: PostgresServer, spoil: Callable[[Path], None]
) -> None:
    place.back_up()
    spoil_copy(place, "near", "rows-0001", spoil)
    vault, name = place.vault(), new_name("nowhere")
    with pytest.raises((IntegrityError, ObjectNotFound)):
        restore_snapshot(vault, vault.find("orders"), postgres, name, installed=INSTALLED, repository="near")
    spoil_copy(place, "far", "rows-0001", spoil)

    with pytest.raises(IntegrityError, match=r"No repository has a whole copy of orders/.* near: .* far: "):
        restore_snapshot(vault, vault.find("orders"), postgres, name, installed=INSTALLED)

    with postgres.visit("postgres") as admin:
        assert admin.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None


def test_copies_damaged_in_different_artifacts_are_mended_as_the_error_says_and_then_restored(
    place: Place, postgres: PostgresServer
) -> None:
    place.back_up()
    spoil_copy(place, "near", "dump", flip_a_bit)
    spoil_copy(place, "far", "rows-0001", flip_a_bit)
    vault, name = place.vault(), new_name("mixed")
    snapshot = vault.find("orders")
    with pytest.raises(IntegrityError, match="No repository has a whole copy") as refused:
        restore_snapshot(vault, snapshot, postgres, name, installed=INSTALLED)
    assert f"`lifeboat replicate {snapshot.label}` mends them" in refused.value.hint

    mended = make_whole(vault, snapshot)

    assert mended.lacking == {}
    assert ("dump" in mended.copied["near"], "rows-0001" in mended.copied["far"]) == (True, True)
    report = restore_snapshot(vault, snapshot, postgres, name, installed=INSTALLED)
    assert (report.evidence.rows, report.damaged) == (9010, {})


def test_a_restore_no_repository_can_feed_leaves_no_database(place: Place, postgres: PostgresServer) -> None:
    place.back_up()
    rows = lambda _, method, key: method == "get" and key.endswith("rows-0001.sealed")  # noqa: E731
    vault, target = place.vault(rows, rows), new_name("unfed")

    with pytest.raises(RepositoryUnavailable, match=r"near: .* far: "):
        restore_snapshot(vault, vault.find("orders"), postgres, target, installed=INSTALLED)

    with postgres.visit("postgres") as admin:
        assert admin.execute("SELECT FROM pg_database WHERE datname = %s", [target]).fetchone() is None


if __name__ == "__main__":
    back_up_and_die(*sys.argv[1:])
