"""Counting rows without running anything that a database's owner has written.

Whatever is planned has the planner look at the table's indexes, and simplify their expressions: functions in SQL are
put in place, and immutable ones with constants are called, with our rights and without the owner's search path.
`pg_dump` copies tables without a plan, and dumps what a plan fails on.
"""

from __future__ import annotations

import hashlib
import re

from psycopg import sql

from lifeboat.postgres.connection import Connection, identifier


def tables_not_to_plan(connection: Connection, *, whole_rows: bool = False) -> frozenset[int]:
    """Tables with an index or statistics over functions, operators or domains that the planner might run or read.

    What is built in, or written in C, which only a superuser can have done, is left to the planner: most tables are.
    To read `whole_rows` would also run what virtual generated columns are made of.
    """
    tables = {oid for (oid,) in connection.execute(_NOT_TO_PLAN)}
    if whole_rows:
        tables |= {oid for (oid,) in connection.execute(_VIRTUAL)}
    return frozenset(tables)


def count_by_copying(connection: Connection, schema: str, table: str) -> int:
    """Exact rows of a table by copying its least column, as `pg_dump` copies them all: nothing is planned."""
    name = identifier(schema, table)
    column = connection.execute(_LEAST_COLUMN, [schema, table]).fetchone()
    listed = sql.SQL(" ({})").format(identifier(column[0])) if column else sql.SQL("")
    with connection.cursor() as cursor:
        with cursor.copy(sql.SQL("COPY {}{} TO STDOUT").format(name, listed)) as rows:
            for _ in rows:
                pass
        return cursor.rowcount


def digest_by_copying(connection: Connection, schema: str, table: str) -> tuple[int, str | None]:
    """Exact rows of a table and the digest of their content that the server itself would give, without a plan.

    There is no digest where columns are generated: they are not copied.
    """
    name = identifier(schema, table)
    row = connection.execute(_COLUMNS, [schema, table]).fetchone()
    columns, generated, encoding = row or (0, False, "UTF8")
    if generated:
        return count_by_copying(connection, schema, table), None
    total, rest = 0, b""
    with connection.cursor() as cursor:
        copying = sql.SQL("COPY {} TO STDOUT (ENCODING {})").format(name, sql.Literal(encoding))
        with cursor.copy(copying) as chunks:
            for chunk in chunks:
                *lines, rest = (rest + bytes(chunk)).split(b"\n")
                for line in lines:
                    digest = hashlib.md5(_as_record(line, columns), usedforsecurity=False).digest()
                    total += int.from_bytes(digest[:8], "big", signed=True)
        return cursor.rowcount, str(total)


def _as_record(line: bytes, columns: int) -> bytes:
    """A line of COPY as the text of a row value (PostgreSQL manual, COPY and Composite Types)."""
    return b"(" + b",".join(map(_as_field, line.split(b"\t") if columns else ())) + b")"


def _as_field(copied: bytes) -> bytes:
    if copied == b"\\N":
        return b""
    value = _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), copied) if b"\\" in copied else copied
    if value and not _QUOTED.search(value):
        return value
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'""') + b'"'


_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_QUOTED = re.compile(rb'["\\(),\t\n\v\f\r ]')

# Dependencies on what is built in are not recorded (PostgreSQL manual, pg_depend). A domain's constraints are planned
# with the expressions it is in.
_NOT_TO_PLAN = b"""
    WITH shape AS (
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS classid, indexrelid AS objid, indrelid AS relid
          FROM pg_catalog.pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
        UNION ALL
        SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, oid, stxrelid FROM pg_catalog.pg_statistic_ext),
    used AS (
        SELECT s.relid, d.refclassid, d.refobjid
          FROM shape s JOIN pg_catalog.pg_depend d ON d.classid = s.classid AND d.objid = s.objid)
    SELECT DISTINCT u.relid::pg_catalog.int8 FROM used u
      LEFT JOIN pg_catalog.pg_operator o
        ON u.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = u.refobjid
      LEFT JOIN pg_catalog.pg_proc p
        ON p.oid = CASE u.refclassid WHEN 'pg_catalog.pg_proc'::pg_catalog.regclass THEN u.refobjid
                                     ELSE o.oprcode END
      LEFT JOIN pg_catalog.pg_language l ON l.oid = p.prolang
      LEFT JOIN pg_catalog.pg_type t
        ON u.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = u.refobjid
     WHERE l.lanname NOT IN ('internal', 'c') OR t.typtype = 'd'
"""

_VIRTUAL = b"""
    SELECT DISTINCT a.attrelid::pg_catalog.int8 FROM pg_catalog.pg_attribute a WHERE a.attgenerated = 'v'
"""

_COLUMNS = """
    SELECT pg_catalog.count(*), coalesce(pg_catalog.bool_or(a.attgenerated <> ''), false),
           pg_catalog.current_setting('server_encoding')
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""

_LEAST_COLUMN = """
    SELECT a.attname FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
     ORDER BY a.attlen < 0, a.attlen, a.atttypid >= 16384, a.attnum LIMIT 1
"""
