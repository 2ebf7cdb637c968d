"""Keeps the last good text of platform.yaml in Airflow, and tells people when it is wrong, and when it is right again.

A part of the process beside the scheduler. Whom to tell stands in the same file, so it is told by the last good text.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from airflow.models.variable import Variable
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.orm import Session

from lifeboat.errors import SettingsError
from lifeboat.notify.alert import Alert, Event
from lifeboat.settings import Platform, load_platform, parse_platform, platform_path
from lifeboat_airflow.audit import Telling, enter, events_of
from lifeboat_airflow.last_good import VARIABLE

log = logging.getLogger("lifeboat.alerts")

EVERY = 20.0
"""Seconds between looks. What is wrong at two of them is told: whoever writes the file now is not disturbed."""

RIGHT = "platform.yaml right"
WRONG = "platform.yaml wrong"


@dataclass(frozen=True)
class _Seen:
    """The file's text at one look, and what is wrong with it."""

    text: str
    fault: str


class PlatformWatch:
    """Looks at platform.yaml from time to time; what it has seen twice it does not look into again until it changes."""

    def __init__(self) -> None:
        self._seen: _Seen | None = None
        self._done = False
        self._next = 0.0

    def look(self) -> list[tuple[Platform, Telling, int]]:
        """What is to be told, each with its entry in the audit log and the platform that says whom to tell."""
        if time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + EVERY
        before, self._seen = self._seen, _look(platform_path(os.environ))
        again = self._seen == before
        if (again and self._done) or (not again and self._seen.fault):
            self._done = self._done and again
            return []
        told = _act(self._seen, platform_path(os.environ))
        self._done = True
        return told


def _look(file: Path) -> _Seen:
    text = ""
    try:
        text = file.read_text("utf-8", errors="replace") if file.is_file() else ""
        load_platform(file)
    except OSError as error:
        return _Seen(text, f"{file} cannot be read: {error.strerror}.")
    except SettingsError as error:
        return _Seen(text, str(error))
    return _Seen(text, "")


def _act(seen: _Seen, file: Path) -> list[tuple[Platform, Telling, int]]:
    with create_session() as session:
        kept = session.scalar(select(Variable).where(Variable.key == VARIABLE).with_for_update())
        text = kept.get_val() if kept else None
        if not seen.fault and text != seen.text:
            text = seen.text
            parse_platform(text, file)  # what was written between reading and loading it may be only half of it
            _keep(session, kept, text)
        if not text:
            log.error("Nobody can be told, since no good platform.yaml was ever seen. %s", seen.fault)
            return []
        platform = parse_platform(text, file)
        telling = _telling(session, platform, seen.fault)
        if telling is None or platform.notify is None:
            return []
        return [(platform, telling, enter(session, telling))]


def _keep(session: Session, kept: Variable | None, text: str) -> None:
    if kept is None:
        about = "What platform.yaml said when it was right last. Lifeboat writes it, and reads it while it is wrong."
        session.add(Variable(key=VARIABLE, val=text, description=about))  # type: ignore[no-untyped-call]  # Airflow's
    else:
        kept.set_val(text)  # type: ignore[no-untyped-call]  # Airflow's


def _telling(session: Session, platform: Platform, fault: str) -> Telling | None:
    """What people do not know yet: nothing, when the last they were told is the same."""
    events = [event for _, told in events_of(session, None, None) for event in told]
    last = next((event for event in reversed(events) if event.startswith((RIGHT, WRONG))), RIGHT)
    event = f"{WRONG} {hashlib.sha256(fault.encode()).hexdigest()[:16]}" if fault else RIGHT
    if event == last:
        return None
    name = platform.file.name
    if fault:
        title = f"WRONG: {name} of {platform.platform} cannot be used"
        notes: tuple[str, ...] = (
            "Until it is corrected everything goes on by the settings of before: backups, restores, and whom to tell. "
            "What was changed has no effect.",
            fault,
        )
    else:
        title, notes = f"{name} of {platform.platform} is right again", ("From now on its settings are in use.",)
    return Telling(Alert(Event.SETTINGS, platform.platform, datetime.now(UTC), title=title, notes=notes), (event,))
