"""What every repository promises. One suite, `tests/repositories/`, holds all implementations to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Protocol, runtime_checkable

from lifeboat.errors import RepositoryError, SettingsError


class ThawState(Enum):
    """Whether an object's bytes can be read now."""

    READABLE = "readable"
    ARCHIVED = "archived"
    THAWING = "thawing"


@dataclass(frozen=True)
class ObjectInfo:
    """What a repository says of one object. `digest` is the server's own (algorithm:value), where it has one."""

    key: str
    size: int
    modified: datetime
    digest: str | None = None
    storage_class: str | None = None
    locked_until: datetime | None = None
    thaw_state: ThawState = ThawState.READABLE


@runtime_checkable
class Repository(Protocol):
    """A flat store of immutable objects.

    Keys are relative, `/`-separated, of the characters `A-Z a-z 0-9 . _ - / =`, without empty, `.` or `..` parts; any
    other is refused with `SettingsError` before anything is touched. All methods may be called from several threads.
    Faults are raised as the `RepositoryError` family, never as an SDK's own exceptions.
    """

    @property
    def name(self) -> str:
        """The repository's name in platform.yaml."""

    @property
    def url(self) -> str:
        """Where it is, for people; never contains credentials."""

    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        storage_class: str | None = None,
        locked_until: datetime | None = None,
    ) -> ObjectInfo:
        """Create the object from a stream of unknown length, in bounded memory.

        The object appears whole or not at all, and is durable on return. An existing object is never changed: raises
        `ObjectExists`, though on a store that ignores conditions (see `honours_create_only`), or checks them without a
        lock, two simultaneous puts of one key may both succeed. If `chunks` raises, nothing remains and that exception
        passes through. May be repeated after any fault. `locked_until` is when the store may let anybody delete it; one
        that cannot lock raises `RepositoryError` before anything is sent.
        """

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the object's bytes from `start`, `length` of them or all, in chunks of at most 1 MiB.

        A range that reaches beyond the object's end gives what there is, which may be nothing. Faults are raised while
        iterating. A transfer that ends early raises `RepositoryUnavailable`; it never looks like a short object. Raises
        `ObjectNotFound`, `ObjectArchived`.
        """

    def copy(
        self, source: str, target: str, *, storage_class: str | None = None, locked_until: datetime | None = None
    ) -> ObjectInfo:
        """Copy within the repository, server-side where it can, of any size. As `put` for the target."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix`, in key order, without a limit; no unfinished puts."""

    def delete(self, key: str) -> None:
        """Remove the object. Removing one that is not there is no error. Raises `RepositoryRefused` when locked."""

    def lock(self, key: str, until: datetime) -> None:
        """Let nobody delete the object before `until`; a later lock stays. Raises `RepositoryError` where none can be.

        May be repeated.
        """

    def drop_unfinished(self, before: datetime) -> int:
        """Drop what puts that began before then have left unfinished; returns how many. No listing shows such."""

    def describe(self, key: str) -> ObjectInfo:
        """What the store says of the object. Raises `ObjectNotFound`."""

    def thaw(self, key: str, *, days: int) -> ThawState:
        """Ask that an archived object be readable for `days`. May be repeated; returns the present state."""

    def honours_create_only(self, key: str) -> bool:
        """Whether the store itself refuses to overwrite `key`, an existing object, found out by trying.

        The probe offers the object's own bytes, so that a store which ignores the condition does no harm either.
        """

    def free_bytes(self) -> int | None:
        """How many bytes can still be put, where the store has an end and knows it; None otherwise."""


@runtime_checkable
class Timed(Protocol):
    """A repository whose store tells the time."""

    def time(self) -> datetime | None:
        """The time by the store's own clock, asked now; None where it does not say. Raises `RepositoryError`."""


def cannot_lock(name: str) -> RepositoryError:
    """The error of a repository that is asked for a lock it does not know."""
    return RepositoryError(
        f"The repository {name} cannot lock objects.", hint="Remove its `object_lock` from platform.yaml."
    )


def read_http_date(text: str | None) -> datetime | None:
    """The moment in a `Date` header; None where there is none that can be read."""
    try:
        return parsedate_to_datetime(text).astimezone(UTC) if text else None
    except ValueError:
        return None


def check_key(key: str) -> str:
    """The key, when it is well formed; raises `SettingsError` otherwise."""
    if not is_key(key):
        raise SettingsError(
            f"{key!r} cannot be an object's key.", hint="Use A-Z a-z 0-9 . _ - = in parts separated by /."
        )
    return key


def is_key(text: str) -> bool:
    """Whether a text is well formed as an object's key."""
    return bool(_KEY.fullmatch(text)) and not any(part in ("", ".", "..") for part in text.split("/"))


def is_prefix(text: str) -> bool:
    """Whether any key may begin with a text."""
    return is_key(f"{text}x")


_KEY = re.compile(r"[A-Za-z0-9._\-=/]{1,900}")
