"""Rows that PostgreSQL holds and cannot write out: their text form has more than a gigabyte."""

from __future__ import annotations

import re

from psycopg import sql

from lifeboat.errors import SourceRefused
from lifeboat.postgres.connection import Connection, identifier
from lifeboat.postgres.counting import tables_not_to_plan

LONGEST_ROW = 1024**3 - 1
"""Bytes of a row's text form (PostgreSQL's MaxAllocSize); each byte of a `bytea` takes two."""

LEAST_STORED = LONGEST_ROW // 2 // 256
"""Bytes that such a row takes on disk at the least: compression makes it 256 times smaller at most."""

LOOKED_THROUGH = 64 * 1024**2
"""Tables whose own part, without the long values beside it, is larger are not looked through before a dump."""


def refuse_huge_rows(connection: Connection) -> None:
    """Raise `SourceRefused` naming tables with a row that no dump can hold, where that is cheaply known.

    The size of a long value stands beside its place, and is known without reading it.
    """
    unplanned = tables_not_to_plan(connection)
    found = []
    for oid, schema, name, columns, binary in connection.execute(_CANDIDATES, [LEAST_STORED, LOOKED_THROUGH]):
        if oid in unplanned:
            continue
        sizes = [
            sql.SQL("coalesce(pg_catalog.octet_length({}), 0)::pg_catalog.int8 * {}").format(
                identifier(column), sql.Literal(2 if double else 1)
            )
            for column, double in zip(columns, binary, strict=True)
        ]
        query = sql.SQL("SELECT pg_catalog.max({}) FROM ONLY {}").format(
            sql.SQL(" + ").join(sizes), identifier(schema, name)
        )
        ((longest,),) = connection.execute(query).fetchall()
        if longest is not None and longest >= LONGEST_ROW:
            found.append(f"{schema}.{name} ({longest / 1024**3:.1f} GiB)")
    if found:
        raise SourceRefused(
            f"PostgreSQL writes out no row of more than 1 GiB of text, and no dump can hold these: {', '.join(found)}.",
            hint=HINT,
        )


def tells_of_huge_row(said: str) -> bool:
    """Whether it was such a row that a dump failed by, from what the server said."""
    return re.search(r"Cannot enlarge string buffer|invalid memory alloc request size", said) is not None


HINT = (
    "A byte of a bytea takes two in a dump. Keep so large a value as a large object or a file, or in several rows; "
    "nothing else makes it possible to back the table up."
)

_CANDIDATES = """
    SELECT c.oid::pg_catalog.int8, n.nspname, c.relname, pg_catalog.array_agg(a.attname::pg_catalog.text),
           pg_catalog.array_agg(a.atttypid = 'pg_catalog.bytea'::pg_catalog.regtype)
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
       AND a.attgenerated = '' AND a.atttypid IN ('pg_catalog.bytea'::pg_catalog.regtype,
           'pg_catalog.text'::pg_catalog.regtype, 'pg_catalog.varchar'::pg_catalog.regtype)
     WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
       AND NOT (c.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery())
       AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
       AND pg_catalog.pg_relation_size(t.oid) >= %s AND pg_catalog.pg_relation_size(c.oid) <= %s
     GROUP BY c.oid, n.nspname, c.relname
"""
