"""`make bench`, third part: deciding and listing over many snapshots. Written to docs/benchmark-keeping.md."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.keeping.calendar import live_through
from tests.keeping.many import many_snapshots, opened
from tests.keeping.worlds import DAY, FULL, START, copy_of

from demo.storage import seaweedfs
from lifeboat.connections import Connection
from lifeboat.inventory import take_inventory
from lifeboat.provider_clients import s3_client
from lifeboat.repositories.s3 import S3Repository
from lifeboat.retention import Policy, plan_retention
from lifeboat.vault import Member

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "bench"
ROUNDS = 3


def main() -> None:
    """Measure each, and write the table."""
    lines = [
        ("Plan the retention of 10,000 snapshots in two repositories", "2 s", _plan()),
        *_list(),
        ("Live through three years with outages, deciding on every day", "60 s", _seconds(lambda: live_through(1), 1)),
    ]
    text = f"""\
# Benchmark of keeping

What `make bench` measured on {datetime.now(UTC):%Y-%m-%d}: the quickest of {ROUNDS} times (the three years once), on
{os.cpu_count()} cores that the S3 store shares. Beside each figure stands what it may take.

| | may take | took |
| --- | ---: | ---: |
"""
    text += "".join(f"| {what} | {bar} | {took:.2f} s |\n" for what, bar, took in lines)
    (ROOT / "docs" / "benchmark-keeping.md").write_text(text, "utf-8")
    print(text)


def _plan() -> float:
    policy = Policy({"far": FULL, "near": FULL}, brake=1.0)
    copies = [copy_of(n / 4, suffix=f"{n:08x}", repository=name) for n in range(10_000) for name in policy.counts]
    return _seconds(lambda: plan_retention(copies, policy, START + 2501 * DAY))


def _list() -> list[tuple[str, str, float]]:
    with tempfile.TemporaryDirectory() as folder, seaweedfs(Path(folder) / "s3") as store:
        client = s3_client(Connection("bench", **store.connection))
        client.create_bucket(Bucket=BUCKET)
        members = [Member(S3Repository(client, BUCKET, "keeping", "s3"))]
        many_snapshots(members, 1000)
        cache = Path(folder) / "cache"
        first = _seconds(lambda: opened(members, cache).list(), 1)
        return [
            ("List 1,000 snapshots from S3, for the first time", "", first),
            ("List them again", "3 s", _seconds(lambda: opened(members, cache).list())),
            ("Take an inventory of them", "3 s", _seconds(lambda: take_inventory(opened(members, cache), now=START))),
        ]


def _seconds(call: Callable[[], object], times: int = ROUNDS) -> float:
    """The seconds of the quickest time."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took)


if __name__ == "__main__":
    main()
