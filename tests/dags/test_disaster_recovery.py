"""The disaster-recovery DAG, run by Airflow against real servers, with people who answer, and people who do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg.sql
import pytest
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.exceptions import AirflowException, DownstreamTasksSkipped
from airflow.utils.session import create_session
from sqlalchemy import select

from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.swap import kept_databases
from lifeboat.recovery.journal import Journal, incidents, new_incident
from lifeboat.recovery.model import Mode, Outcome, Request
from lifeboat_airflow.operators.base import LifeboatOperator
from lifeboat_airflow.operators.recovery import AskOperator, AskToReplaceOperator
from tests.dags.conftest import AT_WORK, Place, RunDag, back_up, parsed, result_of
from tests.dags.test_restore import names_of, tables_of

DAG = "disaster_recovery"
ASK, ASK_AGAIN = "assess_damage.ask", "assess_damage.ask_again"
REPLACE, UNDO = "verify_and_start.ask_to_replace", "verify_and_start.ask_to_undo"
RECOVER = {"mode": "recover", "point": "latest", "components": ["odd"], "title": "Server lost"}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Answer:
    """What a person answers to the question of a task."""

    task: str
    option: str
    values: Mapping[str, Any] = field(default_factory=dict)


@pytest.fixture
def live(place: Place, postgres: PostgresServer, databases: tuple[str, str]) -> Iterator[str]:
    """The live database `odd`, of which there is a snapshot, with a table it has since; as it was, afterwards."""
    name = databases[1]
    back_up("odd")
    with postgres.visit(name) as connection:
        connection.execute("CREATE TABLE made_since ()")
    yield name
    with postgres.visit("postgres") as admin:
        for kept in kept_databases(postgres, name):
            admin.execute(psycopg.sql.SQL("DROP DATABASE {}").format(psycopg.sql.Identifier(kept.name)))
    with postgres.visit(name) as connection:
        connection.execute("DROP TABLE IF EXISTS made_since")


def is_as_it_was(postgres: PostgresServer, live: str) -> bool:
    return ("app", "made_since") in tables_of(postgres, live)


def test_an_assessment_says_what_there_is_and_changes_nothing(
    live: str, place: Place, run_dag: RunDag, postgres: PostgresServer
) -> None:
    before = names_of(postgres)

    run = run_dag(DAG, mode="assess", point="latest", components=["odd", "orders"])

    assert run.state == "success"
    assert (names_of(postgres), is_as_it_was(postgres, live)) == (before, True)
    found = result_of(run, "assess_damage.assess", -1)
    assert "| odd |" in found["markdown"]
    assert {c["source"]: c["state"] for c in found["assessment"]["components"]} == {"odd": "alive", "orders": "alive"}
    assert states_of(run)["prepare_environment.prepare"] == "skipped"
    assert result_of(run, "notify_stakeholders.close", -1)["reports"]


def test_a_live_database_is_replaced_once_two_questions_are_answered(
    live: str, place: Place, run_dag: RunDag, web: Any, postgres: PostgresServer
) -> None:
    with people(web, Answer(ASK, "Proceed"), Answer(REPLACE, "Replace what is alive")):
        run = run_dag(DAG, **RECOVER)

    assert run.state == "success", states_of(run)
    assert not is_as_it_was(postgres, live)
    assert [str(kept.standing) for kept in kept_databases(postgres, live)] == ["before"]
    [incident] = incidents(place.vault())
    assert incident.ended is not None
    assert incident.ended.outcome is Outcome.DONE
    told = Journal(place.vault(), incident.id).entries()
    assert [(e.facts["by"], e.facts["answer"]) for e in told if e.outcome is Outcome.ANSWERED] == [
        ("boss", "Proceed"),
        ("boss", "Replace what is alive"),
    ]


def test_a_database_that_is_gone_comes_back_with_one_question(
    live: str, place: Place, run_dag: RunDag, web: Any, postgres: PostgresServer
) -> None:
    with postgres.visit("postgres") as admin:
        admin.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(live)))

    with people(web, Answer(ASK, "Proceed")):
        run = run_dag(DAG, **RECOVER)

    assert run.state == "success", states_of(run)
    assert ("app", "invoices") in tables_of(postgres, live)


@pytest.mark.parametrize(
    "answers",
    [[Answer(ASK, "Stop")], [Answer(ASK, "Proceed"), Answer(REPLACE, "Stop")]],
    ids=["at once", "before replacing"],
)
def test_nothing_alive_is_touched_when_a_person_stops_it(
    live: str, run_dag: RunDag, web: Any, postgres: PostgresServer, answers: Sequence[Answer]
) -> None:
    with people(web, *answers):
        run = run_dag(DAG, **RECOVER)

    assert run.state == "success", states_of(run)
    assert is_as_it_was(postgres, live)
    assert states_of(run)["verify_and_start.put_in_place"] == "skipped"
    assert result_of(run, "notify_stakeholders.close", -1)["well"] is False


def test_another_point_is_assessed_and_asked_for_again(
    live: str, run_dag: RunDag, web: Any, postgres: PostgresServer
) -> None:
    first = back_up("odd")["snapshot"]
    back_up("odd")

    with people(
        web, Answer(ASK, "Choose another point", {"as_of": None, "snapshots": [first]}), Answer(ASK_AGAIN, "Stop")
    ):
        run = run_dag(DAG, **RECOVER)

    assert run.state == "success", states_of(run)
    [component] = result_of(run, "assess_damage.assess_again", -1)["assessment"]["components"]
    assert component["snapshot"] == first


def test_no_answer_in_time_stops_it_and_fails_the_run_and_it_is_not_asked_again(
    live: str, postgres: PostgresServer
) -> None:
    hour = threading.Thread(target=let_the_time_pass)
    hour.start()

    run = retried_at_once().test(run_conf=RECOVER)

    hour.join(timeout=60)
    assert run.state == "failed"
    assert [task.try_number for task in run.get_task_instances() if task.task_id == ASK] == [1]
    assert states_of(run)[ASK] == "failed"
    assert states_of(run)["prepare_environment.prepare"] == "upstream_failed"
    assert is_as_it_was(postgres, live)


def test_a_recovery_each_of_whose_steps_is_cut_short_once_before_it_says_so_goes_on_and_repeats_nothing(
    live: str, place: Place, web: Any, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: set[str] = set()
    for operator in (LifeboatOperator, AskOperator, AskToReplaceOperator):
        for method in {"execute", "execute_complete"} & set(dir(operator)):
            monkeypatch.setattr(operator, method, cut_short_once(getattr(operator, method), cut))
    dag = retried_at_once()

    with people(web, Answer(ASK, "Proceed"), Answer(REPLACE, "Replace what is alive")):
        run = dag.test(run_conf=RECOVER)

    assert run.state == "success", states_of(run)
    done = {task for task, state in states_of(run).items() if state == "success"}
    assert cut == done
    assert not is_as_it_was(postgres, live)
    assert [str(kept.standing) for kept in kept_databases(postgres, live)] == ["before"]
    [incident] = incidents(place.vault())
    told = [(entry.step, str(entry.outcome)) for entry in Journal(place.vault(), incident.id).entries()]
    for once in (("ask", "asked"), ("ask_to_replace", "asked"), ("restore", "done"), ("put in place", "done")):
        assert told.count(once) == 1, told


def cut_short_once(method: Any, cut: set[str]) -> Any:
    """What an operator does; the first time that it is done, its task ends before it can say so, and is in `cut`."""

    def cut_short(self: Any, *arguments: Any, **named: Any) -> Any:
        result, skips = None, None
        try:
            result = method(self, *arguments, **named)
        except DownstreamTasksSkipped as error:  # done as well: what does not follow is left out
            skips = error
        if self.task_id not in cut:
            cut.add(self.task_id)
            raise AirflowException("cut short by the test")
        if skips is not None:
            raise skips
        return result

    return cut_short


def retried_at_once() -> Any:
    """The DAG with a second try of each task, without the wait before it."""
    dag = parsed(DAG)
    for task in dag.task_dict.values():
        task.retries, task.retry_delay = 1, timedelta(0)
    return dag


def test_who_is_not_named_may_not_answer(
    live: str, place: Place, run_dag: RunDag, web: Any, postgres: PostgresServer
) -> None:
    file = place.folder / "platform.yaml"
    file.write_text(file.read_text() + "recovery:\n  approvers: [director]\n")
    answered: list[int] = []

    def others() -> None:
        answered.append(send(web, Answer(ASK, "Proceed")))
        let_the_time_pass()

    person = threading.Thread(target=others)
    person.start()

    run = run_dag(DAG, **RECOVER)

    person.join(timeout=60)
    assert answered == [403]
    assert run.state == "failed"
    assert is_as_it_was(postgres, live)


def test_a_practice_asks_nobody_and_touches_nothing(
    live: str, place: Place, run_dag: RunDag, postgres: PostgresServer
) -> None:
    before = names_of(postgres)

    run = run_dag(DAG, mode="practice", point="latest", components=["odd"], title="Practice")

    assert run.state == "success", states_of(run)
    assert (names_of(postgres), is_as_it_was(postgres, live)) == (before, True)
    assert states_of(run)["verify_and_start.verify"] == "success"
    assert result_of(run, "notify_stakeholders.close", -1)["well"] is True


def test_a_second_recovery_at_the_same_time_is_refused(
    live: str, place: Place, run_dag: RunDag, postgres: PostgresServer
) -> None:
    now = datetime.now(UTC)
    Journal(place.vault(), new_incident(now)).begin(Request(Mode.RECOVER, now, "Begun on a terminal"))

    run = run_dag(DAG, **RECOVER)

    assert run.state == "failed"
    assert states_of(run)["assess_damage.open_incident"] == "failed"
    assert is_as_it_was(postgres, live)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"mode": "recover", "point": "as of a time"}, "as_of"),
        ({"mode": "recover", "began": "2999-01-01T00:00:00+00:00"}, "future"),
        ({"mode": "practice", "drop_replaced": True}, "drop"),
    ],
    ids=["no time", "an incident to come", "dropping in a practice"],
)
def test_a_form_that_does_not_fit_together_is_refused_as_it_is_sent(
    place: Place, web: Any, form: Mapping[str, Any], told: str
) -> None:
    parsed(DAG)

    answer = web.post(f"/api/v2/dags/{DAG}/dagRuns", json={"logical_date": None, "conf": dict(form)}, headers=web.admin)

    assert answer.status_code == 400
    assert told in answer.json()["detail"]


def test_smoke_tests_that_fail_offer_what_was_live_before(
    live: str, place: Place, run_dag: RunDag, web: Any, postgres: PostgresServer
) -> None:
    file = place.folder / "platform.yaml"
    file.write_text(file.read_text() + "application:\n  smoke: [['false']]\n")
    answers = [
        Answer(ASK, "Proceed"),
        Answer(REPLACE, "Replace what is alive"),
        Answer(UNDO, "Put back what was live before"),
    ]

    with people(web, *answers):
        run = run_dag(DAG, **RECOVER)

    assert run.state == "failed"
    assert states_of(run)["verify_and_start.undo"] == "success"
    assert is_as_it_was(postgres, live)


# ---- people and time ------------------------------------------------------------------------------------------------


@contextmanager
def people(web: Any, *answers: Answer) -> Iterator[None]:
    """Somebody who answers these questions, one after the other, as a person does under Required Actions."""
    given: list[int] = []
    person = threading.Thread(target=lambda: given.extend(send(web, answer) for answer in answers))
    person.start()
    yield
    person.join(timeout=120)
    assert given == [200] * len(answers)


def send(web: Any, answer: Answer) -> int:
    """Answer once it is asked; the status of that."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = f"/api/v2/dags/{DAG}/dagRuns/~/hitlDetails"
        waiting = web.get(path, params={"state": "awaiting_input"}, headers=web.admin).json()["hitl_details"]
        for task in (detail["task_instance"] for detail in waiting):
            if task["task_id"] == answer.task:
                asked = f"/api/v2/dags/{DAG}/dagRuns/{task['dag_run_id']}/taskInstances/{answer.task}/-1/hitlDetails"
                body = {"chosen_options": [answer.option], "params_input": dict(answer.values)}
                with AT_WORK:
                    return int(web.patch(asked, json=body, headers=web.admin).status_code)
        time.sleep(0.3)
    return 0


def let_the_time_pass() -> None:
    """What the scheduler does with a question whose time is over."""
    runner = SchedulerJobRunner(job=Job())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with AT_WORK:
            with create_session() as session:
                query = select(TaskInstance).where(TaskInstance.dag_id == DAG, TaskInstance.state == "awaiting_input")
                waiting = session.scalars(query).all()
                for task in waiting:
                    left = task.trigger_timeout - datetime.now(UTC)
                    assert timedelta(minutes=59) < left <= timedelta(minutes=60)
                    task.trigger_timeout -= timedelta(hours=1)
            if waiting:
                runner.check_awaiting_input_timeouts()
                return
        time.sleep(0.3)


def states_of(run: Any) -> dict[str, str]:
    return {task.task_id: task.state for task in run.get_task_instances()}
