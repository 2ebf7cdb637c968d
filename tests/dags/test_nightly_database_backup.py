"""The nightly DAG, run by Airflow against real servers."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.asset import AssetEvent
from airflow.utils.session import create_session
from sqlalchemy import select

from demo.storage import S3Server, free_ports
from lifeboat.backup import restore_snapshot
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.programs import Programs
from lifeboat.snapshot import Tier
from lifeboat_airflow.operators.database import DATABASE_SNAPSHOTS
from tests.dags.conftest import Place, RunDag, backup_operator, dag_bag, result_of, s3_connection, task_context
from tests.fixtures_postgres import new_name
from tests.processes import children_of, wait_until

DAG = "nightly_database_backup"

pytestmark = pytest.mark.slow


def test_every_database_is_dumped_copied_and_read_back(
    place: Place, run_dag: RunDag, postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    run = run_dag(DAG)

    assert run.state == "success"
    listing = place.vault().list()
    assert listing.problems == ()
    assert [(s.manifest.source, s.tier, s.repositories) for s in listing.snapshots] == [
        ("odd", Tier.DAILY, ("s3", "local")),
        ("orders", Tier.DAILY, ("s3", "local")),
    ]
    assert {s.manifest.scheduled_for for s in listing.snapshots} == {run.run_after}
    restored = restore_snapshot(place.vault(), listing.snapshots[0], postgres, new_name("dag"), installed=installed)
    assert restored.evidence.rows == listing.snapshots[0].manifest.facts["rows"]


def test_the_form_chooses_databases_and_tables(place: Place, run_dag: RunDag) -> None:
    run_dag(DAG, databases=["odd"], tables=["app.unlogged"], schema_only=False)

    [snapshot] = place.vault().list().snapshots
    assert snapshot.manifest.source == "odd"
    assert snapshot.manifest.facts["selection"] == {"tables": ["app.unlogged"], "schema_only": False}


def test_the_form_chooses_definitions_alone(place: Place, run_dag: RunDag) -> None:
    run_dag(DAG, databases=["odd"], schema_only=True)

    [snapshot] = place.vault().list().snapshots
    assert snapshot.manifest.facts["selection"] == {"tables": [], "schema_only": True}


@pytest.mark.parametrize("conf", [{"databases": ["ordres"]}, {"databases": []}, {"schema_only": "perhaps"}], ids=str)
def test_the_form_refuses_what_cannot_be_meant(place: Place, run_dag: RunDag, conf: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Invalid input for param {next(iter(conf))}"):
        run_dag(DAG, **conf)


def test_results_are_facts_and_never_secrets(place: Place, run_dag: RunDag, postgres: PostgresServer) -> None:
    run = run_dag(DAG, databases=["odd"])

    results = {task: result_of(run, "database." + task) for task in ("preflight", "back_up", "replicate", "verify")}
    [snapshot] = place.vault().list().snapshots
    assert results["preflight"] == {"source": "odd", "remarks": []}
    made = results["back_up"]
    assert made["snapshot"] == snapshot.label
    assert made["sealed_sha256"] == {a.name: a.sealed_sha256 for a in snapshot.manifest.artifacts}
    assert (made["lacking"], made["reused"]) == ({}, False)
    assert results["replicate"]["copied"] == {}
    assert results["verify"] == {
        "snapshot": snapshot.label,
        "repositories": ["s3", "local"],
        "unsealed": True,
        "bytes_read": 2 * snapshot.manifest.sealed_size,
    }
    text = json.dumps(results)
    secrets = [path.read_text().strip() for path in place.keyring.glob("*.[is][di][eg]n*")]
    assert not any(secret in text for secret in [postgres.password, *secrets])


def test_the_asset_event_of_a_backup_tells_which_snapshot_was_made(place: Place, run_dag: RunDag) -> None:
    run = run_dag(DAG, databases=["odd"])

    with create_session() as session:
        [event] = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == run.run_id)).all()
        uri = event.asset.uri
    [snapshot] = place.vault().list().snapshots
    assert event.source_task_id == "database.back_up"
    assert uri == DATABASE_SNAPSHOTS.uri
    assert event.extra["snapshot"] == snapshot.label
    assert event.extra["repositories"] == ["s3", "local"]
    assert event.extra == result_of(run, "database.back_up")


def test_a_repository_that_is_down_degrades_the_backup_and_fails_the_run_until_it_is_back(
    place: Place, run_dag: RunDag, s3_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = f"127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_S3", s3_connection(s3_store, f"http://{closed}"))

    run = run_dag(DAG, databases=["odd"])

    states = {task.task_id.removeprefix("database."): task.state for task in run.get_task_instances()}
    assert states == {
        "choose": "success",
        "preflight": "success",
        "back_up": "success",
        "replicate": "failed",
        "verify": "upstream_failed",
        "judge": "upstream_failed",
        "prove": "upstream_failed",
        "prune": "upstream_failed",
    }
    assert run.state == "failed"
    assert closed in result_of(run, "database.back_up")["lacking"]["s3"]
    [snapshot] = place.vault().list().snapshots
    assert snapshot.repositories == ("local",)
    assert place.vault().replicate(snapshot).lacking == {}


@pytest.mark.parametrize(
    ("connection", "obstacle"),
    [
        ("AIRFLOW_CONN_PLATFORM_DB", "names the connection 'platform_db', which does not exist"),
        ("AIRFLOW_CONN_LIFEBOAT_KEYS", "names the connection 'lifeboat_keys', which does not exist"),
        ("AIRFLOW_CONN_LIFEBOAT_S3", "names the connection 'lifeboat_s3', which does not exist"),
    ],
)
def test_the_preflight_is_where_a_missing_connection_shows(
    place: Place,
    run_dag: RunDag,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    connection: str,
    obstacle: str,
) -> None:
    monkeypatch.delenv(connection)

    run = run_dag(DAG, databases=["odd"])

    assert run.state == "failed"
    assert {t.task_id for t in run.get_task_instances() if t.state == "failed"} == {"database.preflight"}
    out, err = capfd.readouterr()
    assert obstacle in out + err
    assert place.vault().list().snapshots == ()


def test_a_retry_of_a_run_that_made_its_snapshot_finds_it_again(place: Place) -> None:
    first, second = (backup_operator("odd").execute(task_context()) for _ in range(2))

    assert second == first | {"reused": True}
    assert len(place.vault().list().snapshots) == 1


def test_a_backfilled_night_finds_its_snapshot_and_one_without_gets_a_snapshot_of_now(place: Place) -> None:
    began, night = datetime.now(UTC) - timedelta(seconds=1), task_context()
    kept = backup_operator("odd").execute(night)
    lost = {**night, "dag_run": SimpleNamespace(run_after=night["dag_run"].run_after - timedelta(days=1))}

    again, late = backup_operator("odd").execute(night), backup_operator("odd").execute(lost)

    assert (again["snapshot"], again["reused"], late["reused"]) == (kept["snapshot"], True, False)
    [made] = [one for one in place.vault().list("odd").snapshots if one.label == late["snapshot"]]
    assert made.id.began > began
    assert made.manifest.scheduled_for == lost["dag_run"].run_after


def test_a_killed_task_leaves_no_program_running_and_no_snapshot(
    place: Place, postgres: PostgresServer, databases: tuple[str, str]
) -> None:
    task = backup_operator("odd")
    ended: list[Exception] = []

    def execute() -> None:
        try:
            task.execute(task_context())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at below
            ended.append(error)

    with postgres.visit(databases[1]) as other, other.transaction():
        other.execute("LOCK TABLE ONLY app.payments IN ACCESS EXCLUSIVE MODE")
        worker = threading.Thread(target=execute)
        worker.start()
        wait_until(lambda: children_of(os.getpid(), "pg_dump"))
        task.on_kill()
        wait_until(lambda: not children_of(os.getpid(), "pg_dump"))
    worker.join(timeout=20)

    assert ended
    assert place.vault().list().snapshots == ()


def test_text_in_place_of_typed_parameters_is_refused(place: Place) -> None:
    with pytest.raises(Exception, match="render_template_as_native_obj"):
        backup_operator("odd", schema_only="False").execute(task_context())


def test_a_mistake_in_platform_yaml_is_an_import_error_with_its_line(place: Place) -> None:
    file = place.folder / "platform.yaml"
    file.write_text(file.read_text().replace("    connection: lifeboat_s3", "    conection: lifeboat_s3"))

    [error] = dag_bag(DAG).import_errors.values()
    assert "platform.yaml:6  repositories[0].conection: there is no such key." in error
    assert "Did you mean 'connection'?" in error
