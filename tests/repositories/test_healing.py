"""A copy that was found damaged is mended from another, in every kind of repository, and then known to be whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lifeboat.attestation import attestations_of, was_read_back
from lifeboat.copies import attest_damage
from lifeboat.errors import LifeboatError
from lifeboat.healing import heal
from lifeboat.inventory import take_inventory
from lifeboat.manifest import Pack
from lifeboat.packs import pack_key
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.retention import Policy
from lifeboat.snapshot import Kind, Tier, artifact_key
from lifeboat.vault import Member, Snapshot, Vault
from tests.keeping.worlds import KEYRING, flip_a_bit
from tests.repositories.conftest import PART

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)


def two_nights(vault: Vault) -> list[Snapshot]:
    """Two snapshots that share a pack, which is stored in several parts."""
    made = []
    packs: list[Pack] = []
    for night in (2, 1):
        writer = vault.begin("uploads", Kind.FILES, began=NOW - timedelta(days=night))
        if not packs:
            writer.put_pack("aa1", [b"f" * PART], lambda size, sha256: packs.append(Pack("aa1", PART, size, sha256)))
        writer("index", [bytes(range(256)) * 10], media_type="application/octet-stream")
        made.append(writer.commit({}, packs))
    return made


@pytest.mark.parametrize("what", ["index", "pack"])
def test_what_a_read_back_found_damaged_is_mended_from_another_repository(
    repository: Repository, tmp_path: Path, what: str
) -> None:
    members = [Member(repository), Member(LocalDiskRepository(tmp_path / "near", "near"))]
    Vault.create(members)
    vault = Vault.open(members, KEYRING, ["operations", "escrow"])
    first, second = two_nights(vault)
    key = pack_key("uploads", "aa1") if what == "pack" else artifact_key("uploads", Tier.DAILY, first.id, "index")
    flip_a_bit(repository, key)
    costs = [first, second] if what == "pack" else [first]
    for snapshot in costs:
        [fault] = vault.verify(snapshot, repository.name).faults.values()
        attest_damage(vault, snapshot, repository.name, fault)
    assert {c.label for c in take_inventory(vault, now=NOW).copies if not c.whole} == {s.label for s in costs}
    policy = Policy({member.name: {Tier.DAILY: 5} for member in members})

    done = heal(vault, policy, now=NOW)

    assert all(one.lacking == {} for one in done)
    name = "pack aa1" if what == "pack" else "index"
    assert [one.copied.get(repository.name, ()).count(name) for one in done].count(1) == 1
    for snapshot in (first, second):
        vault.verify(snapshot, repository.name).raise_faults()
    assert all(copy.whole for copy in take_inventory(vault, now=NOW).copies)
    assert all(was_read_back(attestations_of(vault, one)[-1], repository.name) for one in costs)
    assert heal(vault, policy, now=NOW) == []


def test_nothing_is_removed_where_no_other_repository_has_it_right(repository: Repository, tmp_path: Path) -> None:
    near = LocalDiskRepository(tmp_path / "near", "near")
    members = [Member(repository), Member(near)]
    Vault.create(members)
    vault = Vault.open(members, KEYRING, ["operations", "escrow"])
    _, snapshot = two_nights(vault)
    key = artifact_key("uploads", Tier.DAILY, snapshot.id, "index")
    for store in (repository, near):
        flip_a_bit(store, key)
    attest_damage(vault, snapshot, repository.name, LifeboatError("It is damaged."))
    before = {store.name: b"".join(store.get(key)) for store in (repository, near)}

    [done] = heal(vault, Policy({member.name: {Tier.DAILY: 5} for member in members}), now=NOW)

    assert "no other repository gives it right" in done.lacking[repository.name]
    assert {store.name: b"".join(store.get(key)) for store in (repository, near)} == before
    assert {c.repository for c in take_inventory(vault, now=NOW).copies if not c.whole} == {repository.name}
