"""The anomaly gate: what differs much from those before it counts for nothing until a person accepts it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lifeboat.anomaly import Figures, judge, judge_snapshot
from lifeboat.attestation import Verdict, attestations_of
from lifeboat.errors import RepositoryUnavailable
from lifeboat.holding import accept
from lifeboat.snapshot import Tier
from tests.keeping.worlds import FULL, World

USUAL = Figures(50_000_000, 600, 10_000, 12, {"app.orders": 8000, "app.payments": 1900, "app.queue": 30})
HISTORY = [replace(USUAL, size=USUAL.size + n, seconds=600 + n) for n in range(7)]


@pytest.mark.parametrize(
    ("changed", "reason"),
    {
        "half as large": ({"size": 20_000_000}, "it has 19.1 MiB, and those before it about 47.7 MiB"),
        "half the rows": ({"rows": 4000}, "it has 4,000 rows, and those before it about 10,000"),
        "much slower": ({"seconds": 2000}, "it took 0:33:20, and those before it about 0:10:03"),
        "a table emptied": (
            {"tables": {**USUAL.tables, "app.orders": 0}},
            "the table app.orders is empty, and had 8,000 rows",
        ),
        "a table dropped": ({"tables": {"app.orders": 8000}}, "the table app.payments is gone, and had 1,900 rows"),
        "a table fewer, and no identity to read which": (
            {"tables": None, "table_count": 11},
            "it has 11 tables, and the one before it 12",
        ),
    }.values(),
    ids=["size", "rows", "time", "emptied", "dropped", "unreadable"],
)
def test_what_differs_much_is_suspect_and_said_how(changed: dict[str, object], reason: str) -> None:
    [found] = judge(replace(USUAL, **changed), HISTORY)

    assert found.startswith(reason)


def test_a_redis_that_was_emptied_is_suspect_however_short_its_history_is() -> None:
    usual = Figures(2_300_000, 3, keys=20_004)

    assert judge(replace(usual, keys=0, size=492), [usual]) == ("it has no keys, and the one before it had 20,004",)
    assert judge(replace(usual, keys=12), [usual]) == ()
    assert judge(replace(usual, keys=0), [replace(usual, keys=0)]) == ()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"size": 40_000_000, "rows": 7000, "seconds": 1700},
        {"size": 500_000_000},
        {"tables": {**USUAL.tables, "app.queue": 0}},
        {"tables": {"app.orders": 8000, "app.payments": 1900}},
        {"tables": {**USUAL.tables, "app.new": 5}, "table_count": 13},
        {"seconds": 890},
    ],
    ids=[
        "the same",
        "a little less",
        "much larger",
        "a queue emptied",
        "a queue dropped",
        "a new table",
        "a bit slower",
    ],
)
def test_what_happens_every_day_is_not_suspect(changed: dict[str, object]) -> None:
    assert judge(replace(USUAL, **changed), HISTORY) == ()


def test_the_first_snapshots_are_not_judged_by_size_or_time_but_by_lost_tables_they_are() -> None:
    new = replace(USUAL, size=1, seconds=99_999, tables={})

    assert judge(new, []) == ()
    assert len(judge(new, HISTORY[:2])) == 2
    assert all("is gone" in reason for reason in judge(new, HISTORY[:2]))


def test_many_lost_tables_are_counted_not_listed() -> None:
    many = replace(USUAL, tables={f"app.t{n}": 500 for n in range(40)})

    assert judge(replace(USUAL, tables={}), [many])[-1] == "and 35 more tables"


def test_an_emptied_database_is_suspect_night_after_night_until_it_is_accepted() -> None:
    world = World({"far": {Tier.DAILY: 3}})
    made = world.nights(6, rows=1000, tables=5)
    for one in made:
        assert judge_snapshot(world.vault, one) == ()

    small = []
    for _ in range(4):
        [one] = world.nights(1, rows=3, tables=5)
        small.append(one)
        assert "it has 3 rows, and those before it about 1,000" in judge_snapshot(world.vault, one)[0]
        world.prune()

    assert [s.id for s in made[3:]] == world.there()[:3]
    assert "suspect until somebody accepts it: it has 3 rows" in world.reasons(small[0])
    assert judge_snapshot(world.vault, small[0])
    assert [a.verdict for a in attestations_of(world.vault, small[0])] == [Verdict.SUSPECT]

    for one in small:
        accept(world.vault, one, reason="we moved the old ones")
        assert judge_snapshot(world.vault, one) == ()
    [next_one] = world.nights(1, rows=3, tables=5)
    assert judge_snapshot(world.vault, next_one) == ()
    world.prune()
    assert set(world.there()) == {s.id for s in (*small[-2:], next_one)}


def test_judging_asks_each_repository_once_for_what_was_read_before() -> None:
    world = World({"far": FULL, "near": FULL})
    for one in world.nights(8, rows=1000, tables=5):
        judge_snapshot(world.vault, one)
    [new] = world.nights(1, rows=1000, tables=5)
    asked: list[tuple[str, str, str]] = []

    def note(name: str, method: str, key: str) -> bool:
        asked.append((name, method, key.rpartition("/")[2]))
        return False

    world.fails = note
    judge_snapshot(world.vault, new)

    assert sorted(asked) == sorted(
        (name, *what) for name in ("far", "near") for what in (("list", ""), ("get", "manifest.json"))
    )


def test_a_snapshot_that_no_repository_lists_is_not_taken_for_a_good_one() -> None:
    world = World({"far": FULL})
    *_, last = world.nights(4, rows=1000, tables=5)
    vault = world.vault
    world.fails = lambda _name, method, _key: method == "list"

    with pytest.raises(RepositoryUnavailable, match="can be listed now"):
        judge_snapshot(vault, last)
