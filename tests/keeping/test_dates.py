"""A host whose clock was wrong once: what it dated into the future comes last in every choice, and is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from lifeboat.anomaly import _history
from lifeboat.attestation import Attestation, Verdict, in_order, is_proven
from lifeboat.choosing import about_dates, choose_snapshot
from lifeboat.cli.job_commands import _check_clocks
from lifeboat.configuration.archiving import newest_snapshot
from lifeboat.errors import NotReady
from lifeboat.health import vault_health
from lifeboat.inventory import take_inventory
from lifeboat.readiness import look, look_at_clocks
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.retention import Policy, good, plan_retention
from lifeboat.snapshot import Kind, Tier
from lifeboat.vault import Snapshot, Vault
from tests.core.test_vault import vault_of
from tests.keeping.worlds import DAY, SMALL, World, copy_of

NOW = datetime.now(UTC).replace(microsecond=0)
AHEAD = 400 * DAY


class Nights:
    """A vault to which a host writes whose clock may be `wrong`; the stores' own is right, or says `store_wrong`."""

    def __init__(self) -> None:
        self.now = NOW
        self.stores = [MemoryRepository(name, clock=lambda: self.now) for name in ("far", "near")]
        self.vault: Vault = vault_of(*self.stores)

    def night(self, ago: timedelta, wrong: timedelta = timedelta(), run: datetime | None = None) -> Snapshot:
        self.now = NOW - ago
        began, kind = self.now + wrong, Kind.CONFIG
        writer = self.vault.begin("orders", kind, began=began, scheduled_for=run)
        writer("dump", [b"rows"], media_type="application/octet-stream")
        made = writer.commit({})
        self.now = NOW
        return made


@pytest.fixture
def nights() -> Nights:
    return Nights()


def test_a_snapshot_of_a_clock_that_ran_ahead_is_never_taken_for_the_newest(nights: Nights) -> None:
    run = NOW + AHEAD - 5 * DAY
    nights.night(7 * DAY)
    stale = nights.night(5 * DAY, AHEAD, run)
    right = nights.night(1 * DAY)
    vault = nights.vault

    assert choose_snapshot(vault, "orders") == right
    assert vault.find("orders") == right
    assert vault.list("orders").snapshots[-1] == right
    assert newest_snapshot(vault, "orders") == right
    assert vault.finished_run("orders", run, lambda _: True) is None
    assert [c.id for c in take_inventory(vault, now=NOW).copies if not good(c, NOW)] == [stale.id, stale.id]
    assert all(str(stale.id) not in text for text in vault_health(vault, _policy(), now=NOW).lacking["orders"])
    assert stale not in _history(take_inventory(vault, "orders", now=NOW), right)


def test_it_stays_last_when_its_date_has_come_since_the_store_knows_when_it_was_put(nights: Nights) -> None:
    nights.night(2 * AHEAD)
    stale = nights.night(AHEAD, AHEAD - 2 * DAY)  # dated two days ago, put more than a year ago
    right = nights.night(3 * DAY)

    assert choose_snapshot(nights.vault, "orders") == right
    assert choose_snapshot(nights.vault, "orders", snapshot_id=stale.id).misdated == (
        "its date is later than the store's own"
    )


def test_what_is_passed_over_is_told_and_can_be_had_by_its_id(nights: Nights) -> None:
    stale = nights.night(5 * DAY, AHEAD)
    right = nights.night(DAY)
    listing = nights.vault.list("orders")

    assert list(about_dates(right, listing)) == [
        f"{stale.label} is passed over: its date is in the future. Its id chooses it."
    ]
    chosen = choose_snapshot(nights.vault, "orders", snapshot_id=stale.id)
    assert chosen == stale
    assert "Look at the clocks" in next(about_dates(chosen, listing))


def test_where_there_is_nothing_else_it_is_better_than_nothing(nights: Nights) -> None:
    stale = nights.night(DAY, AHEAD)

    assert choose_snapshot(nights.vault, "orders") == stale


def test_a_host_whose_clock_has_fallen_behind_still_finds_last_night_by_the_clock_of_the_store() -> None:
    nights = Nights()
    nights.night(-100 * DAY)
    last = nights.night(-200 * DAY)  # this host's clock has lost more than half a year
    nights.now = NOW + 201 * DAY

    assert choose_snapshot(nights.vault, "orders") == last
    assert not choose_snapshot(nights.vault, "orders").misdated


@pytest.mark.parametrize("wrong", [AHEAD, -AHEAD, 25 * timedelta(hours=1)], ids=["far ahead", "far behind", "a day"])
def test_a_clock_that_is_a_day_off_stops_a_backup_before_it_is_begun(nights: Nights, wrong: timedelta) -> None:
    nights.now = datetime.now(UTC) - wrong

    with pytest.raises(NotReady, match=r"This host's clock is .* (ahead of|behind) the clock of the repository far"):
        look(nights.vault, "orders", ())


def test_a_clock_that_is_minutes_off_is_a_remark_and_one_that_is_right_is_none(nights: Nights) -> None:
    assert look_at_clocks(nights.vault, NOW + timedelta(minutes=4)) == ([], ())

    told, refused = look_at_clocks(nights.vault, NOW + timedelta(hours=2))

    assert told[0] == "This host's clock is 2 h ahead of the clock of the repository far."
    assert refused == ()


def test_one_store_of_two_whose_clock_is_wrong_stops_nothing() -> None:
    right, wrong = MemoryRepository("right", clock=lambda: NOW), MemoryRepository("wrong", clock=lambda: NOW - AHEAD)

    told, refused = look_at_clocks(vault_of(right, wrong), NOW)

    assert len(told) == 1
    assert refused == ()


def test_a_backup_by_hand_looks_at_the_clocks_too(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    nights.now = datetime.now(UTC) - timedelta(hours=3)
    _check_clocks(nights.vault, "orders")
    assert "Warning: This host's clock is 3 h ahead of the clock of the repository far." in capsys.readouterr().err

    nights.now = datetime.now(UTC) - AHEAD
    with pytest.raises(NotReady, match="orders cannot be backed up"):
        _check_clocks(nights.vault, "orders")


def test_what_a_clock_that_ran_ahead_has_attested_is_not_the_last_word() -> None:
    world = World()
    snapshot = world.back_up()
    said = [
        (_attestation(snapshot, Verdict.FAILED, NOW + AHEAD), NOW - 2 * DAY),  # by a host that was ahead
        (_attestation(snapshot, Verdict.PROVEN, NOW), NOW),
        (_attestation(snapshot, Verdict.VERIFIED, NOW - 3 * DAY), NOW),  # replicated later
    ]

    assert [one.verdict for one in in_order(said)] == [Verdict.VERIFIED, Verdict.FAILED, Verdict.PROVEN]
    assert is_proven(in_order(said))


@settings(max_examples=40, deadline=None)
@given(
    some.sets(some.integers(1, 60), min_size=4, max_size=40),
    some.sets(some.tuples(some.integers(1, 60), some.integers(2, 900)), max_size=5),
)
def test_snapshots_dated_into_the_future_never_cost_one_that_is_good(
    past: set[int], future: set[tuple[int, int]]
) -> None:
    policy, start = Policy({"far": SMALL}, brake=1.0), copy_of(0).id.began
    now = start + 100 * DAY
    rightly = [copy_of(day) for day in sorted(past)]
    # Put on one day, dated so many days after now.
    wrongly = [copy_of(100 + ahead, modified=start + day * DAY) for day, ahead in sorted(future)]

    alone = {d.copy.id for d in plan_retention(rightly, policy, now).keep}
    together = plan_retention([*rightly, *wrongly], policy, now)

    assert alone <= {d.copy.id for d in together.keep}
    assert {c.id for c in wrongly} <= {d.copy.id for d in together.keep}
    assert all(d.copy.tier is Tier.DAILY for d in together.remove)


def _attestation(snapshot: Snapshot, verdict: Verdict, made: datetime) -> Attestation:
    return Attestation("vault", "orders", snapshot.id, verdict, made, None, {}, "a test")


def _policy() -> Policy:
    return Policy({"far": SMALL, "near": SMALL})
