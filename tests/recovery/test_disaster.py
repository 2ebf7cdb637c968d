"""A whole platform, destroyed and brought back from a terminal: every row, file, key and setting is there again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.storage import free_ports
from tests.cli.conftest import COMMAND, INCLUDE
from tests.recovery.disaster import Doomed, differences, doomed, receivers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RECOVER = ("recover-platform", "--mode", "recover", "--title", "The data centre has burnt down", "--proceed")


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Doomed]:
    """A platform at work, with a snapshot of each of its sources."""
    with receivers() as told, doomed(tmp_path, told) as made:
        made.back_up()
        yield made


@pytest.mark.ordinary
def test_a_platform_that_burnt_down_is_brought_back_from_a_terminal_and_everybody_told(platform: Doomed) -> None:
    before = platform.whole()
    assert platform.web("smoke").returncode == 0
    assert differences(before, platform.whole()) == []
    platform.destroy()
    assert (platform.ask("/health")[0], platform.web("start").returncode) == (0, 1)
    platform.start_empty()
    assert_nothing_is_left(platform)

    ended = lifeboat(platform, *RECOVER, "--tell", "cy@sme.example", "--reason", "Lightning")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert differences(before, platform.whole()) == []
    # Who had logged in before works on; and a person can log in, see invoices and open a document.
    assert platform.ask("/health")[0] == 200
    assert "Invoices for" in platform.ask("/", cookie=platform.cookie)[1]
    assert platform.web("smoke").returncode == 0

    told, mails = platform.receivers, platform.receivers.mail.mails
    [incident] = told.status.incidents
    phases = [update["status"] for update in reversed(incident["incident_updates"])]
    assert phases == ["investigating", "identified", "monitoring", "resolved"]
    assert incident["name"] == "The data centre has burnt down"
    users = [mail for mail in mails if "ada@sme.example" in mail["X-To"]]
    assert [mail["X-To"] for mail in users] == ["ada@sme.example, bo@sme.example, cy@sme.example"] * 2
    assert "is available again" in users[1]["Subject"]
    operations = [mail["Subject"].strip() for mail in mails if "operations@sme.example" in mail["X-To"]]
    assert operations[:-1] == [f"Incident: The data centre has burnt down: {phase}" for phase in phases]
    assert operations[-1] == "Incident report: The data centre has burnt down"
    assert [told.web.paths().count(path) for path in ("/chat", "/hook")] == [4, 4]

    report = report_of(platform)
    assert mails[-1].get_body(("plain",)).get_content().split() == report.split()
    assert re.search(r"\*\*The platform is back, .* after it began, with .* of data lost\.\*\*", report)
    assert report.count("| met |") == 2
    assert "every file that a row names is there" in report or "no row names" in report
    assert "Lightning" in report
    everything = report + ended.stdout + ended.stderr + "".join(mail.as_string() for mail in mails)
    everything += str(told.status.incidents) + "".join(request.body.decode() for request in told.web.requests)
    assert not any(secret in everything for secret in secrets_of(platform))


def test_with_every_channel_down_and_one_repository_burnt_too_the_platform_is_brought_back(platform: Doomed) -> None:
    before = platform.whole()
    platform.destroy()
    shutil.rmtree(platform.folder / "backups")
    closed = free_ports(1)[0]
    connections = platform.folder / ".env"
    ports = [platform.receivers.mail.port, platform.receivers.web.port, platform.receivers.status.port]
    connections.write_text(re.sub("|".join(map(str, ports)), str(closed), connections.read_text()))
    platform.start_empty()

    ended = lifeboat(platform, *RECOVER)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert differences(before, platform.whole()) == []
    assert platform.receivers.mail.mails == platform.receivers.status.requests == []
    [report] = re.findall(r"Report: (\S+\.md)", ended.stderr)
    text = in_vault(platform, report).replace("\\", "")
    todo = text.partition("## What is still to be done")[2].partition("##")[0]
    for channel in ("status page lifeboat_status", "mail to users", "email", "lifeboat_chat", "lifeboat_webhook"):
        assert f"NOT told through {channel}: resolved." in todo
    assert "NOT told through email: report." in ended.stderr
    assert not any(secret in text + ended.stdout + ended.stderr for secret in secrets_of(platform))


def lifeboat(platform: Doomed, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as on a host that has no Airflow."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(platform.folder), "PYTHONPATH": INCLUDE}
    chosen = ("--platform", str(platform.folder / "platform.yaml"), "--env-file", str(platform.folder / ".env"))
    line = [sys.executable, "-c", COMMAND, *arguments, *chosen]
    return subprocess.run(
        line, cwd=platform.folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def assert_nothing_is_left(platform: Doomed) -> None:
    assert not (platform.folder / "uploads").exists()
    assert not platform.settings.exists()
    assert platform.databases() == ["postgres", "template0", "template1"]
    assert platform.keys() == {}


def report_of(platform: Doomed) -> str:
    """The report that the local repository has, as plain text."""
    [file] = (platform.folder / "backups" / "reports").glob("*-incident-*.md")
    return file.read_text("utf-8").replace("\\", "")


def in_vault(platform: Doomed, key: str) -> str:
    """What the repository that is left has under a key."""
    from demo.stand import BUCKET
    from lifeboat.connections import Connection
    from lifeboat.provider_clients import s3_client

    client = s3_client(Connection("lifeboat_s3", **platform.platform.s3.connection))
    return client.get_object(Bucket=BUCKET, Key=f"lifeboat/{key}")["Body"].read().decode()


def secrets_of(platform: Doomed) -> list[str]:
    stand, told = platform.platform, platform.receivers
    found = [stand.postgres.password, stand.redis.password or "", stand.web_password, stand.s3.secret_key]
    return [*found, told.status.token]
