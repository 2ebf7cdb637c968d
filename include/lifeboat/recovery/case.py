"""A recovery that is under way, and how each of its steps is told, written down and timed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lifeboat.discretion import without_rows
from lifeboat.errors import LifeboatError, NotReady
from lifeboat.recovery.clock import Clock
from lifeboat.recovery.journal import Journal
from lifeboat.recovery.means import Means
from lifeboat.recovery.model import Component, Mode, Outcome, Request, Restored
from lifeboat.recovery.request import parse_label
from lifeboat.vault import Snapshot

RESTORE, PLACE, UNDO = "restore", "put in place", "undo"
"""The steps that are about one source each, as the journal calls them."""


@dataclass(frozen=True)
class Case:
    """A recovery that is under way: the means, what was asked for, and the journal of its incident."""

    means: Means
    request: Request
    incident: str
    journal: Journal
    clock: Clock

    @property
    def practising(self) -> bool:
        """Whether scratch targets stand for the real ones."""
        return self.request.mode is Mode.PRACTICE


def open_case(means: Means, request: Request, incident: str) -> Case:
    """The case of an incident. Nothing is asked or written yet; `Case.journal.begin` does that."""
    journal = Journal(means.vault, incident, state=Path(means.platform.state), report=means.report)
    return Case(means, request, incident, journal, Clock(request.began, means.platform.objectives.rto_hours))


@dataclass
class Done:
    """What a step has to say at its end, and how it ended."""

    words: str = "done"
    outcome: Outcome = Outcome.DONE
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def step(
    case: Case,
    name: str,
    source: str = "",
    facts: Mapping[str, Any] | None = None,
    left_seconds: float | None = None,
) -> Iterator[Done]:
    """Write down that a step begins, and how it ended; and say how the clock stands."""
    what = f"{name} {source}".strip()
    case.means.report(f"{what}: begins. {case.clock.line(datetime.now(UTC), left_seconds)}")
    case.journal.write(name, Outcome.BEGUN, f"{what} began", source, facts)
    done = Done()
    try:
        yield done
    except BaseException as error:
        message = error.message if isinstance(error, LifeboatError) else f"{type(error).__name__}: {error}"
        case.journal.write(name, Outcome.FAILED, without_rows(message), source, facts)
        case.means.report(f"{what}: FAILED. {case.clock.line(datetime.now(UTC), left_seconds)}")
        raise
    case.journal.write(name, done.outcome, done.words, source, done.facts)
    case.means.report(f"{what}: {done.words}. {case.clock.line(datetime.now(UTC))}")


def snapshot_of(case: Case, component: Component) -> Snapshot:
    """The snapshot that a source is brought back to. Raises `NotReady` where there is none."""
    if not component.snapshot:
        raise NotReady(
            f"{component.source} cannot be brought back: {component.problem or 'it has no snapshot'}",
            hint="Choose another point, or leave it out of the components.",
        )
    source, tier, snapshot_id = parse_label(component.snapshot)
    return case.means.vault.find(source, snapshot_id, tier)


def restored_before(case: Case, name: str, source: str, snapshot: str) -> Iterator[Restored]:
    """Yield what the journal says this step has made of a source and snapshot, newest first."""
    for entry in reversed(case.journal.entries()):
        if (entry.step, entry.outcome, entry.source) == (name, Outcome.DONE, source):
            try:
                restored = Restored.of_record(entry.facts["restored"])
            except (KeyError, ValueError):
                continue
            if restored.snapshot == snapshot:
                yield restored


def begun_before(case: Case, name: str, source: str, snapshot: str) -> Iterator[Mapping[str, Any]]:
    """Yield the facts of each time this step was begun for a source and snapshot, newest first."""
    for entry in reversed(case.journal.entries()):
        is_it = (entry.step, entry.outcome, entry.source) == (name, Outcome.BEGUN, source)
        if is_it and entry.facts.get("snapshot") == snapshot:
            yield entry.facts


def repository_read(case: Case, snapshot: Snapshot, damaged: Mapping[str, str] | None = None) -> str:
    """The repository that a snapshot was read from: the one asked for, else the first whose copy is whole."""
    present = (member.name for member in case.means.vault.present)
    whole = (name for name in present if name in snapshot.repositories and name not in (damaged or {}))
    return case.request.repository or next(whole, "")
