"""Triggering a DAG over Airflow's REST API, and following its run as a person does in the grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.markup import escape

from demo.stand import Airflow

FINISHED = {"success", "failed"}


def trigger(airflow: Airflow, dag_id: str) -> str:
    """Start a run, as the button in the UI does, and return its id."""
    return str(airflow.request("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None})["dag_run_id"])


def await_run(airflow: Airflow, dag_id: str, run_id: str, say: Callable[[str], None]) -> bool:
    """Wait for a run's end, saying a line whenever a task ends; True when the run succeeded."""
    told: set[tuple[str, int]] = set()
    while True:
        state = airflow.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"]
        for task in _tasks(airflow, dag_id, run_id):
            key = task["task_id"], task["map_index"]
            if task["state"] in FINISHED | {"skipped", "upstream_failed"} and key not in told:
                told.add(key)
                name = f"{task['task_id']} [{task['rendered_map_index']}]" if key[1] >= 0 else task["task_id"]
                say(f"  {task['state']:<8} {escape(name)} in {task['duration'] or 0:.1f} s")
        if state in FINISHED:
            return bool(state == "success")
        time.sleep(0.5)


def failures(airflow: Airflow, dag_id: str, run_id: str) -> str:
    """The ends of the logs of the tasks that failed."""
    texts = []
    for task in _tasks(airflow, dag_id, run_id):
        if task["state"] == "failed":
            path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
            log = airflow.request("GET", path, params={"map_index": task["map_index"]})
            lines = [str(line.get("event", line)) for line in log["content"]]
            texts.append("\n".join([f"{task['task_id']}:", *lines[-30:]]))
    return "\n".join(texts)


def _tasks(airflow: Airflow, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = airflow.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")[
        "task_instances"
    ]
    return sorted(found, key=lambda task: task["end_date"] or "")
