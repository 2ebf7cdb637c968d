"""The DAG redis_backup, in a real Airflow, on a real Redis."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lifeboat_airflow.operators.redis import RedisBackupOperator, RedisPreflightOperator
from tests.dags.conftest import Place, RunDag, dag_bag, redis_connection, result_of, task_context
from tests.fixtures_redis import Running

pytestmark = pytest.mark.slow


def test_a_run_leaves_a_verified_snapshot_in_every_repository(sessions: Running, place: Place, run_dag: RunDag) -> None:
    run = run_dag("redis_backup")

    assert run.state == "success"
    [snapshot] = place.vault().list("sessions").snapshots
    assert snapshot.repositories == ("s3", "local")
    record = result_of(run, "redis.back_up")
    assert record["facts"]["keys"] == snapshot.manifest.facts["keys"] > 300
    assert record["lacking"] == {}
    assert result_of(run, "redis.verify")["unsealed"]


def test_it_runs_at_half_past_two_where_there_is_a_redis(sessions: Running) -> None:
    bag = dag_bag("redis_backup")

    assert bag.import_errors == {}
    assert bag.dags["redis_backup"].schedule == "30 2 * * *"


def test_without_a_redis_it_has_no_schedule_and_a_run_by_hand_ends_well(place: Place, run_dag: RunDag) -> None:
    bag = dag_bag("redis_backup")

    assert bag.import_errors == {}
    assert not bag.dags["redis_backup"].timetable.can_be_scheduled
    assert run_dag("redis_backup").state == "success"
    assert place.vault().list().snapshots == ()


def test_a_wrong_password_fails_at_once_and_a_server_that_is_gone_is_tried_again(
    sessions: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_PLATFORM_REDIS", redis_connection(sessions, "wrong one"))
    preflight = RedisPreflightOperator(task_id="preflight", source="sessions")
    back_up = RedisBackupOperator(task_id="back_up", source="sessions", outlets=[])

    for operator in (preflight, back_up):
        with pytest.raises(AirflowFailException, match="user name or password") as refused:
            operator.execute(task_context())
        assert "wrong one" not in str(refused.value)

    sessions.stop()
    for operator in (preflight, back_up):
        with pytest.raises(AirflowException) as passing:
            operator.execute(task_context())
        assert not isinstance(passing.value, AirflowFailException)
