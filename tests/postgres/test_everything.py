"""One of everything PostgreSQL knows, and much of it odd, survives whole; and what fails is cleared away in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lifeboat.errors import EvidenceMismatch, RestoreFailed
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import dump_database
from lifeboat.postgres.evidence import count_tables, tables_to_read
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import MAJORS, PROGRAMS, Clusters, make_odd_database, new_name, psql, psql_script
from tests.postgres.artifacts import Kept, restore
from tests.postgres.sameness import assert_same, roles

pytestmark = pytest.mark.slow

ODDER = Path(__file__).parent / "odder.sql"
ROLES = Path(__file__).parent / "odder_roles.sql"
SIZES = {"one stream": 1 << 60, "every table a stream": 1}
WAYS = [(major, major, "every table a stream") for major in MAJORS]
WAYS += [(17, 17, "one stream"), (17, 18, "every table a stream")]
IDS = [f"{source} to {target}, {size}" for source, target, size in WAYS]


@pytest.mark.parametrize(("source", "target", "size"), WAYS, ids=IDS)
def test_everything_a_database_can_have_survives(
    clusters: Clusters, installed: tuple[Programs, ...], source: int, target: int, size: str
) -> None:
    first, second = clusters.get(source).server, clusters.get(target).server
    original, restored = new_name("odd source"), new_name("odd target")
    make_odder_database(first, original)
    make_roles(second)
    kept = Kept()

    dump = dump_database(first, original, kept, installed=installed, content_hash=True, stream_size=SIZES[size])
    report = restore(kept, dump, second, restored, installed)

    assert report.notes[-1] == "The subscription taking is there, switched off."
    assert_same(first, original, second, restored, major=max(source, target))


def test_roles_survive_on_a_server_that_has_none_of_them(clusters: Clusters, installed: tuple[Programs, ...]) -> None:
    original, restored = new_name("odd source"), new_name("odd target")

    with TemporaryCluster(PROGRAMS[17]) as first, TemporaryCluster(PROGRAMS[17]) as second:
        make_odder_database(first.server, original)
        kept = Kept()
        dump = dump_database(first.server, original, kept, installed=installed)
        restore(kept, dump, second.server, restored, installed)

        assert roles(second.server, 17) == roles(first.server, 17)


def test_a_restore_that_fails_takes_a_database_with_subscriptions_away_again(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    original, restored = new_name("odd source"), new_name("odd target")
    make_odder_database(postgres, original)
    kept = Kept()
    dump = dump_database(postgres, original, kept, installed=installed)
    asked_too_much = replace(dump, evidence=replace(dump.evidence, large_objects=999))

    with pytest.raises(EvidenceMismatch, match="999"):
        restore(kept, asked_too_much, postgres, restored, installed)

    assert restored not in psql(postgres, "postgres", "-c", "SELECT datname FROM pg_database")


def test_the_error_of_a_restore_tells_no_password_of_a_definition(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    original = new_name("odd source")
    make_odder_database(postgres, original)
    psql(postgres, original, "-c", "ALTER USER MAPPING FOR PUBLIC SERVER there OPTIONS (nonsense '1')")
    psql(postgres, original, "-c", "ALTER FOREIGN DATA WRAPPER elsewhere OPTIONS (DROP debug)")
    psql(postgres, original, "-c", "ALTER FOREIGN DATA WRAPPER elsewhere VALIDATOR postgresql_fdw_validator")
    kept = Kept()
    dump = dump_database(postgres, original, kept, installed=installed)

    with pytest.raises(RestoreFailed, match="CREATE USER MAPPING FOR public SERVER there") as caught:
        restore(kept, dump, postgres, new_name("odd target"), installed, all_or_nothing=True)

    assert "Mapp1ng-secret" not in str(caught.value)


def test_the_error_of_a_restore_tells_no_rows(postgres: PostgresServer, installed: tuple[Programs, ...]) -> None:
    original = new_name("source")
    psql(postgres, "postgres", "-c", f'CREATE DATABASE "{original}"')
    psql(postgres, original, "-c", "CREATE TABLE t (a text CHECK (a <> 'Erika Mustermann'))")
    psql(postgres, original, "-c", "INSERT INTO t VALUES ('Erika Musterfrau')")
    kept = Kept()
    dump = dump_database(postgres, original, kept, installed=installed)
    kept.artifacts["dump"] = kept.artifacts["dump"].replace(b"Erika Musterfrau", b"Erika Mustermann")

    with pytest.raises(RestoreFailed, match="violates check constraint") as caught:
        restore(kept, dump, postgres, new_name("target"), installed, all_or_nothing=True)

    assert "Erika" not in str(caught.value)


def test_the_digest_of_a_table_sees_every_column(postgres: PostgresServer) -> None:
    database = new_name("digests")
    psql(postgres, "postgres", "-c", f'CREATE DATABASE "{database}"')
    psql(
        postgres, database, "-c", "CREATE TABLE x (t text, a_row text, amount int); INSERT INTO x VALUES ('a', 'b', 1)"
    )

    with postgres.visit(database) as connection:
        (before,) = count_tables(connection, tables_to_read(connection), content_hash=True)
        connection.execute("UPDATE public.x SET amount = 2")
        (after,) = count_tables(connection, tables_to_read(connection), content_hash=True)

    assert (before.rows, after.rows) == (1, 1)
    assert before.content != after.content


def make_odder_database(server: PostgresServer, database: str) -> None:
    """A database that holds one of everything, and the roles it needs."""
    make_roles(server)
    make_odd_database(server, database)
    psql_script(server, database, ODDER.read_text())


def make_roles(server: PostgresServer) -> None:
    """The roles of such a database, with memberships, settings, passwords and remarks."""
    psql(server, "postgres", "-o", "/dev/null", "-f", str(ROLES))
