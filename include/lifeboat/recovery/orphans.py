"""Rows that name files which are not there, and files that no row names: where two snapshots of a platform disagree.

Nothing is changed, and memory is constant: names are held against each other in a temporary file.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.errors import QueryCanceled

from lifeboat.errors import SettingsError, SourceUnavailable
from lifeboat.files.scan import exclude, scan
from lifeboat.postgres.connection import PostgresServer

LIMIT = 100
"""How many of each kind are named."""

SECONDS = 900.0
"""How long the query may take in all."""

BATCH = 1000
"""Rows that are fetched together."""


@dataclass(frozen=True)
class Orphans:
    """What was found: numbers, and the first of each, by name.

    `named` are different files that rows name. `missing` are those that are not in the tree, or not even meant to be;
    `unnamed` are files of the tree that no row names.
    """

    named: int
    files: int
    missing: int
    unnamed: int
    first_missing: tuple[str, ...] = ()
    first_unnamed: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "named": self.named,
            "files": self.files,
            "missing": self.missing,
            "unnamed": self.unnamed,
            "first_missing": list(self.first_missing),
            "first_unnamed": list(self.first_unnamed),
        }


def find_orphans(
    server: PostgresServer,
    database: str,
    sql: str,
    root: Path,
    *,
    limit: int = LIMIT,
    seconds: float = SECONDS,
    leave_out: Sequence[str] = (),
    also: str = "",
) -> Orphans:
    """Hold the paths that a query gives against the files below `root`.

    The query has one column: paths relative to `root`, or absolute ones below it; nothing and empty texts are no paths.
    `leave_out` are patterns of files that a snapshot leaves out; `also` is what rows call the folder, where the tree
    stands elsewhere now. Asked in a transaction that can only read. Raises
    `SourceError` kinds, and `SettingsError` for a query that has another form or takes too long.
    """
    with closing(sqlite3.connect("")) as names:  # a file without a name, where it is large
        names.execute("PRAGMA journal_mode = OFF")
        names.execute("CREATE TABLE named (path BLOB PRIMARY KEY, there INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID")
        bases = tuple(os.fsencode(os.path.normpath(folder)) + b"/" for folder in (root, also) if folder)
        for paths in _paths(server, database, sql, seconds):
            rows = [(_below(path, bases),) for path in paths if path]
            names.executemany("INSERT OR IGNORE INTO named (path) VALUES (?)", rows)
        files, unnamed, first_unnamed = 0, 0, list[str]()
        try:
            for found in scan(str(root), exclude(leave_out)):
                named = names.execute("UPDATE named SET there = 1 WHERE path = ?", [found.path]).rowcount
                if found.opened is None:
                    files += 1
                    unnamed += not named
                    if not named and len(first_unnamed) < limit:
                        first_unnamed.append(_shown(found.path))
        except OSError as error:
            raise SourceUnavailable(f"{root} cannot be read: {error.strerror}.", hint="Look at its mount.") from error
        (count,) = names.execute("SELECT count(*) FROM named").fetchone()
        (missing,) = names.execute("SELECT count(*) FROM named WHERE NOT there").fetchone()
        first = names.execute("SELECT path FROM named WHERE NOT there ORDER BY path LIMIT ?", [limit])
        first_missing = tuple(_shown(path) for (path,) in first)
    return Orphans(count, files, missing, unnamed, first_missing, tuple(first_unnamed))


def _paths(server: PostgresServer, database: str, sql: str, seconds: float) -> Iterator[list[Any]]:
    """Yield what the query gives, some at a time."""
    until = time.monotonic() + seconds
    try:
        yield from _rows(server, database, sql, seconds, until)
    except SourceUnavailable as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise _too_long(seconds) from error
        raise


def _rows(server: PostgresServer, database: str, sql: str, seconds: float, until: float) -> Iterator[list[Any]]:
    with server.visit(database, autocommit=False) as connection:
        connection.read_only = True
        connection.execute(f"SET statement_timeout = {max(1, round(seconds * 1000))}".encode())
        with connection.cursor("lifeboat_paths") as cursor:
            cursor.execute(sql.rstrip().rstrip(";").encode())
            _check_columns(cursor)
            while rows := cursor.fetchmany(BATCH):
                yield [path for (path,) in rows]
                if time.monotonic() > until:
                    raise _too_long(seconds)


def _too_long(seconds: float) -> SettingsError:
    return SettingsError(
        f"The query that names files has taken more than {seconds:g} s.",
        hint="Give it an index, or write a shorter one, in `named_by` of platform.yaml.",
    )


def _check_columns(cursor: Any) -> None:
    columns = [column.name for column in cursor.description or ()]
    if len(columns) != 1:
        raise SettingsError(
            f"The query that names files gives {len(columns)} columns, {', '.join(columns)}; it must give paths alone.",
            hint="Correct `named_by` in platform.yaml: SELECT path FROM documents.",
        )


def _below(path: Any, bases: Sequence[bytes]) -> bytes:
    """A path from the root on; one that leads elsewhere stays as it is, and is found missing."""
    raw = bytes(path) if isinstance(path, bytes | memoryview) else os.fsencode(str(path))
    if raw.startswith(b"/"):
        whole = os.path.normpath(raw)
        return next((whole[len(base) :] for base in bases if whole.startswith(base)), whole)
    return os.path.normpath(raw)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
