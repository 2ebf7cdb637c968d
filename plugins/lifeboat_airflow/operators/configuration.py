"""Looking whether configuration files can be archived, and archiving them when they have changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Asset, AssetWatcher, Context

from lifeboat.configuration.archiving import archive_configuration, check_configuration
from lifeboat.configuration.difference import changes_of
from lifeboat.progress import count_text, size_text
from lifeboat_airflow.hooks import VaultHook
from lifeboat_airflow.links import SnapshotLink
from lifeboat_airflow.operators.base import SourceOperator
from lifeboat_airflow.records import snapshot_record
from lifeboat_airflow.triggers import ConfigurationChangedTrigger


def watched_configuration(name: str) -> Asset:
    """A set of configuration files as an asset that is updated whenever they change."""
    watcher = AssetWatcher(name=f"{name}_files", trigger=ConfigurationChangedTrigger(source=name))
    return Asset(name=f"configuration_{name}", uri=f"lifeboat://configuration/{name}", watchers=[watcher])


class ConfigPreflightOperator(SourceOperator):
    """Looks for whatever would stop the archiving of configuration files: keys, files that cannot be read, no room.

    Fails with all obstacles at once. A path that is not there is a warning in the log, and a text in `remarks`.
    """

    def work(self, context: Context) -> dict[str, Any]:
        """Look, and say what was seen."""
        hook = VaultHook()
        remarks = (*hook.loaded.remarks(), *check_configuration(hook.open(), hook.configuration(self.source)))
        for remark in remarks:
            self.log.warning(remark)
        self.log.info("%s can be archived.", self.source)
        return {"source": self.source, "remarks": list(remarks)}


class ConfigArchiveOperator(SourceOperator):
    """Archives configuration files into every repository at once, if they have changed, and says what has.

    The result is the record of the snapshot that holds them as they are; `changed` says whether this run has made it.
    No secret is in the log. `again` archives them in any case.
    """

    template_fields: Sequence[str] = (*SourceOperator.template_fields, "again")
    operator_extra_links = (SnapshotLink(),)

    def __init__(self, *, again: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.again = again

    def work(self, context: Context) -> dict[str, Any]:
        """Archive, and say what has changed."""
        self.require_typed(again=bool)
        hook = VaultHook()
        vault = hook.open()
        archived = archive_configuration(
            vault,
            hook.configuration(self.source),
            began=datetime.now(UTC),
            scheduled_for=context["dag_run"].run_after,
            again=self.again is True,
            progress=self.progress,
        )
        for remark in archived.listed.remarks:
            self.log.warning(remark)
        snapshot, label = archived.snapshot, archived.snapshot.label
        where = ", ".join(snapshot.repositories)
        if archived.changed:
            files, size = count_text(len(archived.listed.files), "file"), size_text(snapshot.manifest.sealed_size)
            self.log.info("%s is in %s: %s, %s stored", label, where, files, size)
            for line in changes_of(vault, archived):
                self.log.info("%s", line)
        else:
            self.log.info("Nothing has changed since %s, in %s.", label, where)
        for name, reason in archived.lacking.items():
            self.log.warning("Degraded: %s does not have it: %s", name, reason)
        return snapshot_record(snapshot) | {"changed": archived.changed, "lacking": dict(archived.lacking)}
