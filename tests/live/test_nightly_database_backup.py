"""What the nightly backup leaves in Airflow, for other DAGs to start from and for people to look at."""

from __future__ import annotations

import json

from lifeboat_airflow.records import snapshot_record
from tests.live.stand import LIVE, PATIENCE, Live, until

DAG = "nightly_database_backup"

pytestmark = LIVE


def test_a_scheduled_backup_is_an_asset_event_that_holds_the_snapshots_facts_and_no_secret(live: Live) -> None:
    until(lambda: bool(live.runs(DAG)), PATIENCE)
    [run] = live.runs(DAG)
    live.ended(DAG, run["dag_run_id"], seconds=PATIENCE)

    events = live.airflow.request("GET", "/assets/events", params={"source_dag_id": DAG})["asset_events"]

    assert live.state(DAG, run["dag_run_id"]) == "success"
    assert run["run_type"] == "scheduled"
    [snapshot] = live.vault().list("receivables").snapshots
    [event] = events
    assert (event["uri"], event["source_run_id"]) == ("lifeboat://snapshots/databases", run["dag_run_id"])
    assert event["extra"] == {**snapshot_record(snapshot), "reused": False, "lacking": {}}
    assert event["extra"]["facts"]["rows"] > 2_000
    kept = json.dumps(event)
    assert not [secret for secret in (live.platform.postgres.password, live.platform.s3.secret_key) if secret in kept]
