"""What `--json` prints of snapshots. Keys are only ever added; sizes are bytes, moments are ISO 8601 in UTC."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lifeboat.attestation import Attestation, Verdict
from lifeboat.choosing import partial
from lifeboat.vault import Listing, Replication, Snapshot, Verification


def snapshot_record(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot in short."""
    manifest = snapshot.manifest
    return {
        "id": str(snapshot.id),
        "source": manifest.source,
        "tier": str(snapshot.tier),
        "kind": str(manifest.kind),
        "began": manifest.began.isoformat(),
        "finished": manifest.finished.isoformat(),
        "complete": not partial(snapshot),
        "scheduled_for": manifest.scheduled_for.isoformat() if manifest.scheduled_for else None,
        "repositories": list(snapshot.repositories),
        "plain_size": manifest.plain_size,
        "sealed_size": manifest.sealed_size,
        "artifact_count": len(manifest.artifacts),
        "misdated": snapshot.misdated,
    }


def tested_record(snapshot: Snapshot, test: Attestation | None) -> dict[str, Any]:
    """A snapshot in short, and what its last restore test has shown."""
    proven = test is not None and test.verdict is Verdict.PROVEN
    return snapshot_record(snapshot) | {"proven": proven, "tested": test.made.isoformat() if test else None}


def full_record(snapshot: Snapshot, test: Attestation | None) -> dict[str, Any]:
    """A snapshot with its artifacts and facts."""
    manifest = snapshot.manifest
    return tested_record(snapshot, test) | {
        "vault_id": manifest.vault_id,
        "written_by": manifest.written_by,
        "artifacts": [asdict(artifact) for artifact in manifest.artifacts],
        "facts": manifest.facts,
    }


def problem_records(listing: Listing) -> list[dict[str, str]]:
    """What could not be read: `place` is a repository, or a repository and key."""
    return [{"place": place, "reason": reason} for place, reason in listing.problems]


def verification_record(verification: Verification) -> dict[str, Any]:
    """What reading a snapshot back from one repository showed."""
    return {
        "repository": verification.repository,
        "whole": not verification.faults,
        "unsealed": verification.unsealed,
        "bytes_read": verification.bytes_read,
        "faults": {artifact: fault.message for artifact, fault in verification.faults.items()},
    }


def replication_record(replication: Replication) -> dict[str, Any]:
    """What replicating a snapshot did."""
    return {
        "snapshot": snapshot_record(replication.snapshot),
        "copied": {name: list(artifacts) for name, artifacts in replication.copied.items()},
        "lacking": dict(replication.lacking),
    }
