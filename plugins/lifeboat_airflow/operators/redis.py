"""Looking whether a Redis can be backed up, and backing it up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Asset, Context

from lifeboat.progress import count_text, duration_text, size_text
from lifeboat.redis_source.backup import back_up_redis, check_redis_ready
from lifeboat_airflow.hooks import RedisSourceHook, VaultHook
from lifeboat_airflow.links import SnapshotLink
from lifeboat_airflow.operators.base import SourceOperator
from lifeboat_airflow.records import snapshot_record

REDIS_SNAPSHOTS = Asset(name="redis_snapshots", uri="lifeboat://snapshots/redis")
"""Updated with every snapshot of a Redis; the event's extra is the snapshot's record."""


class RedisPreflightOperator(SourceOperator):
    """Looks for whatever would stop the backup of a Redis: keys, repositories, room, password, privileges.

    Fails with all obstacles at once, before anything is begun. What would make the backup degraded is a warning in the
    log, and a text in the result's `remarks`.
    """

    def work(self, context: Context) -> dict[str, Any]:
        """Look, and say what was seen."""
        hook = RedisSourceHook()
        source = hook.source(self.source)
        self.log.info("Looking whether %s (%s) can be backed up", source.name, source.server)
        remarks = (*hook.loaded.remarks(), *check_redis_ready(VaultHook().open(), source))
        for remark in remarks:
            self.log.warning(remark)
        self.log.info("%s can be backed up.", source.name)
        return {"source": source.name, "remarks": list(remarks)}


class RedisBackupOperator(SourceOperator):
    """Streams a Redis's RDB into every repository at once; the result is the snapshot's record.

    A retry of a run that has made its snapshot finds that one again. Succeeds when at least one repository has all of
    it; `lacking` in the result says which do not, and why.
    """

    operator_extra_links = (SnapshotLink(),)

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("outlets", [REDIS_SNAPSHOTS])
        super().__init__(**kwargs)

    def work(self, context: Context) -> dict[str, Any]:
        """Back up, and say how it went."""
        source = RedisSourceHook().source(self.source)
        self.log.info("Backing up %s (%s)", source.name, source.server)
        outcome = back_up_redis(
            VaultHook().open(),
            source,
            began=datetime.now(UTC),
            scheduled_for=context["dag_run"].run_after,
            progress=self.progress,
        )
        manifest = outcome.snapshot.manifest
        self.log.info("%s is in %s", outcome.snapshot.label, ", ".join(outcome.snapshot.repositories))
        if outcome.reused:
            self.log.info("An earlier try of this run had made it.")
        keys = manifest.facts["keys"]
        held = "Keys were not counted" if keys is None else count_text(keys, "key")
        took = duration_text((manifest.finished - manifest.began).total_seconds())
        sizes = size_text(manifest.plain_size), size_text(manifest.sealed_size)
        self.log.info("%s: %s sent, %s stored, in %s", held, *sizes, took)
        for name, reason in outcome.lacking.items():
            self.log.warning("Degraded: %s does not have it: %s", name, reason)
        record = snapshot_record(outcome.snapshot) | {"reused": outcome.reused, "lacking": dict(outcome.lacking)}
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = record
        return record
