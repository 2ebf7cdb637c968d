"""`lifeboat notify`, with receivers of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo.storage import LOOPBACK, free_ports
from tests.cli.conftest import COMMAND, INCLUDE
from tests.receivers import MailServer, WebServer, mail_server, status_page_server, web_server

PLATFORM = """\
platform: small
recipients: [operations, escrow]
repositories:
  - {name: local, url: "file:///tmp/nothing"}
sources:
  files:
    - {name: uploads, path: /tmp/nothing}
"""
NOTIFY = """\
notify:
  email: {connection: lifeboat_smtp, to: [ops@sme.example]}
  chat: [lifeboat_chat]
  webhooks: [lifeboat_webhook]
  dead_man: {nightly_database_backup: ping_nightly}
"""


def test_a_test_message_goes_through_every_channel(tmp_path: Path) -> None:
    with mail_server() as mail, web_server() as web:
        done = lifeboat(tmp_path, connections(mail, web), "notify", "--test")

        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[:-1] == [
            *("email: taken", "lifeboat_chat: taken", "lifeboat_webhook: taken", "ping_nightly: taken")
        ]
        [got] = mail.mails
        assert got["Subject"] == "Test: alerts of small arrive here"
        assert sorted(web.paths()) == ["/chat", "/hook", "/ping/uuid-secret/log"]
        assert "secret" not in done.stdout + done.stderr


def test_a_status_page_is_asked_and_told_nothing(tmp_path: Path) -> None:
    with mail_server() as mail, web_server() as web, status_page_server() as status:
        page = {"conn_type": "http", "host": status.url, "password": status.token}
        variables = connections(mail, web) | {"AIRFLOW_CONN_LIFEBOAT_STATUS": json.dumps(page)}
        settings = "  status_page: {connection: lifeboat_status, kind: statuspage, page: page1}\n"
        done = lifeboat(tmp_path, variables, "notify", "--test", notify=NOTIFY + settings)

        assert done.returncode == 0, done.stderr
        assert "lifeboat_status: taken" in done.stdout
        assert status.incidents == []


def test_what_does_not_arrive_is_said_and_shown_by_the_exit_code(tmp_path: Path) -> None:
    with mail_server() as mail, web_server() as web:
        broken = connections(mail, web)
        broken["AIRFLOW_CONN_LIFEBOAT_WEBHOOK"] = f"http://{LOOPBACK}:{free_ports(1)[0]}/hook-secret"
        del broken["AIRFLOW_CONN_PING_NIGHTLY"]
        done = lifeboat(tmp_path, broken, "notify", "--test")

        assert done.returncode == 6
        assert "email: taken" in done.stdout
        assert "lifeboat_webhook: FAILED." in done.stdout
        assert "Connection refused" in done.stdout
        assert "ping_nightly: FAILED." in done.stdout
        assert f"{tmp_path}/platform.yaml:" in done.stdout
        assert "secret" not in done.stdout + done.stderr

        nothing = lifeboat(tmp_path, {}, "notify", "--test")

        assert nothing.returncode == 1
        assert nothing.stdout.count("which does not exist") == 4


def test_without_a_test_the_channels_are_listed_and_nothing_is_sent(tmp_path: Path) -> None:
    with mail_server() as mail, web_server() as web:
        listed = connections(mail, web)
        listed["AIRFLOW_CONN_LIFEBOAT_SMTP"] = json.dumps({"conn_type": "smtp", "host": "mail.example"})
        done = lifeboat(tmp_path, listed, "notify")

        assert done.returncode == 0, done.stderr
        assert "email: Neither platform.yaml nor AIRFLOW_CONN_LIFEBOAT_SMTP says from whom mail comes." in done.stdout
        assert "lifeboat_chat: ready" in done.stdout
        assert "ping_nightly: ready, pinged by nightly_database_backup" in done.stdout
        assert (mail.mails, web.requests) == ([], [])


@pytest.mark.parametrize("name", ["SMTP", "CHAT", "WEBHOOK"])
def test_a_connection_of_another_type_is_named(tmp_path: Path, name: str) -> None:
    with mail_server() as mail, web_server() as web:
        wrong = connections(mail, web) | {f"AIRFLOW_CONN_LIFEBOAT_{name}": "postgres://sme:db-secret@host/db"}
        done = lifeboat(tmp_path, wrong, "notify")

    assert f"The connection 'lifeboat_{name.lower()}' is of type 'postgres'" in done.stdout
    assert "secret" not in done.stdout


def test_a_platform_that_names_nobody_is_a_wrong_setting(tmp_path: Path) -> None:
    done = lifeboat(tmp_path, {}, "notify", "--test", notify="")

    assert done.returncode == 3
    assert "names nobody to be told" in done.stderr


def connections(mail: MailServer, web: WebServer) -> dict[str, str]:
    chat: dict[str, Any] = {"config": [{"path": f"json://user:chat-secret@{LOOPBACK}:{web.port}/chat"}]}
    ping = {"conn_type": "http", "host": f"{web.url}/ping", "password": "uuid-secret"}
    return {
        "AIRFLOW_CONN_LIFEBOAT_SMTP": json.dumps(mail.connection),
        "AIRFLOW_CONN_LIFEBOAT_CHAT": json.dumps({"conn_type": "apprise", "extra": chat}),
        "AIRFLOW_CONN_LIFEBOAT_WEBHOOK": f"{web.url}/hook",
        "AIRFLOW_CONN_PING_NIGHTLY": json.dumps(ping),
    }


def lifeboat(
    folder: Path, connections: dict[str, str], *arguments: str, notify: str = NOTIFY
) -> subprocess.CompletedProcess[str]:
    """Run the command where Airflow cannot be imported."""
    (folder / "platform.yaml").write_text(PLATFORM + notify)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW_CONN")}
    command = [sys.executable, "-c", COMMAND, *arguments, "--platform", "platform.yaml"]
    command[-1] = str(folder / "platform.yaml")
    environ |= {"PYTHONPATH": INCLUDE, **connections}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
