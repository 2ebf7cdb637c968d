"""Ends runs that cannot begin and would keep all others of their DAG waiting in silence.

A part of the process beside the scheduler. Why a run was ended is an entry in its audit log; from there it is told.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from airflow.models.dag import DagTag
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState, State, TaskInstanceState
from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.orm import Session

from lifeboat.progress import count_text
from lifeboat_airflow.audit import ENDED_BY_US
from lifeboat_airflow.form_guard import AHEAD
from lifeboat_airflow.listener import TAG

EXPECTED = ("scheduled", "backfill", "asset_triggered")
"""Kinds of runs that Airflow makes by itself, in order; they are never early."""


def end_what_cannot_begin(session: Session) -> list[tuple[str, str]]:
    """End every run of Lifeboat's DAGs that cannot begin or go on; returns them as DAG and run."""
    now = datetime.now(UTC)
    found = [*((run, _why_early(run, now)) for run in _early(session, now)), *_without_pool(session)]
    for run, why in found:
        _end(session, run, why)
    return [(run.dag_id, run.run_id) for run, _ in found]


def why_ended(session: Session, run: DagRun) -> str:
    """Why a run was ended here; empty when it was not, or was cleared since."""
    query = select(Log).where(Log.dag_id == run.dag_id, Log.run_id == run.run_id, Log.event == ENDED_BY_US)
    for entry in session.scalars(query.order_by(Log.id.desc())):
        extra = json.loads(entry.extra or "{}")
        if extra.get("clears") == run.clear_number:
            return str(extra["why"])
    return ""


def _ours() -> Any:
    return exists().where(DagTag.dag_id == DagRun.dag_id, DagTag.name == TAG)


def _early(session: Session, now: datetime) -> list[DagRun]:
    late = now + AHEAD
    waits = and_(DagRun.state.in_(("queued", "running")), DagRun.logical_date > late)
    queued = and_(DagRun.state == "queued", DagRun.run_after > late)
    query = select(DagRun).where(_ours(), DagRun.run_type.not_in(EXPECTED), or_(waits, queued))
    # What the scheduler looks at just now is met at the next look.
    return list(session.scalars(query.with_for_update(of=DagRun, skip_locked=True)))


def _why_early(run: DagRun, now: datetime) -> str:
    which, moment = ("logical date", run.logical_date) if _is_ahead(run, now) else ("run date", run.run_after)
    return (
        f"Its {which}, {moment:%Y-%m-%d %H:%M} UTC, is in the future: no task of it can begin before, and until then "
        "it would keep other runs of this DAG waiting, those by the schedule too. Trigger it again without a date."
    )


def _is_ahead(run: DagRun, now: datetime) -> bool:
    return run.logical_date is not None and run.logical_date > now + AHEAD


def _without_pool(session: Session) -> list[tuple[DagRun, str]]:
    """Runs in which nothing is at work, and what is next needs a pool that does not give it a slot, ever."""
    fits = exists().where(
        Pool.pool == TaskInstance.pool, or_(Pool.slots < 0, Pool.slots >= func.coalesce(TaskInstance.pool_slots, 1))
    )
    query = (
        select(TaskInstance)
        .join(DagRun, and_(DagRun.dag_id == TaskInstance.dag_id, DagRun.run_id == TaskInstance.run_id))
        .where(_ours(), DagRun.state == "running", TaskInstance.state == "scheduled", ~fits)
    )
    stuck: dict[tuple[str, str], list[TaskInstance]] = {}
    for ti in session.scalars(query):
        stuck.setdefault((ti.dag_id, ti.run_id), []).append(ti)
    found = []
    for (dag_id, run_id), tis in stuck.items():
        if _goes_on(session, dag_id, run_id, len(tis)):
            continue
        query_run = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id, DagRun.state == "running")
        run = session.scalar(query_run.with_for_update(of=DagRun, skip_locked=True))
        if run is not None:
            found.append((run, _why_no_slot(session, tis)))
    return found


def _goes_on(session: Session, dag_id: str, run_id: str, stuck: int) -> bool:
    """Whether anything in a run is at work, or will be by itself, beside so many tasks that are stuck."""
    query = select(TaskInstance.state, func.count()).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    states = dict(session.execute(query.group_by(TaskInstance.state)).tuples().all())
    at_work = [state for state in states if state not in (*State.finished, None, TaskInstanceState.SCHEDULED)]
    return bool(at_work) or states[TaskInstanceState.SCHEDULED] > stuck


def _why_no_slot(session: Session, tis: list[TaskInstance]) -> str:
    name, needed = tis[0].pool, max(ti.pool_slots or 1 for ti in tis)
    slots = session.scalar(select(Pool.slots).where(Pool.pool == name))
    has = "does not exist" if slots is None else f"has {count_text(slots, 'slot')}"
    tasks = ", ".join(sorted({ti.task_id for ti in tis}))
    return (
        f"The pool {name!r} {has}, so {tasks} could never begin. In Airflow under Admin, Pools, give it "
        f"{count_text(needed, 'slot')} or more, then clear the run; or take the pool out of the DAG."
    )


def _end(session: Session, run: DagRun, why: str) -> None:
    for ti in run.get_task_instances(session=session):
        if ti.state not in State.finished:
            ti.set_state(TaskInstanceState.SKIPPED, session=session)
    run.set_state(DagRunState.FAILED)
    extra = json.dumps({"why": why, "clears": run.clear_number})
    session.add(Log(ENDED_BY_US, owner="lifeboat", extra=extra, dag_id=run.dag_id, run_id=run.run_id))
