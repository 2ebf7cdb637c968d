"""What all DAGs share: how they run, how their tasks are retried, and the fields of their forms."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import Param
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert

from lifeboat.proving import PROVERS
from lifeboat.settings import Platform
from lifeboat.snapshot import Kind
from lifeboat_airflow.deadlines import IncidentBegan, ScheduledMoment
from lifeboat_airflow.last_good import load
from lifeboat_airflow.notifier import LifeboatNotifier

log = logging.getLogger(__name__)

DAG_ARGS: Mapping[str, Any] = {
    "catchup": False,
    "is_paused_upon_creation": False,
    "max_active_runs": 1,
    "render_template_as_native_obj": True,
    "default_args": {
        "owner": "platform-operations",
        "retries": 3,
        "retry_delay": timedelta(minutes=2),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": timedelta(hours=6),
        "on_failure_callback": [LifeboatNotifier()],
    },
}

RESTORE_ARGS: Mapping[str, Any] = {
    **DAG_ARGS,
    # One that waits for its approval must not keep others waiting. Of two to one target, the second is refused by its
    # first task.
    "max_active_runs": 16,
}

RECOVERY_ARGS: Mapping[str, Any] = {
    **DAG_ARGS,
    # A practice must not keep a recovery waiting. Of two recoveries at once, the second is refused by its first task.
    "max_active_runs": 4,
    # On that day minutes count: what was killed or met a passing fault is tried again soon, and not for long.
    "default_args": {**DAG_ARGS["default_args"], "retry_delay": timedelta(seconds=30)},
}


BACKFILL = "**A backfill** brings no past day back: each of its runs does today's work once more, on what is there now."
"""What the documentation of every DAG with a schedule says, so that nobody expects snapshots of days that are over."""


def platform() -> Platform:
    """What platform.yaml says now, or said before it was wrong.

    A mistake in it from the very beginning shows as an import error of the DAG, with its line and remedy.
    """
    loaded = load().platform
    for remark in loaded.remarks():
        log.warning(remark)
    return loaded


def done_within(time: timedelta) -> DeadlineAlert:
    """People are told of a scheduled run that has not succeeded this long after its time, and of one that never was."""
    # Only a fixed interval: one that is read from a variable stops the scheduler of Airflow 3.3.
    return DeadlineAlert(ScheduledMoment(), time, AsyncCallback(LifeboatNotifier), name=f"{time}")


def rto_alerts(platform: Platform) -> list[DeadlineAlert]:
    """People are told when half, most and all of the time in which the platform must be back has gone by."""
    hours = platform.objectives.rto_hours
    return [
        DeadlineAlert(
            IncidentBegan(),
            timedelta(hours=hours * percent / 100),
            AsyncCallback(LifeboatNotifier, kwargs={"limit": f"{percent} % of the {hours:g} hours of the RTO"}),
            name=f"{percent} % of the RTO",
        )
        for percent in (50, 80, 100)
    ]


def each_once(names: Collection[str]) -> dict[str, Any]:
    """What a field is that takes a list of these names: Airflow refuses one that names anything twice."""
    items = {"type": "string", "enum": list(names)} if names else {"type": "string"}
    return {"type": "array", "items": items, "uniqueItems": True}


def each_once_or_none(**item: Any) -> dict[str, Any]:
    """What a field is that takes a list of texts, each once, or nothing; with `item` of what a text must be."""
    return {"type": ["null", "array"], "items": {"type": "string", **item}, "uniqueItems": True}


def databases_field(platform: Platform, description: str) -> Param:
    """One or more of the platform's databases; all of them unless chosen otherwise."""
    names = list(platform.names(Kind.POSTGRES))
    return Param(names, **each_once(names), minItems=1, examples=names, title="Databases", description=description)


def provable_field(platform: Platform, description: str) -> Param:
    """Some of the sources whose snapshots can be proven; all of them unless chosen otherwise."""
    names = list(platform.names(*PROVERS))
    return Param(names, **each_once(names), minItems=1, examples=names, title="Sources", description=description)


def sources_field(platform: Platform, kind: Kind | None, description: str) -> Param:
    """One or more of the platform's sources of a kind, or of every kind: all of them unless chosen otherwise.

    None where it has none.
    """
    names = list(platform.names(*([kind] if kind else [])))
    least = min(1, len(names))
    return Param(names, **each_once(names), minItems=least, examples=names, title="Sources", description=description)


def database_field(platform: Platform) -> Param:
    """One of the platform's databases."""
    names = list(platform.names(Kind.POSTGRES))
    return Param(names[0], type="string", enum=names, title="Database")


def trees_field(platform: Platform) -> Param:
    """Some of the platform's trees of files; all of them unless chosen otherwise."""
    names = list(platform.names(Kind.FILES))
    return Param(names, **each_once(names), examples=names, title="Trees of files")


def tree_field(platform: Platform) -> Param:
    """One of the platform's trees of files."""
    names = list(platform.names(Kind.FILES))
    return Param(names[0], type="string", enum=names, title="Tree") if names else Param("", type="string", title="Tree")


def tables_field(description: str) -> Param:
    """Names of tables, or none."""
    return Param(None, **each_once_or_none(minLength=1), title="Only these tables", description=description)


def moment_field(title: str, description: str) -> Param:
    """A moment, or none."""
    # Airflow does not look at formats. The form itself sends UTC; without an offset it is read as that.
    day, time, offset = r"\d{4}-\d{2}-\d{2}", r"\d{2}:\d{2}(:\d{2}([.,]\d+)?)?", r"(Z|[+-]\d{2}(:?\d{2})?)?"
    return Param(
        None,
        type=["null", "string"],
        format="date-time",
        pattern=f"^{day}([T ]{time}{offset})?$",
        title=title,
        description=f"{description} Write it as 2026-11-23T02:00+00:00.",
    )


def snapshot_field(description: str) -> Param:
    """A snapshot's label, or none."""
    pattern = r"^[a-z0-9_-]+/(daily|weekly|monthly)/\d{8}T\d{6}Z-[0-9a-f]{8}$"
    return Param(None, type=["null", "string"], pattern=pattern, title="This snapshot", description=description)


def repository_field(platform: Platform, **more: Any) -> Param:
    """One of the platform's repositories, or none; with `more` of what a form's field may have."""
    names = [None, *(repository.name for repository in platform.repositories)]
    return Param(
        None,
        type=["null", "string"],
        enum=names,
        title="From this repository",
        description="None means the first that has it.",
        **more,
    )
