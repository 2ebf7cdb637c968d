"""Proving a snapshot of whatever kind: one table says how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from lifeboat.children import Children
from lifeboat.configuration.proving import prove_configuration
from lifeboat.errors import SettingsError
from lifeboat.files.proof import BASE, prove_tree
from lifeboat.postgres.programs import Programs
from lifeboat.progress import Report
from lifeboat.proof import Proof, prove_snapshot
from lifeboat.redis_source.programs import RedisProgram
from lifeboat.redis_source.proof import prove_redis
from lifeboat.settings import Platform
from lifeboat.smoke import SmokeChecks
from lifeboat.snapshot import Kind
from lifeboat.vault import Progress, Snapshot, Vault


@dataclass(frozen=True)
class Means:
    """What a restore test may need: programs of servers, a folder for scratch data, and who listens."""

    platform: Platform
    installed: Callable[[], Sequence[Programs]]
    installed_redis: Callable[[], Sequence[RedisProgram]]
    repository: str | None = None
    base: Path | None = None
    keep_for: timedelta | None = None
    children: Children = field(default_factory=Children)
    progress: Progress | None = None
    report: Report | None = None


def prove(vault: Vault, snapshot: Snapshot, means: Means) -> Proof:
    """Prove a snapshot by really restoring it, and attest the outcome; see `PROVERS`. Raises as they do."""
    return PROVERS[snapshot.manifest.kind](vault, snapshot, means)


def is_provable(snapshot: Snapshot) -> bool:
    """Whether there is a way to prove snapshots of this kind."""
    return snapshot.manifest.kind in PROVERS


def smoke_checks_of(platform: Platform, snapshot: Snapshot) -> SmokeChecks:
    """The smoke checks of a snapshot's source; none of one that platform.yaml no longer names."""
    source = snapshot.manifest.source
    return platform.smoke_checks(source) if source in platform.names(Kind.POSTGRES) else SmokeChecks()


def _prove_database(vault: Vault, snapshot: Snapshot, means: Means) -> Proof:
    return prove_snapshot(
        vault,
        snapshot,
        installed=means.installed(),
        checks=smoke_checks_of(means.platform, snapshot),
        repository=means.repository,
        keep_for=means.keep_for,
        base=means.base,
        children=means.children,
        progress=means.progress,
        report=means.report,
    )


def _prove_tree(vault: Vault, snapshot: Snapshot, means: Means) -> Proof:
    if means.keep_for:
        raise SettingsError("Only scratch servers can be kept, not scratch folders.", hint="Restore the tree instead.")
    source = snapshot.manifest.source
    is_named = source in means.platform.names(Kind.FILES)
    is_newest = is_named and vault.find(source).id == snapshot.id
    return prove_tree(
        vault,
        snapshot,
        tree=means.platform.file_tree(source).path if is_newest else None,
        repository=means.repository,
        base=means.base or BASE,
        children=means.children,
        progress=means.progress,
        report=means.report,
    )


def _prove_configuration(vault: Vault, snapshot: Snapshot, means: Means) -> Proof:
    return prove_configuration(vault, snapshot, repository=means.repository, base=means.base, report=means.report)


def _prove_redis(vault: Vault, snapshot: Snapshot, means: Means) -> Proof:
    return prove_redis(
        vault,
        snapshot,
        installed=means.installed_redis(),
        repository=means.repository,
        base=means.base,
        children=means.children,
        progress=means.progress,
        report=means.report,
    )


PROVERS: Mapping[Kind, Callable[[Vault, Snapshot, Means], Proof]] = {
    Kind.POSTGRES: _prove_database,
    Kind.FILES: _prove_tree,
    Kind.CONFIG: _prove_configuration,
    Kind.REDIS: _prove_redis,
}
"""How snapshots of each kind are proven."""
