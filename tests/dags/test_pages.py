"""The plugin's pages in Airflow's web server."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lifeboat.backup import DatabaseSource, back_up_database
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.programs import find_programs
from lifeboat.recovery.incident_report import store_incident_report
from lifeboat.recovery.journal import END, Journal
from lifeboat.recovery.model import Outcome
from lifeboat_airflow import links
from tests.dags.conftest import Place, RunDag, back_up
from tests.recovery.test_incident_report import story
from tests.recovery.worlds import BEGAN, REQUEST

pytestmark = pytest.mark.slow


def test_a_task_leads_to_the_page_of_the_snapshot_it_made(place: Place, run_dag: RunDag, web: Any) -> None:
    run = run_dag("nightly_database_backup", databases=["orders"])
    task = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/database.back_up"

    links = web.get(f"{task}/links", params={"map_index": 0}).json()["extra_links"]
    page = web.get(links["Snapshot"])

    [snapshot] = place.vault().list().snapshots
    assert page.status_code == 200
    assert snapshot.label in page.text
    assert all(artifact.sealed_sha256 in page.text for artifact in snapshot.manifest.artifacts)


def test_the_list_shows_every_snapshot_and_who_lacks_it(place: Place, run_dag: RunDag, web: Any) -> None:
    run_dag("nightly_database_backup")
    [odd] = place.vault().list("odd").snapshots
    for path in place.local.glob(f"snapshots/odd/daily/{odd.id}/manifest.json"):
        path.unlink()

    page = web.get("/lifeboat/snapshots")

    assert page.status_code == 200
    assert all(f"snapshots/{snapshot.label}" in page.text for snapshot in place.vault().list().snapshots)
    assert (page.text.count("has it"), page.text.count("lacks it")) == (3, 1)


def test_a_snapshot_whose_date_lies_in_the_future_is_shown_last_and_as_such(
    place: Place, web: Any, postgres: PostgresServer, databases: tuple[str, str]
) -> None:
    source, programs = DatabaseSource("odd", postgres, databases[1]), find_programs()
    began = datetime.now(UTC) + timedelta(days=400)
    stale = back_up_database(place.vault(), source, installed=programs, began=began).snapshot
    right = back_up("odd")["snapshot"]

    page = web.get("/lifeboat/snapshots").text

    assert page.index(right) < page.index(stale.label)
    assert page.count("its date is in the future") == 1
    assert "its date is in the future" in web.get(f"/lifeboat/snapshots/{stale.label}").text


def test_the_health_of_the_vault_is_shown_with_what_is_owed(place: Place, web: Any) -> None:
    whole, short = back_up("orders")["snapshot"], back_up("odd")["snapshot"]
    sound = web.get("/lifeboat/health")
    for path in place.local.glob(f"snapshots/{short}/*.sealed"):
        path.unlink()

    page = web.get("/lifeboat/health")

    assert (sound.status_code, page.status_code) == (200, 200)
    assert "All is as promised" in sound.text
    assert "Not all is as promised" in page.text
    assert (page.text.count(whole), page.text.count(short)) == (2, 2)
    assert (page.text.count(">whole<"), page.text.count(">owed")) == (3, 1)


def test_incidents_are_listed_and_shown_as_their_journals_tell_them(place: Place, web: Any) -> None:
    vault = place.vault()
    told = story()
    journal = Journal(vault, told.incident)
    journal.begin(replace(REQUEST, title="Water <b>everywhere</b>"), by="maria")
    for entry in told.entries[1:]:
        if entry.step != END:
            journal.write(entry.step, entry.outcome, entry.words, entry.source, entry.facts)
    under_way = web.get(f"/lifeboat/incidents/{told.incident}")
    keys = store_incident_report(vault, told, BEGAN)
    journal.write("report", Outcome.DONE, "It is written.", facts={"reports": list(keys)})
    journal.end("The platform is back.")

    listed, page = web.get("/lifeboat/incidents"), web.get(f"/lifeboat/incidents/{told.incident}")
    report = web.get(f"/lifeboat/{keys[1]}")

    assert (under_way.status_code, listed.status_code, page.status_code) == (200, 200, 200)
    assert "Under way: " in under_way.text
    assert '<meta http-equiv="refresh"' in under_way.text
    assert f"incidents/{told.incident}" in listed.text
    assert "The platform is back, " in page.text
    assert "refresh" not in page.text
    assert "Water &lt;b&gt;everywhere&lt;/b&gt;" in listed.text
    assert "Water &lt;b&gt;everywhere&lt;/b&gt;" in page.text
    assert f"../{keys[1]}" in page.text
    assert "maria" in page.text
    assert "12 tables, 100,000 rows" in page.text
    assert "was passed over" in page.text
    assert report.status_code == 200
    assert "Incident report" in report.text


def test_without_an_incident_the_page_says_so(place: Place, web: Any) -> None:
    page = web.get("/lifeboat/incidents")

    assert page.status_code == 200
    assert "There is none, and no practice." in page.text


def test_a_step_leads_to_its_incident(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, str] = {}
    monkeypatch.setattr(links.BaseXCom, "get_value", lambda **what: kept.get(what["key"]))

    before = links.IncidentLink().get_link(None, ti_key=None)  # type: ignore[arg-type]  # neither is looked at
    kept[links.INCIDENT] = "20261124T101500Z-0a1b2c3d"
    after = links.IncidentLink().get_link(None, ti_key=None)  # type: ignore[arg-type]

    assert (before, after) == ("", "/lifeboat/incidents/20261124T101500Z-0a1b2c3d")


@pytest.mark.parametrize(
    "path",
    [
        "incidents/20260101T000000Z-00000000",
        "incidents/yesterday",
        "snapshots/orders/daily/20260101T000000Z-00000000",
        "snapshots/orders/hourly/20260101T000000Z-00000000",
        "snapshots/orders/daily/yesterday",
        "snapshots/Ö/daily/20260101T000000Z-00000000",
    ],
)
def test_what_does_not_exist_is_explained(place: Place, web: Any, path: str) -> None:
    page = web.get(f"/lifeboat/{path}")

    assert page.status_code == 404
    assert "This cannot be shown now" in page.text


def test_nobody_sees_them_without_logging_in(place: Place, web: Any) -> None:
    answer = web.get("/lifeboat/snapshots", headers={"Authorization": ""})

    assert answer.status_code == 401
