"""The retention plan: what was promised stays, what matters stays, and the rest goes with a reason."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from lifeboat.errors import SettingsError
from lifeboat.inventory import Copy
from lifeboat.retention import Policy, RetentionPlan, next_removal, period_of, period_text, plan_retention
from lifeboat.snapshot import SnapshotId, Tier
from tests.keeping.worlds import DAY, FULL, LOCAL, SMALL, START, copy_of, decided

POLICY = Policy({"far": SMALL}, brake=1.0)
LATER = START + 20 * DAY
LONG_AGO = timedelta(hours=48)


def plan(*copies: Copy, policy: Policy = POLICY, now: datetime = LATER) -> RetentionPlan:
    return plan_retention(copies, policy, now)


def nights(count: int, **fields: object) -> list[Copy]:
    """Proven ones, so that each week's best is known; none is left for promotion."""
    weekly = [copy_of(day, tier=Tier.WEEKLY, **fields) for day in (6, 13)]
    monthly = [copy_of(-3, tier=Tier.MONTHLY, **fields)]
    return [*(copy_of(day, **fields) for day in range(count)), *weekly, *monthly]


def days(found: RetentionPlan, tier: Tier = Tier.DAILY) -> list[float]:
    return decided([d for d in found.keep if d.copy.tier is tier])


# ---- what was promised ----------------------------------------------------------------------------------------------


def test_the_newest_days_are_kept_and_the_rest_goes_with_a_reason() -> None:
    found = plan(*nights(20))

    assert days(found) == [17, 18, 19]
    assert decided(found.remove) == list(range(17))
    assert {reason for d in found.remove for reason in d.reasons} == {
        "older than the 3 newest days with a good snapshot"
    }


def test_days_are_counted_not_time_that_has_passed() -> None:
    found = plan(*nights(20), now=LATER + 500 * DAY)

    assert days(found) == [17, 18, 19]


def test_fewer_than_promised_all_stay_however_old_they_are() -> None:
    found = plan(copy_of(0), copy_of(1), now=LATER + 1000 * DAY)

    assert found.remove == ()


def test_of_a_burst_on_one_day_the_newest_stays_once_the_others_are_a_day_old() -> None:
    burst = [copy_of(19 + hour / 24) for hour in range(5)]

    found = plan(*nights(19), *burst, now=START + 20.5 * DAY)

    assert days(found) == [17, 18, pytest.approx(19 + 4 / 24)]
    assert "the same day has a newer one" in found.remove[-1].reasons[0]
    assert decided(plan(*nights(19), *burst, now=START + 19.5 * DAY).keep)[-5:] == [
        pytest.approx(19 + hour / 24) for hour in range(5)
    ]


def test_when_the_next_may_go_is_the_first_moment_at_which_a_plan_removes_any() -> None:
    burst = [copy_of(19 + hour / 24) for hour in range(5)]
    copies, now = [*nights(19)[-5:], *burst], START + 19.5 * DAY

    due = next_removal(copies, POLICY, now)

    assert due == burst[0].id.began + DAY
    assert plan(*copies, now=due - timedelta(seconds=1)).remove == ()
    assert plan(*copies, now=due).remove != ()


def test_what_only_newer_snapshots_let_go_is_due_at_no_time() -> None:
    assert next_removal([copy_of(18), copy_of(19)], POLICY, LATER) is None


def test_each_repository_keeps_what_it_keeps_itself() -> None:
    policy = Policy({"far": {**SMALL, Tier.DAILY: 10}, "near": {**LOCAL, Tier.DAILY: 2}}, brake=1.0)

    found = plan(*nights(20), *(copy_of(day, repository="near") for day in range(20)), policy=policy)

    assert decided([d for d in found.keep if d.copy.repository == "near"]) == [18, 19]
    assert len([d for d in found.keep if (d.copy.repository, d.copy.tier) == ("far", Tier.DAILY)]) == 10


def test_a_tier_that_a_repository_does_not_keep_is_emptied_there() -> None:
    policy = Policy({"far": SMALL, "near": LOCAL}, brake=1.0)
    weekly = [copy_of(day, tier=Tier.WEEKLY, repository=name) for day in (6, 13) for name in ("far", "near")]

    found = plan(*(copy_of(day, repository="near") for day in range(14, 20)), *weekly, policy=policy)

    assert decided([d for d in found.remove if d.copy.tier is Tier.WEEKLY]) == [6, 13]
    assert {d.copy.repository for d in found.remove} == {"near"}


def test_sources_are_decided_on_apart() -> None:
    other = [Copy(**{**vars(copy_of(day)), "source": "invoices"}) for day in range(2)]

    assert {d.copy.source for d in plan(*nights(20), *other).remove} == {"orders"}


@pytest.mark.parametrize(
    ("moment", "tier", "text"),
    {
        "2027-01-01 is in the last week of 2026": (datetime(2027, 1, 1, tzinfo=UTC), Tier.WEEKLY, "2026-W53"),
        "2024-12-30 is in the first week of 2025": (datetime(2024, 12, 30, tzinfo=UTC), Tier.WEEKLY, "2025-W01"),
        "a Sunday ends its week": (datetime(2026, 11, 29, 23, 59, 59, tzinfo=UTC), Tier.WEEKLY, "2026-W48"),
        "a Monday begins its week": (datetime(2026, 11, 30, tzinfo=UTC), Tier.WEEKLY, "2026-W49"),
        "a leap day": (datetime(2028, 2, 29, 2, tzinfo=UTC), Tier.DAILY, "2028-02-29"),
        "a leap day's month": (datetime(2028, 2, 29, 2, tzinfo=UTC), Tier.MONTHLY, "2028-02"),
        "an evening in New York is the next day in UTC": (
            datetime.fromisoformat("2026-12-31T22:00:00-05:00"), Tier.MONTHLY, "2027-01",
        ),
        "summer time in Berlin": (datetime.fromisoformat("2026-10-25T02:30:00+02:00"), Tier.DAILY, "2026-10-25"),
    }.values(),
    ids=lambda value: str(value) if isinstance(value, str) else None,
)  # fmt: skip
def test_periods_are_those_of_utc_and_iso_weeks(moment: datetime, tier: Tier, text: str) -> None:
    assert period_text(tier, period_of(tier, moment)) == text


def test_periods_are_in_order_across_every_new_year() -> None:
    moments = [datetime(2019, 1, 1, tzinfo=UTC) + n * DAY for n in range(12 * 366)]

    for tier in Tier:
        periods = [period_of(tier, moment) for moment in moments]
        assert periods == sorted(periods)


@pytest.mark.parametrize("counts", [{Tier.DAILY: 0}, {Tier.DAILY: -1}, {Tier.DAILY: 3, Tier.WEEKLY: -2}, {}], ids=str)
def test_a_policy_that_keeps_nothing_is_refused(counts: dict[Tier, int]) -> None:
    with pytest.raises(SettingsError, match="retention of far"):
        Policy({"far": counts})


# ---- what is protected ----------------------------------------------------------------------------------------------


def kept_because(copy: Copy, *others: Copy, now: datetime = LATER, policy: Policy = POLICY) -> str:
    found = plan(*others, copy, now=now, policy=policy)
    return next(("; ".join(d.reasons) for d in found.keep if d.copy == copy), "")


def test_the_newest_stays_whatever_it_is() -> None:
    newest = copy_of(19, failed=True, whole=False, complete=False)

    assert "the newest" in kept_because(newest, *nights(19))


def test_the_newest_proven_and_the_newest_whole_stay_though_newer_ones_are_not() -> None:
    proven = copy_of(1, proven=True)
    found = plan(copy_of(0), proven, *nights(20)[2:])
    assert "the newest proven" in "; ".join(found.keep[0].reasons) + "; ".join(found.keep[1].reasons)
    assert 1 in days(found)

    whole = copy_of(1)
    broken = [copy_of(day, whole=False) for day in range(2, 20)]
    assert "the newest that is whole here" in kept_because(whole, *broken)


@pytest.mark.parametrize(
    ("fields", "reason"),
    {
        "held": ({"held": "for the auditors"}, "held: for the auditors"),
        "suspect": ({"suspect": "half as large"}, "suspect until somebody accepts it: half as large"),
        "with something nobody can read": ({"unreadable": "forged"}, "an attestation cannot be read: forged"),
        "put there just now": ({"modified": LATER - timedelta(hours=3)}, "made or put here within 24 hours"),
    }.values(),
    ids=["held", "suspect", "unreadable", "just put"],
)
def test_what_matters_stays_however_old_it_is(fields: dict[str, object], reason: str) -> None:
    assert not kept_because(copy_of(0), *nights(20)[1:])

    assert reason in kept_because(copy_of(0, **fields), *nights(20)[1:])


def test_what_is_locked_is_postponed_and_goes_when_the_lock_ends() -> None:
    locked = copy_of(0, locked_until=LATER + DAY)

    [decision] = [d for d in plan(locked, *nights(20)[1:]).keep if d.copy == locked]

    assert decision.postponed
    assert decision.reasons == ("locked until 2026-11-23 02:00 UTC",)
    assert 0 in decided(plan(locked, *nights(20)[1:], now=LATER + 2 * DAY).remove)


def test_a_suspect_one_takes_no_place_and_the_last_good_one_before_it_stays() -> None:
    suspects = [copy_of(day, suspect="much smaller") for day in range(15, 20)]
    found = plan(*nights(15), *suspects)

    assert days(found) == [12, 13, 14, 15, 16, 17, 18, 19]
    assert "the last good one before" in kept_because(copy_of(14), *nights(14), *suspects)
    then_good = [copy_of(day) for day in range(20, 24)]
    assert "the last good one before" in kept_because(
        copy_of(14), *nights(14), *suspects, *then_good, now=LATER + 5 * DAY
    )


@pytest.mark.parametrize("fields", [{"failed": True}, {"whole": False}, {"complete": False}], ids=str)
def test_what_is_not_good_takes_no_place_and_goes_when_it_is_older_than_what_does(fields: dict[str, object]) -> None:
    bad = [copy_of(day, suffix="bad00000", **fields) for day in (5, 18, 19)]

    found = plan(*nights(20), *bad)

    assert sorted(set(days(found))) == [17, 18, 19]
    assert 5 in decided(found.remove)
    assert len(days(found)) == 5


def test_what_another_is_built_on_stays_over_any_number_of_steps() -> None:
    first, second = copy_of(0), copy_of(5, needs=frozenset({copy_of(0).id}))
    last = copy_of(19, needs=frozenset({second.id}))

    found = plan(first, second, last, *nights(19)[6:])

    assert {0, 5} <= set(days(found))
    assert f"{second.id} cannot be restored without it" in kept_because(first, second, last, *nights(19)[6:])


def test_the_last_copy_stays_while_another_repository_owes_it() -> None:
    policy = Policy({"far": {Tier.DAILY: 10}, "near": {**LOCAL, Tier.DAILY: 2}}, brake=1.0)
    near = [copy_of(day, repository="near") for day in range(20)]
    far = [copy_of(day) for day in range(20) if day != 12]

    found = plan(*near, *far, policy=policy)

    assert decided([d for d in found.keep if d.copy.repository == "near"]) == [12, 18, 19]
    assert "far still owes it" in kept_because(
        copy_of(12, repository="near"), *near[:12], *near[13:], *far, policy=policy
    )
    assert (("orders", Tier.DAILY, copy_of(12).id), "far") in {(o.place, o.repository) for o in found.owed}


def test_a_repository_that_came_back_empty_is_owed_everything_and_nothing_goes_elsewhere() -> None:
    policy = Policy({"far": {**SMALL, Tier.DAILY: 10}, "near": {**LOCAL, Tier.DAILY: 10}}, brake=1.0)
    near = [copy_of(day, repository="near") for day in range(10, 20)]

    found = plan(*near, policy=policy)

    assert found.remove == ()
    assert len([o for o in found.owed if o.repository == "far"]) == 10


def test_the_best_of_a_week_that_is_not_promoted_yet_stays() -> None:
    dailies = [copy_of(day) for day in range(20)]

    found = plan(*dailies)

    # Weeks of two Mondays: of each that has ended the two newest wait, and 17 to 19 are the newest days.
    assert days(found) == [5, 6, 12, 13, 17, 18, 19]
    assert "the week 2026-W45 awaits its promotion" in kept_because(dailies[6], *dailies[:6], *dailies[7:])
    proven = copy_of(2, proven=True)
    assert "awaits its promotion" in kept_because(proven, *dailies[:2], *dailies[3:])


def test_nothing_waits_for_a_tier_that_nobody_keeps() -> None:
    policy = Policy({"far": {Tier.DAILY: 3}}, brake=1.0)

    assert days(plan(*(copy_of(day) for day in range(20)), policy=policy)) == [17, 18, 19]


# ---- clocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("years", [-30, -1, 1, 30])
def test_a_clock_that_jumps_makes_nothing_old(years: int) -> None:
    found = plan(*nights(20), now=LATER + years * 365 * DAY)

    assert set(days(found)) >= {17, 18, 19}
    if years < 0:
        assert found.remove == ()


def test_what_is_dated_in_the_future_takes_no_place_and_stays() -> None:
    ahead = [copy_of(3000 + day, modified=START + day * DAY) for day in range(10)]

    found = plan(*nights(20), *ahead)

    assert set(days(found)) == {17, 18, 19, *(3000 + day for day in range(10))}
    assert "its date is in the future: look at the clocks" in kept_because(ahead[0], *nights(20), *ahead[1:])


def test_what_was_made_while_the_clock_was_ahead_is_told_from_the_stores_own_date() -> None:
    ahead = [copy_of(3000 + day, modified=START + day * DAY) for day in range(10)]

    found = plan(*nights(20), *ahead, now=START + 4000 * DAY)

    assert set(days(found)) >= {17, 18, 19}


# ---- the brake ------------------------------------------------------------------------------------------------------


def test_a_policy_that_would_remove_much_at_once_is_refused() -> None:
    wrong = Policy({"far": {**FULL, Tier.DAILY: 3}}, brake=0.25)

    found = plan(*(copy_of(day) for day in range(30)), policy=wrong, now=START + 31 * DAY)

    assert "of the 30 snapshots of orders would vanish at once" in found.refusals["orders"]


def test_what_ages_every_night_is_not_refused_nor_is_what_other_repositories_keep() -> None:
    policy = Policy({"far": {**FULL, Tier.WEEKLY: 0, Tier.MONTHLY: 0}, "near": {**LOCAL, Tier.DAILY: 7}}, brake=0.25)
    far = [copy_of(day) for day in range(31)]
    near = [copy_of(day, repository="near") for day in range(15, 31)]

    found = plan(*far, *near, policy=policy, now=START + 31 * DAY)

    assert found.refusals == {}
    assert len(found.remove) == 1 + 9


# ---- how much work --------------------------------------------------------------------------------------------------


def test_ten_times_as_many_snapshots_take_ten_times_the_work_to_plan() -> None:
    policy = Policy({"far": FULL, "near": FULL}, brake=1.0)

    def work(count: int) -> int:
        copies = [copy_of(n / 4, suffix=f"{n:08x}", repository=name) for n in range(count) for name in policy.counts]
        with calls() as made:
            found = plan(*copies, policy=policy, now=START + count * DAY)
        assert len(found.keep) + len(found.remove) == 2 * count
        assert SnapshotId(START, "00000000") not in {d.copy.id for d in found.keep}
        return made[0]

    assert work(10_000) < 12 * work(1_000)


@contextmanager
def calls() -> Iterator[list[int]]:
    """How many functions were called: what does not depend on how busy the machine is."""
    made = [0]

    def count(frame: object, event: str, arg: object) -> None:
        made[0] += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        yield made
    finally:
        sys.setprofile(None)


def test_a_candidate_stays_in_a_repository_without_the_tier_only_where_no_other_has_it() -> None:
    policy = Policy({"far": {**SMALL, Tier.DAILY: 1}, "local": {Tier.DAILY: 1}}, brake=1.0)
    local = [copy_of(day, repository="local") for day in range(20)]
    far = [copy_of(day) for day in range(7, 20)]

    kept = [d for d in plan(*local, *far, policy=policy).keep if d.copy.repository == "local"]

    assert decided(kept) == [5, 6, 19]
