"""A whole platform, destroyed with Airflow's own database, and brought back by a new Airflow and a person."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.stand import airflow
from lifeboat.choosing import choose_snapshot
from lifeboat.recovery.case import RESTORE
from lifeboat.recovery.journal import Journal, incidents
from lifeboat.recovery.model import Outcome
from tests.live.stand import BUSY, LIVE, PATIENCE, Live, airflows_environment, until
from tests.processes import descendants_of, read_text
from tests.recovery.disaster import SOURCES, Doomed, differences, doomed, receivers

pytestmark = LIVE

DAG = "disaster_recovery"
INVOICES = 10_000
"""So many that Airflow can be killed while their restore is at work."""

FORM = {
    "mode": "recover",
    "title": "The data centre has burnt down",
    "reason": "Lightning",
    "tell": ["cy@sme.example"],
}


@dataclass(frozen=True)
class Ashes:
    """A platform that was destroyed, what it held before, and a new Airflow that knows nothing of it."""

    platform: Doomed
    before: Any
    live: Live

    def tasks(self, run: str) -> dict[str, str]:
        found = self.live.airflow.request("GET", f"/dags/{DAG}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in found}

    def tries(self, run: str, task: str) -> int:
        found = self.live.airflow.request("GET", f"/dags/{DAG}/dagRuns/{run}/taskInstances")["task_instances"]
        return max(one["try_number"] for one in found if one["task_id"] == task)

    def restores(self, outcome: Outcome) -> Counter[str]:
        """How often the restore of each source has begun or ended so in the one incident."""
        [incident] = incidents(self.live.vault())
        entries = Journal(self.live.vault(), incident.id).entries()
        return Counter(entry.source for entry in entries if (entry.step, entry.outcome) == (RESTORE, outcome))

    def answer(self, run: str, task: str, option: str) -> None:
        """What a person does under Required Actions, once it is asked, and again should it be asked again."""
        path = f"/dags/{DAG}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails"
        ended = ("success", "failed", "upstream_failed")
        while True:
            until(lambda: self.tasks(run).get(task) in ("awaiting_input", *ended), PATIENCE)
            if self.tasks(run)[task] in ended:
                break
            # Airflow cuts the task short when the answer comes before it has seen the end of the process that asks:
            # then it is tried again, and asks again where the answer was lost. That takes it some seconds.
            time.sleep(5)
            self.live.airflow.request("PATCH", path, json={"chosen_options": [option], "params_input": {}})
            until(lambda: self.tasks(run)[task] in ("up_for_retry", *ended), PATIENCE)
        assert self.tasks(run)[task] == "success", self.tasks(run)


@pytest.fixture(scope="module")
def ashes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ashes]:
    tmp_path = tmp_path_factory.mktemp("ashes")
    with contextlib.ExitStack() as stack:
        stack.enter_context(airflows_environment())
        told = stack.enter_context(receivers())
        platform = stack.enter_context(doomed(tmp_path, told, invoices=INVOICES))
        with platform.platform.postgres.visit("postgres") as admin:
            admin.execute("CREATE DATABASE airflow")
        platform.back_up()
        before = platform.whole()
        platform.destroy()
        platform.start_empty()
        # A schedule goes on: the night's backup of a Redis that was started anew and has nothing.
        subprocess.run(platform.platform.command("backup", "sessions"), capture_output=True, check=False)
        migrated = tmp_path / "migrated"
        file = tmp_path / "platform.yaml"
        text = file.read_text("utf-8")
        file.write_text(text.replace("application:\n", f"application:\n  migrate: [[test, -e, {migrated}]]\n"), "utf-8")
        settings = {**told.connections, **BUSY}
        web = stack.enter_context(airflow(platform.platform, scheduled_runs=False, triggerer=False, settings=settings))
        yield Ashes(platform, before, Live(platform.platform, web, told.mail, told.web, stack))


def test_a_platform_that_burnt_down_is_brought_back_by_a_new_airflow_that_dies_midway_and_has_a_step_that_fails(
    ashes: Ashes,
) -> None:
    platform, live, told = ashes.platform, ashes.live, ashes.platform.receivers
    # Airflow's own database went with the server, and everything else that was on its disks.
    assert live.runs(DAG) == []
    assert not (platform.folder / "uploads").exists()
    assert platform.keys() == {}

    run = live.trigger(DAG, **FORM)
    ashes.answer(run, "assess_damage.ask", "Proceed")

    hold_in_the_middle_of_its_rows(live.airflow.processes["scheduler"].pid)
    until(lambda: set(ashes.restores(Outcome.DONE)) == set(SOURCES) - {"receivables"}, PATIENCE)
    live.kill_scheduler()
    live.begin_scheduler()
    # With Airflow's own defaults, five minutes pass.
    taken_up = until(lambda: ashes.tries(run, "restore.database") == 2, PATIENCE)
    print(f"taken up {taken_up:.0f} s after the new scheduler's start")
    until(lambda: ashes.tasks(run)["restore.database"] == "success", PATIENCE)
    assert ashes.restores(Outcome.DONE) == Counter(SOURCES)
    assert ashes.restores(Outcome.BEGUN) == Counter([*SOURCES, "receivables"])
    assert [name for name in platform.databases() if "beside" in name] == []

    # Nothing is alive, so nobody is asked a second time. The migration fails, as nobody has provided for it yet.
    ashes.answer(run, "verify_and_start.ask_to_undo", "Keep it as it is")
    live.ended(DAG, run)
    assert live.state(DAG, run) == "failed"
    assert ashes.tasks(run)["verify_and_start.migrate"] == "failed"
    (platform.folder / "migrated").touch()
    cleared = {"dry_run": False, "dag_run_id": run, "task_ids": ["verify_and_start.migrate"], "only_failed": False}
    live.airflow.request("POST", f"/dags/{DAG}/clearTaskInstances", json=cleared | {"include_downstream": True})
    until(lambda: live.state(DAG, run) != "failed", PATIENCE)
    live.ended(DAG, run)

    states = ashes.tasks(run)
    assert live.state(DAG, run) == "success", states
    assert states["verify_and_start.ask_to_undo"] == "skipped"
    assert differences(ashes.before, platform.whole()) == []
    assert platform.web("smoke").returncode == 0
    assert "Invoices for" in platform.ask("/", cookie=platform.cookie)[1]
    [incident] = incidents(live.vault())
    assert incident.ended is not None

    [shown] = told.status.incidents
    phases = [update["status"] for update in reversed(shown["incident_updates"])]
    assert phases == ["investigating", "identified", "monitoring", "resolved"]
    mails = told.mail.mails
    users = [mail for mail in mails if "ada@sme.example" in mail["X-To"]]
    assert [mail["X-To"] for mail in users] == ["ada@sme.example, bo@sme.example, cy@sme.example"] * 2
    [alert] = [mail for mail in mails if "migrate" in mail["Subject"]]
    assert "FAILED: disaster_recovery" in alert["Subject"]
    # The failed run left a report, and so did the one that succeeded.
    reports = sorted((platform.folder / "backups" / "reports").glob("*-incident-*.md"))
    report = reports[-1].read_text("utf-8").replace("\\", "")
    assert "The platform is back" in report
    assert "Proceed" in report
    assert "admin" in report
    page = live.airflow.request("GET", f"/dags/{DAG}/dagRuns/{run}/taskInstances/notify_stakeholders.close/links")
    assert incident.id in page["extra_links"]["Incident"]


def test_a_snapshot_is_proven_and_restored_into_a_new_database_by_dag(ashes: Ashes) -> None:
    live = ashes.live
    proof = live.trigger("monthly_restore_test", sources=["receivables"], older_too=False)
    restore = live.trigger("restore", database="receivables", new_database="looked_at")

    live.ended("monthly_restore_test", proof)
    live.ended("restore", restore)

    assert live.state("monthly_restore_test", proof) == "success", live.log("monthly_restore_test", proof, "prove", 0)
    assert live.state("restore", restore) == "success", live.log("restore", restore, "restore_new")
    assert "looked_at" in ashes.platform.databases()
    assert choose_snapshot(live.vault(), "receivables", proven=True)


def hold_in_the_middle_of_its_rows(process: int) -> None:
    """Stop the program that brings back a database, below a process, once it is at work."""

    def restoring() -> list[int]:
        found = descendants_of(process, "pg_restore")
        return [one for one in found if "--dbname" in read_text(Path(f"/proc/{one}/cmdline"))]

    until(lambda: bool(restoring()), PATIENCE, every=0.02)
    for one in restoring():
        os.kill(one, signal.SIGSTOP)


def test_people_are_told_at_once_of_the_time_that_is_gone_already(ashes: Ashes) -> None:
    live, began = ashes.live, datetime.now(UTC) - timedelta(hours=3, minutes=30)
    live.begin_triggerer()

    live.trigger(DAG, **FORM, began=began.isoformat())

    def told() -> list[str]:
        return [m.get_body(("plain",)).get_content() for m in live.mail.mails if "LATE" in m["Subject"]]

    until(lambda: len(told()) >= 2, PATIENCE)
    assert {text for text in ("50 %", "80 %", "100 %") if any(text in mail for mail in told())} == {"50 %", "80 %"}
