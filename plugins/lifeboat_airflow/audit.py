"""What people were told, as entries in Airflow's audit log: made before it is sent, and completed afterwards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.models.log import Log
from sqlalchemy import select
from sqlalchemy.orm import Session

from lifeboat.notify.alert import Alert

ENTRY = "lifeboat_alert"
"""What an entry is called."""

ENDED_BY_US = "lifeboat_ended"
"""What the entry of a run is called that could not begin, and was ended for that."""

STALE = timedelta(hours=2)
"""After this long, an entry without an end belongs to a process that was killed."""


@dataclass(frozen=True)
class Telling:
    """An alert to be sent, the events it tells, as the audit log knows them, and the channels it goes through.

    Without any, it goes through all of them.
    """

    alert: Alert
    events: tuple[str, ...]
    channels: tuple[str, ...] = ()


def enter(session: Session, telling: Telling) -> int:
    """Make the entry of what is about to be sent; returns its id. Whoever calls holds a lock against others."""
    alert = telling.alert
    extra = json.dumps({"events": telling.events, "subject": alert.subject})
    entry = Log(ENTRY, owner="lifeboat", extra=extra, dag_id=alert.dag or None, run_id=alert.run or None)
    session.add(entry)
    session.flush()
    return entry.id


def complete(session: Session, entry: int, telling: Telling, taken: list[str]) -> None:
    """Note who has taken what was sent."""
    made = session.get(Log, entry)
    if made is not None:
        made.extra = json.dumps({"events": telling.events, "told": taken, "subject": telling.alert.subject})


def events_of(session: Session, dag: str | None, run: str | None) -> list[tuple[datetime, list[str]]]:
    """What was told, or is being told, of a run, of a DAG without a run, or of neither; oldest first."""
    query = select(Log).where(Log.event == ENTRY, _is(Log.dag_id, dag), _is(Log.run_id, run))
    told = []
    for entry in session.scalars(query.order_by(Log.id)):
        extra = json.loads(entry.extra or "{}")
        if "told" in extra or (entry.dttm and entry.dttm > datetime.now(UTC) - STALE):
            told.append((entry.dttm or datetime.now(UTC), list(extra.get("events", ()))))
    return told


def _is(column: Any, value: str | None) -> Any:
    return column.is_(None) if value is None else column == value
