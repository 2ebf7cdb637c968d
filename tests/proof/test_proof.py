"""Proving a snapshot: what is whole is proven, what is not is attested as failed, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from lifeboat.attestation import Verdict, attestations_of, is_proven
from lifeboat.backup import DatabaseSource, back_up_database, inspectors, read_evidence
from lifeboat.children import Children
from lifeboat.discretion import without_rows
from lifeboat.errors import (
    ClientMissing,
    EndedFromOutside,
    KeyringError,
    LifeboatError,
    NotProven,
    NotReady,
    RepositoryUnavailable,
    SettingsError,
    SourceUnavailable,
    WrongIdentity,
)
from lifeboat.postgres import cluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.evidence import Evidence
from lifeboat.postgres.kept_server import KeptServer, kept_servers, remove_kept, stop_kept
from lifeboat.postgres.programs import Programs
from lifeboat.proof import AMCHECK, prove_snapshot
from lifeboat.report import html_report, markdown_report, store_report
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.smoke import SmokeChecks, SqlCheck
from lifeboat.snapshot import Kind
from lifeboat.vault import Member, Vault
from tests.core.storage_faults import FailingRepository
from tests.fixtures_postgres import CHECK_THAT_NO_LONGER_HOLDS, PROGRAMS, new_name, psql
from tests.other_user import SOMEBODY_ELSE
from tests.processes import children_of, wait_until
from tests.proof.conftest import INSTALLED, KEYRING, NOW, Place

pytestmark = pytest.mark.slow

RIGHT = SmokeChecks(sql=(SqlCheck("orders are there", "SELECT count(*) FROM orders", 2000),))


def said_of(place: Place) -> list[tuple[str, str | None]]:
    return [(str(a.verdict), a.repository) for a in attestations_of(place.vault, place.snapshot)]


# ---- proven ---------------------------------------------------------------------------------------------------------


@pytest.mark.ordinary
def test_a_whole_snapshot_is_proven_on_a_scratch_server_that_goes_again(place: Place) -> None:
    proof = place.prove_on_scratch(checks=RIGHT)

    assert (proof.proven, proof.repository, proof.tables, proof.rows) == (True, "near", 1, 2000)
    assert [(c.name, c.passed) for c in proof.checks] == [(AMCHECK, True), ("orders are there", True)]
    assert proof.server_version.startswith("17.")
    assert list(proof.seconds) == [
        "scratch server", "roles", "database", "definitions", "rows and indexes", "remaining definitions",
        "properties", "comparison", "pages and indexes", "smoke checks",
    ]  # fmt: skip
    assert sum(proof.seconds.values()) <= proof.total
    assert list(place.scratch.iterdir()) == []
    (attestation,) = attestations_of(place.vault, place.snapshot)
    assert (attestation.verdict, attestation.repository) == (Verdict.PROVEN, "near")
    assert attestation.details == json.loads(json.dumps(proof.record()))


def test_a_database_proven_on_a_given_server_is_removed_or_kept_as_asked(place: Place) -> None:
    assert place.prove().proven
    assert place.scratch_databases() == []

    kept = place.prove(keep=True)

    (database,) = place.scratch_databases()
    assert database in kept.notes[-1]
    with place.server.visit("postgres") as admin:
        admin.execute(f"DROP DATABASE {database}".encode())
    with pytest.raises(SettingsError, match="cannot be kept"):
        place.prove_on_scratch(keep=True)


def test_only_the_named_repository_is_read(place: Place) -> None:
    place.damage("near")

    assert place.prove(repository="far").repository == "far"
    assert said_of(place) == [("proven", "far")]


# ---- not proven -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "told"),
    [
        (SmokeChecks(sql=(SqlCheck("all", "SELECT count(*) FROM orders", 3),)), "all: expected 3, found 2000"),
        (SmokeChecks(sql=(SqlCheck("slow", "SELECT pg_sleep(60)", 3, 0.2),)), "slow: expected 3, found no answer"),
        (SmokeChecks(command=("sh", "-c", "exit 7")), "command sh: expected exit status 0, found exit status 7"),
        (SmokeChecks(url="http://127.0.0.1:1/"), "GET http://127.0.0.1:1/: expected status 2xx"),
    ],
    ids=["wrong value", "hangs", "command fails", "address refuses"],
)
def test_a_check_that_fails_is_attested_and_the_others_still_count(
    place: Place, checks: SmokeChecks, told: str
) -> None:
    proof = place.prove(checks=replace(checks, sql=checks.sql + RIGHT.sql))

    assert told in proof.reason
    assert proof.reason.startswith("1 of 3 checks failed.")
    assert said_of(place) == [("failed", "near")]
    assert place.scratch_databases() == []
    with pytest.raises(NotProven, match="is not proven: 1 of 3"):
        proof.raise_failure()


@pytest.mark.parametrize("artifact", ["dump", "evidence", "globals"])
def test_a_damaged_copy_is_attested_and_the_good_one_proven(place: Place, artifact: str) -> None:
    place.damage("near", artifact)

    proof = place.prove()

    assert (proof.proven, proof.repository, list(proof.damaged)) == (True, "far", ["near"])
    assert said_of(place) == [("failed", "near"), ("proven", "far")]
    assert is_proven(attestations_of(place.vault, place.snapshot))
    assert "damaged copy in near" in proof.seconds
    assert place.scratch_databases() == []


def test_a_copy_that_lacks_an_artifact_is_damaged_too(place: Place) -> None:
    for file in (place.folder / "near").rglob("dump.sealed"):
        file.unlink()

    assert list(place.prove().damaged) == ["near"]


def test_a_snapshot_that_is_damaged_everywhere_is_not_proven(place: Place) -> None:
    place.damage("near")
    place.damage("far")

    proof = place.prove()

    assert (proof.proven, proof.repository) == (False, None)
    assert "No repository has a whole copy" in proof.reason
    assert said_of(place) == [("failed", "near"), ("failed", "far")]


def one_row_more(evidence: Evidence) -> Evidence:
    return replace(evidence, tables=(replace(evidence.tables[0], rows=2001),))


def one_index_more(evidence: Evidence) -> Evidence:
    return replace(evidence, objects={**evidence.objects, "indexes": 2})


@pytest.mark.parametrize(
    ("altered", "told"),
    [(one_row_more, "has 2000 rows, and had 2001"), (one_index_more, "1 indexes, and were 2")],
    ids=["rows", "indexes"],
)
def test_a_snapshot_that_does_not_hold_what_its_evidence_says_is_not_proven(
    place: Place, altered: Callable[[Evidence], Evidence], told: str
) -> None:
    place = rewritten(place, evidence=altered(read_evidence(place.vault, place.snapshot)).to_json())

    proof = place.prove()

    assert told in proof.reason
    assert said_of(place) == [("failed", "near")]
    assert place.scratch_databases() == []


def test_what_pg_restore_refuses_fails_the_proof_and_names_it(place: Place) -> None:
    dump = b"".join(place.vault.read(place.snapshot, "dump"))
    place = rewritten(place, dump=dump.replace(b"note text", b"note t_xt"))

    proof = place.prove()

    assert "TABLE public.orders" in proof.reason
    assert 'type "t_xt" does not exist' in proof.reason
    assert "CREATE TABLE public.orders" in proof.reason
    assert said_of(place) == [("failed", "near")]


def test_rows_that_one_table_refuses_fail_the_proof_and_name_it(place: Place) -> None:
    dump = b"".join(place.vault.read(place.snapshot, "dump"))
    place = rewritten(place, dump=dump.replace(b"1999\t", b"1998\t"))

    proof = place.prove_on_scratch()

    assert "CONSTRAINT public.orders orders_pkey: " in proof.reason
    assert said_of(place) == [("failed", "near")]
    assert "1998" not in json.dumps(proof.record()["reason"])


def rewritten(place: Place, **artifacts: bytes) -> Place:
    """The same snapshot made again by its own host, with other artifacts."""
    manifest = place.snapshot.manifest
    writer = place.vault.begin("orders", Kind.POSTGRES, began=NOW)
    for artifact in manifest.artifacts:
        content = artifacts.get(artifact.name) or b"".join(place.vault.read(place.snapshot, artifact.name))
        writer(artifact.name, [content], media_type=artifact.media_type)
    return replace(place, snapshot=writer.commit(manifest.facts))


def test_a_snapshot_whose_restore_lacks_objects_is_not_proven_and_they_are_named(place: Place) -> None:
    name = new_name("proof incomplete")
    psql(place.server, "postgres", "-c", f'CREATE DATABASE "{name}"')
    psql(place.server, name, "-c", CHECK_THAT_NO_LONGER_HOLDS)
    source = DatabaseSource("limits", place.server, name)
    snapshot = back_up_database(place.vault, source, installed=INSTALLED, began=NOW).snapshot

    proof = prove_snapshot(place.vault, snapshot, installed=INSTALLED, server=place.server, jobs=1)

    assert not proof.proven
    assert "CHECK CONSTRAINT public.a_orders a_orders_amount_check" in proof.reason
    assert place.scratch_databases() == []


def test_what_is_attested_quotes_no_rows() -> None:
    said = (
        'pg_restore: error: COPY failed for table "orders": ERROR:  value violates unique constraint "o"\n'
        "DETAIL:  Key (mail)=(anna@example.org) already exists.\nsecond line\nCONTEXT:  COPY orders, line 5\n"
        'pg_restore: error: ERROR:  invalid input syntax for type integer: "anna"\n'
        "ALTER DATABASE x SET app.secret TO 'anna' failed: no"
    )

    kept = without_rows(said)

    assert "anna" not in kept
    assert "second line" not in kept
    assert 'unique constraint "o"' in kept
    assert "invalid input syntax for type integer" in kept


# ---- what prevents a proof, and says nothing of the snapshot --------------------------------------------------------


def without_server(folder: Path) -> tuple[Programs, ...]:
    bare = folder / "bare"
    bare.mkdir()
    for program in ("pg_dump", "pg_restore"):
        (bare / program).symlink_to(PROGRAMS[17].path(program))
    return (replace(PROGRAMS[17], folder=bare),)


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        (lambda folder: {"installed": without_server(folder)}, ClientMissing, "No server programs of PostgreSQL 17"),
        (lambda _: {"installed": (PROGRAMS[16],)}, ClientMissing, "No server programs of PostgreSQL 17"),
        (lambda folder: {"base": folder / "none"}, NotReady, "cannot put its data into"),
        (lambda _: {"repository": "moon"}, SettingsError, "no repository 'moon'"),
    ],
    ids=["programs without a server", "older programs", "no folder", "unknown repository"],
)
def test_what_prevents_a_proof_is_raised_and_not_attested(
    place: Place, options: Callable[[Path], dict[str, Any]], kind: type[LifeboatError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        place.prove_on_scratch(**options(place.folder))
    assert said_of(place) == []


def test_a_folder_without_room_is_refused_before_anything_is_started(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000}))

    with pytest.raises(NotReady, match="has room for 1000 B"):
        place.prove_on_scratch()


def test_a_given_server_without_room_is_refused_before_anything_is_made_on_it(place: Place) -> None:
    evidence = replace(read_evidence(place.vault, place.snapshot), size=1 << 60)
    place = rewritten(place, evidence=evidence.to_json())

    with pytest.raises(NotReady, match="It has room for"):
        place.prove()

    assert place.scratch_databases() == []
    assert said_of(place) == []


def programs_whose_server(folder: Path, does: str) -> tuple[Programs, ...]:
    """PostgreSQL 17 with another program in the place of the server."""
    installation = folder / "broken"
    shutil.copytree(PROGRAMS[17].folder.parent, installation, symlinks=True)
    server = installation / PROGRAMS[17].folder.name / "postgres"
    real = server.rename(server.with_name("real"))
    # initdb runs it too, with other arguments; and the folder may be copied.
    server.write_text(f'#!/bin/bash\n[ "$1" = -D ] && {{ {does}; }}\nexec -a "$0" "$(dirname "$0")/{real.name}" "$@"\n')
    server.chmod(0o755)
    return (replace(PROGRAMS[17], folder=server.parent),)


@pytest.mark.parametrize("does", ["echo no memory; exit 1", "exec sleep 600"], ids=["ends", "hangs"])
def test_a_scratch_server_that_does_not_start_says_nothing_of_the_snapshot_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    monkeypatch.setattr(cluster, "START_SECONDS", 2)

    with pytest.raises(SourceUnavailable, match=r"did not start in 2 s") as failed:
        place.prove_on_scratch(installed=programs_whose_server(place.folder, does))

    assert ("no memory" in failed.value.message) is does.startswith("echo")
    assert said_of(place) == []
    assert list(place.scratch.iterdir()) == []


def programs_that_kill_the_server(place: Place, name: str) -> tuple[Programs, ...]:
    """PostgreSQL 17 whose program of this name first kills the scratch server, as a host without memory would."""
    installation = place.folder / "killing"
    shutil.copytree(PROGRAMS[17].folder.parent, installation, symlinks=True)
    program = installation / PROGRAMS[17].folder.name / name
    real = program.rename(program.with_name("real"))
    kill = f"for file in {place.scratch}/*/data/postmaster.pid; do kill -9 $(head -1 $file); done"
    program.write_text(f'#!/bin/bash\n{kill}\nexec "$(dirname "$0")/{real.name}" "$@"\n')
    program.chmod(0o755)
    return (replace(PROGRAMS[17], folder=program.parent),)


@pytest.mark.parametrize("during", ["pg_restore", "pg_amcheck"])
def test_a_scratch_server_that_dies_ends_the_proof_clearly_and_says_nothing_of_the_snapshot(
    place: Place, during: str
) -> None:
    with pytest.raises(SourceUnavailable, match="scratch server") as failed:
        place.prove_on_scratch(installed=programs_that_kill_the_server(place, during), checks=RIGHT)

    assert failed.value.transient
    assert said_of(place) == []
    assert list(place.scratch.iterdir()) == []


def test_an_extension_that_no_scratch_server_has_is_named(place: Place) -> None:
    evidence = read_evidence(place.vault, place.snapshot)
    place = rewritten(place, evidence=replace(evidence, extensions={"plpgsql": "1", "postgis": "3"}).to_json())

    with pytest.raises(NotReady, match=r"PostgreSQL 17 on .* lacks the extension postgis"):
        place.prove_on_scratch()
    with pytest.raises(NotReady, match="lacks the extension postgis"):
        place.prove()
    assert said_of(place) == []
    assert list(place.scratch.iterdir()) == []


def test_a_newer_scratch_server_is_taken_where_the_sources_own_version_lacks_an_extension(place: Place) -> None:
    evidence = read_evidence(place.vault, place.snapshot)
    extensions = {"plpgsql": "1", "pg_logicalinspect": "1"}  # which came with version 18
    place = rewritten(place, evidence=replace(evidence, extensions=extensions).to_json())

    proof = place.prove_on_scratch()

    assert proof.server_version.startswith("18.")
    assert "The extension pg_logicalinspect is missing." in proof.reason


def test_without_a_signing_key_or_identity_nothing_is_begun_or_attested(place: Place) -> None:
    place.vault.keyring = replace(KEYRING, signing_key=None)
    with pytest.raises(KeyringError, match="no signing key"):
        place.prove(progress=lambda *_: pytest.fail("it was begun"))

    place.vault.keyring = replace(KEYRING, identities=())
    with pytest.raises(WrongIdentity):
        place.prove()
    assert said_of(place) == []


def vault_failing_to_read(place: Place, *names: str) -> Vault:
    def fails(name: str) -> Callable[[int, str, str], bool]:
        return lambda _, method, key: method == "get" and key.endswith("dump.sealed") and name in names

    members = [
        Member(FailingRepository(LocalDiskRepository(place.folder / name, name), fails(name)))
        for name in ("near", "far")
    ]
    return Vault.open(members, KEYRING, ["operations", "escrow"])


def test_a_repository_that_does_not_answer_is_passed_over_and_not_called_damaged(place: Place) -> None:
    broken = replace(place, vault=vault_failing_to_read(place, "near"))

    proof = broken.prove()

    assert (proof.repository, dict(proof.damaged)) == ("far", {})
    assert "near was passed over" in proof.notes[-1]
    assert said_of(place) == [("proven", "far")]


def test_when_no_repository_answers_it_may_be_tried_again(place: Place) -> None:
    broken = replace(place, vault=vault_failing_to_read(place, "near", "far"))

    with pytest.raises(RepositoryUnavailable) as caught:
        broken.prove()

    assert caught.value.transient
    assert said_of(place) == []


# ---- ended from outside ---------------------------------------------------------------------------------------------


def test_a_proof_that_is_ended_from_outside_says_nothing_of_the_snapshot(place: Place) -> None:
    children = Children()

    def kill(artifact: str, count: int) -> None:
        if artifact == "dump":
            children.kill()

    with pytest.raises(EndedFromOutside, match="The job was ended from outside"):
        place.prove(children=children, progress=kill)

    assert said_of(place) == []
    assert place.scratch_databases() == []


def test_a_proof_whose_restore_program_is_killed_says_nothing_of_the_snapshot(place: Place) -> None:
    def kill(artifact: str, count: int) -> None:
        if artifact == "dump":
            wait_until(lambda: children_of(os.getpid(), "pg_restore") != [])  # it is not yet itself when it is started
            for process in children_of(os.getpid(), "pg_restore"):
                os.kill(process, signal.SIGKILL)

    with pytest.raises(EndedFromOutside, match="signal 9"):
        place.prove(progress=kill)

    assert said_of(place) == []
    assert place.scratch_databases() == []


PROVE = """
import sys
from datetime import timedelta
from pathlib import Path
from lifeboat.keys import Keyring
from lifeboat.postgres.programs import find_programs
from lifeboat.proof import prove_snapshot
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.smoke import SmokeChecks, SqlCheck
from lifeboat.vault import Member, Vault
folder, base, keep, seconds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
near = Member(LocalDiskRepository(folder / "near", "near"))
vault = Vault.open([near], Keyring.from_folder(folder / "keys"), ["operations", "escrow"])
print("began", flush=True)
checks = SmokeChecks(sql=(SqlCheck("for ever", f"SELECT pg_sleep({seconds})", "", 600),))
keep_for = timedelta(hours=float(keep)) if keep else None
proof = prove_snapshot(vault, vault.find("orders"), installed=find_programs(), checks=checks, base=base,
                       keep_for=keep_for, report=lambda line: print(line, flush=True))
for note in proof.notes:
    print(note, flush=True)
"""


def proving(place: Place, *, keep_hours: str = "", lasts: int = 600) -> subprocess.Popen[str]:
    """A restore test as a process of its own, whose smoke check lasts so many seconds."""
    command = [sys.executable, "-c", PROVE, str(place.folder), str(place.scratch), keep_hours, str(lasts)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "include"), "SECRET": "not for servers"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> None:
    assert process.stdout is not None
    while not process.stdout.readline().startswith(beginning):
        assert process.poll() is None


def test_a_proof_that_is_killed_leaves_no_server_and_its_data_is_removed_by_the_next(place: Place) -> None:
    with proving(place) as process:
        wait_for_line(process, "pages and indexes")
        (folder,) = place.scratch.iterdir()
        server = postmaster(folder)

        process.send_signal(signal.SIGKILL)

    wait_until(lambda: not Path(f"/proc/{server}").exists())
    assert folder.exists()
    os.utime(folder, (0, 0))
    assert cluster.remove_leftovers(place.scratch) == (folder.name,)
    assert not folder.exists()
    assert said_of(place) == []


def test_the_data_of_a_running_server_is_nobodys_leftover(place: Place) -> None:
    with cluster.TemporaryCluster(PROGRAMS[17], base=place.scratch) as running:
        os.utime(running.folder, (0, 0))
        cluster.remove_leftovers(place.scratch)

        assert running.data.exists()


# ---- kept for inspection --------------------------------------------------------------------------------------------


@pytest.fixture
def kept_go(place: Place) -> Iterator[None]:
    """No kept server outlives its test."""
    yield
    for kept in kept_servers(place.scratch):
        remove_kept(kept)


def postmaster(folder: Path) -> int:
    return int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])


def password_in(kept: KeptServer) -> str:
    return kept.password_file.read_text().strip().rpartition(":")[2]


def orders_in(kept: KeptServer) -> int:
    """How many there are, asked as a person who knows no more than what was said would ask."""
    command = kept.command.replace(" psql ", f" {PROGRAMS[17].path('psql')} ")
    asked = [*("env", "-i", "sh", "-c"), f"{command} -XAtc 'SELECT count(*) FROM orders'"]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


@pytest.mark.usefixtures("kept_go")
@pytest.mark.ordinary
def test_a_kept_scratch_server_outlives_its_restore_test_and_all_are_told_how_to_look_into_it(place: Place) -> None:
    with proving(place, keep_hours="1", lasts=0) as process:
        said = process.communicate()[0]

    (kept,) = kept_servers(place.scratch)
    assert process.returncode == 0
    assert str(kept) in said
    assert password_in(kept) not in said
    assert kept.password_file.stat().st_mode & 0o777 == 0o600
    assert orders_in(kept) == 2000
    assert timedelta(minutes=58) < kept.until - datetime.now(UTC) < timedelta(hours=1)
    assert "not for servers" not in Path(f"/proc/{postmaster(kept.folder)}/environ").read_text()
    (attestation,) = attestations_of(place.vault, place.snapshot)
    assert attestation.details["kept"] == kept.record()
    assert password_in(kept) not in json.dumps(attestation.details)


@pytest.mark.usefixtures("kept_go")
def test_a_kept_scratch_server_is_left_alone_until_its_time_is_over_and_then_removed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = SmokeChecks(sql=(SqlCheck("all", "SELECT count(*) FROM orders", 3),))
    proof = place.prove_on_scratch(checks=wrong, keep_for=timedelta(hours=2))  # what failed is worth a look
    kept = proof.kept
    assert kept is not None
    assert str(kept) in markdown_report([proof], platform="SME", made=NOW).replace("\\", "")
    os.utime(kept.folder, (0, 0))

    assert cluster.remove_leftovers(place.scratch) == ()
    assert place.prove_on_scratch(keep_for=None).proven
    assert orders_in(kept) == 2000

    process, record = postmaster(kept.folder), kept.folder / "kept.json"
    with monkeypatch.context() as another_user:
        another_user.setattr(os, "geteuid", lambda: SOMEBODY_ELSE)
        assert kept_servers(place.scratch) == ()
        assert cluster.remove_leftovers(place.scratch) == ()
    over = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    record.write_text(json.dumps(json.loads(record.read_text()) | {"until": over}))
    assert cluster.remove_leftovers(place.scratch) == (kept.name,)
    assert not Path(f"/proc/{process}").exists()
    assert list(place.scratch.iterdir()) == []


@pytest.mark.usefixtures("kept_go")
def test_a_kept_scratch_server_ends_in_its_time_though_nobody_comes(place: Place) -> None:
    kept = place.prove_on_scratch(keep_for=timedelta(seconds=4)).kept

    assert kept is not None
    process = postmaster(kept.folder)
    assert Path(f"/proc/{process}").exists()
    wait_until(lambda: not kept.folder.exists())
    assert not Path(f"/proc/{process}").exists()
    assert datetime.now(UTC) >= kept.until


@pytest.mark.usefixtures("kept_go")
def test_a_kept_scratch_server_is_let_go_early(place: Place) -> None:
    first, second = (place.prove_on_scratch(keep_for=timedelta(hours=hours)).kept for hours in (2, 1))
    assert first is not None
    assert second is not None
    assert kept_servers(place.scratch) == (second, first)
    process = postmaster(first.folder)

    # A container's root may not look into the processes of others.
    container = ["setpriv", "--bounding-set", "-sys_ptrace", "--"] if os.geteuid() == 0 else []
    code = "import sys; from pathlib import Path; from lifeboat.postgres.kept_server import stop_kept; "
    code += "stop_kept(Path(sys.argv[1]), sys.argv[2])"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "include")}
    subprocess.run([*container, sys.executable, "-c", code, place.scratch, first.name], env=environment, check=True)

    assert not Path(f"/proc/{process}").exists()
    assert kept_servers(place.scratch) == (second,)
    assert not first.folder.exists()
    assert orders_in(second) == 2000
    with pytest.raises(SettingsError, match=f"(?s)No scratch server '{first.name}'.*{second.name}"):
        stop_kept(place.scratch, first.name)


@pytest.mark.usefixtures("kept_go")
def test_of_a_kept_scratch_server_that_did_not_outlive_a_reboot_the_data_goes_in_its_time(place: Place) -> None:
    kept = place.prove_on_scratch(keep_for=timedelta(hours=1)).kept
    assert kept is not None
    for process in (*keepers_of(kept), postmaster(kept.folder)):
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: not kept.running)

    assert cluster.remove_leftovers(place.scratch) == ()
    assert kept_servers(place.scratch) == (kept,)
    stop_kept(place.scratch, kept.name)
    assert not kept.folder.exists()


def keepers_of(kept: KeptServer) -> list[int]:
    """The shell and the `timeout` that a kept server runs under, the first first."""
    status = Path(f"/proc/{postmaster(kept.folder)}/status").read_text()
    timeout = int(status.split("PPid:")[1].split()[0])
    shell = int(Path(f"/proc/{timeout}/status").read_text().split("PPid:")[1].split()[0])
    return [shell, timeout]


@pytest.mark.usefixtures("kept_go")
def test_a_proof_that_is_killed_before_it_keeps_its_server_keeps_none(place: Place) -> None:
    with proving(place, keep_hours="1") as process:
        wait_for_line(process, "pages and indexes")
        (folder,) = place.scratch.iterdir()
        server = postmaster(folder)
        process.send_signal(signal.SIGKILL)

    wait_until(lambda: not Path(f"/proc/{server}").exists())
    assert kept_servers(place.scratch) == ()


@pytest.mark.usefixtures("kept_go")
def test_a_proof_that_is_killed_once_its_server_is_kept_leaves_it_for_its_time(place: Place) -> None:
    with proving(place, keep_hours="1", lasts=0) as process:
        wait_for_line(process, "scratch server: lifeboat-postgres-")
        process.send_signal(signal.SIGKILL)

    (kept,) = kept_servers(place.scratch)
    os.utime(kept.folder, (0, 0))
    assert cluster.remove_leftovers(place.scratch) == ()
    assert orders_in(kept) == 2000


def test_what_could_not_be_restored_is_not_kept(place: Place) -> None:
    evidence = one_row_more(read_evidence(place.vault, place.snapshot))
    place = rewritten(place, evidence=evidence.to_json())

    proof = place.prove_on_scratch(keep_for=timedelta(hours=1))

    assert "has 2000 rows, and had 2001" in proof.reason
    assert "No scratch server was kept" in proof.notes[-1]
    assert list(place.scratch.iterdir()) == []


def test_a_server_that_cannot_be_kept_says_nothing_against_the_snapshot(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = cluster.start_kept
    monkeypatch.setattr(cluster, "start_kept", lambda kept, _, **options: start(kept, ["false"], **options))

    proof = place.prove_on_scratch(keep_for=timedelta(hours=1))

    assert proof.proven
    assert proof.kept is None
    assert "could not be kept" in proof.notes[-1]
    assert list(place.scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("hours", "told"), [(0, "for 0 hours"), (-1, "for -1 hours"), (73, "at most 72 hours")], ids=["0", "-1", "73"]
)
def test_a_time_that_is_none_or_too_long_is_refused(place: Place, hours: int, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        place.prove_on_scratch(keep_for=timedelta(hours=hours))
    assert told in str(refused.value)
    with pytest.raises(SettingsError, match="Only a scratch server"):
        place.prove(keep_for=timedelta(hours=1))


@pytest.mark.usefixtures("kept_go")
def test_a_record_that_somebody_else_has_planted_ends_nothing(place: Place, postgres: PostgresServer) -> None:
    with cluster.TemporaryCluster(PROGRAMS[17], base=place.scratch) as running:
        planted = place.scratch / "lifeboat-postgres-planted"
        planted.mkdir()
        (planted / "data").symlink_to(running.data)
        kept = KeptServer(planted, "127.0.0.1", 1, "postgres", "x", "x", datetime.now(UTC) - timedelta(hours=1))
        (planted / "kept.json").write_text(json.dumps(kept.record()))

        cluster.remove_leftovers(place.scratch)

        assert not planted.exists()
        with running.server.visit("postgres") as connection:
            connection.execute("SELECT 1")


# ---- the report -----------------------------------------------------------------------------------------------------


def test_a_report_is_kept_in_every_repository_as_text_and_as_a_page(place: Place) -> None:
    place.damage("near")
    wrong = SqlCheck("<b>orders</b> | none", "SELECT count(*) FROM orders", 0)
    proof = place.prove(checks=SmokeChecks(sql=(*RIGHT.sql, wrong)))

    text, page = store_report(place.vault, [proof], platform="SME & Co", made=NOW, rto_hours=4)

    assert text.startswith("reports/20261123T020000Z-restore-test-")
    for name in ("near", "far"):
        written = (place.folder / name / text).read_text()
        assert written == markdown_report([proof], platform="SME & Co", made=NOW, rto_hours=4)
        assert "1 of 1 snapshot could not be proven." in written
        assert f"## {place.snapshot.label}\n" in written
        assert "NOT PROVEN. 1 of 3 checks failed." in written
        assert "The copy in near is DAMAGED" in written
        assert "of the 4:00:00 that the platform may be down" in written
        assert "| \\<b\\>orders\\</b\\> \\| none | FAILED |" in written
        html = (place.folder / name / page).read_text()
        assert html == html_report([proof], platform="SME & Co", made=NOW, rto_hours=4)
        assert "<title>Restore test: SME &amp; Co</title>" in html
        assert "&lt;b&gt;orders&lt;/b&gt; | none</td>" in html
        assert "<b>" not in html
        assert "http" not in html


def test_an_index_that_is_out_of_order_fails_the_proof(place: Place) -> None:
    database = new_name("fickle")
    with place.server.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    with place.server.visit(database) as connection:
        # An order of its own in sessions that restore, so that the index is wrong for all others.
        connection.execute(
            "CREATE FUNCTION fickle(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS"
            " $$SELECT btint4cmp($1, $2)"
            " * CASE current_setting('maintenance_work_mem') WHEN '256MB' THEN -1 ELSE 1 END$$;"
            "CREATE OPERATOR CLASS fickle FOR TYPE int USING btree AS"
            " OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 fickle(int, int);"
            "CREATE TABLE orders AS SELECT n FROM generate_series(1, 3000) n; CREATE INDEX by_n ON orders (n fickle)"
        )
    source = DatabaseSource("orders", place.server, database)
    snapshot = back_up_database(place.vault, source, installed=INSTALLED, began=NOW).snapshot

    proof = replace(place, snapshot=snapshot).prove()

    assert not proof.proven
    assert "by_n" in proof.reason


def test_a_dump_that_is_no_archive_does_not_pass_verifying(place: Place) -> None:
    place = rewritten(place, dump=b"not an archive")

    verified = place.vault.verify(place.snapshot, "near", inspectors=inspectors(INSTALLED))

    assert "pg_restore cannot parse it" in str(verified.faults["dump"])
