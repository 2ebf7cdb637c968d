"""An archived snapshot is asked for by a task, waited for without a worker, and read afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest

from tests.dags.conftest import s3_connection  # isort: skip - it sets Airflow up

from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.triggers.base import TriggerEvent

from demo.storage import S3Server, free_ports
from lifeboat.assembly import open_member, open_vault
from lifeboat.connections import connections_in
from lifeboat.keys import Identity, SigningKey, write_key
from lifeboat.settings import load_platform
from lifeboat.snapshot import Tier
from lifeboat.vault import Snapshot, Vault
from lifeboat_airflow.operators.thaw import ThawSnapshotOperator
from lifeboat_airflow.triggers import SnapshotThawedTrigger
from tests.custody.vaults import DUMP, back_up, read
from tests.fixtures_storage import BUCKET

pytestmark = pytest.mark.slow

SOON = timedelta(seconds=0.3)


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ministack: S3Server) -> Vault:
    """A vault in archive storage alone, which the platform's settings and connections lead to."""
    for name in ("operations", "escrow"):
        identity = Identity.generate(name)
        write_key(tmp_path / "keys", identity)
        write_key(tmp_path / "keys", identity.recipient)
    signing_key = SigningKey.generate("host")
    write_key(tmp_path / "keys", signing_key)
    write_key(tmp_path / "keys", signing_key.signer)
    platform = tmp_path / "platform.yaml"
    platform.write_text(
        f"""\
platform: archive
recipients: [operations, escrow]
repositories:
  - name: s3
    url: s3://{BUCKET}/{tmp_path.name}
    connection: lifeboat_s3
    storage_class: {{monthly: GLACIER}}
sources:
  databases:
    - {{name: orders, connection: platform_db}}
"""
    )
    keys = {"conn_type": "generic", "extra": {"keyring": str(tmp_path / "keys")}}
    connections = {
        "AIRFLOW_CONN_LIFEBOAT_KEYS": json.dumps(keys),
        "AIRFLOW_CONN_LIFEBOAT_S3": s3_connection(ministack, ministack.endpoint),
    }
    for name, value in connections.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LIFEBOAT_PLATFORM", str(platform))
    settings, lookup = load_platform(platform), connections_in(connections)
    Vault.create([open_member(settings, 0, lookup)])
    return open_vault(settings, lookup)


@pytest.fixture
def archived(vault: Vault) -> Snapshot:
    return back_up(vault, tier=Tier.MONTHLY)


def test_a_task_waits_in_the_triggerer_and_then_the_snapshot_can_be_read(vault: Vault, archived: Snapshot) -> None:
    task = thawing(archived)

    deferred = deferral(task)
    event = fired(deferred)
    result = getattr(task, deferred.method_name)({}, event=event)

    assert event == {"repository": "s3", "error": ""}
    assert result == {"snapshot": archived.label, "repository": "s3", "artifacts": ["dump", "globals"]}
    assert read(vault, archived) == DUMP


def test_what_can_be_read_already_is_not_waited_for(vault: Vault) -> None:
    daily = back_up(vault)

    assert thawing(daily).execute({})["repository"] == "s3"


def test_the_time_limit_fails_the_task_at_once_and_says_how_far_it_was(archived: Snapshot) -> None:
    task = thawing(archived, limit=timedelta(seconds=0.2))
    deferred = deferral(task)

    event = fired(deferred)

    assert deferred.timeout > timedelta(seconds=0.2)
    with pytest.raises(AirflowFailException, match=r"s3 gives 0 of 2 artifacts; thawing takes 3 to 5 hours.*\n.*Clear"):
        task.execute({}, event=event)


def test_a_passing_fault_is_waited_out(
    archived: Snapshot, ministack: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    deferred = deferral(thawing(archived))
    closed = S3Server(free_ports(1)[0])
    monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_S3", quick(closed))

    async def until_it_is_back() -> TriggerEvent:
        waiting = asyncio.ensure_future(anext(revived(deferred).run()))
        await asyncio.sleep(1)
        assert not waiting.done()
        monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_S3", quick(ministack))
        return await asyncio.wait_for(waiting, 30)

    assert asyncio.run(until_it_is_back()).payload == {"repository": "s3", "error": ""}


def test_a_fault_that_stays_fails_the_task(archived: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    task = thawing(archived)
    deferred = deferral(task)
    monkeypatch.delenv("AIRFLOW_CONN_LIFEBOAT_KEYS")

    with pytest.raises(AirflowFailException, match="lifeboat_keys"):
        task.execute({}, event=fired(deferred))


def test_the_trigger_never_looks_in_the_thread_that_serves_others(
    archived: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, threads = SnapshotThawedTrigger._look, []
    monkeypatch.setattr(SnapshotThawedTrigger, "_look", lambda self: threads.append(get_ident()) or look(self))

    fired(deferral(thawing(archived)))

    assert threads
    assert get_ident() not in threads


def test_airflow_runs_all_of_it(vault: Vault, archived: Snapshot, airflow_db: None, tmp_path: Path) -> None:
    file = tmp_path / "thaw_once.py"
    file.write_text(
        f"""\
from datetime import timedelta
from airflow.sdk import DAG
from lifeboat_airflow.operators.thaw import ThawSnapshotOperator

with DAG("thaw_once", schedule=None):
    ThawSnapshotOperator(
        task_id="thaw",
        source="orders",
        snapshot={{"snapshot": "{archived.label}"}},
        every=timedelta(seconds=0.3),
    )
"""
    )
    bag = DagBag(dag_folder=str(file), bundle_path=tmp_path, bundle_name="testing")
    sync_bag_to_db(bag, "testing", None)

    run = bag.dags["thaw_once"].test()

    assert run.state == "success"
    assert read(vault, archived) == DUMP


def thawing(snapshot: Snapshot, **arguments: Any) -> ThawSnapshotOperator:
    record = {"snapshot": snapshot.label}
    return ThawSnapshotOperator(task_id="thaw", source="orders", snapshot=record, every=SOON, **arguments)


def deferral(task: ThawSnapshotOperator) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as raised:
        task.execute({})
    return raised.value


def revived(deferred: TaskDeferred) -> SnapshotThawedTrigger:
    """The trigger as the triggerer makes it from what was stored."""
    path, arguments = deferred.trigger.serialize()
    assert path == "lifeboat_airflow.triggers.SnapshotThawedTrigger"
    return SnapshotThawedTrigger(**json.loads(json.dumps(arguments)))


def fired(deferred: TaskDeferred) -> Mapping[str, Any]:
    """The payload of the event the trigger ends with."""

    async def first() -> TriggerEvent:
        return await asyncio.wait_for(anext(revived(deferred).run()), 30)

    return asyncio.run(first()).payload


def quick(server: S3Server) -> str:
    """A connection that gives up soon."""
    connection = json.loads(s3_connection(server, server.endpoint))
    connection["extra"]["config_kwargs"] = {"connect_timeout": 0.2, "retries": {"total_max_attempts": 1}}
    return json.dumps(connection)
