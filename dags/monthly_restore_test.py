"""Every month: the newest snapshot of every source and an older one, restored, compared, checked and attested."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import Param, dag

from lifeboat.proof import KEEP_HOURS
from lifeboat_airflow.defaults import (
    BACKFILL,
    DAG_ARGS,
    done_within,
    platform,
    provable_field,
    repository_field,
    snapshot_field,
)
from lifeboat_airflow.operators.proof import ChooseForProofOperator, ProveSnapshotOperator, RemoveScratchOperator


@dag(
    schedule="0 6 2 * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    dagrun_timeout=timedelta(hours=24),
    deadline=done_within(timedelta(hours=18)),
    params={
        "sources": provable_field(platform(), "Whose snapshots to prove."),
        "snapshot": snapshot_field(
            "As `source/tier/id`. None means the newest of every source, and one older at random."
        ),
        "repository": repository_field(platform()),
        "older_too": Param(True, type="boolean", title="One older snapshot too", description="Chosen at random."),
        "keep_hours": Param(
            0,
            type="integer",
            minimum=0,
            maximum=KEEP_HOURS,
            title="Hours to keep scratch servers for inspection",
            description="0 removes each at once. A kept one holds all rows in the clear; its task's log says where.",
        ),
    },
    tags=["lifeboat", "proof"],
    doc_md=f"""
### Monthly restore test

**choose** the newest whole snapshot of every source and one older → **prove** each. A database is restored into a
scratch server, compared with what the source held, every page and index read, the smoke checks asked; a tree of files
into a scratch folder, all of it where there is room, and held against its index and sampled files of the tree itself.
The outcome is attested beside the snapshot. Every proof keeps a report in the vault; *Report* in the task's details
leads to it. With *hours to keep*, each scratch server stays so long on its worker; `python -m lifeboat scratch stop`
lets it go early.

{BACKFILL}

**If this fails**

* `remove_scratch`, `clean_up`: what killed restore tests had left could not be removed. Look at the folder in the log.
* `choose_snapshots`: a source has no whole snapshot, or no repository answers. Look at the DAG that backs it up.
* `prove`: **the snapshot could not be restored as it was**, or a check failed; log and report say which. Prove another
  with this form, trigger the DAG that backs its source up, and find out what is wrong with this one. Delete nothing.
""",
    **DAG_ARGS,
)
def monthly_restore_test():
    remove_scratch = RemoveScratchOperator(task_id="remove_scratch").as_setup()
    choose = ChooseForProofOperator(
        task_id="choose_snapshots",
        sources="{{ params.sources }}",
        snapshot="{{ params.snapshot }}",
        repository="{{ params.repository }}",
        older_too="{{ params.older_too }}",
    )
    prove = ProveSnapshotOperator.partial(
        task_id="prove",
        repository="{{ params.repository }}",
        keep_hours="{{ params.keep_hours }}",
        max_active_tis_per_dagrun=1,
    ).expand_kwargs(choose.output)
    clean_up = RemoveScratchOperator(task_id="clean_up").as_teardown(setups=remove_scratch)
    remove_scratch >> choose >> prove >> clean_up


monthly_restore_test()
