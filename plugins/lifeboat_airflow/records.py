"""What tasks hand on as XComs and asset events: plain, small, and nothing secret."""

from __future__ import annotations

from typing import Any

from lifeboat.errors import RepositoryError, SnapshotNotFound
from lifeboat.snapshot import SnapshotId, Tier
from lifeboat.vault import Snapshot, Vault


def snapshot_record(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot: its label and place, sizes in bytes, digests of what is stored, and facts of its source."""
    manifest = snapshot.manifest
    return {
        "snapshot": snapshot.label,
        "source": manifest.source,
        "tier": str(snapshot.tier),
        "id": str(snapshot.id),
        "repositories": list(snapshot.repositories),
        "began": manifest.began.isoformat(),
        "finished": manifest.finished.isoformat(),
        "plain_size": manifest.plain_size,
        "sealed_size": manifest.sealed_size,
        "sealed_sha256": {artifact.name: artifact.sealed_sha256 for artifact in manifest.artifacts},
        "facts": dict(manifest.facts),
    }


def find_snapshot(vault: Vault, label: str) -> Snapshot:
    """The snapshot that a record's `snapshot` names. Raises `SnapshotNotFound`."""
    source, tier, snapshot_id = label.split("/")
    if tier not in list(Tier):
        raise SnapshotNotFound(f"There is no tier {tier!r}.", hint=f"The tiers are {', '.join(Tier)}.")
    return vault.find(source, SnapshotId.parse(snapshot_id), Tier(tier))


def read_report(vault: Vault, key: str) -> bytes:
    """A report kept in the vault, from the first repository that has it. Raises `SnapshotNotFound`."""
    for member in vault.present:
        try:
            return b"".join(member.repository.get(key))
        except RepositoryError:
            continue
    raise SnapshotNotFound(f"No repository that answers has {key}.", hint="Look at the attestations of the snapshot.")
