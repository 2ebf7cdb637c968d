"""Every night: the RDB of each Redis taken once into every repository, copied where it lacks, and read back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, task, task_group

from lifeboat.snapshot import Kind
from lifeboat_airflow.defaults import BACKFILL, DAG_ARGS, done_within, platform, sources_field
from lifeboat_airflow.operators.keeping import JudgeSnapshotOperator, PruneOperator
from lifeboat_airflow.operators.redis import RedisBackupOperator, RedisPreflightOperator
from lifeboat_airflow.operators.snapshots import ReplicateSnapshotOperator, VerifySnapshotOperator


@dag(
    schedule="30 2 * * *" if platform().names(Kind.REDIS) else None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    dagrun_timeout=timedelta(hours=12),
    deadline=done_within(timedelta(hours=6)),
    params={"sources": sources_field(platform(), Kind.REDIS, "Which Redis instances of platform.yaml to back up.")},
    tags=["lifeboat", "backup", "redis"],
    doc_md=f"""
### Redis backup

Every Redis of `platform.yaml`: **preflight** → **back up** (its RDB, as a replica is sent it, sealed, into every
repository at once) → **replicate** (what a repository missed) → **verify** (every byte read back, every key counted) →
**judge** (is it like those before it?) → **prune** (what is promised no longer).

Redis is optional: protect it when it holds more than a cache, such as sessions. Where `platform.yaml` names none, this
has no schedule, and a run by hand ends at once.

{BACKFILL}
A night that has its snapshot finds it again; any other gets one of now, dated today.

**If this fails**

* `preflight`: something would have stopped the backup, and nothing was begun. Remove the obstacles its log lists, then
  clear the task.
* `back_up`: there is no new snapshot, and the last error of the log says why; the server's own log says more when it
  could not fork. Passing faults were retried; follow the hint, then clear the task.
* `replicate`: the snapshot exists, but a required repository lacks it. When that repository answers again, clear the
  task: nothing is sent again.
* `verify`: what was read back is not what was stored. Delete **nothing**. `python -m lifeboat verify <source>` shows
  where it is whole; trigger a new run, and look at that repository.
* `judge`: the snapshot is whole, but **has lost its keys, or is much smaller or slower**. It is marked suspect, and
  counts for nothing until a person has looked: `python -m lifeboat accept <snapshot>`, then clear the task.
* `prune`: more would have gone at once than is believable, and nothing went; or a repository refused to delete. Look at
  `python -m lifeboat prune <source> --dry-run`.
""",
    **DAG_ARGS,
)
def redis_backup():
    @task
    def choose(params: dict) -> list[str]:
        return params["sources"]

    @task_group
    def redis(source: str):
        preflight = RedisPreflightOperator(task_id="preflight", source=source)
        back_up = RedisBackupOperator(task_id="back_up", source=source, max_active_tis_per_dag=2)
        replicate = ReplicateSnapshotOperator(task_id="replicate", source=source, snapshot=back_up.output)
        verify = VerifySnapshotOperator(task_id="verify", source=source, snapshot=replicate.output)
        judge = JudgeSnapshotOperator(task_id="judge", source=source, snapshot=replicate.output)
        prune = PruneOperator(task_id="prune", source=source)
        preflight >> back_up >> replicate >> verify >> judge >> prune

    redis.expand(source=choose())


redis_backup()
