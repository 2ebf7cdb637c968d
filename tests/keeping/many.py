"""A vault of many snapshots, all of the same small artifact, and plans of many."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from lifeboat.record_cache import RecordCache
from lifeboat.snapshot import Kind, SnapshotId, Tier, artifact_key, manifest_key
from lifeboat.vault import Member, Vault
from tests.keeping.worlds import KEYRING, SIGNING, START


def many_snapshots(members: Sequence[Member], count: int) -> None:
    """Make a vault of `members`, with so many snapshots of `orders`, six hours apart."""
    Vault.create(members)
    vault = Vault.open(members, KEYRING, ["operations", "escrow"])
    writer = vault.begin("orders", Kind.POSTGRES, began=START)
    writer("dump", [b"rows"], media_type="application/octet-stream")
    first = writer.commit({})
    store = members[0].repository
    sealed = b"".join(store.get(artifact_key("orders", Tier.DAILY, first.id, "dump")))

    def put(number: int) -> None:
        snapshot_id = SnapshotId.make(START + number * timedelta(hours=6), number.to_bytes(4, "big"))
        manifest = replace(first.manifest, snapshot_id=snapshot_id)
        for member in members:
            member.repository.put(artifact_key("orders", Tier.DAILY, snapshot_id, "dump"), [sealed])
            member.repository.put(manifest_key("orders", Tier.DAILY, snapshot_id), [manifest.sign(SIGNING)])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(1, count)))


def opened(members: Sequence[Member], cache: Path) -> Vault:
    """The vault as a new process opens it."""
    vault = Vault.open(members, KEYRING, ["operations", "escrow"])
    vault.cache = RecordCache(cache)
    return vault
