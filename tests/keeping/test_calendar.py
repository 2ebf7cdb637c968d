"""Three years of nights, weeks and months with outages end with what was promised."""

from __future__ import annotations

import pytest

from lifeboat.retention import period_of
from lifeboat.snapshot import Tier
from tests.keeping.calendar import draw, live_through
from tests.keeping.worlds import DAY, FULL, LOCAL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("seed", [1])
def test_three_years_with_outages_end_with_thirty_days_twelve_weeks_and_twelve_months(seed: int) -> None:
    year = live_through(seed)

    world = year.world
    assert len(year.outages) > 30
    assert year.made > 700
    assert year.failed_proofs > 5
    plan = world.plan
    for name, counts in {"far": FULL, "near": FULL, "local": LOCAL}.items():
        for tier, count in counts.items():
            here = [d for d in plan.keep if (d.copy.repository, d.copy.tier) == (name, tier)]
            promised = [d for d in here if any(f" of {count}" in reason for reason in d.reasons)]
            assert len(promised) == count, (name, tier)
            extra = [d.reasons for d in here if d not in promised]
            assert all(reasons for reasons in extra)
            assert len(extra) <= 3, extra
            assert len({period_of(tier, d.copy.id.began) for d in promised}) == count
    assert plan.remove == ()
    assert plan.owed == ()
    newest = world.there("far")[-1]
    assert world.now - newest.began < DAY
    assert all(copy.whole for copy in world.inventory.copies)
    assert "<polyline" in draw(year, {tier: world.there("far", tier) for tier in Tier})
