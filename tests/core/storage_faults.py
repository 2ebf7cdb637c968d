"""Repositories that fail on purpose, wrapped around ones that work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from lifeboat.errors import LifeboatError, RepositoryUnavailable
from lifeboat.repositories.contract import ObjectInfo, Repository, ThawState


class FailingRepository:
    """Passes calls on to `inner` until `fails(call number, method, key)` says otherwise; a put then fails midway."""

    def __init__(self, inner: Repository, fails: Callable[[int, str, str], bool]) -> None:
        self._inner = inner
        self._fails = fails
        self.calls = 0

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, key: str, chunks: Iterable[bytes], **options: Any) -> ObjectInfo:
        failure = self._count("put", key)
        return self._inner.put(key, _cut(chunks, failure) if failure else chunks, **options)

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        failure = self._count("get", key)
        if failure:
            raise failure
        yield from self._inner.get(key, start=start, length=length)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        failure = self._count("list", prefix)
        for info in self._inner.list(prefix):
            if failure:
                raise failure
            yield info

    def copy(self, source: str, target: str, **options: Any) -> ObjectInfo:
        self._raise("copy", target)
        return self._inner.copy(source, target, **options)

    def lock(self, key: str, until: datetime) -> None:
        self._raise("lock", key)
        self._inner.lock(key, until)

    def delete(self, key: str) -> None:
        self._raise("delete", key)
        self._inner.delete(key)

    def drop_unfinished(self, before: datetime) -> int:
        self._raise("drop", "unfinished")
        return self._inner.drop_unfinished(before)

    def describe(self, key: str) -> ObjectInfo:
        self._raise("describe", key)
        return self._inner.describe(key)

    def thaw(self, key: str, *, days: int) -> ThawState:
        return self._inner.thaw(key, days=days)

    def honours_create_only(self, key: str) -> bool:
        return self._inner.honours_create_only(key)

    def free_bytes(self) -> int | None:
        return self._inner.free_bytes()

    def _count(self, method: str, key: str) -> LifeboatError | None:
        self.calls += 1
        failing = self._fails(self.calls, method, key)
        return RepositoryUnavailable(f"{self.name}: {method} of {key} failed on purpose.") if failing else None

    def _raise(self, method: str, key: str) -> None:
        if failure := self._count(method, key):
            raise failure


def _cut(chunks: Iterable[bytes], failure: LifeboatError) -> Iterator[Any]:
    """The first half of the first chunk, and then the failure: what a dropped connection leaves."""
    for chunk in chunks:
        yield chunk[: len(chunk) // 2]
        raise failure
    raise failure
