"""Of two runs of a DAG that restore to the same place, the second is refused while the first goes on."""

from __future__ import annotations

from typing import Any

from lifeboat.errors import SettingsError

PLACE = "lifeboat_place"
"""The XCom in which the first task of a run says what it restores to."""

ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States of a task in which nothing is to be done for it any more."""


def take_place(ti: Any, place: str) -> None:
    """Say that this run restores to `place`. Raises `SettingsError` when another that goes on has said the same.

    Whoever says so looks at others only afterwards: of two that begin at the same moment both may be refused, and never
    do both go on.
    """
    ti.xcom_push(PLACE, place)
    if ti.get_dr_count(dag_id=ti.dag_id, states=["running"]) < 2:
        return
    for run_id, states in ti.get_task_states(dag_id=ti.dag_id).items():
        if run_id == ti.run_id or ENDED.issuperset(states.values()):
            continue
        other = ti.xcom_pull(task_ids=ti.task_id, key=PLACE, run_id=run_id)
        if other == place and ti.get_dagrun_state(dag_id=ti.dag_id, run_id=run_id) == "running":
            raise SettingsError(
                f"The run {run_id} restores to {place}, and has not ended.",
                hint="Let it end, answer its question or mark it as failed; or trigger again with another target.",
            )
