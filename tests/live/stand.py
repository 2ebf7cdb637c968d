"""A platform of the demo's kind with every process of an Airflow beside it, and receivers for what people are told."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from demo.receivables import load_receivables
from demo.stand import DATABASE, NOTIFY, ROOT, Airflow, Platform, airflow, component, platform
from lifeboat.assembly import open_vault
from lifeboat.connections import connections_in
from lifeboat.env_file import read_env_file
from lifeboat.settings import load_platform
from lifeboat.vault import Vault
from tests.processes import kill_with_descendants
from tests.receivers import MailServer, WebServer, mail_server, web_server

PROJECT_DAGS = ("config_archive", "nightly_database_backup")
"""Those of the project that run here, as they are. A DAG with a schedule begins with its last missed run by itself."""

TEST_DAGS = Path(__file__).parent / "dags"
"""Every file in it is one of the DAGs' too."""

DAGS = 14
"""How many there are in all of them."""

SECRET = "db-password-of-the-test"
"""The password of the connection `platform_db`, which leads nowhere."""

TOLD = """\
notify:
  email: {connection: lifeboat_smtp, to: [ops@sme.example]}
  webhooks: [lifeboat_webhook]
  dead_man: {sometimes: ping_sometimes}
"""

BUSY = {
    "AIRFLOW__CORE__PARALLELISM": "8",
    # A DAG is read once: to read all of them every half minute takes a third of a processor, which other tests need.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
    # Another triggerer takes over from one that was killed so soon.
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
}
"""Settings of an Airflow that runs beside other tests."""

LIVE = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(1800)]
"""The marks of every live test: the first of them has to start everything."""

PATIENCE = 600.0
"""Seconds for whatever includes a process of Airflow, also where the machine is slow or busy."""


@dataclass
class Live:
    """What runs, and what a person or a test does with it. Everything that waits raises `AssertionError` in the end."""

    platform: Platform
    airflow: Airflow
    mail: MailServer
    web: WebServer
    _begun: contextlib.ExitStack

    # ---- runs -------------------------------------------------------------------------------------------------------

    def trigger(self, dag: str, **conf: Any) -> str:
        """Start a run, as a person does with the form; returns its id. `logical_date` is what it says."""
        body = {"logical_date": conf.pop("logical_date", None), "conf": conf}
        return str(self.airflow.request("POST", f"/dags/{dag}/dagRuns", json=body)["dag_run_id"])

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """Every run of a DAG, oldest first."""
        runs = self.airflow.request("GET", f"/dags/{dag}/dagRuns", params={"limit": 100})["dag_runs"]
        return sorted(runs, key=lambda run: str(run["run_after"]))

    def state(self, dag: str, run: str) -> str:
        """How far a run is."""
        return str(self.airflow.request("GET", f"/dags/{dag}/dagRuns/{run}")["state"])

    def ended(self, dag: str, run: str, *, seconds: float = PATIENCE) -> datetime:
        """When a run has ended, well or badly; waits for it."""
        until(lambda: self.state(dag, run) in {"success", "failed"}, seconds)
        return datetime.fromisoformat(self.airflow.request("GET", f"/dags/{dag}/dagRuns/{run}")["end_date"])

    def log(self, dag: str, run: str, task: str, index: int = -1) -> str:
        """What a task wrote in its first try."""
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/1"
        log = self.airflow.request("GET", path, params={"map_index": index})
        return "\n".join(str(line.get("event", line)) for line in log["content"])

    def vault(self) -> Vault:
        """The vault as the command line opens it."""
        lookup = connections_in(read_env_file(self.platform.folder / ".env"))
        return open_vault(load_platform(self.platform.folder / "platform.yaml"), lookup)

    # ---- processes --------------------------------------------------------------------------------------------------

    def begin_triggerer(self) -> None:
        """Start the triggerer, and wait until it is at work. One runs unless a test has ended it: let it begin one."""
        self._begin("triggerer")

    def end_triggerer(self, number: int = signal.SIGTERM) -> None:
        """End the triggerer by a signal."""
        process = self.airflow.processes["triggerer"]
        os.killpg(process.pid, number)
        process.wait(60)

    def kill_scheduler(self) -> None:
        """Kill the scheduler, every task that runs, and whatever those have started: nothing of them is left."""
        process = self.airflow.processes["scheduler"]
        kill_with_descendants(process.pid)
        process.wait(60)

    def begin_scheduler(self) -> None:
        """Start another scheduler in place of one that was killed, and wait until it is at work."""
        self._begin("scheduler")

    def _begin(self, name: str) -> None:
        began = datetime.now(UTC)
        with airflows_environment():
            self._begun.enter_context(component(self.airflow, name))

        def is_at_work() -> bool:
            seen = self.airflow.request("GET", "/monitor/health")[name][f"latest_{name}_heartbeat"]
            return bool(seen) and datetime.fromisoformat(seen) > began

        until(is_at_work, PATIENCE)


@contextlib.contextmanager
def live_airflow(folder: Path) -> Iterator[Live]:
    """All of it in a new folder, for as long as a `with` block lasts; it takes a minute to start."""
    dags = folder / "dags"
    shutil.copytree(TEST_DAGS, dags, ignore=shutil.ignore_patterns("__pycache__"))
    for name in PROJECT_DAGS:
        shutil.copy(ROOT / "dags" / f"{name}.py", dags)
    with contextlib.ExitStack() as stack:
        mail, web = stack.enter_context(mail_server()), stack.enter_context(web_server())
        with airflows_environment():
            stand = stack.enter_context(platform(folder, smtp=mail.uri))
            settings = folder / "platform.yaml"
            settings.write_text(settings.read_text().replace(NOTIFY, TOLD))
            load_receivables(stand.postgres, DATABASE, invoices=2_000)
            more = {**BUSY, **_connections(web)}
            running = airflow(stand, scheduled_runs=True, dags=dags, triggerer=False, settings=more)
            made = Live(stand, stack.enter_context(running), mail, web, stack.enter_context(contextlib.ExitStack()))
            made.begin_triggerer()
        until(lambda: len(made.airflow.request("GET", "/dags")["dags"]) == DAGS, PATIENCE)
        yield made


@contextlib.contextmanager
def airflows_environment() -> Iterator[None]:
    """The variables of this process as an Airflow of its own needs them: without those of other suites."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AIRFLOW", "LIFEBOAT_PLATFORM"))]:
            patch.delenv(name)
        patch.setenv("PYTHONPATH", str(ROOT / "include"))
        yield


def until(condition: Callable[[], bool], seconds: float, *, every: float = 0.5) -> float:
    """Wait for something, looking `every` so many seconds, and return how many it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"it did not happen within {seconds:g} s"
        time.sleep(every)
    return time.monotonic() - began


def _connections(web: WebServer) -> dict[str, str]:
    database = {"conn_type": "postgres", "host": "127.0.0.1", "login": "sme", "password": SECRET}
    ping = {"conn_type": "http", "host": f"{web.url}/ping", "password": "uuid"}
    return {
        "AIRFLOW_CONN_LIFEBOAT_WEBHOOK": json.dumps({"conn_type": "http", "host": f"{web.url}/hook"}),
        "AIRFLOW_CONN_PING_SOMETIMES": json.dumps(ping),
        "AIRFLOW_CONN_PLATFORM_DB": json.dumps(database),
    }
