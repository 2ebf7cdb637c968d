"""Where few connections are allowed, fewer streams run at a time, and that is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from psycopg import sql

from lifeboat.errors import SourceRefused, SourceUnavailable
from lifeboat.postgres import limits
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import check_database, dump_database
from lifeboat.postgres.limits import at_a_time
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import new_name
from tests.postgres.artifacts import Kept, restore

pytestmark = pytest.mark.slow


@pytest.fixture
def few(postgres: PostgresServer) -> Iterator[tuple[PostgresServer, str]]:
    """A user who may have three connections, and his database of three streams."""
    user, name = new_name("few"), new_name("few_orders")
    with postgres.visit("postgres") as admin:
        admin.execute(f"CREATE ROLE {user} LOGIN CREATEDB PASSWORD 'few' CONNECTION LIMIT 3".encode())
        admin.execute(f"CREATE DATABASE {name} OWNER {user}".encode())
    with postgres.visit(name) as connection:
        connection.execute(f"SET ROLE {user}".encode())
        for table in ("one", "two", "three"):
            connection.execute(f"CREATE TABLE public.{table} AS SELECT n FROM generate_series(1, 5000) n".encode())
    yield replace(postgres, user=user, password="few"), name
    with postgres.visit("postgres") as admin:
        for database in (name, f"{name}_again"):
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
        admin.execute(f"DROP OWNED BY {user}; DROP ROLE {user}".encode())


def test_three_connections_are_enough_for_a_backup_and_a_restore(
    few: tuple[PostgresServer, str], installed: tuple[Programs, ...]
) -> None:
    (server, name), kept, said = few, Kept(), list[str]()

    remarks = check_database(server, name, installed).remarks
    dump = dump_database(server, name, kept, installed=installed, stream_size=1024, parallel=4, report=said.append)
    report = restore(kept, dump, server, f"{name}_again", installed)

    assert len(kept.tables) == 3
    assert dump.evidence.rows == report.evidence.rows == 15000
    assert any(line.startswith("Streams: 1 at a time instead of 4: the user") for line in said)
    assert any("at a time instead of" in note for note in (*remarks, *report.notes))


def test_a_setting_says_how_many_connections_a_backup_may_have(postgres: PostgresServer) -> None:
    with postgres.visit("postgres") as connection:
        assert at_a_time(connection, postgres, 8, beside=1, fixed=3) == 1
        assert at_a_time(connection, postgres, 8, beside=1, fixed=5) == 3
        assert at_a_time(connection, postgres, 8, beside=1, fixed=None) == 8


def test_a_limit_that_never_is_enough_is_refused_and_others_are_waited_for(
    postgres: PostgresServer,
    few: tuple[PostgresServer, str],
    installed: tuple[Programs, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, name = few
    monkeypatch.setattr(limits, "PATIENCE", 0.0)

    def taken() -> None:
        with server.visit(name), server.visit(name):
            dump_database(server, name, Kept(), installed=installed)

    with pytest.raises(SourceUnavailable, match="may have 3 connections, and 0 more"):
        taken()
    with postgres.visit("postgres") as admin:
        admin.execute(f"ALTER ROLE {server.user} CONNECTION LIMIT 2".encode())
    with pytest.raises(SourceRefused, match="may have 2 connections") as refused:
        check_database(server, name, installed)
    assert "CONNECTION LIMIT" in refused.value.hint
