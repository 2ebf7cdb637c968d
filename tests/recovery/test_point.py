"""The choice of the recovery point: each source's newest that may be taken, and of what is left open the least skew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from lifeboat.recovery.model import Point
from lifeboat.recovery.point import Candidate, choose_point, nearest_together, price_text, skew_of

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)


def at(source: str, hours: float, **fields: object) -> Candidate:
    return Candidate(source, f"{source}/daily/{hours:g}", MIDNIGHT + timedelta(hours=hours), **fields)  # type: ignore[arg-type]


def labels(chosen: dict[str, Candidate]) -> set[str]:
    return {candidate.label for candidate in chosen.values()}


NIGHTS = [
    *(at("orders", 24 * day + 2, proven=day == 1) for day in range(4)),
    *(at("uploads", 24 * day + 3, proven=day in (1, 2)) for day in range(4)),
    at("configuration", -500, lasting=True),
    at("configuration", 60, lasting=True),
]


def test_the_latest_is_of_every_source_the_newest() -> None:
    point = choose_point(NIGHTS, Point.LATEST)

    assert labels(point.chosen) == {"orders/daily/74", "uploads/daily/75", "configuration/daily/60"}
    assert point.skew == timedelta(hours=1)
    assert not point.nearer


def test_the_latest_proven_says_what_is_newer_and_of_what_nothing_is_proven() -> None:
    point = choose_point(NIGHTS, Point.LATEST_PROVEN)

    assert labels(point.chosen) == {"orders/daily/26", "uploads/daily/51", "configuration/daily/60"}
    assert point.passed_over["orders"] == ("orders/daily/74: it is not proven", "orders/daily/50: it is not proven")
    assert point.remarks == ("None of the snapshots of configuration is proven; the newest whole one is taken.",)


def test_what_began_after_the_incident_is_taken_only_where_nothing_before_it_can_be() -> None:
    incident = MIDNIGHT + timedelta(hours=60)
    found = [*NIGHTS, at("sessions", 61, proven=True)]

    point = choose_point(found, Point.LATEST, incident=incident)

    assert labels(point.chosen) == {
        "orders/daily/50",
        "uploads/daily/51",
        "configuration/daily/60",
        "sessions/daily/61",
    }
    why = "it began after the incident and may hold what it has done"
    assert point.passed_over["orders"] == (f"orders/daily/74: {why}",)
    as_of = choose_point(found, Point.AS_OF, incident=incident, as_of=incident + timedelta(hours=99))
    assert labels(as_of.chosen) >= {"orders/daily/74"}


def test_a_set_that_is_nearer_together_is_told_with_its_price() -> None:
    point = choose_point(NIGHTS, Point.LATEST_PROVEN)

    assert labels(point.nearer) == {"orders/daily/26", "uploads/daily/27", "configuration/daily/-500"}
    assert price_text(point.chosen, point.nearer) == (
        "Nearer together, 1 h apart instead of 1 d 1 h: orders/daily/26, uploads/daily/27, configuration/daily/-500. "
        "It loses 1 d more of uploads."
    )


def test_as_of_a_time_takes_what_began_then_or_earlier() -> None:
    point = choose_point(NIGHTS, Point.AS_OF, as_of=MIDNIGHT + timedelta(hours=50))

    assert labels(point.chosen) == {"orders/daily/50", "uploads/daily/27", "configuration/daily/-500"}


def test_as_of_a_time_before_all_there_is_nothing() -> None:
    assert not choose_point(NIGHTS, Point.AS_OF, as_of=MIDNIGHT - timedelta(days=99)).chosen


def test_what_speaks_against_a_snapshot_is_told_and_the_one_before_is_taken() -> None:
    damaged = [at("orders", 98, against="it is whole nowhere"), *NIGHTS]

    point = choose_point(damaged, Point.LATEST)

    assert point.chosen["orders"].label == "orders/daily/74"
    assert point.passed_over["orders"] == ("orders/daily/98: it is whole nowhere",)


def test_a_named_snapshot_is_taken_whatever_speaks_against_it_and_the_others_follow() -> None:
    damaged = [at("orders", 30, against="it is suspect"), *NIGHTS]

    point = choose_point(damaged, Point.SNAPSHOTS, named=["orders/daily/30"])

    assert labels(point.chosen) == {"orders/daily/30", "uploads/daily/27", "configuration/daily/-500"}
    assert point.remarks == ("orders/daily/30 was asked for, although it is suspect.",)
    assert "uploads/daily/51: it fits the others less" in point.passed_over["uploads"]


def test_only_so_many_that_were_passed_over_are_named() -> None:
    many = [at("orders", 0), *(at("orders", 1 + n, against="it is suspect") for n in range(9))]

    assert choose_point(many, Point.LATEST).passed_over["orders"][-1] == "and 4 more"


candidates = st.lists(
    st.builds(
        lambda source, hours, proven, against: at(source, hours, proven=proven, against=against),
        st.sampled_from(["orders", "uploads", "sessions"]),
        st.integers(0, 60),
        st.booleans(),
        st.sampled_from(["", "", "it is suspect"]),
    ),
    max_size=14,
    unique_by=lambda c: c.label,
)


@given(candidates)
def test_no_set_is_nearer_together_and_no_equal_one_is_newer(found: list[Candidate]) -> None:
    by_source: dict[str, list[Candidate]] = {}
    for candidate in found:
        by_source.setdefault(candidate.source, []).append(candidate)

    chosen = nearest_together(by_source)

    every = [skew_of(each) for each in product(*by_source.values())] if by_source else []
    assert skew_of(chosen.values()) == min(every, default=timedelta())
    ends = [max(c.began for c in each) for each in product(*by_source.values()) if each and skew_of(each) == min(every)]
    assert max((c.began for c in chosen.values()), default=None) == max(ends, default=None)


@given(candidates, st.sampled_from([Point.LATEST, Point.LATEST_PROVEN, Point.AS_OF]), st.integers(0, 60))
def test_nothing_newer_that_may_be_taken_is_passed_over(found: list[Candidate], how: Point, hours: int) -> None:
    as_of = MIDNIGHT + timedelta(hours=hours) if how is Point.AS_OF else None

    point = choose_point(found, how, as_of=as_of)

    for source in {candidate.source for candidate in found}:
        may = [c for c in found if c.source == source and not c.against and (as_of is None or c.began <= as_of)]
        if how is Point.LATEST_PROVEN and any(c.proven for c in may):
            may = [c for c in may if c.proven]
        assert point.chosen.get(source) == max(may, key=lambda c: c.began, default=None)


@given(candidates, st.data())
def test_what_is_named_is_taken_and_nothing_that_is_spoken_against_beside_it(
    found: list[Candidate], data: st.DataObject
) -> None:
    named = {}
    for candidate in data.draw(st.lists(st.sampled_from(found), max_size=3)) if found else []:
        named[candidate.source] = candidate

    point = choose_point(found, Point.SNAPSHOTS, named=[c.label for c in named.values()])

    for source, candidate in point.chosen.items():
        assert candidate == named.get(source, candidate)
        assert source in named or not candidate.against
    assert named.keys() <= point.chosen.keys()


@given(candidates, st.sampled_from([Point.LATEST, Point.LATEST_PROVEN]))
def test_a_nearer_set_is_nearer_of_the_same_sources_and_never_newer(found: list[Candidate], how: Point) -> None:
    point = choose_point(found, how)

    if point.nearer:
        assert point.nearer.keys() == point.chosen.keys()
        assert skew_of(point.nearer.values()) < point.skew
        assert all(point.nearer[s].began <= point.chosen[s].began for s in point.chosen)
