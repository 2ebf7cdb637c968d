"""Every night: what has changed in each tree, stored in every repository, copied where it lacks, and read back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import Param, dag, task, task_group

from lifeboat_airflow.defaults import BACKFILL, DAG_ARGS, done_within, platform, trees_field
from lifeboat_airflow.operators.files import FilesPreflightOperator, FileSyncOperator, MirrorTreeOperator
from lifeboat_airflow.operators.keeping import PruneOperator
from lifeboat_airflow.operators.snapshots import ReplicateSnapshotOperator, VerifySnapshotOperator


@dag(
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    dagrun_timeout=timedelta(hours=12),
    deadline=done_within(timedelta(hours=8)),
    params={
        "trees": trees_field(platform()),
        "i_know_these_files_are_gone": Param(
            False,
            type="boolean",
            title="I know these files are gone",
            description="Back up although most of a tree has vanished since its last snapshot.",
        ),
    },
    tags=["lifeboat", "backup", "files"],
    doc_md=f"""
### Daily file sync

Every tree of files of `platform.yaml`: **preflight** → **sync** (what is new or changed, sealed, into every repository
at once; a full view of the tree as its snapshot) → **mirror**, where the tree has one, and **replicate** (what a
repository missed) → **verify** (every byte read back from every repository) → **prune** (what is promised no longer).

{BACKFILL}
A night that has its snapshot finds it again; any other gets one of now, dated today.

**If this fails**

* `preflight`: something would have stopped the backup, and nothing was begun. Remove the obstacles its log lists, then
  clear the task. **A tree that is suddenly empty is refused: look at its mount first.** If its files are really gone,
  trigger the DAG with the form's field for that.
* `sync`: there is no new snapshot, and the last error of the log says why. What was stored already is not stored again:
  follow the hint, then clear the task. That most files have vanished is refused like an empty tree.
* `replicate`: the snapshot exists, but a required repository lacks it. When that repository answers again, clear the
  task.
* `verify`: what was read back is not what was stored; the log names the files it costs. Delete **nothing**.
  `python -m lifeboat verify <source>` shows where it is whole.
* `prune`: more would have gone at once than is believable, and nothing went; or a repository refused to delete. Look at
  `python -m lifeboat prune <source> --dry-run`.
* `mirror`: the plain copy, which is not encrypted and no backup, is not up to date. The snapshot is not concerned.

A snapshot that is *partial* is a warning in the log of `sync`: it names files that could not be read.
""",
    **DAG_ARGS,
)
def daily_file_sync():
    @task
    def choose(params: dict) -> list[str]:
        return params["trees"]

    @task_group
    def tree(source: str):
        gone = "{{ params.i_know_these_files_are_gone }}"
        preflight = FilesPreflightOperator(task_id="preflight", source=source, files_are_gone=gone)
        sync = FileSyncOperator(task_id="sync", source=source, max_active_tis_per_dag=2, files_are_gone=gone)
        replicate = ReplicateSnapshotOperator(task_id="replicate", source=source, snapshot=sync.output)
        verify = VerifySnapshotOperator(task_id="verify", source=source, snapshot=replicate.output)
        mirror = MirrorTreeOperator(task_id="mirror", source=source)
        prune = PruneOperator(task_id="prune", source=source)
        preflight >> sync >> replicate >> verify >> prune
        sync >> mirror

    tree.expand(source=choose())


daily_file_sync()
