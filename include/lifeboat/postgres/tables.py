"""Replacing the rows of live tables by those of a side database: in one transaction, with every reference checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import errors, sql

from lifeboat.errors import EvidenceMismatch, RestoreFailed
from lifeboat.postgres.connection import Connection, PostgresServer, identifier
from lifeboat.postgres.evidence import PINNED_OUTPUT
from lifeboat.postgres.waiting import telling_of_locks
from lifeboat.progress import Report

Table = tuple[str, str]
"""Schema and name."""

LOCK_SECONDS = 60
"""How long to wait for those who are writing to a table just now."""


@dataclass(frozen=True)
class ReplacedRows:
    """Rows that each table had and has now, by `schema.name`, and the sequences that were set forward.

    `damaged` says why copies in other repositories were of no use.
    """

    before: Mapping[str, int]
    after: Mapping[str, int]
    sequences: tuple[str, ...]
    damaged: Mapping[str, str] = field(default_factory=dict)


def replace_rows(
    server: PostgresServer,
    live: str,
    side: str,
    tables: Sequence[Table],
    *,
    replace_live_rows: bool,
    report: Report | None = None,
) -> ReplacedRows:
    """Replace all rows of `tables` in `live` by those in the database `side` of the same server, or none.

    A partitioned table is given without its partitions. Readers see the old rows until the end, writers wait. Triggers
    do not fire. Raises `RestoreFailed` without `replace_live_rows`, when columns differ, and naming each foreign key
    that would be broken; `EvidenceMismatch` when the counts differ. Then nothing has changed.
    """
    check_replacing(live, replace_live_rows=replace_live_rows)
    with (
        telling_of_locks(server, live, report),
        server.connect(side) as source,
        server.connect(live, autocommit=False) as target,
    ):
        source.execute(PINNED_OUTPUT)
        target.execute(PINNED_OUTPUT)
        source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        columns = {table: _shared_columns(source, target, live, table) for table in tables}
        keys = _foreign_keys(target, tables)
        _lock(target, [*tables, *(table for key in keys for table in key.tables)])
        _fire_nothing(target, server)
        before = {_label(table): _count(target, table) for table in tables}
        for table in tables:
            _replace(source, target, table, columns[table])
        after = {_label(table): _count(target, table) for table in tables}
        _refuse_other_counts(after, {_label(table): _count(source, table) for table in tables})
        _refuse_broken(target, live, keys)
        moved = _set_sequences_forward(source, target, tables)
        target.commit()
    return ReplacedRows(before, after, moved)


def check_replacing(live: str, *, replace_live_rows: bool) -> None:
    """Raise `RestoreFailed` unless it was said that live rows are to be replaced."""
    if not replace_live_rows:
        raise RestoreFailed(
            f"The rows of {live!r} were not touched: that they are to be replaced was not said.",
            hint="What was written to these tables since the snapshot is lost by it. Say so with the flag for it.",
        )


@dataclass(frozen=True)
class _ForeignKey:
    name: str
    tables: tuple[Table, Table]
    columns: tuple[str, ...]
    referenced: tuple[str, ...]


def _replace(source: Connection, target: Connection, table: Table, columns: Sequence[str]) -> None:
    name, listed = identifier(*table), sql.SQL(", ").join(map(identifier, columns))
    target.execute(sql.SQL("DELETE FROM {}{}").format(_only(target, table), name))
    reading = sql.SQL("COPY (SELECT {} FROM {}{}) TO STDOUT").format(listed, _only(source, table), name)
    writing = sql.SQL("COPY {} ({}) FROM STDIN").format(name, listed)
    if not columns:  # COPY takes no empty list, and rows without columns are all the same
        count = sql.Literal(_count(source, table))
        writing = sql.SQL("INSERT INTO {} SELECT FROM generate_series(1, {})").format(name, count)
        target.execute(writing)
        return
    with source.cursor().copy(reading) as rows, target.cursor().copy(writing) as into:
        for chunk in rows:
            into.write(chunk)


def _shared_columns(source: Connection, target: Connection, live: str, table: Table) -> tuple[str, ...]:
    """The columns that hold data, the same on both sides; raises `RestoreFailed` where they differ."""
    then, now = (dict(connection.execute(_COLUMNS, list(table)).fetchall()) for connection in (source, target))
    exists = target.execute(
        "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE (n.nspname, c.relname) = (%s, %s) AND c.relkind IN ('r', 'p')",
        list(table),
    ).fetchone()
    if exists is None or then != now:
        what = "is not there" if exists is None else _column_differences(then, now)
        raise RestoreFailed(
            f"The table {_label(table)} of {live!r} {what}.",
            hint="Nothing was changed. `lifeboat restore --tables …` gives the rows, to be taken by hand.",
        )
    return tuple(then)


_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod)
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE (n.nspname, c.relname) = (%s, %s) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
     ORDER BY a.attnum
"""


def _column_differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    parts = [f"lacks the column {name}" for name in then.keys() - now.keys()]
    parts += [f"has the new column {name}" for name in now.keys() - then.keys()]
    parts += [
        f"has {name} as {now[name]}, and had it as {then[name]}"
        for name in then.keys() & now.keys()
        if then[name] != now[name]
    ]
    return ", ".join(sorted(parts))


def _foreign_keys(target: Connection, tables: Sequence[Table]) -> tuple[_ForeignKey, ...]:
    """Every foreign key that holds now, from or to one of the tables or of the trees of partitions they are part of."""
    rows = target.execute(
        """
        WITH RECURSIVE family AS (
            SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              JOIN unnest(%s::text[], %s::text[]) AS t (schema, name) ON (n.nspname, c.relname) = (t.schema, t.name)
            UNION SELECT CASE WHEN f.oid = i.inhparent THEN i.inhrelid ELSE i.inhparent END
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
              JOIN family f ON f.oid IN (i.inhparent, i.inhrelid))
        SELECT k.conname, fn.nspname, f.relname, tn.nspname, t.relname,
               (SELECT array_agg(a.attname::text ORDER BY o) FROM unnest(k.conkey) WITH ORDINALITY AS u (n, o)
                  JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n),
               (SELECT array_agg(a.attname::text ORDER BY o) FROM unnest(k.confkey) WITH ORDINALITY AS u (n, o)
                  JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n)
          FROM pg_constraint k
          JOIN pg_class f ON f.oid = k.conrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
          JOIN pg_class t ON t.oid = k.confrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
         WHERE k.contype = 'f' AND k.conparentid = 0 AND k.convalidated
           AND (k.conrelid IN (SELECT oid FROM family) OR k.confrelid IN (SELECT oid FROM family))
         ORDER BY 2, 3, 1
        """,
        [[schema for schema, _ in tables], [name for _, name in tables]],
    ).fetchall()
    return tuple(
        _ForeignKey(row[0], ((row[1], row[2]), (row[3], row[4])), tuple(row[5]), tuple(row[6])) for row in rows
    )


def _refuse_broken(target: Connection, live: str, keys: Sequence[_ForeignKey]) -> None:
    broken = [f"{count} rows of {_label(key.tables[0])} refer by {key.name} to rows of {_label(key.tables[1])} that "
              "would not be there" for key in keys if (count := _broken(target, key))]  # fmt: skip
    if broken:
        raise RestoreFailed(
            f"The rows of {live!r} were not replaced: {'; '.join(broken)}.",
            hint="Nothing was changed. Include the tables on both sides of these references.",
        )


def _broken(target: Connection, key: _ForeignKey) -> int:
    """Rows that refer to none; as PostgreSQL checks it, a row with a null in its reference refers to nothing."""
    here, there = key.tables
    pairs = [
        sql.SQL("r.{} = k.{}").format(identifier(a), identifier(b))
        for a, b in zip(key.columns, key.referenced, strict=True)
    ]
    given = [sql.SQL("r.{} IS NOT NULL").format(identifier(name)) for name in key.columns]
    query = sql.SQL("SELECT count(*) FROM {}{} r WHERE {} AND NOT EXISTS (SELECT FROM {}{} k WHERE {})").format(
        _only(target, here), identifier(*here), sql.SQL(" AND ").join(given),
        _only(target, there), identifier(*there), sql.SQL(" AND ").join(pairs),
    )  # fmt: skip
    row = target.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _lock(target: Connection, tables: Sequence[Table]) -> None:
    """Keep others from writing to these tables, in one order always, and not waiting for ever."""
    target.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'".encode())
    for table in sorted(set(tables)):
        target.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(identifier(*table)))


def _fire_nothing(target: Connection, server: PostgresServer) -> None:
    """No trigger, rule or foreign key acts on what is done now; foreign keys are checked at the end, all at once."""
    try:
        target.execute("SET LOCAL session_replication_role = replica")
    except errors.InsufficientPrivilege as error:
        raise RestoreFailed(
            f"{server.user} on {server} may not switch triggers off while rows are replaced.",
            hint="Nothing was changed. GRANT SET ON PARAMETER session_replication_role TO the user, or be a superuser.",
        ) from error


def _refuse_other_counts(after: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    wrong = [f"{label} has {after[label]}, not {count}" for label, count in wanted.items() if after[label] != count]
    if wrong:
        raise EvidenceMismatch(f"Rows were not taken over: {', '.join(wrong)}.", hint="Nothing was changed.")


def _set_sequences_forward(source: Connection, target: Connection, tables: Sequence[Table]) -> tuple[str, ...]:
    """Move what the tables number their rows with to where it stood in the snapshot, never back."""
    moved = []
    for schema, name in _sequences(target, tables):
        sequence = identifier(schema, name)
        then, now = (
            connection.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(sequence)).fetchone()
            if _exists(connection, schema, name)
            else None
            for connection in (source, target)
        )
        row = target.execute(
            "SELECT increment_by FROM pg_sequences WHERE (schemaname, sequencename) = (%s, %s)", [schema, name]
        ).fetchone()
        assert now is not None
        assert row is not None
        if then is None or not then[1] or (now[1] and (then[0] - now[0]) * row[0] <= 0):
            continue
        target.execute("SELECT setval(%s::regclass, %s)", [sequence.as_string(target), then[0]])
        moved.append(f"{schema}.{name}")
    return tuple(moved)


def _sequences(target: Connection, tables: Sequence[Table]) -> Iterator[Table]:
    """Sequences that columns of the tables own, or take their defaults from."""
    for schema, name in tables:
        yield from target.execute(
            """
            SELECT n.nspname, s.relname FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace
             WHERE s.relkind = 'S' AND EXISTS (
                   SELECT FROM pg_depend d
                     LEFT JOIN pg_attrdef e ON d.classid = 'pg_attrdef'::regclass AND e.oid = d.objid
                    WHERE (d.objid = s.oid AND d.deptype IN ('a', 'i') AND d.refobjid = %(table)s::regclass)
                       OR (d.refobjid = s.oid AND e.adrelid = %(table)s::regclass))
             ORDER BY 1, 2
            """,
            {"table": identifier(schema, name).as_string(target)},
        ).fetchall()


def _exists(connection: Connection, schema: str, sequence: str) -> bool:
    query = "SELECT FROM pg_sequences WHERE (schemaname, sequencename) = (%s, %s)"
    return connection.execute(query, [schema, sequence]).fetchone() is not None


def _only(connection: Connection, table: Table) -> sql.SQL:
    """A table's own rows without those of tables that inherit from it; a partitioned one has none of its own."""
    row = connection.execute(
        "SELECT relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE (n.nspname, c.relname) = (%s, %s)",
        list(table),
    ).fetchone()
    return sql.SQL("" if row is not None and row[0] else "ONLY ")


def _count(connection: Connection, table: Table) -> int:
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {}{}").format(_only(connection, table), identifier(*table))
    ).fetchone()
    assert row is not None
    return int(row[0])


def _label(table: Table) -> str:
    return ".".join(table)
