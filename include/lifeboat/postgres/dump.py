"""Dumping a database: several streams out of one exported snapshot, with the evidence taken in that same snapshot.

The main stream is a whole archive (definitions, small tables, large objects, indexes) in which only the rows of larger
tables are missing; those are streams of their own. So a restore can run in parallel straight from storage.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from lifeboat.children import Children, output_of
from lifeboat.errors import ClientMissing, SourceRefused, writable
from lifeboat.postgres.connection import Connection, PostgresServer, identifier
from lifeboat.postgres.counting import tables_not_to_plan
from lifeboat.postgres.dump_faults import dump_failed
from lifeboat.postgres.evidence import (
    Evidence,
    SequenceEvidence,
    TableEvidence,
    TableToRead,
    count_tables,
    describe_database,
    read_sequences,
    tables_to_read,
)
from lifeboat.postgres.extensions import left_out, read_extension_contents
from lifeboat.postgres.faults import errors_explained
from lifeboat.postgres.huge_rows import refuse_huge_rows
from lifeboat.postgres.limits import at_a_time, remark, wait_for_place
from lifeboat.postgres.parameters import programs_that_obey
from lifeboat.postgres.programs import SUPPORTED, Programs, programs_for_dump
from lifeboat.postgres.remarks import build_remarks, lock_remarks, unlogged_note, unlogged_tables
from lifeboat.postgres.selection import EVERYTHING, Selection
from lifeboat.postgres.session import argument
from lifeboat.postgres.standby import telling_of_conflicts
from lifeboat.postgres.waiting import telling_of_locks
from lifeboat.progress import Report
from lifeboat.streams import ArtifactSink

DUMP_MEDIA_TYPE = "application/vnd.postgresql.dump"
GLOBALS_MEDIA_TYPE = "application/sql"

STREAMS = 16
"""Into about how many streams the rows of a database are cut, ..."""

LEAST_STREAM = 64 * 1024**2
"""... of this many bytes at least, since every stream costs a start of `pg_dump`."""

LOCK_TIMEOUT_SECONDS = 120
"""How long a dump waits for a table somebody else has locked before it fails."""

TABLES_AT_A_TIME = 32
"""How many tables are counted before their locks are given back."""

COUNTER = 1
"""Connections that a dump opens beside its first one and its streams: rows are counted by it."""

LOOK_LOCK_SECONDS = 5
"""The same for a look before it, which only has to say who has locked it."""


@dataclass(frozen=True)
class DatabaseDump:
    """What a dump gave: its evidence, the version of its `pg_dump`, and whether globals hold the roles' passwords."""

    evidence: Evidence
    client_version: str
    client_major: int
    role_passwords: bool


@dataclass(frozen=True)
class Scope:
    """A database that has been looked at and can be dumped."""

    programs: Programs
    tables: tuple[TableToRead, ...]
    patterns: tuple[str, ...]
    role_passwords: bool
    unlogged: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    encoding: str = "UTF8"


def check_database(
    server: PostgresServer, database: str, installed: Sequence[Programs], selection: Selection = EVERYTHING
) -> Scope:
    """Look for all that would stop a dump or make it silently partial, before it is begun.

    What its dump will leave out, and what a restore may not be able to build, is in the scope's `remarks`. Raises
    `ClientMissing` when no client is new enough, `SourceRefused` naming every table that cannot be read whole or
    written out, or does not exist, and where the server's table of locks is too small, `SourceUnavailable` when the
    server does not answer, or naming who has locked a table.
    """
    with (
        telling_of_locks(server, database),
        server.connect(database, read_only=True) as connection,
    ):
        scope = _scope(connection, server, database, installed, selection, lock_seconds=LOOK_LOCK_SECONDS)
        if not selection.complete:
            return scope
        refuse_huge_rows(connection)
        remarks = left_out(read_extension_contents(connection))
        wanted = os.cpu_count() or 1
        if (few := at_a_time(connection, server, wanted, beside=COUNTER, fixed=None)) < wanted:
            remarks = (f"Streams: {remark(wanted, few, connection)}", *remarks)
        return replace(scope, remarks=(*lock_remarks(connection), *scope.remarks, *remarks))


def dump_database(
    server: PostgresServer,
    database: str,
    sink: ArtifactSink,
    *,
    installed: Sequence[Programs],
    selection: Selection = EVERYTHING,
    content_hash: bool = False,
    stream_size: int | None = None,
    parallel: int | None = None,
    connections: int | None = None,
    children: Children | None = None,
    report: Report | None = None,
) -> DatabaseDump:
    """Stream a database into `sink` as the artifacts `dump`, `rows-0001` …, and `globals`.

    `stream_size` is how many bytes of rows a stream is to have; a table is never cut.

    All streams and the evidence show one moment. `parallel` streams run at a time, one a core by default, and fewer
    where we may have no more than `connections`, or the server allows no more. That, and that it waits for a table, and
    for whom, is told to `report`. Raises as `check_database`, and `DumpFailed` when a program ends badly; then the
    attempt is worthless. May be repeated.
    """
    children = children or Children()
    wanted = parallel or os.cpu_count() or 1
    with (
        telling_of_locks(server, database, report) as tell_no_more,
        server.connect(database, read_only=True) as connection,
    ):
        streams_at_a_time = at_a_time(connection, server, wanted, beside=COUNTER, fixed=connections)
        if streams_at_a_time < wanted:
            tell_no_more()
            (report or (lambda _: None))(f"Streams: {remark(wanted, streams_at_a_time, connection)}")
        scope = _scope(connection, server, database, installed, selection)
        with _exported_snapshot(connection) as snapshot, telling_of_conflicts(server, database, connection):
            # Rereads the catalogue inside the snapshot; a table made or dropped since then must not be missed.
            scope = _scope(connection, server, database, installed, selection)
            sequences = _read_sequences(connection, server, database) if selection.complete else ()
            streams = () if selection.schema_only else cut_into_streams(scope.tables, stream_size)
            _hold(connection, [table for stream in streams for table in stream])
            few = streams_at_a_time < wanted
            places = _Places(streams_at_a_time, connection) if few else None
            job = _Job(server, database, snapshot, scope, children, sink, places)
            counted = _run_all(job, streams, selection, content_hash, streams_at_a_time)
            evidence = describe_database(connection, tables=_placed(counted, streams), sequences=sequences)
    if not selection.complete:
        evidence = replace(evidence, objects={}, extensions={}, large_objects=0, extension_contents=())
    evidence = replace(
        evidence,
        unlogged=tuple(".".join(table) for table in scope.unlogged),
        remarks=(*scope.remarks, *left_out(evidence.extension_contents)),
    )
    return DatabaseDump(evidence, scope.programs.version, scope.programs.major, scope.role_passwords)


def _read_sequences(connection: Connection, server: PostgresServer, database: str) -> tuple[SequenceEvidence, ...]:
    with server.connect(database, read_only=True) as reader:
        _wait_for_locks_only_so_long(reader)
        return read_sequences(connection, reader)


def cut_into_streams(
    tables: Sequence[TableToRead], stream_size: int | None = None
) -> tuple[tuple[TableToRead, ...], ...]:
    """Tables, largest first, in groups of about `stream_size` bytes; what would be less than one is left out.

    Tables below a sixty-fourth of it are left out too, so that no command line becomes too long.
    """
    size = stream_size or max(sum(table.size for table in tables) // STREAMS, LEAST_STREAM)
    streams: list[tuple[TableToRead, ...]] = []
    group: tuple[TableToRead, ...] = ()
    for table in sorted(tables, key=lambda table: table.size, reverse=True):
        if table.size * 64 < size:
            break
        group += (table,)
        if sum(member.size for member in group) >= size:
            streams.append(group)
            group = ()
    return tuple(streams)


class _Places:
    """As many connections for streams as there are, where there are few."""

    def __init__(self, count: int, connection: Connection) -> None:
        self._free = threading.Semaphore(count)
        self._connection = connection

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place for one stream, once one is free and the server knows that it is."""
        with self._free:
            wait_for_place(self._connection)
            yield


@dataclass(frozen=True)
class _Job:
    server: PostgresServer
    database: str
    snapshot: str
    scope: Scope
    children: Children
    sink: ArtifactSink
    places: _Places | None

    def dump(self, artifact: str, *arguments: str) -> None:
        command = [
            self.scope.programs.path("pg_dump"), "--format=custom", "--compress=0", f"--snapshot={self.snapshot}",
            f"--encoding={self.scope.encoding}",
            f"--lock-wait-timeout={LOCK_TIMEOUT_SECONDS * 1000}", "--no-password",
            *(argument(text, self.scope.encoding) for text in arguments),
            self.server.database_argument(self.database),
        ]  # fmt: skip
        self._stream(artifact, command, DUMP_MEDIA_TYPE)

    def dump_globals(self) -> None:
        command = [self.scope.programs.path("pg_dumpall"), "--globals-only", "--no-password"]
        command.append(f"--encoding={self.scope.encoding}")
        if not self.scope.role_passwords:
            command.append("--no-role-passwords")
        self._stream(
            "globals", [*command, f"--database={self.server.database_argument(self.database)}"], GLOBALS_MEDIA_TYPE
        )

    def count(
        self, connection: Connection, tables: Sequence[TableToRead], content_hash: bool
    ) -> tuple[TableEvidence, ...]:
        """Rows in the moment of the dump. A transaction keeps a lock for each table and index that it has looked at, so
        there are many of them, each of a few tables."""
        counted: list[TableEvidence] = []
        with errors_explained(self.server, self.database):
            _wait_for_locks_only_so_long(connection)
            for first in range(0, len(tables), TABLES_AT_A_TIME):
                # Outside of the dump's moment, since the planner goes by what there is now.
                unplanned = tables_not_to_plan(connection, whole_rows=content_hash)
                with connection.transaction():
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                    connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(self.snapshot)))
                    batch = tables[first : first + TABLES_AT_A_TIME]
                    counted += count_tables(connection, batch, content_hash=content_hash, unplanned=unplanned)
        return tuple(sorted(counted, key=lambda table: (table.schema, table.name)))

    def _stream(self, artifact: str, command: Sequence[object], media_type: str) -> None:
        with self.places.one() if self.places is not None else nullcontext():
            chunks = output_of(
                self.children,
                [str(part) for part in command],
                env=self.server.child_environment(),
                failure=dump_failed(self.server, self.database, artifact),
            )
            self.sink(artifact, chunks, media_type=media_type)


def _run_all(
    job: _Job, cut: Sequence[Sequence[TableToRead]], selection: Selection, content_hash: bool, parallel: int
) -> tuple[TableEvidence, ...]:
    """Run every stream, largest first, and count the rows beside them; the first failure ends all the others."""
    arguments = [f"--table={pattern}" for pattern in job.scope.patterns]
    arguments += ["--strict-names"] if arguments else []
    arguments += ["--schema-only"] if selection.schema_only else []
    arguments += ["--no-unlogged-table-data"] if job.scope.unlogged else []
    arguments += [f"--exclude-table-data={_pattern(table)}" for tables in cut for table in tables]
    with (
        job.server.connect(job.database, read_only=True) as counter,
        ThreadPoolExecutor(max_workers=parallel + 1, thread_name_prefix="dump") as pool,
    ):
        begun: list[Future[Any]] = []
        try:
            counting = pool.submit(job.count, counter, () if selection.schema_only else job.scope.tables, content_hash)
            begun.append(counting)
            begun.append(pool.submit(job.dump, "dump", *arguments))
            for number, tables in enumerate(cut, start=1):
                named = [f"--table={_pattern(table)}" for table in tables]
                begun.append(pool.submit(job.dump, _artifact(number), "--data-only", "--strict-names", *named))
            if not job.scope.patterns:
                begun.append(pool.submit(job.dump_globals))
            for future in as_completed(begun):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            job.children.give_up()
            for future in begun[:1]:
                _end(future, counter)
            raise
    return (*counting.result(), *(TableEvidence(*table, rows=0) for table in job.scope.unlogged))


def _placed(counted: Sequence[TableEvidence], streams: Sequence[Sequence[TableToRead]]) -> tuple[TableEvidence, ...]:
    """The same tables, each with the artifact its rows are in."""
    place = {(t.schema, t.name): _artifact(n) for n, stream in enumerate(streams, start=1) for t in stream}
    return tuple(replace(table, artifact=place.get((table.schema, table.name), "dump")) for table in counted)


def _artifact(number: int) -> str:
    return f"rows-{number:04}"


def _end(counting: Future[Any], connection: Connection) -> None:
    """Cancel query after query: a cancellation that comes between two of them has no effect."""
    while not counting.done():
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=5)
        wait([counting], timeout=0.2)


@contextmanager
def _exported_snapshot(connection: Connection) -> Iterator[str]:
    """A moment of the database that other connections can share while this transaction lasts.

    PostgreSQL manual, Snapshot Synchronization Functions.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        connection.execute("SET LOCAL statement_timeout = 0")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        yield str(row[0])


def _hold(connection: Connection, tables: Sequence[TableToRead]) -> None:
    """Keep tables from being dropped or rewritten until their streams have been dumped; readers and writers go on."""
    for table in tables:
        name = identifier(table.schema, table.name)
        connection.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(name))


def _wait_for_locks_only_so_long(connection: Connection, seconds: float | None = None) -> None:
    """Even to look at a table's size waits for whoever has locked it; for ever, if nothing is said."""
    limit = LOCK_TIMEOUT_SECONDS if seconds is None else seconds
    connection.execute(f"SET lock_timeout = '{limit}s'".encode())


def _scope(
    connection: Connection,
    server: PostgresServer,
    database: str,
    installed: Sequence[Programs],
    selection: Selection,
    *,
    lock_seconds: float | None = None,
) -> Scope:
    _wait_for_locks_only_so_long(connection, lock_seconds)
    major = connection.info.server_version // 10000
    if major not in SUPPORTED:
        raise ClientMissing(
            f"{server} is PostgreSQL {major}; Lifeboat backs up {SUPPORTED[0]} to {SUPPORTED[-1]}.",
            hint="Use a Lifeboat that knows this version.",
        )
    programs = programs_for_dump(major, programs_that_obey(installed, server.options))
    selected = _selected_tables(connection, server, database, selection.tables)
    oids = None if not selection.tables else [oid for oid, _ in selected]
    _refuse_unreadable(connection, server, database, oids, large_objects=selection.complete)
    unlogged = unlogged_tables(connection)
    passwords = connection.execute("SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')").fetchone()
    return Scope(
        programs,
        tables_to_read(connection, oids),
        tuple(pattern for _, pattern in selected),
        bool(passwords and passwords[0]),
        unlogged,
        tuple(map(writable, (*(unlogged_note(".".join(t)) for t in unlogged), *build_remarks(connection)))),
        connection.info.parameter_status("server_encoding") or "UTF8",
    )


def _selected_tables(
    connection: Connection, server: PostgresServer, database: str, names: Sequence[str]
) -> tuple[tuple[int, str], ...]:
    """Oid and exact pattern of each table asked for, and of its partitions. Refuses names that fit none or several."""
    selected: dict[int, str] = {}
    for name in names:
        rows = connection.execute(
            """
            SELECT c.oid::bigint, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND %s::text IN (c.relname::text, n.nspname || '.' || c.relname)
               AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
            """,
            [name],
        ).fetchall()
        if not rows:
            raise SourceRefused(
                f"There is no table {name!r} in {database!r} on {server}.",
                hint="Write it as it is in the database, `name` or `schema.name`, without quotes.",
            )
        if len(rows) > 1:
            places = ", ".join(f"{schema}.{table}" for _, schema, table in rows)
            raise SourceRefused(f"Several tables are called {name!r}: {places}.", hint="Name the schema too.")
        family = connection.execute(
            """
            WITH RECURSIVE family AS (
                SELECT %s::oid AS oid UNION ALL
                SELECT i.inhrelid FROM pg_inherits i JOIN family f ON f.oid = i.inhparent)
            SELECT c.oid::bigint, n.nspname, c.relname
              FROM family JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
            """,
            [rows[0][0]],
        )
        selected.update({oid: _quoted(schema, table) for oid, schema, table in family})
    return tuple(selected.items())


def _refuse_unreadable(
    connection: Connection, server: PostgresServer, database: str, oids: Sequence[int] | None, *, large_objects: bool
) -> None:
    """Raise `SourceRefused` naming every table and sequence the user cannot read whole. A partial dump is no dump."""
    rows = connection.execute(
        """
        SELECT format('%%I.%%I', n.nspname, c.relname),
               CASE WHEN NOT has_schema_privilege(n.oid, 'USAGE') THEN 'no USAGE on its schema'
                    WHEN c.relkind = 'S' AND NOT has_sequence_privilege(c.oid, 'SELECT') THEN 'no SELECT'
                    WHEN c.relkind <> 'S' AND NOT has_table_privilege(c.oid, 'SELECT') THEN 'no SELECT'
                    WHEN row_security_active(c.oid) THEN 'row-level security hides rows from this user' END AS reason
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'm', 'S') AND c.relpersistence <> 't'
           AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
           AND (%(oids)s::bigint[] IS NULL OR c.oid = ANY(%(oids)s::bigint[]))
         ORDER BY 1
        """,
        {"oids": list(oids) if oids is not None else None},
    ).fetchall()
    refused = [f"{name} ({reason})" for name, reason in rows if reason]
    if large_objects:
        unreadable = connection.execute(
            """
            SELECT m.oid::bigint FROM pg_largeobject_metadata m
             WHERE NOT pg_has_role(m.lomowner, 'USAGE')
               AND NOT EXISTS (SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
                                  AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
             ORDER BY 1 LIMIT 10
            """
        )
        refused += [f"the large object {oid} (no SELECT)" for (oid,) in unreadable]
    if refused:
        raise SourceRefused(
            f"{server.user} cannot read all of {database!r} on {server.host}: {', '.join(refused)}.",
            hint="GRANT pg_read_all_data TO the user, and for row-level security ALTER ROLE … BYPASSRLS; "
            "large objects want GRANT SELECT one by one. A dump without these would be no backup.",
        )


def _pattern(table: TableToRead) -> str:
    return _quoted(table.schema, table.name)


def _quoted(schema: str, table: str) -> str:
    """An exact pattern: inside double quotes nothing is a wildcard (PostgreSQL manual, psql, Patterns)."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table))
