"""Whatever happens to a vault, in whatever order: what was promised is there, and nothing protected is ever removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from lifeboat.attestation import Verdict
from lifeboat.errors import LifeboatError
from lifeboat.healing import heal
from lifeboat.holding import accept, end_holds, hold
from lifeboat.inventory import Copy
from lifeboat.retention import Policy, period_of, plan_retention
from lifeboat.snapshot import Tier
from lifeboat.vault import Snapshot
from tests.keeping.worlds import DAY, LOCAL, SMALL, START, World, copy_of

LOCAL_COUNTS = {**LOCAL, Tier.DAILY: 2}
COUNTS = {"far": SMALL, "near": SMALL, "local": LOCAL_COUNTS}

STARTS = [
    datetime(2026, 12, 17, 2, tzinfo=UTC),  # 2026 has 53 weeks, the last of them until 3 January
    datetime(2024, 12, 20, 23, 30, tzinfo=UTC),  # 30 December is in the first week of 2025
    datetime(2028, 2, 20, 2, tzinfo=UTC),  # a leap year
    datetime(2026, 10, 20, 23, 59, 59, tzinfo=UTC),
    datetime(2026, 3, 28, 0, 0, tzinfo=UTC),
]


# ---- what must hold, said in other words than the code's ------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What stood where, as the stores themselves have it, before something happened."""

    copies: tuple[Copy, ...]

    def of(self, repository: str, tier: Tier | None = None) -> list[Copy]:
        return [c for c in self.copies if c.repository == repository and tier in (None, c.tier)]


def is_good(copy: Copy, now: datetime) -> bool:
    s = copy.standing
    return copy.whole and copy.complete and not (s.failed or s.suspect or s.unreadable) and copy.id.began <= now


def must_stay(before: Seen, now: datetime, counts: dict[str, dict[Tier, int]]) -> set[tuple[str, Tier, str]]:
    """Copies that nothing may remove, by repository, tier and id."""
    kept: set[tuple[str, Tier, str]] = set()

    def keep(copies: Iterable[Copy]) -> None:
        newest = max(copies, key=lambda c: c.id, default=None)
        if newest is not None:
            kept.add((newest.repository, newest.tier, str(newest.id)))

    for repository, tiers in counts.items():
        for copy in before.of(repository):
            if copy.standing.held or copy.standing.suspect or copy.standing.unreadable:
                kept.add((repository, copy.tier, str(copy.id)))
        for tier, count in tiers.items():
            here = before.of(repository, tier)
            if count:
                keep(here)
                keep(c for c in here if c.whole)
                keep(c for c in here if c.standing.proven)
                keep(c for c in here if is_good(c, now))
                for suspect in (c for c in here if c.standing.suspect):
                    keep(c for c in here if c.id < suspect.id and is_good(c, now))
    return kept


def promised(before: Seen, now: datetime, repository: str, tier: Tier, count: int) -> set[tuple[int, ...]]:
    """The periods of which a repository must still have a good snapshot."""
    periods = {period_of(tier, c.id.began) for c in before.of(repository, tier) if is_good(c, now)}
    return set(sorted(periods)[-count:] if count else [])


def hoped_for(before: Seen, now: datetime, tier: Tier, count: int) -> set[tuple[int, ...]]:
    """Ended weeks or months that can be had yet: promoted already, or with a good snapshot in a lower tier."""
    periods = {period_of(tier, c.id.began) for c in before.copies if is_good(c, now)}
    return set(sorted(p for p in periods if p < period_of(tier, now))[-count:])


def check(before: Seen, after: Seen, now: datetime, counts: dict[str, dict[Tier, int]]) -> None:
    there = {(c.repository, c.tier, str(c.id)) for c in after.copies}
    assert must_stay(before, now, counts) <= there
    for repository, tiers in counts.items():
        for tier, count in tiers.items():
            still = {period_of(tier, c.id.began) for c in after.of(repository, tier) if is_good(c, now)}
            assert promised(before, now, repository, tier, count) <= still, (repository, tier)
    for tier in (Tier.WEEKLY, Tier.MONTHLY):
        possible = {period_of(tier, c.id.began) for c in after.copies if is_good(c, now)}
        assert hoped_for(before, now, tier, SMALL[tier]) <= possible, tier


# ---- histories of a real vault --------------------------------------------------------------------------------------


def passes(world: World, good: bool) -> Callable[[Snapshot], bool]:
    def prove(snapshot: Snapshot) -> bool:
        world.attest(snapshot, Verdict.PROVEN if good else Verdict.FAILED)
        return good

    return prove


def act(world: World, what: str, number: int) -> None:
    """Do one thing, and look at the stores before and after it when it may remove something."""
    if what not in REMOVING:
        do(world, what, number)
        return
    before = seen(world)
    try:
        do(world, what, number)
    finally:
        fails, world.fails = world.fails, lambda *_: False
        after = seen(world)
        world.fails = fails
        # What is said of a snapshot may have changed on the way, by a proof that failed: by what is known now.
        standing = {c.place: c.standing for c in after.copies}
        told = [Copy(**{**vars(c), "standing": standing.get(c.place, c.standing)}) for c in before.copies]
        check(Seen(tuple(told)), after, world.store_now(), COUNTS)
        assert all(c.whole for c in after.copies), (what, number)


def seen(world: World) -> Seen:
    """What all stores have, whether they answer just now or not."""
    down, world.down = world.down, set()
    fails, world.fails = world.fails, lambda *_: False
    now, world.now = world.now, world.store_now()
    try:
        return Seen(world.inventory.copies)
    finally:
        world.down, world.fails, world.now = down, fails, now


def do(world: World, what: str, number: int) -> None:
    """One thing; which snapshot it is about is told by `number`."""
    listing = world.vault.list("orders").snapshots if what in ABOUT_ONE else ()
    one = listing[number % len(listing)] if listing else None
    match what:
        case "backup":
            world.back_up()
        case "burst":
            for _ in range(3):
                world.back_up()
                world.now += timedelta(minutes=20)
        case "partial":
            world.back_up(selection={"tables": ["a"], "schema_only": False})
        case "prune":
            world.prune(despite_brake=True)
        case "sweep":
            world.sweep()
        case "heal":
            heal(world.vault, world.policy, now=world.now, at_once=1)
        case "weekly" | "monthly":
            world.promote(Tier(what), prove=passes(world, number % 4 != 0))
        case "hold" if one:
            hold(world.vault, one, reason="test", until=None, now=world.now)
        case "end hold" if one:
            end_holds(world.vault, one, reason="test", now=world.now)
        case "suspect" if one:
            world.attest(one, Verdict.SUSPECT, reason="test")
        case "accept" if one:
            accept(world.vault, one, reason="test")
        case "prove" if one:
            world.attest(one, Verdict.PROVEN)
        case "fail" if one:
            world.attest(one, Verdict.FAILED)


ABOUT_ONE = ("hold", "end hold", "suspect", "accept", "prove", "fail")
REMOVING = ("prune", "sweep", "weekly", "monthly", "heal")
STEPS = some.tuples(
    some.sampled_from(["night"] * 8 + ["gap", "down", "clock", "crash", "burst", "partial", *REMOVING, *ABOUT_ONE]),
    some.integers(0, 40),
)


def happens(world: World, step: tuple[str, int]) -> None:
    what, number = step
    with suppress(LifeboatError):
        match what:
            case "night":
                for _ in range(1 + number % 3):
                    if world.down < set(COUNTS):
                        act(world, "backup", number)
                        act(world, "prune", number)
                    world.now += DAY
            case "gap":
                world.now += (1 + number) * DAY
            case "down":
                world.down = {name for bit, name in enumerate(COUNTS) if number >> bit & 1}
            case "clock":  # wrong for one prune and one backup, the stores' own right
                rightly = world.now
                world.store_now = lambda: rightly
                world.now += (number - 20) * 100 * DAY
                try:
                    act(world, "backup", number)
                    act(world, "prune", number)
                finally:
                    world.now, world.store_now = rightly, lambda: world.now
            case "crash":
                calls = iter(range(100_000))
                world.fails = lambda *_: next(calls) >= number
                try:
                    act(world, REMOVING[number % len(REMOVING)], number)
                finally:
                    world.fails = lambda *_: False
            case _:
                act(world, what, number)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(start=some.sampled_from(STARTS), steps=some.lists(STEPS, min_size=8, max_size=24))
def test_after_any_history_of_a_vault_the_promise_holds(start: datetime, steps: list[tuple[str, int]]) -> None:
    world = World(COUNTS, start=start)
    for step in steps:
        happens(world, step)
    _ends_as_promised(world)


def _ends_as_promised(world: World) -> None:
    """Once all is well again, a few days bring every repository to exactly what it keeps, and what is protected."""
    world.down = set()
    for _ in range(SMALL[Tier.DAILY] + 1):
        world.now += DAY
        world.back_up()
        heal(world.vault, world.policy, now=world.now, at_once=1)
        for tier in (Tier.WEEKLY, Tier.MONTHLY):
            world.promote(tier)
        world.prune(despite_brake=True)
    plan = world.plan
    assert plan.owed == ()
    for name, tiers in COUNTS.items():
        days = [d for d in plan.keep if (d.copy.repository, d.copy.tier) == (name, Tier.DAILY)]
        assert len([d for d in days if " of " in d.reasons[0]]) == tiers[Tier.DAILY]


# ---- histories of plans alone ---------------------------------------------------------------------------------------

FLAGS = some.sampled_from([{}] * 12 + [{"failed": True}, {"suspect": "x"}, {"held": "x"}, {"proven": True}])
PLACES = some.sampled_from([("far", "near", "local")] * 6 + [("far",), ("near",), ("local",), ("near", "local")])
NIGHTS = some.lists(
    some.tuples(some.integers(0, 3), some.integers(1, 2), FLAGS, PLACES, some.booleans()), min_size=1, max_size=60
)


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(nights=NIGHTS, offset=some.integers(0, 1500), hour=some.integers(0, 23))
def test_pruning_night_by_night_keeps_the_promise_whatever_the_nights_were(
    nights: list[tuple[int, int, dict[str, object], tuple[str, ...], bool]], offset: int, hour: int
) -> None:
    """A model of the stores: copies in a list, removed as planned, so that years pass in no time."""
    policy = Policy(COUNTS, brake=1.0)
    stored: list[Copy] = []
    day = float(offset)
    for number, (gap, burst, flags, where, whole) in enumerate(nights):
        day += gap
        for n in range(burst):
            at = day + hour / 24 + n / 200
            stored += [
                copy_of(at, repository=name, suffix=f"{number:06x}{n:02x}", whole=whole or name != "far", **flags)
                for name in where
            ]
        now = START + (day + hour / 24 + 0.02) * DAY
        plan = plan_retention(stored, policy, now)
        before, stored = Seen(tuple(stored)), [d.copy for d in plan.keep]
        check(before, Seen(tuple(stored)), now, COUNTS)
        again = plan_retention(stored, policy, now)
        assert again.remove == ()


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(nights=NIGHTS, data=some.data())
def test_a_listing_that_lacks_anything_never_makes_a_plan_remove_more_of_what_was_promised(
    nights: list[tuple[int, int, dict[str, object], tuple[str, ...], bool]], data: some.DataObject
) -> None:
    policy = Policy(COUNTS, brake=1.0)
    copies = [
        copy_of(sum(n[0] for n in nights[: i + 1]) + i / 1000, repository=name, suffix=f"{i:08x}", **flags)
        for i, (_, _, flags, where, _) in enumerate(nights)
        for name in where
    ]
    now = START + (sum(n[0] for n in nights) + 1) * DAY
    seen = data.draw(some.lists(some.sampled_from(copies), unique_by=id))
    listed = [c for c in copies if any(c is one for one in seen)]

    counted = {id(d.copy) for d in plan_retention(copies, policy, now).keep if " of " in d.reasons[0]}
    removed = {id(d.copy) for d in plan_retention(listed, policy, now).remove}

    # One that stands for its day may be taken for an older one of that day only while a newer one is not seen.
    assert not removed & counted
