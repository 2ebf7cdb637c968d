"""The DAG that archives configuration, run by Airflow against real servers, and the trigger that starts it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.storage import S3Server, free_ports
from lifeboat.configuration.archiving import archive_configuration, fingerprint_in
from lifeboat.settings import load_platform
from lifeboat_airflow import triggers
from lifeboat_airflow.triggers import ConfigurationChangedTrigger
from tests.dags.conftest import Place, RunDag, dag_bag, result_of, s3_connection, task_context

DAG = "config_archive"

pytestmark = pytest.mark.slow


def env(place: Place) -> Path:
    return place.folder / "platform" / ".env"


# ---- the DAG --------------------------------------------------------------------------------------------------------


def test_a_set_is_archived_copied_and_read_back(place: Place, run_dag: RunDag) -> None:
    run = run_dag(DAG)

    assert run.state == "success"
    [snapshot] = place.vault().list("settings").snapshots
    assert snapshot.repositories == ("s3", "local")
    assert snapshot.manifest.scheduled_for == run.run_after
    result = result_of(run, "configuration.archive")
    assert (result["snapshot"], result["changed"], result["lacking"]) == (snapshot.label, True, {})
    assert result_of(run, "configuration.verify")["unsealed"]
    assert "hunter2" not in json.dumps([result, result_of(run, "configuration.preflight")])


def test_nothing_changed_is_a_success_without_a_snapshot_and_what_is_there_is_verified(
    place: Place, run_dag: RunDag, capfd: pytest.CaptureFixture[str]
) -> None:
    first = run_dag(DAG)
    capfd.readouterr()

    run = run_dag(DAG)

    assert run.state == "success"
    [snapshot] = place.vault().list("settings").snapshots
    assert result_of(run, "configuration.archive") == result_of(first, "configuration.archive") | {"changed": False}
    assert result_of(run, "configuration.verify")["snapshot"] == snapshot.label


def test_again_archives_what_has_not_changed(place: Place, run_dag: RunDag) -> None:
    run_dag(DAG)

    run_dag(DAG, again=True)

    assert len(place.vault().list("settings").snapshots) == 2


def test_a_repository_that_is_down_fails_the_run_until_it_is_back_and_the_next_run_heals_it(
    place: Place, run_dag: RunDag, s3_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = place.connections["AIRFLOW_CONN_LIFEBOAT_S3"]
    monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_S3", s3_connection(s3_store, f"http://127.0.0.1:{free_ports(1)[0]}"))
    down = run_dag(DAG)
    monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_S3", connection)

    healed = run_dag(DAG)

    states = {task.task_id.removeprefix("configuration."): task.state for task in down.get_task_instances()}
    assert (states["archive"], states["replicate"], states["verify"]) == ("success", "failed", "upstream_failed")
    assert healed.state == "success"
    [snapshot] = place.vault().list("settings").snapshots
    assert snapshot.repositories == ("s3", "local")


def test_an_obstacle_shows_in_the_preflight_and_leaves_no_snapshot(
    place: Place, run_dag: RunDag, capfd: pytest.CaptureFixture[str]
) -> None:
    (place.folder / "platform" / "k8s").mkdir()
    (place.folder / "platform" / "k8s" / "x.yaml").symlink_to("/etc/passwd")

    run = run_dag(DAG)

    assert {t.task_id for t in run.get_task_instances() if t.state == "failed"} == {"configuration.preflight"}
    assert "k8s/x.yaml is a symlink that leads out of the root" in "".join(capfd.readouterr())
    assert place.vault().list("settings").snapshots == ()


def test_the_form_refuses_a_set_that_is_not_there(place: Place, run_dag: RunDag) -> None:
    with pytest.raises(ValueError, match="Invalid input for param sets"):
        run_dag(DAG, sets=["sett1ngs"])


def test_a_platform_without_configuration_has_no_such_dag(place: Place) -> None:
    file = place.folder / "platform.yaml"
    file.write_text(file.read_text().partition("  configuration:")[0])

    bag = dag_bag(DAG)

    assert (bag.import_errors, bag.dags) == ({}, {})


def test_it_runs_on_every_change_and_every_day(place: Place) -> None:
    dag = dag_bag(DAG).dags[DAG]

    assert dag.timetable.timetable.expression == "30 3 * * *"
    [asset] = dag.timetable.asset_condition.objects
    assert asset.name == "configuration_settings"
    [watcher] = asset.watchers
    assert watcher.trigger.serialize()[1] == {"source": "settings", "every": 10.0, "settle": 5.0, "at_most": 20.0}


# ---- the trigger ----------------------------------------------------------------------------------------------------


class Store:
    """What Airflow keeps for an asset, as far as the trigger asks."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = value


def archive(place: Place) -> str:
    """Archive the set as the DAG does, and return the fingerprint."""
    from lifeboat.assembly import configuration_source

    source = configuration_source(load_platform(place.folder / "platform.yaml"), "settings", lambda _: None)
    began = task_context()["dag_run"].run_after
    return fingerprint_in(archive_configuration(place.vault(), source, began=began).snapshot)


def trigger(store: Store, **options: float) -> ConfigurationChangedTrigger:
    made = ConfigurationChangedTrigger(source="settings", **{"every": 0.02, "settle": 0.1, "at_most": 0.5} | options)
    made.asset_state_store = store  # type: ignore[assignment]
    return made


async def heard(
    watching: ConfigurationChangedTrigger, enough: Callable[[list[Any]], bool], *, then: float = 0.5
) -> list[Any]:
    """What a trigger gives out until it is `enough`, and for so many seconds more."""
    found: list[Any] = []

    async def listen() -> None:
        async for event in watching.run():
            found.append(event.payload)

    task = asyncio.create_task(listen())
    until = asyncio.get_running_loop().time() + 30
    while not enough(found):
        assert asyncio.get_running_loop().time() < until, f"it did not happen: {found}"
        assert not task.done(), task.exception()
        await asyncio.sleep(0.02)
    await asyncio.sleep(then)
    task.cancel()
    await asyncio.wait([task])
    return found


def once(found: list[Any]) -> bool:
    return bool(found)


def remembered(store: Store, fingerprint: str) -> Callable[[list[Any]], bool]:
    """Until the trigger has looked, and remembered what it saw."""
    return lambda _: store.values == {"fingerprint": fingerprint}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "HANDED_ON", 0.05)


def test_the_first_look_fires_unless_the_vault_has_it_already(place: Place) -> None:
    first, second = Store(), Store()

    told = asyncio.run(heard(trigger(first), once))
    fingerprint = archive(place)
    known = asyncio.run(heard(trigger(second), remembered(second, fingerprint)))

    assert (len(told), known) == (1, [])
    assert first.values == second.values == {"fingerprint": fingerprint}


def test_one_change_fires_once_and_a_touch_never(place: Place) -> None:
    store, fingerprint = Store(), archive(place)

    async def scene() -> tuple[list[Any], list[Any]]:
        looking = asyncio.create_task(heard(trigger(store), remembered(store, fingerprint), then=1.5))
        await asyncio.sleep(0.7)
        env(place).touch()
        nothing = await looking
        env(place).write_text("DB_PASSWORD=hunter2\nWORKERS=5\n")
        return nothing, await heard(trigger(store), once, then=1.5)

    nothing, events = asyncio.run(scene())

    assert nothing == []
    assert [event["source"] for event in events] == ["settings"]
    assert "hunter2" not in json.dumps(events)


def test_several_edits_in_a_row_fire_once_with_the_last(place: Place) -> None:
    archive(place)

    async def scene() -> list[Any]:
        listening = asyncio.create_task(heard(trigger(Store(), settle=1, at_most=20), once, then=2))
        for number in range(15):
            env(place).write_text(f"WORKERS={number}\n")
            await asyncio.sleep(0.1)
        return await listening

    [event] = asyncio.run(scene())

    assert event["fingerprint"] == archive(place)


def test_what_never_rests_fires_nevertheless(place: Place) -> None:
    archive(place)

    async def scene() -> list[Any]:
        listening = asyncio.create_task(heard(trigger(Store(), settle=0.1, at_most=0.3), once))
        number = 0
        while not listening.done():
            number += 1
            env(place).write_text(f"WORKERS={number}\n")
            await asyncio.sleep(0.02)
        return await listening

    assert asyncio.run(scene())


def test_what_is_put_back_before_it_settles_fires_nothing(place: Place) -> None:
    store, fingerprint = Store(), archive(place)
    before = env(place).read_text()
    asyncio.run(heard(trigger(store), remembered(store, fingerprint)))

    async def scene() -> list[Any]:
        listening = asyncio.create_task(heard(trigger(store, settle=1), lambda _: True, then=4))
        await asyncio.sleep(0.5)
        env(place).write_text("oops")
        await asyncio.sleep(0.4)
        env(place).write_text(before)
        return await listening

    assert asyncio.run(scene()) == []


def test_a_new_trigger_goes_on_where_the_last_one_ended(place: Place) -> None:
    """A change that came while no triggerer ran is told; one that was told is not told again."""
    store, fingerprint = Store(), archive(place)
    asyncio.run(heard(trigger(store), remembered(store, fingerprint)))
    env(place).write_text("WORKERS=5\n")

    missed = asyncio.run(heard(trigger(store), once, then=1))
    repeated = asyncio.run(heard(trigger(store), lambda _: True, then=2))

    assert (len(missed), repeated) == (1, [])


def test_a_trigger_killed_before_it_remembered_tells_again_what_is_not_archived_yet(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "HANDED_ON", 60)
    archive(place)
    store = Store()
    env(place).write_text("WORKERS=5\n")
    told = asyncio.run(heard(trigger(store), once))

    again = asyncio.run(heard(trigger(store), once))
    archived = asyncio.run(heard(trigger(store), remembered(store, archive(place))))

    assert (len(told), again, archived) == (1, told, [])


def test_faults_do_not_end_the_watch_and_are_complained_of_once(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    store, fingerprint = Store(), archive(place)
    asyncio.run(heard(trigger(store), remembered(store, fingerprint)))
    folder, away = place.folder / "platform", place.folder / "away"
    folder.rename(away)

    async def scene() -> list[Any]:
        listening = asyncio.create_task(heard(trigger(store), once))
        await asyncio.sleep(2)
        (away / ".env").write_text("WORKERS=6\n")
        away.rename(folder)
        return await listening

    events = asyncio.run(scene())

    assert len(events) == 1
    assert "".join(capfd.readouterr()).count("settings cannot be watched now") == 1


def test_a_vault_that_does_not_answer_does_not_keep_a_change_from_being_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "aws", "extra": {"endpoint_url": f"http://127.0.0.1:{free_ports(1)[0]}"}}
    monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_S3", json.dumps(connection))
    (place.folder / "local").rename(place.folder / "gone")

    assert len(asyncio.run(heard(trigger(Store()), once))) == 1
