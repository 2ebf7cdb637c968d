"""What deadlines count from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.deadline import BaseDeadlineReference

from lifeboat.errors import SettingsError
from lifeboat.moment import read_moment
from lifeboat.recovery.journal import incident_of_run, opened_at
from lifeboat.recovery.model import Mode

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session


class IncidentBegan(BaseDeadlineReference):
    """When the incident began, by the form of the run; the run itself where the form does not say.

    No moment, and so no deadline, where nothing is brought back, and where an earlier run has those of the incident
    already: also a failed run keeps its deadlines. One that was begun on a terminal counts from when it was opened.
    Unlike the moment a run was queued, it stays what it is when a task is cleared; and Airflow 3.3.2 cannot clear tasks
    of a run whose deadlines count from that.
    """

    required_kwargs = frozenset({"dag_id", "run_id"})

    def _evaluate_with(self, *, session: Session, **kwargs: Any) -> datetime | None:
        """The moment. Asked by whatever makes the run, so nothing a form may hold makes it fail."""
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        runs = session.scalars(select(DagRun).where(DagRun.dag_id == kwargs["dag_id"])).all()
        run = next((run for run in runs if run.run_id == kwargs["run_id"]), None)
        form = _form(run)
        if run is None or not (form.get("incident") or form.get("mode") == Mode.RECOVER):
            return None
        if form.get("incident"):
            others = (incident_of_run(one.run_after, one.run_id, _form(one)) for one in runs if one is not run)
            with suppress(ValueError, SettingsError):
                return None if form["incident"] in others else opened_at(str(form["incident"]))
            return None  # its first task says what is wrong with it
        began: datetime = run.run_after
        with suppress(SettingsError):
            began = read_moment(form.get("began"), "began")
        return began


def _form(run: DagRun | None) -> Mapping[str, Any]:
    return run.conf if run is not None and isinstance(run.conf, dict) else {}


def existed_since(session: Session, dag_id: str) -> datetime | None:
    """Since when Airflow has known a DAG; one that is deleted and found again is new. None for one it does not know."""
    from airflow.models.dag_version import DagVersion
    from sqlalchemy import func, select

    return session.scalar(select(func.min(DagVersion.created_at)).where(DagVersion.dag_id == dag_id))


class ScheduledMoment(BaseDeadlineReference):
    """The moment by the schedule that a run is for.

    None for a run that nobody expects at a time: one by hand, a backfill, and one for a moment at which Airflow did not
    know the DAG yet, as a new installation makes them.
    """

    required_kwargs = frozenset({"dag_id", "run_id"})

    def _evaluate_with(self, *, session: Session, **kwargs: Any) -> datetime | None:
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        run = session.scalar(select(DagRun).where(DagRun.dag_id == kwargs["dag_id"], DagRun.run_id == kwargs["run_id"]))
        if run is None or run.run_type != "scheduled" or run.logical_date is None:
            return None
        known = existed_since(session, run.dag_id)
        moment: datetime = run.logical_date
        return moment if known is not None and known <= moment else None
