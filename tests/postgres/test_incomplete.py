"""What cannot be rebuilt is listed, and all rows are kept: in a disaster they are worth more than perfection."""

from __future__ import annotations

import pytest

from lifeboat.errors import RestoreFailed
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import dump_database
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.restore import RestoreReport
from tests.fixtures_postgres import CHECK_THAT_NO_LONGER_HOLDS, MAJORS, Clusters, new_name, psql, psql_script
from tests.postgres.artifacts import Kept, restore

CHECK_ASKS_ANOTHER_TABLE = """
    CREATE TABLE z_limits (most int);
    INSERT INTO z_limits VALUES (10);
    CREATE FUNCTION allowed(int) RETURNS bool LANGUAGE plpgsql
        AS 'BEGIN RETURN $1 <= coalesce((SELECT most FROM z_limits), 0); END';
    CREATE TABLE a_orders (id int PRIMARY KEY, amount int CHECK (allowed(amount)));
    INSERT INTO a_orders SELECT n, n FROM generate_series(1, 10) n;
"""
FULL_NAMES = CHECK_ASKS_ANOTHER_TABLE.replace("FROM z_limits", "FROM public.z_limits")

INDEX_WITHOUT_SCHEMA = """
    CREATE FUNCTION norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
    CREATE FUNCTION key_of(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN norm($1); END';
    CREATE TABLE people (id int PRIMARY KEY, name text);
    INSERT INTO people SELECT n, 'N' || n FROM generate_series(1, 10) n;
"""

FOREIGN_SERVER_DOWN = """
    CREATE EXTENSION postgres_fdw;
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw
        OPTIONS (host '127.0.0.1', port '{server.port}', dbname 'postgres');
    CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (user '{server.user}', password '{server.password}');
    CREATE FOREIGN TABLE remote (datname name) SERVER elsewhere
        OPTIONS (schema_name 'pg_catalog', table_name 'pg_database');
    CREATE MATERIALIZED VIEW cached AS SELECT * FROM remote;
    CREATE INDEX ON cached (datname);
    ALTER SERVER elsewhere OPTIONS (SET port '1');
    CREATE TABLE invoices AS SELECT n AS id FROM generate_series(1, 100) n;
"""


def restored(
    server: PostgresServer, script: str, installed: tuple[Programs, ...], *, all_or_nothing: bool = False, jobs: int = 2
) -> RestoreReport:
    """A database made by a script, dumped with every table in a stream of its own, and restored beside it."""
    source = new_name("incomplete")
    psql(server, "postgres", "-c", f'CREATE DATABASE "{source}"')
    psql_script(server, source, script)
    kept = Kept()
    dump = dump_database(server, source, kept, installed=installed, stream_size=1)
    target = new_name("incomplete restored")
    return restore(kept, dump, server, target, installed, all_or_nothing=all_or_nothing, jobs=jobs)


def rows(server: PostgresServer, database: str, table: str) -> int:
    with server.visit(database) as connection:
        row = connection.execute(f"SELECT count(*) FROM public.{table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("major", MAJORS)
def test_rows_whose_check_asks_another_table_come_with_the_search_path_of_the_source(
    clusters: Clusters, installed: tuple[Programs, ...], major: int
) -> None:
    server = clusters.get(major).server

    report = restored(server, CHECK_ASKS_ANOTHER_TABLE, installed)

    assert report.not_rebuilt == ()
    assert rows(server, report.database, "a_orders") == 10
    assert any(note.startswith("The rows of public.a_orders came with the search path public") for note in report.notes)


def test_rows_whose_check_asks_a_table_that_comes_later_are_tried_again(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    report = restored(postgres, FULL_NAMES, installed, jobs=1)

    assert report.not_rebuilt == ()
    assert rows(postgres, report.database, "a_orders") == 10


def test_rows_that_do_not_meet_their_check_are_let_in_and_the_check_is_kept_for_new_ones(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    report = restored(postgres, CHECK_THAT_NO_LONGER_HOLDS, installed)

    [check] = report.not_rebuilt
    assert (check.kind, check.name) == ("CHECK CONSTRAINT", "public.a_orders a_orders_amount_check")
    assert rows(postgres, report.database, "a_orders") == 10
    with postgres.visit(report.database) as connection, pytest.raises(Exception, match="a_orders_amount_check"):
        connection.execute("INSERT INTO public.a_orders VALUES (11, 11)")


@pytest.mark.parametrize("major", MAJORS)
def test_an_index_over_a_function_that_finds_another_no_more_is_listed_or_rebuilt_as_the_source_had_it(
    clusters: Clusters, installed: tuple[Programs, ...], major: int
) -> None:
    server = clusters.get(major).server
    index = "CREATE INDEX people_key ON people (key_of(name));"
    # From version 17 on, an index is only built with the path that `pg_dump` uses as well; this one is older.
    script = INDEX_WITHOUT_SCHEMA + (index if major < 17 else f"BEGIN; {LOOSEN} {index} {TIGHTEN} COMMIT;")

    report = restored(server, script, installed)

    assert rows(server, report.database, "people") == 10
    if major < 17:
        assert report.not_rebuilt == ()
        assert any("INDEX public.people_key was rebuilt" in note for note in report.notes)
    else:
        [lost] = report.not_rebuilt
        assert (lost.kind, lost.name) == ("INDEX", "public.people_key")
        assert lost.statement == "CREATE INDEX people_key ON public.people USING btree (public.key_of(name));"
        assert "norm(text) does not exist" in lost.answer


LOOSEN = "ALTER FUNCTION key_of(text) SET search_path = public;"
TIGHTEN = "ALTER FUNCTION key_of(text) RESET search_path;"


def test_a_materialized_view_over_a_foreign_server_that_is_down_stays_empty_and_is_listed(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    report = restored(postgres, FOREIGN_SERVER_DOWN.format(server=postgres), installed)

    [view] = report.not_rebuilt
    assert (view.kind, view.name) == ("MATERIALIZED VIEW DATA", "public.cached")
    assert rows(postgres, report.database, "invoices") == 100


ORPHANS = """
    CREATE TABLE customers (id int PRIMARY KEY);
    CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers);
    CREATE VIEW open AS SELECT * FROM orders;
    SET session_replication_role = replica;
    INSERT INTO orders SELECT n, n FROM generate_series(1, 10) n;
"""
GENERATED = """
    CREATE FUNCTION norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
    CREATE FUNCTION key_of(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN norm($1); END';
    CREATE TABLE people (id int PRIMARY KEY, name text, key text GENERATED ALWAYS AS (key_of(name)) STORED);
    INSERT INTO people (id, name) SELECT n, 'N' || n FROM generate_series(1, 10) n;
"""


def test_rows_that_a_foreign_key_refuses_are_kept_and_only_the_key_is_listed(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    report = restored(postgres, ORPHANS, installed)

    assert [(one.kind, one.name) for one in report.not_rebuilt] == [
        ("FK CONSTRAINT", "public.orders orders_customer_fkey")
    ]
    assert rows(postgres, report.database, "open") == 10
    assert report.evidence.rows == 10


def test_rows_of_a_generated_column_come_with_the_search_path_of_the_source(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    report = restored(postgres, GENERATED, installed)

    assert report.not_rebuilt == ()
    assert rows(postgres, report.database, "people WHERE key = lower(name)") == 10


def test_what_failed_is_rebuilt_by_its_own_name_in_a_database_of_another_encoding(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    source, kept = new_name("incomplete"), Kept()
    latin = "TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    psql(postgres, "postgres", "-c", f'CREATE DATABASE "{source}" {latin}')
    script = f"SET client_encoding = 'UTF8'; {GENERATED.replace('people', 'kündigung')}"
    psql_script(postgres, source, script)
    dump = dump_database(postgres, source, kept, installed=installed, stream_size=1)

    report = restore(kept, dump, postgres, new_name("incomplete restored"), installed)

    assert report.not_rebuilt == ()
    assert rows(postgres, report.database, "kündigung WHERE key = lower(name)") == 10


def test_whole_or_nothing_is_to_be_had_on_request(postgres: PostgresServer, installed: tuple[Programs, ...]) -> None:
    with pytest.raises(RestoreFailed, match="a_orders"):
        restored(postgres, CHECK_THAT_NO_LONGER_HOLDS, installed, all_or_nothing=True)
