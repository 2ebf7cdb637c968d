"""The database that a restore makes is known for ours whenever we are killed; what cannot be made is told rightly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg import sql

from lifeboat.errors import LifeboatError, NotReady, RestoreFailed, SourceRefused
from lifeboat.postgres import making
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import DatabaseDump, dump_database
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import PROGRAMS, new_name
from tests.postgres.artifacts import Kept, restore
from tests.processes import wait_until

pytestmark = pytest.mark.slow

Dumped = tuple[Kept, DatabaseDump]


@pytest.fixture(scope="module")
def dumped(postgres: PostgresServer, installed: tuple[Programs, ...]) -> Dumped:
    name, kept = new_name("making source"), Kept()
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with postgres.visit(name) as connection:
        connection.execute("CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 100) n")
    return kept, dump_database(postgres, name, kept, installed=installed)


# ---- killed ---------------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
from lifeboat.postgres import making
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.evidence import describe_database

moment, port, name = sys.argv[1:]
server = PostgresServer("127.0.0.1", int(port), "postgres", os.environ["SECRET"])
marked = making.mark_unfinished


def mark(*arguments):
    if moment == "before it is marked":
        os.kill(os.getpid(), signal.SIGKILL)
    marked(*arguments)
    if moment == "before it has its name":
        os.kill(os.getpid(), signal.SIGKILL)


making.mark_unfinished = mark
with server.visit("template1") as look:
    was = describe_database(look, tables=(), sequences=()).database
with server.administer() as admin:
    if moment == "while it is made":
        print("making", flush=True)
    making.make_database(admin, server, name, was, print)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def unfinished(server: PostgresServer) -> set[str]:
    with server.visit("postgres") as admin:
        rows = admin.execute("SELECT datname FROM pg_database WHERE datname ~ %s", [f"^{making.PREFIX}"]).fetchall()
    return {name for (name,) in rows}


def busy(server: PostgresServer, what: str) -> bool:
    with server.visit("postgres") as admin:
        return bool(
            admin.execute(
                "SELECT FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid() AND state = 'active'",
                [f"{what}%"],
            ).fetchall()
        )


@pytest.mark.parametrize(
    "moment", ["while it is made", "before it is marked", "before it has its name", "when it has its name"]
)
def test_whenever_it_is_killed_the_next_restore_to_that_name_succeeds(
    postgres: PostgresServer, installed: tuple[Programs, ...], dumped: Dumped, moment: str
) -> None:
    name = new_name("killed")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, moment, str(postgres.port), name],
        env=os.environ | {"SECRET": postgres.password, "PYTHONPATH": str(Path(making.__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    if moment == "while it is made":
        wait_until(lambda: busy(postgres, "CREATE DATABASE") or child.poll() is not None)
        child.kill()
    assert child.wait() == -signal.SIGKILL
    assert child.stdout is not None
    child.stdout.close()
    wait_until(lambda: not busy(postgres, "CREATE DATABASE") and not sessions(postgres))

    restore(*dumped, postgres, name, installed)

    assert unfinished(postgres) == set()


def sessions(server: PostgresServer) -> int:
    """How many sessions of killed ones the server has not ended yet."""
    with server.visit("postgres") as admin:
        row = admin.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lifeboat' AND pid <> pg_backend_pid()"
            " AND query LIKE ANY (ARRAY['CREATE DATABASE%', '%advisory_lock%', 'COMMENT ON%', 'ALTER DATABASE%'])"
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_one_that_is_being_made_by_another_stays(postgres: PostgresServer) -> None:
    name = f"{making.PREFIX}{'0' * 16}"
    with postgres.administer() as admin, postgres.administer() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [making._lock(name)])
        admin.execute(f"CREATE DATABASE {name}".encode())

        making.remove_nameless(admin, lambda _: None)
        assert name in unfinished(postgres)

        other.execute("SELECT pg_advisory_unlock(%s)", [making._lock(name)])
        making.remove_nameless(admin, lambda _: None)
        assert name not in unfinished(postgres)


def test_a_name_that_only_looks_like_ours_stays(postgres: PostgresServer) -> None:
    name = f"{making.PREFIX}mine"
    with postgres.administer() as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        try:
            making.remove_nameless(admin, lambda _: None)
            assert name in unfinished(postgres)
        finally:
            admin.execute(f"DROP DATABASE {name}".encode())


# ---- what cannot be made --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told", "hint"),
    [
        ({"owner": "nobody at all"}, "nobody at all", "Create the role 'nobody at all'"),
        ({"collate": "xx_XX.UTF-8", "ctype": "xx_XX.UTF-8"}, "locale", "install the locale"),
        ({"encoding": "LATIN9", "collate": "C.UTF-8"}, "LATIN9", "encoding or the locale"),
    ],
)
def test_what_is_missing_there_is_named(
    postgres: PostgresServer,
    installed: tuple[Programs, ...],
    dumped: Dumped,
    changes: dict[str, str],
    told: str,
    hint: str,
) -> None:
    kept, dump = dumped
    evidence = replace(dump.evidence, database=replace(dump.evidence.database, **changes))  # type: ignore[arg-type]

    with pytest.raises(RestoreFailed) as failed:
        restore(kept, replace(dump, evidence=evidence), postgres, new_name("target"), installed)

    assert told in failed.value.message
    assert hint in failed.value.hint
    assert unfinished(postgres) == set()


# ---- where to log in ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare() -> Iterator[PostgresServer]:
    """A server without the database postgres."""
    with TemporaryCluster(PROGRAMS[17]) as cluster:
        with cluster.server.visit("template1") as admin:
            admin.execute("DROP DATABASE postgres")
            admin.execute("CREATE DATABASE defaultdb")
        yield cluster.server


def test_a_server_without_the_database_postgres_is_restored_to(
    bare: PostgresServer, installed: tuple[Programs, ...], dumped: Dumped
) -> None:
    for server in (bare, replace(bare, maintenance="defaultdb")):
        report = restore(*dumped, server, new_name("target"), installed)
        assert report.evidence.rows == 100


def test_the_database_to_log_in_to_is_the_one_that_was_chosen(bare: PostgresServer) -> None:
    with replace(bare, maintenance="defaultdb").administer() as admin:
        assert admin.info.dbname == "defaultdb"
    with bare.administer() as admin:
        assert admin.info.dbname == "template1"


def test_where_no_database_lets_us_in_the_setting_for_it_is_told(bare: PostgresServer) -> None:
    with bare.visit("template1") as admin:
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'g'; REVOKE CONNECT ON DATABASE template1 FROM PUBLIC")

    def look() -> None:
        with replace(bare, user="guest", password="g").administer():
            pass

    with pytest.raises(SourceRefused) as refused:
        look()

    assert "maintenance_database" in refused.value.hint
    assert "'postgres'" in refused.value.message
    assert "platform.yaml" not in refused.value.hint


def test_a_wrong_password_is_told_as_that(bare: PostgresServer) -> None:
    def look() -> None:
        with replace(bare, password="wrong").administer():
            pass

    with pytest.raises(LifeboatError, match="refuses the login"):
        look()


def test_a_read_only_server_is_refused_before_anything_is_made(
    bare: PostgresServer, installed: tuple[Programs, ...], dumped: Dumped
) -> None:
    with bare.administer() as admin:
        admin.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        with bare.administer() as admin:
            refused = admin.execute("SHOW transaction_read_only").fetchone() == ("on",)
        if refused:  # unless our sessions answer that setting by themselves
            with pytest.raises(NotReady, match="is read-only") as told:
                restore(*dumped, bare, new_name("target"), installed)
            assert "locale" not in told.value.hint
        else:
            restore(*dumped, bare, new_name("target"), installed)
    finally:
        with bare.administer() as admin:
            admin.execute("SET default_transaction_read_only = off")
            admin.execute("ALTER ROLE postgres RESET default_transaction_read_only")
