"""What a restore does beside the rows that still come, and whom it makes give way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import DatabaseDump, dump_database
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.restore import OpenArtifact, RestoreReport, restore_database
from tests.fixtures_postgres import new_name
from tests.postgres.artifacts import Kept

# What a materialized view holds is computed by the session that restores it.
SCRIPT = """
    CREATE TABLE larger (n int PRIMARY KEY, name text);
    CREATE TABLE smaller (n int PRIMARY KEY REFERENCES larger, name text);
    CREATE INDEX larger_by_name ON larger (name);
    INSERT INTO larger SELECT n, repeat('x', 200) FROM generate_series(1, 4000) n;
    INSERT INTO smaller SELECT n, repeat('x', 200) FROM generate_series(1, 2000) n;
    CREATE MATERIALIZED VIEW session AS SELECT current_setting('deadlock_timeout') AS patience;
"""
MOMENT = 20.0


@pytest.fixture(scope="module")
def owner(postgres: PostgresServer) -> PostgresServer:
    """The same server to one who owns databases there and is no superuser."""
    name = new_name("owner")
    with postgres.visit("postgres") as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD 'secret'".encode())
    return replace(postgres, user=name, password="secret")


@pytest.fixture(scope="module")
def dump(owner: PostgresServer, postgres: PostgresServer, installed: tuple[Programs, ...]) -> tuple[Kept, DatabaseDump]:
    source, kept = new_name("source"), Kept()
    with owner.visit("postgres") as connection:
        connection.execute(f"CREATE DATABASE {source}".encode())
    with owner.visit(source) as connection:
        connection.execute(SCRIPT.encode())
    return kept, dump_database(postgres, source, kept, installed=installed, stream_size=64 * 1024)


def restored(
    server: PostgresServer,
    target: str,
    dump: tuple[Kept, DatabaseDump],
    installed: tuple[Programs, ...],
    open_artifact: OpenArtifact | None = None,
) -> RestoreReport:
    kept, dumped = dump
    assert sorted(kept.tables) == ["rows-0001", "rows-0002"]
    return restore_database(
        server, target, open_artifact or kept.open, evidence=dumped.evidence, dump_major=dumped.client_major,
        row_artifacts=[*sorted(kept.tables), "dump"], with_globals=False, installed=installed, jobs=2,
    )  # fmt: skip


def test_a_table_has_its_constraint_while_rows_of_others_still_come(
    postgres: PostgresServer, dump: tuple[Kept, DatabaseDump], installed: tuple[Programs, ...]
) -> None:
    target, there = new_name("target"), list[str]()

    def larger_has_its_key() -> bool:
        with postgres.visit(target) as connection:
            there[:] = [
                name for (name,) in connection.execute("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")
            ]
        return "larger_pkey" in there

    def held_up(name: str) -> Iterator[bytes]:
        over = time.monotonic() + MOMENT
        while name == "rows-0002" and not larger_has_its_key() and time.monotonic() < over:
            time.sleep(0.02)
        yield from dump[0].open(name)

    report = restored(postgres, target, dump, installed, held_up)

    assert there == ["larger_pkey"]
    assert {table.name: table.rows for table in report.evidence.tables} == {"larger": 4000, "smaller": 2000}


@pytest.mark.parametrize(("superuser", "patience"), [(True, "20ms"), (False, "1s")])
def test_sessions_wait_only_a_moment_until_autovacuum_must_give_way_where_their_user_may_say_so(
    superuser: bool,
    patience: str,
    postgres: PostgresServer,
    owner: PostgresServer,
    dump: tuple[Kept, DatabaseDump],
    installed: tuple[Programs, ...],
) -> None:
    server, target = postgres if superuser else owner, new_name("target")

    restored(server, target, dump, installed)

    with server.visit(target) as connection:
        assert connection.execute("SELECT patience FROM session").fetchall() == [(patience,)]
