"""By hand: a tree of files, or some of its files, restored into a folder of the worker."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag

from lifeboat_airflow.defaults import (
    RESTORE_ARGS,
    each_once_or_none,
    moment_field,
    platform,
    repository_field,
    snapshot_field,
    tree_field,
)
from lifeboat_airflow.operators.files import RestoreFilesOperator
from lifeboat_airflow.operators.restore import ChooseSnapshotOperator
from lifeboat_airflow.operators.thaw import ThawSnapshotOperator

FOLDER = "{{ params.to or '/var/tmp/' ~ params.tree ~ '-restored-' ~ (dag_run.run_after | ts_nodash) }}"
SOURCE, REPOSITORY = "{{ params.tree }}", "{{ params.repository }}"


@dag(
    schedule=None,
    dagrun_timeout=timedelta(hours=48),
    params={
        "tree": tree_field(platform()),
        "to": Param(
            None,
            type=["null", "string"],
            pattern="^/",
            title="Into this folder",
            description="A new folder on the worker. None means /var/tmp/<tree>-restored-<time>.",
        ),
        "patterns": Param(
            None,
            **each_once_or_none(minLength=1),
            title="Only these files",
            description="One a line: a path or folder such as /2026/march, or a name such as *.pdf. None means all.",
        ),
        "into_existing": Param(
            False,
            type="boolean",
            title="Into a folder that is there",
            description="Files in it that differ are replaced, one by one; nothing is removed.",
        ),
        "snapshot": snapshot_field("As `source/tier/id`. None means the newest one that fits what follows."),
        "proven": Param(False, type="boolean", title="Only a proven snapshot"),
        "as_of": moment_field("As of", "It began then or earlier."),
        "repository": repository_field(platform()),
    },
    tags=["lifeboat", "restore", "files"],
    doc_md="""
### Restore files

**choose** the snapshot → **thaw** what is in archive storage → **restore** all of the tree or chosen files into a
folder of the worker, with owners, modes and times. What is there already with the right contents is not fetched.

`python -m lifeboat files find <tree> '*.pdf'` searches a snapshot, `files diff` compares two.

**If this fails**

* `choose`: no snapshot fits, or another run restores to the same folder. Its log says what there is, or which run.
* `thaw`: the store did not give it out in time. Clear the task, or choose another repository.
* `restore`: its log names what could not be restored, and why; everything else is in the folder. Restore these files
  alone, from another snapshot or repository. A folder that exists is refused unless the form says otherwise.
""",
    **RESTORE_ARGS,
)
def restore_files():
    choose = ChooseSnapshotOperator(
        task_id="choose",
        source=SOURCE,
        snapshot="{{ params.snapshot }}",
        proven="{{ params.proven }}",
        as_of="{{ params.as_of }}",
        repository=REPOSITORY,
        place=f"the folder {FOLDER}",
        multiple_outputs=True,
    )
    thaw = ThawSnapshotOperator(task_id="thaw", source=SOURCE, snapshot=choose.output, repository=REPOSITORY)
    restore = RestoreFilesOperator(
        task_id="restore",
        source=SOURCE,
        snapshot=choose.output["snapshot"],
        to=FOLDER,
        patterns="{{ params.patterns }}",
        into_existing="{{ params.into_existing }}",
        repository=REPOSITORY,
    )
    choose >> thaw >> restore


restore_files()
