"""From when the deadlines of a recovery count, and who is not told of them any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.dag_processing.dagbag import sync_bag_to_db
from airflow.models.dagrun import DagRun
from airflow.models.deadline import Deadline
from airflow.utils.session import create_session
from sqlalchemy import select

from lifeboat.recovery.journal import Journal, incident_of_run, new_incident
from lifeboat.recovery.model import Mode, Request
from lifeboat_airflow.notifier import LifeboatNotifier
from tests.dags.conftest import Place, dag_bag
from tests.receivers import MailServer, mail_server

pytestmark = pytest.mark.slow

DAG = "disaster_recovery"
RTO = [timedelta(hours=hours) for hours in (2, 3.2, 4)]
NOTIFY = """\
notify:
  email: {connection: lifeboat_smtp, to: [ops@sme.example]}
"""


@pytest.fixture
def mail(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with mail_server() as server, (place.folder / "platform.yaml").open("a") as file:
        file.write(NOTIFY)
        file.flush()
        monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_SMTP", json.dumps(server.connection))
        yield server


@pytest.fixture
def recoveries(place: Place, web: Any) -> Recoveries:
    bag = dag_bag(DAG)
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, "testing", None)
    return Recoveries(web)


class Recoveries:
    """Runs of the DAG that are triggered and never begin: there is no scheduler."""

    def __init__(self, web: Any) -> None:
        self.web = web

    def trigger(self, **form: Any) -> dict[str, Any]:
        """Send the form; returns the run as Airflow tells it to a deadline's callback."""
        body = {"logical_date": None, "conf": form}
        answer = self.web.post(f"/api/v2/dags/{DAG}/dagRuns", json=body, headers=self.web.admin)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def deadlines(self, run: dict[str, Any]) -> list[datetime]:
        with create_session() as session:
            query = select(Deadline.deadline_time).join(DagRun, DagRun.id == Deadline.dagrun_id)
            return sorted(session.scalars(query.where(DagRun.run_id == run["dag_run_id"])))


def incident_of(run: dict[str, Any]) -> str:
    return incident_of_run(datetime.fromisoformat(run["run_after"]), run["dag_run_id"], run["conf"])


def moments(began: datetime) -> list[datetime]:
    return [began + after for after in RTO]


def test_they_count_from_when_the_form_says_that_it_began(recoveries: Recoveries) -> None:
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)

    said = recoveries.trigger(mode="recover", began=began.isoformat())
    unsaid = recoveries.trigger(mode="recover")

    assert recoveries.deadlines(said) == moments(began)
    assert recoveries.deadlines(unsaid) == moments(datetime.fromisoformat(unsaid["run_after"]))


@pytest.mark.parametrize("mode", ["assess", "practice"])
def test_there_are_none_where_nothing_is_brought_back(recoveries: Recoveries, mode: str) -> None:
    run = recoveries.trigger(mode=mode)
    goes_on = recoveries.trigger(incident=incident_of(run))

    assert recoveries.deadlines(run) == recoveries.deadlines(goes_on) == []


def test_a_run_that_goes_on_with_the_incident_of_another_has_no_second_ones(recoveries: Recoveries) -> None:
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    first = recoveries.trigger(mode="recover", began=began.isoformat())

    second = recoveries.trigger(mode="recover", incident=incident_of(first))
    third = recoveries.trigger(incident=incident_of(first))

    assert recoveries.deadlines(first) == moments(began)
    assert recoveries.deadlines(second) == recoveries.deadlines(third) == []


def test_a_run_that_goes_on_with_what_was_begun_on_a_terminal_counts_from_then(recoveries: Recoveries) -> None:
    opened = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    incident = new_incident(opened)

    first = recoveries.trigger(incident=incident)
    second = recoveries.trigger(incident=incident)

    assert recoveries.deadlines(first) == moments(opened)
    assert recoveries.deadlines(second) == []


@pytest.mark.parametrize("incident", ["yesterday's", "99999999T999999Z-00000000"])
def test_what_is_no_incident_makes_no_deadline_and_still_a_run(recoveries: Recoveries, incident: str) -> None:
    run = recoveries.trigger(mode="recover", incident=incident)

    assert recoveries.deadlines(run) == []


def test_people_are_told_of_one_until_its_incident_has_ended(
    place: Place, mail: MailServer, recoveries: Recoveries
) -> None:
    now = datetime.now(UTC)
    run = recoveries.trigger(mode="recover")
    journal = Journal(place.vault(), incident_of(run))
    journal.begin(Request(Mode.RECOVER, now, "Server lost"))

    pass_by(run)
    journal.end("The platform is recovered.")
    pass_by(run)

    [told] = mail.mails
    assert told["Subject"].startswith("LATE: disaster_recovery")
    assert "50 % of the 4 hours of the RTO" in told.get_body(("plain",)).get_content()


def test_people_are_told_of_one_when_its_incident_cannot_be_seen(
    place: Place, mail: MailServer, recoveries: Recoveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recoveries.trigger(mode="recover")
    monkeypatch.delenv("AIRFLOW_CONN_LIFEBOAT_KEYS")

    pass_by(run)

    assert len(mail.mails) == 1


def pass_by(run: dict[str, Any]) -> None:
    """What the triggerer does once a deadline has gone by."""
    notifier = LifeboatNotifier(limit="50 % of the 4 hours of the RTO")
    deadline = {"deadline_time": datetime.now(UTC).isoformat()}
    asyncio.run(notifier.async_notify({"dag_run": run, "deadline": deadline}))
