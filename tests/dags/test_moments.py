"""Moments in forms: refused as the form is sent where Airflow can, else at once, with the remedy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError

from lifeboat.errors import SettingsError
from lifeboat_airflow.defaults import moment_field
from lifeboat_airflow.operators.recovery import _with_answer
from lifeboat_airflow.operators.restore import ChooseSnapshotOperator
from tests.dags.conftest import Place, back_up, dag_bag, task_context

GOOD = [
    "2026-11-23T02:00+00:00",
    "2026-11-23T02:00:00.000Z",
    "2026-11-23T02:00",
    "2026-11-23 02:00:59-0330",
    "2026-11-23",
]
BAD = ["yesterday", "23.11.2026", "2026-11-23T", "2026-11-23T02:00 CET", "02:00"]


@pytest.mark.parametrize("text", GOOD)
def test_a_form_takes_a_moment_with_or_without_offset(text: str) -> None:
    assert moment_field("As of", "Then.").resolve(text) == text


@pytest.mark.parametrize("text", BAD)
def test_a_form_refuses_what_is_no_moment(text: str) -> None:
    with pytest.raises(ParamValidationError):
        moment_field("As of", "Then.").resolve(text)


@pytest.mark.slow
def test_every_form_refuses_what_is_no_moment(place: Place) -> None:
    forms = [("restore", "as_of"), ("restore_files", "as_of"), ("disaster_recovery", "as_of")]
    for dag_id, field in [*forms, ("disaster_recovery", "began")]:
        with pytest.raises(ParamValidationError):
            dag_bag(dag_id).dags[dag_id].params.get_param(field).resolve("yesterday")


@pytest.mark.slow
def test_a_moment_without_offset_chooses_by_utc(place: Place) -> None:
    label = back_up("odd")["snapshot"]

    chosen = ChooseSnapshotOperator(task_id="choose", source="odd", as_of="2126-11-23T02:00").execute(task_context())

    assert chosen["snapshot"] == label


@pytest.mark.slow
def test_what_is_no_moment_fails_the_task_at_once(place: Place) -> None:
    with pytest.raises(AirflowFailException, match=r"as_of = 'yesterday' is no time[\s\S]*2026-11-23T02:00\+00:00"):
        ChooseSnapshotOperator(task_id="choose", source="odd", as_of="yesterday").execute(task_context())


def test_an_answer_that_is_no_moment_says_which_task_asks_again() -> None:
    request: Any = SimpleNamespace()

    with pytest.raises(
        SettingsError, match=r"as_of = 'yesterday' is no time[\s\S]*Clear the task `assess_damage\.ask`"
    ):
        _with_answer(request, {"as_of": "yesterday"}, lambda _: None)
