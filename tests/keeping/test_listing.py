"""A thousand snapshots in S3 are listed in seconds: manifests read before are kept aside, and checked again."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from demo.storage import S3Server
from lifeboat.inventory import take_inventory
from lifeboat.record_cache import RecordCache
from lifeboat.repositories.s3 import S3Repository
from lifeboat.snapshot import Kind, SnapshotId, Tier, artifact_key, manifest_key
from lifeboat.vault import Member, Vault
from tests.fixtures_storage import BUCKET, s3_client_of
from tests.keeping.worlds import KEYRING, SIGNING, START

pytestmark = pytest.mark.slow

COUNT = 1000
T = TypeVar("T")


@pytest.fixture(scope="module")
def members(s3_store: S3Server) -> list[Member]:
    """A vault of a thousand snapshots, all of the same small artifact."""
    store = S3Repository(s3_client_of(s3_store), BUCKET, uuid.uuid4().hex, "s3")
    made = [Member(store)]
    Vault.create(made)
    vault = Vault.open(made, KEYRING, ["operations", "escrow"])
    writer = vault.begin("orders", Kind.POSTGRES, began=START)
    writer("dump", [b"rows"], media_type="application/octet-stream")
    first = writer.commit({})
    sealed = b"".join(store.get(artifact_key("orders", Tier.DAILY, first.id, "dump")))

    def put(number: int) -> None:
        snapshot_id = SnapshotId.make(START + number * timedelta(hours=6), number.to_bytes(4, "big"))
        manifest = replace(first.manifest, snapshot_id=snapshot_id)
        store.put(artifact_key("orders", Tier.DAILY, snapshot_id, "dump"), [sealed])
        store.put(manifest_key("orders", Tier.DAILY, snapshot_id), [manifest.sign(SIGNING)])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(1, COUNT)))
    return made


def opened(members: list[Member], folder: Path) -> Vault:
    """The vault as a new process opens it."""
    vault = Vault.open(members, KEYRING, ["operations", "escrow"])
    vault.cache = RecordCache(folder)
    return vault


def quickest(call: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the seconds of the quickest of three times: other tests take the processors from it."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        found = call()
        times.append(time.perf_counter() - began)
    return found, min(times)


def test_a_thousand_snapshots_are_listed_in_three_seconds(members: list[Member], tmp_path: Path) -> None:
    assert len(opened(members, tmp_path).list().snapshots) == COUNT

    listing, took = quickest(lambda: opened(members, tmp_path).list())

    assert len(listing.snapshots) == COUNT
    assert listing.problems == ()
    assert took < 3, f"{took:.2f} s"


def test_the_inventory_of_a_thousand_snapshots_takes_no_longer(members: list[Member], tmp_path: Path) -> None:
    take_inventory(opened(members, tmp_path), now=START)

    found, took = quickest(lambda: take_inventory(opened(members, tmp_path), now=START))

    assert len(found.copies) == COUNT
    assert all(copy.whole for copy in found.copies)
    assert took < 3, f"{took:.2f} s"
