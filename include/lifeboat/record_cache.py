"""Small signed records that were read before, so that a listing need not fetch thousands of them again.

What is kept on disk are the envelopes as a repository gave them; whoever takes one out checks its signature again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from lifeboat.own_files import make_folders
from lifeboat.repositories.contract import ObjectInfo, Repository

Made = TypeVar("Made")

LONGEST = 4 * 1024 * 1024
"""Bytes of the longest record that is kept."""

MOST = 50_000
"""Records kept in memory; beyond, all are forgotten at once."""


class RecordCache:
    """Records by repository, key and the store's own digest; without a digest, by size and time of change.

    `folder` is where they outlive the process; None keeps none. A folder that cannot be used costs time alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._parsed: dict[tuple[str, str, str], Any] = {}
        self._derived: dict[Hashable, tuple[object, Any]] = {}
        self._lock = threading.Lock()

    def read(self, repository: Repository, info: ObjectInfo) -> bytes:
        """The object that a listing shows as `info`. Raises as `Repository.get`."""
        file = self._file(repository, info)
        if file is not None:
            with suppress(OSError):
                data = file.read_bytes()
                if len(data) == info.size:
                    return data
        data = b"".join(repository.get(info.key))
        if file is not None and len(data) == info.size <= LONGEST:
            self._keep(file, data)
        return data

    def parsed(self, repository: Repository, info: ObjectInfo) -> Any:
        """What `remember` was given for this object in this process; None otherwise."""
        with self._lock:
            return self._parsed.get((repository.url, info.key, _stamp(info)))

    def remember(self, repository: Repository, info: ObjectInfo, record: object) -> None:
        """Remember what was read and checked of an object."""
        with self._lock:
            if len(self._parsed) >= MOST:
                self._parsed.clear()
            self._parsed[repository.url, info.key, _stamp(info)] = record

    def derived(self, name: Hashable, made_of: object, make: Callable[[], Made]) -> Made:
        """What `make` gives; what it gave the last time under this name, when that was made of the very same values."""
        made: Made | None = self.known(name, made_of)
        if made is None:
            made = make()
            self.keep(name, made_of, made)
        return made

    def known(self, name: Hashable, made_of: object) -> Any:
        """What was kept last under this name, when that was made of the very same values; None otherwise."""
        with self._lock:
            before = self._derived.get(name)
        return before[1] if before is not None and before[0] == made_of else None

    def keep(self, name: Hashable, made_of: object, made: object) -> None:
        """Keep what was made of values, under a name."""
        with self._lock:
            if len(self._derived) >= MOST:
                self._derived.clear()
            self._derived[name] = made_of, made

    def _file(self, repository: Repository, info: ObjectInfo) -> Path | None:
        if self._folder is None or info.digest is None:
            return None  # a local disk has no digests, and is read as fast
        name = hashlib.sha256(f"{repository.url}\n{info.key}\n{_stamp(info)}".encode()).hexdigest()
        return self._folder / name[:2] / name

    def _keep(self, file: Path, data: bytes) -> None:
        aside = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}")
        with suppress(OSError):
            make_folders(file.parent)
            aside.write_bytes(data)
            aside.replace(file)


def _stamp(info: ObjectInfo) -> str:
    return info.digest or f"{info.size} {info.modified.isoformat()}"
