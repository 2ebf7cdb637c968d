"""Status pages: one incident, each phase said once, and nothing secret in what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from demo.storage import LOOPBACK, free_ports
from lifeboat.connections import Connection
from lifeboat.errors import NotTaken, SettingsError
from lifeboat.recovery.model import Phase
from lifeboat.recovery.status_page import StatusPage, Update, check, update
from tests.receivers import StatusPageServer, WebServer, status_page_server, web_server

FIRST = Update(
    "20261124T101500Z-0a1b2c3d",
    "Receivables are not reachable",
    Phase.INVESTIGATING,
    "We are looking into it.",
    datetime(2026, 11, 24, 10, 15, tzinfo=UTC),
)


@pytest.fixture
def server() -> Iterator[StatusPageServer]:
    with status_page_server() as made:
        yield made


def test_an_incident_is_made_once_and_then_carried_on(server: StatusPageServer) -> None:
    page = page_at(server)

    update(page, FIRST)
    update(page, replace(FIRST, phase=Phase.IDENTIFIED, text="We are restoring."))
    update(page, replace(FIRST, phase=Phase.RESOLVED, text="All is well."))

    [incident] = server.incidents
    assert incident["name"] == FIRST.title
    assert incident["status"] == "resolved"
    assert [(u["status"], u["body"]) for u in reversed(incident["incident_updates"])] == [
        ("investigating", "We are looking into it."),
        ("identified", "We are restoring."),
        ("resolved", "All is well."),
    ]


def test_the_same_said_again_is_said_once(server: StatusPageServer) -> None:
    update(page_at(server), FIRST)
    update(page_at(server), FIRST)

    [incident] = server.incidents
    assert len(incident["incident_updates"]) == 1


def test_a_phase_that_comes_back_is_said_again(server: StatusPageServer) -> None:
    page, second = page_at(server), replace(FIRST, phase=Phase.IDENTIFIED)
    for each in (FIRST, second, FIRST):
        update(page, each)

    [incident] = server.incidents
    assert incident["status"] == "investigating"
    assert len(incident["incident_updates"]) == 3


def test_an_incident_whose_answer_was_lost_is_found_again(server: StatusPageServer) -> None:
    server.deaf = True
    with pytest.raises(NotTaken):
        update(page_at(server), FIRST)
    server.deaf = False

    update(page_at(server), FIRST)

    [incident] = server.incidents
    assert len(incident["incident_updates"]) == 1


def test_another_incident_of_the_same_title_is_left_alone(server: StatusPageServer) -> None:
    update(page_at(server), FIRST)
    update(page_at(server), replace(FIRST, incident="20261125T101500Z-0a1b2c3d"))

    assert len(server.incidents) == 2


def test_one_that_a_person_has_opened_is_carried_on(server: StatusPageServer) -> None:
    server.incidents += [
        {"id": "old", "name": FIRST.title, "status": "resolved", "incident_updates": []},
        {"id": "other", "name": "Slow", "status": "investigating", "incident_updates": []},
        {"id": "mine", "name": FIRST.title, "status": "investigating", "incident_updates": []},
    ]

    update(page_at(server), FIRST)

    assert len(server.incidents) == 3
    assert server.incidents[2]["incident_updates"] == [{"status": "investigating", "body": FIRST.text}]


def test_an_incident_is_found_among_hundreds(server: StatusPageServer) -> None:
    update(page_at(server), FIRST)
    server.incidents += [
        {"id": str(n), "name": f"{n}", "status": "resolved", "incident_updates": []} for n in range(250)
    ]

    update(page_at(server), replace(FIRST, phase=Phase.RESOLVED, text="All is well."))

    assert server.incidents[0]["status"] == "resolved"
    assert len(server.incidents) == 251


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_host_may_be_written_with_the_version_or_without(server: StatusPageServer, suffix: str) -> None:
    page = page_at(server)

    update(replace(page, connection=replace(page.connection, host=server.url + suffix)), FIRST)

    assert len(server.incidents) == 1


@pytest.mark.parametrize(
    ("status", "transient"), [(500, True), (429, True), (420, True), (401, False), (404, False), (422, False)]
)
def test_a_page_that_refuses_is_named_without_secrets(server: StatusPageServer, status: int, transient: bool) -> None:
    server.status = status

    with pytest.raises(NotTaken) as raised:
        update(page_at(server), FIRST)

    assert raised.value.transient is transient
    assert f"lifeboat_status at {LOOPBACK}:{server.port} did not take the message" in raised.value.message
    assert f"status {status}" in raised.value.message
    assert "secret" not in str(raised.value)


def test_a_wrong_token_is_refused_for_good(server: StatusPageServer) -> None:
    page = page_at(server)

    with pytest.raises(NotTaken) as raised:
        update(replace(page, connection=replace(page.connection, password="wrong-secret")), FIRST)

    assert not raised.value.transient
    assert "secret" not in str(raised.value)


def test_a_slow_page_is_given_up_in_its_time(server: StatusPageServer) -> None:
    server.seconds = 3
    page = page_at(server)

    with pytest.raises(NotTaken, match="did not answer in time"):
        update(replace(page, connection=replace(page.connection, extra={"timeout": 0.3})), FIRST)


def test_a_page_that_is_down_is_not_taken() -> None:
    connection = Connection("lifeboat_status", "http", f"http://{LOOPBACK}:{free_ports(1)[0]}", password="secret")

    with pytest.raises(NotTaken, match="Connection refused"):
        update(StatusPage(connection, "statuspage", "page1"), FIRST)


def test_what_is_no_status_page_is_said_to_be_none() -> None:
    with web_server() as web:
        connection = Connection("lifeboat_status", "http", web.url, password="secret")
        with pytest.raises(NotTaken, match="its answer is not Statuspage's"):
            update(StatusPage(connection, "statuspage", "page1"), FIRST)


def test_a_page_without_an_address_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="AIRFLOW_CONN_LIFEBOAT_STATUS"):
        update(StatusPage(Connection("lifeboat_status", "http"), "statuspage", "page1"), FIRST)


def test_a_webhook_gets_a_document() -> None:
    with web_server() as web:
        page = StatusPage(Connection("lifeboat_status", "http", f"{web.url}/status", password="token"), "webhook")
        update(page, FIRST)
        update(page, FIRST)
        update(page, replace(FIRST, phase=Phase.RESOLVED))

        first, second, third = web.requests
    assert (first.method, first.path) == ("POST", "/status")
    assert first.headers["Authorization"] == "Bearer token"
    assert first.json == {
        "incident": FIRST.incident,
        "title": FIRST.title,
        "phase": "investigating",
        "text": FIRST.text,
        "at": "2026-11-24T10:15:00+00:00",
    }
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] != third.headers["Idempotency-Key"]


def test_a_page_is_asked_whether_it_would_take_an_update_and_nothing_is_said(server: StatusPageServer) -> None:
    assert check(page_at(server)) is True

    assert (server.incidents, [request.method for request in server.requests]) == ([], ["GET"])
    server.status = 401
    with pytest.raises(NotTaken):
        check(page_at(server))


def test_a_webhook_cannot_be_asked() -> None:
    assert check(StatusPage(Connection("lifeboat_status", "http", "https://status.example"), "webhook")) is False


def page_at(server: StatusPageServer | WebServer) -> StatusPage:
    connection = Connection("lifeboat_status", "http", server.url, password="status-token-secret")
    return StatusPage(connection, "statuspage", "page1")
