"""What of a dump did not come about at once: tried again, and where it cannot be rebuilt, listed.

In a disaster rows are worth more than perfection: an index over a function that finds its tables no more is no reason
to throw all rows away. Objects are tried again when all rows and functions are there, as they are and with the search
path that the source had; rows that a CHECK refuses are let in without it, and it is put back as far as it can be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile

import psycopg
from psycopg import sql

from lifeboat.errors import RestoreFailed
from lifeboat.postgres.connection import Connection, PostgresServer, identifier
from lifeboat.postgres.evidence import Evidence
from lifeboat.postgres.faults import words_of
from lifeboat.postgres.session import TEXT
from lifeboat.progress import count_text

ROWS = "TABLE DATA"
"""The kind of an entry that is the rows of a table."""


@dataclass(frozen=True)
class NotRebuilt:
    """An object that a restore could not bring back: what it is, what would make it, and what the server says to that.

    Neither has rows or passwords in it.
    """

    kind: str
    name: str
    statement: str
    answer: str

    @property
    def rows_are_lost(self) -> bool:
        """Whether what is missing is the rows of a table."""
        return self.kind == ROWS

    def __str__(self) -> str:
        what = f"The rows of {self.name}" if self.rows_are_lost else f"{self.kind} {self.name}"
        return f"{what}: {self.answer}"

    def record(self) -> dict[str, str]:
        """As JSON values."""
        return {"kind": self.kind, "name": self.name, "statement": self.statement, "answer": self.answer}

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> NotRebuilt:
        """As `record` gave it."""
        return cls(record["kind"], record["name"], record["statement"], record["answer"])


def listed(not_rebuilt: Sequence[NotRebuilt]) -> str:
    """What an incomplete restore lacks, in words: a line each, with its SQL."""
    lines = "".join(f"\n- {one}\n    {_on_one_line(one.statement)}" for one in not_rebuilt)
    return f"{count_text(len(not_rebuilt), 'object')} could not be rebuilt:{lines}"


def refuse_lost_rows(not_rebuilt: Sequence[NotRebuilt]) -> None:
    """Raise `RestoreFailed` where rows that are to be taken over could not be restored."""
    lost = [one for one in not_rebuilt if one.rows_are_lost]
    if lost:
        raise RestoreFailed(
            f"The rows could not be restored. {listed(lost)}", hint="Nothing was changed. Restore another snapshot."
        )


def _on_one_line(statement: str) -> str:
    return " ".join(statement.split())


@dataclass(frozen=True)
class Item:
    """An entry of an archive, as `pg_restore --list` tells it: artifact, number, kind, schema and name."""

    artifact: str
    number: int
    kind: str
    schema: str
    name: str

    @property
    def label(self) -> str:
        """Schema and name, as people write them."""
        return self.name if self.schema == "-" else f"{self.schema}.{self.name}"


class Heard:
    """Hears a `pg_restore` that goes on after errors: `numbers` are the entries that failed.

    It only tells them with `--verbose`. That of a setting an older server has not got is no entry's failure: version 17
    begins every session with `SET transaction_timeout = 0`.
    """

    def __init__(self, *, goes_on: bool) -> None:
        self.numbers: set[int] = set()
        self._goes_on = goes_on
        self._settings = 0
        self._ignored: int | None = None

    def hear(self, line: bytes) -> None:
        """One line of what it says."""
        self.numbers.update(int(number) for number in _ENTRY.findall(line))
        self._settings += _UNKNOWN_SETTING.search(line) is not None
        if found := _IGNORED.search(line):
            self._ignored = int(found[1])

    def forgives(self, _: str) -> bool:
        """Whether it came to its end, and each error was that of an entry or of an unknown setting."""
        if self._ignored is None:
            return False
        return self._settings >= self._ignored or (self._goes_on and bool(self.numbers))


_ENTRY = re.compile(rb"from TOC entry (\d+); \d+ \d+ [A-Z]")
_UNKNOWN_SETTING = re.compile(rb'"transaction_timeout"')
_IGNORED = re.compile(rb"errors ignored on restore: (\d+)")


ScriptOf = Callable[[Item], bytes]
"""What makes an object, as a script without its owner; of rows, none."""

RowsOf = Callable[[Item], Generator[bytes]]
"""The lines of the script that fills a table."""

OwnerOf = Callable[[Item], tuple[bytes, ...]]
"""What gives an object to its owner."""


@dataclass
class Rebuilding:
    """Tries again what has failed, in one session. `search_path` is what the source's sessions had, None for theirs.

    What fails for another reason than the object itself, such as a lost connection or a full disk, is raised.
    """

    server: PostgresServer
    database: str
    evidence: Evidence
    settings: Mapping[str, str]
    script_of: ScriptOf
    rows_of: RowsOf
    owner_of: OwnerOf
    answers: dict[Item, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dropped: list[NotRebuilt] = field(default_factory=list)

    def try_again(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """Try these in their order, as long as any more of them comes about; what is left, with its answer."""
        left = tuple(items)
        while left:
            with self.server.connect(self.database) as connection:
                failed = tuple(item for item in left if not self._made(connection, item))
            if len(failed) == len(left):
                break
            left = failed
        return left

    def without_checks(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """Load rows that a CHECK of their table or of a domain refuses without it, and put it back as far as it goes;
        and rows whose generated columns cannot be computed, with those empty. What is left."""
        checks: dict[_Check, Item] = {}
        with self.server.connect(self.database) as connection:
            left = tuple(
                item
                for item in items
                if item.kind != ROWS
                or not (
                    self._loaded_unchecked(connection, item, checks)
                    or self._loaded_unchecked(connection, item, checks, self._generated(connection, item))
                )
            )
            # When all rows are there: those of several tables may have been refused by one check.
            for check, item in checks.items():
                self._put_back(connection, item, check)
        return left

    def not_rebuilt(self, items: Sequence[Item]) -> tuple[NotRebuilt, ...]:
        """What is left of all tries, lost rows first."""
        found = [
            NotRebuilt(item.kind, item.label, self._statement(item), self.answers.get(item, "it was not made"))
            for item in items
        ] + self.dropped
        return tuple(sorted(found, key=lambda one: not one.rows_are_lost))

    def _made(self, connection: Connection, item: Item) -> bool:
        for path in ("", self._source_path(item)):
            try:
                if item.kind == ROWS:
                    self._load(connection, item, path)
                else:
                    self._run(connection, self.script_of(item), path)
            except psycopg.Error as error:
                if error.sqlstate in _THERE_ALREADY or (error.sqlstate == _TAKEN and item.kind in LARGE_OBJECTS):
                    return self._owned(connection, item)
                self.answers[item] = words_of(error)
                continue
            if path:
                what = (
                    f"The rows of {item.label} came" if item.kind == ROWS else f"{item.kind} {item.label} was rebuilt"
                )
                self.notes.append(f"{what} with the search path {path}, and could not be restored without it.")
            return self._owned(connection, item)
        return False

    def _owned(self, connection: Connection, item: Item) -> bool:
        for statement in self.owner_of(item):
            try:
                self._run(connection, statement, "")
            except psycopg.Error as error:
                self.dropped.append(NotRebuilt("OWNER", item.label, _shown(statement), words_of(error)))
        return True

    def _run(self, connection: Connection, script: bytes, path: str) -> None:
        try:
            with connection.transaction():
                self._prepare(connection)
                connection.execute(_with_path(script, path, connection))
        except psycopg.Error as error:
            _refuse_faults_of_the_run(error, connection, self.database)
            raise

    def _load(self, connection: Connection, item: Item, path: str) -> None:
        try:
            with connection.transaction():
                self._prepare(connection)
                self._copy(connection, item, path)
        except psycopg.Error as error:
            _refuse_faults_of_the_run(error, connection, self.database)
            raise

    def _copy(self, connection: Connection, item: Item, path: str) -> None:
        name = identifier(item.schema, item.name)
        row = connection.execute(_IS_PARTITION, [item.schema, item.name]).fetchone()
        there = sql.SQL("SELECT FROM ONLY {} LIMIT 1").format(name)
        # A partition may hold rows of others, which have come by way of the table that it is a part of.
        if row == (False,) and connection.execute(there).fetchone() is not None:
            return  # they have come already
        with closing(self.rows_of(item)) as lines:
            for statement in _statements(lines):
                if not statement.startswith(b"COPY "):
                    connection.execute(_with_path(statement, path, connection))
                    continue
                with connection.cursor().copy(statement.rstrip().rstrip(b";")) as rows:
                    for line in takewhile(lambda line: line.rstrip() != b"\\.", lines):
                        rows.write(line)
                return
        # What seems to be done here would be lost.
        raise RestoreFailed(
            f"The rows of {item.label} are not where the archive says.", hint="Verify the snapshot, or use another."
        )

    def _loaded_unchecked(
        self, connection: Connection, item: Item, dropped: dict[_Check, Item], generated: Sequence[_Generated] = ()
    ) -> bool:
        checks = [_Check(*row) for row in connection.execute(_CHECKS, [item.schema, item.name]).fetchall()]
        try:
            with connection.transaction():
                self._prepare(connection)
                for check in checks:
                    drop = sql.SQL("ALTER {} {} DROP CONSTRAINT IF EXISTS {}")
                    connection.execute(drop.format(sql.SQL(check.of), check.whose, identifier(check.name)))
                table = identifier(item.schema, item.name)
                for column in generated:
                    left_empty = sql.SQL(
                        "ALTER TABLE {} ALTER COLUMN {} DROP EXPRESSION, ALTER COLUMN {} DROP NOT NULL"
                    )
                    connection.execute(left_empty.format(table, *[identifier(column.name)] * 2))
                self._copy(connection, item, self._source_path(item))
        except psycopg.Error as error:
            _refuse_faults_of_the_run(error, connection, self.database)
            return False
        if checks:
            self.notes.append(f"The rows of {item.label} were let in without its CHECK constraints.")
        for column in generated:
            answer = f"it is empty, and an ordinary column: {self.answers.get(item, 'it could not be computed')}"
            made = column.statement(table.as_string(connection), identifier(column.name).as_string(connection))
            self.dropped.append(NotRebuilt(GENERATED, f"{item.label} {column.name}", made, answer))
        for check in checks:
            dropped.setdefault(check, item)
        return True

    def _generated(self, connection: Connection, item: Item) -> tuple[_Generated, ...]:
        rows = connection.execute(_STORED_COLUMNS, [item.schema, item.name]).fetchall()
        return tuple(_Generated(*row) for row in rows)

    def _put_back(self, connection: Connection, item: Item, check: _Check) -> None:
        add = f"ALTER {check.of} {check.whose.as_string(connection)} ADD CONSTRAINT "
        add += f"{identifier(check.name).as_string(connection)} {check.definition}"
        for path in ("", self._source_path(item)):
            with suppress(psycopg.Error):
                self._run(connection, f"{_PATH}{add};".encode(*TEXT), path)
                return
        try:
            self._run(connection, f"{add.removesuffix(' NOT VALID')} NOT VALID;".encode(*TEXT), "")
            answer = "it is there for new rows; some that are there do not meet it"
        except psycopg.Error as error:
            answer = words_of(error)
        kind = "CHECK CONSTRAINT" if check.of == "TABLE" else f"{check.of} CONSTRAINT"
        label = f"{check.schema}.{check.owner} {check.name}"
        self.dropped.append(NotRebuilt(kind, label, f"{add};", answer))

    def _prepare(self, connection: Connection) -> None:
        for name, value in self.settings.items():
            connection.execute("SELECT pg_catalog.set_config(%s, %s, true)", [name, value])

    def _source_path(self, item: Item) -> str:
        """The search path of the source's sessions, the object's own schema first."""
        said = [
            value
            for role, setting in self.evidence.database.settings
            if role in (None, self.evidence.database.owner)
            for name, _, value in [setting.partition("=")]
            if name == "search_path" and value
        ]
        own = [] if item.schema in ("-", "pg_catalog", "public") else [identifier(item.schema).as_string()]
        return ", ".join(dict.fromkeys([*own, *said, "public"]))

    def _statement(self, item: Item) -> str:
        return f"COPY {item.label} FROM stdin" if item.kind == ROWS else _shown(self.script_of(item))


_THERE_ALREADY = frozenset({"42P07", "42710", "42723", "42P06", "42P03", "42P04", "42P05"})
"""The codes of what exists already (PostgreSQL manual, Error Codes): then an earlier try has made it."""

_TAKEN = "23505"
"""The code that a large object has which exists already, as it is a row of a catalogue."""

LARGE_OBJECTS = frozenset({"BLOB", "BLOB METADATA"})
"""The kinds of entries that make large objects; the second makes several of one owner, since version 17."""

_PATH = "SELECT pg_catalog.set_config('search_path', '', false);\n"

_IS_PARTITION = """
    SELECT c.relispartition FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE (n.nspname, c.relname) = (%s, %s)
"""


@dataclass(frozen=True)
class _Check:
    """A CHECK constraint of a `TABLE` or a `DOMAIN`, and whose it is."""

    of: str
    schema: str
    owner: str
    name: str
    definition: str

    @property
    def whose(self) -> sql.Identifier:
        return identifier(self.schema, self.owner)


GENERATED = "GENERATED COLUMN"
"""What a column is called that could not be computed for the rows of its table."""


@dataclass(frozen=True)
class _Generated:
    """A stored generated column: its name, its type, and what it is computed of."""

    name: str
    type: str
    expression: str
    not_null: bool

    def statement(self, table: str, column: str) -> str:
        """What makes it a generated one again; no ordinary column can become one."""
        kind = f"{self.type} GENERATED ALWAYS AS ({self.expression}) STORED{' NOT NULL' if self.not_null else ''}"
        return f"ALTER TABLE {table} DROP COLUMN {column}, ADD COLUMN {column} {kind};"


_STORED_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull
      FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
           JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE (n.nspname, c.relname) = (%s, %s) AND a.attgenerated = 's' AND NOT a.attisdropped ORDER BY a.attnum
"""


# Those of a table, and of the domains in its columns. A constraint that a table has inherited can only be dropped where
# it comes from. Arrays and composite types may be of domains too.
_CHECKS = """
    WITH RECURSIVE mine AS (
        SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE (n.nspname, c.relname) = (%s, %s)),
    above AS (
        SELECT m.oid, k.conname FROM mine m JOIN pg_constraint k ON k.conrelid = m.oid AND k.contype = 'c'
        UNION SELECT i.inhparent, a.conname FROM above a JOIN pg_inherits i ON i.inhrelid = a.oid
                JOIN pg_constraint k ON k.conrelid = i.inhparent AND k.contype = 'c' AND k.conname = a.conname),
    held AS (
        SELECT a.atttypid AS oid FROM mine m JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum > 0
        UNION SELECT part.oid FROM held h JOIN pg_type t ON t.oid = h.oid
                CROSS JOIN LATERAL (SELECT t.typbasetype UNION ALL SELECT t.typelem UNION ALL
                                    SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid) part (oid)
         WHERE part.oid <> 0)
    SELECT 'TABLE', n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid)
      FROM above a JOIN pg_constraint k ON k.conrelid = a.oid AND k.conname = a.conname AND k.contype = 'c'
                   JOIN pg_class c ON c.oid = a.oid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE k.coninhcount = 0
    UNION ALL
    SELECT 'DOMAIN', n.nspname, t.typname, k.conname, pg_get_constraintdef(k.oid)
      FROM held h JOIN pg_constraint k ON k.contypid = h.oid AND k.contype = 'c'
                  JOIN pg_type t ON t.oid = h.oid JOIN pg_namespace n ON n.oid = t.typnamespace
     ORDER BY 1, 2, 3, 4
"""


def comparable(source: Evidence, restored: Evidence, missing: Collection[NotRebuilt]) -> tuple[Evidence, Evidence]:
    """The evidence of a source and of what was restored, both without what is known to be missing.

    Whatever builds on a missing object is missing too, so there may be fewer others than were listed, and never more.
    """
    if not missing:
        return source, restored
    lost = {one.name for one in missing if one.kind in (ROWS, "TABLE")}
    # Between such partitions rows may have moved, so that those of one that is lost are missing anywhere among them.
    mixed = {t.moves_in for t in restored.tables if t.moves_in and t.label in lost}
    lost |= {t.label for t in restored.tables if t.moves_in in mixed}
    empty = tuple(one.name for one in missing if one.kind == GENERATED)
    objects = source.objects
    if any(one.kind not in (ROWS, "OWNER", "ACL", "COMMENT") for one in missing):
        objects = {kind: min(number, restored.objects.get(kind, 0)) for kind, number in source.objects.items()}
    gone = {one.name for one in missing if one.kind == "EXTENSION"}
    standing = {(s.schema, s.name) for s in restored.sequences}
    unset = {one.name for one in missing if one.kind.startswith("SEQUENCE")}
    without_table = any(one.kind == "TABLE" for one in missing)
    sequences = tuple(
        s
        for s in source.sequences
        if f"{s.schema}.{s.name}" not in unset and not (without_table and (s.schema, s.name) not in standing)
    )
    return (
        replace(
            source,
            tables=tuple(
                replace(t, content=None) if any(name.startswith(f"{t.label} ") for name in empty) else t
                for t in source.tables
                if t.label not in lost
            ),
            objects=objects,
            extensions={name: version for name, version in source.extensions.items() if name not in gone},
            sequences=sequences,
            large_objects=min(source.large_objects, restored.large_objects)
            if any(one.kind in LARGE_OBJECTS for one in missing)
            else source.large_objects,
        ),
        replace(restored, tables=tuple(t for t in restored.tables if t.label not in lost)),
    )


def rows_listed(listing: str, artifact: str, evidence: Evidence, numbers: Collection[int]) -> tuple[Item, ...]:
    """Those of these entries that are rows or where a sequence stands, as `pg_restore --list` has printed them, in its
    order.

    Kind, schema, name and owner are separated by spaces, which any of them may have too, and which stand for line
    breaks.
    """
    names = [(t.schema, t.name) for t in evidence.tables] + [(s.schema, s.name) for s in evidence.sequences]
    known = {_on_list(f"{schema} {name}"): (schema, name) for schema, name in names}

    def named(rest: str) -> tuple[str, str]:
        starts = (rest[: space.start()] for space in reversed([*re.finditer(" ", rest)]))
        return next((known[start] for start in starts if start in known), ("-", rest))

    return tuple(
        Item(artifact, int(number), kind, *named(rest))
        for number, kind, rest in _LISTED.findall(listing)
        if int(number) in numbers
    )


def numbers_of_rows(listing: str) -> frozenset[int]:
    """The entries of rows and of where sequences stand that `pg_restore --list` has printed."""
    return frozenset(int(number) for number, _, _ in _LISTED.findall(listing))


def _on_list(name: str) -> str:
    """A name as `pg_restore --list` prints it (`sanitize_line` in PostgreSQL's `dumputils.c`)."""
    return name.replace("\n", " ").replace("\r", " ")


_LISTED = re.compile(rf"^(\d+); \d+ \d+ ({ROWS}|SEQUENCE SET|BLOBS) (.*)$", re.MULTILINE)


def _statements(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The statements of a script that fills one table, up to each end of one; rows are left to whoever takes them."""
    statement = b""
    for line in lines:
        if not statement and (line.startswith((b"--", b"\\")) or not line.strip()):
            continue
        statement += line
        bare = _QUOTED.sub(b"", statement)
        if bare.rstrip().endswith(b";") and not re.search(rb"['\"]", bare):
            yield statement
            statement = b""


# Whatever is quoted may hold line breaks, the other kind of quotes and semicolons. What is not closed yet stays.
_QUOTED = re.compile(rb"\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'")


def _with_path(script: bytes, path: str, connection: Connection) -> bytes:
    """A script of `pg_dump`, which empties the search path at its beginning, with another one."""
    if not path:
        return script
    own = sql.SQL("SELECT pg_catalog.set_config('search_path', {}, true);\n").format(sql.Literal(path))
    return script.replace(_PATH.encode(), own.as_bytes(connection), 1)


def _refuse_faults_of_the_run(error: psycopg.Error, connection: Connection, database: str) -> None:
    """Raise `RestoreFailed` for what says nothing of one object: a lost connection, a full disk, damaged pages.

    A foreign server may fail in the same way, and then it is its tables that do; but our own connection lives.
    """
    if connection.closed or error.sqlstate is None or error.sqlstate in _OF_THE_RUN:
        failed = RestoreFailed(
            f"The restore into {database!r} could not go on: {words_of(error)}",
            hint="The new database was removed again; nothing else was touched.",
        )
        failed.transient = bool(connection.closed)
        raise failed from error


_OF_THE_RUN = frozenset({"53100", "53200", "58030", "XX001", "XX002"})
"""Disk full, out of memory, input or output failed, damaged pages and indexes (PostgreSQL manual, Error Codes)."""


def _shown(script: bytes) -> str:
    """A script's own statements, without what every session begins with and without passwords."""
    lines = [
        line
        for line in script.decode(errors="backslashreplace").splitlines()
        if line.strip() and not re.match(r"--|SET \w+ = .*;$|\\|SELECT pg_catalog\.set_config\('search_path'", line)
    ]
    text = "\n".join(lines)
    if re.search(r"USER MAPPING|SUBSCRIPTION|SERVER|FOREIGN DATA", text):
        text = re.sub(r"'(?:[^']|'')*'", "'…'", text)
    return text
