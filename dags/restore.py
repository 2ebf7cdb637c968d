"""By hand: a snapshot restored into a new database or schema, or beside the live one and, once approved, in place."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag, task

from lifeboat_airflow.defaults import (
    RESTORE_ARGS,
    database_field,
    moment_field,
    platform,
    repository_field,
    snapshot_field,
    tables_field,
)
from lifeboat_airflow.operators.restore import (
    ApproveReplacementOperator,
    ChooseForRestoreOperator,
    PutInPlaceOperator,
    RestoreBesideOperator,
    RestoreIntoSchemaOperator,
    RestoreNewDatabaseOperator,
    Way,
)
from lifeboat_airflow.operators.snapshots import VerifySnapshotOperator
from lifeboat_airflow.operators.thaw import ThawSnapshotOperator

TASKS = {
    Way.NEW_DATABASE: "restore_new",
    Way.NEW_SCHEMA: "restore_schema",
    Way.IN_PLACE: "restore_beside",
    Way.DRY_RUN: "verify",
}
NEW = "{{ params.new_database or params.database ~ '_restored_' ~ (dag_run.run_after | ts_nodash) }}"
SOURCE, REPOSITORY, TABLES = "{{ params.database }}", "{{ params.repository }}", "{{ params.tables }}"
TARGET, MEANT = "{{ params.target }}", "{{ params.on_another_server }}"
ALL_OR_NOTHING = "{{ params.all_or_nothing }}"


@dag(
    schedule=None,
    dagrun_timeout=timedelta(hours=48),
    params={
        "database": database_field(platform()),
        "to": Param(
            str(Way.NEW_DATABASE),
            type="string",
            enum=[str(way) for way in Way],
            title="Restore to",
            description="In place asks for approval after the restore beside the live database, before the swap.",
        ),
        "new_database": Param(
            None,
            type=["null", "string"],
            minLength=1,
            title="The new database's name",
            description="None means the source's name and the time. No existing database is ever touched.",
        ),
        "target": Param(
            None,
            type=["null", "string"],
            minLength=1,
            title="The new database's server",
            description="An Airflow connection of type postgres. None means the source's own server.",
        ),
        "schema": Param(
            None,
            type=["null", "string"],
            minLength=1,
            title="The new schema's name",
            description="For the tables named below. No existing schema is ever touched.",
        ),
        "snapshot": snapshot_field("As `source/tier/id`. None means the newest whole one that fits what follows."),
        "proven": Param(False, type="boolean", title="Only a proven snapshot"),
        "as_of": moment_field("As of", "It began then or earlier."),
        "repository": repository_field(platform()),
        "tables": tables_field("One a line, as `name` or `schema.name`; into a new database or schema."),
        "all_or_nothing": Param(
            False,
            type="boolean",
            title="All or nothing",
            description="Keep nothing when one object cannot be rebuilt. Otherwise rows are kept, and it is listed.",
        ),
        "schema_only": Param(False, type="boolean", title="Definitions only", description="Only into a new database."),
        "on_another_server": Param(
            False,
            type="boolean",
            title="The live database is not the one of the snapshot",
            description="As after its server was lost. Otherwise another server or name is refused.",
        ),
    },
    tags=["lifeboat", "restore", "postgres"],
    doc_md="""
### Restore

**choose** the snapshot → **thaw** what is in archive storage → **restore_new** into a new database, or
**restore_schema**: some tables into a new schema of the live one, or **restore_beside** the live one → **approve** →
**put_in_place**; or **verify** alone, as a dry run. Nothing is ever dropped: what was live stays under a dated name,
and `python -m lifeboat undo <name>` goes back to it.

**If this fails**

* `choose`: no snapshot fits, the form asks for what does not go together, the target does not answer, or another run
  restores to it: its log says which. Let that run end, or answer its question.
* `thaw`: the store did not give it out in time. Clear the task, or choose another repository.
* `restore_new`, `restore_schema`, `restore_beside`, `verify`: the live database was not touched. The log says what is
  wrong; choose another snapshot or repository. Where objects could not be rebuilt, what was restored is kept, and the
  log lists them with their SQL; beside the live one, `approve` lists them and asks.
* `decide`: the form asked for something that cannot be. Trigger again.
* `approve`: nobody answered within 12 hours, so the run failed; nothing was replaced. The restored database waits
  beside the live one; clear the task to ask again, or `python -m lifeboat kept` and `release` remove it. An
  answer within a second of the question can be lost by Airflow: ten seconds later it is asked once more.
* `put_in_place`: its log says whether the swap took place, and how to go on or back. It is not retried by itself.
""",
    **RESTORE_ARGS,
)
def restore():
    choose = ChooseForRestoreOperator(
        task_id="choose",
        source=SOURCE,
        way="{{ params.to }}",
        new_database=NEW,
        schema="{{ params.schema }}",
        tables=TABLES,
        target=TARGET,
        snapshot="{{ params.snapshot }}",
        proven="{{ params.proven }}",
        as_of="{{ params.as_of }}",
        repository=REPOSITORY,
        multiple_outputs=True,
    )
    label = choose.output["snapshot"]
    thaw = ThawSnapshotOperator(task_id="thaw", source=SOURCE, snapshot=choose.output, repository=REPOSITORY)

    @task.branch
    def decide(params: dict) -> str:
        return TASKS[Way(params["to"])]

    restore_new = RestoreNewDatabaseOperator(
        task_id="restore_new",
        source=SOURCE,
        snapshot=label,
        repository=REPOSITORY,
        all_or_nothing=ALL_OR_NOTHING,
        database=NEW,
        tables=TABLES,
        schema_only="{{ params.schema_only }}",
        target=TARGET,
    )
    restore_schema = RestoreIntoSchemaOperator(
        task_id="restore_schema",
        source=SOURCE,
        snapshot=label,
        repository=REPOSITORY,
        all_or_nothing=ALL_OR_NOTHING,
        schema="{{ params.schema }}",
        tables=TABLES,
        other_server=MEANT,
    )
    verify = VerifySnapshotOperator(task_id="verify", source=SOURCE, snapshot=choose.output)
    beside = RestoreBesideOperator(
        task_id="restore_beside",
        source=SOURCE,
        snapshot=label,
        repository=REPOSITORY,
        all_or_nothing=ALL_OR_NOTHING,
        other_server=MEANT,
        multiple_outputs=True,
    )
    approve = ApproveReplacementOperator(task_id="approve", database=SOURCE, restored=beside.output)
    put_in_place = PutInPlaceOperator(
        task_id="put_in_place", source=SOURCE, database=beside.output["database"], retries=0
    )
    choose >> thaw >> decide() >> [restore_new, restore_schema, beside, verify]
    beside >> approve >> put_in_place


restore()
