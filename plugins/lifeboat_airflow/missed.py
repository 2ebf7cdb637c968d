"""Finds scheduled runs that were never made: the DAG is paused or gone, or another run is in the way.

A part of the process beside the scheduler. Of a run that exists and is late, Airflow itself tells by its deadline.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.models.dag import DagModel, DagTag
from airflow.models.dagrun import DagRun
from airflow.models.deadline_alert import DeadlineAlert
from airflow.models.errors import ParseImportError
from airflow.models.serialized_dag import SerializedDagModel
from airflow.sdk.serde import deserialize
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from lifeboat.notify.alert import Alert, Event
from lifeboat_airflow.audit import Telling, enter, events_of
from lifeboat_airflow.deadlines import ScheduledMoment, existed_since
from lifeboat_airflow.listener import TAG
from lifeboat_airflow.notifier import dag_page, mask

EVERY = 60.0
"""Seconds between looks."""

GRACE = timedelta(minutes=10)
"""After a scheduler began, or a schedule was changed, Airflow makes the last run that was missed by itself."""

AGAIN = timedelta(hours=23)
"""People are not told more often than this of one DAG, however often it ought to run."""

WINDOWS = (2, 10, 40, 400)
"""Days to look back for the last moment by a schedule: few of one that is frequent."""


@dataclass(frozen=True)
class _Watched:
    """A scheduled DAG as Airflow keeps it, also when its file is gone, and how long a run of it may take."""

    dag: Any
    limit: timedelta
    changed: datetime


class MissedRuns:
    """Looks from time to time whether every scheduled DAG has had its runs."""

    def __init__(self) -> None:
        self._began = datetime.now(UTC)
        self._next = 0.0
        self._known: dict[str, tuple[str, _Watched | None]] = {}

    def look(self, session: Session, platform: str) -> list[tuple[Telling, int]]:
        """What is to be told, each with its entry in the audit log. Nobody else is given the same."""
        now = datetime.now(UTC)
        if time.monotonic() < self._next or self._began > now - GRACE:
            return []
        self._next = time.monotonic() + EVERY
        found = []
        for watched in self._watched(session):
            telling = _telling(session, watched, platform, now)
            if telling is not None:
                found.append((telling, enter(session, telling)))
        return found

    def _watched(self, session: Session) -> Iterable[_Watched]:
        query = select(DagTag.dag_id).where(DagTag.name == TAG).order_by(DagTag.dag_id)
        for dag_id in session.scalars(query).all():
            kept = SerializedDagModel.get_latest_serialized_dags(dag_ids=[dag_id], session=session)
            if not kept:
                continue
            if self._known.get(dag_id, ("",))[0] != kept[0].dag_hash:
                self._known[dag_id] = kept[0].dag_hash, _read(session, kept[0])
            _, watched = self._known[dag_id]
            if watched is not None:
                yield watched


def _read(session: Session, kept: SerializedDagModel) -> _Watched | None:
    """None for a DAG without a schedule or a deadline."""
    for alert in session.scalars(select(DeadlineAlert).where(DeadlineAlert.serialized_dag_id == kept.id)):
        limit = deserialize(alert.interval)
        if alert.reference.get("reference_type") == ScheduledMoment.__name__ and isinstance(limit, timedelta):
            dag = kept.dag
            return _Watched(dag, limit, kept.last_updated) if dag.timetable.can_be_scheduled else None
    return None


def _telling(session: Session, watched: _Watched, platform: str, now: datetime) -> Telling | None:
    dag_id, due_before = watched.dag.dag_id, now - watched.limit
    known = existed_since(session, dag_id)
    if known is None or watched.changed > now - GRACE:
        return None
    moment = _last_moment(watched.dag, known, due_before)
    # The lock is for other schedulers' processes; the scheduler passes over a locked DAG.
    query = select(DagModel.dag_id).where(DagModel.dag_id == dag_id).with_for_update(skip_locked=True)
    if moment is None or _has_run(session, dag_id, moment) or session.scalar(query) is None:
        return None
    told, event = events_of(session, dag_id, None), f"no run for {moment.isoformat()}"
    if any(event in events or at > now - AGAIN for at, events in told):
        return None
    return Telling(
        Alert(Event.LATE, platform, now, dag=dag_id, page=dag_page(dag_id), notes=_notes(session, watched, moment)),
        (event,),
    )


def _last_moment(dag: Any, known: datetime, due_before: datetime) -> datetime | None:
    """The last moment by the schedule at which Airflow knew the DAG, and whose run should have ended by now."""
    for days in WINDOWS:
        earliest = max(known, due_before - timedelta(days=days))
        if earliest > due_before:
            return None
        infos = dag.iter_dagrun_infos_between(earliest, due_before)
        moments = [info.run_after for info in infos if earliest <= info.run_after <= due_before]
        if moments:
            return datetime.fromtimestamp(moments[-1].timestamp(), UTC)
        if earliest == known:
            return None
    return None


def _has_run(session: Session, dag_id: str, moment: datetime) -> bool:
    """Whether there is a run for a moment, or one that has done its work since."""
    made = or_(DagRun.run_type.in_(("scheduled", "asset_triggered")), DagRun.state == "success")
    query = select(DagRun.id).where(DagRun.dag_id == dag_id, DagRun.run_after >= moment, made)
    return session.scalar(query.limit(1)) is not None


def _notes(session: Session, watched: _Watched, moment: datetime) -> tuple[str, ...]:
    due = moment + watched.limit
    return (
        f"No run was made for {moment:%Y-%m-%d %H:%M} UTC. It should have been done by {due:%Y-%m-%d %H:%M} UTC.",
        _why(session, watched.dag.dag_id),
    )


def _why(session: Session, dag_id: str) -> str:
    dag = session.scalars(select(DagModel).where(DagModel.dag_id == dag_id)).one()
    error = _import_error(session, dag)
    if error:
        return f"Its file cannot be imported: {error}\nCorrect it; `airflow dags list-import-errors` shows all of it."
    if dag.is_paused:
        return "The DAG is paused. Turn it on, on its page; the run that was missed last is then made at once."
    if dag.is_stale:
        return (
            "Airflow does not find the DAG any more. Put its file back, and look whether the DAG processor runs; if it "
            "is not wanted any more, delete the DAG in Airflow too."
        )
    query = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.state.in_(("running", "queued"))).order_by(DagRun.id)
    active = session.scalars(query).all()
    if active and len(active) >= (dag.max_active_runs or 1):
        return (
            f"Its run {active[0].run_id} is {active[0].state}, and no other is begun before that has ended. Look what "
            "it waits for; mark it as failed if it is to be given up."
        )
    return "The scheduler has made none, for a reason that is not known here. Its log may say it."


def _import_error(session: Session, dag: DagModel) -> str:
    query = select(ParseImportError).where(
        ParseImportError.filename == dag.relative_fileloc, ParseImportError.bundle_name == dag.bundle_name
    )
    error = session.scalars(query).first()
    lines = (error.stacktrace or "").strip().splitlines() if error else []
    return mask(lines[-1]) if lines else ""
