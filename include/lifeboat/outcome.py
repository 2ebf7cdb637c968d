"""What a finished backup of any kind is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lifeboat.errors import LifeboatError
from lifeboat.vault import Snapshot, Vault


@dataclass(frozen=True)
class BackupOutcome:
    """A finished backup.

    `reused`: an earlier try of the same run had made it. `lacking`: the repositories that do not have it, and why.
    """

    snapshot: Snapshot
    reused: bool
    lacking: Mapping[str, str]


def lacking(vault: Vault, snapshot: Snapshot, failures: Mapping[str, LifeboatError]) -> Mapping[str, str]:
    """The repositories that do not have a snapshot, and why."""
    reasons = {**vault.absent, **failures}
    return {
        member.name: reasons[member.name].message if member.name in reasons else "it was not written there"
        for member in vault.members
        if member.name not in snapshot.repositories
    }
