"""Alerts of a real Airflow arrive at real receivers, in time, and once."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.live.stand import LIVE, PATIENCE, SECRET, Live, until
from tests.processes import descendants_of, read_text

pytestmark = LIVE


@dataclass(frozen=True)
class Receivers:
    """The live Airflow, and what has arrived about its runs."""

    live: Live

    def mails(self, run: str) -> list[EmailMessage]:
        return [mail for mail in self.live.mail.mails if run in text_of(mail)]

    def posts(self, run: str) -> list[dict[str, Any]]:
        return [r.json for r in self.live.web.requests if r.method == "POST" and r.json["run"] == run]

    def only_mail(self, dag: str, run: str) -> str:
        """The text of the one mail about a run."""
        self.live.ended(dag, run)
        until(lambda: bool(self.mails(run)), PATIENCE)
        [mail] = self.mails(run)
        return text_of(mail)


@pytest.fixture(scope="module")
def told(live: Live) -> Receivers:
    return Receivers(live)


@pytest.fixture(scope="module")
def runs(live: Live) -> dict[str, str]:
    """A run of every DAG, all but one begun at the same time: four tasks are run side by side."""
    begun = {"together": live.trigger("together")}
    live.ended("together", begun["together"])
    begun |= {dag: live.trigger(dag) for dag in ("timed_out", "killed_beside", "killed", "never_begun", "marked")}
    begun["sometimes"] = live.trigger("sometimes", fail=True)
    begun |= {dag: live.trigger(dag) for dag in ("degraded", "retried", "nobodys")}
    begun["waiting"] = live.trigger("waiting")
    return begun


def test_a_killed_process_is_told_while_its_run_goes_on(live: Live, told: Receivers, runs: dict[str, str]) -> None:
    place = f"/dags/killed_beside/dagRuns/{runs['killed_beside']}/taskInstances/kill"
    until(lambda: live.airflow.request("GET", place)["state"] == "failed", PATIENCE)
    until(lambda: bool(told.mails(runs["killed_beside"])), PATIENCE)

    assert live.state("killed_beside", runs["killed_beside"]) == "running"
    assert "killed_beside: kill" in told.only_mail("killed_beside", runs["killed_beside"])


def test_tasks_that_fail_together_make_one_message_with_all_that_is_known(
    live: Live, told: Receivers, runs: dict[str, str]
) -> None:
    text = told.only_mail("together", runs["together"])

    for source in ("orders", "invoices", "payments"):
        assert f"refuse of {source}" in text
        assert f"What went wrong: {source} refused the password ***." in text
    assert text.count("Hint: Correct the connection.") == 3
    assert text.count("If this fails: ask its owner.") == 3
    assert text.count(f"Log: {live.airflow.url}/dags/together/runs/") == 3
    assert SECRET not in text


def test_a_failed_task_is_in_the_mail_once(live: Live, told: Receivers, runs: dict[str, str]) -> None:
    live.ended("sometimes", runs["sometimes"])
    until(lambda: bool(told.mails(runs["sometimes"])), PATIENCE)

    place = f"/dags/sometimes/dagRuns/{runs['sometimes']}/taskInstances"
    [task] = live.airflow.request("GET", place)["task_instances"]
    [mail] = told.mails(runs["sometimes"])
    assert task["state"] == "failed"
    assert datetime.fromisoformat(mail["X-Received"]) > datetime.fromisoformat(task["start_date"])


def test_a_killed_process_is_told(live: Live, told: Receivers, runs: dict[str, str]) -> None:
    text = told.only_mail("killed", runs["killed"])

    assert "FAILED: killed: kill" in text
    assert "Its process ended without saying why" in text
    assert "If this fails: look at its host." in text
    assert f"Log: {live.airflow.url}/dags/killed/runs/" in text


def test_a_run_that_took_too_long_is_told(live: Live, told: Receivers, runs: dict[str, str]) -> None:
    text = told.only_mail("timed_out", runs["timed_out"])

    assert "FAILED: timed_out" in text
    assert "The run took longer than the 0:00:40 it may take." in text
    assert "It was at work when the run was ended." in text
    assert "If this fails: look at its host." in text


def test_a_task_that_could_not_begin_is_told(live: Live, told: Receivers, runs: dict[str, str]) -> None:
    text = told.only_mail("never_begun", runs["never_begun"])

    assert "FAILED: never_begun: ask" in text


def test_a_task_that_somebody_marked_as_failed_is_told(live: Live, told: Receivers, runs: dict[str, str]) -> None:
    place = f"/dags/marked/dagRuns/{runs['marked']}/taskInstances/sleep"
    until(lambda: live.airflow.request("GET", place)["state"] == "running", PATIENCE)

    live.airflow.request("PATCH", place, json={"new_state": "failed"})

    text = told.only_mail("marked", runs["marked"])
    assert "FAILED: marked: sleep" in text
    assert "admin has marked it as failed." in text


def test_a_degraded_success_is_told_without_what_was_healed(live: Live, told: Receivers, runs: dict[str, str]) -> None:
    text = told.only_mail("degraded", runs["degraded"])

    assert "Degraded: degraded succeeded" in text
    assert "orders/daily/1 is not in azure: it is full" in text
    assert "s3" not in text


def test_a_missed_deadline_is_told(live: Live, told: Receivers, runs: dict[str, str]) -> None:
    # The first is for a moment at which the DAG was not known yet.
    until(lambda: len(live.runs("late")) > 1, PATIENCE)
    runs["late"] = live.runs("late")[1]["dag_run_id"]
    until(lambda: bool(told.mails(runs["late"])), PATIENCE)

    [mail] = told.mails(runs["late"])
    assert mail["Subject"] == "LATE: late is not done by its deadline"
    assert re.search(r"It should have been done by \S+ \d\d:\d\d UTC, and is (queued|running)\.", text_of(mail))


def test_a_run_that_cannot_go_on_for_want_of_a_pool_is_told_and_ended(
    live: Live, told: Receivers, runs: dict[str, str]
) -> None:
    text = told.only_mail("waiting", runs["waiting"])

    assert "FAILED: waiting" in text
    assert "The pool 'of_nobody' does not exist, so wait could never begin." in text


def test_a_mistake_in_platform_yaml_is_told_by_its_last_good_text(live: Live, told: Receivers) -> None:
    file = live.platform.folder / "platform.yaml"
    right = file.read_text()
    before = len(subjects(live))
    file.write_text(right.replace("repositories:", "repositorys:"))

    until(lambda: subjects(live)[before:] != [], PATIENCE)
    file.write_text(right)
    until(lambda: len(subjects(live)[before:]) > 1, PATIENCE)

    [wrong, good] = [mail for mail in live.mail.mails if "platform.yaml" in str(mail["Subject"])][before:]
    assert str(wrong["Subject"]).startswith("WRONG: platform.yaml of")
    assert "platform.yaml:" in text_of(wrong)
    assert "repositorys: there is no such key." in text_of(wrong)
    assert "Did you mean 'repositories'?" in text_of(wrong)
    assert str(good["Subject"]).endswith("is right again")


def subjects(live: Live) -> list[str]:
    """Of what was told of platform.yaml."""
    return [str(mail["Subject"]) for mail in live.mail.mails if "platform.yaml" in str(mail["Subject"])]


def test_the_first_success_after_failures_is_told_and_the_next_is_not(
    live: Live, told: Receivers, runs: dict[str, str]
) -> None:
    assert "ValueError: as the form said" in told.only_mail("sometimes", runs["sometimes"])

    second = live.trigger("sometimes")
    text = told.only_mail("sometimes", second)
    third = live.trigger("sometimes")
    live.ended("sometimes", third)

    assert "Recovered: sometimes succeeds again" in text
    assert "1 run before it had failed" in text
    until(lambda: live.web.paths().count("/ping/uuid") == 2, PATIENCE)
    pings = [path for path in live.web.paths() if path.startswith("/ping")]
    assert pings.count("/ping/uuid/start") == 3
    assert pings.count("/ping/uuid/fail") == 1
    time.sleep(5)
    assert told.mails(third) == []


def test_a_task_that_is_cleared_and_fails_again_is_told_again(
    live: Live, told: Receivers, runs: dict[str, str]
) -> None:
    run = runs["sometimes"]
    before = len(told.mails(run))

    body = {"dry_run": False, "dag_run_id": run, "reset_dag_runs": True, "only_failed": True}
    live.airflow.request("POST", "/dags/sometimes/clearTaskInstances", json=body)

    until(lambda: len(told.mails(run)) == before + 1, PATIENCE)


def test_what_is_no_failure_and_what_is_not_ours_is_not_told(live: Live, told: Receivers, runs: dict[str, str]) -> None:
    for dag in ("retried", "nobodys"):
        live.ended(dag, runs[dag])

    assert live.state("retried", runs["retried"]) == "success"
    assert told.mails(runs["retried"]) + told.mails(runs["nobodys"]) == []


def test_a_channel_that_is_down_gets_it_later_and_the_others_say_so(live: Live, told: Receivers) -> None:
    live.web.status = 503
    run = live.trigger("together")
    until(lambda: len(told.mails(run)) == 2, PATIENCE)

    live.web.status, before = 200, len(told.posts(run))
    until(lambda: len(told.posts(run)) > before, PATIENCE)

    first, notice = told.mails(run)
    assert first["Subject"].startswith("FAILED: together")
    assert notice["Subject"] == "Alerts do not arrive everywhere: together"
    assert "lifeboat_webhook at 127.0.0.1" in text_of(notice)
    assert live.state("together", run) == "failed"
    assert told.posts(run)[-1]["event"] == "failed"
    assert {t["source"] for t in told.posts(run)[-1]["troubles"]} == {"orders", "invoices", "payments"}


def test_when_the_process_beside_the_scheduler_is_killed_another_takes_over(
    live: Live, told: Receivers, runs: dict[str, str]
) -> None:
    """It knows nothing but what is in Airflow, and `test_nothing_was_told_twice` sees that this is enough."""
    [beside] = tellers()
    os.kill(beside, signal.SIGKILL)
    until(lambda: tellers() not in ([], [beside]), PATIENCE)

    run = live.trigger("killed")

    assert "FAILED: killed: kill" in told.only_mail("killed", run)
    [another] = tellers()
    assert another != beside


def test_nothing_was_told_twice(live: Live, told: Receivers, runs: dict[str, str]) -> None:
    """Last of all, when whatever was to come has come."""
    time.sleep(20)

    keys = [mail["Message-ID"] for mail in live.mail.mails]
    assert len(keys) == len(set(keys)), [mail["Subject"] for mail in live.mail.mails]
    for dag in (
        "together",
        "killed",
        "killed_beside",
        "timed_out",
        "never_begun",
        "marked",
        "degraded",
        "late",
        "waiting",
    ):
        assert len(told.mails(runs[dag])) == 1, dag
        assert len(told.posts(runs[dag])) == 1, dag


def tellers() -> list[int]:
    """The processes that tell of runs, beside the schedulers this process has started."""
    # A zombie has no command any more.
    commands = {
        process: read_text(Path(f"/proc/{process}/cmdline")).split("\0") for process in descendants_of(os.getpid())
    }
    return [process for process, words in commands.items() if words[1:3] == ["-m", "lifeboat_airflow.run_events"]]


def text_of(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(mail["Subject"]) + "\n" + str(body.get_content())
