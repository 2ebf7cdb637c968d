"""Registers Lifeboat's links, pages and listener with Airflow."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from lifeboat_airflow import listener
from lifeboat_airflow.deadlines import IncidentBegan, ScheduledMoment
from lifeboat_airflow.form_guard import FormGuard
from lifeboat_airflow.links import PAGES, IncidentLink, ReportLink, SnapshotLink
from lifeboat_airflow.pages import app


class LifeboatPlugin(AirflowPlugin):
    """Lifeboat's part of Airflow's UI."""

    name = "lifeboat"
    operator_extra_links = [SnapshotLink(), ReportLink(), IncidentLink()]
    listeners = [listener]
    deadline_references = [IncidentBegan, ScheduledMoment]
    fastapi_apps = [{"app": app, "url_prefix": PAGES, "name": "Lifeboat"}]
    fastapi_root_middlewares = [{"name": "Lifeboat: runs that are refused", "middleware": FormGuard}]
    external_views = [
        {
            "name": name,
            "href": f"{PAGES}/{route}",
            "destination": "nav",
            "nav_top_level": True,
            "url_route": route,
        }
        for name, route in (("Snapshots", "snapshots"), ("Vault health", "health"), ("Incidents", "incidents"))
    ]
