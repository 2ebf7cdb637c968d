"""What this host remembers of a tree, so that unchanged files cost a look: a SQLite file of its owner alone.

It is a cache. Lost, everything is read once more; wrong about what repositories hold, that is found out by listing.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from lifeboat.errors import SettingsError, SourceUnavailable
from lifeboat.files.entries import Piece
from lifeboat.manifest import Pack
from lifeboat.own_files import make_file, make_folders

FORMAT = "1"

OTHERS = "with links and attributes"
"""What is kept of things that are neither files nor folders."""

SEVERAL = -1
"""Stands for the pack of an entry whose contents are in several."""

UNTRUSTED = 0
"""Stands for the time of change of an entry that is to be read again next time."""

INSERTED = 500
"""Rows that one statement inserts. SQLite takes 32,766 values in one."""

_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pack (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, plain_size INTEGER NOT NULL,
    sealed_size INTEGER NOT NULL, sealed_sha256 TEXT NOT NULL, blocks TEXT NOT NULL);
CREATE TABLE content (hash TEXT PRIMARY KEY, pack INTEGER NOT NULL, block INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    length INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX long_content ON content (length) WHERE length > 1048576;
CREATE TABLE entry (key BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
    inode INTEGER NOT NULL, device INTEGER NOT NULL, pack INTEGER, line TEXT NOT NULL) WITHOUT ROWID;
"""


def signed(number: int) -> int:
    """A number as it is kept: SQLite's have 64 bits and a sign, and times in nanoseconds, numbers of files and devices
    may have more. What differs by 2 to the 64th is taken for the same, and no two looks at a file differ so."""
    return number if -HALF <= number < HALF else (number + HALF) % (2 * HALF) - HALF


HALF = 2**63


class Known(NamedTuple):
    """What was seen of an entry when it was last read."""

    key: bytes
    size: int
    mtime: int
    ctime: int
    inode: int
    device: int


class Row(NamedTuple):
    """An entry as it is kept: what was seen of it, the number of its pack if it has one, its line in the index."""

    key: bytes
    size: int
    mtime: int
    ctime: int
    inode: int
    device: int
    pack: int | None
    line: str


@dataclass(frozen=True)
class StoredPack:
    """A pack that was sealed, its number in the index, and its blocks: stored and plain length of each."""

    number: int
    pack: Pack
    blocks: tuple[tuple[int, int], ...]


@dataclass
class State:
    """The file, open for one run alone. Reads and writes may come from several threads."""

    path: Path
    reading: sqlite3.Connection
    writing: sqlite3.Connection
    lock: threading.Lock = field(default_factory=threading.Lock)

    # ---- about ------------------------------------------------------------------------------------------------------

    def about(self) -> Mapping[str, str]:
        """Whose state this is: `vault`, `source`, `hash_key`; nothing when it is new."""
        return dict(self.reading.execute("SELECT name, value FROM about").fetchall())

    def begin(self, about: Mapping[str, str]) -> None:
        """Forget everything, and begin anew for this vault, source and key."""
        with self.lock, self.writing:
            for table in ("about", "pack", "content", "entry"):
                self.writing.execute(f"DELETE FROM {table}")  # noqa: S608 - a name of our own
            rows = [("format", FORMAT), ("others", OTHERS), *about.items()]
            self.writing.executemany("INSERT INTO about VALUES (?, ?)", rows)

    def look_at_others_again(self) -> None:
        """Have what is neither file nor folder looked at once more, where an older Lifeboat has kept less of it."""
        if self.about().get("others") != OTHERS:
            with self.lock, self.writing:
                self.writing.execute(
                    "UPDATE entry SET ctime = ? WHERE pack IS NULL AND substr(line, instr(line, ',\"type\":'), 13)"
                    ' NOT IN (\',"type":"file\', \',"type":"fold\')',
                    (UNTRUSTED,),
                )
                self.writing.execute("INSERT OR REPLACE INTO about VALUES ('others', ?)", (OTHERS,))

    # ---- entries ----------------------------------------------------------------------------------------------------

    def known(self) -> Iterator[Known]:
        """Yield what is known of all entries, in the order of their keys, as it was when this began."""
        connection = self._reader()
        try:
            rows = connection.execute("SELECT key, size, mtime, ctime, inode, device FROM entry ORDER BY key")
            yield from map(Known._make, rows)
        finally:
            connection.close()

    def count(self) -> int:
        """How many entries are known."""
        with self.lock:
            return int(self.writing.execute("SELECT count(*) FROM entry").fetchone()[0])

    def lines(self) -> Iterator[str]:
        """Yield the line of every entry, in the order of their keys."""
        for (line,) in self.reading.execute("SELECT line FROM entry ORDER BY key"):
            yield line

    def line(self, key: bytes) -> str | None:
        """The line of one entry."""
        with self.lock:
            found = self.writing.execute("SELECT line FROM entry WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def record(self, rows: Iterable[Row], contents: Iterable[Piece] = (), packs: Iterable[StoredPack] = ()) -> None:
        """Write down entries, where contents are, and packs; all of it or nothing."""
        with self.lock, self.writing:
            self.writing.executemany(
                "INSERT OR REPLACE INTO pack VALUES (?, ?, ?, ?, ?, ?)", [_pack_row(stored) for stored in packs]
            )
            self._insert("content", 5, ((p.hash, p.pack, p.block, p.offset, p.length) for p in contents))
            self._insert("entry", 8, rows)

    def remove(self, keys: Sequence[bytes]) -> None:
        """Forget entries."""
        with self.lock, self.writing:
            self.writing.executemany("DELETE FROM entry WHERE key = ?", [(key,) for key in keys])

    # ---- contents ---------------------------------------------------------------------------------------------------

    def find(self, content_hash: str) -> Piece | None:
        """Where contents of this hash are."""
        query = 'SELECT pack, block, "offset", length, hash FROM content WHERE hash = ?'
        with self.lock:
            found = self.writing.execute(query, (content_hash,)).fetchone()
        return None if found is None else Piece(*found)

    def has_length(self, length: int) -> bool:
        """Whether any contents of this length, of more than a mebibyte, are known."""
        query = "SELECT 1 FROM content WHERE length = ? AND length > 1048576 LIMIT 1"
        with self.lock:
            return self.writing.execute(query, (length,)).fetchone() is not None

    def has_contents(self) -> bool:
        """Whether any contents are known."""
        with self.lock:
            return self.writing.execute("SELECT 1 FROM content LIMIT 1").fetchone() is not None

    # ---- packs ------------------------------------------------------------------------------------------------------

    def packs(self) -> Iterator[StoredPack]:
        """Yield every pack that is known."""
        with self.lock:
            rows = self.writing.execute("SELECT * FROM pack ORDER BY number").fetchall()
        for number, pack_id, plain_size, sealed_size, sealed_sha256, blocks in rows:
            pairs = tuple((stored, plain) for stored, plain in json.loads(blocks))
            yield StoredPack(number, Pack(pack_id, plain_size, sealed_size, sealed_sha256), pairs)

    def last_number(self) -> int:
        """The highest number of a pack so far; 0 when there is none."""
        with self.lock:
            return int(self.writing.execute("SELECT coalesce(max(number), 0) FROM pack").fetchone()[0])

    def needed(self) -> set[int]:
        """The numbers of the packs that the entries need."""
        query = "SELECT DISTINCT pack FROM entry WHERE pack > 0"
        numbers = {number for (number,) in self.reading.execute(query)}
        for (line,) in self.reading.execute("SELECT line FROM entry WHERE pack = ?", (SEVERAL,)):
            numbers.update(piece[0] for piece in json.loads(line)["pieces"])
        return numbers

    def forget_packs(self, gone: Iterable[int]) -> None:
        """Forget packs that are nowhere, what was in them, and entries that need what is not known."""
        numbers = [(number,) for number in gone]
        with self.lock, self.writing:
            self.writing.execute("CREATE TEMP TABLE IF NOT EXISTS gone (number INTEGER PRIMARY KEY)")
            self.writing.execute("DELETE FROM gone")
            self.writing.executemany("INSERT INTO gone VALUES (?)", numbers)
            self.writing.execute("DELETE FROM pack WHERE number IN (SELECT number FROM gone)")
            for table in ("content", "entry"):
                query = f"DELETE FROM {table} WHERE pack > 0 AND pack NOT IN (SELECT number FROM pack)"  # noqa: S608 - a name of our own
                self.writing.execute(query)
            there = {number for (number,) in self.writing.execute("SELECT number FROM pack")}
            several = self.writing.execute("SELECT key, line FROM entry WHERE pack = ?", (SEVERAL,))
            lost = [(k,) for k, line in several if not there.issuperset(p[0] for p in json.loads(line)["pieces"])]
            self.writing.executemany("DELETE FROM entry WHERE key = ?", lost)

    def _insert(self, table: str, width: int, rows: Iterable[Sequence[object]]) -> None:
        """Insert rows, many by each statement: between two, other threads take the interpreter away from this one."""
        waiting = iter(rows)
        while some := list(islice(waiting, INSERTED)):
            values = ", ".join([f"({', '.join('?' * width)})"] * len(some))
            query = f"INSERT OR REPLACE INTO {table} VALUES {values}"  # noqa: S608 - a name of our own
            self.writing.execute(query, list(chain.from_iterable(some)))

    def _reader(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)


_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""What SQLite says where its disk is full or out of order; the lowest eight bits of its codes."""


@contextmanager
def open_state(folder: Path, source: str) -> Iterator[State]:
    """The state of a tree, for this process alone as long as it is open.

    One that is damaged or of another format is begun anew. Raises `SourceUnavailable` while another process has it,
    `SettingsError` when the folder cannot be used.
    """
    path = folder / f"{source}.sqlite"
    try:
        make_folders(folder)
        lock = make_file(folder / f"{source}.lock", os.O_RDWR)
    except OSError as error:
        raise SettingsError(
            f"The state of {source} cannot be kept in {folder}: {error.strerror}.",
            hint="Give `state` in platform.yaml a folder that the user who runs Lifeboat can write to.",
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceUnavailable(
                f"{source} is being backed up by another process already.", hint="Wait until it has finished."
            ) from None
        try:
            state = _opened(path)
            try:
                yield state
            finally:
                state.reading.close()
                state.writing.close()
        except sqlite3.Error as error:
            room = "Make room on its disk. " if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK else ""
            raise SettingsError(
                f"The state of {source}, {path}, cannot be used: {error}.",
                hint=f"{room}It may be removed: then everything is read once more.",
            ) from error
    finally:
        os.close(lock)


def _opened(path: Path) -> State:
    if path.exists():
        with suppress(sqlite3.DatabaseError):
            state = _connected(path)
            if state.about().get("format") == FORMAT:
                state.look_at_others_again()
                return state
            state.reading.close()
            state.writing.close()
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        (path.parent / name).unlink(missing_ok=True)
    os.close(make_file(path, os.O_EXCL | os.O_WRONLY))
    state = _connected(path)
    state.writing.executescript(_SCHEMA)
    state.begin({})
    return state


def _connected(path: Path) -> State:
    writing = sqlite3.connect(path, check_same_thread=False)
    writing.execute("PRAGMA journal_mode = WAL")
    writing.execute("PRAGMA synchronous = NORMAL")
    reading = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    return State(path, reading, writing)


def _pack_row(stored: StoredPack) -> tuple[int, str, int, int, str, str]:
    pack = stored.pack
    blocks = json.dumps(stored.blocks, separators=(",", ":"))
    return stored.number, pack.id, pack.plain_size, pack.sealed_size, pack.sealed_sha256, blocks
