"""A thousand snapshots in S3 are listed in a few requests: manifests read before are kept aside, and checked again."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.storage import S3Server
from lifeboat.inventory import take_inventory
from lifeboat.repositories.s3 import S3Repository
from lifeboat.vault import Member
from tests.fixtures_storage import BUCKET, s3_client_of
from tests.keeping.many import many_snapshots, opened
from tests.keeping.worlds import START

pytestmark = pytest.mark.slow

COUNT = 1000

FEW = 3
"""Requests: what the vault says of itself, and the listings of its objects, a thousand at a time."""


@pytest.fixture(scope="module")
def client(s3_store: S3Server) -> Any:
    return s3_client_of(s3_store)


@pytest.fixture(scope="module")
def members(client: Any) -> list[Member]:
    members = [Member(S3Repository(client, BUCKET, uuid.uuid4().hex, "s3"))]
    many_snapshots(members, COUNT)
    return members


@contextmanager
def requests(client: Any) -> Iterator[Counter[str]]:
    """How often each operation was asked of the store."""
    asked: Counter[str] = Counter()

    def count(model: Any, **_: object) -> None:
        asked[model.name] += 1

    client.meta.events.register("before-call.s3", count, unique_id="count")
    try:
        yield asked
    finally:
        client.meta.events.unregister("before-call.s3", unique_id="count")


def test_a_thousand_snapshots_are_listed_again_without_reading_one_again(
    client: Any, members: list[Member], tmp_path: Path
) -> None:
    with requests(client) as first:
        assert len(opened(members, tmp_path).list().snapshots) == COUNT

    with requests(client) as again:
        listing = opened(members, tmp_path).list()

    assert len(listing.snapshots) == COUNT
    assert listing.problems == ()
    assert first["GetObject"] == COUNT + 1
    assert again["GetObject"] == 1
    assert again.total() <= FEW


def test_the_inventory_of_a_thousand_snapshots_takes_no_more(
    client: Any, members: list[Member], tmp_path: Path
) -> None:
    take_inventory(opened(members, tmp_path), now=START)

    with requests(client) as asked:
        found = take_inventory(opened(members, tmp_path), now=START)

    assert len(found.copies) == COUNT
    assert all(copy.whole for copy in found.copies)
    assert asked.total() <= FEW
