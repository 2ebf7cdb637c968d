"""Storage classes that must be thawed before they can be read, and how long that takes."""

from __future__ import annotations

from collections.abc import Mapping

# Amazon S3 User Guide, "Archive retrieval options", standard; Azure documentation, "Blob rehydration", standard.
DURATIONS: Mapping[str, tuple[int, str]] = {
    "GLACIER": (5, "3 to 5 hours"),
    "DEEP_ARCHIVE": (12, "up to 12 hours"),
    "Archive": (15, "up to 15 hours"),
}
"""By storage class, the hours that thawing takes at most, and how people say it."""


def too_slow(storage_class: str, rto_hours: float) -> str | None:
    """How long a class takes to thaw, when that is longer than the platform may be down; None otherwise."""
    by_name = {name.upper(): duration for name, duration in DURATIONS.items()}
    hours, words = by_name.get(storage_class.upper(), (0, ""))
    return words if hours > rto_hours else None
