"""Looking whether a database can be backed up, and backing it up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Asset, Context

from lifeboat.backup import back_up_database, check_ready
from lifeboat.postgres.selection import Selection
from lifeboat.progress import count_text, duration_text, size_text
from lifeboat_airflow.hooks import PostgresSourceHook, VaultHook
from lifeboat_airflow.links import SnapshotLink
from lifeboat_airflow.operators.base import SourceOperator
from lifeboat_airflow.records import snapshot_record

DATABASE_SNAPSHOTS = Asset(name="database_snapshots", uri="lifeboat://snapshots/databases")
"""Updated with every snapshot of a database; the event's extra is the snapshot's record."""


class _DatabaseOperator(SourceOperator):
    template_fields: Sequence[str] = (*SourceOperator.template_fields, "tables", "schema_only")

    def __init__(
        self, *, tables: Sequence[str] | str | None = None, schema_only: bool | str = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.tables = tables
        self.schema_only = schema_only

    def selection(self) -> Selection:
        """What of the database is wanted. Raises `SettingsError` for templates that were rendered as text."""
        self.require_typed(tables=list, schema_only=bool)
        return Selection(tuple(self.tables or ()), self.schema_only is True)


class DatabasePreflightOperator(_DatabaseOperator):
    """Looks for whatever would stop the backup of a database: keys, programs, repositories, room, privileges.

    Fails with all obstacles at once, before anything is begun. What would make the backup degraded is a warning in the
    log, and a text in the result's `remarks`.
    """

    def work(self, context: Context) -> dict[str, Any]:
        """Look, and say what was seen."""
        databases = PostgresSourceHook()
        source = databases.source(self.source)
        self.log.info("Looking whether %s (%r on %s) can be backed up", source.name, source.database, source.server)
        seen = check_ready(VaultHook().open(), source, databases.programs(), self.selection())
        remarks = (*databases.loaded.remarks(), *seen)
        for remark in remarks:
            self.log.warning(remark)
        self.log.info("%s can be backed up.", source.name)
        return {"source": source.name, "remarks": list(remarks)}


class PostgresBackupOperator(_DatabaseOperator):
    """Backs a PostgreSQL database up into every repository at once; the result is the snapshot's record.

    A retry of a run that has made its snapshot finds that one again. Succeeds when at least one repository has all of
    it; `lacking` in the result says which do not, and why.
    """

    operator_extra_links = (SnapshotLink(),)

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("outlets", [DATABASE_SNAPSHOTS])
        super().__init__(**kwargs)

    def work(self, context: Context) -> dict[str, Any]:
        """Back up, and say how it went."""
        databases = PostgresSourceHook()
        source = databases.source(self.source)
        self.log.info("Backing up %s (%r on %s)", source.name, source.database, source.server)
        outcome = back_up_database(
            VaultHook().open(),
            source,
            installed=databases.programs(),
            began=datetime.now(UTC),
            scheduled_for=context["dag_run"].run_after,
            selection=self.selection(),
            progress=self.progress,
            children=self.children,
            report=self.log.info,
        )
        manifest = outcome.snapshot.manifest
        where = ", ".join(outcome.snapshot.repositories)
        self.log.info("%s is in %s", outcome.snapshot.label, where)
        if outcome.reused:
            self.log.info("An earlier try of this run had made it.")
        held = f"{count_text(manifest.facts['tables'], 'table')} with {count_text(manifest.facts['rows'], 'row')}"
        took = duration_text((manifest.finished - manifest.began).total_seconds())
        self.log.info(
            "%s: %s dumped, %s stored, in %s",
            held,
            size_text(manifest.plain_size),
            size_text(manifest.sealed_size),
            took,
        )
        for name, reason in outcome.lacking.items():
            self.log.warning("Degraded: %s does not have it: %s", name, reason)
        record = snapshot_record(outcome.snapshot) | {"reused": outcome.reused, "lacking": dict(outcome.lacking)}
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = record
        return record
