"""What a recovery is about, as values: what is asked for, what was found, and what was done.

All of them turn into plain JSON and back, so that a form, a task and a terminal hand on the same things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import TypeAdapter

from lifeboat.smoke import CheckResult
from lifeboat.snapshot import Kind


class Mode(StrEnum):
    """How far a recovery goes."""

    ASSESS = "assess"
    """Look, and write down; change nothing."""
    PRACTICE = "practice"
    """The same steps on scratch targets; nothing live is touched."""
    RECOVER = "recover"
    """Bring the platform back, over what is left of it."""


class Point(StrEnum):
    """How the recovery point is chosen."""

    LATEST_PROVEN = "latest proven"
    """Of every source the newest snapshot that was proven; the newest whole one, with a remark, where none was."""
    LATEST = "latest"
    """Of every source the newest whole snapshot."""
    AS_OF = "as of a time"
    """Of every source the newest whole snapshot that began then or earlier."""
    SNAPSHOTS = "these snapshots"
    """The snapshots that are named; of other sources the newest that fit them."""


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    `began`: when the incident began, from which the clock runs. `components`: the sources to bring back; none means
    all. `targets`: by source, another connection's id for a database or Redis, another absolute folder for a tree or
    for configuration. `services`: those of the application's to be started again; none means all. `drop_replaced`:
    what was live goes once the platform was found well, instead of staying under a dated name. `tell`: mail addresses
    beside those of platform.yaml.
    """

    mode: Mode
    began: datetime
    title: str
    reason: str = ""
    point: Point = Point.LATEST_PROVEN
    as_of: datetime | None = None
    snapshots: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    repository: str | None = None
    targets: Mapping[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = ()
    drop_replaced: bool = False
    tell: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return _plain(Request, self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """From plain JSON. Raises `ValueError`."""
        return TypeAdapter(cls).validate_python(record)


class Phase(StrEnum):
    """How far an incident is, in the words of a status page."""

    INVESTIGATING = "investigating"
    IDENTIFIED = "identified"
    """What is lost is known, and is being brought back."""
    MONITORING = "monitoring"
    """The platform runs again, and is being checked."""
    RESOLVED = "resolved"


class State(StrEnum):
    """What is left of a source."""

    ALIVE = "alive"
    """It answers, and holds something."""
    EMPTY = "empty"
    """Its place answers, and holds nothing: a server without the database, an empty folder, a Redis without keys."""
    GONE = "gone"
    """It does not answer, or its place is not there."""


@dataclass(frozen=True)
class CopyFound:
    """What a repository has of the chosen snapshot: `thawing` says in words how long it takes to be readable."""

    repository: str
    whole: bool
    thawing: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Component:
    """What was found of one source, and what it can be brought back to.

    `identity` is what its place calls itself: a server's system identifier, a folder's device and inode, a Redis's run
    id; it must still be so when anything there is replaced. `snapshot` is a label, empty when there is none; then
    `problem` says why. `lost_seconds`: data written after the snapshot, until the incident began. `expected_seconds`
    is None where no proof has measured it.
    """

    source: str
    kind: Kind
    place: str
    state: State
    found: str
    identity: str = ""
    snapshot: str = ""
    began: datetime | None = None
    proven: datetime | None = None
    copies: tuple[CopyFound, ...] = ()
    lost_seconds: float | None = None
    expected_seconds: float | None = None
    size: int = 0
    newer: tuple[str, ...] = ()
    """Newer snapshots that were passed over, each with the reason."""
    problem: str = ""

    @property
    def replaces(self) -> bool:
        """Whether bringing it back replaces anything that is there."""
        return self.state is State.ALIVE


@dataclass(frozen=True)
class Assessment:
    """Everything that was found, when, and what to know of the whole.

    `skew_seconds` is how far apart the snapshots of the recovery point began, those of configuration left out: it is
    archived when it changes, so that they stand until the next. `keys` says whether the keys at hand
    unseal. `remarks` are worth knowing, `obstacles` keep a recovery from going on.
    """

    made: datetime
    components: tuple[Component, ...]
    skew_seconds: float
    expected_seconds: float | None
    keys: str
    remarks: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()

    @property
    def lost_seconds(self) -> float | None:
        """The most that any source loses."""
        return max((c.lost_seconds for c in self.components if c.lost_seconds is not None), default=None)

    def component(self, source: str) -> Component:
        """What was found of a source. Raises `KeyError`."""
        return {component.source: component for component in self.components}[source]

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return _plain(Assessment, self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """From plain JSON. Raises `ValueError`."""
        return TypeAdapter(cls).validate_python(record)


@dataclass(frozen=True)
class Restored:
    """A source that was brought back, as far as it goes without touching anything live.

    `waiting` is what waits to be put in place, such as a database beside the live one; empty when it is in place
    already, or when putting it in place is what fetches it. `facts` are what people want to know: rows, files, keys.
    """

    source: str
    kind: Kind
    snapshot: str
    repository: str
    place: str
    waiting: str = ""
    seconds: float = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return _plain(Restored, self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """From plain JSON. Raises `ValueError`."""
        return TypeAdapter(cls).validate_python(record)


@dataclass(frozen=True)
class Verified:
    """What was found of the platform once it was put back and started.

    `checks` name their source where they are of one. `orphans` has, by tree, the counts and the first names of files
    that rows name and that are missing, and of files that no row names, as JSON values; they are told, and do not make
    a platform unwell. `undo_helps`: what was live before is kept, and can be put back.
    """

    well: bool
    checks: tuple[CheckResult, ...] = ()
    orphans: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    undo_helps: bool = False

    @property
    def failed(self) -> tuple[str, ...]:
        """A sentence on every check that failed."""
        return tuple(f"{c.name}: expected {c.expected}, found {c.found}." for c in self.checks if not c.passed)

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return _plain(Verified, self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """From plain JSON. Raises `ValueError`."""
        return TypeAdapter(cls).validate_python(record)


class Outcome(StrEnum):
    """How a step of a recovery stands."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    PASSED_OVER = "passed over"
    ASKED = "asked"
    ANSWERED = "answered"


@dataclass(frozen=True)
class Entry:
    """One line of an incident's journal. `words` is what people read; `facts` are JSON values, and no secrets."""

    at: datetime
    step: str
    outcome: Outcome
    words: str
    source: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return _plain(Entry, self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """From plain JSON. Raises `ValueError`."""
        return TypeAdapter(cls).validate_python(record)


def _plain(kind: type[Any], value: Any) -> dict[str, Any]:
    made: dict[str, Any] = TypeAdapter(kind).dump_python(value, mode="json")
    return made
