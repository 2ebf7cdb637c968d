"""Neither a server, nor a role, nor a database ends or bends the sessions a backup and a restore live by."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from psycopg import sql

from lifeboat.errors import SourceError
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.comparison import look_into
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import check_database, dump_database
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.swap import swap
from tests.fixtures_postgres import PROGRAMS, Clusters, new_name
from tests.postgres.artifacts import Kept, restore
from tests.processes import wait_until

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)

LIMITS = {
    "statement_timeout": "300ms", "lock_timeout": "300ms", "idle_in_transaction_session_timeout": "30ms",
    "idle_session_timeout": "30ms", "transaction_timeout": "100ms", "default_transaction_read_only": "on",
}  # fmt: skip


@pytest.fixture(scope="module", params=[15, 17])
def impatient(request: pytest.FixtureRequest) -> Iterator[tuple[PostgresServer, str]]:
    """A server that ends sessions for any reason there is and lets nobody write, and a database on it."""
    with TemporaryCluster(PROGRAMS[request.param]) as cluster:
        server = cluster.server
        with server.visit("postgres") as admin:
            admin.execute("CREATE DATABASE shop")
        with server.visit("shop") as connection:
            connection.execute("CREATE TABLE t (id int PRIMARY KEY, name text); CREATE INDEX ON t (name);"
                               "INSERT INTO t SELECT n, 'name ' || n FROM generate_series(1, 20000) n")  # fmt: skip
        with server.visit("postgres") as admin:
            for name, value in LIMITS.items():
                if name != "transaction_timeout" or request.param >= 17:
                    admin.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            admin.execute("SELECT pg_reload_conf()")

        def as_set() -> bool:
            with suppress(SourceError), server.visit("postgres") as admin:
                return admin.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
            return False

        wait_until(as_set)
        yield replace(server), "shop"


def test_a_server_s_limits_end_neither_a_backup_nor_a_restore(
    impatient: tuple[PostgresServer, str], installed: tuple[Programs, ...]
) -> None:
    server, source = impatient
    kept, beside = Kept(), new_name("beside")

    check_database(server, source, installed)
    dump = dump_database(server, source, kept, installed=installed, content_hash=True, stream_size=1)
    restored = restore(kept, dump, server, beside, installed)
    swapped = swap(server, source, beside, now=NOW)

    assert restored.evidence.rows == dump.evidence.rows == 20000
    assert swapped.kept


def test_our_sessions_and_those_of_children_have_no_limits(impatient: tuple[PostgresServer, str]) -> None:
    server, database = impatient
    asked = "SELECT name || ' ' || setting FROM pg_settings WHERE name = ANY ('{" + ",".join(LIMITS) + "}') ORDER BY 1"

    with server.connect(database) as connection:
        ours = [text for (text,) in connection.execute(asked.encode())]
        major = connection.info.server_version // 10000
    with server.connect(database, read_only=True) as connection:
        reading = connection.execute("SHOW transaction_read_only").fetchone()
    psql = [str(PROGRAMS[major].path("psql")), "-XqAt", "-d", database, "-c", asked]
    said = subprocess.run(psql, env=server.child_environment(), capture_output=True, text=True, check=True)

    assert {line.split()[1] for line in ours} == {"0", "off"}
    assert said.stdout.splitlines() == ours
    assert reading == ("on",)


LOGIN = """
CREATE TABLE public.logins (who text, at timestamptz DEFAULT now());
CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
    AS $$ BEGIN INSERT INTO public.logins (who) VALUES (session_user); END $$;
CREATE EVENT TRIGGER notes ON login EXECUTE FUNCTION public.note();
ALTER EVENT TRIGGER notes ENABLE ALWAYS;
"""


@pytest.mark.parametrize("major", [17, 18])
def test_a_trigger_that_writes_at_every_login_changes_nothing_of_what_was_restored(
    clusters: Clusters, installed: tuple[Programs, ...], major: int
) -> None:
    server = replace(clusters.get(major).server)
    source, target, kept = new_name("logins"), new_name("back"), Kept()
    with server.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(source)))
    with server.visit(source) as connection:
        connection.execute(LOGIN.encode())

    check_database(server, source, installed)
    dump = dump_database(server, source, kept, installed=installed, content_hash=True, stream_size=1)
    restore(kept, dump, server, target, installed)
    found = look_into(server, target, dump.evidence)

    assert [(table.name, table.rows) for table in found.tables] == [("logins", dump.evidence.rows)]
    assert dump.evidence.rows == 1  # the very first login, when nothing was known of the server yet


def test_who_may_not_switch_event_triggers_off_logs_in_all_the_same(clusters: Clusters) -> None:
    server = clusters.get(17).server
    with server.visit("postgres") as admin:
        admin.execute("CREATE ROLE plain LOGIN PASSWORD 'plain' SUPERUSER")
        plain = PostgresServer(server.host, server.port, "plain", "plain")
        with plain.connect("postgres"):
            pass
        assert plain.known.at_login == {"event_triggers": "off"}
        admin.execute("ALTER ROLE plain NOSUPERUSER")

    with plain.connect("postgres") as connection:
        assert connection.execute("SHOW event_triggers").fetchone() == ("on",)
    assert plain.known.at_login == {}
