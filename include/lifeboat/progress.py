"""Progress of long work, for people: bytes, rate, elapsed, phases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str], None]
"""Hears one line a phase, for people."""


class PhaseClock:
    """Seconds by phase, in the order of their beginning; `report` hears of each at its end."""

    def __init__(self, report: Report | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.report = report or (lambda _: None)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is done within; nothing is noted when it fails."""
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)
        self.report(f"{name}: {self.seconds[name]:.1f} s")


class ProgressLog:
    """Says a line about an artifact at most every `every` seconds. Give it as `progress`; any thread may call it."""

    def __init__(
        self, say: Callable[[str], None], *, every: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._every = every
        self._clock = clock
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str, count: int) -> None:
        """Hear that `count` bytes of the artifact `name` have passed so far."""
        now = self._clock()
        with self._lock:
            began = self._began.setdefault(name, now)
            if now - self._said.setdefault(name, now) < self._every:
                return
            self._said[name] = now
        self._say(f"{name}: {progress_text(count, now - began)}")


def progress_text(count: int, seconds: float) -> str:
    """Bytes, rate and elapsed time, such as `1.5 GiB, 120.0 MiB/s, 0:00:13`; no rate of the first half second."""
    rate = f"{size_text(round(count / seconds))}/s, " if seconds > 0.5 else ""
    return f"{size_text(count)}, {rate}{duration_text(seconds)}"


def size_text(count: int) -> str:
    """A number of bytes with one digit behind the point, such as `1.5 GiB`."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while round(size, 1) >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.1f} {units[0]}" if units[0] != "B" else f"{count} B"


def duration_text(seconds: float) -> str:
    """Hours, minutes and seconds, such as `0:00:13`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def count_text(count: int, what: str) -> str:
    """A number of things, such as `1 table` or `1,500,000 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
