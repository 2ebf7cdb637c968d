"""Restoring a database beside whatever is there: into a new one, in parallel, straight from storage, then compared.

Nothing is ever dropped but the new database itself, when its restore fails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO

from lifeboat.children import Children, Failure, feed, filtered, how_it_ended, memory_file, output_of, path_of
from lifeboat.discretion import discreet
from lifeboat.errors import LifeboatError, NotReady, RestoreFailed, TargetUnavailable, writable
from lifeboat.postgres.analysis import Analysis
from lifeboat.postgres.comparison import compare, expected
from lifeboat.postgres.connection import Connection, PostgresServer
from lifeboat.postgres.contents import (
    Entry,
    Part,
    all_numbers,
    choose_part,
    read_contents,
    to_build_early,
    to_restore_last,
    use_list,
)
from lifeboat.postgres.evidence import Evidence
from lifeboat.postgres.extensions import lost_contents
from lifeboat.postgres.faults import fault_said
from lifeboat.postgres.globals import missing_tablespaces
from lifeboat.postgres.limits import at_a_time, remark
from lifeboat.postgres.making import make_database, refuse_unable
from lifeboat.postgres.parameters import programs_that_obey
from lifeboat.postgres.programs import Programs, programs_for_restore
from lifeboat.postgres.properties import apply_connection_limit, apply_properties
from lifeboat.postgres.rebuilding import ROWS, Heard, Item, NotRebuilt, Rebuilding, numbers_of_rows, rows_listed
from lifeboat.postgres.remarks import unlogged_note
from lifeboat.postgres.roles import restore_roles
from lifeboat.postgres.room import ROOM, free_bytes
from lifeboat.postgres.selection import Selection
from lifeboat.postgres.session import TEXT, argument, as_utf8, read_script
from lifeboat.postgres.subscriptions import subscriptions_of
from lifeboat.postgres.unfinished import mark_finished, remove_database, remove_unfinished
from lifeboat.progress import PhaseClock, Report, size_text

OpenArtifact = Callable[[str], Iterator[bytes]]
"""Gives an artifact's plaintext by name; may be called several times and from several threads."""


@dataclass(frozen=True)
class RestoreReport:
    """What a restore made, and how many seconds each phase took. `notes` are what could not be as it was.

    `not_rebuilt` are the objects that it lacks: then it is incomplete. `left_out` is what the source held and no dump
    holds; the notes have it too. `damaged` says why copies in other repositories
    were of no use.
    """

    database: str
    evidence: Evidence
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    not_rebuilt: tuple[NotRebuilt, ...] = ()
    left_out: tuple[str, ...] = ()


def restore_database(
    server: PostgresServer,
    database: str,
    open_artifact: OpenArtifact,
    *,
    evidence: Evidence,
    dump_major: int,
    row_artifacts: Sequence[str],
    with_globals: bool,
    installed: Sequence[Programs],
    selection: Selection | None = None,
    jobs: int | None = None,
    statistics: bool = True,
    all_or_nothing: bool = False,
    children: Children | None = None,
    report: Report | None = None,
) -> RestoreReport:
    """Make `database` on `server` and fill it with a complete dump; `evidence` is what the source held.

    `row_artifacts` are those that hold rows, `dump` among them, in the order to begin with them: the largest first.
    Roles the dump names are created where they are missing and never changed where they exist. Where one of its
    tablespaces is missing, everything goes into the default one, and a note says so. Without `statistics`, they are
    left to autovacuum, and first queries may be slow. With a `selection`, only those tables, or only definitions, are
    restored and compared. Objects that cannot be rebuilt are listed in the report, and all else is kept and compared as
    always; with `all_or_nothing`, the first is an error.

    Raises `RestoreFailed`, `EvidenceMismatch` when the result differs otherwise, and whatever `open_artifact` raises;
    in each case the new database is removed again. Until it is whole it is marked as unfinished, and what a killed
    restore has left under its name is removed first. Raises before anything is touched when the name is taken otherwise
    or no client fits, and `NotReady` when the server lacks extensions or room. May be repeated.
    """
    children, jobs = children or Children(), jobs or os.cpu_count() or 1
    clock, selection = PhaseClock(report), selection or Selection()
    with server.administer() as admin:
        target_major = admin.info.server_version // 10000
        programs = _fitting_programs(server, evidence, dump_major, target_major, installed)
        remove_unfinished(admin, server, database, report or (lambda _: None))
        refuse_unable(admin, server)
        # The comparison has a connection of its own beside those that count.
        wanted, jobs = jobs, at_a_time(admin, server, jobs, beside=1, fixed=None)
        few = (f"Streams and indexes: {remark(wanted, jobs, admin)}",) if jobs < wanted else ()
        if not selection.tables:
            _refuse_unfit(admin, server, evidence, selection)
        with clock.phase("roles"):
            script = read_script(b"".join(open_artifact("globals"))) if with_globals else ""
            notes = few + restore_roles(admin, server, script, evidence.database.owner)
        lost = missing_tablespaces(script, [name for (name,) in admin.execute("SELECT spcname FROM pg_tablespace")])
        notes += tuple(f"The tablespace {name} is not on {server}; everything is in the default one." for name in lost)
        settings = _session_settings(admin, jobs)
        job = _Job(
            server,
            database,
            programs,
            target_major,
            children,
            open_artifact,
            jobs,
            not lost,
            evidence.database.encoding,
            settings,
            all_or_nothing,
        )
        with clock.phase("database"):
            oid, remarks = make_database(admin, server, database, evidence.database, report or (lambda _: None))
            notes += remarks
        try:
            with memory_file() as head:
                part, built = None, frozenset[int]()
                with clock.phase("definitions"):
                    if selection.tables:
                        part = job.restore_part_of_definitions(head, selection.tables)
                        notes += part.notes
                    else:
                        job.restore_definitions(head, *(["--schema-only"] if selection.schema_only else []))
                    contents = job.contents(head)
                    rebuilding = job.rebuilding(head, contents, evidence)
                    rebuilding.definitions()
                analysis = Analysis(server, database, jobs, settings, children)
                with clock.phase("rows and indexes"):
                    if part is not None and not selection.schema_only:
                        job.restore_part_of_rows(part, evidence)
                    elif not selection.schema_only:
                        built = job.restore_all_rows(
                            head, contents, row_artifacts, evidence, analysis if statistics else None
                        )
                    rebuilding.rows()
                with clock.phase("remaining definitions"):
                    first, last = job.the_rest(head, contents, part, built)
                    first()
                    rebuilding.definitions()
                    last()
                    rebuilding.definitions()
                not_rebuilt = rebuilding.not_rebuilt()
                notes += tuple(rebuilding.notes)
            with clock.phase("properties"):
                notes += apply_properties(admin, database, evidence.database)
                notes += tuple(
                    f"The subscription {subscription.name} is there, switched off."
                    for subscription in subscriptions_of(admin, database)
                )
            with clock.phase("comparison"):
                restored = compare(
                    server,
                    database,
                    expected(evidence, part, selection),
                    partly=part is not None,
                    jobs=jobs,
                    missing=not_rebuilt,
                )
            left_out: tuple[str, ...] = ()
            if part is None and not selection.schema_only:
                left_out = lost_contents(evidence.extension_contents, restored.extension_contents)
                left_out += tuple(map(unlogged_note, evidence.unlogged))
            notes += left_out
            if statistics:
                with clock.phase("statistics"):
                    analysis.complete()
                notes += analysis.notes
            notes += apply_connection_limit(admin, database, evidence.database)
            notes += mark_finished(server, database, oid, evidence.database.comment)
            restored = replace(restored, database=replace(restored.database, comment=evidence.database.comment))
        except BaseException:
            children.give_up()
            remove_database(server, database, oid)
            raise
    return RestoreReport(
        database,
        restored,
        clock.seconds,
        tuple(map(writable, notes)),
        not_rebuilt=not_rebuilt,
        left_out=tuple(map(writable, left_out)),
    )


@contextmanager
def removed_on_failure(server: PostgresServer, database: str) -> Iterator[None]:
    """Remove a database that was restored here when what follows fails; only that very one."""
    with server.administer() as admin:
        oid = _oid(admin, database)
    try:
        yield
    except BaseException:
        remove_database(server, database, oid)
        raise


@contextmanager
def temporary(server: PostgresServer, database: str) -> Iterator[None]:
    """Remove a database that was restored here at the end; only that very one."""
    with removed_on_failure(server, database):
        with server.administer() as admin:
            oid = _oid(admin, database)
        yield
    remove_database(server, database, oid)


@dataclass(frozen=True)
class _Job:
    server: PostgresServer
    database: str
    programs: Programs
    target_major: int
    children: Children
    open_artifact: OpenArtifact
    jobs: int
    tablespaces: bool
    encoding: str
    settings: Mapping[str, str]
    all_or_nothing: bool
    failed: dict[str, set[int]] = field(default_factory=dict)
    """By artifact, the entries that have failed and were not tried again yet."""

    def restore_definitions(self, head: IO[bytes], *arguments: str) -> None:
        """Types, tables, functions and views. `pg_restore` reads no further than the table of contents at the start of
        the archive; what it was given goes into `head` too, which so holds all of that table."""
        self._restore("dump", "--section=pre-data", *arguments, copy_to=head)

    def restore_part_of_definitions(self, head: IO[bytes], tables: Sequence[str]) -> Part:
        """The same for some tables and all that they need; which part of the dump that is."""
        failure = _restore_failed(self.server, self.database, "dump")
        chunks = _copied(self.open_artifact("dump"), head)
        listing: list[str | Path] = [self.programs.path("pg_restore"), "--list"]
        feed(self.children, listing, chunks, env=self.server.child_environment(), failure=failure)
        part = choose_part(self.contents(head), tables)
        self._run_numbers(head, ["--section=pre-data"], part.numbers)
        return part

    def restore_part_of_rows(self, part: Part, evidence: Evidence) -> None:
        """The rows of some tables, from the streams that hold them, and where their sequences stood."""
        wanted: dict[tuple[str, str], list[str]] = {}
        for table in evidence.tables:
            if (table.schema, table.name) in part.tables:
                wanted.setdefault((table.artifact, table.schema), []).append(table.name)
        for schema, name in part.sequences:
            wanted.setdefault(("dump", schema), []).append(name)
        self.restore_rows(
            [
                (
                    artifact,
                    tuple(argument(a, self.encoding) for a in (f"--schema={schema}", *map("--table={}".format, names))),
                )
                for (artifact, schema), names in wanted.items()
            ]
        )

    def restore_all_rows(
        self,
        head: IO[bytes],
        contents: Sequence[Entry],
        artifacts: Sequence[str],
        evidence: Evidence,
        analysis: Analysis | None,
    ) -> frozenset[int]:
        """All rows, and while others still come, what builds on them: the constraints, statistics and indexes of tables
        with streams of their own. Which entries were built.

        Adding a constraint locks its table, so those of a stream are one list; its indexes are dealt out into as many
        as there are cores, for all of them to be at one large table.
        """
        streams = {(t.schema, t.name): t.artifact for t in evidence.tables if t.artifact != "dump"}
        early = to_build_early(contents, streams)
        built, indexes = set[int](), list[Sequence[int]]()

        def build(numbers: Sequence[int]) -> Callable[[], None]:
            built.update(numbers)
            return partial(self._run_numbers, head, ["--section=post-data"], numbers)

        def constraints_of(artifact: str) -> Iterator[Callable[[], None]]:
            if artifact in early:
                yield build(early[artifact].alone)
                indexes.extend(early[artifact].side_by_side[share :: self.jobs] for share in range(self.jobs))

        def statistics_and_indexes() -> Iterator[Callable[[], None]]:
            yield from analysis.shares() if analysis else ()
            yield from map(build, indexes)

        self.restore_rows([(artifact, ()) for artifact in artifacts], constraints_of, statistics_and_indexes)
        return frozenset(built)

    def restore_rows(
        self,
        artifacts: Sequence[tuple[str, Sequence[str]]],
        after_each: Callable[[str], Iterable[Callable[[], None]]] = lambda _: (),
        after_all: Callable[[], Iterable[Callable[[], None]]] = tuple,
    ) -> None:
        """Rows, sequences and large objects, from several streams at a time, each with arguments of its own.

        What is to be done after a stream, and after all of them, takes its turn with the streams.
        """
        with ThreadPoolExecutor(max_workers=self.jobs, thread_name_prefix="restore") as pool:
            try:
                rows = {
                    pool.submit(self._restore, name, "--section=data", *arguments): name
                    for name, arguments in artifacts
                }
                more: list[Future[None]] = []
                for future in as_completed(rows):
                    future.result()
                    more += [pool.submit(step) for step in after_each(rows[future])]
                more += [pool.submit(step) for step in after_all()]
                for future in as_completed(more):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.children.give_up()
                raise

    def the_rest(
        self, head: IO[bytes], contents: Sequence[Entry], part: Part | None, built: Collection[int]
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """What restores indexes not built yet, foreign keys, triggers and the rest, several at a time, and then what
        must come last; their definitions are all in the head."""
        side_by_side = ["--section=post-data", f"--jobs={self.jobs}"]
        latest = to_restore_last(contents)
        numbers = part.numbers if part is not None else all_numbers(self.said_of(head, "--list"))
        numbers = tuple(number for number in numbers if number not in built)
        first, last = [n for n in numbers if n not in latest], [n for n in numbers if n in latest]
        return (
            partial(self._run_numbers, head, side_by_side, first),
            partial(self._run_numbers, head, ["--section=post-data"], last),
        )

    def rebuilding(self, head: IO[bytes], contents: Sequence[Entry], evidence: Evidence) -> _Again:
        """What tries again what has failed."""
        return _Again(self, head, {entry.number: entry for entry in contents}, evidence)

    def contents(self, head: IO[bytes]) -> tuple[Entry, ...]:
        """The entries of the dump, its rows left out."""
        return read_contents(self.said_of(head, "--verbose", "--section=pre-data", "--section=post-data", "--file=-"))

    def said_of(self, head: IO[bytes], *arguments: str) -> str:
        """What `pg_restore` writes when it restores nothing."""
        return self.script_of(head, *arguments).decode(*TEXT)

    def script_of(self, head: IO[bytes], *arguments: str, inherits: Sequence[IO[bytes]] = ()) -> bytes:
        """The same, as it is."""
        chunks = output_of(
            self.children,
            [self.programs.path("pg_restore"), *self.everywhere, *arguments, path_of(head)],
            env=self.server.child_environment(),
            failure=_restore_failed(self.server, self.database, "dump"),
            inherits=[head, *inherits],
        )
        return as_utf8(b"".join(chunks), self.encoding)

    def lines_of(self, artifact: str, *arguments: str, inherits: Sequence[IO[bytes]] = ()) -> Generator[bytes]:
        """The same of any artifact, line by line."""
        lines = filtered(
            self.children,
            [self.programs.path("pg_restore"), *self.everywhere, *arguments],
            self.open_artifact(artifact),
            env=self.server.child_environment(),
            failure=_restore_failed(self.server, self.database, artifact),
            inherits=inherits,
        )
        with closing(lines):
            for line in lines:
                yield as_utf8(line, self.encoding)

    @property
    def everywhere(self) -> Sequence[str]:
        """The arguments of every `pg_restore`."""
        return () if self.tablespaces else ("--no-tablespaces",)

    def _run_numbers(self, head: IO[bytes], arguments: Sequence[str], numbers: Sequence[int]) -> None:
        if numbers:
            with memory_file() as chosen:
                chosen.write(use_list(numbers))
                chosen_from = [f"--use-list={path_of(chosen)}", *arguments, path_of(head)]
                self._run(chosen_from, [], "dump", inherits=[chosen, head])

    def _restore(self, artifact: str, *arguments: str, copy_to: IO[bytes] | None = None) -> None:
        chunks = self.open_artifact(artifact)
        self._run(list(arguments), _copied(chunks, copy_to) if copy_to else chunks, artifact)

    def _run(
        self,
        arguments: Sequence[str],
        chunks: Iterator[bytes] | list[bytes],
        artifact: str,
        *,
        inherits: Sequence[IO[bytes]] = (),
    ) -> None:
        newer = self.programs.major > self.target_major
        heard = Heard(goes_on=not self.all_or_nothing)
        command: list[str | Path] = [
            self.programs.path("pg_restore"), "--no-password",
            f"--dbname={self.server.database_argument(self.database)}",
            *(["--exit-on-error"] if self.all_or_nothing and not newer else []),
            *([] if self.all_or_nothing else ["--verbose"]), *self.everywhere, *arguments,
        ]  # fmt: skip
        feed(
            self.children,
            command,
            chunks,
            env=self.server.child_environment(**self.settings),
            failure=_restore_failed(self.server, self.database, artifact),
            hear=heard.hear,
            forgives=heard.forgives if newer or not self.all_or_nothing else None,
            inherits=inherits,
        )
        if heard.numbers:
            self.failed.setdefault(artifact, set()).update(heard.numbers)


@dataclass
class _Again:
    """What of a restore has failed, tried again at the right time: rows before there are triggers for them to fire."""

    job: _Job
    head: IO[bytes]
    entries: dict[int, Entry]
    evidence: Evidence

    def __post_init__(self) -> None:
        self._left: tuple[Item, ...] = ()
        self._lost: tuple[Item, ...] = ()
        self._rebuilding = Rebuilding(
            self.job.server,
            self.job.database,
            self.evidence,
            self.job.settings,
            self._script,
            self._rows,
            self._owners,
        )

    @property
    def notes(self) -> Sequence[str]:
        """What came about in another way than it is written."""
        return self._rebuilding.notes

    def definitions(self) -> None:
        """Try what has failed of definitions, and what is left of earlier tries."""
        numbers = self.job.failed.pop("dump", set())
        if numbers or self._left:
            listing = self.job.said_of(self.head, "--list")
            rows = numbers_of_rows(listing)
            ordered = [number for number in all_numbers(listing) if number not in rows]
            wanted = (numbers | {item.number for item in self._left}).intersection(ordered)
            self._read(wanted - set(self.entries))
            items = [self._item(number) for number in ordered if number in wanted]
            self._left = self._rebuilding.try_again(items)

    def rows(self) -> None:
        """Try the rows that have failed, and with them the definitions that are left of earlier tries."""
        failed = dict(self.job.failed)
        self.job.failed.clear()
        items = [item for artifact, numbers in failed.items() for item in self._rows_of(artifact, numbers)]
        # Among rows come the grants and comments of large objects, and meanwhile what was built early.
        others = failed.get("dump", set()) - {item.number for item in items if item.artifact == "dump"}
        if others:
            self.job.failed["dump"] = others
        if not items:
            return
        self.definitions()
        left = self._rebuilding.try_again([*self._left, *items])
        self._left = tuple(item for item in left if item not in items)
        self._lost = self._rebuilding.without_checks([item for item in left if item in items])

    def not_rebuilt(self) -> tuple[NotRebuilt, ...]:
        """What is left of all tries."""
        return self._rebuilding.not_rebuilt((*self._lost, *self._left))

    def _item(self, number: int) -> Item:
        entry = self.entries[number]
        return Item("dump", number, entry.kind, entry.schema, entry.name)

    def _rows_of(self, artifact: str, numbers: Collection[int]) -> list[Item]:
        if artifact == "dump":
            listing = self.job.said_of(self.head, "--list")
        else:
            listing = b"".join(self.job.lines_of(artifact, "--list")).decode(*TEXT)
        return list(rows_listed(listing, artifact, self.evidence, numbers))

    def _read(self, numbers: Collection[int]) -> None:
        """Read entries of what is no definition: `contents` leaves out all that comes among rows."""
        if numbers:
            with memory_file() as chosen:
                chosen.write(use_list(numbers))
                listed = ("--verbose", f"--use-list={path_of(chosen)}", "--file=-")
                script = self.job.script_of(self.head, *listed, inherits=[chosen]).decode(*TEXT)
            self.entries.update((entry.number, entry) for entry in read_contents(script))

    def _script(self, item: Item) -> bytes:
        return self._without_owner(item, "--no-owner")

    def _owners(self, item: Item) -> tuple[bytes, ...]:
        if item.kind == ROWS:
            return ()
        before = self._without_owner(item, "--no-owner").splitlines()
        given = (line for line in self._without_owner(item).splitlines() if _OWNED.fullmatch(line))
        return tuple(line for line in given if line not in before)

    def _without_owner(self, item: Item, *arguments: str) -> bytes:
        with memory_file() as chosen:
            chosen.write(use_list([item.number]))
            listed = (f"--use-list={path_of(chosen)}", "--file=-", *arguments)
            if item.artifact == "dump":
                script = self.job.script_of(self.head, *listed, inherits=[chosen])
            else:
                script = b"".join(self.job.lines_of(item.artifact, *listed, inherits=[chosen]))
        return _NOT_FOR_A_SERVER.sub(b"", script)

    def _rows(self, item: Item) -> Generator[bytes]:
        with memory_file() as chosen:
            chosen.write(use_list([item.number]))
            listed = (f"--use-list={path_of(chosen)}", "--file=-", "--section=data")
            for line in self.job.lines_of(item.artifact, *listed, inherits=[chosen]):
                if not _NOT_FOR_A_SERVER.match(line):
                    yield line


_OWNED = re.compile(rb"ALTER [A-Z ]+ .* OWNER TO .*;")

# psql's own commands, and a setting that an older server has not got.
_NOT_FOR_A_SERVER = re.compile(rb"^(?:\\(?:un)?restrict .*|SET transaction_timeout = 0;)\n", re.MULTILINE)


_SESSION = {"synchronous_commit": "off", "maintenance_work_mem": "256MB", "statement_timeout": "0", "lock_timeout": "0"}

# Several sessions at a time use the cores better than parallel workers of one.
_SIDE_BY_SIDE = {"max_parallel_maintenance_workers": "0", "max_parallel_workers_per_gather": "0", "jit": "off"}


def _session_settings(admin: Connection, jobs: int) -> dict[str, str]:
    """Settings of the sessions that restore: those that speed up a restore and that this user may change.

    Autovacuum finds the new rows at once. It gives way to a session that waits for its lock, but only after
    `deadlock_timeout` (PostgreSQL manual, Routine Vacuuming), a second for nearly every index.
    """
    row = admin.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    settings = _SESSION | (_SIDE_BY_SIDE if jobs > 1 else {})
    return settings | ({"deadlock_timeout": "20ms"} if row and row[0] else {})


def _fitting_programs(
    server: PostgresServer, evidence: Evidence, dump_major: int, target_major: int, installed: Sequence[Programs]
) -> Programs:
    if target_major < evidence.server_major:
        raise RestoreFailed(
            f"The dump is of PostgreSQL {evidence.server_major}, and {server} is {target_major}: older.",
            hint="Restore to a server of the same version or a newer one.",
        )
    return programs_for_restore(dump_major, target_major, programs_that_obey(installed, server.options))


def _refuse_unfit(admin: Connection, server: PostgresServer, evidence: Evidence, selection: Selection) -> None:
    """Raise `NotReady` for what a whole database needs and the server has not: extensions, and room for the rows."""
    there = {name for (name,) in admin.execute("SELECT name FROM pg_available_extensions")}
    obstacles = [f"It has not got the extension {name}." for name in sorted(set(evidence.extensions) - there)]
    needed, free = int(evidence.size * ROOM), free_bytes(admin, server)
    if free is not None and free < needed and not selection.schema_only:
        obstacles.append(f"It has room for {size_text(free)}, and about {size_text(needed)} are needed.")
    if obstacles:
        raise NotReady(
            f"The database cannot be restored on {server}:" + "".join(f"\n- {obstacle}" for obstacle in obstacles),
            hint="Nothing was touched. Install what is missing, make room, or restore to another server.",
        )


def _oid(admin: Connection, database: str) -> int:
    row = admin.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", [database]).fetchone()
    assert row is not None
    return int(row[0])


def _restore_failed(server: PostgresServer, database: str, artifact: str) -> Failure:
    def failure(status: int, said: str) -> LifeboatError:
        words = f"{how_it_ended(status)}: {discreet(said)[:3000] or 'it said nothing'}"
        fault = fault_said(said)
        kind = TargetUnavailable if fault is not None and fault.passing else RestoreFailed
        return kind(
            f"Restoring {artifact} into {database!r} on {server} {words}",
            hint=(f"{fault.hint_for(server.user)} " if fault is not None else "")
            + "The new database was removed again; nothing else was touched.",
        )

    return failure


def _copied(chunks: Iterator[bytes], copy_to: IO[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        copy_to.write(chunk)
        yield chunk
