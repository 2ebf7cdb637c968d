"""Copying a snapshot to where it is lacking, and reading it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context

from lifeboat.backup import inspectors
from lifeboat.copies import attest_read_back
from lifeboat.errors import ArtifactMismatch, RepositoryUnavailable
from lifeboat.files.check import pack_check
from lifeboat.healing import make_whole
from lifeboat.progress import size_text
from lifeboat.redis_source.backup import redis_inspectors
from lifeboat_airflow.hooks import PostgresSourceHook, VaultHook
from lifeboat_airflow.links import SnapshotLink
from lifeboat_airflow.operators.base import SourceOperator
from lifeboat_airflow.records import find_snapshot


class SnapshotOperator(SourceOperator):
    """Does something with one snapshot, given by its record."""

    template_fields: Sequence[str] = (*SourceOperator.template_fields, "snapshot")
    operator_extra_links = (SnapshotLink(),)

    def __init__(self, *, snapshot: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot


class ReplicateSnapshotOperator(SnapshotOperator):
    """Copies to every repository what it lacks of a snapshot, given by its record, and mends what is damaged there.

    Fails, to be retried, as long as a required repository lacks any of it. May be repeated.
    """

    def work(self, context: Context) -> dict[str, Any]:
        """Copy, and say what was copied where."""
        hook = VaultHook()
        vault = hook.open()
        replication = make_whole(vault, find_snapshot(vault, self.snapshot["snapshot"]), progress=self.progress)
        label = replication.snapshot.label
        for name, artifacts in replication.copied.items():
            self.log.info("%s was copied to %s: %s", label, name, ", ".join(artifacts) or "its manifest")
        if not replication.copied:
            self.log.info("No repository that answers lacks anything of %s.", label)
        for name, reason in replication.lacking.items():
            self.log.warning("%s still lacks %s: %s", name, label, reason)
        required = {repository.name for repository in hook.platform.repositories if repository.required}
        if lacking := sorted(required & replication.lacking.keys()):
            raise RepositoryUnavailable(
                f"{', '.join(lacking)} must have {label} and still lacks it: "
                + " ".join(replication.lacking[name] for name in lacking),
                hint="Once it answers again, clear this task: what is missing is copied, and nothing dumped again.",
            )
        return {
            "snapshot": label,
            "repositories": list(replication.snapshot.repositories),
            "copied": {name: list(artifacts) for name, artifacts in replication.copied.items()},
            "lacking": dict(replication.lacking),
        }


class VerifySnapshotOperator(SnapshotOperator):
    """Reads every byte of a snapshot, given by its record, back from every repository that has it.

    Digests must match; where an identity is at hand it must unseal, and its inside parse. What was seen is attested.
    Fails on any difference, after all repositories were read.
    """

    def work(self, context: Context) -> dict[str, Any]:
        """Read back, and say what was seen."""
        vault = VaultHook().open(reading=True)
        snapshot = find_snapshot(vault, self.snapshot["snapshot"])
        if gone := sorted(set(self.snapshot["repositories"]) - set(snapshot.repositories)):
            raise ArtifactMismatch(
                f"{', '.join(gone)} had {snapshot.label}, and has no manifest of it now that can be read and trusted.",
                hint="`lifeboat list` says what is wrong; `lifeboat replicate` puts back what is missing.",
            )
        parsers = {**inspectors(PostgresSourceHook().programs(), self.children), **redis_inspectors()}
        verifications = []
        for name in snapshot.repositories:
            self.log.info("Reading %s back from %s", snapshot.label, name)
            found = vault.verify(
                snapshot,
                name,
                inspectors=parsers,
                check_pack=pack_check(vault, snapshot, name),
                progress=self.progress,
            )
            how = "unsealed and parsed" if found.unsealed else "only its digests, since no identity is at hand"
            if not found.faults:
                self.log.info("%s is whole in %s: %s read, %s", snapshot.label, name, size_text(found.bytes_read), how)
            for artifact, fault in found.faults.items():
                self.log.error("%s in %s: %s", artifact, name, fault)
            verifications.append(found)
        attest_read_back(vault, snapshot, verifications)
        for verification in verifications:
            verification.raise_faults()
        return {
            "snapshot": snapshot.label,
            "repositories": list(snapshot.repositories),
            "unsealed": all(verification.unsealed for verification in verifications),
            "bytes_read": sum(verification.bytes_read for verification in verifications),
        }
