"""Buttons on a task's page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.bases.xcom import BaseXCom

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

PAGES = "/lifeboat"
"""Where this plugin's pages stand in Airflow's web server."""

INCIDENT = "lifeboat_incident"
"""The key of the XCom by which a step of a recovery says, as the first thing it does, which incident it belongs to."""


class SnapshotLink(BaseOperatorLink):
    """Leads from a task to the page of the snapshot it made or looked at."""

    name = "Snapshot"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page's address; empty as long as there is no snapshot."""
        # Airflow's two types of keys disagree about being settable.
        result = BaseXCom.get_value(ti_key=ti_key, key="return_value")  # type: ignore[arg-type]
        return f"{PAGES}/snapshots/{result['snapshot']}" if result else ""


class ReportLink(BaseOperatorLink):
    """Leads from a restore test to its report."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page's address; empty as long as there is no report."""
        result = BaseXCom.get_value(ti_key=ti_key, key="return_value")  # type: ignore[arg-type]  # as above
        return f"{PAGES}/{result['reports'][-1]}" if result else ""


class IncidentLink(BaseOperatorLink):
    """Leads from a step of a recovery to the page of its incident."""

    name = "Incident"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page's address; empty as long as the step has not said which incident it belongs to."""
        incident = BaseXCom.get_value(ti_key=ti_key, key=INCIDENT)  # type: ignore[arg-type]  # as above
        return f"{PAGES}/incidents/{incident}" if incident else ""
