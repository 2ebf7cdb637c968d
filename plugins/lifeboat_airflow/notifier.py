"""Tells people of a failed task and of a missed deadline: one notifier for all DAGs.

It runs in the process of the failed task. What ends otherwise, such as a process that was killed, is told by
`run_events` when the run ends. Both know of each other through the record a failed task leaves as an XCom, which lives
as long as that try: a task that is cleared and fails again is told again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseNotifier, Context
from airflow.sdk._shared.secrets_masker import redact
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.xcom import XCom

from lifeboat.assembly import channels_of
from lifeboat.errors import LifeboatError
from lifeboat.notify.alert import Alert, Event, Trouble, if_this_fails, mask_urls
from lifeboat.notify.sending import deliver
from lifeboat.progress import duration_text
from lifeboat.recovery.journal import find_incident, incident_of_run
from lifeboat.recovery.model import Mode
from lifeboat_airflow.hooks import PlatformHook, VaultHook

GATHER = 8.0
"""Seconds a failed task waits for others of its run that fail at the same time, so that one message tells of all."""

TAKING = timedelta(seconds=90)
"""How long a task may take to tell; what is older and not told was not told by who should have."""

MANY = 2
"""From so many messages about one run on, those that would follow are gathered."""

PAUSE = timedelta(minutes=10)
"""How long they are gathered, unless the run ends before."""

FAILURE = "lifeboat_failure"
"""The XCom's key."""


@dataclass(frozen=True)
class Failure:
    """A failed task's record: what went wrong, when, and through which channels people were told, by which message."""

    trouble: Trouble
    at: datetime
    told: tuple[str, ...] = ()
    message: str = ""

    @property
    def place(self) -> tuple[str, int, int]:
        """Which task, of which mapped ones, in which try."""
        return self.trouble.task, self.trouble.map_index, self.trouble.attempt

    def as_xcom(self) -> dict[str, Any]:
        """The record as plain values."""
        return {
            "trouble": asdict(self.trouble),
            "at": self.at.isoformat(),
            "told": list(self.told),
            "message": self.message,
        }

    @classmethod
    def of_xcom(cls, record: Mapping[str, Any]) -> Failure:
        """The record read back."""
        at, told = datetime.fromisoformat(record["at"]), tuple(record["told"])
        return cls(Trouble(**record["trouble"]), at, told, record["message"])


class LifeboatNotifier(BaseNotifier):
    """Tells whoever platform.yaml names. A channel that is down is a line in the log, and never another failure.

    `limit` says in words what the deadline of a recovery is; nobody is told of it once the incident has ended, in
    whichever run or on a terminal. Other runs have one time by which they should be done.
    """

    def __init__(self, *, limit: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit = limit

    def notify(self, context: Context) -> None:
        """Tell of a failed task, together with others of its run that fail at the same time."""
        hook = PlatformHook()
        error = context.get("exception")
        # Without an exception this is the DAG processor, asked twice about a task whose host was lost: `run_events`
        # tells of that once.
        if hook.platform.notify is None or not isinstance(error, BaseException):
            return
        mine = Failure(_trouble(context, error), datetime.now(UTC))
        run = context["dag_run"]
        context["ti"].xcom_push(FAILURE, mine.as_xcom())
        time.sleep(GATHER)
        group = to_tell(mine, _failures(context))
        if not group:
            self.log.info("People are told of this failure together with others of this run.")
            return
        alert = Alert(
            Event.FAILED,
            hook.platform.platform,
            mine.at,
            dag=run.dag_id,
            run=run.run_id,
            page=run_page(run.dag_id, run.run_id),
            troubles=tuple(failure.trouble for failure in group),
        )
        # Only one more try: whoever does not take it now is told by `run_events`, which has the time.
        delivery = deliver(alert, channels_of(hook.platform, hook.lookup), waits=(2,), report=self.log.info)
        for failure in group:
            told = replace(failure, told=delivery.taken, message=alert.key if delivery.taken else "")
            task, index, _ = failure.place
            XCom.set(FAILURE, told.as_xcom(), dag_id=run.dag_id, run_id=run.run_id, task_id=task, map_index=index)

    async def async_notify(self, context: Context) -> None:
        """Tell of a missed deadline; Airflow asks for that in the triggerer, and gives the run as plain values."""
        # In a thread: sending blocks, and the triggerer has others to serve.
        await asyncio.to_thread(self._tell_late, context)

    def _tell_late(self, context: Mapping[str, Any]) -> None:
        hook = PlatformHook()
        run, deadline = context["dag_run"], context["deadline"]
        dag, run_id = run["dag_id"], run["dag_run_id"] if "dag_run_id" in run else run["run_id"]
        if self.limit and self._has_ended(run, run_id):
            self.log.info("%s went by, and the incident has ended.", self.limit)
            return
        state = run.get("state", "running")
        alert = Alert(
            Event.LATE,
            hook.platform.platform,
            datetime.now(UTC),
            dag=dag,
            run=run_id,
            page=run_page(dag, run_id),
            notes=(
                f"{self.limit} went by at {_moment(deadline['deadline_time'])}, and it is {state}."
                if self.limit
                else f"It should have been done by {_moment(deadline['deadline_time'])}, and is {state}.",
            ),
        )
        deliver(alert, channels_of(hook.platform, hook.lookup), report=self.log.info)

    def _has_ended(self, run: Mapping[str, Any], run_id: str) -> bool:
        try:
            incident = incident_of_run(datetime.fromisoformat(run["run_after"]), run_id, run.get("conf") or {})
            found = find_incident(VaultHook().open(reading=True), incident)
        except Exception:
            # Whatever keeps it from being known, such as a store that is away, must not keep people from knowing.
            self.log.exception("Whether the incident has ended cannot be seen; people are told.")
            return False
        return found.ended is not None or found.mode is not Mode.RECOVER


def to_tell(mine: Failure, failures: Sequence[Failure]) -> list[Failure]:
    """Of all failures in a run, those that I am to tell of: all that nobody told, if I am the first of them.

    Whoever looks at the same failures comes to the same answer, so that one of them tells and the others are quiet.
    None where many messages told of the run already: `run_events` tells of all that follow at once.
    """
    if len({failure.message for failure in failures if failure.message}) >= MANY:
        return []
    untold = [failure for failure in failures if not failure.told]
    taking = [failure for failure in untold if failure.at >= mine.at - TAKING]
    first = min(taking, key=lambda failure: (failure.at, failure.place), default=mine)
    return sorted(untold, key=lambda failure: failure.place) if first.place == mine.place else []


def run_page(dag: str, run: str) -> str:
    """The page of a run in Airflow's UI."""
    return f"{dag_page(dag)}/runs/{quote(run)}"


def dag_page(dag: str) -> str:
    """The page of a DAG in Airflow's UI."""
    return f"{conf.get('api', 'base_url', fallback='http://localhost:8080').rstrip('/')}/dags/{dag}"


def _failures(context: Context) -> list[Failure]:
    """What the failed tasks of this run have recorded, in whichever processes they ran."""
    records = context["ti"].xcom_pull(task_ids=list(context["dag"].task_ids), key=FAILURE)
    return [Failure.of_xcom(record) for record in records if record]


def _trouble(context: Context, error: BaseException) -> Trouble:
    ti, task = context["ti"], context["task"]
    cause, hint = _words(error, task.execution_timeout)
    index = -1 if ti.map_index is None else ti.map_index
    source = str(getattr(task, "source", "") or ti.rendered_map_index or ("" if index < 0 else index))
    return Trouble(
        task=ti.task_id,
        cause=mask(cause),
        source=mask(source),
        hint=mask(hint),
        remedy=if_this_fails(context["dag"].doc_md, ti.task_id),
        log_url=ti.log_url,
        map_index=index,
        attempt=ti.try_number,
    )


def _words(error: BaseException, limit: timedelta | None) -> tuple[str, str]:
    """An error's cause and hint: those of the core's own error where one is behind it."""
    if isinstance(error, AirflowTaskTimeout):
        allowed = duration_text(limit.total_seconds()) if limit else "the time"
        return f"It took longer than the {allowed} it may take.", "Its log shows what it was doing."
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, LifeboatError):
            return behind.message, behind.hint
        behind = behind.__cause__ or behind.__context__
    return f"{type(error).__name__}: {error}"[:2000], ""


def _moment(moment: datetime | str) -> str:
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def mask(text: str) -> str:
    """The text without any secret that Airflow has seen in this process."""
    return mask_urls(str(redact(text)))
