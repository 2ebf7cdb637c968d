"""The clock of an incident: what of the time that the platform may be down has passed, what is left, and a forecast."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Clock:
    """Runs from when the incident began; `rto_hours` is how long the platform may be down."""

    began: datetime
    rto_hours: float

    @property
    def due(self) -> datetime:
        """When the platform must be back."""
        return self.began + timedelta(hours=self.rto_hours)

    def elapsed(self, now: datetime) -> float:
        """Seconds since the incident began; none before that."""
        return max(0.0, (now - self.began).total_seconds())

    def remaining(self, now: datetime) -> float:
        """Seconds until the platform must be back; below zero once that has passed."""
        return self.rto_hours * 3600 - self.elapsed(now)

    def forecast(self, now: datetime, left_seconds: float | None) -> datetime | None:
        """When the platform is back, if what is left to do takes `left_seconds`; None where nobody knows that."""
        return None if left_seconds is None else now + timedelta(seconds=max(0.0, left_seconds))

    def line(self, now: datetime, left_seconds: float | None = None) -> str:
        """All of it in a sentence, such as `1 h 10 min of 4 h used, 2 h 50 min left`."""
        remaining = self.remaining(now)
        left = f"{span_text(remaining)} left" if remaining >= 0 else f"{span_text(-remaining)} too many"
        parts = [f"{span_text(self.elapsed(now))} of {span_text(self.rto_hours * 3600)} used", left]
        if (done := self.forecast(now, left_seconds)) is not None:
            late = (done - self.due).total_seconds()
            said = f"done at about {moment_text(done, now)} by the forecast"
            parts.append(f"{said}, {span_text(late)} too late" if late > 0 else said)
        return ", ".join(parts)


def span_text(seconds: float) -> str:
    """A span of time as people say it, with its two largest units: `40 s`, `2 h 50 min`, `3 d 4 h`."""
    if seconds < 60:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    units = (("d", minutes // 1440), ("h", minutes // 60 % 24), ("min", minutes % 60))
    first = next(index for index, (_, count) in enumerate(units) if count)
    return " ".join(f"{count} {unit}" for unit, count in units[first : first + 2] if count)


def moment_text(moment: datetime, now: datetime) -> str:
    """A moment to the minute, without its day where that is today: `14:20 UTC`, `2026-11-25 02:00 UTC`."""
    moment, now = moment.astimezone(UTC), now.astimezone(UTC)
    return f"{moment:%H:%M} UTC" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M} UTC"
