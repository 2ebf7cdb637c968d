"""By hand, on the day everything is gone: the platform assessed, restored, started, checked, and people told."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import chain, dag, task_group

from lifeboat.snapshot import Kind
from lifeboat_airflow.defaults import RECOVERY_ARGS, platform, rto_alerts
from lifeboat_airflow.operators.recovery import (
    AskAgainOperator,
    AskOperator,
    AskToReplaceOperator,
    AskToUndoOperator,
    AssessOperator,
    CloseOperator,
    MigrateOperator,
    OpenIncidentOperator,
    PrepareOperator,
    PutInPlaceOperator,
    RestoreOperator,
    StartOperator,
    TellOperator,
    UndoOperator,
    VerifyOperator,
)
from lifeboat_airflow.recovery_form import other_point_fields, recovery_fields

ASKING = {"recovery": platform().recovery}
RESTORES = {"database": Kind.POSTGRES, "files": Kind.FILES, "configuration": Kind.CONFIG, "redis": Kind.REDIS}


@dag(
    schedule=None,
    dagrun_timeout=timedelta(hours=48),
    params=recovery_fields(platform()),
    deadline=rto_alerts(platform()),
    tags=["lifeboat", "restore", "recovery"],
    doc_md="""
### Disaster recovery

**assess_damage**: what is left, what there is to go back to, what is lost, how long it takes → a person is asked →
**prepare_environment** → **restore** databases, files, configuration and Redis side by side, touching nothing that is
alive → a person is asked again before anything alive is replaced → **verify_and_start** → **notify_stakeholders**.
Begin with the mode `assess`; it changes nothing. `practice` does every step on scratch targets. *Incident* in a task's
details leads to the clock, the timeline and the report. Without Airflow, `python -m lifeboat recover-platform` does the
same steps, and can go on with what was begun here.

**If this fails**, look at the log, remove the cause, and **clear the task**: what is done is recognised, not repeated.

**If this fails**

* `open_incident`: the form asks for what does not go together, or the platform is being recovered already.
* `assess`, `assess_again`: no repository answers, or something keeps a recovery from going on; the table says what.
* `ask`, `ask_again`, `ask_to_replace`: nobody answered in time, so nothing more was done. Clear the task to ask again.
* `prepare`: a command failed, or a server does not answer. Nothing alive was touched.
* `database`, `files`, `configuration`, `redis`: the log says what is wrong. Nothing alive was touched. Another
  repository is tried by itself; another snapshot needs a new run.
* `put_in_place`: the log says what was replaced and what was not. What was live before is kept.
* `migrate`, `start`, `verify`: the platform is in place and not well. `ask_to_undo` offers what was live before.
* `ask_to_undo`, `undo`: `python -m lifeboat kept` shows what is kept, and `undo` puts it back.
* `tell`: the log says who was not told. The platform is not touched by this.
* `close`: something before it failed, or no repository took the report. The incident stays open until it is cleared,
  or ended with `python -m lifeboat incidents end`.
""",
    **RECOVERY_ARGS,
)
def disaster_recovery():
    @task_group
    def assess_damage():
        opened, assess = OpenIncidentOperator(task_id="open_incident"), AssessOperator(task_id="assess")
        ask = AskOperator(task_id="ask", params=other_point_fields(), **ASKING)
        again = AssessOperator(task_id="assess_again", again=True)
        ask_again = AskAgainOperator(task_id="ask_again", **ASKING)
        chain(opened, assess, ask, again, ask_again)
        return [assess, ask, ask_again]

    @task_group
    def prepare_environment():
        return PrepareOperator(task_id="prepare")

    @task_group
    def restore():
        for task_id, kind in RESTORES.items():
            RestoreOperator.partial(task_id=task_id).expand(source=list(platform().names(kind)))

    @task_group
    def verify_and_start():
        ask = AskToReplaceOperator(task_id="ask_to_replace", **ASKING)
        steps = [
            PutInPlaceOperator(task_id="put_in_place"),
            MigrateOperator(task_id="migrate", retries=0),
            StartOperator(task_id="start"),
            VerifyOperator(task_id="verify"),
        ]
        ask_to_undo, undo = AskToUndoOperator(task_id="ask_to_undo", **ASKING), UndoOperator(task_id="undo", retries=0)
        chain(ask, *steps)
        steps >> ask_to_undo >> undo

    @task_group
    def notify_stakeholders():
        TellOperator(task_id="tell") >> CloseOperator(task_id="close")

    ready, prepare, end = assess_damage(), prepare_environment(), notify_stakeholders()
    ready >> prepare >> restore() >> verify_and_start() >> end
    ready >> end


disaster_recovery()
