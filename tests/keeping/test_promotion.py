"""Promotion: the best snapshot of every week and month goes into the next tier, once, in every repository."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from lifeboat.attestation import Verdict, attestations_of
from lifeboat.errors import LifeboatError, PromotionFailed, RepositoryUnavailable
from lifeboat.holding import accept, hold
from lifeboat.rewrapped import rewrapped_prefix, write_rewrapped
from lifeboat.snapshot import Kind, Tier, artifact_key, manifest_key, snapshot_prefix
from lifeboat.vault import Snapshot
from tests.keeping.worlds import DAY, FULL, LOCAL, World, keys, overwrite, unavailable


@pytest.fixture
def world() -> World:
    return World({"far": FULL, "near": {**LOCAL, Tier.WEEKLY: 4}, "local": LOCAL})


def refusing(*refused: Snapshot, world: World) -> Callable[[Snapshot], bool]:
    """A restore test that these do not pass; `asked` are the ids it was asked about."""
    asked = []

    def check(snapshot: Snapshot) -> bool:
        asked.append(snapshot.id)
        passed = snapshot.id not in {one.id for one in refused}
        world.attest(snapshot, Verdict.PROVEN if passed else Verdict.FAILED)
        return passed

    check.asked = asked  # type: ignore[attr-defined]
    return check


def week(world: World) -> list[Snapshot]:
    """Seven nights; then it is Monday, 05:00."""
    made = world.nights(7)
    world.now += timedelta(hours=3)
    return made


# ---- which ----------------------------------------------------------------------------------------------------------


def test_the_newest_of_the_week_is_proven_and_promoted_where_the_tier_is_kept(world: World) -> None:
    made = week(world)

    promotion = world.promote()

    assert [(p.snapshot.id, p.period, p.proven) for p in promotion.promoted] == [(made[6].id, "2026-W45", True)]
    assert world.there("far", Tier.WEEKLY) == world.there("near", Tier.WEEKLY) == [made[6].id]
    assert world.there("local", Tier.WEEKLY) == []
    assert promotion.lacking == {}
    assert promotion.warnings == ()
    promotion.raise_failures()


def test_running_it_again_changes_nothing(world: World) -> None:
    week(world)
    world.promote()
    before = {name: keys(store) for name, store in world.stores.items()}

    again = world.promote(prove=unavailable)

    assert again.promoted == ()
    again.raise_failures()
    assert {name: keys(store) for name, store in world.stores.items()} == before
    assert again.idle == (
        "orders: nothing was to be promoted. In the tier weekly stand 1 of 12, up to 2026-W45; 2026-W46 ends before "
        "2026-11-16 00:00 UTC."
    )


def test_when_a_proof_fails_the_next_newest_is_taken(world: World) -> None:
    made = week(world)
    check = refusing(*made[4:], world=world)

    promotion = world.promote(prove=check)

    assert check.asked == [made[6].id, made[5].id, made[4].id, made[3].id]
    assert [p.snapshot.id for p in promotion.promoted] == [made[3].id]


def test_what_is_proven_already_is_not_proven_again(world: World) -> None:
    made = week(world)
    world.attest(made[6], Verdict.PROVEN)
    check = refusing(world=world)

    assert [p.snapshot.id for p in world.promote(prove=check).promoted] == [made[6].id]
    assert check.asked == []


def test_when_nothing_can_be_proven_now_an_older_proven_one_is_taken_or_it_is_raised(world: World) -> None:
    made = week(world)

    with pytest.raises(RepositoryUnavailable):
        world.promote(prove=unavailable)

    world.attest(made[2], Verdict.PROVEN)
    assert [p.snapshot.id for p in world.promote(prove=unavailable).promoted] == [made[2].id]


def test_where_proving_is_off_one_that_reads_back_is_taken_with_a_warning(world: World) -> None:
    made = week(world)
    check = refusing(made[6], world=world)

    promotion = world.promote(prove=check, proving=False)

    assert [(p.snapshot.id, p.proven) for p in promotion.promoted] == [(made[5].id, False)]
    assert "is not proven, only read back" in promotion.warnings[0]


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.SUSPECT])
def test_a_failed_or_suspect_one_is_never_promoted_nor_tried(world: World, verdict: Verdict) -> None:
    made = week(world)
    world.attest(made[6], verdict, reason="half as large")
    check = refusing(world=world)

    assert [p.snapshot.id for p in world.promote(prove=check).promoted] == [made[5].id]
    assert made[6].id not in check.asked


def test_a_partial_one_is_never_promoted(world: World) -> None:
    made = world.nights(6)
    world.back_up(selection={"tables": ["a"], "schema_only": False})
    world.now += DAY

    assert [p.snapshot.id for p in world.promote().promoted] == [made[5].id]


def test_a_week_without_any_good_snapshot_alerts_and_is_made_up_for_when_one_is_accepted(world: World) -> None:
    made = week(world)
    for one in made:
        world.attest(one, Verdict.SUSPECT, reason="half as large")

    promotion = world.promote()
    assert promotion.promoted == ()
    with pytest.raises(PromotionFailed, match=r"orders has no weekly snapshot of 2026-W45.*suspect: half as large"):
        promotion.raise_failures()

    accept(world.vault, made[6], reason="we archived last year")
    assert [p.snapshot.id for p in world.promote().promoted] == [made[6].id]


def test_a_week_without_any_snapshot_alerts(world: World) -> None:
    week(world)
    world.promote()
    world.now += 7 * DAY

    with pytest.raises(PromotionFailed, match=r"2026-W46: there is no snapshot of that time"):
        world.promote().raise_failures()


def test_a_source_that_is_new_alerts_about_nothing(world: World) -> None:
    world.nights(1)

    world.promote().raise_failures()


def test_weeks_that_were_missed_are_caught_up(world: World) -> None:
    made = world.nights(28)
    world.now += timedelta(hours=3)

    promotion = world.promote()

    assert [p.period for p in promotion.promoted] == ["2026-W45", "2026-W46", "2026-W47", "2026-W48"]
    assert world.there("far", Tier.WEEKLY) == [made[n].id for n in (6, 13, 20, 27)]


def test_pruning_in_between_leaves_what_was_missed_to_be_caught_up() -> None:
    world = World()
    made = []
    for _ in range(35):
        made += world.nights(1)
        world.prune()

    promotion = world.promote()

    assert [p.snapshot.id for p in promotion.promoted] == [made[27].id, made[34].id]
    monthly = world.promote(Tier.MONTHLY)
    assert [p.snapshot.id for p in monthly.promoted] == [made[28].id]


def test_the_best_of_a_month_may_stand_among_the_weekly_ones_alone() -> None:
    world = World()
    made = []
    for _ in range(40):
        made += world.nights(1)
        if world.now.weekday() == 0:
            world.promote()
        world.prune()

    promotion = world.promote(Tier.MONTHLY)

    assert [(p.snapshot.id.began.day, p.period) for p in promotion.promoted] == [(30, "2026-11")]
    assert world.there("far", Tier.MONTHLY) == world.there("near", Tier.MONTHLY)


# ---- how ------------------------------------------------------------------------------------------------------------


def test_a_promoted_snapshot_has_all_that_the_daily_one_has_and_reads_as_it_does(world: World) -> None:
    made = week(world)[6]
    hold(world.vault, made, reason="for the auditors", until=None, now=world.now)
    name = f"{rewrapped_prefix('orders', Tier.DAILY, made.id)}dump-00000000.json"
    world.stores["far"].put(name, [write_rewrapped([])])

    [promoted] = world.promote().promoted

    daily, weekly = (
        {key.removeprefix(prefix) for key in keys(world.stores["far"]) if key.startswith(prefix)}
        for prefix in (snapshot_prefix("orders", tier, made.id) for tier in (Tier.DAILY, Tier.WEEKLY))
    )
    assert daily == weekly
    assert "rewrapped/dump-00000000.json" in weekly
    for repository in ("far", "near"):
        world.vault.verify(promoted.snapshot, repository).raise_faults()
    verdicts = [a.verdict for a in attestations_of(world.vault, promoted.snapshot)]
    assert verdicts == [Verdict.HELD, Verdict.PROVEN]


def test_a_promoted_snapshot_stands_in_its_tiers_storage_class_and_its_small_objects_do_not(world: World) -> None:
    week(world)
    vault = world.vault
    vault.members = tuple(
        replace(m, storage_classes={Tier.WEEKLY: "COOL"}) if m.name == "far" else m for m in vault.members
    )

    [promoted] = world.promote().promoted

    store = world.stores["far"]
    assert store.describe(artifact_key("orders", Tier.WEEKLY, promoted.snapshot.id, "dump")).storage_class == "COOL"
    assert store.describe(manifest_key("orders", Tier.WEEKLY, promoted.snapshot.id)).storage_class is None


def test_a_damaged_copy_is_not_promoted_where_it_is_but_given_by_another_repository(world: World) -> None:
    made = week(world)[6]
    key = artifact_key("orders", Tier.DAILY, made.id, "dump")
    info = world.stores["far"].describe(key)
    overwrite(world.stores["far"], info, b"x" * info.size)

    def check(snapshot: Snapshot) -> bool:
        from lifeboat.attestation import attest

        attest(world.vault, snapshot, Verdict.FAILED, repository="far", details={"reason": "damaged"})
        attest(world.vault, snapshot, Verdict.PROVEN, repository="near")
        return True

    [promoted] = world.promote(prove=check).promoted

    assert set(promoted.snapshot.repositories) == {"far", "near"}
    world.vault.verify(promoted.snapshot, "far").raise_faults()


def test_a_repository_that_was_down_is_given_it_by_the_next_run(world: World) -> None:
    made = week(world)[6]
    world.down = {"far"}
    first = world.promote()
    assert [p.snapshot.id for p in first.promoted] == [made.id]
    assert any(name.endswith("in far") for name in first.lacking)

    world.down = set()
    assert world.promote().lacking == {}

    assert world.there("far", Tier.WEEKLY) == [made.id]


def test_whichever_storage_call_fails_no_broken_snapshot_is_shown_and_the_next_run_ends_it() -> None:
    for number in range(1, 300):
        world = World({"far": FULL, "near": FULL})
        made = week(world)
        calls = iter(range(1, 10_000))
        world.fails = lambda *_, number=number, calls=calls: next(calls) == number
        with suppress(LifeboatError):
            world.promote()
        world.fails = lambda *_: False

        copies = [c for c in world.inventory.copies if c.tier is Tier.WEEKLY]
        assert all(c.whole for c in copies), f"storage call {number}"
        world.promote()
        assert world.there("far", Tier.WEEKLY) == world.there("near", Tier.WEEKLY)
        [one] = world.there("far", Tier.WEEKLY)
        assert one in {s.id for s in made[5:]}
        if next(calls) < number:
            break
    assert number > 30


def test_a_week_that_only_a_repository_without_that_tier_has_stays_there_and_is_given_away() -> None:
    world = World({"far": FULL, "local": {**LOCAL, Tier.DAILY: 2}})
    world.down = {"far"}
    made = world.nights(7)
    world.down = set()
    made += world.nights(5)

    world.prune()
    promotion = world.promote()

    assert [p.snapshot.id for p in promotion.promoted] == [made[6].id]
    assert world.there("far", Tier.WEEKLY) == [made[6].id]
    assert world.there("local", Tier.WEEKLY) == []


def test_a_week_in_which_the_configuration_did_not_change_alerts_about_nothing(world: World) -> None:
    world.nights(1, kind=Kind.CONFIG)
    world.now += 20 * DAY

    promotion = world.promote()

    assert [p.period for p in promotion.promoted] == ["2026-W45"]
    promotion.raise_failures()
    bad = world.nights(1, kind=Kind.CONFIG)[0]
    world.attest(bad, Verdict.FAILED)
    world.now += 7 * DAY
    with pytest.raises(PromotionFailed):
        world.promote().raise_failures()
