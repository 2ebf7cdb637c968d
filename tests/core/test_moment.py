"""Moments as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lifeboat.errors import SettingsError
from lifeboat.moment import read_moment

TWO = datetime(2026, 11, 23, 2, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-11-23T02:00Z", "2026-11-23 03:00+01:00", "2026-11-22T22:30:00.000-03:30"])
def test_a_moment_with_its_offset_is_that_moment(text: str) -> None:
    assert read_moment(text, "as_of") == TWO


def test_a_moment_without_offset_is_utc_and_that_is_said() -> None:
    said: list[str] = []

    assert read_moment("2026-11-23T02:00", "as_of", said.append) == TWO
    assert said == ["as_of = 2026-11-23T02:00 gives no offset, and is read as UTC."]


@pytest.mark.parametrize("text", ["yesterday", "", "23.11.2026", None, 17])
def test_what_is_no_moment_is_refused_with_its_place_and_the_remedy(text: object) -> None:
    with pytest.raises(SettingsError, match=f"as_of = '{text}' is no time") as refused:
        read_moment(text, "as_of")

    assert "2026-11-23T02:00+00:00" in refused.value.hint
