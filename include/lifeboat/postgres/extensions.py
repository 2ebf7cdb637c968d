"""What belongs to extensions and holds something: `pg_dump` takes along the rows of their configuration, nothing else.

PostgreSQL manual, Extension Configuration Tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from lifeboat.postgres.connection import Connection, identifier
from lifeboat.postgres.counting import count_by_copying


@dataclass(frozen=True)
class ExtensionContent:
    """A table or sequence that belongs to an extension: its rows, or where it stands.

    `dumped` is whether it is part of the extension's configuration; then only rows that meet its condition count.
    """

    extension: str
    kind: str
    schema: str
    name: str
    held: int | None
    dumped: bool

    @property
    def label(self) -> str:
        """Kind, schema and name."""
        return f"{self.kind} {self.schema}.{self.name}"

    @property
    def shown(self) -> str:
        """What it holds, in words."""
        return f"{self.held or 0} rows" if self.kind == "table" else f"its place, {self.held}"


def read_extension_contents(connection: Connection) -> tuple[ExtensionContent, ...]:
    """All that belongs to extensions and holds something, or is configuration; counted without a plan unless
    `pg_dump` itself needs one, for a condition."""
    connection.execute("SET search_path = pg_catalog, pg_temp")
    found = []
    for extension, kind, schema, name, condition, size, oid in connection.execute(_MEMBERS).fetchall():
        held: int | None
        if kind == "sequence":
            held = _one(connection, sql.SQL("SELECT pg_catalog.pg_sequence_last_value({})").format(sql.Literal(oid)))
        elif not size:
            held = 0
        elif condition:  # as it is in pg_dump's own query
            counting = sql.SQL("SELECT pg_catalog.count(*) FROM ONLY {} {}")
            held = _one(connection, counting.format(identifier(schema, name), sql.SQL(condition)))
        else:
            held = count_by_copying(connection, schema, name)
        if held or condition is not None:
            found.append(ExtensionContent(extension, kind, schema, name, held, condition is not None))
    return tuple(found)


def left_out(contents: Sequence[ExtensionContent]) -> tuple[str, ...]:
    """What no dump holds, one remark each."""
    return tuple(
        f"The {c.label} belongs to the extension {c.extension} and is not part of its configuration: pg_dump leaves "
        f"out {c.shown}. ALTER EXTENSION … DROP {c.kind.upper()} … makes it the database's own."
        for c in contents
        if not c.dumped
    )


def lost_contents(source: Sequence[ExtensionContent], restored: Sequence[ExtensionContent]) -> tuple[str, ...]:
    """Of what the dump did not hold, that which did not come back with its extension, one note each."""
    there = _by_name(restored)
    return tuple(
        f"The {c.label} of the extension {c.extension} held {c.shown}, and no dump holds that: "
        + (
            f"now it holds {now.shown}."
            if (now := there.get((c.kind, c.schema, c.name)))
            else "now it is empty or gone."
        )
        for c in source
        if not c.dumped and getattr(there.get((c.kind, c.schema, c.name)), "held", None) != c.held
    )


def content_differences(source: Sequence[ExtensionContent], restored: Sequence[ExtensionContent]) -> Iterator[str]:
    """What of the extensions' configuration did not come back, one sentence each."""
    there = _by_name(restored)
    for content in source:
        if content.dumped and content.kind == "table":
            now = there.get((content.kind, content.schema, content.name))
            if now is None and content.held:
                yield f"The {content.label} of the extension {content.extension} is empty or missing."
            elif now is not None and now.held != content.held:
                yield f"The {content.label} of the extension {content.extension} has {now.held} rows of its " + (
                    f"configuration, and had {content.held}."
                )


def _by_name(contents: Sequence[ExtensionContent]) -> Mapping[tuple[str, str, str], ExtensionContent]:
    return {(content.kind, content.schema, content.name): content for content in contents}


def _one(connection: Connection, query: sql.Composed) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


# Nobody but the server's superusers need be able to read what is no configuration. Of an unlogged one, a standby holds
# nothing.
_MEMBERS = b"""
    SELECT e.extname, CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, n.nspname, c.relname,
           configuration.condition, CASE c.relkind WHEN 'r' THEN pg_catalog.pg_relation_size(c.oid) END,
           c.oid::pg_catalog.int8
      FROM pg_catalog.pg_extension e
      JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
       AND d.refobjid = e.oid AND d.deptype = 'e' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
      JOIN pg_catalog.pg_class c ON c.oid = d.objid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN LATERAL (
          SELECT e.extcondition[i] AS condition
            FROM pg_catalog.generate_subscripts(e.extconfig, 1) i WHERE e.extconfig[i] = c.oid) configuration ON true
     WHERE c.relkind IN ('r', 'S') AND NOT (c.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery())
       AND CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
                          ELSE pg_catalog.has_table_privilege(c.oid, 'SELECT') END
       AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
     ORDER BY 1, 2, 3, 4
"""
