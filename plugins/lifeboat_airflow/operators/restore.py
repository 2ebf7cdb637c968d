"""Restoring a database: choosing the snapshot, restoring it beside or in a new database, putting it in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context

from lifeboat.assembly import application_of, smoke_of
from lifeboat.backup import DatabaseSource, restore_snapshot
from lifeboat.choosing import about_dates, choose_snapshot
from lifeboat.errors import RestoreIncomplete, SettingsError
from lifeboat.in_place import restore_beside, undo_in_place
from lifeboat.into_schema import restore_into_schema
from lifeboat.moment import read_moment
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.rebuilding import NotRebuilt, listed
from lifeboat.postgres.restore import RestoreReport
from lifeboat.postgres.selection import Selection
from lifeboat.progress import count_text, duration_text
from lifeboat_airflow.hooks import PostgresSourceHook, VaultHook
from lifeboat_airflow.links import SnapshotLink
from lifeboat_airflow.markdown import markdown_of
from lifeboat_airflow.operators.asking import AskingOperator
from lifeboat_airflow.operators.base import SourceOperator
from lifeboat_airflow.places import take_place
from lifeboat_airflow.records import find_snapshot, snapshot_record


class ChooseSnapshotOperator(SourceOperator):
    """Chooses a snapshot of a source; the result is its record.

    By its label, else the newest whole one: with `proven`, the newest that was proven; with `as_of`, an ISO 8601 time,
    the newest that began then or earlier; with `repository`, the newest that one has. `place` says in words what it is
    to be restored to: refused while another run of the DAG restores to the same.
    """

    template_fields: Sequence[str] = (
        *SourceOperator.template_fields,
        *("snapshot", "proven", "as_of", "repository", "place"),
    )
    operator_extra_links = (SnapshotLink(),)

    def __init__(
        self,
        *,
        snapshot: str | None = None,
        proven: bool | str = False,
        as_of: str | None = None,
        repository: str | None = None,
        place: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.proven = proven
        self.as_of = as_of
        self.repository = repository
        self.place = place

    def work(self, context: Context) -> dict[str, Any]:
        """Choose, and say what was chosen."""
        self.require_typed(proven=bool)
        if self.place:
            take_place(context["ti"], self.place)
        vault = VaultHook().open(reading=True)
        if self.snapshot:
            snapshot = find_snapshot(vault, self.snapshot)
            if snapshot.manifest.source != self.source:
                raise SettingsError(f"{self.snapshot} is not a snapshot of {self.source}.", hint="Choose one of both.")
        else:
            before = read_moment(self.as_of, "as_of", self.log.info) if self.as_of else None
            listing = vault.list(self.source)
            snapshot = choose_snapshot(
                vault,
                self.source,
                before=before,
                proven=self.proven is True,
                repository=self.repository,
                listing=listing,
            )
            for text in about_dates(snapshot, listing):
                self.log.warning("%s", text)
        self.log.info("Chosen: %s, in %s", snapshot.label, ", ".join(snapshot.repositories))
        return snapshot_record(snapshot)


class Way(StrEnum):
    """Where a form asks to restore to."""

    NEW_DATABASE = "a new database"
    NEW_SCHEMA = "a new schema of the live database"
    IN_PLACE = "in place of the live one"
    DRY_RUN = "nowhere: a dry run"


class ChooseForRestoreOperator(ChooseSnapshotOperator):
    """Chooses a snapshot to restore in the `way` a form asks for, once it is clear that the rest of the form fits.

    `target` is the connection of another server, which must answer.
    """

    template_fields: Sequence[str] = (
        *ChooseSnapshotOperator.template_fields,
        *("way", "new_database", "schema", "tables", "target"),
    )

    def __init__(
        self,
        *,
        way: str,
        new_database: str | None = None,
        schema: str | None = None,
        tables: Sequence[str] | str | None = None,
        target: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.way = way
        self.new_database = new_database
        self.schema = schema
        self.tables = tables
        self.target = target

    def work(self, context: Context) -> dict[str, Any]:
        """Look at the form, and choose. Raises `SettingsError` for what does not fit, `SourceError` for the server."""
        self.require_typed(tables=list)
        if self.way == Way.NEW_SCHEMA and not (self.schema and self.tables):
            raise SettingsError(
                "A new schema is for some tables: the form names no "
                f"{'tables' if self.schema else 'schema' if self.tables else 'schema and no tables'}.",
                hint="Trigger again with both, or restore to a new database.",
            )
        if self.way == Way.IN_PLACE and self.tables:
            raise SettingsError(
                "The form names tables, and in place a whole database is replaced.",
                hint="Restore them to a new schema, or replace their rows with `lifeboat replace --tables`.",
            )
        if self.target and self.way != Way.NEW_DATABASE:
            raise SettingsError(
                f"The form names the target {self.target!r}, and only a new database can be made on another server.",
                hint="To replace a live database there, correct the source's connection, or use `lifeboat replace`.",
            )
        if self.target:
            server = _server_of_form(self.target)
            with server.administer():
                self.log.info("The target %r is %s.", self.target, server)
        self.place = self.place_of_form()
        return super().work(context)

    def place_of_form(self) -> str | None:
        """What the form asks to restore to, in words; None for a dry run."""
        way = Way(self.way)
        if way is Way.DRY_RUN:
            return None
        if way is Way.NEW_DATABASE and self.target:  # its source's own server may be what was lost
            return f"the database {self.new_database!r} on {_server_of_form(self.target)}"
        live = PostgresSourceHook().source(self.source)
        what = {
            Way.NEW_DATABASE: f"the database {self.new_database!r}",
            Way.NEW_SCHEMA: f"the schema {self.schema!r} of {live.database!r}",
            Way.IN_PLACE: f"the database {live.database!r}",
        }
        return f"{what[way]} on {live.server}"


def _server_of_form(conn_id: str) -> PostgresServer:
    return PostgresSourceHook().server(conn_id, "The form's field `target`")


class _RestoreOperator(SourceOperator):
    template_fields: Sequence[str] = (*SourceOperator.template_fields, "snapshot", "repository", "all_or_nothing")
    operator_extra_links = (SnapshotLink(),)

    def __init__(
        self, *, snapshot: str, repository: str | None = None, all_or_nothing: bool | str = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.repository = repository
        self.all_or_nothing = all_or_nothing

    def live(self) -> DatabaseSource:
        """The source's own database and server."""
        return PostgresSourceHook().source(self.source)

    def result(self, database: str, server: PostgresServer, report: RestoreReport) -> dict[str, Any]:
        """Say what was restored, and hand it on."""
        for note in report.notes:
            self.log.info("Note: %s", note)
        tables, rows = len(report.evidence.tables), report.evidence.rows
        took = duration_text(sum(report.seconds.values()))
        held = f"{count_text(tables, 'table')} with {count_text(rows, 'row')}"
        how = "INCOMPLETELY restored" if report.not_rebuilt else "restored"
        self.log.info("%s is %s as %r on %s, in %s: %s", self.snapshot, how, database, server, took, held)
        return {
            "snapshot": self.snapshot,
            "database": database,
            "server": str(server),
            "tables": tables,
            "rows": rows,
            "seconds": report.seconds,
            "notes": list(report.notes),
            "not_rebuilt": [one.record() for one in report.not_rebuilt],
            "damaged": dict(report.damaged),
        }

    def refuse_incomplete(self, not_rebuilt: Sequence[NotRebuilt], place: str) -> None:
        """Raise `RestoreIncomplete`, so that the run is seen to have failed; what was restored is kept."""
        if not_rebuilt:
            raise RestoreIncomplete(
                f"{self.snapshot} was restored incompletely as {place}, which is kept. {listed(not_rebuilt)}",
                hint="Make what is missing by its SQL once its cause is mended, or restore another snapshot.",
            )


class RestoreNewDatabaseOperator(_RestoreOperator):
    """Restores a snapshot, given by its label, into the new `database` on its source's server, and compares it.

    Only `tables`, or with `schema_only` only definitions, where they are given; on the server of the connection
    `target`, where one is given. Roles that are missing there are created. No existing database is touched.
    """

    template_fields: Sequence[str] = (*_RestoreOperator.template_fields, "database", "tables", "schema_only", "target")

    def __init__(
        self,
        *,
        database: str,
        tables: Sequence[str] | str | None = None,
        schema_only: bool | str = False,
        target: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.database = database
        self.tables = tables
        self.schema_only = schema_only
        self.target = target

    def work(self, context: Context) -> dict[str, Any]:
        """Restore, compare, and say what was restored."""
        self.require_typed(tables=list, schema_only=bool, all_or_nothing=bool)
        vault = VaultHook().open(reading=True)
        server = _server_of_form(self.target) if self.target else self.live().server
        selection = Selection(tuple(self.tables or ()), self.schema_only is True)
        report = restore_snapshot(
            vault,
            find_snapshot(vault, self.snapshot),
            server,
            self.database,
            installed=PostgresSourceHook().programs(),
            selection=None if selection.complete else selection,
            repository=self.repository,
            progress=self.progress,
            children=self.children,
            all_or_nothing=self.all_or_nothing is True,
            report=self.log.info,
        )
        result = self.result(self.database, server, report)
        self.refuse_incomplete(report.not_rebuilt, f"the database {self.database!r} on {server}")
        return result


class RestoreIntoSchemaOperator(_RestoreOperator):
    """Restores some tables of a snapshot, given by its label, into the new `schema` of its live database.

    What the live database has is not touched.
    """

    template_fields: Sequence[str] = (*_RestoreOperator.template_fields, "schema", "tables", "other_server")

    def __init__(
        self,
        *,
        schema: str,
        tables: Sequence[str] | str | None,
        other_server: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schema = schema
        self.tables = tables
        self.other_server = other_server

    def work(self, context: Context) -> dict[str, Any]:
        """Restore, compare, copy."""
        self.require_typed(tables=list, other_server=bool, all_or_nothing=bool)
        vault, source = VaultHook().open(reading=True), self.live()
        made = restore_into_schema(
            vault,
            find_snapshot(vault, self.snapshot),
            source.server,
            source.database,
            self.schema,
            tuple(self.tables or ()),
            installed=PostgresSourceHook().programs(),
            now=datetime.now(UTC),
            other_server=self.other_server is True,
            repository=self.repository,
            all_or_nothing=self.all_or_nothing is True,
            progress=self.progress,
            children=self.children,
            report=self.log.info,
        )
        for note in made.notes:
            self.log.info("Note: %s", note)
        for table, rows in made.rows.items():
            self.log.info("%s of %r has the %s of %s.", table, made.database, count_text(rows, "row"), self.snapshot)
        self.refuse_incomplete(made.not_rebuilt, f"the schema {self.schema!r} of {made.database!r}")
        return {
            "snapshot": self.snapshot,
            "server": str(source.server),
            "database": made.database,
            "schema": made.schema,
            "tables": dict(made.rows),
            "notes": list(made.notes),
            "damaged": dict(made.damaged),
        }


class RestoreBesideOperator(_RestoreOperator):
    """Restores a snapshot, given by its label, beside its live database, compares it and asks the smoke checks.

    The live database is not touched, and must be the one the snapshot was made of, on the same server, unless
    `other_server` says that it is meant. The result's `database` is what `PutInPlaceOperator` puts in its place.
    """

    template_fields: Sequence[str] = (*_RestoreOperator.template_fields, "other_server")

    def __init__(self, *, other_server: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.other_server = other_server

    def work(self, context: Context) -> dict[str, Any]:
        """Restore, compare, check."""
        self.require_typed(other_server=bool, all_or_nothing=bool)
        hook = VaultHook()
        vault, source = hook.open(reading=True), self.live()
        beside = restore_beside(
            vault,
            find_snapshot(vault, self.snapshot),
            source.server,
            source.database,
            installed=PostgresSourceHook().programs(),
            now=datetime.now(UTC),
            smoke=smoke_of(hook.platform, self.source),
            other_server=self.other_server is True,
            repository=self.repository,
            all_or_nothing=self.all_or_nothing is True,
            progress=self.progress,
            children=self.children,
            report=self.log.info,
        )
        for remark in beside.remarks:
            self.log.warning(remark)
        return self.result(beside.database, source.server, beside.restored) | {"live": source.database}


class ApproveReplacementOperator(AskingOperator, ApprovalOperator):
    """Asks whether what was restored beside the live `database`, by its record `restored`, is to take its place.

    On *Reject* what follows is skipped.
    """

    template_fields: Sequence[str] = ("database", "restored")

    def __init__(self, *, database: str, restored: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(subject="", within=timedelta(hours=12), **kwargs)
        self.database = database
        self.restored = restored

    def execute(self, context: Context) -> Any:
        """Say what would replace what, and ask."""
        done = self.restored
        self.subject = f"Replace the live database of {self.database} by {done['snapshot']}?"
        missing = tuple(NotRebuilt.from_record(record) for record in done["not_rebuilt"])
        held = f"({done['tables']} tables, {done['rows']:,} rows)"
        found = f"holds what its source held {held}, and every smoke check passed."
        if missing:
            found = f"is **incomplete** {held}. {markdown_of(missing)}"
        self.body = (
            f"It is restored as `{done['database']}` beside the live `{done['live']}` on {done['server']}, {found}\n\n"
            + "".join(f"* {note}\n" for note in done["notes"])
            + "\nOn approval the application is stopped, the two change names, and the application is started. What is "
            "live now is kept under a dated name."
        )
        return super().execute(context)


class PutInPlaceOperator(SourceOperator):
    """Puts a database that was restored beside the live one in its place, while the application is stopped.

    What was live stays, under the dated name in the result's `kept`. Never retried by itself: a person looks first.
    """

    template_fields: Sequence[str] = (*SourceOperator.template_fields, "database")

    def __init__(self, *, database: str, **kwargs: Any) -> None:
        kwargs.setdefault("retries", 0)
        super().__init__(**kwargs)
        self.database = database

    def work(self, context: Context) -> dict[str, Any]:
        """Stop, swap, start."""
        source = PostgresSourceHook().source(self.source)
        report = undo_in_place(
            source.server,
            source.database,
            self.database,
            now=datetime.now(UTC),
            application=application_of(VaultHook().platform),
            although_incomplete=True,  # whoever approved has been shown what it lacks
            report=self.log.info,
        )
        for remark in report.remarks:
            self.log.warning(remark)
        swapped = report.swapped
        self.log.info(
            "%r is what %s restored. What was live is kept as %r.", source.database, self.dag_id, swapped.kept
        )
        self.log.info("To go back: python -m lifeboat undo %s", swapped.kept)
        return {
            "database": source.database,
            "kept": swapped.kept,
            "swap_seconds": swapped.seconds,
            "down_seconds": report.down_seconds,
        }
