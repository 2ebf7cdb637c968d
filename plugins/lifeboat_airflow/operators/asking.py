"""Asking a person, also when Airflow loses the answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from lifeboat_airflow.operators.base import RecordsOperator

_AGAIN = {"retries": 5, "retry_delay": timedelta(seconds=10), "retry_exponential_backoff": 0}


class AskingOperator(HITLOperator, RecordsOperator):
    """Asks a person, and waits so long for the answer. No answer in time is a failure, and not asked for again.

    A try that was cut short is made again soon, and asks once more. Airflow 3.3 itself cuts it short when the answer
    comes before it has seen the end of the process that has asked, and drops the answer. A task that goes on at once
    with an answer that is there is cut short in the same way.
    """

    def __init__(self, *, within: timedelta, **kwargs: Any) -> None:
        more = {"response_timeout": within, "execution_timeout": within + timedelta(hours=1)}
        super().__init__(**{**kwargs, **_AGAIN, **more})

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take the answer."""
        try:
            return super().execute_complete(context, event)
        except HITLTimeoutError:
            # A retry would ask once more, for as long again.
            words = "Nobody answered in time, so nothing more is done. Clear the task to ask again."
            raise AirflowFailException(words) from None
