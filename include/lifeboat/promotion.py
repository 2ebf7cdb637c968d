"""Promotion: of every week (month) that has ended, its best snapshot is copied into the next tier.

The best is the newest that is proven. Candidates are proven first, newest first, where proving is on; where it is off,
one that reads back whole will do, with a warning. Weeks that were missed are caught up; running twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lifeboat.errors import LifeboatError, ObjectExists, ObjectNotFound, PromotionFailed, RepositoryError
from lifeboat.inventory import Copy, Inventory, take_inventory
from lifeboat.manifest import Artifact
from lifeboat.marks import require_usable
from lifeboat.repositories.contract import Repository
from lifeboat.retention import FROM, Period, Policy, awaiting_promotion, good, period_of, period_text
from lifeboat.snapshot import Kind, SnapshotId, Tier, artifact_key, manifest_key, snapshot_prefix
from lifeboat.stored import drain
from lifeboat.vault import ADDITIONS, Member, Snapshot, Vault

Check = Callable[[Snapshot], bool]
"""Proves a snapshot, or only reads it back, attests what it found, and tells whether it is good."""


ON_CHANGE = frozenset({Kind.CONFIG})
"""The kinds of sources that are archived only when they have changed."""


@dataclass(frozen=True)
class Promoted:
    """A snapshot that was copied into a tier, for its period; `copied` names the repositories it was copied in."""

    snapshot: Snapshot
    period: str
    copied: tuple[str, ...]
    proven: bool


@dataclass(frozen=True)
class Promotion:
    """What promoting one source did.

    `without` are periods that have ended without any snapshot that may be promoted, by why. `lacking` are repositories
    that keep the tier and could not be given a snapshot: (label and repository, reason). `idle` says what was looked
    at, and when there is more to do, where nothing was to be promoted.
    """

    source: str
    tier: Tier
    promoted: tuple[Promoted, ...] = ()
    without: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)
    latest: str = ""
    idle: str = ""

    def raise_failures(self) -> None:
        """Raise `PromotionFailed` when the period that ended last has nothing to be promoted."""
        if self.latest in self.without:
            raise PromotionFailed(
                f"{self.source} has no {self.tier} snapshot of {self.latest}: {self.without[self.latest]}",
                hint="Look at the backups and restore tests of that time. What is in other tiers stays until then.",
            )


def promote(
    vault: Vault,
    policy: Policy,
    source: str,
    tier: Tier,
    *,
    now: datetime,
    prove: Check | None,
    verify: Check,
) -> Promotion:
    """Promote the best snapshot of every period of a source that has ended, as far as the tier reaches back.

    `prove` is None where nothing of this source is proven; `verify` then reads candidates back. Either may raise when
    it cannot be done now: then what is proven already is taken, and where there is nothing, it is raised. Raises
    `SettingsError`, `RepositoryError`.
    """
    inventory = take_inventory(vault, source, now=now)
    promoted: list[Promoted] = []
    without: dict[str, str] = {}
    warnings: list[str] = []
    lacking: dict[str, str] = dict(_complete(vault, policy, inventory, tier, now))
    awaiting = awaiting_promotion(inventory.copies, policy, now, tier)
    for period, candidates in sorted(awaiting.items()):
        text = period_text(tier, period)
        best, why = _best(inventory, candidates, prove, verify)
        if best is None:
            without[text] = why
            continue
        if not best.proven:
            warnings.append(f"{best.snapshot.label} is not proven, only read back; it stands for {text} all the same.")
        given = copy_into(vault, _whole(vault, best.snapshot, now), tier)
        lacking |= {f"{given.snapshot.label} in {name}": reason for name, reason in given.lacking.items()}
        promoted.append(Promoted(given.snapshot, text, given.copied, best.proven))
    latest = _latest(inventory, tier, now)
    if latest is not None and not _stands(inventory.copies, tier, latest, now):
        text = period_text(tier, latest)
        if text not in {one.period for one in promoted} and policy.most(tier):
            without.setdefault(text, _why_none(inventory.copies, tier, latest, now))
    last = period_text(tier, latest) if latest is not None else ""
    idle = "" if promoted or without else _nothing_due(inventory, policy, source, tier, now)
    return Promotion(source, tier, tuple(promoted), without, tuple(warnings), lacking, last, idle)


def _nothing_due(inventory: Inventory, policy: Policy, source: str, tier: Tier, now: datetime) -> str:
    if not policy.most(tier):
        return f"{source}: nothing was to be promoted, since no repository keeps anything {tier}."
    stand = {period_of(tier, copy.id.began) for copy in inventory.copies if copy.tier is tier}
    newest = f", up to {period_text(tier, max(stand))}" if stand else ""
    end = now
    while period_of(tier, end) == period_of(tier, now):
        end += timedelta(days=1)
    return (
        f"{source}: nothing was to be promoted. In the tier {tier} stand {len(stand)} of {policy.most(tier)}{newest}; "
        f"{period_text(tier, period_of(tier, now))} ends before {end:%Y-%m-%d} 00:00 UTC."
    )


@dataclass(frozen=True)
class Given:
    """A snapshot as it stands in its new tier: in which repositories it was copied, and why not in others."""

    snapshot: Snapshot
    copied: tuple[str, ...]
    lacking: Mapping[str, str]


def copy_into(vault: Vault, snapshot: Snapshot, tier: Tier) -> Given:
    """Copy a snapshot into another tier within each repository that keeps that tier, with all that is attested of it.

    A repository that has not got it whole is given it by another. Packs are not copied: they stay locked as long as the
    new tier is, and are kept by its manifest, which is put last. May be repeated. Raises
    `RepositoryError` when no repository took it.
    """
    copied: list[str] = []
    lacking: dict[str, str] = {}
    keeping = {member.name for member in vault.present if tier in member.tiers}
    if not keeping & set(snapshot.repositories):
        given = vault.replicate(snapshot)  # by a repository that does not keep the tier itself
        snapshot, lacking = given.snapshot, dict(given.lacking)
    for member in vault.present:
        if tier in member.tiers and member.name in snapshot.repositories:
            try:
                _copy_within(vault, member, snapshot, tier)
                copied.append(member.name)
            except LifeboatError as error:
                lacking[member.name] = error.message
    if not copied:
        reasons = " ".join(f"{name}: {reason}" for name, reason in lacking.items())
        raise RepositoryError(
            f"{snapshot.label} could not be copied into the tier {tier} anywhere. {reasons}".strip(),
            hint="Run the promotion again when a repository that keeps the tier answers.",
        )
    there = Snapshot(snapshot.manifest, tier, tuple(copied))
    replication = vault.replicate(there)
    lacking = {name: reason for name, reason in lacking.items() if name not in replication.snapshot.repositories}
    return Given(replication.snapshot, (*copied, *replication.copied), {**lacking, **replication.lacking})


def _whole(vault: Vault, snapshot: Snapshot, now: datetime) -> Snapshot:
    """The snapshot in those repositories alone that have it whole: its proof may just have found a copy damaged."""
    copies = take_inventory(vault, snapshot.manifest.source, now=now).copies
    whole = {c.repository for c in copies if (c.tier, c.id) == (snapshot.tier, snapshot.id) and c.whole}
    return Snapshot(snapshot.manifest, snapshot.tier, tuple(name for name in snapshot.repositories if name in whole))


@dataclass(frozen=True)
class _Best:
    snapshot: Snapshot
    proven: bool


def _best(
    inventory: Inventory, candidates: Sequence[Copy], prove: Check | None, verify: Check
) -> tuple[_Best | None, str]:
    """The snapshot to promote of candidates, newest first, or why none will do."""
    fault: LifeboatError | None = None
    failed: list[SnapshotId] = []
    check = prove or verify
    for candidate in candidates:
        snapshot = inventory.snapshots[candidate.place]
        if candidate.standing.proven:
            return _Best(snapshot, proven=True), ""
        if prove is None and candidate.standing.verified:
            return _Best(snapshot, proven=False), ""
        if fault is not None:
            continue  # it cannot be done now; an older one may be proven already
        try:
            if check(snapshot):
                return _Best(snapshot, proven=prove is not None), ""
            failed.append(candidate.id)
        except LifeboatError as error:
            fault = error
    if fault is not None:
        raise fault
    tried = ", ".join(map(str, failed))
    return None, f"none of its snapshots passed: {tried}."


def _complete(vault: Vault, policy: Policy, inventory: Inventory, tier: Tier, now: datetime) -> Mapping[str, str]:
    """Give what is promoted already to repositories that keep the tier and lack it; by label why that did not go."""
    wanting = {member.name for member in vault.members if tier in member.tiers} & policy.counts.keys()
    lacking: dict[str, str] = {}
    newest = sorted({c.id: c.place for c in inventory.copies if c.tier is tier and good(c, now)}.items())
    for _, place in newest[-policy.most(tier) :] if policy.most(tier) else ():
        snapshot = inventory.snapshots[place]
        if wanting - set(snapshot.repositories):
            replication = vault.replicate(snapshot)
            lacking |= {f"{snapshot.label} in {name}": why for name, why in replication.lacking.items()}
    return lacking


def _latest(inventory: Inventory, tier: Tier, now: datetime) -> Period | None:
    """The period that ended last, when the source must have a snapshot of it: it was backed up before its end at all.

    What is archived only when it changes need not have one.
    """
    last = _before(tier, now)
    periods = {period_of(tier, copy.id.began) for copy in inventory.copies}
    kinds = {snapshot.manifest.kind for snapshot in inventory.snapshots.values()}
    if not any(period <= last for period in periods) or (kinds & ON_CHANGE and last not in periods):
        return None
    return last


def _before(tier: Tier, now: datetime) -> Period:
    moment = now
    while period_of(tier, moment) == period_of(tier, now):
        moment -= timedelta(days=1)
    return period_of(tier, moment)


def _stands(copies: Sequence[Copy], tier: Tier, period: Period, now: datetime) -> bool:
    return any(c.tier is tier and good(c, now) and period_of(tier, c.id.began) == period for c in copies)


def _why_none(copies: Sequence[Copy], tier: Tier, period: Period, now: datetime) -> str:
    there = {c.id: c for c in copies if c.tier in FROM[tier] and period_of(tier, c.id.began) == period}
    if not there:
        return "there is no snapshot of that time."
    said = [f"{c.id} ({_fault(c)})" for c in there.values() if not good(c, now)]
    return f"none of its snapshots is good: {', '.join(said)}."


def _fault(copy: Copy) -> str:
    standing = copy.standing
    if standing.failed:
        return "its last restore test has failed"
    if standing.suspect:
        return f"suspect: {standing.suspect}"
    return "partial" if not copy.complete else "not whole, or not to be trusted"


def _copy_within(vault: Vault, member: Member, snapshot: Snapshot, tier: Tier) -> None:
    manifest, store = snapshot.manifest, member.repository
    old, new = (snapshot_prefix(manifest.source, one, snapshot.id) for one in (snapshot.tier, tier))
    try:
        store.describe(manifest_key(manifest.source, tier, snapshot.id))
        return
    except ObjectNotFound:
        pass
    for artifact in manifest.artifacts:
        _copy_artifact(vault, member, snapshot, artifact, tier)
    for info in list(store.list(old)):
        if info.key.removeprefix(old).startswith(ADDITIONS):
            _copy_small(store, info.key, new + info.key.removeprefix(old))
    vault.lock_packs(member, manifest, tier)
    require_usable(store, manifest.source, manifest.packs)
    keys = [manifest_key(manifest.source, one, snapshot.id) for one in (snapshot.tier, tier)]
    with suppress(ObjectExists):
        store.copy(*keys, **member.locking(tier))


def _copy_artifact(vault: Vault, member: Member, snapshot: Snapshot, artifact: Artifact, tier: Tier) -> None:
    source = snapshot.manifest.source
    old, new = (artifact_key(source, one, snapshot.id, artifact.name) for one in (snapshot.tier, tier))
    try:
        made = member.repository.copy(old, new, storage_class=member.storage_classes.get(tier), **member.locking(tier))
    except ObjectExists:
        # Left by a promotion that was cut short; good only if it is what the manifest says.
        there = Snapshot(snapshot.manifest, tier, (member.name,))
        drain(vault.read_sealed(there, artifact, repository=member.name))
        return
    if made.size != artifact.sealed_size:
        raise RepositoryError(
            f"{member.name}: the copy {new} has {made.size} bytes, and {artifact.sealed_size} were expected.",
            hint="`lifeboat verify` shows where the snapshot is whole.",
        )


def _copy_small(store: Repository, old: str, new: str) -> None:
    with suppress(ObjectExists):
        store.copy(old, new)
