"""Pruning: carrying a retention plan out, and sweeping what belongs to no snapshot any more.

Every removal is decided anew, from a fresh listing, at its own moment. The manifest goes first: no manifest, no
snapshot. Whatever a crash leaves after that is a leftover, which a later sweep finds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lifeboat.dates import BELIEVED_SKEW
from lifeboat.errors import LifeboatError, ObjectNotFound, PruneRefused, RepositoryError
from lifeboat.inventory import Copy, Inventory, Leftover, Place, take_inventory
from lifeboat.pack_sweep import sweep_packs
from lifeboat.progress import count_text
from lifeboat.repositories.contract import ObjectInfo
from lifeboat.retention import Policy, RetentionPlan, next_removal, plan_retention
from lifeboat.snapshot import manifest_key, parse_manifest_key, snapshot_prefix
from lifeboat.vault import Member, Vault

GRACE = timedelta(days=3)
"""How old leftovers must be before they are swept; longer than any backup takes."""

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Removed:
    """What was removed of a repository: a snapshot by its label, or leftovers, and the bytes that freed."""

    what: str
    repository: str
    tier: str
    size: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pruned:
    """What pruning did. `postponed` could not go yet, `failed` could not be removed: (what, repository, reason).

    `idle` says what was looked at, and when the next may go, where nothing was due.
    """

    removed: tuple[Removed, ...] = ()
    postponed: tuple[tuple[str, str, str], ...] = ()
    failed: tuple[tuple[str, str, str], ...] = ()
    problems: tuple[tuple[str, str], ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    idle: str = ""

    def freed(self) -> Mapping[str, Mapping[str, int]]:
        """Bytes by repository and tier."""
        freed: dict[str, dict[str, int]] = {}
        for one in self.removed:
            by_tier = freed.setdefault(one.repository, {})
            by_tier[one.tier] = by_tier.get(one.tier, 0) + one.size
        return freed

    def raise_failures(self) -> None:
        """Raise `PruneRefused` when the brake refused, or a repository did not remove what it was asked to."""
        said = [*self.refusals.values(), *(f"{what} in {name}: {why}" for what, name, why in self.failed)]
        if said:
            raise PruneRefused(f"Not everything was pruned: {' '.join(said)}", hint=BRAKE_HINT if self.refusals else "")


BRAKE_HINT = (
    "Nothing of that source was removed. Look at the clock and at `retention` in platform.yaml, and at "
    "`lifeboat prune --dry-run`; if it is meant, `lifeboat prune --remove-much-at-once-although-it-cannot-be-undone`."
)


def plan_prune(vault: Vault, policy: Policy, source: str | None, now: datetime) -> tuple[RetentionPlan, Inventory]:
    """What pruning would do now, and the inventory it was decided on. A dry run is this and no more."""
    inventory = take_inventory(vault, source, now=now)
    return plan_retention(inventory.copies, policy, now), inventory


def prune(
    vault: Vault,
    policy: Policy,
    source: str | None,
    *,
    clock: Clock,
    despite_brake: bool = False,
) -> Pruned:
    """Remove what the policy keeps no longer, of one source or of all. May be repeated, and run beside itself.

    Where the brake refuses a source, nothing of it is removed. What a lock or a missing answer forbids is postponed.
    """
    plan, inventory = plan_prune(vault, policy, source, clock())
    skew: dict[str, str] = {}
    if plan.remove:
        clock, skew = trusted_clock(vault, clock)
    if skew:
        plan, inventory = plan_prune(vault, policy, source, clock())
    removed: list[Removed] = []
    failed: list[tuple[str, str, str]] = []
    postponed = [(d.copy.label, d.copy.repository, "; ".join(d.reasons)) for d in plan.keep if d.postponed]
    for decision in plan.remove:
        copy = decision.copy
        if copy.source in plan.refusals and not despite_brake:
            continue
        try:
            why_not, freed = _remove(vault, policy, copy, clock)
        except RepositoryError as error:
            failed.append((copy.label, copy.repository, error.message))
            continue
        if why_not:
            postponed.append((copy.label, copy.repository, why_not))
        else:
            removed.append(Removed(copy.label, copy.repository, str(copy.tier), freed, decision.reasons))
    refusals = {} if despite_brake else plan.refusals
    problems = (*skew.items(), *inventory.silent.items(), *inventory.problems)
    idle = "" if plan.remove else _nothing_due(inventory, policy, source, clock())
    return Pruned(tuple(removed), tuple(postponed), tuple(failed), problems, refusals, idle)


def _nothing_due(inventory: Inventory, policy: Policy, source: str | None, now: datetime) -> str:
    seen = count_text(len({copy.place for copy in inventory.copies}), "snapshot")
    where = ", ".join(sorted({copy.repository for copy in inventory.copies}))
    if not where:
        return f"Nothing is due: there are no snapshots{f' of {source}' if source else ''}."
    due = next_removal(inventory.copies, policy, now)
    then = f"the next may go on {due:%Y-%m-%d at %H:%M} UTC" if due else "the next goes once there are newer snapshots"
    return f"Nothing is due. Looked at: {seen} of {source or 'all sources'}, in {where}; {then}."


def trusted_clock(vault: Vault, clock: Clock) -> tuple[Clock, dict[str, str]]:
    """A clock that is never ahead of any repository's own, and by repository how far the host's is.

    A host whose clock has jumped ahead would end holds and graces early. Each repository is given a small object, asked
    when that was put, and relieved of it. Raises `RepositoryError` when none can be asked.
    """
    ahead: dict[str, timedelta] = {}
    fault: RepositoryError | None = None
    for member in vault.present:
        key = f"probes/{os.urandom(8).hex()}"
        try:
            member.repository.put(key, [b"What is the time?\n"])
            host = clock()
            ahead[member.name] = host - member.repository.describe(key).modified
            member.repository.delete(key)
        except RepositoryError as error:
            fault = error
    if not ahead:
        raise fault or RepositoryError("No repository answers.", hint="`lifeboat preflight` shows why.")
    most = max(*ahead.values(), timedelta())
    said = {
        name: f"The clock of this host is {difference} ahead of it; pruning goes by the earlier one."
        for name, difference in ahead.items()
        if difference > BELIEVED_SKEW
    }
    return (clock if most <= BELIEVED_SKEW else lambda: clock() - most), said


def _remove(vault: Vault, policy: Policy, copy: Copy, clock: Clock) -> tuple[str, int]:
    """Remove one copy, decided anew. Returns why not, or nothing, and the bytes freed. Raises `RepositoryError`."""
    plan, inventory = plan_prune(vault, policy, copy.source, clock())
    decision = next(
        (d for d in plan.remove if (d.copy.place, d.copy.repository) == (copy.place, copy.repository)), None
    )
    if decision is None:
        kept = next((d for d in plan.keep if (d.copy.place, d.copy.repository) == (copy.place, copy.repository)), None)
        return ("; ".join(kept.reasons) if kept else "it is not listed any more"), 0
    member = next(m for m in vault.present if m.name == copy.repository)
    _require_witnesses(vault, plan, decision.copy)
    prefix = snapshot_prefix(*copy.place)
    objects = list(member.repository.list(prefix))
    if unknown := _unknown_attestation(objects, inventory, copy):
        return f"it was just attested: {unknown}", 0
    if locked := _locked(member, objects, clock()):
        return f"locked until {locked:%Y-%m-%d %H:%M} UTC", 0
    return "", _delete(member, objects)


def _require_witnesses(vault: Vault, plan: RetentionPlan, copy: Copy) -> None:
    """Raise unless what is said to remain in this tier here, or whole elsewhere of this very snapshot, is really there.

    A listing may show what is gone. Asking for an object by its name is answered from the store itself.
    """
    remaining = [
        d.copy
        for d in plan.keep
        if d.copy.source == copy.source
        and ((d.copy.repository, d.copy.tier) == (copy.repository, copy.tier) or d.copy.place == copy.place)
    ]
    repositories = {member.name: member.repository for member in vault.present}
    list(vault.pool.map(lambda c: repositories[c.repository].describe(manifest_key(*c.place)), remaining))


def _unknown_attestation(objects: Iterable[ObjectInfo], inventory: Inventory, copy: Copy) -> str:
    """An attestation that the decision did not know of; empty when there is none."""
    known = inventory.attested.get(copy.place, frozenset())
    return next((o.key for o in objects if "/attestations/" in o.key and o.key not in known), "")


def _locked(member: Member, objects: Sequence[ObjectInfo], now: datetime) -> datetime | None:
    """Until when the store keeps any of the objects, by its own word; None when it keeps none."""
    until: list[datetime] = []
    for info in objects:
        with suppress(ObjectNotFound):  # another prune is at it
            described = member.repository.describe(info.key)
            if described.locked_until and described.locked_until > now:
                until.append(described.locked_until)
    return max(until, default=None)


def _delete(member: Member, objects: Sequence[ObjectInfo]) -> int:
    """Delete a snapshot's objects: its manifest first, what is attested last. Returns their bytes."""
    manifests = [o for o in objects if parse_manifest_key(o.key) is not None]
    others = sorted((o for o in objects if o not in manifests), key=lambda o: "/attestations/" in o.key)
    for info in (*manifests, *others):
        member.repository.delete(info.key)
    return sum(info.size for info in objects)


# ---- leftovers ------------------------------------------------------------------------------------------------------


def sweep(
    vault: Vault,
    policy: Policy,
    *,
    clock: Clock,
    grace: timedelta = GRACE,
) -> Pruned:
    """Remove what belongs to no snapshot and is older than `grace`: of attempts, uploads, prunes, and packs.

    May be repeated, and run beside backups, prunes and itself. What another repository has a snapshot of, which this
    one still owes, is left for `replicate` to go on with.
    """
    removed: list[Removed] = []
    postponed: list[tuple[str, str, str]] = []
    failed: list[tuple[str, str, str]] = []
    clock, skew = trusted_clock(vault, clock)
    before = clock() - grace
    plan, inventory = plan_prune(vault, policy, None, clock())
    owed = {(one.place, one.repository) for one in plan.owed}
    problems = (*skew.items(), *inventory.silent.items(), *inventory.problems)
    for leftover in inventory.leftovers:
        place = leftover.source, leftover.tier, leftover.id
        if (place, leftover.repository) in owed or not _old(leftover.objects, before):
            continue
        try:
            freed = _sweep_leftover(vault, leftover, before)
        except RepositoryError as error:
            failed.append((f"leftovers of {leftover.id}", leftover.repository, error.message))
            continue
        if freed:
            what = f"leftovers of {leftover.source}/{leftover.tier}/{leftover.id}"
            removed.append(Removed(what, leftover.repository, str(leftover.tier), freed))
    for member in vault.present:
        try:
            for probe in list(member.repository.list("probes/")):
                if probe.modified < before:
                    member.repository.delete(probe.key)
            if dropped := member.repository.drop_unfinished(before):
                removed.append(Removed(f"{dropped} unfinished uploads", member.name, "unfinished", 0))
            owing = {place for place, name in owed if name == member.name}
            for swept in sweep_packs(vault, member, inventory, owing, clock=clock, grace=grace):
                if swept.packs:
                    what = f"{len(swept.packs)} packs of {swept.source}"
                    removed.append(Removed(what, member.name, "packs", swept.size))
                if swept.locked:
                    what, until = f"{len(swept.locked)} packs of {swept.source}", max(swept.locked.values())
                    postponed.append((what, member.name, f"locked until {until:%Y-%m-%d %H:%M} UTC"))
        except LifeboatError as error:
            failed.append(("leftovers", member.name, error.message))
    idle = "" if removed or postponed or failed else _nothing_left_over(vault, inventory, owed, grace)
    return Pruned(tuple(removed), tuple(postponed), tuple(failed), problems, idle=idle)


def _nothing_left_over(
    vault: Vault, inventory: Inventory, owed: Collection[tuple[Place, str]], grace: timedelta
) -> str:
    """What a sweep has looked at that found nothing due; young attempts may be backups at work."""
    where = ", ".join(member.name for member in vault.present)
    young = [one for one in inventory.leftovers if ((one.source, one.tier, one.id), one.repository) not in owed]
    if not young:
        return f"Nothing is left over in {where} that is older than {grace.days} days."
    due = min(max(info.modified for info in one.objects) for one in young) + grace
    seen = count_text(len(young), "unfinished attempt")
    return f"Nothing is due in {where}: {seen} may be at work yet; the first may go on {due:%Y-%m-%d at %H:%M} UTC."


def _old(objects: Iterable[ObjectInfo], before: datetime) -> bool:
    """Whether all are older, by the store's own clock. The id's time is the host's, and may be anything."""
    return all(info.modified < before for info in objects)


def _sweep_leftover(vault: Vault, leftover: Leftover, before: datetime) -> int:
    """Remove leftovers, looked at anew: still no manifest, by its very name, and nothing new. Returns bytes freed."""
    member = next(m for m in vault.present if m.name == leftover.repository)
    place = leftover.source, leftover.tier, leftover.id
    try:
        member.repository.describe(manifest_key(*place))
    except ObjectNotFound:
        objects = list(member.repository.list(snapshot_prefix(*place)))
        if not _old(objects, before) or any(parse_manifest_key(o.key) for o in objects):
            return 0
        return _delete(member, objects)
    return 0


def summary(pruned: Pruned) -> Mapping[str, object]:
    """What was done, as JSON values."""
    return {
        "removed": [
            {"what": r.what, "repository": r.repository, "tier": r.tier, "bytes": r.size, "reasons": list(r.reasons)}
            for r in pruned.removed
        ],
        "postponed": [_record(*one) for one in pruned.postponed],
        "failed": [_record(*one) for one in pruned.failed],
        "refused": dict(pruned.refusals),
        "problems": [{"place": place, "reason": reason} for place, reason in pruned.problems],
        "bytes_freed": {repository: dict(tiers) for repository, tiers in pruned.freed().items()},
    }


def _record(what: str, repository: str, reason: str) -> Mapping[str, str]:
    return {"what": what, "repository": repository, "reason": reason}


def newest_first(plan: RetentionPlan) -> Sequence[tuple[bool, Copy, tuple[str, ...]]]:
    """Every line of a plan, newest first: whether it stays, the copy, the reasons."""
    lines = [(True, d.copy, d.reasons) for d in plan.keep] + [(False, d.copy, d.reasons) for d in plan.remove]
    return sorted(lines, key=lambda line: (line[1].source, line[1].tier, line[1].id, line[1].repository), reverse=True)
