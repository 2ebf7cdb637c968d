"""A hint answers what the server said, and whether to try again follows from that too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import psycopg
import pytest

from lifeboat.errors import DumpFailed, LifeboatError, SourceError, SourceRefused, SourceUnavailable
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump_faults import dump_failed
from lifeboat.postgres.faults import fault_of, fault_said
from tests.fixtures_postgres import PROGRAMS
from tests.processes import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def strict() -> Iterator[PostgresServer]:
    """A server with users and databases that let nobody in, or not for long."""
    with TemporaryCluster(PROGRAMS[17]) as cluster:
        with cluster.server.visit("postgres") as admin:
            for statement in (
                "CREATE DATABASE closed ALLOW_CONNECTIONS false",
                "CREATE DATABASE few CONNECTION LIMIT 0",
                "CREATE ROLE crowd LOGIN PASSWORD 'x' CONNECTION LIMIT 0",
                "CREATE ROLE asleep NOLOGIN PASSWORD 'x'",
                "CREATE ROLE guest LOGIN PASSWORD 'x'",
                "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC",
            ):
                admin.execute(statement.encode())
        yield cluster.server


def lets_in(server: PostgresServer) -> bool:
    with suppress(SourceError), server.connect("postgres"):
        return True
    return False


@pytest.mark.parametrize(
    ("user", "database", "kind", "told", "hint"),
    [
        ("postgres", "closed", SourceRefused, "takes no connections", "ALLOW_CONNECTIONS true"),
        ("guest", "few", SourceUnavailable, "takes no more connections", "CONNECTION LIMIT"),
        ("crowd", "postgres", SourceUnavailable, "takes no more connections", "CONNECTION LIMIT of crowd"),
        ("asleep", "postgres", SourceRefused, "refuses the login", "user and password"),
        ("guest", "template1", SourceRefused, "does not permit it", "Grant guest"),
        ("guest", "nonesuch", SourceRefused, "There is no database 'nonesuch'", "on the command line"),
    ],
)
def test_a_refused_login_says_why(
    strict: PostgresServer, user: str, database: str, kind: type[LifeboatError], told: str, hint: str
) -> None:
    server = strict if user == "postgres" else replace(strict, user=user, password="x")

    with pytest.raises(kind) as refused, server.connect(database):
        pass

    assert type(refused.value) is kind
    assert told in refused.value.message
    assert hint in refused.value.hint
    assert "Is it running" not in refused.value.hint


@pytest.mark.parametrize(
    ("statement", "kind", "hint"),
    [
        ("SELECT pg_advisory_lock(n) FROM generate_series(1, 1000000) n", SourceRefused, "max_locks_per_transaction"),
        ("SET statement_timeout = 200; SELECT pg_sleep(60)", SourceUnavailable, "statement_timeout"),
        ("SET default_transaction_read_only = on; CREATE TABLE t ()", SourceRefused, "name the primary"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", SourceUnavailable, "somebody ended it"),
        ("SELECT lo_get(1)", SourceError, "log may tell more"),
    ],
)
def test_what_fails_in_a_session_says_why(
    strict: PostgresServer, statement: str, kind: type[LifeboatError], hint: str
) -> None:
    def run() -> None:
        with strict.visit("postgres") as connection:
            for part in statement.split("; "):
                connection.execute(part.encode())

    with pytest.raises(kind) as failed:
        run()
    wait_until(lambda: lets_in(strict))  # the locks of a session go with it

    assert type(failed.value) is kind
    assert hint in failed.value.hint
    assert "does not answer" not in failed.value.message


@pytest.mark.parametrize(
    ("said", "passing"),
    [
        ("connection failed: Connection refused\n\tIs the server running?", True),
        ("failed to resolve host 'x': [Errno -2] Name or service not known", True),
        ("connection failed: FATAL:  the database system is starting up", True),
        ("connection failed: FATAL:  sorry, too many clients already", True),
        ("connection failed: FATAL:  unsupported startup parameter: options", False),
        ("connection failed: server does not support SSL, but SSL was required", False),
        ("connection failed: SSL error: certificate verify failed", False),
        ("connection failed: session is read-only", True),
        ("connection failed: FATAL:  etwas, das wir nicht kennen", True),
    ],
)
def test_what_no_code_is_known_of_is_told_by_its_words(said: str, passing: bool) -> None:
    fault = fault_of(psycopg.OperationalError(said))

    assert fault is not None
    assert fault.passing is passing


def attempts(*said: tuple[str, str, str]) -> psycopg.OperationalError:
    each = [f"- host: '{h}', port: '5432', hostaddr: '{a}': connection failed: {words}" for h, a, words in said]
    return psycopg.OperationalError("\n".join([said[-1][2], "Multiple connection attempts failed. All …:", *each]))


REFUSED = "connection to server failed: Connection refused"
WRONG = 'connection to server failed: FATAL:  password authentication failed for user "x"'


def test_of_a_host_with_two_addresses_the_one_that_answers_counts() -> None:
    for said in (
        (("a", "::1", REFUSED), ("a", "127.0.0.1", WRONG)),
        (("a", "::1", WRONG), ("a", "127.0.0.1", REFUSED)),
    ):
        fault = fault_of(attempts(*said))
        assert fault is not None
        assert not fault.passing


def test_of_several_hosts_one_that_may_come_back_is_waited_for() -> None:
    fault = fault_of(attempts(("a", "1.1.1.1", REFUSED), ("b", "1.1.1.2", WRONG)))

    assert fault is not None
    assert fault.passing


@pytest.mark.parametrize(
    ("said", "passing"),
    [
        ("pg_dump: error: query failed: ERROR:  permission denied for table t", False),
        ("pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout", True),
        ("pg_dump: error: query failed: ERROR:  out of shared memory\nHINT:  …", False),
        ("pg_restore: error: connection to server at x failed: FATAL:  sorry, too many clients already", True),
        (
            "pg_restore: error: could not execute query: FATAL:  terminating connection due to administrator command",
            True,
        ),
        ("pg_dump: error: query failed: server closed the connection unexpectedly", True),
    ],
)
def test_what_programs_say_is_told_by_its_words(said: str, passing: bool) -> None:
    fault = fault_said(said)

    assert fault is not None
    assert fault.passing is passing


def test_a_definition_that_a_program_quotes_says_nothing_of_the_server() -> None:
    assert fault_said("pg_restore: error: could not execute query: ERROR:  x\nCommand was: -- out of memory") is None


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("pg_dump: error: query failed: ERROR:  cache lookup failed for type 7", SourceError),
        ("pg_dump: error: query failed: ERROR:  permission denied for table t", SourceRefused),
        ("pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout", DumpFailed),
        ("pg_dump: error: query failed: server closed the connection unexpectedly", DumpFailed),
        ("", DumpFailed),
    ],
)
def test_a_dump_that_the_server_refuses_is_not_tried_again(
    postgres: PostgresServer, said: str, kind: type[LifeboatError]
) -> None:
    failed = dump_failed(postgres, "orders", "dump")(1, said)

    assert type(failed) is kind


def test_psycopg_says_nothing_of_its_own_when_a_session_is_lost(
    strict: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    def lose_a_session() -> None:
        with strict.connect("postgres", autocommit=False) as connection:
            with strict.connect("postgres") as other:
                other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
            connection.execute("SELECT 1")

    with caplog.at_level(logging.WARNING, "psycopg"), pytest.raises(SourceUnavailable):
        lose_a_session()

    assert caplog.records == []
