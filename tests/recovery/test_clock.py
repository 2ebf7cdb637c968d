"""The clock of an incident, in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lifeboat.recovery.clock import Clock, moment_text, span_text

BEGAN = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
CLOCK = Clock(BEGAN, 4)


def test_the_line_says_what_is_used_left_and_forecast() -> None:
    line = CLOCK.line(BEGAN + timedelta(minutes=70), 3.17 * 3600 - 10)

    assert line == "1 h 10 min of 4 h used, 2 h 50 min left, done at about 14:20 UTC by the forecast, 20 min too late"


def test_a_forecast_within_the_objective_is_not_late_and_an_unknown_one_is_not_said() -> None:
    now = BEGAN + timedelta(minutes=70)

    assert CLOCK.line(now, 600).endswith("2 h 50 min left, done at about 11:20 UTC by the forecast")
    assert CLOCK.line(now) == "1 h 10 min of 4 h used, 2 h 50 min left"
    assert CLOCK.forecast(now, None) is None


def test_what_is_over_is_said() -> None:
    now = BEGAN + timedelta(hours=28, minutes=30)

    assert CLOCK.remaining(now) == -24.5 * 3600
    assert CLOCK.line(now) == "1 d 4 h of 4 h used, 1 d too many"


def test_a_clock_that_has_not_begun_has_used_nothing() -> None:
    assert CLOCK.elapsed(BEGAN - timedelta(hours=1)) == 0
    assert CLOCK.line(BEGAN - timedelta(hours=1)).startswith("0 s of 4 h used, 4 h left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.9, "60 s"), (60, "1 min"), (3599.9, "1 h"), (5400, "1 h 30 min"), (86400, "1 d"),
     (90_000, "1 d 1 h"), (86_460, "1 d"), (-5, "0 s")],
    ids=str,
)  # fmt: skip
def test_spans_are_said_with_their_two_largest_units(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


def test_a_moment_of_another_day_has_its_day() -> None:
    assert moment_text(BEGAN, BEGAN + timedelta(hours=3)) == "10:00 UTC"
    assert moment_text(BEGAN, BEGAN + timedelta(days=1)) == "2026-11-23 10:00 UTC"
