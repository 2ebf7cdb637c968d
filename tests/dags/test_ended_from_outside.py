"""Tasks that are ended from outside: evicted, drained, or stopped with their API server. They are tried again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.utils.session import create_session
from sqlalchemy import select

from lifeboat.attestation import attestations_of
from lifeboat.children import Children, run
from lifeboat.errors import EvidenceMismatch, IntegrityError, RestoreFailed, SettingsError
from lifeboat.postgres.connection import PostgresServer
from lifeboat_airflow.operators.base import LifeboatOperator
from lifeboat_airflow.operators.snapshots import VerifySnapshotOperator
from tests.dags.conftest import Place, back_up, parsed, task_context
from tests.fixtures_postgres import new_name


@pytest.fixture
def _signals() -> Iterator[None]:
    """Airflow's handler stays after its task."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.usefixtures("_signals")
def test_a_restore_that_gets_a_sigterm_is_tried_again_and_leaves_nothing_of_the_first_try(
    place: Place, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up("odd")
    name = new_name("tried again")
    terminate_at_the_first(monkeypatch, "pg_restore")
    dag = parsed("restore")
    for task in dag.task_dict.values():
        task.retries, task.retry_delay = 1, timedelta(0)

    ended = dag.test(run_conf={"database": "odd", "new_database": name})

    assert ended.state == "success"
    [restored] = [task for task in ended.get_task_instances() if task.task_id == "restore_new"]
    assert (restored.state, restored.try_number) == ("success", 2)
    with create_session() as session:
        tries = select(TaskInstanceHistory.state).where(
            TaskInstanceHistory.run_id == ended.run_id, TaskInstanceHistory.task_id == "restore_new"
        )
        assert session.scalars(tries).all() == ["failed"]
    with postgres.visit("postgres") as admin:
        beside = admin.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{name}%"]).fetchall()
    assert beside == [(name,)]


@pytest.mark.slow
def test_what_was_read_back_until_then_is_not_attested(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    record = back_up("odd")
    task = VerifySnapshotOperator(task_id="verify", source="odd", snapshot=record)
    at_the_first(monkeypatch, "pg_restore", task.on_kill)

    with pytest.raises(AirflowException) as ended:
        task.execute(task_context())

    assert type(ended.value) is AirflowException
    vault = place.vault()
    assert attestations_of(vault, vault.find("odd")) == ()


@pytest.mark.parametrize(
    "error",
    [
        RestoreFailed("pg_restore ended"),
        EvidenceMismatch("rows are missing"),
        IntegrityError("it is cut short"),
        SettingsError("no programs"),
        AirflowFailException("The platform is not well"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_task_says_after_that_is_passing(error: Exception) -> None:
    class Ended(LifeboatOperator):
        def work(self, context: Any) -> None:
            self.on_kill()
            raise error

    with pytest.raises(AirflowException, match=str(error)) as ended:
        Ended(task_id="ended").execute({})

    assert type(ended.value) is AirflowException


def test_a_job_that_ends_its_own_programs_for_a_fault_of_its_own_fails_at_once() -> None:
    class Failing(LifeboatOperator):
        def work(self, context: Any) -> None:
            self.children.give_up()
            raise RestoreFailed("two rows have the same key")

    with pytest.raises(AirflowFailException, match="two rows have the same key"):
        Failing(task_id="failing").execute({})


def test_a_task_that_is_ended_before_it_has_begun_does_nothing() -> None:
    done = []

    class Early(LifeboatOperator):
        def work(self, context: Any) -> None:
            done.append("it")

    task = Early(task_id="early")
    task.on_kill()

    with pytest.raises(AirflowException) as ended:
        task.execute({})

    assert (type(ended.value), done) == (AirflowException, [])


def test_a_program_that_the_kernel_kills_is_tried_again() -> None:
    class OutOfMemory(LifeboatOperator):
        def work(self, context: Any) -> None:
            run(self.children, ["sh", "-c", "kill -9 $$"], env=os.environ, seconds=3600)

    with pytest.raises(AirflowException, match="was ended by signal 9") as ended:
        OutOfMemory(task_id="out_of_memory").execute({})

    assert type(ended.value) is AirflowException


def terminate_at_the_first(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Do as Airflow's supervisor does to a task: a SIGTERM to its process, once it runs a program."""
    at_the_first(monkeypatch, program, lambda: os.kill(os.getpid(), signal.SIGTERM))


def at_the_first(monkeypatch: pytest.MonkeyPatch, program: str, act: Any) -> None:
    start, done = Children.start, []

    def started(self: Children, command: Any, **named: Any) -> Any:
        process = start(self, command, **named)
        if not done and str(command[0]).endswith(program):
            done.append(program)
            act()
        return process

    monkeypatch.setattr(Children, "start", started)
