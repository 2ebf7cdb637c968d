"""Looking whether a tree of files can be backed up, backing it up, and restoring files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, Context

from lifeboat.assembly import tree_source
from lifeboat.files.mirror import mirror_tree
from lifeboat.files.ready import check_tree_ready
from lifeboat.files.restore import restore_tree
from lifeboat.files.sync import back_up_tree
from lifeboat.progress import count_text, duration_text, size_text
from lifeboat_airflow.hooks import VaultHook
from lifeboat_airflow.links import SnapshotLink
from lifeboat_airflow.operators.base import SourceOperator
from lifeboat_airflow.records import find_snapshot, snapshot_record

FILE_SNAPSHOTS = Asset(name="file_snapshots", uri="lifeboat://snapshots/files")
"""Updated with every snapshot of a tree; the event's extra is the snapshot's record."""


class FilesPreflightOperator(SourceOperator):
    """Looks for whatever would stop the backup of a tree: keys, its root, also an empty one, state, repositories, room.

    Fails with all obstacles at once, before anything is begun. What would make the backup degraded is a warning in the
    log, and a text in the result's `remarks`.
    """

    template_fields: Sequence[str] = (*SourceOperator.template_fields, "files_are_gone")

    def __init__(self, *, files_are_gone: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.files_are_gone = files_are_gone

    def work(self, context: Context) -> dict[str, Any]:
        """Look, and say what was seen."""
        self.require_typed(files_are_gone=bool)
        hook = VaultHook()
        source = tree_source(hook.platform, self.source, hook.lookup)
        self.log.info("Looking whether %s (%s) can be backed up", source.name, source.path)
        seen = check_tree_ready(hook.open(), source, allow_vanished=self.files_are_gone is True)
        remarks = (*hook.loaded.remarks(), *seen)
        for remark in remarks:
            self.log.warning(remark)
        self.log.info("%s can be backed up.", source.name)
        return {"source": source.name, "remarks": list(remarks)}


class FileSyncOperator(SourceOperator):
    """Backs a tree of files up into every repository at once, reading only what has changed; the result is a record.

    A retry of a run that has made its snapshot finds that one again, and one that was killed is continued. What could
    not be read is a warning in the log, and makes the snapshot `partial` in the record's facts. `files_are_gone` allows
    that most of the tree has vanished since the last snapshot.
    """

    template_fields: Sequence[str] = (*SourceOperator.template_fields, "files_are_gone")
    operator_extra_links = (SnapshotLink(),)

    def __init__(self, *, files_are_gone: bool | str = False, **kwargs: Any) -> None:
        kwargs.setdefault("outlets", [FILE_SNAPSHOTS])
        super().__init__(**kwargs)
        self.files_are_gone = files_are_gone

    def work(self, context: Context) -> dict[str, Any]:
        """Back up, and say how it went."""
        self.require_typed(files_are_gone=bool)
        hook = VaultHook()
        source = tree_source(hook.platform, self.source, hook.lookup)
        self.log.info("Backing up %s (%s)", source.name, source.path)
        outcome = back_up_tree(
            hook.open(),
            source,
            began=datetime.now(UTC),
            scheduled_for=context["dag_run"].run_after,
            allow_vanished=self.files_are_gone is True,
            progress=self.progress,
            report=lambda text: self.log.warning("Not read as it is: %s", text),
        )
        manifest, facts = outcome.snapshot.manifest, outcome.snapshot.manifest.facts
        self.log.info("%s is in %s", outcome.snapshot.label, ", ".join(outcome.snapshot.repositories))
        if outcome.reused:
            self.log.info("An earlier try of this run had made it.")
        self.log.info(
            "%s of %s: %s read, %s stored, in %s",
            count_text(facts["files"], "file"),
            size_text(facts["size"]),
            count_text(facts["read_files"], "file"),
            size_text(facts["stored_size"]),
            duration_text((manifest.finished - manifest.began).total_seconds()),
        )
        if facts["partial"]:
            self.log.warning(
                "The snapshot is partial: %s could not be read, %s changed while being read.",
                count_text(facts["unreadable"], "thing"),
                count_text(facts["changed_while_read"], "file"),
            )
        for name, reason in outcome.lacking.items():
            self.log.warning("Degraded: %s does not have it: %s", name, reason)
        record = snapshot_record(outcome.snapshot) | {"reused": outcome.reused, "lacking": dict(outcome.lacking)}
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = record
        return record


class MirrorTreeOperator(SourceOperator):
    """Brings the plain, unencrypted mirror of a tree in line with what the last sync has seen, where it has one.

    What had to be left out is a warning in the log.
    """

    def work(self, context: Context) -> dict[str, Any] | None:
        """Mirror, and say what was done."""
        hook = VaultHook()
        mirror = hook.mirror(self.source)
        if mirror is None:
            self.log.info("%s has no mirror.", self.source)
            return None
        done = mirror_tree(tree_source(hook.platform, self.source, hook.lookup), mirror, now=datetime.now(UTC))
        for text in done.left_out:
            self.log.warning("Left out of the mirror: %s", text)
        self.log.info("%s/%s, which is not encrypted: %s", mirror.repository.url, done.prefix, vars(done))
        return vars(done)


class RestoreFilesOperator(SourceOperator):
    """Restores a tree, or what fits `patterns`, from the snapshot of this label, into the folder `to`.

    The folder is new, unless `into_existing` says that files in it may be replaced. Fails when anything could not be
    restored; everything else is.
    """

    template_fields: Sequence[str] = (
        *SourceOperator.template_fields, "snapshot", "to", "patterns", "into_existing", "repository",
    )  # fmt: skip
    operator_extra_links = (SnapshotLink(),)

    def __init__(
        self,
        *,
        snapshot: str,
        to: str,
        patterns: Sequence[str] | str | None = None,
        into_existing: bool | str = False,
        repository: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.to = to
        self.patterns = patterns
        self.into_existing = into_existing
        self.repository = repository

    def work(self, context: Context) -> dict[str, Any]:
        """Restore, and say how it went."""
        self.require_typed(patterns=list, into_existing=bool)
        vault = VaultHook().open(reading=True)
        done = restore_tree(
            vault,
            find_snapshot(vault, self.snapshot),
            Path(self.to),
            patterns=tuple(self.patterns or ()),
            into_existing=self.into_existing is True,
            repository=self.repository,
            progress=self.progress,
            report=self.log.info,
        )
        for note in done.notes:
            self.log.info("Note: %s", note)
        done.raise_faults()
        files = count_text(done.files, "file")
        self.log.info("%s (%s) of %s are in %s.", files, size_text(done.size), self.snapshot, self.to)
        return {"snapshot": self.snapshot, "target": self.to, "files": done.files, "size": done.size}
