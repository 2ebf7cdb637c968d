"""The restore DAG, run by Airflow against real servers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg.sql
import pytest
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.utils.session import create_session
from sqlalchemy import select, update

from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.swap import kept_databases
from lifeboat_airflow.operators.restore import (
    ApproveReplacementOperator,
    ChooseForRestoreOperator,
    RestoreBesideOperator,
    RestoreIntoSchemaOperator,
    Way,
)
from tests.dags.conftest import (
    AT_WORK,
    Place,
    RunDag,
    back_up,
    dag_bag,
    parsed,
    result_of,
    task_context,
)
from tests.fixtures_postgres import (
    CHECK_THAT_NO_LONGER_HOLDS,
    PROGRAMS,
    Clusters,
    make_odd_database,
    new_name,
    psql,
)

DAG = "restore"
IN_PLACE = "in place of the live one"

pytestmark = pytest.mark.slow


@pytest.fixture
def snapshot(place: Place) -> str:
    """The label of a snapshot of the database `odd`."""
    return str(back_up("odd")["snapshot"])


@pytest.fixture
def changed(snapshot: str, postgres: PostgresServer, databases: tuple[str, str]) -> Iterator[str]:
    """The live database `odd` with a table it did not have in the snapshot; as it was, afterwards."""
    live = databases[1]
    with postgres.visit(live) as connection:
        connection.execute("CREATE TABLE made_since ()")
    yield live
    with postgres.visit(live) as connection:
        connection.execute("DROP TABLE IF EXISTS made_since")
    with postgres.visit("postgres") as admin:
        for kept in kept_databases(postgres, live):
            admin.execute(psycopg.sql.SQL("DROP DATABASE {}").format(psycopg.sql.Identifier(kept.name)))


def test_a_snapshot_is_restored_into_a_new_database(
    snapshot: str, run_dag: RunDag, postgres: PostgresServer, databases: tuple[str, str]
) -> None:
    name = new_name("restored by dag")

    run = run_dag(DAG, database="odd", new_database=name)

    assert run.state == "success"
    result = result_of(run, "restore_new", -1)
    assert (result["snapshot"], result["database"]) == (snapshot, name)
    assert tables_of(postgres, name) == tables_of(postgres, databases[1])


def test_a_second_restore_to_the_same_target_is_refused_at_once_and_one_to_another_is_not(
    snapshot: str, run_dag: RunDag
) -> None:
    same = {"database": "odd", "new_database": "the same", "mark_success_pattern": NOT_CHOOSE}
    first = run_dag(DAG, **same)
    go_on(first)

    second = run_dag(DAG, **same)
    other = run_dag(DAG, database="odd", mark_success_pattern=NOT_CHOOSE)
    go_on(first, "success")
    after_it = run_dag(DAG, **same)

    assert (second.state, other.state, after_it.state) == ("failed", "success", "success")
    assert {t.task_id for t in second.get_task_instances() if t.state == "failed"} == {"choose"}


def test_what_is_the_same_target_is_decided_by_what_is_made_there(
    place: Place, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer, databases: tuple[str, str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SPARE_DB", connection_to(postgres))
    new = {"new_database": "new", "schema": "ignored"}

    places = [
        ChooseForRestoreOperator(task_id="choose", source="odd", **form).place_of_form()
        for form in (
            {"way": Way.NEW_DATABASE, **new},
            {"way": Way.NEW_DATABASE, **new, "target": "spare_db"},  # the same server by another name
            {"way": Way.NEW_SCHEMA, "new_database": "ignored", "schema": "new"},
            {"way": Way.IN_PLACE, **new},
            {"way": Way.DRY_RUN, **new},
        )
    ]

    live = databases[1]
    assert places == [
        f"the database 'new' on {postgres}",
        f"the database 'new' on {postgres}",
        f"the schema 'new' of {live!r} on {postgres}",
        f"the database {live!r} on {postgres}",
        None,
    ]


def test_files_are_restored_to_the_folder_that_is_asked_for_first(place: Place) -> None:
    tasks = dag_bag("restore_files").dags["restore_files"].task_dict

    assert tasks["choose"].place == f"the folder {tasks['restore'].to}"


NOT_CHOOSE = "(?!choose$|decide$).*"


def go_on(run: Any, state: str = "running") -> None:
    """Have a run that has ended go on, as one does that waits for an answer, or end."""
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.run_id == run.run_id).values(state=state))
        last = select(TaskInstance.id).where(TaskInstance.run_id == run.run_id, TaskInstance.task_id != "choose")
        session.execute(update(TaskInstance).where(TaskInstance.id.in_(last)).values(state=state))


def test_a_dry_run_restores_nothing(snapshot: str, run_dag: RunDag, postgres: PostgresServer) -> None:
    before = names_of(postgres)

    run = run_dag(DAG, database="odd", to="nowhere: a dry run")

    assert run.state == "success"
    assert result_of(run, "verify", -1)["unsealed"]
    assert names_of(postgres) == before


def connection_to(server: PostgresServer) -> str:
    login = {"login": server.user, "password": server.password}
    return json.dumps({"conn_type": "postgres", "host": server.host, "port": server.port, **login})


def test_a_new_database_is_made_on_another_server_with_its_owners_and_grants(
    snapshot: str,
    run_dag: RunDag,
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresServer,
    databases: tuple[str, str],
) -> None:
    with TemporaryCluster(PROGRAMS[18]) as empty:
        monkeypatch.setenv("AIRFLOW_CONN_SPARE_DB", connection_to(empty.server))
        before = names_of(postgres)

        run = run_dag(DAG, database="odd", target="spare_db", new_database="odd")

        assert run.state == "success"
        result = result_of(run, "restore_new", -1)
        assert (result["database"], result["server"]) == ("odd", str(empty.server))
        assert "The role odd_owner was created." in result["notes"]
        for question in (OWNERS, GRANTS, DATABASE_GRANTS):
            assert answers(empty.server, "odd", question) == answers(postgres, databases[1], question) != []
        assert names_of(postgres) == before


OWNERS = (
    "SELECT c.oid::regclass::text, pg_get_userbyid(relowner) FROM pg_class c WHERE relname IN ('invoices', 'secrets')"
    " ORDER BY 1, 2"
)
GRANTS = (
    "SELECT c.relname, pg_get_userbyid(grantee), privilege_type, is_grantable FROM pg_class c, aclexplode(relacl)"
    " WHERE relname = 'invoices' ORDER BY 1, 2, 3"
)
DATABASE_GRANTS = (
    "SELECT pg_get_userbyid(datdba), privilege_type, grantee = 0 FROM pg_database, aclexplode(datacl)"
    " WHERE datname = current_database() ORDER BY 2, 3"
)


def answers(server: PostgresServer, database: str, question: str) -> list[Any]:
    with server.visit(database) as connection:
        return connection.execute(question.encode()).fetchall()


def test_a_live_database_on_another_server_is_replaced_only_when_that_is_meant(
    snapshot: str, monkeypatch: pytest.MonkeyPatch, clusters: Clusters, databases: tuple[str, str]
) -> None:
    elsewhere, live = clusters.get(18).server, databases[1]
    make_odd_database(elsewhere, live)
    before = names_of(elsewhere)
    monkeypatch.setenv("AIRFLOW_CONN_PLATFORM_DB", connection_to(elsewhere))

    with pytest.raises(AirflowFailException, match="system identifier"):
        RestoreBesideOperator(task_id="beside", source="odd", snapshot=snapshot).execute(task_context())
    into_schema = RestoreIntoSchemaOperator(
        task_id="schema", source="odd", snapshot=snapshot, schema="x", tables=["invoices"]
    )
    with pytest.raises(AirflowFailException, match="system identifier"):
        into_schema.execute(task_context())
    assert names_of(elsewhere) == before

    meant = RestoreBesideOperator(task_id="beside", source="odd", snapshot=snapshot, other_server=True)
    assert meant.execute(task_context())["live"] == live
    assert [str(kept.standing) for kept in kept_databases(elsewhere, live)] == ["ready"]


def test_a_live_database_of_another_name_is_refused(
    place: Place, snapshot: str, postgres: PostgresServer, databases: tuple[str, str]
) -> None:
    file = place.folder / "platform.yaml"
    others = file.read_text().replace(f"database: {databases[0]}\n", "database: postgres\n")
    file.write_text(others.replace(f"database: {databases[1]}\n", f"database: {databases[0]}\n"))

    with pytest.raises(AirflowFailException, match=f"is of the database '{databases[1]}', not of '{databases[0]}'"):
        RestoreBesideOperator(task_id="beside", source="odd", snapshot=snapshot).execute(task_context())


def test_some_tables_are_restored_into_a_new_schema_of_the_live_database(
    snapshot: str, run_dag: RunDag, postgres: PostgresServer, databases: tuple[str, str]
) -> None:
    live, schema = databases[1], new_name("then")
    before = tables_of(postgres, live)

    run = run_dag(DAG, database="odd", to="a new schema of the live database", schema=schema, tables=["invoices"])

    assert run.state == "success"
    assert result_of(run, "restore_schema", -1)["tables"] == {f"{schema}.invoices": 5000}
    assert tables_of(postgres, live) == before | {(schema, "invoices")}


@pytest.mark.parametrize(
    "asked",
    [
        {"to": "a new schema of the live database", "schema": "x"},
        {"to": "a new schema of the live database", "tables": ["invoices"]},
        {"to": IN_PLACE, "tables": ["invoices"]},
        {"to": IN_PLACE, "target": "platform_db"},
        {"target": "nowhere_db"},
        {"target": "lifeboat_keys"},
        {"target": "silent_db"},
    ],
    ids=["no tables", "no schema", "tables in place", "target in place", "no connection", "another type", "no server"],
)
def test_what_does_not_go_together_is_refused_before_anything(
    snapshot: str, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SILENT_DB", "postgres://postgres:x@127.0.0.1:1/")

    run = run_dag(DAG, database="odd", **asked)

    assert run.state == "failed"
    assert {t.task_id for t in run.get_task_instances() if t.state == "failed"} == {"choose"}


@pytest.mark.parametrize("answer", ["Approve", "Reject"])
def test_the_live_database_is_replaced_only_when_a_person_approves(
    changed: str, run_dag: RunDag, web: Any, postgres: PostgresServer, answer: str
) -> None:
    person = threading.Thread(target=answer_with, args=(web, answer))
    person.start()

    run = run_dag(DAG, database="odd", to=IN_PLACE)

    person.join(timeout=60)
    assert run.state == "success"
    states = {t.task_id: t.state for t in run.get_task_instances()}
    assert states["put_in_place"] == ("success" if answer == "Approve" else "skipped")
    assert (("app", "made_since") in tables_of(postgres, changed)) is (answer == "Reject")
    standing = [str(kept.standing) for kept in kept_databases(postgres, changed)]
    assert standing == (["before"] if answer == "Approve" else ["ready"])


def test_an_approval_that_nobody_gives_in_time_fails_the_run_at_once_and_the_live_database_is_as_it_was(
    changed: str, postgres: PostgresServer
) -> None:
    hours = threading.Thread(target=let_twelve_hours_pass)
    hours.start()

    run = with_tries().test(run_conf={"database": "odd", "to": IN_PLACE})

    hours.join(timeout=60)
    assert run.state == "failed"
    states = {t.task_id: (t.state, t.try_number) for t in run.get_task_instances()}
    # A try more would ask for another twelve hours, and the run's callbacks would be silent for so long.
    assert (states["approve"], states["put_in_place"]) == (("failed", 1), ("upstream_failed", 0))
    assert ("app", "made_since") in tables_of(postgres, changed)
    assert [str(kept.standing) for kept in kept_databases(postgres, changed)] == ["ready"]


def test_an_approval_whose_task_is_cut_short_is_asked_for_once_more(
    changed: str, web: Any, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = cut_short_once(monkeypatch)
    answered = ("Approve", "Reject")
    person = threading.Thread(target=lambda: [answer_with(web, answer) for answer in answered], daemon=True)
    person.start()

    run = with_tries().test(run_conf={"database": "odd", "to": IN_PLACE})

    person.join(timeout=60)
    assert run.state == "success"
    assert answers == [["Approve"], ["Reject"]]
    states = {t.task_id: (t.state, t.try_number) for t in run.get_task_instances()}
    assert (states["approve"], states["put_in_place"][0]) == (("success", 2), "skipped")
    assert ("app", "made_since") in tables_of(postgres, changed)


@pytest.fixture
def limits(place: Place, postgres: PostgresServer, databases: tuple[str, str]) -> Iterator[str]:
    """The live database `odd`, backed up with a CHECK that its rows do not meet any more; as it was, afterwards."""
    live = databases[1]
    psql(postgres, live, "-c", f"SET search_path = public; {CHECK_THAT_NO_LONGER_HOLDS}")
    back_up("odd")
    yield live
    psql(postgres, live, "-c", "DROP TABLE public.a_orders, public.z_limits; DROP FUNCTION public.allowed")
    for kept in kept_databases(postgres, live):
        psql(postgres, "postgres", "-c", f'DROP DATABASE "{kept.name}"')


def test_a_new_database_that_lacks_objects_is_kept_and_its_run_fails(
    limits: str, run_dag: RunDag, postgres: PostgresServer
) -> None:
    name = new_name("incomplete by dag")

    run = run_dag(DAG, database="odd", new_database=name)

    assert run.state == "failed"
    assert psql(postgres, name, "-c", "SELECT count(*) FROM public.a_orders").strip() == "10"


def test_whoever_approves_is_shown_what_an_incomplete_database_lacks(
    limits: str, run_dag: RunDag, web: Any, postgres: PostgresServer
) -> None:
    asked: list[str] = []
    person = threading.Thread(target=lambda: asked.append(answer_with(web, "Reject")))
    person.start()

    run = run_dag(DAG, database="odd", to=IN_PLACE)

    person.join(timeout=60)
    assert run.state == "success"
    assert "could not be rebuilt" in asked[0]
    assert "ADD CONSTRAINT" in asked[0]
    assert "holds what its source held" not in asked[0]
    assert [str(kept.standing) for kept in kept_databases(postgres, limits)] == ["partly"]


def with_tries() -> Any:
    """The DAG with as many tries as it has, without the waits before them."""
    tries = {task.task_id: task.retries for task in dag_bag(DAG).dags[DAG].tasks}
    dag = parsed(DAG)
    for task in dag.tasks:
        task.retries, task.retry_delay = tries[task.task_id], timedelta(0)
    return dag


def cut_short_once(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let the approval end once before it takes the answer, as Airflow does; returns the answers that it gets."""
    answers: list[Any] = []
    take = ApproveReplacementOperator.execute_complete

    def once_more(self: Any, context: Any, event: dict[str, Any]) -> Any:
        answers.append(event["chosen_options"])
        if len(answers) == 1:
            raise AirflowException("cut short by the test")
        return take(self, context, event)

    monkeypatch.setattr(ApproveReplacementOperator, "execute_complete", once_more)
    return answers


def test_no_answer_is_taken_for_a_yes(place: Place) -> None:
    approve = dag_bag(DAG).dags[DAG].task_dict["approve"]

    assert (approve.defaults, approve.fail_on_reject) == (None, False)


def test_the_snapshot_of_another_database_is_refused(place: Place, snapshot: str, run_dag: RunDag) -> None:
    run = run_dag(DAG, database="orders", snapshot=snapshot)

    assert run.state == "failed"
    assert {t.task_id for t in run.get_task_instances() if t.state == "failed"} == {"choose"}


def answer_with(web: Any, answer: str) -> str:
    """What a person does under Required Actions; what was asked."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        path = f"/api/v2/dags/{DAG}/dagRuns/~/hitlDetails"
        waiting = web.get(path, params={"state": "awaiting_input"}, headers=web.admin).json()["hitl_details"]
        for detail in waiting:
            task = detail["task_instance"]
            asked = f"/api/v2/dags/{DAG}/dagRuns/{task['dag_run_id']}/taskInstances/approve/-1/hitlDetails"
            body = {"chosen_options": [answer], "params_input": {}}
            with AT_WORK:
                if web.patch(asked, json=body, headers=web.admin).status_code == 200:
                    return str(detail["body"])
        time.sleep(0.3)
    return "nothing was asked"


def let_twelve_hours_pass() -> None:
    """What the scheduler does with an approval whose time is over: it looks at every one every few seconds."""
    runner = SchedulerJobRunner(job=Job())
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        with AT_WORK:
            with create_session() as session:
                waiting = session.scalars(
                    select(TaskInstance).where(TaskInstance.dag_id == DAG, TaskInstance.state == "awaiting_input")
                ).all()
                for task in waiting:
                    left = task.trigger_timeout - datetime.now(UTC)
                    assert timedelta(hours=11) < left <= timedelta(hours=12)
                    task.trigger_timeout -= timedelta(hours=12)
            if waiting:
                runner.check_awaiting_input_timeouts()
                return
        time.sleep(0.3)


def tables_of(server: PostgresServer, database: str) -> set[tuple[str, str]]:
    with server.visit(database) as connection:
        rows = connection.execute("SELECT schemaname, tablename FROM pg_tables WHERE schemaname !~ '^pg_|^information'")
        return set(rows.fetchall())


def names_of(server: PostgresServer) -> set[str]:
    with server.visit("postgres") as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
