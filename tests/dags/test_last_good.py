"""A mistake in platform.yaml hides no DAG, stops no backup, and is told to people: by its last good text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.models.log import Log
from airflow.models.variable import Variable
from airflow.utils.session import create_session
from sqlalchemy import delete, select

from lifeboat.errors import SettingsError
from lifeboat_airflow import last_good, platform_watch
from lifeboat_airflow.audit import ENTRY
from lifeboat_airflow.hooks import PlatformHook
from lifeboat_airflow.platform_watch import PlatformWatch
from tests.dags.conftest import Place, RunDag, add_tree, dag_bag, result_of
from tests.dags.test_alerts import PLATFORM

BROKEN = "platform: [small\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, airflow_db: None) -> Iterator[Path]:
    """A platform.yaml that is right, in an Airflow that has seen none yet."""
    made = tmp_path / "platform.yaml"
    made.write_text(PLATFORM)
    monkeypatch.setenv("LIFEBOAT_PLATFORM", str(made))
    yield made
    forget()


@pytest.fixture(autouse=True)
def _as_a_process_of_airflow(monkeypatch: pytest.MonkeyPatch, airflow_db: None) -> None:
    """One that may look into Airflow's database for variables, and at the file whenever it likes."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    monkeypatch.setattr(platform_watch, "EVERY", 0.0)
    forget()


def forget() -> None:
    with create_session() as session:
        session.execute(delete(Variable).where(Variable.key == last_good.VARIABLE))
        session.execute(delete(Log).where(Log.event == ENTRY))


def kept() -> str | None:
    with create_session() as session:
        found = session.scalar(select(Variable).where(Variable.key == last_good.VARIABLE))
        return found.get_val() if found else None


def subjects(told: list[Any]) -> list[str]:
    return [telling.alert.subject for _, telling, _ in told]


def test_what_is_right_is_kept_and_nobody_is_told(file: Path) -> None:
    watch = PlatformWatch()
    assert watch.look() == []
    first = kept()

    file.write_text(PLATFORM.replace("/tmp/nothing}", "/tmp/other}"))

    assert watch.look() == []
    assert first == PLATFORM
    assert kept() == file.read_text()


def test_people_are_told_once_what_is_wrong_and_once_that_it_is_right_again(file: Path) -> None:
    watch = PlatformWatch()
    watch.look()

    file.write_text(BROKEN)
    told = [watch.look(), watch.look(), watch.look(), PlatformWatch().look()]
    file.write_text(PLATFORM)
    right = [watch.look(), watch.look(), PlatformWatch().look()]

    assert told[0] == told[2] == told[3] == right[1] == right[2] == []
    [(platform, telling, _)] = told[1]
    assert telling.alert.subject == "WRONG: platform.yaml of small cannot be used"
    assert f"{file}:2 is not YAML" in telling.alert.notes[1]
    assert "Hint: Look at the indentation" in telling.alert.notes[1]
    assert platform.notify is not None
    assert subjects(right[0]) == ["platform.yaml of small is right again"]
    assert kept() == PLATFORM


def test_another_scheduler_does_not_tell_the_same(file: Path) -> None:
    one, other = PlatformWatch(), PlatformWatch()
    one.look()
    other.look()
    file.write_text(BROKEN)

    told = [watch.look() for watch in (one, other, one, other)]

    assert [len(each) for each in told] == [0, 0, 1, 0]


def test_another_mistake_is_told_too(file: Path) -> None:
    watch = PlatformWatch()
    watch.look()
    for text in (BROKEN, PLATFORM.replace("path:", "pth:")):
        file.write_text(text)
        watch.look()
        assert len(watch.look()) == 1


def test_a_file_that_is_gone_or_half_written_for_a_moment_is_told_only_when_it_stays_so(file: Path) -> None:
    watch = PlatformWatch()
    watch.look()

    file.write_text(BROKEN)
    half = watch.look()
    file.write_text(PLATFORM)
    again = watch.look()
    file.unlink()
    gone = [watch.look(), watch.look()]

    assert half == again == gone[0] == []
    assert subjects(gone[1]) == ["WRONG: platform.yaml of small cannot be used"]


def test_where_none_was_ever_right_nobody_can_be_told_and_the_mistake_is_the_error(file: Path) -> None:
    file.write_text(BROKEN)
    watch = PlatformWatch()

    assert [watch.look(), watch.look()] == [[], []]
    with pytest.raises(SettingsError, match=r"platform\.yaml:2 is not YAML"):
        _ = PlatformHook().platform


@pytest.mark.slow
@pytest.mark.parametrize("dag_id", ["restore", "disaster_recovery", "nightly_database_backup"])
def test_every_dag_stays_on_the_page(
    place: Place, dag_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    PlatformWatch().look()
    (place.folder / "platform.yaml").write_text(BROKEN)

    bag = dag_bag(dag_id)

    assert bag.import_errors == {}
    assert list(bag.dags) == [dag_id]
    assert "is not YAML" in caplog.text
    assert "the settings are those of before" in caplog.text


@pytest.mark.slow
def test_a_backup_goes_on_and_its_preflight_remarks_the_mistake(place: Place, run_dag: RunDag) -> None:
    add_tree(place)
    PlatformWatch().look()
    (place.folder / "platform.yaml").write_text(BROKEN)

    run = run_dag("daily_file_sync", mark_success_pattern=r"(?!choose$|tree\.preflight$).*")

    assert run.state == "success"
    [remark] = result_of(run, "tree.preflight")["remarks"]
    assert "platform.yaml cannot be used, so the settings are those of before." in remark
    assert "platform.yaml:2 is not YAML" in remark
