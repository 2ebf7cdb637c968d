"""What a killed restore has left is known for certain and removed by the next; nothing else ever is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg import sql

from lifeboat.errors import RestoreFailed
from lifeboat.postgres import restore as restoring
from lifeboat.postgres.connection import Connection, PostgresServer
from lifeboat.postgres.dump import DatabaseDump, dump_database
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.unfinished import mark_unfinished
from tests.fixtures_postgres import new_name
from tests.postgres.artifacts import Kept, restore
from tests.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.ordinary]

COMMENT = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"


@pytest.fixture(scope="module")
def dumped(postgres: PostgresServer, installed: tuple[Programs, ...]) -> tuple[Kept, DatabaseDump]:
    name, kept = new_name("unfinished source"), Kept()
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        admin.execute(sql.SQL("COMMENT ON DATABASE {} IS 'of the source'").format(sql.Identifier(name)))
    with postgres.visit(name) as connection:
        connection.execute("CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 100) n")
    return kept, dump_database(postgres, name, kept, installed=installed)


@pytest.fixture
def admin(postgres: PostgresServer) -> Iterator[Connection]:
    with postgres.visit("postgres") as connection:
        yield connection


def oid_of(admin: Connection, database: str) -> int | None:
    row = admin.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", [database]).fetchone()
    return None if row is None else int(row[0])


def comment_of(admin: Connection, database: str) -> str | None:
    row = admin.execute(COMMENT, [database]).fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


def left_by_a_killed_one(postgres: PostgresServer, admin: Connection) -> tuple[str, int]:
    """A database with the mark of a restore whose session is over."""
    name = new_name("unfinished")
    admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    oid = oid_of(admin, name)
    assert oid is not None
    with postgres.visit("postgres") as dead:
        mark_unfinished(dead, name, oid)
        session = dead.info.backend_pid
    gone = "SELECT FROM pg_stat_activity WHERE pid = %s"
    wait_until(lambda: admin.execute(gone, [session]).fetchone() is None)  # and its lock with it
    return name, oid


def test_it_is_removed_and_the_restore_succeeds(
    postgres: PostgresServer, installed: tuple[Programs, ...], dumped: tuple[Kept, DatabaseDump], admin: Connection
) -> None:
    name, oid = left_by_a_killed_one(postgres, admin)

    restore(*dumped, postgres, name, installed)

    assert oid_of(admin, name) != oid
    assert comment_of(admin, name) == "of the source"


def test_a_database_says_that_it_is_not_whole_until_it_is(
    postgres: PostgresServer,
    installed: tuple[Programs, ...],
    dumped: tuple[Kept, DatabaseDump],
    admin: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, said, compare = new_name("marked"), list[str | None](), restoring.compare

    def looked_at(server: PostgresServer, database: str, *rest: object, **options: object) -> object:
        said.append(comment_of(admin, database))
        with pytest.raises(RestoreFailed, match="is being restored just now"):
            restore(*dumped, postgres, name, installed)
        return compare(server, database, *rest, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "compare", looked_at)
        report = restore(*dumped, postgres, name, installed)

    assert "it is not whole" in str(said[0])
    assert comment_of(admin, name) == report.evidence.database.comment == "of the source"
    with pytest.raises(RestoreFailed, match="There already is a database"):
        restore(*dumped, postgres, name, installed)


@pytest.mark.parametrize("what", ["no mark", "a mark of another oid", "a comment of somebody", "a changed mark"])
def test_whatever_is_not_certainly_left_of_a_killed_restore_is_refused_and_stays(
    postgres: PostgresServer,
    installed: tuple[Programs, ...],
    dumped: tuple[Kept, DatabaseDump],
    admin: Connection,
    what: str,
) -> None:
    name, oid = left_by_a_killed_one(postgres, admin)
    mark = comment_of(admin, name)
    assert mark is not None
    comment = {
        "no mark": None,
        "a mark of another oid": mark.replace(str(oid), str(oid + 1)),
        "a comment of somebody": "keep this",
        "a changed mark": f"{mark} Keep it!",
    }[what]
    admin.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(comment)))

    with pytest.raises(RestoreFailed, match="There already is a database"):
        restore(*dumped, postgres, name, installed)

    assert oid_of(admin, name) == oid


def test_one_that_somebody_looks_into_is_refused_with_his_name_and_stays(
    postgres: PostgresServer, installed: tuple[Programs, ...], dumped: tuple[Kept, DatabaseDump], admin: Connection
) -> None:
    name, oid = left_by_a_killed_one(postgres, admin)

    with postgres.visit(name) as looking:
        looking.execute("SET application_name = 'a person'")
        with pytest.raises(RestoreFailed, match=r"not whole; it was not removed: .*a person"):
            restore(*dumped, postgres, name, installed)

    assert oid_of(admin, name) == oid
    restore(*dumped, postgres, name, installed)
