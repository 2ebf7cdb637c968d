"""Rows are counted wherever `pg_dump` can copy them, and nothing of the owner's runs for it; what a dump leaves out is
told beforehand, in the snapshot and after a restore."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from lifeboat.errors import SourceError, SourceRefused
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import check_database, dump_database
from lifeboat.postgres.evidence import Evidence, count_tables, differences, tables_to_read
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import MAJORS, PROGRAMS, Clusters, new_name
from tests.postgres.artifacts import Kept, restore

pytestmark = pytest.mark.slow

# Each of these tables can be dumped, and none can be planned for without its owner's search path.
PECULIAR = """
    CREATE FUNCTION norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
    CREATE FUNCTION key_of(text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = public
        AS 'SELECT norm($1) -- elsewhere(1)';
    CREATE FUNCTION fixed(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END';
    CREATE DOMAIN short AS text CHECK (length(VALUE) < length(fixed('123456789')));
    CREATE FUNCTION same(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 = $2; END';
    CREATE OPERATOR === (FUNCTION = same, LEFTARG = int, RIGHTARG = int);

    CREATE TABLE people (id int PRIMARY KEY, name text);
    CREATE INDEX people_key ON people (key_of(name));
    CREATE TABLE planted (id bigint, name text);
    CREATE INDEX ON planted ((fixed('x') || name));
    CREATE TABLE partial (name text);
    CREATE INDEX ON partial (name) WHERE fixed('yes') = 'yes';
    CREATE TABLE measured (a int, b text, c int GENERATED ALWAYS AS (1) STORED);
    CREATE STATISTICS measured_of ON (fixed('x') || b), a FROM measured;
    CREATE TABLE domains (name text);
    CREATE INDEX ON domains ((name::short::text));
    CREATE TABLE operators (n int);
    CREATE INDEX ON operators ((1 === 1), n);
    CREATE TABLE bare (c int GENERATED ALWAYS AS (1) STORED);
    CREATE INDEX ON bare ((fixed('x')));
    CREATE TABLE plain (id int PRIMARY KEY, name text);
    CREATE INDEX ON plain (lower(name)) WHERE id > 1;

    CREATE TABLE casts (n int);
    CREATE FUNCTION cast_to_text(casts) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''the owner ran''; END';
    CREATE CAST (casts AS text) WITH FUNCTION cast_to_text(casts);

    INSERT INTO casts VALUES (1);
    INSERT INTO people SELECT n, 'Ada' FROM generate_series(1, 7) n;
    INSERT INTO planted VALUES (1, 'a'), (2, 'b');
    INSERT INTO partial VALUES ('a'), (NULL), ('');
    INSERT INTO measured SELECT n FROM generate_series(1, 4) n;
    INSERT INTO domains VALUES ('a'), ('b'), ('c'), ('d'), ('e');
    INSERT INTO operators SELECT generate_series(1, 6);
    INSERT INTO bare SELECT FROM generate_series(1, 3);
    INSERT INTO plain VALUES (1, 'a');

    ALTER FUNCTION key_of RESET search_path;
    CREATE OR REPLACE FUNCTION fixed(text) RETURNS text LANGUAGE plpgsql IMMUTABLE
        AS 'BEGIN RAISE EXCEPTION ''the owner ran''; END';
    CREATE OR REPLACE FUNCTION same(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE
        AS 'BEGIN RAISE EXCEPTION ''the owner ran''; END';
"""
ROWS = {
    "bare": 3,
    "casts": 1,
    "domains": 5,
    "measured": 4,
    "operators": 6,
    "partial": 3,
    "people": 7,
    "plain": 1,
    "planted": 2,
}


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("content_hash", [False, True], ids=["counted", "hashed"])
def test_what_pg_dump_can_copy_can_be_counted_and_nothing_of_the_owner_runs(
    clusters: Clusters, installed: tuple[Programs, ...], major: int, content_hash: bool
) -> None:
    server = clusters.get(major).server
    name = made(server, PECULIAR)
    with server.visit(name) as connection, pytest.raises(psycopg.errors.RaiseException, match="the owner ran"):
        connection.execute("SELECT count(*) FROM planted")

    remarks = check_database(server, name, installed).remarks
    dump = dump_database(server, name, Kept(), installed=installed, content_hash=content_hash)

    assert {table.name: table.rows for table in dump.evidence.tables} == ROWS
    (remark,) = remarks
    assert remark.startswith("The index public.people_key uses public.key_of, which names norm without a schema")
    assert dump.evidence.remarks == remarks
    assert Evidence.from_json(dump.evidence.to_json()) == dump.evidence


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
def test_a_digest_without_a_plan_is_the_one_that_the_server_gives(postgres: PostgresServer, encoding: str) -> None:
    name = new_name("digests")
    with postgres.visit("postgres") as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
    with postgres.visit(name) as connection:
        connection.execute(
            r"""
            SET search_path = public;
            CREATE TYPE record_of AS (t text, n int);
            CREATE TABLE odd (n int, "a name" text, gone int, b bytea, r record_of, m numeric, l text[]);
            ALTER TABLE odd DROP COLUMN gone;
            INSERT INTO odd (n, "a name") VALUES (NULL, NULL), (1, ''), (2, ' '), (3, '\N'),
                (4, E'tab\tline\nreturn\rfeed\fback\b\v'),
                (5, 'quoted "so" (or, so) \ and \\'), (7, '.'), (7, '.'), (8, E'\x01\x7f');
            INSERT INTO odd VALUES (6, 'Kündigung £', '\x00ff', ROW('a', 1), 1.50, '{a,NULL,"b c"}');
            CREATE TABLE single (t text); INSERT INTO single VALUES (''), (NULL), ('x');
            CREATE TABLE bare (); INSERT INTO bare SELECT FROM generate_series(1, 3);
            CREATE TABLE empty_one (n int);
            """.encode()
        )
        tables = tables_to_read(connection)

        planned = count_tables(connection, tables, content_hash=True, unplanned=frozenset())
        copied = count_tables(connection, tables, content_hash=True, unplanned=frozenset(t.oid for t in tables))

    assert copied == planned
    assert {table.name: table.rows for table in copied} == {"bare": 3, "empty_one": 0, "odd": 10, "single": 3}


def test_a_virtual_column_is_not_made_for_a_digest(clusters: Clusters, installed: tuple[Programs, ...]) -> None:
    server = clusters.get(18).server
    name = made(
        server, "CREATE TABLE virtual (n int, m int GENERATED ALWAYS AS (1 / n)); INSERT INTO virtual VALUES (0)"
    )

    evidence = dump_database(server, name, Kept(), installed=installed, content_hash=True).evidence

    assert [(table.rows, table.content) for table in evidence.tables] == [(1, None)]


def test_only_functions_that_lose_their_way_without_a_search_path_are_remarked(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    name = made(
        postgres,
        """
        CREATE TABLE limits (n int);
        CREATE FUNCTION norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
        CREATE FUNCTION within(int) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN RETURN coalesce($1 < (SELECT max(n) FROM limits), true); END';
        CREATE FUNCTION totals() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM limits';
        CREATE FUNCTION qualified(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT public.norm($1 || ''norm(1)'')';
        CREATE FUNCTION pathed(text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = public AS 'SELECT norm($1)';
        CREATE FUNCTION parsed(text) RETURNS text LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT norm($1); END;
        CREATE TABLE orders (n int CHECK (within(n)), t text);
        CREATE INDEX ON orders (qualified(t), pathed(t), parsed(t), lower(t));
        CREATE MATERIALIZED VIEW empty_sums AS SELECT totals() AS t WITH NO DATA;
        """,
    )

    remarks = check_database(postgres, name, installed).remarks

    assert [remark.partition(" without")[0] for remark in remarks] == [
        "The check orders_n_check of public.orders uses public.within, which names limits"
    ]


def test_rows_that_a_dump_leaves_out_with_an_extension_are_named_before_in_and_after_it(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    name, kept = made(postgres, LICENCES), Kept()

    remarks = check_database(postgres, name, installed).remarks
    dump = dump_database(postgres, name, kept, installed=installed)
    restored = restore(kept, dump, postgres, new_name("licences"), installed)

    assert dump.evidence.remarks == remarks
    assert [remark.partition(" belongs")[0] for remark in remarks] == [
        "The sequence public.numbers",
        "The table public.licences",
    ]
    assert "pg_dump leaves out 500 rows" in remarks[1]
    assert [note.partition(",")[0] for note in restored.notes if "no dump holds that" in note] == [
        "The sequence public.numbers of the extension hstore held its place",
        "The table public.licences of the extension hstore held 500 rows",
    ]


LICENCES = """
    CREATE EXTENSION hstore;
    CREATE TABLE licences (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, holder text);
    INSERT INTO licences (holder) SELECT 'somebody' FROM generate_series(1, 500);
    CREATE SEQUENCE numbers; SELECT nextval('numbers');
    CREATE TABLE empty_one ();
    ALTER EXTENSION hstore ADD TABLE licences;
    ALTER EXTENSION hstore ADD SEQUENCE numbers;
    ALTER EXTENSION hstore ADD TABLE empty_one;
"""


@pytest.mark.parametrize(("condition", "rows"), [("", 500), ("WHERE id > 100", 400)], ids=["all", "some"])
def test_rows_of_an_extension_s_configuration_are_counted_as_they_are_dumped(
    postgres: PostgresServer, installed: tuple[Programs, ...], condition: str, rows: int
) -> None:
    name, kept = made(postgres, LICENCES), Kept()
    with postgres.visit(name) as connection:  # as pg_extension_config_dump does it, within an extension's script
        connection.execute(
            "UPDATE pg_extension SET extconfig = ARRAY['licences'::regclass::oid], extcondition = ARRAY[%s]"
            " WHERE extname = 'hstore'",
            [condition],
        )

    evidence = dump_database(postgres, name, kept, installed=installed).evidence

    (licences,) = [content for content in evidence.extension_contents if content.kind == "table"]
    assert (licences.held, licences.dumped) == (rows, True)
    assert kept.artifacts["dump"].count(b"\tsomebody\n") == rows
    assert not any("licences" in remark for remark in evidence.remarks)
    others = tuple(replace(content, held=1) for content in evidence.extension_contents)
    assert differences(evidence, evidence) == ()
    assert differences(evidence, replace(evidence, extension_contents=others)) == (
        f"The table public.licences of the extension hstore has 1 rows of its configuration, and had {rows}.",
    )
    assert differences(replace(evidence, extension_contents=()), evidence) == ()


# ---- locks ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow() -> Iterator[PostgresServer]:
    """A server with room for some 470 locks, a database of 100 tables with four indexes each, and one of 1,300."""
    settings = {"max_locks_per_transaction": "10", "max_connections": "30", "max_wal_senders": "0"}
    with TemporaryCluster(PROGRAMS[17], settings=settings | {"max_worker_processes": "2"}) as cluster:
        made(cluster.server, _tables(100, "(a int PRIMARY KEY, b int UNIQUE, c int UNIQUE, d int UNIQUE)"), "wide")
        made(cluster.server, _tables(1300, "()"), "wider")
        yield cluster.server


def test_counting_needs_no_more_locks_than_pg_dump(narrow: PostgresServer, installed: tuple[Programs, ...]) -> None:
    remarks = check_database(narrow, "wide", installed).remarks

    dump = dump_database(narrow, "wide", Kept(), installed=installed)

    assert len(dump.evidence.tables) == 100
    assert remarks == ()


def test_a_table_of_locks_that_is_too_small_for_any_dump_is_refused_by_its_setting(
    narrow: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    with pytest.raises(SourceRefused, match="max_locks_per_transaction = 10") as refused:
        check_database(narrow, "wider", installed)

    assert not refused.value.transient
    assert "Set max_locks_per_transaction to" in refused.value.hint
    with pytest.raises(SourceError, match="out of shared memory") as failed:
        dump_database(narrow, "wider", Kept(), installed=installed)
    assert not failed.value.transient


def _tables(number: int, columns: str) -> str:
    return f"""
        DO $$ BEGIN FOR n IN 1..{number} LOOP
            EXECUTE format('CREATE TABLE t%s {columns}', n);
            IF n % 20 = 0 THEN COMMIT; END IF;
        END LOOP; END $$
    """


# ---- rows that are too long -----------------------------------------------------------------------------------------


def test_a_row_that_cannot_be_written_out_is_named_before_a_dump_and_by_a_dump(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    name = made(
        postgres,
        """
        CREATE TABLE scans (id int, page bytea, note text);
        ALTER TABLE scans ALTER page SET COMPRESSION lz4;
        INSERT INTO scans VALUES (1, 'small', repeat('words ', 999));
        INSERT INTO scans VALUES (2, convert_to(repeat('x', 540000000), 'UTF8'), 'long');
        """,
    )

    with pytest.raises(SourceRefused, match=r"public\.scans \(1\.0 GiB\)") as refused:
        check_database(postgres, name, installed)
    with pytest.raises(SourceError, match="scans") as failed:
        dump_database(postgres, name, Kept(), installed=installed)

    assert not refused.value.transient
    assert not failed.value.transient
    assert "A byte of a bytea takes two in a dump" in refused.value.hint
    assert "more than 1 GiB" in failed.value.hint
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def made(server: PostgresServer, script: str, name: str | None = None) -> str:
    """A new database in which a script has run."""
    name = name or new_name("counted")
    with server.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with server.visit(name) as connection:
        connection.execute("SET check_function_bodies = off; SET search_path = public")
        connection.execute(script.encode())
    return name
