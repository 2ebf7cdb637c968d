"""Every night: each database dumped once into every repository, copied where it lacks, read back; then pruned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import Param, dag, task, task_group

from lifeboat_airflow.defaults import BACKFILL, DAG_ARGS, databases_field, done_within, platform, tables_field
from lifeboat_airflow.operators.database import DatabasePreflightOperator, PostgresBackupOperator
from lifeboat_airflow.operators.keeping import JudgeSnapshotOperator, PruneOperator
from lifeboat_airflow.operators.proof import ProveSnapshotOperator
from lifeboat_airflow.operators.snapshots import ReplicateSnapshotOperator, VerifySnapshotOperator


@dag(
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    dagrun_timeout=timedelta(hours=12),
    deadline=done_within(timedelta(hours=6)),
    params={
        "databases": databases_field(platform(), "Which databases of platform.yaml to back up."),
        "tables": tables_field(
            "One a line, as `name` or `schema.name`. None means all. A partial snapshot is marked as such."
        ),
        "schema_only": Param(
            False,
            type="boolean",
            title="Schema only",
            description="Definitions without rows. Such a snapshot is marked, and is no backup of the data.",
        ),
    },
    tags=["lifeboat", "backup", "postgres"],
    doc_md=f"""
### Nightly database backup

Every database of `platform.yaml`, two at a time: **preflight** → **back up** (one dump, sealed, into every repository
at once) → **replicate** (what a repository missed) → **verify** (every byte read back from every repository) →
**judge** (is it like those before it?) → **prove** (where `platform.yaml` says `prove: nightly`) → **prune** (what is
due).

Trigger it with a form to back up chosen databases or tables now, or definitions alone.

{BACKFILL}
A night that has its snapshot finds it again; any other gets one of now, dated today.

**If this fails**

* `preflight`: something would have stopped the backup, and nothing was begun. Remove the obstacles its log lists, then
  clear the task.
* `back_up`: there is no new snapshot, and the last error of the log says why. Passing faults were retried; follow the
  hint, then clear the task.
* `replicate`: the snapshot exists, but a required repository lacks it. When that repository answers again, clear the
  task: nothing is dumped again.
* `verify`: what was read back is not what was stored. Delete **nothing**. `python -m lifeboat verify <source>` shows
  where it is whole; trigger a new run, and look at that repository.
* `judge`: the snapshot is whole, but **much smaller, slower, or without tables that were there**. It is marked suspect,
  is not promoted, and lets no older one go. Look at the source. If all is well, `python -m lifeboat accept` it and
  clear the task.
* `prove`: the snapshot could not be restored as it was; see `monthly_restore_test`. Nothing was pruned.
* `prune`: more would have gone at once than is believable, and nothing went; or a repository refused to delete. Look at
  `python -m lifeboat prune <source> --dry-run`. The backup itself is as good as if this had passed.

As long as last night's snapshot is less than 24 hours old, the recovery point objective still holds.
""",
    **DAG_ARGS,
)
def nightly_database_backup():
    @task
    def choose(params: dict) -> list[str]:
        return params["databases"]

    @task_group
    def database(source: str):
        what = {"tables": "{{ params.tables }}", "schema_only": "{{ params.schema_only }}"}
        preflight = DatabasePreflightOperator(task_id="preflight", source=source, **what)
        back_up = PostgresBackupOperator(task_id="back_up", source=source, max_active_tis_per_dag=2, **what)
        replicate = ReplicateSnapshotOperator(task_id="replicate", source=source, snapshot=back_up.output)
        verify = VerifySnapshotOperator(task_id="verify", source=source, snapshot=replicate.output)
        prove = ProveSnapshotOperator(
            task_id="prove",
            source=source,
            snapshot=back_up.output,
            if_proven_for="daily",
            map_index_template="{{ task.source }}",
        )
        prune = PruneOperator(task_id="prune", source=source, trigger_rule="none_failed")
        judge = JudgeSnapshotOperator(task_id="judge", source=source, snapshot=replicate.output)
        preflight >> back_up >> replicate >> verify >> judge >> prove >> prune

    database.expand(source=choose())


nightly_database_backup()
