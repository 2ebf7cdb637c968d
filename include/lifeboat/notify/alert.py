"""What people are told, as values, and the text of a runbook that belongs to a failed task."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any


class Event(StrEnum):
    """What happened."""

    FAILED = "failed"
    RECOVERED = "recovered"
    DEGRADED = "degraded"
    LATE = "late"
    SETTINGS = "settings"
    UNDELIVERED = "undelivered"
    INCIDENT = "incident"
    TEST = "test"


@dataclass(frozen=True)
class Trouble:
    """A task that failed: which, for which source, why, and what to do. What is not known is empty.

    `remedy` is what the DAG's *If this fails* says of the task. `attempt` and `map_index` tell one failure of a task
    from another.
    """

    task: str
    cause: str
    source: str = ""
    hint: str = ""
    remedy: str = ""
    log_url: str = ""
    map_index: int = -1
    attempt: int = 1


@dataclass(frozen=True)
class Alert:
    """One thing that people are told. `page` is where to look; `notes` are sentences about the whole.

    Of an incident, `run` is its id. `title` is the subject of incidents and settings. What is late without a `run` was
    never begun.
    """

    event: Event
    platform: str
    at: datetime
    dag: str = ""
    run: str = ""
    page: str = ""
    troubles: tuple[Trouble, ...] = ()
    notes: tuple[str, ...] = ()
    title: str = ""

    @property
    def key(self) -> str:
        """The same for the same event whoever tells it, so that a receiver can drop what it has got already."""
        what = [(t.task, t.map_index, t.attempt) for t in sorted(self.troubles, key=lambda t: (t.task, t.map_index))]
        moment = None if self.run else self.at.isoformat()
        told = repr((str(self.event), self.platform, self.dag, self.run, what, moment, self.title))
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    @property
    def subject(self) -> str:
        """One line that says what happened to whom."""
        what = self.dag or self.platform
        match self.event:
            case Event.FAILED if self.troubles:
                return f"FAILED: {what}: {_short([_name(trouble) for trouble in self.troubles])}"
            case Event.FAILED:
                return f"FAILED: {what}"
            case Event.RECOVERED:
                return f"Recovered: {what} succeeds again"
            case Event.DEGRADED:
                return f"Degraded: {what} succeeded, but not everywhere"
            case Event.LATE if not self.run:
                return f"LATE: {what} has not run"
            case Event.LATE:
                return f"LATE: {what} is not done by its deadline"
            case Event.INCIDENT:
                return self.title or f"Incident: {what}"
            case Event.SETTINGS:
                return self.title or f"Settings: {what}"
            case Event.UNDELIVERED:
                return f"Alerts do not arrive everywhere: {what}"
        return f"Test: alerts of {what} arrive here"

    def record(self) -> dict[str, Any]:
        """The alert as plain values, for machines."""
        return {
            "event": str(self.event),
            "key": self.key,
            "subject": self.subject,
            "platform": self.platform,
            "at": self.at.isoformat(),
            "dag": self.dag,
            "run": self.run,
            "page": self.page,
            "troubles": [dict(vars(trouble)) for trouble in self.troubles],
            "notes": list(self.notes),
        }

    def masked(self, mask: Callable[[str], str]) -> Alert:
        """The same with every text for people passed through `mask`."""
        troubles = tuple(
            replace(trouble, cause=mask(trouble.cause), hint=mask(trouble.hint), source=mask(trouble.source))
            for trouble in self.troubles
        )
        notes = tuple(mask(note) for note in self.notes)
        return replace(self, troubles=troubles, notes=notes, title=mask(self.title))


def mask_urls(text: str) -> str:
    """The text without the credentials of urls in it."""
    return _CREDENTIALS.sub(r"\1***@", text)


def mask_all(secrets: Iterable[str]) -> Callable[[str], str]:
    """A mask that hides these secrets, and the credentials of urls. What is shorter than four characters stays."""
    longest_first = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)

    def mask(text: str) -> str:
        for secret in longest_first:
            text = text.replace(secret, "***")
        return mask_urls(text)

    return mask


def if_this_fails(doc: str | None, task: str) -> str:
    """What the section *If this fails* of a DAG's documentation says of a task; empty where it says nothing.

    The section is a list whose items begin with the names of tasks: "* `back_up`, `verify`: what to do".
    """
    _, found, section = (doc or "").partition("**If this fails**")
    if not found:
        return ""
    for item in re.split(r"^\* ", section, flags=re.MULTILINE)[1:]:
        text = item.split("\n\n", 1)[0]
        names, colon, rest = text.partition(":")
        if colon and f"`{task.rpartition('.')[2]}`" in names:
            return " ".join(rest.split())
    return ""


def _name(trouble: Trouble) -> str:
    return f"{trouble.task} of {trouble.source}" if trouble.source else trouble.task


def _short(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more tasks"


_CREDENTIALS = re.compile(r"(\w+://)[^/\s@]+@")
