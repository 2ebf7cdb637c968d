"""Statistics are gathered of everything, and of nothing twice without need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lifeboat.children import Children
from lifeboat.postgres.analysis import Analysis
from lifeboat.postgres.connection import Connection, PostgresServer
from tests.fixtures_postgres import Clusters, new_name

SCRIPT = """
    CREATE TABLE plain AS SELECT n, 'name ' || n AS name FROM generate_series(1, 1000) n;
    CREATE TABLE tree (n int) PARTITION BY RANGE (n);
    CREATE TABLE leaf PARTITION OF tree FOR VALUES FROM (0) TO (1000);
    INSERT INTO tree SELECT generate_series(1, 999);
"""


@pytest.fixture(params=[16, 17, 18], ids=str)
def server(request: pytest.FixtureRequest) -> PostgresServer:
    """A server of each version: 18 analyses a partitioned table in another way."""
    clusters: Clusters = request.getfixturevalue("clusters")
    return clusters.get(request.param).server


@pytest.fixture
def database(server: PostgresServer) -> Iterator[str]:
    """Some tables nobody has analysed, as autovacuum would do in its time."""
    name = new_name("analysis")
    with server.visit("postgres") as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    with server.visit(name) as connection:
        connection.execute(SCRIPT.encode())
        for table in ("plain", "leaf"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
    yield name
    with server.visit("postgres") as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def analysed(connection: Connection) -> set[str]:
    """The tables and indexes that there are statistics of."""
    return {name for (name,) in connection.execute("SELECT DISTINCT tablename FROM pg_stats WHERE schemaname='public'")}


@pytest.fixture
def analysis(server: PostgresServer, database: str) -> Analysis:
    return Analysis(server, database, 2, {"lock_timeout": "0"}, Children())


def calls(connection: Connection) -> dict[str, int]:
    """How often each table was analysed."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    return dict(connection.execute("SELECT relname, analyze_count FROM pg_stat_user_tables").fetchall())


def test_everything_has_statistics_after_it_was_analysed_in_shares_and_completed(
    server: PostgresServer, database: str, analysis: Analysis
) -> None:
    for share in analysis.shares():
        share()
    with server.visit(database) as connection:
        assert analysed(connection) == {"plain", "tree", "leaf"}
        connection.execute("CREATE INDEX by_name ON plain (lower(name))")
        connection.execute("CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM plain")
    analysis.complete()

    with server.visit(database) as connection:
        assert analysed(connection) == {"plain", "tree", "leaf", "by_name", "totals"}


def test_only_what_has_got_more_to_be_analysed_is_analysed_again(
    server: PostgresServer, database: str, analysis: Analysis
) -> None:
    analysis.complete()
    with server.visit(database) as connection:
        connection.execute("CREATE INDEX by_number ON leaf (n)")
        connection.execute("CREATE STATISTICS together ON n, name FROM plain")
    analysis.complete()
    analysis.complete()

    with server.visit(database) as connection:
        assert calls(connection) == {"plain": 2, "tree": 1, "leaf": 1}


def test_nothing_more_is_analysed_for_a_restore_that_was_ended(
    server: PostgresServer, database: str, analysis: Analysis
) -> None:
    analysis.children.kill()

    analysis.complete()

    with server.visit(database) as connection:
        assert analysed(connection) == set()
