"""Every morning: what a repository lacks is copied there, leftovers are removed, and the runbook is made anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from lifeboat_airflow.defaults import BACKFILL, DAG_ARGS, done_within
from lifeboat_airflow.operators.keeping import HealVaultOperator, StoreRunbookOperator, SweepVaultOperator


@dag(
    schedule="30 6 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    dagrun_timeout=timedelta(hours=12),
    deadline=done_within(timedelta(hours=6)),
    tags=["lifeboat", "retention"],
    doc_md=f"""
### Prune the vault

**heal**: copy to every repository the snapshots it ought to have and has not, from whichever has them; a copy that was
found damaged is read, and what is wrong of it replaced by what another repository has right → **sweep** what belongs to
no snapshot any more and is older than `grace_days` of `platform.yaml`: unfinished attempts, uploads cut short, what a
prune that was killed has left, packs of files that no snapshot refers to. Snapshots are pruned after
each backup and promotion. The result has the bytes freed by repository and tier. Beside that, **runbook** stores what
to do in a disaster, with today's snapshots, in `break-glass/` of every repository; `lifeboat runbook` prints the same.

{BACKFILL}

**If this fails**

* `heal`: a required repository still lacks a snapshot, or has a damaged copy that cannot be mended, and the log says
  which and why. When it answers again, clear the task. Until then another repository keeps that snapshot, whatever its
  own retention.
* `sweep`: a repository did not list or refused to delete, and the log says which and why. Nothing is lost but room;
  the next run goes on. Correct what it names, then clear the task.
* `runbook`: no repository took it, and the log says why. Yesterday's is still there. Correct what it names, then clear
  the task.
""",
    **DAG_ARGS,
)
def prune_vault():
    heal = HealVaultOperator(task_id="heal")
    sweep = SweepVaultOperator(task_id="sweep")
    StoreRunbookOperator(task_id="runbook")
    heal >> sweep


prune_vault()
