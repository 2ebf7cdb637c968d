"""Messages arrive at real servers, and what does not arrive is told without secrets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from demo.storage import LOOPBACK, free_ports
from lifeboat.connections import Connection, parse_connection
from lifeboat.errors import LifeboatError, NotTaken, SettingsError
from lifeboat.notify.alert import Alert
from lifeboat.notify.channels import Chat, Mail, Webhook, ping
from lifeboat.notify.rendering import render
from lifeboat.notify.sending import deliver
from tests.receivers import MailServer, WebServer, mail_server

TO = ("ops@sme.example", "boss@sme.example")


def test_mail_arrives_as_text_and_as_html(mail: MailServer, alert: Alert) -> None:
    mail_through(mail).send(render(alert))

    [got] = mail.mails
    assert got["Subject"] == "FAILED: nightly_database_backup: database.back_up of receivables"
    assert (got["From"], got["To"]) == ("lifeboat@sme.example", "ops@sme.example, boss@sme.example")
    assert got["X-To"] == "ops@sme.example, boss@sme.example"
    assert got["Message-ID"] == f"<{alert.key}@sme.example>"
    assert got["Auto-Submitted"] == "auto-generated"
    text, html = got.get_body(("plain",)), got.get_body(("html",))
    assert text is not None
    assert html is not None
    assert "receivables does not answer: <connection refused>." in text.get_content()
    assert "&lt;connection refused&gt;" in html.get_content()


def test_mail_logs_in_where_the_connection_has_a_login(alert: Alert) -> None:
    with mail_server(user="robot", password="mail-secret") as mail:
        mail_through(mail).send(render(alert))

        assert len(mail.mails) == 1


def test_a_wrong_password_of_mail_is_not_tried_again_nor_shown(alert: Alert) -> None:
    with mail_server(user="robot", password="mail-secret") as mail:
        mail.password = "wrong-secret"
        error = refusal(lambda: mail_through(mail).send(render(alert)))

    assert not error.transient
    assert f"email at 127.0.0.1:{mail.port} did not take the message: it answered 535" in str(error)
    assert "wrong-secret" not in str(error)
    assert "AIRFLOW_CONN_LIFEBOAT_SMTP" in error.hint


def test_mail_is_not_sent_in_the_clear_unless_the_connection_says_so(mail: MailServer, alert: Alert) -> None:
    for extra in ({"disable_ssl": True}, {"disable_tls": True}, {}):
        connection = mail.connection | {"extra": extra}
        with pytest.raises(NotTaken):
            Mail(Connection("lifeboat_smtp", **connection), TO, "a@b").send(render(alert))

    assert mail.mails == []


@pytest.mark.parametrize(("answer", "transient"), [("451 later", True), ("554 never", False)])
def test_mail_that_a_server_refuses_is_not_taken(mail: MailServer, alert: Alert, answer: str, transient: bool) -> None:
    mail.answer = answer

    error = refusal(lambda: mail_through(mail).send(render(alert)))

    assert error.transient is transient
    assert f"it answered {answer[:3]}" in error.message


def test_a_webhook_gets_the_alert_as_json(web: WebServer, alert: Alert) -> None:
    extra = {"X-Team": "ops", "timeout": 5}
    Webhook(Connection("hook", "http", web.url, password="token-secret", extra=extra)).send(render(alert))

    [request] = web.requests
    assert (request.method, request.path) == ("POST", "/")
    assert request.headers["Authorization"] == "Bearer token-secret"
    assert request.headers["X-Team"] == "ops"
    assert request.headers["Idempotency-Key"] == request.json["key"] == alert.key
    assert "timeout" not in request.headers
    assert request.json["event"] == "failed"
    assert request.json["troubles"][0]["source"] == "receivables"
    assert request.json["text"].startswith("FAILED: nightly_database_backup")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"conn_type": "http", "host": "http://{at}/hooks/a"}, "/hooks/a"),
        ({"conn_type": "http", "host": "{host}", "port": 0}, "/"),
        ({"conn_type": "http", "host": "{host}", "schema": "http", "port": 0}, "/"),
        ("http://{at}/hook-secret", "/hook-secret"),
        ('{{"conn_type": "http", "host": "http://{host}", "port": {port}}}', "/"),
    ],
    ids=["url", "host", "schema", "uri", "json"],
)
def test_the_address_is_what_airflow_would_make_of_the_connection(
    web: WebServer, alert: Alert, fields: Any, path: str
) -> None:
    words = {"at": f"{LOOPBACK}:{web.port}", "host": LOOPBACK, "port": web.port}
    if isinstance(fields, str):
        connection = parse_connection("hook", fields.format(**words))
    else:
        filled = {k: v.format(**words) if isinstance(v, str) else web.port for k, v in fields.items()}
        connection = Connection("hook", **filled)

    Webhook(connection).send(render(alert))

    assert web.paths() == [path]


@pytest.mark.parametrize(("status", "transient"), [(500, True), (429, True), (404, False), (401, False), (302, False)])
def test_only_success_is_success_to_a_webhook(web: WebServer, alert: Alert, status: int, transient: bool) -> None:
    web.status, web.headers = status, {"Location": f"{web.url}/elsewhere"}

    hook = Webhook(Connection("hook", "http", f"{web.url}/hook-secret", password="token-secret"))
    error = refusal(lambda: hook.send(render(alert)))

    assert error.transient is transient
    assert f"it answered with status {status}" in error.message
    assert "secret" not in str(error)
    assert len(web.requests) == 1


def test_chat_goes_through_apprise(web: WebServer, alert: Alert) -> None:
    path = f"json://{LOOPBACK}:{web.port}/chat"
    Chat(Connection("lifeboat_chat", "apprise", extra={"config": [{"path": path, "tag": "ops"}]})).send(render(alert))

    [request] = web.requests
    assert request.path.startswith("/chat")
    assert request.json["title"] == "FAILED: nightly_database_backup: database.back_up of receivables"
    assert request.json["type"] == "failure"
    assert "receivables does not answer" in request.json["message"]


def test_chat_that_is_not_taken_says_so_without_its_address(alert: Alert) -> None:
    path = f"json://user:chat-secret@{LOOPBACK}:{free_ports(1)[0]}/chat"
    error = refusal(
        lambda: Chat(Connection("lifeboat_chat", "apprise", extra={"config": {"path": path}})).send(render(alert))
    )

    assert "lifeboat_chat did not take the message: one of its services (json)" in error.message
    assert "chat-secret" not in str(error)


@pytest.mark.parametrize("config", [None, "nonsense", [], [{}], {"path": "no such service"}], ids=str)
def test_a_chat_without_addresses_is_a_wrong_setting(alert: Alert, config: Any) -> None:
    with pytest.raises(SettingsError, match="AIRFLOW_CONN_LIFEBOAT_CHAT"):
        Chat(Connection("lifeboat_chat", "apprise", extra={"config": config})).send(render(alert))


@pytest.mark.parametrize(
    ("signal", "path"), [("", "/ping/uuid"), ("start", "/ping/uuid/start"), ("fail", "/ping/uuid/fail")]
)
def test_a_dead_man_service_is_pinged(web: WebServer, signal: str, path: str) -> None:
    ping(Connection("hc", "http", f"{web.url}/ping", password="uuid"), signal)
    ping(parse_connection("hc", f"{web.url}/ping%2Fuuid"), signal)

    assert [(r.method, r.path) for r in web.requests] == [("GET", path)] * 2


def test_a_ping_that_fails_does_not_show_its_address() -> None:
    error = refusal(
        lambda: ping(Connection("hc", "http", f"http://{LOOPBACK}:{free_ports(1)[0]}", password="uuid-secret"))
    )

    assert error.transient
    assert "Connection refused" in error.message
    assert "uuid-secret" not in str(error)


def test_a_channel_that_is_down_is_tried_again_and_keeps_nobody_else_waiting(
    mail: MailServer, web: WebServer, alert: Alert
) -> None:
    web.statuses = [503, 503]
    lines: list[str] = []
    waited: list[float] = []

    delivery = deliver(
        alert,
        [mail_through(mail), Webhook(Connection("hook", "http", web.url))],
        waits=(1, 2, 4),
        report=lines.append,
        sleep=waited.append,
    )

    assert (delivery.taken, delivery.failed) == (("email", "hook"), {})
    assert waited == [1, 2]
    assert len(mail.mails) == 1
    assert len(web.requests) == 3
    assert sum(line.startswith("NOT told through hook") for line in lines) == 2


def test_a_channel_that_stays_down_is_given_up_and_said_why(mail: MailServer, alert: Alert) -> None:
    closed = Webhook(Connection("hook", "http", f"http://{LOOPBACK}:{free_ports(1)[0]}"))

    delivery = deliver(alert, [closed, mail_through(mail)], waits=(0.01, 0.01))

    assert delivery.taken == ("email",)
    assert "Connection refused" in delivery.failed["hook"].message


def test_a_server_that_hangs_is_given_up_and_the_others_are_told(mail: MailServer, alert: Alert) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
        channels = [
            Webhook(Connection("hook", "http", f"http://{LOOPBACK}:{port}", extra={"timeout": 0.5})),
            Mail(
                Connection("slow", "smtp", LOOPBACK, port, extra={"timeout": 0.5, "disable_ssl": True}),
                TO,
                "a@b",
                "slow",
            ),
            mail_through(mail),
        ]
        delivery = deliver(alert, channels, waits=())

    assert delivery.taken == ("email",)
    assert delivery.failed.keys() == {"hook", "slow"}
    assert all("did not answer in time" in error.message for error in delivery.failed.values())


def test_what_a_library_raises_is_a_failure_of_that_channel_alone(mail: MailServer, alert: Alert) -> None:
    class Broken:
        name = "broken"

        def send(self, message: object) -> None:
            raise KeyError("secret")

    delivery = deliver(alert, [Broken(), mail_through(mail)], waits=(1,))

    assert delivery.taken == ("email",)
    assert "secret" not in str(delivery.failed["broken"])


def mail_through(server: MailServer) -> Mail:
    return Mail(Connection("lifeboat_smtp", **server.connection), TO, "lifeboat@sme.example")


def refusal(call: Callable[[], None]) -> LifeboatError:
    before = threading.active_count()
    with pytest.raises(NotTaken) as raised:
        call()
    assert threading.active_count() < before + 20
    return raised.value
