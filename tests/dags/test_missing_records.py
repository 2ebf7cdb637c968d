"""Tasks whose record of an earlier task is gone: they fail at once, and name the task to clear."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from lifeboat_airflow.operators import recovery
from lifeboat_airflow.operators.recovery import AssessOperator, CloseOperator, PrepareOperator, PutInPlaceOperator
from tests.dags.airflow_home import ROOT
from tests.dags.conftest import Place, add_tree, dag_bag, parsed


class Gone:
    """A task instance of a run in which other tasks have handed on `records`, and no more."""

    map_index = 0
    _upstream_map_indexes: Any = {}  # noqa: RUF012 - what Airflow's own looks at

    def __init__(self, records: dict[str, Any], states: dict[str, str]) -> None:
        self._records = records
        self._states = states

    def xcom_pull(self, task_ids: str, default: Any = None, **_: Any) -> Any:
        return self._records.get(task_ids, default)

    def xcom_push(self, *_: Any, **__: Any) -> None:
        pass

    def get_task_states(self, run_ids: list[str], **_: Any) -> Any:
        return {run_ids[0]: self._states}


def run_with(records: dict[str, Any] | None = None, **states: str) -> Any:
    run = SimpleNamespace(dag_id="of_the_test", run_id="of the test", run_after=None)
    return {"ti": Gone(records or {}, states), "dag_run": run, "params": {"incident": "20261123T020000Z-6f3a9c21"}}


@pytest.mark.slow
def test_every_task_that_needs_a_record_names_the_task_that_lost_it(place: Place) -> None:
    add_tree(place)
    seen = set()
    for path in (ROOT / "dags").glob("*.py"):
        for dag in dag_bag(path.stem).dags.values():
            for task in dag.tasks:
                for record in () if task.is_mapped else (getattr(task, field) for field in task.template_fields):
                    if hasattr(record, "iter_references"):
                        [(lost, _)] = record.iter_references()
                        with pytest.raises(AirflowFailException, match=f"Clear `{lost.task_id}`"):
                            task.render_template(record, run_with())
                        seen.add((dag.dag_id, task.task_id, lost.task_id))

    assert {
        ("nightly_database_backup", "database.back_up", "choose"),
        ("nightly_database_backup", "database.replicate", "database.back_up"),
        ("daily_file_sync", "tree.verify", "tree.replicate"),
        ("restore", "thaw", "choose"),
        ("restore", "restore_new", "choose"),
        ("restore", "approve", "restore_beside"),
        ("restore", "put_in_place", "restore_beside"),
        ("restore_files", "restore", "choose"),
    } <= seen


@pytest.mark.slow
def test_a_task_that_was_marked_as_successful_by_hand_stops_what_needs_its_record_at_once(place: Place) -> None:
    dag = parsed("restore")
    for task in dag.tasks:
        task.retries, task.retry_delay = 3, timedelta(0)

    run = dag.test(run_conf={"database": "odd", "new_database": "never"}, mark_success_pattern="choose")

    tasks = {task.task_id: (task.state, task.try_number) for task in run.get_task_instances()}
    assert run.state == "failed"
    assert (tasks["thaw"], tasks["restore_new"][0]) == (("failed", 1), "upstream_failed")


@pytest.mark.parametrize(
    ("operator", "records", "states", "lost"),
    [
        (AssessOperator, {}, {}, recovery.OPEN),
        (PrepareOperator, {}, {}, recovery.ASSESS),
        (
            PrepareOperator,
            {recovery.ASSESS: {"request": {}}},
            {recovery.ASSESS_AGAIN: "success"},
            recovery.ASSESS_AGAIN,
        ),
    ],
    ids=["the incident", "the assessment", "the assessment of another point"],
)
def test_so_does_a_step_of_a_recovery(
    place: Place, operator: Any, records: dict[str, Any], states: dict[str, str], lost: str
) -> None:
    with pytest.raises(AirflowFailException, match=f"Clear `{lost}`"):
        operator(task_id="step").execute(run_with(records, **states))


def test_nothing_is_put_in_place_while_the_record_of_a_restore_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    component = SimpleNamespace(source="receivables", kind=recovery.Kind.POSTGRES)
    monkeypatch.setattr(recovery, "assessment_of", lambda _: SimpleNamespace(components=[component]))

    with pytest.raises(AirflowFailException, match=r"Clear `restore\.database`"):
        PutInPlaceOperator(task_id="put_in_place").execute(run_with())


def test_an_incident_is_not_closed_as_given_up_when_its_verification_was_marked_by_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "case_of", lambda *_, **__: None)
    monkeypatch.setattr(recovery, "clear_practice", lambda _: ())

    with pytest.raises(AirflowFailException, match=r"Clear `verify_and_start\.verify`"):
        CloseOperator(task_id="close").execute(run_with({}, **{recovery.VERIFY: "success"}))
