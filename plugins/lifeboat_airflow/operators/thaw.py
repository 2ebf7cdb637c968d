"""Asking archive storage for a snapshot, and waiting for it without a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from airflow.sdk import Context

from lifeboat.errors import RepositoryError
from lifeboat.repositories.contract import ThawState
from lifeboat.thawing import DAYS, Thaw, thaw_snapshot
from lifeboat_airflow.hooks import VaultHook
from lifeboat_airflow.operators.snapshots import SnapshotOperator
from lifeboat_airflow.records import find_snapshot
from lifeboat_airflow.triggers import SnapshotThawedTrigger


class ThawSnapshotOperator(SnapshotOperator):
    """Thaws a snapshot, given by its record, in `repository` or where least is missing. May be repeated.

    What can be read already is done at once; otherwise it waits in the triggerer, looking every `every`, for `limit` at
    most. A retry asks for nothing twice. `days` is how long S3 keeps it readable.
    """

    template_fields: Sequence[str] = (*SnapshotOperator.template_fields, "repository")

    def __init__(
        self,
        *,
        repository: str | None = None,
        days: int = DAYS,
        every: timedelta = timedelta(minutes=5),
        limit: timedelta = timedelta(hours=24),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.repository = repository
        self.days = days
        self.every = every
        self.limit = limit

    def execute(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Ask, or go on after the trigger."""
        self.event = event
        return super().execute(context)

    def work(self, context: Context) -> dict[str, Any]:
        """Ask for what is archived and wait for it; after that, look for ourselves."""
        if self.event and self.event["error"]:
            raise RepositoryError(self.event["error"])
        thaw = self._thaw(self.event["repository"] if self.event else self.repository)
        if thaw.state is not ThawState.READABLE:
            self._wait(thaw)
        self.log.info("All of %s can be read from %s", thaw.snapshot.label, thaw.repository)
        return {"snapshot": thaw.snapshot.label, "repository": thaw.repository, "artifacts": list(thaw.artifacts)}

    def _wait(self, thaw: Thaw) -> NoReturn:
        self.log.info("%s is being thawed: %s", thaw.snapshot.label, thaw.progress)
        trigger = SnapshotThawedTrigger(
            snapshot=thaw.snapshot.label,
            repository=thaw.repository,
            every=self.every.total_seconds(),
            until=(datetime.now(UTC) + self.limit).isoformat(),
        )
        # The trigger keeps the limit and says so; Airflow's own is for a triggerer that hangs.
        self.defer(trigger=trigger, method_name="execute", timeout=self.limit + 2 * self.every + timedelta(minutes=10))

    def _thaw(self, repository: str | None) -> Thaw:
        vault = VaultHook().open(reading=True)
        snapshot = find_snapshot(vault, self.snapshot["snapshot"])
        return thaw_snapshot(vault, snapshot, repository=repository, days=self.days)
