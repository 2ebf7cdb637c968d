"""The whole runbook from the command line, where Airflow cannot even be imported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lifeboat.postgres.connection import PostgresServer
from lifeboat.recovery.journal import open_incidents
from tests.cli.conftest import COMMAND, INCLUDE, Ended
from tests.fixtures_postgres import new_name
from tests.fixtures_redis import RedisServers
from tests.recovery.ruins import ORDERS, UPLOADS, Ruins

pytestmark = pytest.mark.slow

LATEST = ("--mode", "recover", "--point", "latest", "--title", "The server is gone")


@pytest.fixture
def ruins(tmp_path: Path, postgres: PostgresServer, redis_servers: RedisServers) -> Ruins:
    redis = redis_servers.start("redis-8.2").server
    return Ruins(tmp_path, postgres, new_name("platform"), redis).build()


def start(ruins: Ruins, *arguments: str) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(ruins.folder), "PYTHONPATH": INCLUDE}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=ruins.folder,
        env=environment | ruins.variables | {"LIFEBOAT_PLATFORM": "platform.yaml"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(ruins: Ruins, *arguments: str, answers: str = "", expect: int = 0) -> Ended:
    process = start(ruins, *arguments)
    out, err = process.communicate(answers)
    assert process.returncode == expect, out + err
    assert ruins.server.password not in out + err
    return Ended(process.returncode, out, err)


def incident_of(ended: Ended) -> str:
    found = re.search(r"incident (\d{8}T\d{6}Z-[0-9a-f]{8})", ended.err)
    assert found, ended.err
    return found[1]


def listed(ruins: Ruins) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run(ruins, "incidents", "--json").json["incidents"]
    return found


def test_a_platform_that_is_gone_is_brought_back_from_the_terminal(ruins: Ruins) -> None:
    ruins.destroy()

    ended = run(ruins, "recover-platform", *LATEST, answers="proceed\n")

    ruins.check_whole()
    assert "The platform is well." in ended.out
    assert "empty: PostgreSQL" in ended.out
    assert "Bring the platform back to this?" in ended.err
    assert "of 4 h used" in ended.err
    assert ruins.log == ["prepare", "stop", "migrate", "start", "smoke"]
    (one,) = listed(ruins)
    assert (one["id"], one["mode"], one["state"], one["title"]) == (
        incident_of(ended), "recover", "done", "The server is gone"
    )  # fmt: skip
    reports = [path.name for path in (ruins.folder / "near" / "reports").glob("*") if path.is_file()]
    assert len(reports) == 2


def test_the_command_only_assesses_unless_told_otherwise(ruins: Ruins) -> None:
    ruins.destroy("uploads")

    ended = run(ruins, "recover-platform", "--point", "latest", "--json")

    record = json.loads(ended.out[ended.out.index("{") :])
    states = {c["source"]: c["state"] for c in record["assessment"]["components"]}
    assert states == {"orders": "alive", "uploads": "gone", "configuration": "alive", "sessions": "alive"}
    assert record["mode"] == "assess"
    assert record["verified"] is None
    assert ruins.log == []
    assert not ruins.uploads.exists()


@pytest.mark.parametrize("answers", ["", "stop\n", "yes\n"], ids=["nothing", "stop", "something else"])
def test_whoever_does_not_proceed_touches_nothing(ruins: Ruins, answers: str) -> None:
    ruins.destroy("uploads")

    run(ruins, "recover-platform", *LATEST, answers=answers, expect=1)

    assert not ruins.uploads.exists()
    assert ruins.log == []
    assert [one["state"] for one in listed(ruins)] == ["failed"]


def test_what_is_alive_is_replaced_for_the_platforms_name_alone(ruins: Ruins) -> None:
    ruins.spoil()

    ended = run(ruins, "recover-platform", *LATEST, answers="proceed\nruins\n", expect=1)
    assert "Type the platform's name to replace it: Ruins" in ended.err
    assert ruins.notes() == {"spoiled": ORDERS}

    run(ruins, "recover-platform", *LATEST, answers="proceed\nRuins\n")
    ruins.check_whole()


def test_nobody_is_asked_where_everything_was_agreed_to_beforehand(ruins: Ruins) -> None:
    ruins.spoil()

    ended = run(ruins, "recover-platform", *LATEST, "--yes-replace-live-data", "--json")

    ruins.check_whole()
    record = json.loads(ended.out[ended.out.rindex("\n{\n") :])
    assert record["verified"]["well"] is True
    assert {one["source"] for one in record["restored"]} == {"orders", "uploads", "configuration", "sessions"}
    assert len(record["reports"]) == 2


def test_to_proceed_is_not_to_replace_what_is_alive(ruins: Ruins) -> None:
    ruins.spoil()

    run(ruins, "recover-platform", *LATEST, "--proceed", expect=1)

    assert ruins.notes() == {"spoiled": ORDERS}
    assert ruins.files()["logo.png"] == b"spoiled"


def test_another_point_is_chosen_at_the_first_question(ruins: Ruins) -> None:
    first = ruins.means().vault.find("orders").label
    with ruins.server.visit(ruins.database) as connection:
        connection.execute("UPDATE orders SET note = 'later'")
    ruins.back_up_database_again()
    ruins.destroy("orders")

    run(ruins, "recover-platform", *LATEST, "--component", "orders", answers=f"{first}\nproceed\n")

    assert ruins.notes() == {"then": ORDERS}


def test_a_failed_smoke_test_offers_to_put_back_what_was_live_before(ruins: Ruins) -> None:
    ruins.spoil()
    (ruins.folder / "smoke").touch()

    ended = run(ruins, "recover-platform", *LATEST, answers="proceed\nRuins\nundo\n", expect=1)

    assert "Type `undo` to put back what was live before" in ended.err
    assert ruins.notes() == {"spoiled": ORDERS}
    assert "The platform is NOT well." in ended.out


def test_an_interrupted_recovery_goes_on_without_repeating_or_asking_again(ruins: Ruins) -> None:
    ruins.spoil()
    (ruins.folder / "migrate").touch()
    failed = run(ruins, "recover-platform", *LATEST, answers="proceed\nRuins\nkeep\n", expect=1)
    incident = incident_of(failed)
    assert f"lifeboat recover-platform --resume {incident}" in failed.err
    assert [one["state"] for one in listed(ruins)] == ["open"]
    (ruins.folder / "migrate").unlink()

    ended = run(ruins, "recover-platform", "--resume", incident)

    ruins.check_whole()
    assert "Going on with what was agreed to" in ended.err
    assert "rows and indexes:" not in ended.err
    assert len([name for name in ruins.databases() if "_before_" in name]) == 1
    assert [one["state"] for one in listed(ruins)] == ["done"]


def test_killed_in_the_middle_it_goes_on(ruins: Ruins) -> None:
    ruins.write_platform(migrate=[["sh", "-c", f"echo migrating >> {ruins.folder}/log; sleep 60"]])
    ruins.destroy()
    process = start(ruins, "recover-platform", *LATEST, "--proceed")
    deadline = time.monotonic() + 120
    while "migrating" not in ruins.log:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    ruins.write_platform(migrate=[["true"]])
    (one,) = open_incidents(ruins.means().vault)

    refused = run(ruins, "recover-platform", *LATEST, "--proceed", expect=1)
    assert f"The platform is being recovered since {one.opened:%Y-%m-%d %H:%M:%S} UTC" in refused.err
    run(ruins, "recover-platform", "--resume", one.id)

    ruins.check_whole()
    assert ruins.files() == UPLOADS


def test_an_incident_that_nobody_goes_on_with_is_ended_by_hand(ruins: Ruins) -> None:
    (ruins.folder / "prepare").touch()
    failed = run(ruins, "recover-platform", *LATEST, "--proceed", expect=1)
    incident = incident_of(failed)
    (ruins.folder / "prepare").unlink()

    run(ruins, "incidents", "end", incident, "--reason", "begun by mistake")
    again = run(ruins, "incidents", "end", incident, "--reason", "once more")

    assert "has ended already" in again.out
    assert "begun by mistake" in listed(ruins)[0]["words"]
    refused = run(ruins, "recover-platform", "--resume", incident, expect=1)
    assert "has ended" in refused.err
    run(ruins, "incidents", "end", "20200101T000000Z-00000000", "--reason", "none", expect=4)


def test_a_practice_asks_nothing_and_leaves_nothing(ruins: Ruins) -> None:
    ruins.spoil()

    ended = run(ruins, "recover-platform", "--mode", "practice", "--point", "latest")

    assert "The platform is well." in ended.out
    assert ruins.notes() == {"spoiled": ORDERS}
    assert ruins.log == []
    incident = incident_of(ended)
    assert not Path(f"/var/tmp/lifeboat-practice-{incident}").exists()
    assert run(ruins, "scratch", "list", "--json").json == {"kept": []}


@pytest.mark.parametrize(
    ("arguments", "expect", "said"),
    [
        (("--began", "2999-01-01T00:00"), 3, "cannot have begun in the future"),
        (("--component", "nothing"), 3, "no source 'nothing'"),
        (("--target", "orders"), 2, "is no target"),
        (("--resume", "yesterday"), 3, "is no incident's id"),
        (("--repository", "moon"), 3, "moon"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_begun(
    ruins: Ruins, arguments: tuple[str, ...], expect: int, said: str
) -> None:
    ended = run(ruins, "recover-platform", *LATEST, *arguments, expect=expect)

    assert said in re.sub(r"\s+", " ", ended.err.replace("│", ""))
    assert listed(ruins) == []
