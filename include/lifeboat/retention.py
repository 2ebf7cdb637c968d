"""Retention: what is kept, what is removed, and why. A decision about values; `prune.py` carries it out.

Counted are days, ISO weeks and months (UTC) that have a good snapshot, not time that has passed: an outage, or a clock
that is wrong, makes nothing old. A listing that lacks something can only make a plan keep more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from lifeboat import dates
from lifeboat.errors import SettingsError
from lifeboat.inventory import Copy, Place
from lifeboat.snapshot import SnapshotId, Tier

Period = tuple[int, ...]
"""A day, a week or a month; later ones are greater."""

RECENT = timedelta(hours=24)
"""Nothing is removed that was made, or put where it is, so short a time ago."""

CANDIDATES = 2
"""So many of the newest good snapshots of a week or month stay until one of them is promoted, and the newest proven."""

FEW = 3
"""So many removals at once never alarm the brake."""

FROM: Mapping[Tier, tuple[Tier, ...]] = {
    Tier.DAILY: (),
    Tier.WEEKLY: (Tier.DAILY,),
    Tier.MONTHLY: (Tier.DAILY, Tier.WEEKLY),
}
"""The tiers that a tier's snapshots are promoted from."""


@dataclass(frozen=True)
class Policy:
    """How many days, weeks and months of good snapshots each repository keeps, by its name.

    `brake` is the share of a source's snapshots that may vanish from the vault at once. Raises `SettingsError` for
    counts nobody can mean.
    """

    counts: Mapping[str, Mapping[Tier, int]]
    brake: float = 0.25

    def __post_init__(self) -> None:
        for name, counts in self.counts.items():
            if counts.get(Tier.DAILY, 0) < 1 or min(counts.values()) < 0:
                shown = ", ".join(f"{tier}: {count}" for tier, count in counts.items())
                raise SettingsError(
                    f"The retention of {name} ({shown}) would keep nothing.",
                    hint="Give at least one day, and no negative numbers, in platform.yaml.",
                )
        if not 0 < self.brake <= 1:
            raise SettingsError(f"brake = {self.brake}: is no share.", hint="Give a number above 0 and up to 1.")

    def count(self, repository: str, tier: Tier) -> int | None:
        """How many periods a repository keeps in a tier; None where nobody said."""
        counts = self.counts.get(repository)
        return None if counts is None else counts.get(tier, 0)

    def most(self, tier: Tier) -> int:
        """The most periods that any repository keeps in a tier."""
        return max((counts.get(tier, 0) for counts in self.counts.values()), default=0)


@dataclass(frozen=True)
class Decision:
    """A copy, and why it is kept or removed. `postponed`: it would go, but cannot yet."""

    copy: Copy
    reasons: tuple[str, ...]
    postponed: bool = False


@dataclass(frozen=True)
class Owed:
    """A snapshot that a repository ought to have whole, and has not."""

    place: Place
    repository: str


@dataclass(frozen=True)
class RetentionPlan:
    """What to keep and what to remove, with reasons, oldest first; what repositories owe; and why the brake refuses.

    `refusals` are by source. A source that is refused is not pruned at all.
    """

    keep: tuple[Decision, ...] = ()
    remove: tuple[Decision, ...] = ()
    owed: tuple[Owed, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)

    def removes(self, copy: Copy) -> bool:
        """Whether this copy is to be removed."""
        return any(d.copy.place == copy.place and d.copy.repository == copy.repository for d in self.remove)


def plan_retention(copies: Iterable[Copy], policy: Policy, now: datetime) -> RetentionPlan:
    """Decide on every copy: in each tier and repository, the newest periods of each source stay, and what is protected.

    `copies` are all there are of a source in all repositories that answer. Pure: may be repeated, changes nothing.
    """
    by_source: dict[str, list[Copy]] = {}
    for copy in copies:
        by_source.setdefault(copy.source, []).append(copy)
    keep: list[Decision] = []
    remove: list[Decision] = []
    owed: list[Owed] = []
    refusals: dict[str, str] = {}
    for source, theirs in sorted(by_source.items()):
        decided = _Source(theirs, policy, now).decide()
        keep += decided.keep
        remove += decided.remove
        owed += decided.owed
        if refusal := _refusal(source, decided, policy):
            refusals[source] = refusal
    return RetentionPlan(tuple(keep), tuple(remove), tuple(owed), refusals)


def next_removal(copies: Collection[Copy], policy: Policy, now: datetime) -> datetime | None:
    """When the first of these copies may go though nothing newer comes; None where only newer ones let any go."""
    moments = {m for c in copies for m in (c.id.began + RECENT, c.modified + RECENT, c.locked_until) if m and m > now}
    return next((m for m in sorted(moments) if plan_retention(copies, policy, m).remove), None)


@lru_cache(maxsize=65_536)
def period_of(tier: Tier, moment: datetime) -> Period:
    """The day, ISO week or month that a moment belongs to, in UTC."""
    day = moment.astimezone(UTC).date()
    if tier is Tier.WEEKLY:
        return tuple(day.isocalendar()[:2])
    return (day.year, day.month) if tier is Tier.MONTHLY else (day.year, day.month, day.day)


@lru_cache(maxsize=4096)
def period_text(tier: Tier, period: Period) -> str:
    """A period as people write it: `2026-11-23`, `2026-W48`, `2026-11`."""
    if tier is Tier.WEEKLY:
        return f"{period[0]}-W{period[1]:02d}"
    return f"{date(*period):%Y-%m-%d}" if tier is Tier.DAILY else f"{period[0]}-{period[1]:02d}"


def good(copy: Copy, now: datetime) -> bool:
    """Whether a copy can stand for its period: whole, of all of its source, nothing said against it, rightly dated."""
    standing = copy.standing
    against = standing.failed or standing.suspect or standing.unreadable
    return copy.whole and copy.complete and not against and not misdated(copy, now)


def misdated(copy: Copy, now: datetime) -> str:
    """Why a copy's date cannot be right; empty when it can."""
    return dates.misdated(copy.id.began, copy.modified, now)


def awaiting_promotion(copies: Collection[Copy], policy: Policy, now: datetime, tier: Tier) -> dict[Period, list[Copy]]:
    """The good snapshots of each period that has ended and none of which stands in `tier` yet, newest first.

    Only of the newest periods, as many as are kept at most. Each snapshot once, in whatever lower tier it is.
    """
    return _awaiting([copy for copy in copies if good(copy, now)], policy, now, tier)


def _awaiting(fit: Collection[Copy], policy: Policy, now: datetime, tier: Tier) -> dict[Period, list[Copy]]:
    promoted = {period_of(tier, copy.id.began) for copy in fit if copy.tier is tier}
    found: dict[Period, dict[SnapshotId, Copy]] = {}
    present = period_of(tier, now)
    for copy in fit:
        if copy.tier in FROM[tier] and (period := period_of(tier, copy.id.began)) < present:
            found.setdefault(period, {}).setdefault(copy.id, copy)
    newest = sorted(promoted | found.keys(), reverse=True)[: policy.most(tier)]
    return {
        period: [found[period][key] for key in sorted(found[period], reverse=True)]
        for period in newest
        if period not in promoted
    }


class _Source:
    """All copies of one source, on their way to a decision."""

    def __init__(self, copies: Sequence[Copy], policy: Policy, now: datetime) -> None:
        self.copies = sorted(copies, key=lambda c: (c.id, c.tier, c.repository))
        self.policy = policy
        self.now = now
        self.good = [copy for copy in self.copies if good(copy, now)]
        self.groups: dict[tuple[str, Tier], list[Copy]] = {}
        for copy in self.copies:
            self.groups.setdefault((copy.repository, copy.tier), []).append(copy)
        self.by_id: dict[SnapshotId, list[Copy]] = {}
        for copy in self.copies:
            self.by_id.setdefault(copy.id, []).append(copy)
        # By the copy's identity, which is quicker to look up than what it is called, by far.
        self._good_ones = set(map(id, self.good))
        self._misdated = {id(copy): why for copy in self.copies if (why := misdated(copy, now))}
        self.reasons: dict[int, list[str]] = {}
        self.against: dict[int, str] = {}

    def decide(self) -> RetentionPlan:
        for (repository, tier), group in self.groups.items():
            self._count(repository, tier, group)
            self._protect_newest(repository, tier, group)
        for copy in self.copies:
            self._protect_by_itself(copy)
        self._protect_predecessors()
        self._protect_candidates()
        owed = tuple(self._owed())
        self._protect_last_copies(owed)
        self._protect_needed()
        keep, remove = [], []
        for copy in self.copies:
            if reasons := self.reasons.get(id(copy)):
                postponed = copy.locked_until is not None and set(reasons) <= {*self._postponing(copy)}
                keep.append(Decision(copy, tuple(reasons), postponed))
            else:
                remove.append(Decision(copy, (self.against[id(copy)],)))
        return RetentionPlan(tuple(keep), tuple(remove), owed)

    # ---- what was promised ------------------------------------------------------------------------------------------

    def _count(self, repository: str, tier: Tier, group: Sequence[Copy]) -> None:
        count = self.policy.count(repository, tier)
        if count is None:
            for copy in group:
                self._keep(copy, f"platform.yaml names no repository {repository}")
            return
        best: dict[Period, Copy] = {}
        for copy in group:
            if self._good(copy):
                best[period_of(tier, copy.id.began)] = copy  # oldest first, so the newest of a period remains
        kept = sorted(best, reverse=True)[:count]
        ranks = {period: rank for rank, period in enumerate(kept, start=1)}
        horizon = kept[-1] if count and len(kept) == count else None
        for copy in group:
            period = period_of(tier, copy.id.began)
            what = f"{_WORDS[tier]} {period_text(tier, period)}"
            if best.get(period) is copy and period in ranks:
                self._keep(copy, f"{what}: {ranks[period]} of {count}")
            elif count == 0:
                self.against[id(copy)] = f"{repository} keeps nothing {tier}"
            elif horizon is not None and period < horizon:
                self.against[id(copy)] = f"older than the {count} newest {_WORDS[tier]}s with a good snapshot"
            elif self._good(copy):
                self.against[id(copy)] = f"the same {_WORDS[tier]} has a newer one: {best[period].id}"
            else:
                self._keep(copy, f"{what}: not counted, since {self._fault(copy)}")

    def _fault(self, copy: Copy) -> str:
        standing = copy.standing
        if not copy.whole:
            return "it is not whole here"
        if not copy.complete:
            return "it has only a part of its source"
        if standing.failed:
            return "its last restore test has failed"
        return standing.suspect or standing.unreadable or misdated(copy, self.now)

    # ---- what is protected ------------------------------------------------------------------------------------------

    def _protect_newest(self, repository: str, tier: Tier, group: Sequence[Copy]) -> None:
        """The newest of a tier that is kept here; where it is not, the newest of all that is here."""
        if not self.policy.count(repository, tier):
            elsewhere = [c for (name, _), others in self.groups.items() if name == repository for c in others]
            counted = {c.id for c in elsewhere if self.policy.count(repository, c.tier)}
            group = [c for c in elsewhere if c.id not in counted or c.tier is not tier]
        newest_first = sorted(group, key=lambda c: c.id, reverse=True)
        for words, fits in self._worth_keeping:
            newest = next((c for c in newest_first if fits(c)), None)
            dated = next((c for c in newest_first if fits(c) and id(c) not in self._misdated), None)
            for one in {id(c): c for c in (newest, dated) if c}.values():
                if one.tier is tier:
                    self._keep(one, words)

    @property
    def _worth_keeping(self) -> Sequence[tuple[str, Callable[[Copy], bool]]]:
        """What the newest of each tier is kept of: why, and which it is."""
        return (
            ("the newest", lambda _: True),
            ("the newest that is whole here", lambda c: c.whole and c.complete),
            ("the newest good one here", self._good),
            ("the newest proven", lambda c: c.standing.proven),
            ("the newest proven that is whole here", lambda c: c.standing.proven and c.whole),
        )

    def _protect_by_itself(self, copy: Copy) -> None:
        standing = copy.standing
        recent = self.now - RECENT
        if copy.id.began > recent or copy.modified > recent:
            self._keep(copy, f"made or put here within {RECENT.total_seconds() / 3600:g} hours")
        if why := self._misdated.get(id(copy)):
            self._keep(copy, f"{why}: look at the clocks")
        if standing.held:
            self._keep(copy, f"held: {standing.held}")
        if standing.suspect:
            self._keep(copy, f"suspect until somebody accepts it: {standing.suspect}")
        if standing.unreadable:
            self._keep(copy, f"an attestation cannot be read: {standing.unreadable}")
        for reason in self._postponing(copy):
            self._keep(copy, reason)

    def _postponing(self, copy: Copy) -> Iterator[str]:
        """Reasons to wait that are no reasons to keep."""
        if copy.locked_until and copy.locked_until > self.now:
            yield f"locked until {copy.locked_until:%Y-%m-%d %H:%M} UTC"

    def _protect_predecessors(self) -> None:
        """What came before a suspect one: it may be the last that is right."""
        for group in self.groups.values():
            before: Copy | None = None
            for copy in group:
                if copy.standing.suspect and before:
                    self._keep(before, f"the last good one before {copy.id}, which is suspect")
                if self._good(copy):
                    before = copy

    def _protect_candidates(self) -> None:
        """What may be promoted yet: a missed week is caught up later, and its first candidate may fail its proof."""
        for tier, lower in FROM.items():
            for period, candidates in _awaiting(self.good, self.policy, self.now, tier).items():
                proven = [c for c in candidates if c.standing.proven][:1]
                ids = dict.fromkeys(c.id for c in (*candidates[:CANDIDATES], *proven))
                for one in ids:
                    theirs = [copy for copy in self.by_id[one] if copy.tier in lower]
                    keeping = [copy for copy in theirs if self.policy.count(copy.repository, tier)]
                    # Only a repository that does not keep the tier itself may have it: then that one gives it away.
                    for copy in keeping if any(map(self._good, keeping)) else theirs:
                        self._keep(copy, f"the {_WORDS[tier]} {period_text(tier, period)} awaits its promotion")

    def _owed(self) -> Iterator[Owed]:
        """What each repository ought to have whole by its own counts, of all that is good anywhere."""
        for tier in Tier:
            best = {period_of(tier, c.id.began): c for c in self.good if c.tier is tier}
            newest = sorted(best, reverse=True)[: self.policy.most(tier)]
            whole = {p: {c.repository for c in self.by_id[best[p].id] if c.whole and c.tier is tier} for p in newest}
            for repository in self.policy.counts:
                for period in newest[: self.policy.count(repository, tier)]:
                    if repository not in whole[period]:
                        yield Owed(best[period].place, repository)

    def _protect_last_copies(self, owed: Iterable[Owed]) -> None:
        owing: dict[Place, str] = {}
        for one in owed:
            owing.setdefault(one.place, one.repository)
        kept = {copy.place for copy in self.copies if copy.whole and self.reasons.get(id(copy))}
        for copy in self.copies:
            if copy.whole and copy.place not in kept and copy.place in owing:
                self._keep(copy, f"{owing[copy.place]} still owes it, and no other repository keeps it whole")

    def _protect_needed(self) -> None:
        """What others that are kept in the same repository are built on, over any number of steps."""
        pending = [copy for copy in self.copies if copy.needs and self.reasons.get(id(copy))]
        seen: set[tuple[str, SnapshotId]] = set()
        while pending:
            copy = pending.pop()
            for needed in {(copy.repository, one) for one in copy.needs} - seen:
                seen.add(needed)
                for other in self.by_id.get(needed[1], ()):
                    if other.repository == copy.repository:
                        self._keep(other, f"{copy.id} cannot be restored without it")
                        pending.append(other)

    def _good(self, copy: Copy) -> bool:
        return id(copy) in self._good_ones

    def _keep(self, copy: Copy, reason: str) -> None:
        self.reasons.setdefault(id(copy), []).append(reason)


def _refusal(source: str, plan: RetentionPlan, policy: Policy) -> str:
    """Why a plan removes too much at once to be believed; empty when it does not.

    What stays in another repository does not count: after an outage, one may have much that it gave to the others.
    """
    before = {d.copy.id for d in (*plan.keep, *plan.remove) if d.copy.whole}
    gone = before - {d.copy.id for d in plan.keep if d.copy.whole}
    if len(gone) > max(FEW, policy.brake * len(before)):
        return (
            f"{len(gone)} of the {len(before)} snapshots of {source} would vanish at once, "
            f"more than the {policy.brake:.0%} that platform.yaml allows."
        )
    return ""


_WORDS: Mapping[Tier, str] = {Tier.DAILY: "day", Tier.WEEKLY: "week", Tier.MONTHLY: "month"}
