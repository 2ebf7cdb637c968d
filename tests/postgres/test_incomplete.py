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

VIEW_WITHOUT_SCHEMA = """
    CREATE TABLE sales (id int);
    INSERT INTO sales SELECT generate_series(1, 10);
    CREATE FUNCTION sold() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT count(*) FROM sales); END';
    ALTER FUNCTION sold() SET search_path = public;
    CREATE MATERIALIZED VIEW totals AS SELECT sold() AS sold;
    CREATE MATERIALIZED VIEW doubled AS SELECT sold * 2 AS sold FROM totals;
    ALTER FUNCTION sold() RESET search_path;
"""

# pg_dump has the rows of all partitions come by way of their table, as the hash of an enumeration's value differs.
PARTITIONS_BY_HASH = """
    CREATE TYPE mood AS ENUM ({moods});
    CREATE TABLE z_limits (most int);
    INSERT INTO z_limits VALUES (100);
    CREATE FUNCTION allowed(int) RETURNS bool LANGUAGE plpgsql
        AS 'BEGIN RETURN $1 <= coalesce((SELECT most FROM {schema}z_limits), 0); END';
    CREATE TABLE orders (id int CHECK (allowed(id)), feels mood) PARTITION BY HASH (feels);
    CREATE TABLE orders_0 PARTITION OF orders FOR VALUES WITH (modulus 2, remainder 0);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES WITH (modulus 2, remainder 1);
    INSERT INTO orders SELECT n, (enum_range(NULL::mood))[1 + n % 20] FROM generate_series(1, 50) n;
"""

MOODS = ", ".join(f"'{letter}'" for letter in "abcdefghijklmnopqrst")  # enough for their hashes to mix

ODD_NAMES = """
    CREATE SCHEMA "o;d' ""d";
    SET search_path = "o;d' ""d";
    CREATE TABLE "z'li;mits" (most int);
    INSERT INTO "z'li;mits" VALUES (10);
    CREATE FUNCTION allowed(int) RETURNS bool LANGUAGE plpgsql
        AS 'BEGIN RETURN $1 <= coalesce((SELECT most FROM "z''li;mits"), 0); END';
    CREATE TABLE "a'; --
b" (id int CHECK (allowed(id)), "co;l'" text);
    INSERT INTO "a'; --
b" SELECT n, E'\\\\.\\n;' FROM generate_series(1, 10) n;
"""

DOMAIN_THAT_NO_LONGER_HOLDS = """
    CREATE TABLE z_limits (most int);
    INSERT INTO z_limits VALUES (100);
    CREATE FUNCTION allowed(int) RETURNS bool LANGUAGE plpgsql
        AS 'BEGIN RETURN $1 <= coalesce((SELECT most FROM public.z_limits), 0); END';
    CREATE DOMAIN amount AS int CONSTRAINT within CHECK (allowed(VALUE));
    CREATE DOMAIN smaller AS amount;
    CREATE TYPE order_line AS (amount smaller);
    CREATE TABLE a_orders (amount amount);
    CREATE TABLE b_orders (lines order_line[]);
    INSERT INTO a_orders SELECT generate_series(1, 50);
    INSERT INTO b_orders SELECT ARRAY[ROW(n::smaller)::order_line] FROM generate_series(1, 50) n;
    UPDATE z_limits SET most = 10;
"""

LARGE_OBJECTS_OF_A_ROLE = """
    CREATE ROLE {role};
    SELECT lo_from_bytea(4711, 'granted'), lo_from_bytea(4712, 'owned');
    GRANT SELECT ON LARGE OBJECT 4711 TO {role};
    ALTER LARGE OBJECT 4712 OWNER TO {role};
"""


def restored(
    server: PostgresServer,
    script: str,
    installed: tuple[Programs, ...],
    *,
    all_or_nothing: bool = False,
    jobs: int = 2,
    lost_role: str | None = None,
) -> RestoreReport:
    """A database made by a script, dumped with every table in a stream of its own, and restored beside it; or after it
    was lost, with a role that nobody makes again."""
    source = new_name("incomplete")
    psql(server, "postgres", "-c", f'CREATE DATABASE "{source}"')
    psql_script(server, source, script)
    kept = Kept()
    dump = dump_database(server, source, kept, installed=installed, stream_size=1)
    if lost_role:
        psql(server, "postgres", "-c", f'DROP DATABASE "{source}"', "-c", f"DROP ROLE {lost_role}")
    how = {"all_or_nothing": all_or_nothing, "jobs": jobs, "with_globals": lost_role is None}
    return restore(kept, dump, server, new_name("incomplete restored"), installed, **how)


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


@pytest.mark.parametrize("major", MAJORS)
def test_rows_whose_generated_column_cannot_be_computed_are_kept_without_it(
    clusters: Clusters, installed: tuple[Programs, ...], major: int
) -> None:
    server = clusters.get(major).server

    report = restored(server, GENERATED_OF_WHAT_IS_GONE, installed)

    [column] = report.not_rebuilt
    assert (column.kind, column.name) == ("GENERATED COLUMN", "public.patients share")
    assert "division by zero" in column.answer
    assert rows(server, report.database, "patients WHERE share IS NULL") == 10
    with server.connect(report.database) as connection:  # once the cause is mended, its SQL makes it again
        connection.execute("INSERT INTO public.wards VALUES (1), (2)")
        connection.execute(column.statement.encode())
    assert rows(server, report.database, "patients WHERE share = id / 2") == 10


GENERATED_OF_WHAT_IS_GONE = """
    CREATE TABLE wards (id int);
    INSERT INTO wards VALUES (1);
    CREATE FUNCTION share_of(int) RETURNS int LANGUAGE plpgsql IMMUTABLE
        AS 'BEGIN RETURN $1 / (SELECT count(*) FROM public.wards); END';
    CREATE TABLE patients (
        id int PRIMARY KEY CHECK (id > 0), share int GENERATED ALWAYS AS (share_of(id)) STORED NOT NULL
    );
    INSERT INTO patients (id) SELECT n FROM generate_series(1, 10) n;
    CREATE INDEX ON patients (share);
    DELETE FROM wards;
"""


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


@pytest.mark.parametrize("major", MAJORS)
def test_a_materialized_view_over_a_function_without_a_schema_is_filled_or_listed_with_what_builds_on_it(
    clusters: Clusters, installed: tuple[Programs, ...], major: int
) -> None:
    server = clusters.get(major).server

    report = restored(server, VIEW_WITHOUT_SCHEMA, installed)

    assert rows(server, report.database, "sales") == 10
    if major < 17:
        assert report.not_rebuilt == ()
        assert rows(server, report.database, "doubled") == 1
    else:  # from version 17 on, nobody fills it with another path
        assert [one.name for one in report.not_rebuilt] == ["public.totals", "public.doubled"]
        assert 'relation "sales" does not exist' in report.not_rebuilt[0].answer
        assert report.not_rebuilt[0].statement == "REFRESH MATERIALIZED VIEW public.totals;"


@pytest.mark.parametrize(
    ("schema", "more", "missing"),
    [("", "", []), ("public.", "UPDATE z_limits SET most = 10;", ["public.orders orders_id_check"])],
    ids=["with the source's path", "without a check"],
)
def test_rows_of_a_partition_that_come_into_another_one_do_not_pass_for_its_own(
    postgres: PostgresServer, installed: tuple[Programs, ...], schema: str, more: str, missing: list[str]
) -> None:
    report = restored(postgres, PARTITIONS_BY_HASH.format(schema=schema, moods=MOODS) + more, installed, jobs=1)

    assert [one.name for one in report.not_rebuilt] == missing
    assert rows(postgres, report.database, "orders") == 50


def test_rows_are_tried_again_whatever_their_table_is_called(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    report = restored(postgres, ODD_NAMES, installed)

    assert report.not_rebuilt == ()
    assert sorted(table.rows for table in report.evidence.tables) == [1, 10]


def test_rows_that_do_not_meet_the_check_of_a_domain_are_let_in_and_it_is_kept_for_new_ones(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    report = restored(postgres, DOMAIN_THAT_NO_LONGER_HOLDS, installed)

    [check] = report.not_rebuilt
    assert (check.kind, check.name) == ("DOMAIN CONSTRAINT", "public.amount within")
    assert rows(postgres, report.database, "a_orders") == rows(postgres, report.database, "b_orders") == 50
    with postgres.visit(report.database) as connection, pytest.raises(Exception, match="within"):
        connection.execute("INSERT INTO public.a_orders VALUES (11)")


@pytest.mark.parametrize("major", MAJORS)
def test_a_large_object_whose_role_is_gone_is_there_and_what_it_lacks_is_listed(
    clusters: Clusters, installed: tuple[Programs, ...], major: int
) -> None:
    server, role = clusters.get(major).server, new_name("gone")

    report = restored(server, LARGE_OBJECTS_OF_A_ROLE.format(role=role), installed, lost_role=role)

    assert {(one.kind, one.statement) for one in report.not_rebuilt} == {
        ("ACL", f"GRANT SELECT ON LARGE OBJECT 4711 TO {role};"),
        ("OWNER", f"ALTER LARGE OBJECT 4712 OWNER TO {role};"),
    }
    assert all(f'role "{role}" does not exist' in one.answer for one in report.not_rebuilt)
    with server.visit(report.database) as connection:
        assert connection.execute("SELECT lo_get(4711), lo_get(4712)").fetchone() == (b"granted", b"owned")
