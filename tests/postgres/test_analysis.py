"""Statistics are gathered beside the indexes, of everything, and never at a restore's cost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

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
    with server.connect("postgres") as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    with server.connect(name) as connection:
        connection.execute(SCRIPT.encode())
        for table in ("plain", "leaf"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
    yield name
    with server.connect("postgres") as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def analysed(connection: Connection) -> set[str]:
    """The tables and indexes that there are statistics of."""
    return {name for (name,) in connection.execute("SELECT DISTINCT tablename FROM pg_stats WHERE schemaname='public'")}


def test_everything_has_statistics_after_it_was_analysed_beside_and_completed(
    server: PostgresServer, database: str
) -> None:
    analysis = Analysis(server, database, 2)

    with analysis.beside(), server.connect(database) as connection:
        connection.execute("CREATE INDEX by_name ON plain (lower(name))")
        connection.execute("CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM plain")
    analysis.complete()

    with server.connect(database) as connection:
        assert analysed(connection) == {"plain", "tree", "leaf", "by_name", "totals"}


def test_a_table_in_use_is_stepped_back_from_and_analysed_later(server: PostgresServer, database: str) -> None:
    analysis = Analysis(server, database, 2)

    with server.connect(database, autocommit=False) as holder:
        holder.execute("LOCK TABLE plain IN ACCESS EXCLUSIVE MODE")
        with analysis.beside(), server.connect(database) as connection:
            while "leaf" not in analysed(connection):  # what is free is analysed meanwhile
                threading.Event().wait(0.05)
        holder.execute("CREATE INDEX by_number ON plain (n)")
        holder.commit()
    with server.connect(database) as connection:
        assert "plain" not in analysed(connection)
    analysis.complete()

    with server.connect(database) as connection:
        assert "plain" in analysed(connection)
