"""Two databases compared by plain SQL, so that the demo's verdict does not rest on Lifeboat's own evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from lifeboat.postgres.connection import PostgresServer


@dataclass(frozen=True)
class Contents:
    """Of every table, rows and a digest of them, partitions as part of their table; of all else, a digest by name."""

    tables: Mapping[str, tuple[int, str]]
    others: Mapping[str, str]


def contents(server: PostgresServer, database: str) -> Contents:
    """What a database holds."""
    with server.visit(database) as connection:
        tables = {}
        for schema, name in connection.execute(_TABLES).fetchall():
            query = sql.SQL("SELECT count(*), md5(sum(hashtextextended((t.*)::text, 0)::numeric)::text) FROM {} t")
            row = connection.execute(query.format(sql.Identifier(schema, name))).fetchone()
            assert row is not None
            tables[name if schema == "public" else f"{schema}.{name}"] = (row[0], str(row[1]))
        others = {name: str(_value(connection.execute(query).fetchone())) for name, query in _OTHERS.items()}
    return Contents(tables, others)


def _value(row: Any) -> Any:
    return row[0] if row else None


_TABLES = b"""
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'
ORDER BY 1, 2
"""

_OURS = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'"

_OTHERS = {
    "sequences": b"SELECT md5(string_agg(schemaname || sequencename || coalesce(last_value, 0), ',' "
    b"ORDER BY schemaname, sequencename)) FROM pg_sequences",
    "large objects": b"SELECT md5(string_agg(loid || ':' || md5(data), ',' ORDER BY loid, pageno)) FROM pg_largeobject",
    "constraints and indexes": f"""
        SELECT md5(string_agg(definition, ';' ORDER BY definition)) FROM (
            SELECT conrelid::regclass || conname || pg_get_constraintdef(c.oid) AS definition
            FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace WHERE {_OURS}
            UNION ALL SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS}) x""".encode(),
    "functions and triggers": f"""
        SELECT md5(string_agg(definition, ';' ORDER BY definition)) FROM (
            SELECT pg_get_functiondef(p.oid) AS definition FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE {_OURS} AND p.prokind IN ('f', 'p')
              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
            UNION ALL SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE NOT tgisinternal) x""".encode(),
    "views": f"""
        SELECT md5(string_agg(c.relname || pg_get_viewdef(c.oid), ';' ORDER BY c.relname)) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS} AND c.relkind IN ('v', 'm')""".encode(),
    "owners and grants": f"""
        SELECT md5(string_agg(c.relname || pg_get_userbyid(c.relowner) || coalesce(c.relacl::text, ''), ';'
            ORDER BY n.nspname, c.relname)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS}""".encode(),
}
