"""A repository in memory: for tests, simulations and dry runs. Ordinary code, held to the same contract."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from lifeboat.errors import ObjectExists, ObjectNotFound, RepositoryRefused
from lifeboat.repositories.contract import ObjectInfo, ThawState, check_key
from lifeboat.streams import CHUNK


class MemoryRepository:
    """Objects in a dictionary; gone with the process. `clock` tells when: simulations have their own."""

    def __init__(self, name: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._name = name
        self._clock = clock
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        storage_class: str | None = None,
        locked_until: datetime | None = None,
    ) -> ObjectInfo:
        data = b"".join(chunks)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        info = ObjectInfo(check_key(key), len(data), self._clock(), digest, storage_class, locked_until)
        with self._lock:
            if key in self._objects:
                raise ObjectExists(f"{key} already exists in {self._name}.", hint="Objects are never overwritten.")
            self._objects[key] = data, info
        return info

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        data, _ = self._object(key)
        end = len(data) if length is None else min(len(data), start + length)
        for position in range(start, end, CHUNK):
            yield data[position : min(position + CHUNK, end)]

    def copy(
        self, source: str, target: str, *, storage_class: str | None = None, locked_until: datetime | None = None
    ) -> ObjectInfo:
        return self.put(target, self.get(source), storage_class=storage_class, locked_until=locked_until)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            infos = [info for key, (_, info) in self._objects.items() if key.startswith(prefix)]
        yield from sorted(infos, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        with self._lock:
            _, info = self._objects.get(check_key(key), (b"", None))
            if info is not None and info.locked_until is not None and info.locked_until > self._clock():
                raise RepositoryRefused(f"{key} in {self._name} is locked until {info.locked_until}.")
            self._objects.pop(key, None)

    def lock(self, key: str, until: datetime) -> None:
        data, info = self._object(key)
        later = max(until, info.locked_until) if info.locked_until else until
        with self._lock:
            self._objects[key] = data, replace(info, locked_until=later)

    def drop_unfinished(self, before: datetime) -> int:  # noqa: ARG002 - nothing is left here
        return 0

    def describe(self, key: str) -> ObjectInfo:
        return replace(self._object(key)[1])

    def thaw(self, key: str, *, days: int) -> ThawState:  # noqa: ARG002 - nothing here is ever archived
        return self.describe(key).thaw_state

    def honours_create_only(self, key: str) -> bool:
        self._object(key)
        return True

    def time(self) -> datetime:
        return self._clock()

    def free_bytes(self) -> int | None:
        return None

    def _object(self, key: str) -> tuple[bytes, ObjectInfo]:
        with self._lock:
            found = self._objects.get(check_key(key))
        if found is None:
            raise ObjectNotFound(f"{key} is not in {self._name}.", hint="`lifeboat list` shows what is there.")
        return found
