"""Reading a moment as people write it, in a form or on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

from lifeboat.errors import SettingsError
from lifeboat.progress import Report


def read_moment(text: object, place: str, report: Report | None = None) -> datetime:
    """The moment that a text names; in UTC where it gives no offset, which `report` hears. Raises `SettingsError`."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        raise SettingsError(
            f"{place} = {str(text)!r} is no time.",
            hint="Write it as 2026-11-23T02:00+00:00; without an offset it is UTC.",
        ) from None
    if found.tzinfo is not None:
        return found
    if report is not None:
        report(f"{place} = {text} gives no offset, and is read as UTC.")
    return found.replace(tzinfo=UTC)
