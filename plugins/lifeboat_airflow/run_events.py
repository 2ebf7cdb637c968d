"""Tells people how runs end, and what never begins: a process beside the scheduler, which `listener` starts and feeds.

It looks into Airflow's database for what nobody was told yet: tasks that failed without a word of their own, also while
their run goes on; a run that was stopped, a success after failures, a success that is degraded. What is told, and
through which channels, is kept in Airflow's audit log as `lifeboat_alert`, where people find it too. An entry is made
before sending, under a lock of the run, so that two schedulers never tell the same; what a process did not come to tell
before it was killed is told after a while, by whichever comes next. It also ends what cannot begin (`unstartable`),
sees what was never begun (`missed`), and keeps an eye on platform.yaml (`platform_watch`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import select as selecting
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from airflow.models.dag import DagTag
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import and_, exists, or_, select, tuple_
from sqlalchemy.orm import Session

from lifeboat.assembly import channels_of
from lifeboat.connections import require_connection
from lifeboat.errors import LifeboatError
from lifeboat.notify.alert import Alert, Event, Trouble, if_this_fails
from lifeboat.notify.channels import Channel, ping
from lifeboat.notify.sending import PATIENTLY, SOON, deliver
from lifeboat.progress import count_text, duration_text
from lifeboat_airflow.audit import ENTRY, Telling, complete, enter, events_of
from lifeboat_airflow.hooks import PlatformHook
from lifeboat_airflow.listener import TAG
from lifeboat_airflow.missed import MissedRuns
from lifeboat_airflow.notifier import FAILURE, MANY, PAUSE, TAKING, Failure, mask, run_page
from lifeboat_airflow.platform_watch import PlatformWatch
from lifeboat_airflow.unstartable import end_what_cannot_begin, why_ended

log = logging.getLogger("lifeboat.alerts")

BACK = timedelta(days=1)
"""How far back failed runs are looked through for what nobody was told."""

SPEAKING = timedelta(seconds=5)
"""How long a failed task has to record its failure; one that was killed never does."""

POLL = 5.0
"""Seconds between looks, when nothing is heard."""

COMMITTED = 60.0
"""Seconds in which the end of a run, which Airflow tells before it writes it, must be there to be read."""

ENDED = ("success", "failed")
SIGNALS = {"running": "start", "success": "", "failed": "fail"}


class Teller:
    """Tells what is heard of on a pipe and what is found in the database, each in a thread of its own."""

    def __init__(self) -> None:
        self.heard: dict[tuple[str, str], _Heard] = {}
        self._done: set[tuple[Any, ...]] = set()
        self._threads: list[threading.Thread] = []
        self._platform, self._missed = PlatformWatch(), MissedRuns()

    def hear(self, line: bytes) -> None:
        """A run began or ended, as `listener` writes it."""
        event = json.loads(line)
        if event["state"] != "running":
            run = event["dag"], event["run"]
            self.heard[run] = _Heard(event["reason"], time.monotonic() + COMMITTED)
        self._begin(_ping, PlatformHook(), event["dag"], SIGNALS[event["state"]])

    def look_at_platform(self) -> None:
        """Tell that platform.yaml is wrong, or right again."""
        for platform, telling, entry in self._platform.look():
            self._begin(_send_and_note, telling, entry, channels_of(platform, PlatformHook().lookup))

    def end_what_cannot_begin(self) -> None:
        """End the runs that cannot begin; `look` tells of them as of any other that failed."""
        with create_session() as session:
            ended = end_what_cannot_begin(session)
        for dag_id, _ in ended:
            self._begin(_ping, PlatformHook(), dag_id, SIGNALS["failed"])

    def look_for_missed(self) -> None:
        """Tell of runs that were never made."""
        hook = PlatformHook()
        if hook.platform.notify is None:
            return
        with create_session() as session:
            missed = self._missed.look(session, hook.platform.platform)
        for telling, entry in missed:
            self._begin(_send_and_note, telling, entry, channels_of(hook.platform, hook.lookup))

    def look(self) -> None:
        """Tell of every run that has something to be told; of one that was heard of, when its end is written."""
        # First of all: without a database, this process would wait for ever for what it has heard of.
        now = time.monotonic()
        self.heard = {run: heard for run, heard in self.heard.items() if heard.until > now}
        with create_session() as session:
            found = list(session.execute(_runs_to_look_at(self.heard)).tuples())
        for dag_id, run_id, state, clears in found:
            heard = self.heard.get((dag_id, run_id))
            key = dag_id, run_id, state, clears, _failed_tries(dag_id, run_id)
            if key in self._done or (heard is None and state == "success"):
                self.heard.pop((dag_id, run_id), None)
                continue
            if _all_said(dag_id, run_id) and (state in ENDED or not _gathering(dag_id, run_id)):
                # What cannot be told of one run keeps nothing back that is to be told of others.
                if not _try(partial(self._tell, dag_id, run_id, heard.reason if heard else "")):
                    continue
                self._done.add(key)
                if state in ENDED:
                    self.heard.pop((dag_id, run_id), None)

    def finish(self) -> None:
        """Wait for all that is being sent."""
        for thread in self._threads:
            thread.join()

    def _tell(self, dag_id: str, run_id: str, reason: str) -> None:
        hook = PlatformHook()
        if hook.platform.notify is None:
            return
        channels = channels_of(hook.platform, hook.lookup)
        for telling, entry in enter_run(hook.platform.platform, dag_id, run_id, [c.name for c in channels], reason):
            self._begin(_send_and_note, telling, entry, channels)

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, args=arguments)
        thread.start()
        self._threads.append(thread)


@dataclass(frozen=True)
class _Heard:
    """Why a run ended, and until when its end must have been written."""

    reason: str
    until: float


def main() -> None:
    """Tell until the pipe ends or the scheduler does, and what is begun then to its end."""
    teller, parent, text, more = Teller(), os.getppid(), b"", True
    watch = (teller.look_at_platform, teller.end_what_cannot_begin, teller.look_for_missed)
    while (more and os.getppid() == parent) or teller.heard:
        if more and selecting.select([sys.stdin], [], [], POLL)[0]:
            chunk = os.read(sys.stdin.fileno(), 65536)
            more = bool(chunk)
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                _try(partial(teller.hear, line))
        elif not more:
            time.sleep(1)
        for step in (*(watch if more else ()), teller.look):
            _try(step)
    teller.finish()


def _try(step: Callable[[], None]) -> bool:
    try:
        step()
    except Exception:
        # Whatever it is, such as a database that is away for a moment: what is not told now is told later.
        log.exception("Looking for what people are to be told failed; it is tried again.")
        time.sleep(POLL)
        return False
    return True


def enter_run(
    platform: str, dag_id: str, run_id: str, channels: Sequence[str], reason: str = ""
) -> list[tuple[Telling, int]]:
    """What is to be told of a run, each with its entry in the audit log. Nobody else is given the same."""
    with create_session() as session:
        # Only until the entries are made; the scheduler passes over a locked run.
        query = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id).with_for_update()
        run = session.scalars(query).one()
        tellings = list(_tellings(session, run, platform, channels, reason))
        return [(telling, enter(session, telling)) for telling in tellings]


def _send_and_note(telling: Telling, entry: int, channels: Sequence[Channel]) -> None:
    wanted = [channel for channel in channels if not telling.channels or channel.name in telling.channels]
    taken = send(telling.alert, wanted, channels)
    with create_session() as session:
        complete(session, entry, telling, taken)


def send(alert: Alert, wanted: Sequence[Channel], channels: Sequence[Channel]) -> list[str]:
    """Send an alert, for an hour if need be; when a channel does not take it, tell so through the others."""
    first = deliver(alert, wanted, waits=SOON, report=log.warning)
    if not first.failed:
        return list(first.taken)
    reasons = tuple(f"{error} It was about: {alert.subject}." for error in first.failed.values())
    notice = replace(alert, event=Event.UNDELIVERED, notes=reasons, troubles=())
    deliver(notice, [c for c in channels if c.name not in first.failed], waits=SOON, report=log.warning)
    again = [c for c in wanted if c.name in first.failed and first.failed[c.name].transient]
    later = deliver(alert, again, waits=PATIENTLY, report=log.warning)
    return [*first.taken, *later.taken]


# ---- what is to be told ---------------------------------------------------------------------------------------------


def _tellings(session: Session, run: DagRun, platform: str, channels: Sequence[str], reason: str) -> Iterator[Telling]:
    about = Alert(
        Event.FAILED,
        platform,
        run.end_date or datetime.now(UTC),
        dag=run.dag_id,
        run=run.run_id,
        page=run_page(run.dag_id, run.run_id),
    )
    entered = _entered(session, run)
    succeeded = run.state == "success"
    for telling in _success(session, run, about) if succeeded else _failure(session, run, about, channels, reason):
        events = [event for event in telling.events if event not in entered]
        if events:
            yield replace(telling, events=tuple(events))


def _failure(session: Session, run: DagRun, about: Alert, channels: Sequence[str], reason: str) -> Iterator[Telling]:
    """One alert for each set of channels that lack the same failures; usually one, or none where all was told."""
    doc = _doc(session, run.dag_id)
    failed = [ti for ti in run.get_task_instances(session=session) if ti.state == "failed"]
    by_channels: dict[tuple[str, ...], list[Trouble]] = {}
    for ti in failed:
        record = _record(session, ti)
        lacking = tuple(name for name in channels if record is None or name not in record.told)
        trouble = record.trouble if record else _unexplained(ti, doc, _who_failed(session, ti))
        if lacking:
            by_channels.setdefault(lacking, []).append(trouble)
    notes = (*_row_of_failures(session, run),)
    entered = _entered(session, run)
    for lacking, troubles in by_channels.items():
        new = [trouble for trouble in troubles if _event(trouble) not in entered]
        yield Telling(replace(about, troubles=tuple(new), notes=notes), tuple(map(_event, new)), lacking)
    if run.state == "failed" and (not failed or why_ended(session, run)):
        stopped = tuple(
            replace(_unexplained(ti, doc, ""), cause="It was at work when the run was ended.")
            for ti in run.get_task_instances(session=session)
            if ti.state in ("skipped", "removed") and ti.start_date is not None and ti.pid is not None
        )
        alert = replace(about, troubles=stopped, notes=(_why(session, run, reason), *notes))
        yield Telling(alert, (f"failed run {run.clear_number}",))


def _success(session: Session, run: DagRun, about: Alert) -> Iterator[Telling]:
    """A success after failures, and one that is degraded otherwise than the success before it."""
    row = _failed_before(session, run)
    if row:
        text = f"{count_text(len(row), 'run')} before it had failed, the first on {_moment(row[-1].end_date)}."
        yield Telling(replace(about, event=Event.RECOVERED, notes=(text,)), (f"recovered {run.clear_number}",))
    lacking = _lacking(session, run)
    before = _runs_before(session, run, limit=1)
    if lacking and (row or not before or lacking.keys() != _lacking(session, before[0]).keys()):
        alert = replace(about, event=Event.DEGRADED, notes=tuple(dict.fromkeys(map(mask, lacking.values()))))
        yield Telling(alert, (f"degraded {run.clear_number}",))


def _event(trouble: Trouble) -> str:
    return f"failed {trouble.task}[{trouble.map_index}] try {trouble.attempt}"


def _record(session: Session, ti: TaskInstance) -> Failure | None:
    """What a failed task has said of itself in this try."""
    [value] = _xcoms(session, ti, FAILURE) or [None]
    record = Failure.of_xcom(value) if value else None
    return record if record and record.trouble.attempt == ti.try_number else None


def _unexplained(ti: TaskInstance, doc: str, who: str) -> Trouble:
    cause = (
        f"{who} has marked it as failed."
        if who
        else "Its process ended without saying why: it was killed, its host was lost, or it could not begin."
    )
    return Trouble(
        task=ti.task_id,
        cause=cause,
        source=mask(str(ti.rendered_map_index or "")),
        hint="" if who else "Its log may end early. Look for `out of memory` in the log of the host that ran it.",
        remedy=if_this_fails(doc, ti.task_id),
        log_url=ti.log_url,
        map_index=ti.map_index,
        attempt=ti.try_number,
    )


def _who_failed(session: Session, ti: TaskInstance) -> str:
    """Who has marked a task as failed; empty when nobody did."""
    query = select(Log).where(
        Log.dag_id == ti.dag_id, Log.run_id == ti.run_id, Log.event.in_(("patch_task_instance", "patch_dag_run"))
    )
    for entry in session.scalars(query.order_by(Log.id.desc())):
        if entry.task_id in (None, ti.task_id) and "failed" in (entry.extra or ""):
            return entry.owner_display_name or entry.owner or "A person"
    return ""


def _why(session: Session, run: DagRun, reason: str) -> str:
    if by_us := why_ended(session, run):
        return by_us
    if reason == "timed_out":
        dag = SerializedDagModel.get_dag(run.dag_id, session=session)
        limit = dag.dagrun_timeout if dag else None
        allowed = f"the {duration_text(limit.total_seconds())} it may take" if limit else "it may"
        return f"The run took longer than {allowed}. What was at work was stopped, and nothing after it was begun."
    if reason == "all_tasks_deadlocked":
        return "No task of the run could ever begin."
    return f"The run was ended: {reason}." if reason else "The run was ended."


def _row_of_failures(session: Session, run: DagRun) -> list[str]:
    row = _failed_before(session, run)
    return [f"{count_text(len(row), 'run')} before it had failed too."] if row else []


def _failed_before(session: Session, run: DagRun) -> list[DagRun]:
    """The failed runs since the last success before a run, newest first."""
    row = []
    for earlier in _runs_before(session, run, limit=50):
        if earlier.state != "failed":
            break
        row.append(earlier)
    return row


def _runs_before(session: Session, run: DagRun, limit: int) -> Sequence[DagRun]:
    query = (
        select(DagRun)
        .where(DagRun.dag_id == run.dag_id, DagRun.run_id != run.run_id)
        .where(DagRun.state.in_(ENDED), DagRun.run_after < run.run_after)
        .order_by(DagRun.run_after.desc())
        .limit(limit)
    )
    return session.scalars(query).all()


def _lacking(session: Session, run: DagRun) -> dict[tuple[str, str], str]:
    """What a run's tasks have reported as lacking or remarkable; what a later one has healed is not."""
    lacking: dict[tuple[str, str], str] = {}
    tis = [ti for ti in run.get_task_instances(session=session) if ti.end_date]
    for ti in sorted(tis, key=lambda ti: ti.end_date or datetime.now(UTC)):
        for value in _xcoms(session, ti, "return_value"):
            if not isinstance(value, dict):
                continue
            snapshot = str(value.get("snapshot") or "")
            if isinstance(value.get("lacking"), dict):
                source = snapshot.partition("/")[0]
                lacking = {
                    key: text for key, text in lacking.items() if key[0] != source or not text.startswith(snapshot)
                }
                for repository, why in value["lacking"].items():
                    lacking[source, repository] = f"{snapshot} is not in {repository}: {why}"
            for remark in value.get("remarks") or ():
                # Without its numbers: a remark that there is little room is the same remark the next night.
                lacking[str(value.get("source") or ti.task_id), re.sub(r"\d+", "#", str(remark))] = str(remark)
    return lacking


def _xcoms(session: Session, ti: TaskInstance, key: str) -> list[Any]:
    query = XComModel.get_many(
        run_id=ti.run_id, dag_ids=ti.dag_id, task_ids=ti.task_id, map_indexes=ti.map_index, key=key
    )
    return [XComModel.deserialize_value(row) for row in session.scalars(query)]


def _doc(session: Session, dag_id: str) -> str:
    dag = SerializedDagModel.get_dag(dag_id, session=session)
    return (dag.doc_md or "") if dag else ""


def _entered(session: Session, run: DagRun) -> set[str]:
    """The events of a run that were told, or are being told."""
    return {event for _, events in events_of(session, run.dag_id, run.run_id) for event in events}


# ---- runs -----------------------------------------------------------------------------------------------------------


def _runs_to_look_at(heard: Iterable[tuple[str, str]]) -> Any:
    """Runs that were heard of and have ended, and Lifeboat's that failed lately or have a failed task by now."""
    failed = exists().where(
        TaskInstance.dag_id == DagRun.dag_id, TaskInstance.run_id == DagRun.run_id, TaskInstance.state == "failed"
    )
    lately = and_(DagRun.state == "failed", DagRun.end_date > datetime.now(UTC) - BACK)
    ours = exists().where(DagTag.dag_id == DagRun.dag_id, DagTag.name == TAG)
    known = and_(tuple_(DagRun.dag_id, DagRun.run_id).in_(list(heard)), DagRun.state.in_(ENDED))
    query = select(DagRun.dag_id, DagRun.run_id, DagRun.state, DagRun.clear_number)
    return query.where(or_(known, and_(ours, or_(lately, and_(DagRun.state == "running", failed)))))


def _failed_tries(dag_id: str, run_id: str) -> frozenset[tuple[str, int, int]]:
    query = select(TaskInstance.task_id, TaskInstance.map_index, TaskInstance.try_number).where(
        TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.state == "failed"
    )
    with create_session() as session:
        return frozenset(session.execute(query).tuples())


def _all_said(dag_id: str, run_id: str) -> bool:
    """Whether every failed task of a run has told people, or can be expected to do so no more."""
    now = datetime.now(UTC)
    with create_session() as session:
        query = select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        for ti in session.scalars(query.where(TaskInstance.state.in_(("failed", "running")))):
            record = _record(session, ti)
            # Until a failed task's process has ended, Airflow calls it running.
            if record is not None and (ti.state == "running" or not record.told) and record.at > now - TAKING:
                return False
            if record is None and ti.state == "failed" and ti.end_date and ti.end_date > now - SPEAKING:
                return False
    return True


def _gathering(dag_id: str, run_id: str) -> bool:
    """Whether so many messages told of a run that what else fails in it waits for its end, or for the next pause."""
    with create_session() as session:
        run = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)).one()
        records = [record for ti in run.get_task_instances(session=session) if (record := _record(session, ti))]
        told = {record.message: record.at for record in records if record.message}
        entries = session.scalars(select(Log).where(Log.dag_id == dag_id, Log.run_id == run_id, Log.event == ENTRY))
        told |= {str(entry.id): entry.dttm for entry in entries if entry.dttm}
    return len(told) >= MANY and max(told.values()) > datetime.now(UTC) - PAUSE


def _ping(hook: PlatformHook, dag_id: str, signal: str) -> None:
    conn_id = hook.platform.notify.dead_man.get(dag_id) if hook.platform.notify else None
    if conn_id is None:
        return
    place = hook.platform.place("notify", "dead_man", dag_id)
    for wait in (*SOON, 0.0):
        try:
            ping(require_connection(hook.lookup, conn_id, place), signal)
            return
        except LifeboatError as error:
            log.warning("%s", error)
            if not error.transient:
                return
            time.sleep(wait)


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d at %H:%M} UTC" if moment else "an unknown day"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with suppress(KeyboardInterrupt):
        main()
