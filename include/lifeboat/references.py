"""What a snapshot needs besides its own artifacts. Every decision to delete asks here, and nowhere else."""

from __future__ import annotations

from lifeboat.manifest import Manifest
from lifeboat.snapshot import SnapshotId


def packs_of(manifest: Manifest) -> frozenset[str]:
    """The ids of the packs a snapshot shares with others of its source."""
    return frozenset(pack.id for pack in manifest.packs)


def needs_of(manifest: Manifest) -> frozenset[SnapshotId]:  # noqa: ARG001 - no kind of snapshot builds on others yet
    """The snapshots of the same source without which this one cannot be restored."""
    return frozenset()
