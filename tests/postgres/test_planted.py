"""What an application's owner plants in its database is never run with the rights of whoever backs it up."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psycopg import sql

import lifeboat
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.dump import check_database, dump_database
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.side_schema import check_schema_free, copy_into_schema
from lifeboat.postgres.swap import check_target, kept_databases, release, swap, undo, visitors
from lifeboat.postgres.tables import replace_rows
from tests.fixtures_postgres import MAJORS, Clusters, new_name
from tests.postgres.artifacts import Kept, restore

pytestmark = pytest.mark.slow

SOURCES = Path(lifeboat.__file__).parent


def names_used() -> list[str]:
    """All words of the code that could be names of functions or catalogues in its SQL."""
    code = "".join(file.read_text() for file in sorted(SOURCES.rglob("*.py")) if "execute(" in file.read_text())
    return sorted(set(re.findall(r"[a-z_]{2,}", code)))


# Whatever is run says so in the server's log, which no rollback and no read-only transaction takes back.
PLANT = """
CREATE FUNCTION public.plant(name text, arguments text, returns text) RETURNS void LANGUAGE plpgsql AS $plant$
BEGIN
    EXECUTE pg_catalog.format(
        'CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS '
        '$b$ BEGIN RAISE LOG ''planted in %%: %%'', current_database(), %L; RETURN NULL; END $b$',
        name, arguments, returns, name);
EXCEPTION WHEN others THEN NULL;  -- such a signature cannot be made, or is there
END $plant$;
"""

# As PostgreSQL's own are, for whom `public` comes first; and nearer to what is asked than those, for whom it does not.
FUNCTIONS = """
SELECT public.plant(p.proname, oidvectortypes(p.proargtypes), pg_catalog.format_type(p.prorettype, NULL))
  FROM pg_catalog.pg_proc p
 WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY ({names}) AND p.prokind IN ('f', 'a');
SELECT public.plant('format', pg_catalog.concat_ws(', ', 'text', one, two, three), 'text')
  FROM unnest(ARRAY['name', 'text']) one, unnest(ARRAY['name', 'text', NULL]) two,
       unnest(ARRAY['name', 'text', NULL]) three
 WHERE two IS NOT NULL OR three IS NULL;
SELECT public.plant(name, pg_catalog.concat_ws(', ', one, two), 'boolean')
  FROM unnest(ARRAY['has_schema_privilege', 'has_table_privilege', 'has_sequence_privilege', 'pg_has_role']) name,
       unnest(ARRAY['oid', 'name']) one, unnest(ARRAY['text', 'name', NULL]) two;
"""

OPERATORS = """
DO $do$
DECLARE o text; a text; b text;
BEGIN
    FOREACH a IN ARRAY ARRAY['name', 'text', 'oid', 'bigint', 'integer', '"char"', 'boolean', 'text[]', 'jsonb'] LOOP
        FOREACH b IN ARRAY ARRAY['name', 'text', 'oid', 'bigint', 'integer', '"char"', 'boolean', 'text[]'] LOOP
            PERFORM public.plant('an operator', a || ', ' || b, 'boolean');
            FOREACH o IN ARRAY ARRAY['=', '<>', '<', '>', '!~', '~', '~~', '!~~', '||', '&&', '->>'] LOOP
                EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.%I)',
                               o, a, b, 'an operator');
            END LOOP;
        END LOOP;
    END LOOP;
END $do$;
"""

TABLES = """
DO $do$
DECLARE t text;
BEGIN
    FOR t IN SELECT relname FROM pg_catalog.pg_class
              WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
                AND relname = ANY ({names}) LOOP
        EXECUTE format('CREATE TABLE public.%I ()', t);
    END LOOP;
END $do$;
"""

ROWS = """
CREATE SCHEMA sales;
CREATE TYPE sales.kind AS ENUM ('one', 'two');
CREATE TABLE sales.customers (id int PRIMARY KEY, name text, kind sales.kind);
CREATE TABLE sales.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int REFERENCES sales.customers);
INSERT INTO sales.customers SELECT n, 'name ' || n, 'one' FROM generate_series(1, 50) n;
INSERT INTO sales.orders (customer) SELECT 1 + n % 50 FROM generate_series(1, 100) n;
CREATE VIEW sales.list AS SELECT name, count(*) FROM sales.customers JOIN sales.orders o ON customer = customers.id
    GROUP BY 1;
SELECT lo_create(0);
"""


@pytest.fixture(scope="module", params=MAJORS)
def planted(request: pytest.FixtureRequest, clusters: Clusters) -> tuple[TemporaryCluster, str]:
    """A database that its owner has prepared for the next superuser who comes along."""
    cluster, name, names = clusters.get(request.param), new_name("planted"), sql.Literal(names_used())
    with cluster.server.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with cluster.server.visit(name) as connection:
        connection.execute("SET search_path = pg_catalog")  # what is planted first would be run by what comes next
        connection.execute(ROWS.encode())
        connection.execute(PLANT.encode())
        for statement in (FUNCTIONS, TABLES):
            connection.execute(sql.SQL(statement).format(names=names))  # type: ignore[arg-type]
        connection.execute(OPERATORS.encode())
        for whose in ("DATABASE {}", "ROLE postgres IN DATABASE {}"):
            path = sql.SQL(f"ALTER {whose} SET search_path = public, pg_catalog")  # type: ignore[arg-type]
            connection.execute(path.format(sql.Identifier(name)))
    return cluster, name


def run_in(cluster: TemporaryCluster, name: str) -> list[str]:
    """What was run of it in databases whose name begins like this."""
    return sorted(set(re.findall(rf"planted in {name}\w*: .*", cluster.log.read_text(errors="replace"))))


def test_what_is_planted_is_there_for_whoever_has_the_application_s_settings(
    planted: tuple[TemporaryCluster, str],
) -> None:
    cluster, name = planted
    naive = new_name("naive")
    with cluster.server.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(sql.Identifier, (naive, name))))
        path = "SET search_path = public, pg_catalog"
        admin.execute(sql.SQL(f"ALTER DATABASE {{}} {path}").format(sql.Identifier(naive)))

    with cluster.server.visit(naive) as connection:
        connection.execute("SELECT format('%I', nspname, nspname), nspname <> 'x'::text FROM pg_catalog.pg_namespace")

    assert {line.rpartition(": ")[2] for line in run_in(cluster, naive)} >= {"format", "an operator"}


def test_nothing_that_is_planted_is_run_before_in_and_after_a_backup_and_a_restore(
    planted: tuple[TemporaryCluster, str], installed: tuple[Programs, ...]
) -> None:
    cluster, name = planted
    server, kept, now = cluster.server, Kept(), datetime.now(UTC)

    check_database(server, name, installed)
    dump = dump_database(server, name, kept, installed=installed, content_hash=True, stream_size=1)
    check_target(server, name, dump.evidence)
    check_schema_free(server, name, "then")
    beside, side = f"{name}_two", f"{name}_three"
    restore(kept, dump, server, beside, installed)
    restore(kept, dump, server, side, installed)
    customers = ("sales", "customers")
    replace_rows(server, name, side, [customers, ("sales", "orders")], replace_live_rows=True)
    copy_into_schema(server, name, side, "then", installed=installed)
    swapped = swap(server, name, beside, now=now)
    back = undo(server, name, swapped.kept, now=now + timedelta(seconds=1))
    assert visitors(server, name) == ()
    assert [database.name for database in kept_databases(server, name)] == [back.kept]
    release(server, name, back.kept, drop_it=back.kept)

    assert run_in(cluster, name) == []


def test_nobody_else_makes_connections_and_only_the_application_s_own_queries_have_its_settings() -> None:
    connecting = {file.name for file in SOURCES.rglob("*.py") if "psycopg.connect(" in file.read_text()}
    visiting = {file.name for file in SOURCES.rglob("*.py") if ".visit(" in file.read_text()}

    assert connecting == {"connection.py"}
    assert visiting == {"smoke.py", "orphans.py"}
