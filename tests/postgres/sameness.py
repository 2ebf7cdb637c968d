"""Whether two databases are the same, seen without Lifeboat: by `pg_dump`, and by queries of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from difflib import unified_diff

from psycopg import sql

from lifeboat.postgres.connection import PostgresServer
from tests.fixtures_postgres import PROGRAMS

# What `pg_dump` says of itself, and the key that is new every time.
_OF_THE_RUN = ("-- Dumped from database version ", "-- Dumped by pg_dump version ", "\\restrict ", "\\unrestrict ")

_NAME_OF_NOT_NULL = re.compile(r" CONSTRAINT \w+_not_null\d* NOT NULL")


def definitions(server: PostgresServer, database: str, major: int) -> list[str]:
    """All that `pg_dump --create --schema-only` of this version writes, with the database's name made neutral.

    Owners, grants, comments and the database's own properties are among it.
    """
    command = [
        str(PROGRAMS[major].path("pg_dump")), "--create", "--schema-only",
        f"--dbname={server.database_argument(database)}",
    ]  # fmt: skip
    done = subprocess.run(command, env=server.application_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace(f'"{database}"', database).replace(database, "the database").split("\n")
    return [line for line in lines if not line.startswith(_OF_THE_RUN)]


def roles(server: PostgresServer, major: int) -> list[str]:
    """All roles but the superuser's own, as `pg_dumpall` writes them, with passwords, memberships and settings."""
    command = [str(PROGRAMS[major].path("pg_dumpall")), "--roles-only"]
    done = subprocess.run(command, env=server.application_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    return [line for line in lines if not line.startswith((*_OF_THE_RUN, "ALTER ROLE postgres ", "-- PostgreSQL"))]


def assert_same(one: PostgresServer, original: str, other: PostgresServer, restored: str, *, major: int) -> None:
    """That `pg_dump` of this version, counting, hashing and the catalogue show no difference between two databases."""
    was, now = definitions(one, original, major), definitions(other, restored, major)
    with one.visit("postgres") as connection:
        unnamed = connection.info.server_version < 180000 <= major * 10000
    if unnamed:  # version 18 is the first to give a name to NOT NULL
        was, now = ([_NAME_OF_NOT_NULL.sub(" NOT NULL", line) for line in lines] for lines in (was, now))
    found = list(unified_diff(was, now, "the original", "the restored one", lineterm=""))
    found += _differences(rows(one, original), rows(other, restored))
    found += _differences(state(one, original), state(other, restored))
    assert not found, "\n".join(found)


def _differences(was: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    names = sorted({*was, *now})
    return [f"{name}: {was.get(name)}, now {now.get(name)}" for name in names if was.get(name) != now.get(name)]


def rows(server: PostgresServer, database: str) -> Mapping[str, tuple[int, str]]:
    """Of every table, partition and materialized view, how many rows it has of its own, and a digest of them all."""
    with server.visit(database) as connection:
        connection.execute("SET search_path = ''; SET timezone = 'UTC'; SET extra_float_digits = 3")
        found = {}
        for schema, name in connection.execute(_WITH_ROWS).fetchall():
            row = connection.execute(sql.SQL(_DIGEST).format(sql.Identifier(schema, name))).fetchone()
            assert row is not None
            found[f"{schema}.{name}"] = (row[0], row[1])
    return found


def state(server: PostgresServer, database: str) -> Mapping[str, list[tuple[object, ...]]]:
    """What definitions and rows do not show: where sequences stand, large objects, what is filled and validated."""
    with server.visit(database) as connection:
        connection.execute("SET search_path = ''")
        found = {name: connection.execute(query).fetchall() for name, query in _STATE.items()}
        for schema, name in connection.execute(_SEQUENCES).fetchall():
            query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(schema, name))
            found[f"sequence {schema}.{name}"] = connection.execute(query).fetchall()
    return found


_DIGEST = """
    SELECT count(*), coalesce(md5(string_agg(digest, '' ORDER BY digest)), '')
      FROM (SELECT md5((some_row.*)::text) AS digest FROM ONLY {} AS some_row) AS digests
"""

_MINE = "n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"

_WITH_ROWS = f"""
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated) AND {_MINE} ORDER BY 1, 2
""".encode()

_SEQUENCES = f"""
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'S' AND {_MINE} ORDER BY 1, 2
""".encode()

_STATE = {
    "large objects": b"""
        SELECT m.oid::bigint, pg_get_userbyid(m.lomowner), m.lomacl::text, md5(lo_get(m.oid)),
               obj_description(m.oid, 'pg_largeobject')
          FROM pg_largeobject_metadata m ORDER BY 1""",
    "indexes": f"""
        SELECT i.indexrelid::regclass::text, i.indisvalid, i.indisready, i.indisclustered, i.indisreplident
          FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE {_MINE} ORDER BY 1""".encode(),
    "constraints": f"""
        SELECT c.conrelid::regclass::text, c.contypid::regtype::text, c.conname, c.convalidated, c.condeferrable,
               c.condeferred, c.conislocal, c.coninhcount, c.connoinherit
          FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
         WHERE {_MINE} AND c.contype <> 'n' ORDER BY 1, 2, 3""".encode(),
    "relations": f"""
        SELECT c.oid::regclass::text, c.relkind::text, c.relispopulated, c.relpersistence::text, c.relrowsecurity,
               c.relforcerowsecurity, c.relreplident::text
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_MINE} ORDER BY 1, 2""".encode(),
    "triggers": f"""
        SELECT t.tgrelid::regclass::text, t.tgname, t.tgenabled::text
          FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE {_MINE} AND NOT t.tgisinternal ORDER BY 1, 2""".encode(),
    "extensions": b"SELECT e.extname, e.extversion, e.extnamespace::regnamespace::text FROM pg_extension e ORDER BY 1",
}
