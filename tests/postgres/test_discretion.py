"""No row is in a message, wherever the server has put it; what helps stays."""

from __future__ import annotations

import traceback

import pytest
from psycopg import sql

from lifeboat.discretion import LEFT_OUT, discreet, without_rows
from lifeboat.errors import LifeboatError, RestoreFailed
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import dump_database
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import new_name
from tests.postgres.artifacts import Kept, restore

SECRET = "Mallory"

SAID = {
    "a row without the usual shape": (
        'pg_restore: error: COPY failed for table "p": ERROR:  relation "limits" does not exist\n'
        f'CONTEXT:  PL/pgSQL function public.f(integer) line 1 at IF\nCOPY patients, line 1: "1\t{SECRET}"',
        'relation "limits" does not exist',
    ),
    "a message over several lines": (
        f"pg_restore: error: could not execute query: ERROR:  odd\n{SECRET}\nand so on\nCommand was: CREATE INDEX i",
        "Command was: CREATE INDEX i",
    ),
    "a message that a function raises": (
        f"pg_restore: error: could not execute query: ERROR:  patient {SECRET} has no ward\n"
        "CONTEXT:  PL/pgSQL function public.f(integer) line 3 at RAISE\nCommand was: REFRESH MATERIALIZED VIEW m",
        "PL/pgSQL function public.f(integer) line 3 at RAISE",
    ),
    "one that looks like another, raised": (
        f'pg_restore: error: could not execute query: ERROR:  relation "{SECRET}" does not exist\n'
        "CONTEXT:  PL/pgSQL function f() line 3 at RAISE",
        LEFT_OUT,
    ),
    "another language": (
        f'pg_restore: error: could not execute query: ERROR:  KeyError: "{SECRET}"\n'
        'CONTEXT:  Traceback (most recent call last):\nPL/Python function "f"',
        LEFT_OUT,
    ),
    "a value at the end": (
        f'pg_restore: error: could not execute query: ERROR:  invalid input syntax for type json: "{SECRET}"',
        "invalid input syntax for type json",
    ),
    "details and hints of a row": (
        "pg_restore: error: could not execute query: ERROR:  could not create unique index \"p_key\"\n"
        f"DETAIL:  Key (name)=({SECRET}) is duplicated.\nHINT:  Look at '{SECRET}'.",
        'could not create unique index "p_key"',
    ),
    "a query in a function": (
        'pg_restore: error: could not execute query: ERROR:  column "x" does not exist\n'
        f"LINE 1: SELECT x FROM t WHERE name = '{SECRET}'\n               ^\n"
        f"QUERY:  SELECT x FROM t WHERE name = '{SECRET}'\nCONTEXT:  PL/pgSQL function f() line 3 at EXECUTE",
        'column "x" does not exist',
    ),
    "a password of a definition": (
        'pg_restore: error: could not execute query: ERROR:  server "far" does not exist\n'
        f"Command was: CREATE USER MAPPING FOR a SERVER far OPTIONS (password '{SECRET}');",
        "CREATE USER MAPPING FOR a SERVER far",
    ),
    "a translated server": (
        'pg_restore: error: COPY failed for table "p": FEHLER:  ungültige Eingabesyntax für Typ integer: '
        f'»{SECRET}«\nCONTEXT:  COPY p, Zeile 1, Spalte a: »{SECRET}«',
        'COPY failed for table "p"',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("said", "stays"), SAID.values(), ids=SAID.keys())
def test_what_a_program_says_is_told_without_rows(said: str, stays: str) -> None:
    for masked in (discreet(said), discreet(f"pg_restore: warning: first\n{said}\npg_restore: warning: last")):
        assert SECRET not in masked
        assert stays in masked


@pytest.mark.parametrize(("said", "_"), SAID.values(), ids=SAID.keys())
def test_what_is_stored_unsealed_has_no_more(said: str, _: str) -> None:
    assert SECRET not in without_rows(discreet(said))


@pytest.mark.parametrize(
    "said",
    [
        'pg_restore: error: could not execute query: ERROR:  must be owner of extension plpgsql',
        'pg_dump: error: Dumping the contents of table "t" failed: PQgetResult() failed.\n'
        "pg_dump: detail: Error message from server: ERROR:  invalid memory alloc request size 1073741824\n"
        "pg_dump: detail: Command was: COPY public.t (a) TO stdout;",
        "pg_restore: while PROCESSING TOC:\npg_restore: from TOC entry 217; 1259 16386 TABLE t postgres",
    ],
)  # fmt: skip
def test_what_names_no_more_than_things_is_told_as_it_is(said: str) -> None:
    assert discreet(said) == said


@pytest.fixture(scope="module")
def table(postgres: PostgresServer) -> tuple[PostgresServer, str]:
    name = new_name("discreet")
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with postgres.visit(name) as connection:
        connection.execute(
            """
            CREATE DOMAIN short AS text CHECK (length(value) < 3);
            CREATE TYPE mood AS ENUM ('glad');
            CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE, other int REFERENCES t, CHECK (id < 10));
            INSERT INTO t VALUES (1, 'Mallory');
            CREATE FUNCTION raises(text) RETURNS int LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'no %', $1 USING ERRCODE = '42501', DETAIL = $1, HINT = $1; END $$;
            CREATE FUNCTION runs(text) RETURNS int LANGUAGE plpgsql AS
                $$ BEGIN EXECUTE 'SELECT nothing(' || quote_literal($1) || ')'; RETURN 1; END $$;
            """
        )
    return postgres, name


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'Mallory'::int",
        "SELECT 'Mallory'::short",
        "SELECT 'Mallory'::mood",
        "SELECT '{\"a\": Mallory}'::jsonb",
        "SELECT raises(name) FROM t",
        "SELECT runs(name) FROM t",
        "INSERT INTO t VALUES (2, 'Mallory')",
        "INSERT INTO t VALUES (20, 'Mallory 2')",
        "INSERT INTO t VALUES (3, 'Mallory 3', 7)",
        "SELECT to_date('Mallory', 'YYYY')",
    ],
)
def test_no_error_of_a_query_shows_a_row_nor_does_its_traceback(
    table: tuple[PostgresServer, str], statement: str
) -> None:
    server, database = table

    with pytest.raises(LifeboatError) as failed, server.visit(database) as connection:
        connection.execute(statement.encode())

    told = "".join(traceback.format_exception(failed.value)).replace(
        statement, ""
    )  # a traceback shows this test's lines
    assert SECRET not in told
    assert "SQLSTATE" in failed.value.message


def test_a_generated_column_whose_function_fails_shows_no_row_of_the_restore(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    name, kept = new_name("generated"), Kept()
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with postgres.visit(name) as connection:
        connection.execute(
            """
            CREATE TABLE limits (most int); INSERT INTO limits VALUES (9);
            CREATE FUNCTION within(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                $$ BEGIN RETURN n + (SELECT most FROM limits); END $$;
            CREATE TABLE patients (id int, name text, most int GENERATED ALWAYS AS (within(id)) STORED);
            INSERT INTO patients VALUES (1, 'Mallory');
            """
        )
    dump = dump_database(postgres, name, kept, installed=installed)

    with pytest.raises(RestoreFailed) as failed:
        restore(kept, dump, postgres, new_name("target"), installed, all_or_nothing=True)

    told = "".join(traceback.format_exception(failed.value))
    assert SECRET not in told
    assert 'relation "limits" does not exist' in failed.value.message
    assert "within(integer)" in failed.value.message
