"""Copying tables of a side database into a new schema of the live one on the same server: all of it or nothing.

In the side database the tables are moved into a schema of that name first, so that PostgreSQL itself writes their
definitions for it. Types and functions they use are the live database's own: so rows of then compare with rows of now.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql

from lifeboat.children import Children, Failure, how_it_ended, memory_file, output_of, path_of
from lifeboat.errors import EvidenceMismatch, LifeboatError, RestoreFailed
from lifeboat.postgres.connection import Connection, PostgresServer, identifier
from lifeboat.postgres.contents import Entry, read_contents, use_list
from lifeboat.postgres.evidence import PINNED_OUTPUT
from lifeboat.postgres.faults import words_of
from lifeboat.postgres.parameters import programs_that_obey
from lifeboat.postgres.programs import Programs, programs_for_dump
from lifeboat.postgres.rebuilding import NotRebuilt
from lifeboat.postgres.session import RAW, TEXT
from lifeboat.postgres.waiting import telling_of_locks
from lifeboat.progress import Report


@dataclass(frozen=True)
class SideSchema:
    """A new schema of a database: rows by table, and what of the tables did not come along.

    `not_rebuilt` are their objects that could not be restored. `damaged` says why copies in other repositories were of
    no use.
    """

    database: str
    schema: str
    rows: Mapping[str, int]
    notes: tuple[str, ...]
    damaged: Mapping[str, str] = field(default_factory=dict)
    not_rebuilt: tuple[NotRebuilt, ...] = ()


def check_schema_free(server: PostgresServer, live: str, schema: str) -> None:
    """Raise `RestoreFailed` when `live` has this schema already, or can have none of this name."""
    if not schema or schema.startswith("pg_") or schema == "information_schema" or len(schema.encode()) > _LONGEST:
        raise RestoreFailed(
            f"No schema can be called {schema!r}.",
            hint="Names that begin with `pg_` are PostgreSQL's own, and none is longer than 63 bytes.",
        )
    with server.connect(live) as connection:
        if connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is not None:
            raise _taken(live, schema)


_LONGEST = 63  # PostgreSQL cuts longer names silently


def copy_into_schema(
    server: PostgresServer,
    live: str,
    side: str,
    schema: str,
    *,
    installed: Sequence[Programs],
    children: Children | None = None,
    report: Report | None = None,
) -> SideSchema:
    """Copy every table of the database `side` into the new `schema` of `live`, in one transaction.

    Rows, columns, defaults, sequences, indexes, constraints, partitions and comments come along; triggers, rules,
    policies, owners and grants do not, so that nothing that is done there acts on anything else. `side` is altered.
    Raises `RestoreFailed` when the schema is there, two tables have one name, or a type or a function they use is not
    in `live`; `EvidenceMismatch` when counts differ. Then nothing in `live` has changed.
    """
    children = children or Children()
    with (
        telling_of_locks(server, live, report),
        server.connect(side) as source,
        server.connect(live, autocommit=False) as target,
    ):
        source.execute(PINNED_OUTPUT)
        target.execute(PINNED_OUTPUT)
        _gather(source, schema)
        programs = programs_for_dump(source.info.server_version // 10000, programs_that_obey(installed, server.options))
        with memory_file() as definitions:
            entries = _dump_definitions(
                definitions, server, side, schema, programs, children, source.info.parameter_status("server_encoding")
            )
            numbers = [entry.number for entry in entries if _comes_along(entry, entries)]
            before, after = (
                _script(definitions, f"--section={section}", numbers, server, programs, children)
                for section in ("pre-data", "post-data")
            )
        try:
            target.execute(before)
            names = _tables(source, schema)
            for name in names:
                _copy(source, target, schema, name)
            _set_sequences(source, target, schema)
            target.execute(after)
        except psycopg.errors.DuplicateSchema as error:
            raise _taken(live, schema) from error
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise  # the server's own affair
        except psycopg.Error as error:
            raise RestoreFailed(
                f"The tables cannot be made in the schema {schema!r} of {live!r}: {words_of(error)}",
                hint=f"Nothing was changed. Types and functions they use are those of {live!r}; where it has them no "
                "more, `lifeboat restore --to-database` brings them along.",
            ) from error
        rows = {f"{schema}.{name}": _count(target, schema, name) for name in names}
        _refuse_other_counts(rows, {f"{schema}.{name}": _count(source, schema, name) for name in names})
        target.commit()
    return SideSchema(live, schema, rows, (*_left_out(entries), f"All of it belongs to {server.user} alone."))


def _taken(live: str, schema: str) -> RestoreFailed:
    return RestoreFailed(
        f"There already is a schema {schema!r} in {live!r}.",
        hint="Nothing was touched. Choose a new name, for example one with the snapshot's date.",
    )


# ---- in the side database -------------------------------------------------------------------------------------------


def _gather(source: Connection, schema: str) -> None:
    """Move all tables, and the sequences they number their rows with, into one schema."""
    moved = source.execute(_RELATIONS).fetchall()
    names = [name for _, name, _ in moved]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RestoreFailed(
            f"Several of these tables are called {', '.join(twice)}, and one schema cannot hold both.",
            hint="Nothing was touched. Restore them one after the other, each into a schema of its own.",
        )
    source.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(identifier(schema)))
    for of, name, kind in moved:
        if of != schema:
            source.execute(
                sql.SQL("ALTER {} {} SET SCHEMA {}").format(
                    sql.SQL("SEQUENCE" if kind == "S" else "TABLE"), identifier(of, name), identifier(schema)
                )
            )


# Those of extensions are made by these. A sequence that belongs to a column moves with its table.
_RELATIONS = b"""
    SELECT n.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'S') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                          AND (d.deptype = 'e' OR (c.relkind = 'S' AND d.deptype IN ('a', 'i'))))
     ORDER BY 1, 2
"""


def _dump_definitions(
    into: IO[bytes],
    server: PostgresServer,
    side: str,
    schema: str,
    programs: Programs,
    children: Children,
    encoding: str | None,
) -> tuple[Entry, ...]:
    quoted = '"' + schema.replace('"', '""') + '"'  # inside double quotes nothing is a wildcard
    converted = [] if encoding == RAW else ["--encoding=UTF8"]
    command: list[str | Path] = [
        programs.path("pg_dump"), "--no-password", "--format=custom", "--compress=0", "--schema-only",
        "--strict-names", *converted, f"--schema={quoted}", f"--dbname={server.database_argument(side)}",
    ]  # fmt: skip
    environment = server.child_environment(statement_timeout="0")
    for chunk in output_of(children, command, env=environment, failure=_failed("pg_dump", side)):
        into.write(chunk)
    return read_contents(
        _run_restore(["--verbose", path_of(into)], server, programs, children, inherits=[into]).decode(*TEXT)
    )


def _comes_along(entry: Entry, entries: Sequence[Entry]) -> bool:
    if entry.kind != "COMMENT":
        return entry.kind in _KINDS
    commented = {other.kind for other in entries if other.number in entry.needs}
    return bool(commented) and commented <= _KINDS


_KINDS = frozenset(
    {"SCHEMA", "TABLE", "SEQUENCE", "SEQUENCE OWNED BY", "DEFAULT", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT",
     "INDEX", "TABLE ATTACH", "INDEX ATTACH", "STATISTICS"}
)  # fmt: skip

_TOLD = frozenset({"TRIGGER", "RULE", "POLICY"})


def _left_out(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        if entry.kind in _TOLD:
            yield f"The {entry.kind} {entry.name!r} does not come along."


def _script(
    definitions: IO[bytes],
    section: str,
    numbers: Sequence[int],
    server: PostgresServer,
    programs: Programs,
    children: Children,
) -> bytes:
    """SQL that makes a part of the definitions, without what only psql or a newer server understands."""
    with memory_file() as chosen:
        chosen.write(use_list(numbers))
        arguments = [section, f"--use-list={path_of(chosen)}", "--no-owner", "--no-privileges", path_of(definitions)]
        script = _run_restore(arguments, server, programs, children, inherits=[chosen, definitions])
    return _NOT_SQL.sub(b"", script)


_NOT_SQL = re.compile(rb"^(\\(un)?restrict \w+|SET transaction_timeout = 0;)$", re.MULTILINE)


def _run_restore(
    arguments: Sequence[str],
    server: PostgresServer,
    programs: Programs,
    children: Children,
    *,
    inherits: Sequence[IO[bytes]],
) -> bytes:
    command: list[str | Path] = [programs.path("pg_restore"), "--file=-", *arguments]
    failure = _failed("pg_restore", "definitions")
    return b"".join(output_of(children, command, env=server.child_environment(), failure=failure, inherits=inherits))


def _failed(program: str, what: str) -> Failure:
    def failure(status: int, said: str) -> LifeboatError:
        return RestoreFailed(
            f"{program} of {what} {how_it_ended(status)}: {said[:3000] or 'it said nothing'}",
            hint="Nothing was changed in the live database.",
        )

    return failure


# ---- in the live database -------------------------------------------------------------------------------------------


def _tables(source: Connection, schema: str) -> tuple[str, ...]:
    """Tables that hold rows: ordinary ones and partitions."""
    rows = source.execute(
        "SELECT relname FROM pg_class c WHERE relkind = 'r' AND relnamespace = %s::regnamespace ORDER BY 1",
        [identifier(schema).as_string(source)],
    ).fetchall()
    return tuple(name for (name,) in rows)


def _copy(source: Connection, target: Connection, schema: str, name: str) -> None:
    table = identifier(schema, name)
    columns = [
        identifier(column)
        for (column,) in source.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
            " AND attgenerated = '' ORDER BY attnum",
            [table.as_string(source)],
        )
    ]
    if not columns:  # COPY takes no empty list, and rows without columns are all the same
        count = sql.Literal(_count(source, schema, name))
        target.execute(sql.SQL("INSERT INTO {} SELECT FROM generate_series(1, {})").format(table, count))
        return
    listed = sql.SQL(", ").join(columns)
    reading = sql.SQL("COPY {} ({}) TO STDOUT").format(table, listed)
    writing = sql.SQL("COPY {} ({}) FROM STDIN").format(table, listed)
    with source.cursor().copy(reading) as rows, target.cursor().copy(writing) as into:
        for chunk in rows:
            into.write(chunk)


def _set_sequences(source: Connection, target: Connection, schema: str) -> None:
    rows = source.execute("SELECT sequencename FROM pg_sequences WHERE schemaname = %s", [schema]).fetchall()
    for (name,) in rows:
        sequence = identifier(schema, name)
        stood = source.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(sequence)).fetchone()
        assert stood is not None
        target.execute("SELECT setval(%s::regclass, %s, %s)", [sequence.as_string(target), *stood])


def _count(connection: Connection, schema: str, name: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(identifier(schema, name))).fetchone()
    assert row is not None
    return int(row[0])


def _refuse_other_counts(rows: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    wrong = [f"{label} has {rows[label]}, not {count}" for label, count in wanted.items() if rows[label] != count]
    if wrong:
        raise EvidenceMismatch(f"Rows were not taken over: {', '.join(wrong)}.", hint="Nothing was changed.")
