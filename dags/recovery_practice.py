"""Every quarter: the disaster recovery practised on scratch targets. Nothing live is touched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import dag

from lifeboat_airflow.defaults import BACKFILL, DAG_ARGS, done_within
from lifeboat_airflow.recovery_form import DAG_ID


@dag(
    schedule="0 7 5 1,4,7,10 *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    dagrun_timeout=timedelta(hours=24),
    deadline=done_within(timedelta(hours=12)),
    tags=["lifeboat", "proof", "recovery"],
    doc_md=f"""
### Recovery practice

**practise** triggers `disaster_recovery` in the mode `practice` and waits for its end: every step on scratch targets,
nobody asked, nothing live touched. The report of each practice says how long a recovery takes.

{BACKFILL}

**If this fails**

* `practise`: the practice failed, so a recovery would fail as well. Look at the run of `disaster_recovery` that its
  button leads to.
""",
    **DAG_ARGS,
)
def recovery_practice():
    TriggerDagRunOperator(
        task_id="practise",
        trigger_dag_id=DAG_ID,
        conf={"mode": "practice", "title": "Quarterly practice"},
        wait_for_completion=True,
        deferrable=True,
        retries=0,
    )


recovery_practice()
