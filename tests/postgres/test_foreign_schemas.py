"""Databases nobody here designed survive whole: Airflow's own, django-ledger's, Tryton's and TPC-H's, each filled by
itself; and one of 5,000 tables."""

from __future__ import annotations

import pytest

from lifeboat.postgres.dump import dump_database
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import MAJORS, Clusters, new_name
from tests.postgres.artifacts import Kept, restore
from tests.postgres.foreign import databases
from tests.postgres.sameness import assert_same

pytestmark = pytest.mark.slow

WAYS = [(major, major) for major in MAJORS] + [(17, 18)]
DATABASES = [(databases.MANY, 5000), ("airflow", 40), ("django-ledger", 30), ("TPC-H", 8), ("Tryton", 140)]
CASES = [
    (name, tables, source, target)
    for name, tables in DATABASES
    for source, target in (WAYS if name != databases.MANY else [(17, 18)])
]


@pytest.mark.parametrize(
    ("name", "tables", "source", "target"),
    CASES,
    ids=[f"{name}, {source} to {target}" for name, _, source, target in CASES],
)
def test_a_database_others_designed_survives(
    clusters: Clusters, installed: tuple[Programs, ...], name: str, tables: int, source: int, target: int
) -> None:
    first, second = clusters.get(source).server, clusters.get(target).server
    original, restored = databases.load(name, clusters, source), new_name(f"{name} restored")
    kept = Kept()

    dump = dump_database(first, original, kept, installed=installed, content_hash=True, stream_size=1 << 20)
    restore(kept, dump, second, restored, installed)

    assert len(dump.evidence.tables) >= tables
    assert_same(first, original, second, restored, major=max(source, target))
