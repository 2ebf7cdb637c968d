"""Whenever configuration files change, and once a day: archived, sealed, copied where they lack, and read back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import AssetAny, AssetOrTimeSchedule, CronTriggerTimetable, Param, dag, task, task_group

from lifeboat.snapshot import Kind
from lifeboat_airflow.defaults import BACKFILL, DAG_ARGS, done_within, platform, sources_field
from lifeboat_airflow.operators.configuration import (
    ConfigArchiveOperator,
    ConfigPreflightOperator,
    watched_configuration,
)
from lifeboat_airflow.operators.keeping import PruneOperator
from lifeboat_airflow.operators.snapshots import ReplicateSnapshotOperator, VerifySnapshotOperator

SETS = platform().names(Kind.CONFIG)
LIMIT = {"execution_timeout": timedelta(minutes=30)}


@dag(
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("30 3 * * *", timezone="UTC"),
        assets=AssetAny(*map(watched_configuration, SETS)),
    ),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    dagrun_timeout=timedelta(hours=3),
    deadline=done_within(timedelta(hours=2)),
    params={
        "sets": sources_field(platform(), Kind.CONFIG, "Which sets of configuration files to archive."),
        "again": Param(
            False, type="boolean", title="Again", description="A new archive even when nothing has changed."
        ),
    },
    tags=["lifeboat", "backup", "configuration"],
    doc_md=f"""
### Configuration archive

Starts by itself within a minute of any change of the files that `platform.yaml` names under `configuration`, and once a
day in any case. Every set: **preflight** → **archive** (sealed, into every repository at once; the log tells what has
changed, without secrets) → **replicate** (what a repository missed) → **verify** (every byte read back) →
**prune** (what is promised no longer).

When nothing has changed there is no new snapshot, and the newest one is replicated and verified once more.

{BACKFILL}

**If this fails**

* `preflight`: something would have stopped it, such as a file that cannot be read. An archive that lacks a file in
  silence is never made: remove the obstacles its log lists, then clear the task.
* `archive`: there is no new snapshot, and the last error of the log says why. Follow its hint, then clear the task.
* `replicate`: the snapshot exists, but a required repository lacks it. When that answers again, clear the task.
* `verify`: what was read back is not what was stored. Delete **nothing**. `python -m lifeboat verify <set>` shows where
  it is whole; trigger a run with *again*, and look at that repository.
* `prune`: more would have gone at once than is believable, and nothing went; or a repository refused to delete. Look at
  `python -m lifeboat prune <set> --dry-run`.

No run after a change: the triggerer must run, and see the files; its log says what keeps it from watching them.
""",
    **DAG_ARGS | {"default_args": DAG_ARGS["default_args"] | LIMIT},
)
def config_archive():
    @task
    def choose(params: dict) -> list[str]:
        return params["sets"]

    @task_group
    def configuration(source: str):
        preflight = ConfigPreflightOperator(task_id="preflight", source=source)
        archive = ConfigArchiveOperator(task_id="archive", source=source, again="{{ params.again }}")
        replicate = ReplicateSnapshotOperator(task_id="replicate", source=source, snapshot=archive.output)
        verify = VerifySnapshotOperator(task_id="verify", source=source, snapshot=replicate.output)
        prune = PruneOperator(task_id="prune", source=source)
        preflight >> archive >> replicate >> verify >> prune

    configuration.expand(source=choose())


if SETS:  # without any there is nothing to watch, and no DAG
    config_archive()
