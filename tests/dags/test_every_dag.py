"""What holds for every DAG of the project."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import BaseOperator
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, ParamValidationError

from lifeboat.errors import LifeboatError, SettingsError, SourceUnavailable
from lifeboat.postgres.connection import PostgresServer
from lifeboat_airflow import listener, run_events
from lifeboat_airflow.deadlines import ScheduledMoment
from lifeboat_airflow.defaults import BACKFILL
from lifeboat_airflow.notifier import LifeboatNotifier
from lifeboat_airflow.operators.asking import AskingOperator
from lifeboat_airflow.operators.base import LifeboatOperator, RecordsOperator
from tests.dags.airflow_home import ROOT
from tests.dags.conftest import Place, RunDag, add_tree, back_up, back_up_tree_of, dag_bag, parsed
from tests.fixtures_postgres import new_name, psql
from tests.receivers import web_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def databases(postgres: PostgresServer) -> tuple[str, str]:
    """Two small databases: here it matters how runs end, and not what they back up."""
    names = new_name("dag orders"), new_name("dag odd")
    for name in names:
        psql(postgres, "postgres", "-c", f'CREATE DATABASE "{name}"')
        psql(postgres, name, "-c", "CREATE TABLE invoices AS SELECT n FROM generate_series(1, 100) n")
    return names


DAG_IDS = sorted(path.stem for path in (ROOT / "dags").glob("*.py"))
TASKS = {
    "daily_file_sync": [
        "choose",
        *(f"tree.{t}" for t in ("preflight", "sync", "replicate", "verify", "mirror", "prune")),
    ],
    "restore_files": ["choose", "thaw", "restore"],
    "redis_backup": [
        "choose",
        *(f"redis.{t}" for t in ("preflight", "back_up", "replicate", "verify", "judge", "prune")),
    ],
    "config_archive": [
        "choose",
        *(f"configuration.{t}" for t in ("preflight", "archive", "replicate", "verify", "prune")),
    ],
    "nightly_database_backup": [
        "choose",
        *(f"database.{t}" for t in ("preflight", "back_up", "replicate", "verify", "judge", "prove", "prune")),
    ],
    "weekly_promotion": ["choose", "promotion.promote", "promotion.prune"],
    "monthly_promotion": ["choose", "promotion.promote", "promotion.prune"],
    "prune_vault": ["heal", "runbook", "sweep"],
    "monthly_restore_test": ["remove_scratch", "choose_snapshots", "prove", "clean_up"],
    "restore": [
        *("choose", "thaw", "decide", "restore_new", "restore_schema", "verify"),
        *("restore_beside", "approve", "put_in_place"),
    ],
    "disaster_recovery": [
        *(f"assess_damage.{t}" for t in ("open_incident", "assess", "ask", "assess_again", "ask_again")),
        "prepare_environment.prepare",
        *(f"restore.{t}" for t in ("database", "files", "configuration", "redis")),
        *(f"verify_and_start.{t}" for t in ("ask_to_replace", "put_in_place", "migrate", "start", "verify")),
        *("verify_and_start.ask_to_undo", "verify_and_start.undo"),
        *("notify_stakeholders.tell", "notify_stakeholders.close"),
    ],
    "recovery_practice": ["practise"],
}
SCHEDULED = sorted(set(DAG_IDS) - {"restore", "restore_files", "disaster_recovery"})
ONCE = {
    *("put_in_place", "practise"),
    *(f"verify_and_start.{t}" for t in ("migrate", "undo")),
}
"""Tasks that are not retried by themselves: a person looks first."""


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_it_tells_people_what_they_need(place: Place, dag_id: str) -> None:
    bag = dag_bag(dag_id)

    assert bag.import_errors == {}
    dag = bag.dags[dag_id]
    assert dag.doc_md is not None
    assert "**If this fails**" in dag.doc_md
    assert all(f"`{task_id.split('.')[-1]}`" in dag.doc_md for task_id in TASKS[dag_id] if task_id != "choose")
    assert "lifeboat" in dag.tags
    assert {task.owner for task in dag.tasks} == {"platform-operations"}


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_one_with_a_schedule_says_that_no_backfill_brings_a_past_day_back(place: Place, dag_id: str) -> None:
    dag = dag_bag(dag_id).dags[dag_id]

    has_schedule = dag.schedule is not None or dag_id == "redis_backup"  # that one only where there is a Redis
    assert (BACKFILL in dag.doc_md) == has_schedule


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_it_bounds_its_time_and_its_runs(place: Place, dag_id: str) -> None:
    dag = dag_bag(dag_id).dags[dag_id]

    # A practice must not keep a recovery waiting, nor a restore that waits for its approval another one. Of two
    # recoveries, and of two restores to one target, the second is refused by its first task.
    at_once = {"disaster_recovery": 4, "restore": 16, "restore_files": 16}.get(dag_id, 1)
    assert (dag.max_active_runs, dag.catchup) == (at_once, False)
    assert dag.dagrun_timeout
    for task in dag.tasks:
        assert task.execution_timeout, task.task_id
        assert task.execution_timeout < dag.dagrun_timeout, task.task_id
        if isinstance(task, AskingOperator):  # only what Airflow cut short is tried again
            assert (task.retries, task.retry_delay) == (5, timedelta(seconds=10)), task.task_id
            continue
        soon = timedelta(seconds=30) if dag_id == "disaster_recovery" else timedelta(minutes=2)
        assert task.retry_delay == soon, task.task_id
        assert task.retries == (0 if task.task_id in ONCE else 3), task.task_id
        assert task.retry_exponential_backoff, task.task_id


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_it_tells_people_when_any_of_its_tasks_fails(place: Place, dag_id: str) -> None:
    for task in dag_bag(dag_id).dags[dag_id].tasks:
        assert [type(callback) for callback in task.on_failure_callback] == [LifeboatNotifier], task.task_id


@pytest.mark.parametrize("dag_id", SCHEDULED)
def test_what_is_scheduled_has_a_deadline_within_the_time_it_may_take(place: Place, dag_id: str) -> None:
    dag = dag_bag(dag_id).dags[dag_id]

    [deadline] = dag.deadline
    assert isinstance(deadline.reference, ScheduledMoment)
    assert isinstance(deadline.interval, timedelta)
    assert deadline.interval < dag.dagrun_timeout


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_it_needs_no_pool_that_somebody_would_have_to_make(place: Place, dag_id: str) -> None:
    assert {task.pool for task in dag_bag(dag_id).dags[dag_id].tasks} == {"default_pool"}


@pytest.mark.parametrize(
    ("dag_id", "task_id"),
    [
        ("nightly_database_backup", "database.back_up"),
        ("redis_backup", "redis.back_up"),
        ("daily_file_sync", "tree.sync"),
    ],
)
def test_two_sources_are_backed_up_at_once_and_not_more(place: Place, dag_id: str, task_id: str) -> None:
    assert dag_bag(dag_id).dags[dag_id].get_task(task_id).max_active_tis_per_dag == 2


def test_a_dead_man_service_hears_of_the_runs_of_every_dag(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = "".join(f"    {dag_id}: ping_{dag_id}\n" for dag_id in DAG_IDS)
    file = place.folder / "platform.yaml"
    file.write_text(f"{file.read_text()}notify:\n  webhooks: [lifeboat_webhook]\n  dead_man:\n{watched}")
    teller = run_events.Teller()
    monkeypatch.setattr(listener, "_write", lambda event: teller.hear(json.dumps(event).encode()))
    with web_server() as web:
        for dag_id in DAG_IDS:
            service = {"conn_type": "http", "host": web.url, "password": dag_id}
            monkeypatch.setenv(f"AIRFLOW_CONN_PING_{dag_id.upper()}", json.dumps(service))
            run = SimpleNamespace(dag=dag_bag(dag_id).dags[dag_id], dag_id=dag_id, run_id="of the test")
            for tell in (listener.on_dag_run_running, listener.on_dag_run_success, listener.on_dag_run_failed):
                tell(dag_run=run, msg="")
        teller.finish()

        assert sorted(web.paths()) == sorted(f"/{dag_id}{end}" for dag_id in DAG_IDS for end in ("/start", "", "/fail"))


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_its_lists_name_nothing_twice(place: Place, dag_id: str) -> None:
    """Else a source that is named twice would be backed up twice at once, or a person told twice."""
    dag = dag_bag(dag_id).dags[dag_id]
    asked = [dag.params, *(task.params for task in dag.tasks)]  # the form's fields, and those beside a question
    fields = [(name, params.get_param(name).schema) for params in asked for name in params]

    assert [name for name, schema in fields if "array" in schema["type"] and not schema.get("uniqueItems")] == []


def test_a_run_that_names_a_database_twice_is_refused_before_it_begins(place: Place, run_dag: RunDag) -> None:
    with pytest.raises(ParamValidationError, match="non-unique"):
        run_dag("nightly_database_backup", databases=["orders", "orders"])


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_its_tasks_are_known(place: Place, dag_id: str) -> None:
    """So that a new one is not left out of the tests below."""
    assert sorted(dag_bag(dag_id).dags[dag_id].task_ids) == sorted(TASKS[dag_id])


# What a teardown does not manage is not a failure of what ran: the next run begins with the same work, and then it is.
STEPS = [
    (dag_id, task)
    for dag_id, tasks in TASKS.items()
    for task in tasks
    if task != "clean_up" and dag_id not in ("disaster_recovery", "recovery_practice")
]
# Of the longest DAG some steps alone; that the others lead there as well is seen in its shape.
STEPS += [
    ("disaster_recovery", task) for task in ("assess_damage.assess", "restore.database", "notify_stakeholders.tell")
]


IN_PLACE = {"to": "in place of the live one"}
CONF = {("restore", task): IN_PLACE for task in ("restore_beside", "approve", "put_in_place")}
CONF["monthly_restore_test", "prove"] = {"sources": ["orders", "odd"]}  # those that have snapshots
PRACTICE = {"mode": "practice", "point": "latest", "components": ["odd"]}
CONF |= {step: PRACTICE for step in STEPS if step[0] == "disaster_recovery"}
CONF["restore", "verify"] = {"to": "nowhere: a dry run"}
CONF["restore", "restore_schema"] = {"to": "a new schema of the live database", "schema": "x", "tables": ["invoices"]}


FIRST = {"choose", "choose_snapshots", "thaw", "decide", "restore_beside"}
FIRST |= {"assess_damage.open_incident", "assess_damage.assess"}
"""Tasks that others cannot begin without, since they choose which of them are run, or find what those tell."""

OF_SNAPSHOTS = {"disaster_recovery", "monthly_promotion", "monthly_restore_test", "restore", "weekly_promotion"}
"""Those that begin with snapshots that are there."""


@pytest.mark.parametrize(("dag_id", "task_id"), STEPS)
def test_a_failed_step_makes_a_failed_run(
    place: Place, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, dag_id: str, task_id: str
) -> None:
    if dag_id == "redis_backup":
        request.getfixturevalue("sessions")
    if dag_id in OF_SNAPSHOTS:
        for source in ("orders", "odd"):
            back_up(source)
    if dag_id == "daily_file_sync":
        add_tree(place)
    if dag_id == "restore_files":
        add_tree(place)
        back_up_tree_of(place)
    dag = parsed(dag_id)
    task = dag.get_task(task_id)

    broken = []

    def fail(*_: Any, **__: Any) -> None:
        broken.append(task_id)
        raise AirflowFailException("broken by the test")

    if isinstance(task, MappedOperator):
        monkeypatch.setattr(task.operator_class, "execute", fail)
    else:
        task.execute = fail

    # Of the others only these and the last do their work: the rest has succeeded, and nobody is asked. That it hands
    # on nothing then is not what is to fail.
    monkeypatch.setattr(RecordsOperator, "render_template", BaseOperator.render_template)
    at_work = {task_id, *FIRST, *(leaf.task_id for leaf in dag.leaves)}
    others = "|".join(re.escape(other) for other in dag.task_ids if other not in at_work)
    run = dag.test(run_conf=CONF.get((dag_id, task_id), {}), mark_success_pattern=others)

    states = {t.task_id: t.state for t in run.get_task_instances()}
    assert broken
    assert states[task_id] == "failed", states
    assert run.state == "failed"


def test_every_step_of_a_recovery_leads_to_the_one_that_fails_with_any_of_them(place: Place) -> None:
    dag = dag_bag("disaster_recovery").dags["disaster_recovery"]

    [last] = dag.leaves
    assert (last.task_id, last.trigger_rule) == ("notify_stakeholders.close", "all_done")
    assert last.get_flat_relative_ids(upstream=True) == set(dag.task_ids) - {last.task_id}


def test_people_are_told_when_half_most_and_all_of_the_time_to_be_back_is_gone(place: Place) -> None:
    dag = dag_bag("disaster_recovery").dags["disaster_recovery"]

    assert [deadline.interval for deadline in dag.deadline] == [timedelta(hours=h) for h in (2, 3.2, 4)]


@pytest.mark.parametrize(
    ("error", "raised"),
    [(SourceUnavailable("down", hint="wait"), AirflowException), (SettingsError("wrong"), AirflowFailException)],
    ids=["passing", "permanent"],
)
def test_passing_faults_are_retried_and_permanent_ones_are_not(error: LifeboatError, raised: type[Exception]) -> None:
    class Failing(LifeboatOperator):
        def work(self, context: Any) -> dict[str, Any]:
            raise error

    with pytest.raises(AirflowException) as caught:
        Failing(task_id="failing").execute({})

    assert type(caught.value) is raised
    assert str(caught.value) == str(error)


def test_plugins_are_loaded_without_errors(airflow_db: None) -> None:
    from airflow.plugins_manager import get_import_errors, get_plugin_info

    assert get_import_errors() == {}
    [info] = [plugin for plugin in get_plugin_info() if plugin["name"] == "lifeboat"]
    assert "SnapshotLink" in json.dumps(info, default=str)
