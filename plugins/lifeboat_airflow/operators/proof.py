"""Restore tests: choosing snapshots, and proving them by restoring them into scratch servers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from lifeboat.choosing import choose_snapshot, partial
from lifeboat.configuration import proving
from lifeboat.errors import SnapshotNotFound
from lifeboat.files.proof import remove_scratch_folders
from lifeboat.postgres.cluster import BASE, remove_leftovers
from lifeboat.postgres.kept_server import kept_servers
from lifeboat.progress import duration_text
from lifeboat.proving import Means, is_provable, prove
from lifeboat.recovery import practice
from lifeboat.report import store_report
from lifeboat.snapshot import Kind, Tier
from lifeboat.vault import Listing, Snapshot
from lifeboat_airflow.hooks import PostgresSourceHook, RedisSourceHook, VaultHook
from lifeboat_airflow.links import ReportLink, SnapshotLink
from lifeboat_airflow.operators.base import LifeboatOperator, SourceOperator
from lifeboat_airflow.records import find_snapshot


class RemoveScratchOperator(LifeboatOperator):
    """Removes what restore tests that were killed have left of their scratch servers, and kept ones in their time.

    Those of restore tests that run, and those that are kept for some hours more, are left alone.
    """

    def work(self, context: Context) -> None:
        """Remove it, and say what stays."""
        servers = remove_leftovers(BASE)
        folders = [*remove_scratch_folders(), *proving.remove_scratch_folders(), *practice.remove_leftovers()]
        for what, names in {"server": servers, "folder": folders}.items():
            for name in names:
                self.log.info("Removed: the scratch %s %s", what, name)
        if not servers and not folders:
            self.log.info("Nothing is left over of restore tests and practices on this host.")
        for kept in kept_servers(BASE):
            self.log.info("%s", kept)


class ChooseForProofOperator(LifeboatOperator):
    """Chooses the newest whole snapshot of every source, and one older at random; the result is for `expand_kwargs`.

    `snapshot`, a label, chooses that one alone. `repository` leaves out what that one lacks.
    """

    template_fields: Sequence[str] = ("sources", "snapshot", "repository", "older_too")

    def __init__(
        self,
        *,
        sources: Sequence[str] | str,
        snapshot: str | None = None,
        repository: str | None = None,
        older_too: bool | str = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sources = sources
        self.snapshot = snapshot
        self.repository = repository
        self.older_too = older_too

    def work(self, context: Context) -> list[dict[str, str]]:
        """Choose. Raises `SnapshotNotFound` for a source that has none."""
        self.require_typed(sources=list, older_too=bool)
        vault = VaultHook().open(reading=True)
        if self.snapshot:
            chosen = [find_snapshot(vault, self.snapshot)]
        else:
            listing = vault.list()
            try:
                newest = [choose_snapshot(vault, s, repository=self.repository, listing=listing) for s in self.sources]
            except SnapshotNotFound as error:
                error.transient = True  # the first backup may be under way
                raise
            chosen = newest + [older for s in newest if self.older_too and (older := self._older(listing, s))]
        for snapshot in chosen:
            self.log.info("To be proven: %s", snapshot.label)
        return [{"source": snapshot.manifest.source, "snapshot": snapshot.label} for snapshot in chosen]

    def _older(self, listing: Listing, newest: Snapshot) -> Snapshot | None:
        fitting = [
            snapshot
            for snapshot in listing.snapshots
            if snapshot.manifest.source == newest.manifest.source
            and is_provable(snapshot)
            and snapshot.id != newest.id
            and not partial(snapshot)
            and self.repository in (None, *snapshot.repositories)
        ]
        return random.choice(fitting) if fitting else None  # noqa: S311 - a sample, no secret


class ProveSnapshotOperator(SourceOperator):
    """Restores a snapshot, given by its label or record, into a scratch server, compares and checks it, and attests.

    A report is kept in the vault and linked from the task, also when the proof fails, as the task then does. With
    `keep_hours`, the scratch server goes on after the task, and its log says how to look into it. With `if_proven_for`,
    a tier, it is skipped where `prove` in platform.yaml does not cover that tier.
    """

    template_fields: Sequence[str] = (*SourceOperator.template_fields, "snapshot", "repository", "keep_hours")
    operator_extra_links = (SnapshotLink(), ReportLink())

    def __init__(
        self,
        *,
        snapshot: str | Mapping[str, Any],
        repository: str | None = None,
        keep_hours: int | str = 0,
        if_proven_for: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("map_index_template", "{{ task.snapshot }}")
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.repository = repository
        self.keep_hours = keep_hours
        self.if_proven_for = if_proven_for

    def work(self, context: Context) -> dict[str, Any]:
        """Prove, attest, report."""
        self.require_typed(keep_hours=int)
        hook = VaultHook()
        platform, vault = hook.platform, hook.open(reading=True)
        if self.if_proven_for is not None and not platform.prove.cover(Tier(self.if_proven_for)):
            raise AirflowSkipException(f"platform.yaml says `prove: {platform.prove}`.")
        label = self.snapshot if isinstance(self.snapshot, str) else self.snapshot["snapshot"]
        snapshot = find_snapshot(vault, label)
        if self.if_proven_for is not None and partial(snapshot):
            raise AirflowSkipException(f"{snapshot.label} has only {partial(snapshot)}.")
        keeps = snapshot.manifest.kind is Kind.POSTGRES  # of others nothing is started that could stay
        means = Means(
            platform,
            PostgresSourceHook().programs,
            RedisSourceHook().programs,
            self.repository,
            keep_for=(timedelta(hours=int(self.keep_hours)) or None) if keeps else None,
            children=self.children,
            progress=self.progress,
            report=self.log.info,
        )
        proof = prove(vault, snapshot, means)
        for note in proof.notes:
            self.log.info("Note: %s", note)
        for name, reason in proof.damaged.items():
            self.log.warning("The copy in %s is damaged: %s", name, reason)
        rto = platform.objectives.rto_hours
        keys = store_report(vault, [proof], platform=platform.platform, made=datetime.now(UTC), rto_hours=rto)
        result = proof.record() | {"reports": list(keys)}
        context["ti"].xcom_push(key="return_value", value=result)  # a failed task hands nothing on by itself
        proof.raise_failure()
        self.log.info("%s is proven, in %s of the %g h allowed.", label, duration_text(proof.total), rto)
        return result
