"""A plain mirror of a tree: its files as they are, unencrypted, to be browsed with any tool. It is no backup.

It follows what the last sync has seen. What has vanished from the tree stays in the mirror for a grace period.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lifeboat.errors import ObjectExists, RepositoryError, SettingsError
from lifeboat.files.entries import Entry, EntryType, read_entry
from lifeboat.files.placing import Place
from lifeboat.files.reading import CHUNK, READABLE, THIN
from lifeboat.files.source import TreeSource
from lifeboat.files.state import open_state, signed
from lifeboat.own_files import make_file
from lifeboat.repositories.contract import Repository, is_key

README_KEY = "README-UNENCRYPTED.md"
ROLLING = "current"

_README = """\
# UNENCRYPTED mirror of the tree `{name}`

Everything here is **not encrypted**: whoever can read this place can read these files. It is a copy to browse, made by
Lifeboat from {path}, and no backup: it has no history, no owners, modes or links, and nobody signs it. Restore from the
vault (`python -m lifeboat files restore {name} --to FOLDER`).

`{ROLLING}/` is the tree as it was last seen; folders named after a day are the tree of that day. Characters that
cannot stand in every store are written as `=` and two hexadecimal digits a byte. What has vanished from the tree
stays here for {days} days.
"""


@dataclass(frozen=True)
class Mirror:
    """Where a tree is mirrored to. `dated`: a folder a day, instead of one that is kept up to date."""

    repository: Repository
    dated: bool = False
    grace: timedelta = timedelta(days=7)


@dataclass
class Mirroring:
    """What mirroring has done: files put, copied within the store, alike already, removed; and what was left out."""

    prefix: str
    put: int = 0
    copied: int = 0
    alike: int = 0
    removed: int = 0
    left_out: list[str] = field(default_factory=list)


def mirror_tree(source: TreeSource, mirror: Mirror, *, now: datetime) -> Mirroring:
    """Bring a mirror in line with what the last sync has seen of a tree. May be repeated.

    A file that cannot be read, or whose path is too long for a key, is left out and named. Raises `RepositoryError`,
    `SettingsError`, and `SourceUnavailable` while the tree is being backed up.
    """
    prefix = f"{now.astimezone(UTC):%Y-%m-%d}" if mirror.dated else ROLLING
    result = Mirroring(prefix)
    days = mirror.grace.days
    readme = _README.format(name=source.name, path=source.path, days=days, ROLLING=ROLLING)
    with suppress(ObjectExists):
        mirror.repository.put(README_KEY, [readme.encode()])
    with open_state(source.state / "files", source.name) as state, closing(_memory(source)) as memory:
        run = _Run(source, mirror, prefix, now, memory, result)
        for line in state.lines():
            entry = read_entry(json.loads(line))
            if entry.type is EntryType.FILE and not entry.fault:
                run.mirror(entry)
        run.remove_vanished()
        if mirror.dated:
            run.remove_old_days()
    return result


def mirrored_key(prefix: str, path: bytes) -> str:
    """The key of a file in a mirror; other characters than stores allow are written as `=` and two digits."""
    text = "".join(chr(byte) if chr(byte) in _PLAIN else f"={byte:02X}" for byte in path)
    return f"{prefix}/{text}"


_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/")


class _Run:
    def __init__(
        self,
        source: TreeSource,
        mirror: Mirror,
        prefix: str,
        now: datetime,
        memory: sqlite3.Connection,
        result: Mirroring,
    ) -> None:
        self._place = Place(source.path, is_new=False)
        self._mirror = mirror
        self._store = mirror.repository
        self._prefix = prefix
        self._now = now.astimezone(UTC)
        self._memory = memory
        self._result = result
        self._memory.execute("UPDATE mirrored SET seen = 0")
        before = self._memory.execute("SELECT max(prefix) FROM mirrored WHERE prefix < ?", (prefix,)).fetchone()[0]
        self._before = before if mirror.dated else None

    def mirror(self, entry: Entry) -> None:
        """Put a file into the mirror, unless it is there already as it is."""
        key = mirrored_key(self._prefix, entry.path)
        if not is_key(key):
            self._result.left_out.append(f"{entry.name}: its path is too long for a key")
            return
        if entry.size > READABLE + THIN * sum(piece.length for piece in entry.pieces):
            self._result.left_out.append(f"{entry.name}: nearly all of it are holes, which a mirror cannot have")
            return
        looks = entry.size, signed(entry.mtime)
        there = self._known(self._prefix, entry.path)
        if there == looks:
            self._result.alike += 1
        elif self._before and there is None and self._known(self._before, entry.path) == looks:
            self._anew(key, lambda: self._store.copy(mirrored_key(self._before or "", entry.path), key))
            self._result.copied += 1
        else:
            try:
                with self._place.opened(entry.path) as file:
                    self._anew(key, lambda: self._store.put(key, _chunks(file)))
            except OSError as error:
                self._result.left_out.append(f"{entry.name}: {error.strerror or error}")
                return
            self._result.put += 1
        self._memory.execute(
            "INSERT OR REPLACE INTO mirrored VALUES (?, ?, ?, ?, 1, NULL)",
            (self._prefix, entry.path, *looks),
        )

    def remove_vanished(self) -> None:
        """Remove what has vanished longer ago than the grace period, and remember since when the rest has."""
        self._memory.execute(
            "UPDATE mirrored SET gone = ? WHERE prefix = ? AND NOT seen AND gone IS NULL",
            (self._now.isoformat(), self._prefix),
        )
        limit = (self._now - self._mirror.grace).isoformat()
        query = "SELECT path FROM mirrored WHERE prefix = ? AND NOT seen AND gone < ?"
        for (path,) in self._memory.execute(query, (self._prefix, limit)).fetchall():
            self._store.delete(mirrored_key(self._prefix, path))
            self._memory.execute("DELETE FROM mirrored WHERE prefix = ? AND path = ?", (self._prefix, path))
            self._result.removed += 1
        self._memory.commit()

    def remove_old_days(self) -> None:
        """Remove the folders of days longer ago than the grace period; never the newest one."""
        limit = f"{self._now - self._mirror.grace:%Y-%m-%d}"
        for info in list(self._store.list("")):
            day = info.key.partition("/")[0]
            if _DAY.fullmatch(day) and day < min(limit, self._prefix):
                self._store.delete(info.key)
                self._result.removed += 1
        self._memory.execute("DELETE FROM mirrored WHERE prefix < ?", (min(limit, self._prefix),))
        self._memory.commit()

    def _known(self, prefix: str, path: bytes) -> tuple[int, int] | None:
        query = "SELECT size, mtime FROM mirrored WHERE prefix = ? AND path = ?"
        found: tuple[int, int] | None = self._memory.execute(query, (prefix, path)).fetchone()
        return found

    def _anew(self, key: str, put: Callable[[], object]) -> None:
        """Put an object, in the place of an older one: a mirror, unlike the vault, changes what it has."""
        try:
            put()
        except ObjectExists:
            self._store.delete(key)
            put()


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def _chunks(file: int) -> Iterator[bytes]:
    position = 0
    while data := os.pread(file, CHUNK, position):
        position += len(data)
        yield data


def _memory(source: TreeSource) -> sqlite3.Connection:
    """What is known to be in the mirror. Lost, everything is put once more."""
    path: Path = source.state / "files" / f"{source.name}.mirror.sqlite"
    try:
        with suppress(FileExistsError):
            os.close(make_file(path, os.O_EXCL | os.O_WRONLY))
        memory = sqlite3.connect(path)
        memory.execute(
            "CREATE TABLE IF NOT EXISTS mirrored (prefix TEXT, path BLOB, size INTEGER, mtime INTEGER, seen INTEGER, "
            "gone TEXT, PRIMARY KEY (prefix, path)) WITHOUT ROWID"
        )
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(
            f"What is mirrored cannot be remembered in {path}: {error}.", hint="Remove the file, or make room."
        ) from error
    return memory


def check_mirror(mirror: Mirror) -> str | None:
    """Why a mirror cannot be used now; None when it answers."""
    try:
        next(iter(mirror.repository.list(README_KEY)), None)
    except RepositoryError as error:
        return error.message
    return None
