"""Evidence: what a database held in the very snapshot that was dumped, and whether a restore holds the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg import sql

from lifeboat.errors import SettingsError, UnknownFormat
from lifeboat.postgres.connection import Connection, identifier
from lifeboat.postgres.counting import count_by_copying, digest_by_copying, tables_not_to_plan
from lifeboat.postgres.extensions import ExtensionContent, content_differences, read_extension_contents

FORMAT = 1


@dataclass(frozen=True)
class TableEvidence:
    """A table's rows, its own and not its partitions', and where it was asked for a digest of their content.

    `artifact` is the one that holds them. `moves_in` is the partitioned table, by schema and name, of which a restore
    may put a row into any partition; see docs/adr/0024.
    """

    schema: str
    name: str
    rows: int
    content: str | None = None
    artifact: str = field(default="dump", compare=False)
    moves_in: tuple[str, str] | None = field(default=None, compare=False)

    @property
    def label(self) -> str:
        """Schema and name, as people write them."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class SequenceEvidence:
    """Where a sequence stood before the dump began; None when it had not been used."""

    schema: str
    name: str
    increment: int
    last_value: int | None


@dataclass(frozen=True)
class DatabaseProperties:
    """What `CREATE DATABASE` and `ALTER DATABASE` said of a database, which no dump of its content holds."""

    name: str
    owner: str
    encoding: str
    collate: str
    ctype: str
    locale_provider: str
    locale: str | None
    comment: str | None
    settings: tuple[tuple[str | None, str], ...]
    grants: tuple[tuple[str | None, str, bool], ...]
    connection_limit: int = -1


@dataclass(frozen=True)
class Evidence:
    """All of it. `objects` counts what there is by kind (views, functions, indexes, constraints, triggers, …).

    `system_identifier` is the server's own, which none other has; None where it may not be read, or was not yet.
    `extension_contents` belongs to extensions; `unlogged` are tables without rows in the dump, as a standby holds none;
    `remarks` are for people: what the dump leaves out, and what a restore may not be able to build.
    """

    server_version: str
    server_major: int
    size: int
    database: DatabaseProperties
    tables: tuple[TableEvidence, ...]
    sequences: tuple[SequenceEvidence, ...]
    extensions: Mapping[str, str]
    objects: Mapping[str, int]
    large_objects: int
    system_identifier: str | None = None
    extension_contents: tuple[ExtensionContent, ...] = ()
    unlogged: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows over all tables."""
        return sum(table.rows for table in self.tables)

    def to_json(self) -> bytes:
        """As it is stored."""
        record = asdict(self) | {"format": FORMAT}
        for table in record["tables"]:
            if table["moves_in"] is None:
                del table["moves_in"]
        for name in ("extension_contents", "unlogged", "remarks"):  # not known to programs of before
            if not record[name]:
                del record[name]
        # Bytes of a name that are no text stay the same as escapes.
        raw = any("\udc80" <= character <= "\udcff" for character in json.dumps(record, ensure_ascii=False))
        return json.dumps(record, ensure_ascii=raw, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Evidence:
        """As it was stored. Raises `UnknownFormat` for a later format."""
        record = json.loads(data)
        found = record.pop("format")
        if found != FORMAT:
            raise UnknownFormat(f"This evidence has format {found}, not {FORMAT}.", hint="Use a newer Lifeboat.")
        properties = record["database"]
        record["database"] = DatabaseProperties(
            **properties
            | {
                "settings": tuple((role, setting) for role, setting in properties["settings"]),
                "grants": tuple((grantee, what, option) for grantee, what, option in properties["grants"]),
            }
        )
        record["tables"] = tuple(
            TableEvidence(**table | {"moves_in": tuple(whole) if (whole := table.get("moves_in")) else None})
            for table in record["tables"]
        )
        record["sequences"] = tuple(SequenceEvidence(**sequence) for sequence in record["sequences"])
        record["extension_contents"] = tuple(ExtensionContent(**c) for c in record.get("extension_contents", ()))
        record |= {name: tuple(record.get(name, ())) for name in ("unlogged", "remarks")}
        return cls(**record)


@dataclass(frozen=True)
class TableToRead:
    """A table in scope of a dump, with its size in bytes (TOAST included, indexes not)."""

    oid: int
    schema: str
    name: str
    size: int
    moves_in: tuple[str, str] | None = None


def tables_to_read(connection: Connection, selected: Sequence[int] | None = None) -> tuple[TableToRead, ...]:
    """Tables that hold rows of their own, largest first: ordinary ones and partitions, not those of extensions."""
    rows = connection.execute(
        """
        SELECT c.oid::bigint, n.nspname, c.relname, pg_table_size(c.oid), hashed.schema, hashed.name
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               -- What a value of an enumeration hashes to is its oid, another in every database: pg_dump has such rows
               -- find their partitions anew.
               LEFT JOIN LATERAL (
                   SELECT space.nspname AS schema, above.relname AS name
                     FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS a (relid, height)
                          JOIN pg_partitioned_table p ON p.partrelid = a.relid
                          JOIN pg_class above ON above.oid = a.relid
                          JOIN pg_namespace space ON space.oid = above.relnamespace
                    WHERE c.relispartition AND p.partstrat = 'h'
                      AND EXISTS (SELECT FROM pg_opclass o
                                   WHERE o.oid = ANY (p.partclass) AND o.opcintype = 'anyenum'::regtype)
                    ORDER BY height DESC LIMIT 1) hashed ON true
         WHERE c.relkind = 'r' AND c.relpersistence <> 't'
           AND NOT (c.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery())
           AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
           AND NOT EXISTS (SELECT FROM pg_depend d
                            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
           AND (%(selected)s::bigint[] IS NULL OR c.oid = ANY(%(selected)s::bigint[]))
         ORDER BY pg_table_size(c.oid) DESC, 2, 3
        """,
        {"selected": list(selected) if selected is not None else None},
    )
    return tuple(
        TableToRead(oid, schema, name, size, (above, root) if root else None)
        for oid, schema, name, size, above, root in rows
    )


def count_tables(
    connection: Connection,
    tables: Iterable[TableToRead],
    *,
    content_hash: bool = False,
    unplanned: frozenset[int] | None = None,
) -> tuple[TableEvidence, ...]:
    """Exact rows of each table as the connection's transaction sees them, and on request a digest of their content.

    The digest does not depend on the order of rows and is the same on every server version. A table in `unplanned`, by
    default those of `tables_not_to_plan`, is counted without a plan, and has no digest where columns are generated.
    """
    connection.execute(PINNED_OUTPUT)
    unplanned = tables_not_to_plan(connection, whole_rows=content_hash) if unplanned is None else unplanned
    counted = [_count(connection, table, content_hash, table.oid not in unplanned) for table in tables]
    return tuple(sorted(counted, key=lambda table: (table.schema, table.name)))


def describe_database(
    connection: Connection, *, tables: Sequence[TableEvidence] = (), sequences: Sequence[SequenceEvidence] = ()
) -> Evidence:
    """What the database is and has besides rows, with the given counts."""
    version, number, size = _one(
        connection,
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int,"
        " pg_database_size(current_database())",
    )
    objects = dict(connection.execute(_OBJECTS).fetchall())
    (large_objects,) = _one(connection, "SELECT count(*) FROM pg_largeobject_metadata")
    return Evidence(
        server_version=version,
        server_major=number // 10000,
        size=size,
        database=_properties(connection),
        tables=tuple(tables),
        sequences=tuple(sequences),
        extensions=dict(connection.execute("SELECT extname, extversion FROM pg_extension ORDER BY 1").fetchall()),
        objects=objects,
        large_objects=large_objects,
        system_identifier=read_system_identifier(connection),
        extension_contents=read_extension_contents(connection),
    )


def read_sequences(connection: Connection, reader: Connection | None = None) -> tuple[SequenceEvidence, ...]:
    """Where every sequence stands. Sequences are outside of transactions: later readings can only be further on.

    Reading one keeps a lock until the end of the transaction, so `reader`, in none, does it, a few at a time. With it,
    those that belong to extensions and are not dumped are left out.
    """
    rows = connection.execute(_SEQUENCES, [reader is not None]).fetchall()
    stands: dict[int, int | None] = {}
    for first in range(0, len(rows), SEQUENCES_AT_A_TIME):
        some = [oid for oid, *_ in rows[first : first + SEQUENCES_AT_A_TIME]]
        stands |= dict((reader or connection).execute(_STANDS, [some]).fetchall())
    return tuple(
        SequenceEvidence(schema, name, increment, stands[oid]) for oid, schema, name, increment in rows if oid in stands
    )


def read_system_identifier(connection: Connection) -> str | None:
    """What a server and its standbys, and no others, are called since `initdb`; None where it may not be read."""
    (readable,) = _one(connection, "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')")
    if not readable:
        return None
    (identifier,) = _one(connection, "SELECT system_identifier::text FROM pg_control_system()")
    return str(identifier)


def differences(source: Evidence, restored: Evidence) -> tuple[str, ...]:
    """What a restored database lacks or has otherwise, one sentence each; empty when it holds the same.

    Sequences may stand further on than in the evidence, as they moved while the dump was made.
    """
    found = [*_table_differences(source.tables, restored.tables)]
    stood = {(s.schema, s.name): s for s in restored.sequences}
    for sequence in source.sequences:
        now = stood.get((sequence.schema, sequence.name))
        if now is None:
            found.append(f"The sequence {sequence.schema}.{sequence.name} is missing.")
        elif sequence.last_value is not None and (
            now.last_value is None or (now.last_value - sequence.last_value) * sequence.increment < 0
        ):
            found.append(
                f"The sequence {sequence.schema}.{sequence.name} stands at {now.last_value}, "
                f"before {sequence.last_value}."
            )
    found += content_differences(source.extension_contents, restored.extension_contents)
    missing = sorted(set(source.extensions) - set(restored.extensions))
    found += [f"The extension {name} is missing." for name in missing]
    for kind in sorted({*source.objects, *restored.objects}):
        before, after = source.objects.get(kind, 0), restored.objects.get(kind, 0)
        if before != after:
            found.append(f"There are {after} {kind}, and were {before}.")
    if source.large_objects != restored.large_objects:
        found.append(f"There are {restored.large_objects} large objects, and were {source.large_objects}.")
    return tuple(found)


def _table_differences(source: Sequence[TableEvidence], restored: Sequence[TableEvidence]) -> Iterable[str]:
    # As the restored database says: evidence that was taken earlier does not know it.
    moves_in = {(table.schema, table.name): table.moves_in for table in restored if table.moves_in}
    there = {(table.schema, table.name): table for table in _together(restored, moves_in)}
    for table in _together(source, moves_in):
        now = there.pop((table.schema, table.name), None)
        if now is None:
            yield f"The table {table.label} is missing."
        elif now.rows != table.rows:
            yield f"The table {table.label} has {now.rows} rows, and had {table.rows}."
        elif None not in (table.content, now.content) and now.content != table.content:
            yield f"The table {table.label} has as many rows as it had, {table.rows}, but not the same ones."
    for table in there.values():
        yield f"The table {table.label} was not in the snapshot."


def _together(
    tables: Iterable[TableEvidence], moves_in: Mapping[tuple[str, str], tuple[str, str]]
) -> Iterable[TableEvidence]:
    """The same, but as one table those partitions between which rows may have moved."""
    merged: dict[tuple[str, str], TableEvidence] = {}
    for table in tables:
        name = moves_in.get((table.schema, table.name), (table.schema, table.name))
        before = merged.get(name)
        rows, content = table.rows, table.content
        if before is not None:
            rows += before.rows
            content = str(int(content) + int(before.content)) if content and before.content else None
        merged[name] = TableEvidence(*name, rows, content)
    return merged.values()


# Text output of values must not depend on the session. With `row_security = off` a count fails rather than leave rows
# out.
PINNED_OUTPUT = """
    SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET extra_float_digits = 3;
    SET bytea_output = 'hex'; SET xmloption = 'content'; SET row_security = off; SET search_path = pg_catalog, pg_temp;
    SET lc_monetary = 'C'; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0
"""


def _count(connection: Connection, table: TableToRead, content_hash: bool, planned: bool) -> TableEvidence:
    if not planned:
        named = (table.schema, table.name)
        rows, content = (
            digest_by_copying(connection, *named) if content_hash else (count_by_copying(connection, *named), None)
        )
        return TableEvidence(*named, rows, content, moves_in=table.moves_in)
    name = identifier(table.schema, table.name)
    if not content_hash:
        query = sql.SQL("SELECT count(*), NULL FROM ONLY {}").format(name)
    else:
        # A sum over 64 bits of each row's MD5 does not depend on the order of rows; numeric cannot overflow.
        # To text by these functions, since a cast of the owner's would be run.
        query = sql.SQL(
            "SELECT count(*),"
            " sum(('x' || left(md5(textin(record_out(a_row.*))), 16))::bit(64)::bigint::numeric)::text"
            " FROM ONLY {} AS a_row"
        ).format(name)
    rows, content = _one(connection, query)
    digest = (content or "0") if content_hash else None
    return TableEvidence(table.schema, table.name, rows, digest, moves_in=table.moves_in)


def _properties(connection: Connection) -> DatabaseProperties:
    # Through JSON, as the locale's column differs: none before version 15, daticulocale, datlocale since 17.
    name, owner, encoding, collate, ctype, provider, locale, comment, connection_limit = _one(
        connection,
        """
        SELECT d.datname, pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
               coalesce(j ->> 'datlocprovider', 'c'), coalesce(j ->> 'datlocale', j ->> 'daticulocale'),
               shobj_description(d.oid, 'pg_database'), d.datconnlimit
          FROM pg_database d, to_jsonb(d) j WHERE d.datname = current_database()
        """,
    )
    settings = connection.execute(
        "SELECT CASE WHEN s.setrole <> 0 THEN pg_get_userbyid(s.setrole) END, unnest(s.setconfig)"
        "  FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
        " WHERE d.datname = current_database() ORDER BY 1 NULLS FIRST, 2"
    ).fetchall()
    grants = connection.execute(
        "SELECT CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable"
        "  FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a"
        " WHERE d.datname = current_database() ORDER BY 1 NULLS FIRST, 2"
    ).fetchall()
    return DatabaseProperties(
        name, owner, encoding, collate, ctype, provider, locale, comment,
        tuple((role, setting) for role, setting in settings), tuple((g, what, option) for g, what, option in grants),
        connection_limit,
    )  # fmt: skip


SEQUENCES_AT_A_TIME = 256

_SEQUENCES = """
    SELECT c.oid::pg_catalog.int8, n.nspname, c.relname, s.seqincrement
      FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relpersistence <> 't' AND NOT (c.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery())
       AND NOT (%s AND EXISTS (
           SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
            WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
              AND d.objid IN (c.oid, (SELECT i.refobjid FROM pg_catalog.pg_depend i  -- the table of an identity column
                                       WHERE i.classid = d.classid AND i.objid = c.oid AND i.deptype = 'i'))
              AND NOT d.objid = ANY (coalesce(e.extconfig, '{}'))))
     ORDER BY 2, 3
"""

_STANDS = """
    SELECT c.oid::pg_catalog.int8, CASE WHEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT, USAGE')
                                        THEN pg_catalog.pg_sequence_last_value(c.oid) END
      FROM pg_catalog.pg_class c WHERE c.relkind = 'S' AND c.oid = ANY (%s::pg_catalog.oid[])
"""

# Counts by kind of what a dump carries, without what belongs to the system or to extensions. 1259, 1255 and 1247 are
# the oids of pg_class, pg_proc and pg_type. Constraints of type 'n', not null, are new in version 18.
_OBJECTS = """
    WITH mine AS (SELECT oid FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'),
         extension AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
    SELECT CASE c.relkind WHEN 'r' THEN 'tables' WHEN 'p' THEN 'partitioned tables' WHEN 'v' THEN 'views'
                          WHEN 'm' THEN 'materialized views' WHEN 'i' THEN 'indexes' WHEN 'I' THEN 'partitioned indexes'
                          WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'foreign tables' ELSE 'composite types' END, count(*)
      FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
           LEFT JOIN pg_depend identity
             ON identity.classid = 1259 AND identity.objid = c.oid AND identity.deptype = 'i' AND c.relkind = 'S'
     WHERE c.relnamespace IN (SELECT oid FROM mine) AND c.relkind IN ('r', 'p', 'v', 'm', 'i', 'I', 'S', 'f', 'c')
       AND c.relpersistence <> 't'
       AND (1259, coalesce(i.indrelid, identity.refobjid, c.oid)) NOT IN (SELECT classid, objid FROM extension)
     GROUP BY 1
    UNION ALL
    SELECT 'functions', count(*) FROM pg_proc p
     WHERE p.pronamespace IN (SELECT oid FROM mine) AND (1255, p.oid) NOT IN (SELECT classid, objid FROM extension)
    UNION ALL
    SELECT 'constraints', count(*) FROM pg_constraint c
     WHERE c.connamespace IN (SELECT oid FROM mine) AND c.contype <> 'n'
       AND (1259, c.conrelid) NOT IN (SELECT classid, objid FROM extension)
       AND (1247, c.contypid) NOT IN (SELECT classid, objid FROM extension)
    UNION ALL
    SELECT 'triggers', count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
     WHERE c.relnamespace IN (SELECT oid FROM mine) AND NOT t.tgisinternal
    UNION ALL
    SELECT 'policies', count(*) FROM pg_policy
    UNION ALL
    SELECT CASE t.typtype WHEN 'e' THEN 'enumerations' ELSE 'domains' END, count(*) FROM pg_type t
     WHERE t.typtype IN ('e', 'd') AND t.typnamespace IN (SELECT oid FROM mine)
       AND (1247, t.oid) NOT IN (SELECT classid, objid FROM extension)
     GROUP BY 1
"""


def _one(connection: Connection, query: str | sql.Composed) -> tuple[Any, ...]:
    row = connection.execute(query.encode() if isinstance(query, str) else query).fetchone()
    if row is None:
        raise SettingsError("A query that always gives one row gave none.")
    return tuple(row)
