"""DAGs that end in every way a run can end. Airflow parses this file; the tests only name what is in it."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, BaseHook, Param, task

from lifeboat.errors import SourceRefused
from lifeboat_airflow.defaults import DAG_ARGS, done_within
from lifeboat_airflow.operators.base import SourceOperator

ALL: dict[str, Any] = {**DAG_ARGS, "tags": ["lifeboat"], "max_active_runs": 4}
DOC = """
**If this fails**

* `refuse`: ask its owner.
* `kill`, `sleep`: look at its host.
"""


class RefusingOperator(SourceOperator):
    """Fails as a backup would."""

    def work(self, context: Any) -> None:
        password = BaseHook.get_connection("platform_db").password
        raise SourceRefused(f"{self.source} refused the password {password}.", hint="Correct the connection.")


with DAG("together", doc_md=DOC, schedule=None, **ALL):
    RefusingOperator.partial(task_id="refuse").expand(source=["orders", "invoices", "payments"])

with DAG("killed", doc_md=DOC, schedule=None, **ALL):

    @task(retries=0)
    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    kill()

with DAG("killed_beside", doc_md=DOC, schedule=None, **ALL):

    @task(retries=0, task_id="kill")
    def kill_too() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @task
    def go_on() -> None:
        time.sleep(60)

    [kill_too(), go_on()]

with DAG("marked", doc_md=DOC, schedule=None, **ALL):

    @task(retries=0)
    def sleep() -> None:
        time.sleep(600)

    sleep()

with DAG("timed_out", doc_md=DOC, dagrun_timeout=timedelta(seconds=40), schedule=None, **ALL):

    @task(retries=0, task_id="sleep")
    def sleep_too() -> None:
        time.sleep(600)

    sleep_too()

with DAG("never_begun", schedule=None, **ALL):
    ApprovalOperator(task_id="ask", subject="?", retries=0, params={"reason": Param("", type="string", minLength=3)})

with DAG("sometimes", params={"fail": Param(False, type="boolean")}, schedule=None, **ALL):

    @task(retries=0)
    def work(params: dict[str, Any]) -> None:
        if params["fail"]:
            raise ValueError("as the form said")

    work()

with DAG("degraded", schedule=None, **ALL):

    @task
    def back_up() -> dict[str, Any]:
        return {"snapshot": "orders/daily/1", "lacking": {"s3": "it does not answer", "azure": "it was full"}}

    @task
    def replicate(made: dict[str, Any]) -> dict[str, Any]:
        return {"snapshot": made["snapshot"], "lacking": {"azure": "it is full"}}

    replicate(back_up())

ONE: dict[str, Any] = {**ALL, "max_active_runs": 1, "start_date": datetime(2026, 1, 1, tzinfo=UTC)}

with DAG("late", schedule="* * * * *", deadline=done_within(timedelta(seconds=20)), **ONE):

    @task
    def slow() -> None:
        time.sleep(70)

    slow()

with DAG("waiting", doc_md=DOC, schedule=None, **ALL):

    @task(pool="of_nobody")
    def wait() -> None: ...

    wait()

with DAG("retried", schedule=None, **ALL):

    @task(retries=1, retry_delay=timedelta(seconds=1), retry_exponential_backoff=False)
    def second_time(ti: Any) -> None:
        if ti.try_number == 1:
            raise ValueError("not yet")

    second_time()

with DAG("nobodys", schedule=None, **{**ALL, "tags": ["others"]}):

    @task(retries=0, on_failure_callback=None)
    def fail() -> None:
        raise ValueError("not ours")

    fail()
