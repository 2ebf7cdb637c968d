"""Three years of backups on a calendar, with outages: what every DAG decides, called when it is due.

`python -m tests.keeping.calendar` draws docs/images/retention.svg.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lifeboat.attestation import Verdict
from lifeboat.errors import LifeboatError
from lifeboat.healing import heal
from lifeboat.snapshot import SnapshotId, Tier
from lifeboat.vault import Snapshot
from tests.keeping.worlds import DAY, FULL, LOCAL, World

BEGINNING = datetime(2025, 1, 1, tzinfo=UTC)
END = datetime(2028, 1, 1, tzinfo=UTC)
"""Three years, a leap year not among them; 2026 has 53 weeks."""

CALM = 14 * DAY
"""Nothing fails so long before the end."""

IMAGE = Path(__file__).resolve().parents[2] / "docs" / "images" / "retention.svg"


@dataclass
class Year:
    """What happened: outages of everything and of repositories, and how many snapshots a tier had, day by day."""

    world: World
    outages: list[tuple[str, datetime, datetime]]
    counts: list[tuple[datetime, dict[Tier, int]]] = field(default_factory=list)
    made: int = 0
    failed_proofs: int = 0


def live_through(seed: int, *, beginning: datetime = BEGINNING, end: datetime = END) -> Year:
    """Live through the years, hour by hour where something is due."""
    chance = random.Random(seed)
    world = World({"far": FULL, "near": FULL, "local": LOCAL}, brake=0.25)
    outages = list(_outages(chance, beginning, end - CALM))
    year = Year(world, outages)

    def prove(snapshot: Snapshot) -> bool:
        passes = chance.random() > 0.1 or world.now > end - CALM
        year.failed_proofs += not passes
        world.attest(snapshot, Verdict.PROVEN if passes else Verdict.FAILED)
        return passes

    day = beginning
    while day < end:
        for hours, what in ((2.0, "nightly"), (5.0, "weekly"), (5.5, "monthly"), (6.5, "daily")):
            world.now = day + timedelta(hours=hours)
            down = {name for name, begins, ends in outages if begins <= world.now < ends}
            world.down = down - {"everything"}
            if "everything" in down or world.down >= {"far", "near", "local"}:
                continue
            if what == "nightly":
                world.back_up()
                year.made += 1
                world.prune()
            elif what == "weekly" and day.weekday() == 0:
                _attempt(lambda: world.promote(Tier.WEEKLY, prove=prove))
                world.prune()
            elif what == "monthly" and day.day == 1:
                _attempt(lambda: world.promote(Tier.MONTHLY, prove=prove))
                world.prune()
            elif what == "daily":
                heal(world.vault, world.policy, now=world.now)
                if day.day % 7 == 0:
                    world.sweep()
        year.counts.append((day, {tier: _count(world, tier) for tier in Tier}))
        day += DAY
    return year


def _attempt(act: Callable[[], object]) -> None:
    """A DAG whose task fails tries again the next time."""
    with suppress(LifeboatError):
        act()


def _outages(chance: random.Random, beginning: datetime, end: datetime) -> Iterator[tuple[str, datetime, datetime]]:
    for name, every, longest in (("everything", 90, 25), ("far", 60, 12), ("near", 60, 12), ("local", 45, 9)):
        moment = beginning + chance.uniform(20, every) * DAY
        while moment < end:
            ends = min(moment + chance.uniform(0.5, longest) * DAY, end)
            yield name, moment, ends
            moment = ends + chance.uniform(10, every) * DAY


def _count(world: World, tier: Tier) -> int:
    manifests = world.stores["far"].list(f"snapshots/orders/{tier}/")
    return sum(info.key.endswith("/manifest.json") for info in manifests)


# ---- the picture ----------------------------------------------------------------------------------------------------

COLOURS = {Tier.DAILY: "#4878a8", Tier.WEEKLY: "#c8862c", Tier.MONTHLY: "#5a9152"}
WIDTH, LEFT, RIGHT, HEIGHT = 960, 70, 20, 430


def draw(year: Year, kept: dict[Tier, list[SnapshotId]]) -> str:
    """How many snapshots each tier had over the years, when there were outages, and what stands at the end."""
    beginning, end = year.counts[0][0], year.counts[-1][0] + DAY

    def x(moment: datetime) -> float:
        return LEFT + (moment - beginning) / (end - beginning) * (WIDTH - LEFT - RIGHT)

    def y(count: int) -> float:
        return 250 - count * 5.2

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15">Three years with outages: snapshots in one repository</text>',
    ]
    for name, begins, ends in year.outages:
        if name in ("everything", "far"):
            shade = "#d9a0a0" if name == "everything" else "#e8e0e0"
            parts.append(
                f'<rect x="{x(begins):.1f}" y="40" width="{x(ends) - x(begins):.1f}" height="210" fill="{shade}"/>'
            )
    for count in (0, 12, 30):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(count)}" y2="{y(count)}" stroke="#bbb"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(count) + 4}" text-anchor="end">{count}</text>')
    for tier in Tier:
        line = " ".join(f"{x(day):.1f},{y(counts[tier]):.1f}" for day, counts in year.counts)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[tier]}" stroke-width="1.5"/>')
    for row, tier in enumerate(Tier):
        top = 290 + 36 * row
        parts.append(f'<text x="{LEFT - 8}" y="{top + 12}" text-anchor="end" fill="{COLOURS[tier]}">{tier}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top + 16}" y2="{top + 16}" stroke="#ddd"/>')
        parts += [
            f'<line x1="{x(one.began):.1f}" x2="{x(one.began):.1f}" y1="{top}" y2="{top + 16}" '
            f'stroke="{COLOURS[tier]}" stroke-width="1.2"/>'
            for one in kept[tier]
        ]
    for number in range(beginning.year, end.year + 1):
        at = x(datetime(number, 1, 1, tzinfo=UTC))
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 28}" text-anchor="middle">{number}</text>')
    told = "Dark: nothing ran. Light: this repository did not answer. Below: what stands at the end."
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}" fill="#555">{told}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    lived = live_through(1)
    IMAGE.write_text(draw(lived, {tier: lived.world.there("far", tier) for tier in Tier}))
    print(IMAGE)
