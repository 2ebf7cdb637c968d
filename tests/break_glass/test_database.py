"""A database comes back with restore.py, psql and pg_restore alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lifeboat.backup import DatabaseSource, back_up_database
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.evidence import (
    Evidence,
    count_tables,
    describe_database,
    differences,
    read_sequences,
    tables_to_read,
)
from lifeboat.postgres.selection import Selection
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.snapshot import Kind
from tests.break_glass.alone import Stranger, load
from tests.break_glass.test_opening import make_vault
from tests.fixtures_postgres import PROGRAMS, make_odd_database, new_name, psql
from tests.postgres.sameness import assert_same
from tests.postgres.test_everything import make_odder_database

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


@dataclass(frozen=True)
class BackedUp:
    """The odd database in a folder, on a server that is gone afterwards."""

    place: Path
    keys: Path
    evidence: Evidence


@pytest.fixture(scope="module")
def backed_up(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> BackedUp:
    folder = tmp_path_factory.mktemp("backed-up")
    database = new_name("odd one's \\db")
    make_odd_database(postgres, database)
    vault, keys = make_vault(LocalDiskRepository(folder / "place", "local"), folder / "keys")
    source = DatabaseSource("odd", postgres, database, content_hash=True, stream_size=8192)
    back_up_database(vault, source, installed=[PROGRAMS[17]], began=NOW)
    evidence = Evidence.from_json(b"".join(vault.read(vault.find("odd"), "evidence")))
    return BackedUp(folder / "place", keys, evidence)


@pytest.fixture(scope="module")
def empty_server() -> Iterator[PostgresServer]:
    with TemporaryCluster(PROGRAMS[17]) as cluster:
        yield cluster.server


def found_in(server: PostgresServer, database: str) -> Evidence:
    with server.visit(database) as connection:
        tables = count_tables(connection, tables_to_read(connection), content_hash=True)
        return describe_database(connection, tables=tables, sequences=read_sequences(connection))


def run_script(script: bytes, server: PostgresServer) -> subprocess.CompletedProcess[str]:
    environment = server.application_environment()
    environment["PATH"] = f"{PROGRAMS[17].folder}:{os.environ['PATH']}"
    return subprocess.run(["bash"], input=script.decode(), env=environment, capture_output=True, text=True, check=False)


def test_a_whole_database_comes_back_on_an_empty_server(
    backed_up: BackedUp, empty_server: PostgresServer, stranger: Stranger
) -> None:
    place, keys = backed_up.place, backed_up.keys

    unsealed = stranger.run("unseal", place, "odd", "--keys", keys, "--to", "plain")
    script = stranger.run("commands", place, "odd", "--keys", keys, "--from", "plain").out
    ended = run_script(script, empty_server)

    assert "commands" in unsealed.err
    assert ended.returncode == 0, ended.stderr
    assert f"{len(backed_up.evidence.tables)} tables hold as many rows" in ended.stdout
    restored = found_in(empty_server, f"{backed_up.evidence.database.name}_restored")
    assert differences(backed_up.evidence, restored) == ()
    assert restored.database == replace(backed_up.evidence.database, name=restored.database.name)


def test_one_of_everything_comes_back_though_it_is_built_side_by_side(
    postgres: PostgresServer, tmp_path: Path, stranger: Stranger
) -> None:
    database, new = new_name("odd source"), new_name("odd target")
    make_odder_database(postgres, database)
    vault, keys = make_vault(LocalDiskRepository(tmp_path / "place", "local"), tmp_path / "keys")
    back_up_database(vault, DatabaseSource("odd", postgres, database), installed=[PROGRAMS[17]], began=NOW)
    stranger.run("unseal", tmp_path / "place", "odd", "--keys", keys, "--to", "plain")
    script = stranger.run(
        "commands", tmp_path / "place", "odd", "--keys", keys, "--from", "plain", "--database", new
    ).out
    many = script.replace(b"getconf _NPROCESSORS_ONLN", b"echo 8")
    assert many != script

    ended = run_script(many, postgres)

    assert ended.returncode == 0, ended.stderr
    assert_same(postgres, database, postgres, new, major=17)


def test_the_script_stops_before_a_database_that_exists(
    backed_up: BackedUp, postgres: PostgresServer, stranger: Stranger
) -> None:
    place, keys, taken = backed_up.place, backed_up.keys, backed_up.evidence.database.name
    stranger.run("unseal", place, "odd", "--keys", keys, "--to", "plain")
    script = stranger.run("commands", place, "odd", "--keys", keys, "--from", "plain", "--database", taken).out

    ended = run_script(script, postgres)

    assert ended.returncode != 0
    assert "already exists" in ended.stderr
    assert differences(backed_up.evidence, found_in(postgres, taken)) == ()


def test_the_script_ends_badly_when_rows_are_missing(
    backed_up: BackedUp, empty_server: PostgresServer, stranger: Stranger
) -> None:
    place, keys = backed_up.place, backed_up.keys
    stranger.run("unseal", place, "odd", "--keys", keys, "--to", "plain")
    script = stranger.run("commands", place, "odd", "--keys", keys, "--from", "plain", "--database", "less").out
    lost = script.replace(
        b"\nexport", b'\npg_restore() { [[ $* == *rows-0001* ]] || command pg_restore "$@"; }\nexport', 1
    )

    ended = run_script(lost, empty_server)

    assert ended.returncode == 1
    assert "DIFFERENT" in ended.stdout


def test_what_cannot_be_rebuilt_is_told_and_all_rows_are_there(
    postgres: PostgresServer, tmp_path: Path, stranger: Stranger
) -> None:
    name, beside = new_name("alone original"), new_name("alone incomplete")
    psql(postgres, "postgres", "-c", f'CREATE DATABASE "{name}"')
    psql(postgres, name, "-c", INDEX_OVER_A_FUNCTION_THAT_FAILS)
    vault, keys = make_vault(LocalDiskRepository(tmp_path / "place", "local"), tmp_path / "keys")
    back_up_database(vault, DatabaseSource("people", postgres, name), installed=[PROGRAMS[17]], began=NOW)
    stranger.run("unseal", tmp_path / "place", "people", "--keys", keys, "--to", "people")
    script = stranger.run(
        "commands", tmp_path / "place", "people", "--keys", keys, "--from", "people", "--database", beside
    ).out

    ended = run_script(script, postgres)

    assert ended.returncode == 7
    assert "CREATE INDEX people_key" in ended.stderr
    assert "INCOMPLETE" in ended.stdout
    assert psql(postgres, beside, "-c", "SELECT count(*) FROM people").strip() == "10"


INDEX_OVER_A_FUNCTION_THAT_FAILS = """
    CREATE FUNCTION key_of(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lower($1); END';
    CREATE TABLE people (id int PRIMARY KEY, name text);
    INSERT INTO people SELECT n, 'N' || n FROM generate_series(1, 10) n;
    CREATE INDEX people_key ON people (key_of(name));
    CREATE OR REPLACE FUNCTION key_of(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN norm($1); END';
"""


def test_rows_flow_through_a_pipe_into_pg_restore(
    backed_up: BackedUp, empty_server: PostgresServer, stranger: Stranger
) -> None:
    place, keys, database = backed_up.place, backed_up.keys, new_name("piped")
    stranger.run("unseal", place, "odd", "globals", "dump", "--keys", keys, "--to", "plain")
    script = stranger.run(
        "commands", place, "odd", "--keys", keys, "--from", "plain", "--database", database
    ).out.decode()
    piped = []
    for line in script.splitlines():
        command, _, artifact = line.rpartition(" ")
        if artifact.startswith("rows-"):
            unseal = " ".join(stranger.command("unseal", place, "odd", artifact, "--keys", keys, "--to", "-"))
            line = f"{unseal} | {command}"
        piped.append(line)
    assert any(" | load" in line for line in piped)

    ended = run_script("\n".join(piped).encode(), empty_server)

    assert ended.returncode == 0, ended.stderr
    assert differences(backed_up.evidence, found_in(empty_server, database)) == ()


def test_a_few_tables_come_back_into_a_database_of_their_own(
    postgres: PostgresServer, tmp_path: Path, stranger: Stranger
) -> None:
    database, new = new_name("odd"), new_name("few")
    make_odd_database(postgres, database)
    vault, keys = make_vault(LocalDiskRepository(tmp_path / "place", "local"), tmp_path / "keys")
    selection = Selection(tables=("app.parent", "app.child"))
    source = DatabaseSource("odd", postgres, database)
    back_up_database(vault, source, installed=[PROGRAMS[17]], began=NOW, selection=selection)

    stranger.run("unseal", tmp_path / "place", "odd", "--keys", keys, "--to", "plain")
    script = stranger.run(
        "commands", tmp_path / "place", "odd", "--keys", keys, "--from", "plain", "--database", new
    ).out
    ended = run_script(script, postgres)

    assert ended.returncode == 0, ended.stderr
    with postgres.visit(new) as connection:
        assert connection.execute("SELECT count(*) FROM app.parent").fetchone() == (17,)


@pytest.mark.parametrize(
    ("server", "facts", "needed"),
    [(16, {"client_version": "17.4"}, 17), (17, {"client_version": "17.10"}, 17), (18, {}, 18)],
    ids=["a newer pg_dump", "the same", "unknown"],
)
def test_the_script_asks_for_a_version_that_reads_the_dump(server: int, facts: dict[str, str], needed: int) -> None:
    assert load().needed_major(facts, {"server_major": server}) == needed


def test_a_snapshot_without_a_dump_has_no_commands(tmp_path: Path, stranger: Stranger) -> None:
    vault, keys = make_vault(LocalDiskRepository(tmp_path / "place", "local"), tmp_path / "keys")
    writer = vault.begin("cache", Kind.REDIS, began=NOW)
    writer("rdb", [b"REDIS"], media_type="application/octet-stream")
    writer.commit({})

    stranger.run("commands", tmp_path / "place", "cache", "--keys", keys, "--from", "plain", expect=1)


STRANGE = [
    "plain",
    'quo"te',
    "apo'strophe",
    "back\\slash",
    "new\nline",
    "tab\t",
    "ünïcode 💾",
    ":variable",
    "",
    "SQL\nSQL",
    "\x7f",
]


@pytest.mark.parametrize("text", STRANGE, ids=ascii)
def test_names_and_strings_reach_the_server_as_they_are(text: str, postgres: PostgresServer) -> None:
    restore = load()
    query = f"SELECT {restore.literal(text)} AS {restore.identifier(text or 'x')}"
    assert "\n" not in query

    with postgres.visit("postgres") as connection:
        cursor = connection.execute(query.encode())
        assert cursor.fetchone() == (text,)
        assert cursor.description is not None
        assert cursor.description[0].name == (text or "x")
