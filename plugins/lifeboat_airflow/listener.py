"""Hears from Airflow that a run began or ended, in the scheduler or, when a person did it, in the web server.

Airflow waits for whoever listens. So nothing is done here but passing it on to `run_events`, a process beside the
scheduler that is started and ends with it.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

from lifeboat_airflow.last_good import load

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

log = logging.getLogger(__name__)

TAG = "lifeboat"
"""What marks a DAG as one of ours."""

_beside: subprocess.Popen[bytes] | None = None


@hookimpl
def on_starting(component: object) -> None:
    """A process of Airflow began: beside the scheduler, the one that tells people begins too."""
    # Tasks that a scheduler runs by itself begin in forks of it, and are no jobs.
    if _in_scheduler() and hasattr(component, "latest_heartbeat"):
        try:
            _keep_beside()
        except Exception:
            # Whatever it is: the scheduler must begin all the same.
            log.exception("The process that tells people could not be started; it is tried again with the next run.")


@hookimpl
def on_dag_run_running(dag_run: DagRun, msg: str) -> None:
    """A run began."""
    _pass_on("running", dag_run, msg)


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """A run succeeded."""
    _pass_on("success", dag_run, msg)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """A run failed, for whatever reason."""
    _pass_on("failed", dag_run, msg)


def _pass_on(state: str, dag_run: DagRun, reason: str) -> None:
    dag = getattr(dag_run, "dag", None)
    if dag is None or TAG not in dag.tags:
        return
    try:
        _write({"state": state, "dag": dag_run.dag_id, "run": dag_run.run_id, "reason": reason})
    except Exception:
        log.exception("Nobody can be told that the run %s of %s is %s.", dag_run.run_id, dag_run.dag_id, state)


def _write(event: dict[str, str]) -> None:
    line = json.dumps(event).encode() + b"\n"
    if not _in_scheduler():
        if load().platform.notify is None:
            return
        process = _start("run_events")
        assert process.stdin is not None
        process.stdin.write(line)
        process.stdin.close()  # it ends when that is told
        return
    beside = _keep_beside()
    assert beside.stdin is not None
    # Never waits: a full pipe, which nobody reads, is an error.
    os.write(beside.stdin.fileno(), line)


def _in_scheduler() -> bool:
    return "scheduler" in sys.argv


def _keep_beside() -> subprocess.Popen[bytes]:
    global _beside
    if _beside is None or _beside.poll() is not None:
        _beside = _start("beside")
    return _beside


def _start(module: str) -> subprocess.Popen[bytes]:
    # What Airflow has added to the path, the plugins' folder among it, a new process must be told.
    path = os.pathsep.join(filter(None, sys.path))
    environ = os.environ | {"PYTHONPATH": path, "_AIRFLOW_PROCESS_CONTEXT": "server"}
    command = [sys.executable, "-m", f"lifeboat_airflow.{module}"]
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    return process
