"""What looking at a repository's own settings has found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable


class Level(StrEnum):
    """How much a finding matters."""

    GOOD = "good"
    ADVICE = "advice"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it stands, and what to do about it; nothing where all is well."""

    what: str
    level: Level
    found: str
    remedy: str = ""


@runtime_checkable
class Examinable(Protocol):
    """A repository that can look at its own bucket, container or disk."""

    def examine(self) -> Iterator[Finding]:
        """Look, and change nothing. What it has no right to see is `unknown`, and raises nothing."""
