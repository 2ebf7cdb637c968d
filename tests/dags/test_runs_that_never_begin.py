"""Runs that cannot begin are refused or ended, and runs never made are told, each with its cause and a remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.deadline import Deadline
from airflow.models.errors import ParseImportError
from airflow.models.log import Log
from airflow.models.pool import Pool
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import delete, select, update

from lifeboat_airflow import beside, listener, missed, run_events
from lifeboat_airflow.audit import ENDED_BY_US, ENTRY
from lifeboat_airflow.missed import MissedRuns
from lifeboat_airflow.unstartable import end_what_cannot_begin

DAY = timedelta(days=1)
FILE = """\
from datetime import UTC, datetime, timedelta
from airflow.sdk import DAG, AssetOrTimeSchedule, Asset, CronTriggerTimetable, task
from lifeboat_airflow.defaults import DAG_ARGS, done_within

ALL = {**DAG_ARGS, "start_date": datetime(2026, 1, 1, tzinfo=UTC), "deadline": done_within(timedelta(hours=6))}

@task(pool="nobodys")
def in_a_pool(): ...

@task(task_id="beside")
def beside(): ...

with DAG("watched", schedule="0 2 * * *", tags=["lifeboat"], **ALL):
    beside()

either = AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 2 * * *", timezone="UTC"), assets=[Asset("of_the_test")])
with DAG("watched_asset", schedule=either, tags=["lifeboat"], **ALL):
    beside()

with DAG("pooled", schedule=None, tags=["lifeboat"], **DAG_ARGS):
    [in_a_pool(), beside()]

with DAG("of_others", schedule="0 2 * * *", tags=["other"], **ALL):
    in_a_pool()
"""


class Scheduled:
    """DAGs as Airflow keeps them, without any process of it; known for three days and unchanged since."""

    def __init__(self, folder: Path) -> None:
        file = folder / "watched.py"
        file.write_text(FILE)
        bag = DagBag(dag_folder=str(file), bundle_path=folder, bundle_name="testing")
        assert not bag.import_errors, bag.import_errors
        sync_bag_to_db(bag, "testing", None)
        self.known_since(datetime.now(UTC) - 3 * DAY)

    def known_since(self, moment: datetime) -> None:
        with create_session() as session:
            session.execute(update(DagVersion).values(created_at=moment))
            session.execute(update(SerializedDagModel).values(last_updated=moment))

    def run(self, dag_id: str, run_type: str = "manual", state: str = "running", **dates: Any) -> str:
        """Make a run; returns its id."""
        after = dates.get("run_after", datetime.now(UTC))
        with create_session() as session:
            dag = SerializedDagModel.get_dag(dag_id, session=session)
            assert dag is not None
            made = dag.create_dagrun(
                run_id=f"{run_type}__{after.isoformat()}",
                run_type=DagRunType(run_type),
                triggered_by=DagRunTriggeredByType.TEST,
                state=state,
                logical_date=dates.get("logical_date"),
                data_interval=(after, after) if dates.get("logical_date") else None,
                run_after=after,
                session=session,
            )
            return str(made.run_id)

    def state(self, dag_id: str, run_id: str) -> str:
        with create_session() as session:
            return str(self._found(session, dag_id, run_id).state)

    def tasks(self, dag_id: str, run_id: str, **states: str | None) -> dict[str, str | None]:
        """Set states of tasks, and return those of all."""
        with create_session() as session:
            found = self._found(session, dag_id, run_id).get_task_instances(session=session)
            for ti in found:
                ti.state = states.get(ti.task_id, ti.state)
            return {ti.task_id: ti.state for ti in found}

    def _found(self, session: Any, dag_id: str, run_id: str) -> DagRun:
        return session.scalars(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)).one()

    def deadlines(self, dag_id: str) -> list[datetime]:
        with create_session() as session:
            query = select(Deadline.deadline_time).join(DagRun, DagRun.id == Deadline.dagrun_id)
            return list(session.scalars(query.where(DagRun.dag_id == dag_id)))


@pytest.fixture
def scheduled(tmp_path: Path, airflow_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduled]:
    monkeypatch.setattr(missed, "EVERY", 0.0)
    yield Scheduled(tmp_path)
    with create_session() as session:
        for table in (DagRun, DagModel, SerializedDagModel, DagVersion, ParseImportError):
            session.execute(delete(table))
        session.execute(delete(Log).where(Log.event.in_((ENTRY, ENDED_BY_US))))
        session.execute(delete(Pool).where(Pool.pool == "nobodys"))


def ended() -> list[tuple[str, str]]:
    with create_session() as session:
        return end_what_cannot_begin(session)


def why(dag_id: str, run_id: str) -> str:
    """What people are told of a run."""
    [(telling, _)] = run_events.enter_run("small", dag_id, run_id, ["email"])
    assert telling.alert.subject == f"FAILED: {dag_id}"
    return telling.alert.notes[0]


# ---- runs that cannot begin -----------------------------------------------------------------------------------------


def test_a_run_by_hand_with_a_future_logical_date_is_ended_and_told(scheduled: Scheduled) -> None:
    run = scheduled.run("watched", logical_date=datetime(2031, 5, 1, tzinfo=UTC))

    assert ended() == [("watched", run)]
    assert ended() == []

    assert scheduled.state("watched", run) == "failed"
    assert scheduled.tasks("watched", run) == {"beside": "skipped"}
    assert why("watched", run) == (
        "Its logical date, 2031-05-01 00:00 UTC, is in the future: no task of it can begin before, and until then it "
        "would keep other runs of this DAG waiting, those by the schedule too. Trigger it again without a date."
    )


def test_a_run_that_is_queued_for_a_future_date_is_ended_and_told(scheduled: Scheduled) -> None:
    run = scheduled.run("watched", "operator_triggered", "queued", run_after=datetime(2031, 5, 1, tzinfo=UTC))

    assert ended() == [("watched", run)]

    assert "Its run date, 2031-05-01 00:00 UTC, is in the future" in why("watched", run)


def test_what_airflow_makes_by_itself_what_begins_now_and_what_is_not_ours_goes_on(scheduled: Scheduled) -> None:
    soon, far = datetime.now(UTC) + timedelta(seconds=30), datetime(2031, 5, 1, tzinfo=UTC)
    scheduled.run("watched", "scheduled", "queued", run_after=far, logical_date=far)
    scheduled.run("watched", "backfill", "queued", run_after=far + DAY, logical_date=far + DAY)
    scheduled.run("watched", run_after=soon, logical_date=soon)
    scheduled.run("of_others", logical_date=far)

    assert ended() == []


@pytest.mark.parametrize(("slots", "has"), [(None, "does not exist"), (0, "has 0 slots")])
def test_a_run_whose_task_waits_for_a_pool_that_gives_none_is_ended_and_told(
    scheduled: Scheduled, slots: int | None, has: str
) -> None:
    if slots is not None:
        Pool.create_or_update_pool("nobodys", slots, "", include_deferred=False)
    run = scheduled.run("pooled")
    scheduled.tasks("pooled", run, in_a_pool="scheduled", beside="success")

    assert ended() == [("pooled", run)]

    assert scheduled.tasks("pooled", run) == {"in_a_pool": "skipped", "beside": "success"}
    assert why("pooled", run) == (
        f"The pool 'nobodys' {has}, so in_a_pool could never begin. In Airflow under Admin, Pools, give it 1 slot or "
        "more, then clear the run; or take the pool out of the DAG."
    )


def test_what_failed_in_it_before_is_told_as_well(scheduled: Scheduled) -> None:
    run = scheduled.run("pooled")
    scheduled.tasks("pooled", run, in_a_pool="scheduled", beside="failed")
    ended()

    told = [telling.alert for telling, _ in run_events.enter_run("small", "pooled", run, ["email"])]

    assert [alert.subject for alert in told] == ["FAILED: pooled: beside", "FAILED: pooled"]


@pytest.mark.parametrize("other", ["running", "queued", "scheduled", "up_for_retry", "deferred"])
def test_a_run_in_which_something_goes_on_is_not_ended_before_that(scheduled: Scheduled, other: str) -> None:
    run = scheduled.run("pooled")
    scheduled.tasks("pooled", run, in_a_pool="scheduled", beside=other)

    assert ended() == []


def test_a_pool_that_is_full_or_without_end_is_waited_for(scheduled: Scheduled) -> None:
    run = scheduled.run("pooled")
    scheduled.tasks("pooled", run, in_a_pool="scheduled")
    for slots in (1, -1):
        Pool.create_or_update_pool("nobodys", slots, "", include_deferred=False)
        assert ended() == []


def test_a_run_that_was_cleared_and_fails_by_itself_is_not_told_the_old_reason(scheduled: Scheduled) -> None:
    run = scheduled.run("watched", logical_date=datetime(2031, 5, 1, tzinfo=UTC))
    ended()
    why("watched", run)
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.run_id == run).values(clear_number=1, state="failed"))

    assert why("watched", run) == "The run was ended."


@pytest.mark.parametrize("field", ["logical_date", "run_after"])
def test_a_trigger_with_a_future_date_is_refused(scheduled: Scheduled, web: Any, field: str) -> None:
    answer = trigger(web, "watched", **{field: "2031-05-01T00:00:00Z"})

    assert answer.status_code == 400
    assert "2031-05-01 00:00 UTC is in the future: the run could not begin" in answer.json()["detail"]
    assert "Leave the date empty" in answer.json()["detail"]


@pytest.mark.parametrize("seconds", [None, -60, 20])
def test_a_trigger_for_now_is_taken(scheduled: Scheduled, web: Any, seconds: int | None) -> None:
    moment = None if seconds is None else (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()

    assert trigger(web, "watched", logical_date=moment).status_code == 200


def test_dags_of_others_and_odd_dates_are_left_to_airflow(scheduled: Scheduled, web: Any) -> None:
    assert trigger(web, "of_others", logical_date="2031-05-01T00:00:00Z").status_code == 200
    assert trigger(web, "watched", logical_date="tomorrow").status_code == 422


def trigger(web: Any, dag_id: str, **body: Any) -> Any:
    return web.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, **body}, headers=web.admin)


# ---- runs that were never made --------------------------------------------------------------------------------------


def last_moment() -> datetime:
    """Of 02:00 the last whose run should have ended by now."""
    due = datetime.now(UTC) - timedelta(hours=6)
    moment = due.replace(hour=2, minute=0, second=0, microsecond=0)
    return moment if moment <= due else moment - DAY


def watching(monkeypatch: pytest.MonkeyPatch) -> MissedRuns:
    """As a process that has been at work for a while."""
    made = MissedRuns()
    monkeypatch.setattr(made, "_began", datetime.now(UTC) - DAY)
    return made


def told(watch: MissedRuns) -> dict[str, tuple[str, ...]]:
    with create_session() as session:
        found = watch.look(session, "small")
    assert all(telling.alert.subject == f"LATE: {telling.alert.dag} has not run" for telling, _ in found)
    return {telling.alert.dag: telling.alert.notes for telling, _ in found}


def test_a_moment_whose_run_was_never_made_is_told_once(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, by_another = (told(watch) for watch in [watching(monkeypatch)] * 2 + [watching(monkeypatch)])

    assert first.keys() == {"watched", "watched_asset"}
    moment = last_moment()
    assert first["watched"][0] == (
        f"No run was made for {moment:%Y-%m-%d} 02:00 UTC. It should have been done by {moment:%Y-%m-%d} 08:00 UTC."
    )
    assert first["watched"][1].startswith("The scheduler has made none")
    assert again == by_another == {}


def test_one_that_was_told_is_told_again_the_next_day(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watching(monkeypatch)
    assert told(watch)
    with create_session() as session:
        for entry in session.scalars(select(Log).where(Log.event == ENTRY)):
            entry.dttm = datetime.now(UTC) - DAY
            entry.extra = '{"events": ["no run for yesterday"], "told": ["email"]}'

    assert told(watch).keys() == {"watched", "watched_asset"}


@pytest.mark.parametrize(
    ("run_type", "state"), [("scheduled", "running"), ("scheduled", "failed"), ("manual", "success")]
)
def test_a_run_that_exists_is_left_to_its_own_deadline(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch, run_type: str, state: str
) -> None:
    scheduled.run("watched", run_type, state, run_after=last_moment(), logical_date=last_moment())
    scheduled.run("watched_asset", "asset_triggered", "success", run_after=last_moment() + timedelta(hours=1))

    assert told(watching(monkeypatch)) == {}


def test_a_run_by_hand_that_failed_and_one_of_the_day_before_are_not_it(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduled.run("watched", "manual", "failed", run_after=last_moment())
    scheduled.run("watched", "scheduled", "success", run_after=last_moment() - DAY, logical_date=last_moment() - DAY)

    assert "watched" in told(watching(monkeypatch))


def test_a_new_installation_and_one_that_has_just_begun_are_quiet(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(MissedRuns()) == {}

    scheduled.known_since(last_moment() + timedelta(minutes=1))
    assert told(watching(monkeypatch)) == {}


def test_a_schedule_that_was_just_changed_is_given_time(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    with create_session() as session:
        session.execute(update(SerializedDagModel).values(last_updated=datetime.now(UTC)))

    assert told(watching(monkeypatch)) == {}


def test_it_says_that_the_dag_is_paused(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    change("watched", is_paused=True)

    assert told(watching(monkeypatch))["watched"][1].startswith("The DAG is paused. Turn it on")


def test_it_says_that_the_dag_is_gone(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    change("watched", is_stale=True)

    assert told(watching(monkeypatch))["watched"][1].startswith("Airflow does not find the DAG any more.")


def test_it_says_what_is_wrong_with_the_dags_file(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    change("watched", is_stale=True)
    with create_session() as session:
        error = "Traceback …\nSyntaxError: '(' was never closed"
        session.add(ParseImportError(filename="watched.py", bundle_name="testing", stacktrace=error))

    assert told(watching(monkeypatch))["watched"][1].startswith(
        "Its file cannot be imported: SyntaxError: '(' was never closed\nCorrect it;"
    )


def test_it_names_the_run_that_is_in_the_way(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scheduled.run("watched", "manual", "running")

    text = told(watching(monkeypatch))["watched"][1]
    assert text.startswith(f"Its run {run} is running, and no other is begun before that has ended.")


def change(dag_id: str, **values: Any) -> None:
    with create_session() as session:
        session.execute(update(DagModel).where(DagModel.dag_id == dag_id).values(**values))


def test_airflows_own_deadline_is_for_scheduled_runs_since_the_dag_is_known(scheduled: Scheduled) -> None:
    moment = last_moment()
    for run_type, hours in (("manual", 1), ("backfill", 2)):
        after = moment + timedelta(hours=hours)
        scheduled.run("watched", run_type, run_after=after, logical_date=after)
    scheduled.run("watched", "scheduled", run_after=moment - 7 * DAY, logical_date=moment - 7 * DAY)
    assert scheduled.deadlines("watched") == []

    scheduled.run("watched", "scheduled", run_after=moment, logical_date=moment)

    assert scheduled.deadlines("watched") == [moment + timedelta(hours=6)]


# ---- the process beside the scheduler -------------------------------------------------------------------------------


def test_it_is_started_with_the_scheduler_and_with_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    class Alive:
        def poll(self) -> None: ...

    monkeypatch.setattr(listener, "_beside", None)
    monkeypatch.setattr(listener, "_start", lambda module: started.append(module) or Alive())

    class Job:
        latest_heartbeat = None

    def begin(words: str, component: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["airflow", words])
        listener.on_starting(component=component)
        return started

    assert begin("triggerer", Job()) == []
    assert begin("scheduler", object()) == []  # a task that it runs by itself
    assert begin("scheduler", Job()) == ["beside"]
    assert begin("scheduler", Job()) == ["beside"]


def test_when_it_dies_another_is_started_until_its_pipe_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = tmp_path / "begun"
    program = (
        f"import os, signal\nwith open({str(begun)!r}, 'a') as file:\n    file.write('x')\n"
        f"if os.path.getsize({str(begun)!r}) < 3:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setattr(beside, "COMMAND", (sys.executable, "-c", program))
    monkeypatch.setattr(beside, "PAUSE", 0.0)

    beside.main()

    assert begun.read_text() == "xxx"


def test_it_ends_with_the_pipe_of_its_scheduler(airflow_db: None) -> None:
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-m", "lifeboat_airflow.beside"], stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
    )
    assert process.stdin is not None
    process.stdin.close()

    assert process.wait(120) == 0
