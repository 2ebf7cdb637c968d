"""Packs in the vault: shared, replicated, read back, and never taken for there when they are not."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path

import pytest

from lifeboat.attestation import attestations_of, is_of_a_copy
from lifeboat.custody import check_identities, rewrap
from lifeboat.errors import IntegrityError, LifeboatError, RepositoryError
from lifeboat.files.check import pack_check
from lifeboat.files.index import INDEX
from lifeboat.files.restore import restore_tree
from lifeboat.keys import CLASSIC, Identity, Keyring
from lifeboat.manifest import Manifest
from lifeboat.packs import pack_key
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.snapshot import Tier, artifact_key, manifest_key
from lifeboat.streams import Throttle
from lifeboat.thawing import thaw_state
from lifeboat.vault import Snapshot, Vault, Verification
from tests.core.storage_faults import FailingRepository
from tests.core.test_vault import overwrite
from tests.files.vaults import BLIND, KEYRING, NOW, Tree, fill, picture, vault_of


@pytest.fixture
def primary() -> MemoryRepository:
    return MemoryRepository("primary")


@pytest.fixture
def local() -> MemoryRepository:
    return MemoryRepository("local")


def payload_of(repository: MemoryRepository, snapshot: Snapshot) -> dict[str, object]:
    envelope = b"".join(repository.get(manifest_key("uploads", snapshot.tier, snapshot.id)))
    payload: dict[str, object] = json.loads(b64decode(json.loads(envelope)["payload"]))
    return payload


def verify(vault: Vault, snapshot: Snapshot, repository: str) -> Verification:
    return vault.verify(snapshot, repository, check_pack=pack_check(vault, snapshot, repository))


def damage(repository: MemoryRepository, key: str) -> None:
    data = bytearray(b"".join(repository.get(key)))
    data[len(data) // 2] ^= 1
    overwrite(repository, key, bytes(data))


def test_a_manifest_with_packs_has_a_format_of_its_own(tmp_path: Path, primary: MemoryRepository) -> None:
    tree = Tree(tmp_path, primary)
    tree.write("file")
    snapshot = tree.snapshot()

    payload = payload_of(primary, snapshot)

    assert payload["format"] == 2
    [pack] = snapshot.manifest.packs
    assert payload["packs"] == [vars(pack)]
    assert tree.vault.find("uploads").manifest == snapshot.manifest


def test_a_tree_without_contents_needs_no_packs(tmp_path: Path, primary: MemoryRepository) -> None:
    tree = Tree(tmp_path, primary)
    tree.write("empty", b"")

    snapshot = tree.snapshot()

    assert payload_of(primary, snapshot)["format"] == 1
    assert picture(tree.restore()) == picture(tree.root)


def test_a_snapshot_with_packs_verifies_down_to_every_file(tmp_path: Path, primary: MemoryRepository) -> None:
    tree = Tree(tmp_path, primary)
    fill(tree.root)

    found = verify(tree.vault, tree.snapshot(), "primary")

    assert (found.faults, found.unsealed) == ({}, True)


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_lost_pack_is_named_with_the_files_it_costs(tmp_path: Path, primary: MemoryRepository, how: str) -> None:
    tree = Tree(tmp_path, primary)
    tree.write("invoices/a.pdf")
    snapshot = tree.snapshot()
    [pack] = snapshot.manifest.packs
    key = pack_key("uploads", pack.id)
    if how == "damaged":
        damage(primary, key)
    else:
        primary.delete(key)

    found = verify(tree.vault, snapshot, "primary")

    [(name, fault)] = found.faults.items()
    assert name == f"pack {pack.id}"
    assert "It costs 1 file of uploads/daily/" in fault.message
    assert "'invoices/a.pdf'" in fault.message


def test_without_an_identity_packs_are_held_to_their_digests(tmp_path: Path, primary: MemoryRepository) -> None:
    tree = Tree(tmp_path, primary, keyring=BLIND)
    tree.write("file")
    snapshot = tree.snapshot()

    assert verify(tree.vault, snapshot, "primary").faults == {}
    damage(primary, pack_key("uploads", snapshot.manifest.packs[0].id))

    found = verify(tree.vault, snapshot, "primary")
    assert (list(found.faults), found.unsealed) == ([f"pack {snapshot.manifest.packs[0].id}"], False)


def test_replicating_copies_the_packs_that_are_missing(
    tmp_path: Path, primary: MemoryRepository, local: MemoryRepository
) -> None:
    tree = Tree(tmp_path, primary)
    fill(tree.root)
    tree.back_up()
    vault = vault_of(primary, local, keyring=BLIND)

    replication = vault.replicate(vault.find("uploads"))

    assert replication.lacking == {}
    assert replication.snapshot.repositories == ("primary", "local")
    alone = vault_of(local)
    restore_tree(alone, alone.find("uploads"), tmp_path / "restored").raise_faults()
    assert picture(tmp_path / "restored") == picture(tree.root)


def test_replicating_packs_keeps_to_the_bytes_a_second_that_are_set(
    tmp_path: Path, primary: MemoryRepository, local: MemoryRepository
) -> None:
    tree = Tree(tmp_path, primary)
    fill(tree.root)
    tree.back_up()
    vault, slept = vault_of(primary, local), list[float]()
    vault.throttle = Throttle(128, clock=lambda: sum(slept), sleep=slept.append)  # no rounding: a power of two

    done = vault.replicate(vault.find("uploads"))

    # The index comes last, and waits for the packs before it.
    assert sum(slept) >= sum(pack.sealed_size for pack in done.snapshot.manifest.packs) / 128


def test_replicating_puts_a_lost_pack_back(tmp_path: Path, primary: MemoryRepository, local: MemoryRepository) -> None:
    tree = Tree(tmp_path, primary, local)
    tree.write("file")
    snapshot = tree.snapshot()
    [pack] = snapshot.manifest.packs
    local.delete(pack_key("uploads", pack.id))

    replication = tree.vault.replicate(snapshot)

    assert replication.copied == {"local": (f"pack {pack.id}",)}
    assert verify(tree.vault, snapshot, "local").faults == {}


def test_a_damaged_pack_is_never_replicated(tmp_path: Path, primary: MemoryRepository, local: MemoryRepository) -> None:
    tree = Tree(tmp_path, primary)
    tree.write("file")
    snapshot = tree.snapshot()
    damage(primary, pack_key("uploads", snapshot.manifest.packs[0].id))
    vault = vault_of(primary, local)

    replication = vault.replicate(snapshot)

    assert "its manifest says" in replication.lacking["local"]
    assert list(local.list("packs/")) == list(local.list("snapshots/")) == []


def test_a_repository_that_lacks_an_earlier_pack_is_no_part_of_the_snapshot(
    tmp_path: Path, primary: MemoryRepository, local: MemoryRepository
) -> None:
    tree = Tree(tmp_path, primary, local)
    tree.write("file")
    [pack] = tree.snapshot().manifest.packs
    local.delete(pack_key("uploads", pack.id))

    outcome = tree.back_up()

    assert outcome.snapshot.repositories == ("primary",)
    assert "lacks 1 packs" in outcome.lacking["local"]


def test_a_pack_that_is_nowhere_any_more_is_stored_again(tmp_path: Path, primary: MemoryRepository) -> None:
    tree = Tree(tmp_path, primary)
    tree.write("file")
    [pack] = tree.snapshot().manifest.packs
    primary.delete(pack_key("uploads", pack.id))

    second = tree.snapshot()

    assert second.manifest.facts["stored_packs"] == 1
    assert (tree.restore(second) / "file").read_bytes() == b"contents"


def test_a_repository_that_fails_midway_is_left_out(
    tmp_path: Path, primary: MemoryRepository, local: MemoryRepository
) -> None:
    flaky = FailingRepository(local, lambda _, method, key: method == "put" and key.startswith("packs/"))
    tree = Tree(tmp_path, primary, flaky)
    fill(tree.root)

    outcome = tree.back_up()

    assert outcome.snapshot.repositories == ("primary",)
    assert "failed on purpose" in outcome.lacking["local"]
    assert picture(tree.restore()) == picture(tree.root)


@pytest.mark.parametrize("how", ["damaged", "missing"])
@pytest.mark.parametrize("existing", [False, True], ids=["into a new folder", "into an existing one"])
def test_an_index_that_is_not_right_is_passed_over_told_of_and_attested(
    tmp_path: Path, primary: MemoryRepository, local: MemoryRepository, how: str, existing: bool
) -> None:
    tree = Tree(tmp_path, primary, local)
    fill(tree.root)
    snapshot = tree.snapshot()
    key = artifact_key("uploads", Tier.DAILY, snapshot.id, INDEX)
    if how == "damaged":
        damage(primary, key)
    else:
        primary.delete(key)
    target, said = tmp_path / "restored", list[str]()
    if existing:
        target.mkdir()

    done = restore_tree(tree.vault, snapshot, target, into_existing=existing, report=said.append)

    done.raise_faults()
    assert picture(target) == picture(tree.root)
    assert any(line.startswith("the copy in primary is damaged: ") for line in said)
    assert list(done.damaged) == ["primary"]
    assert [a.repository for a in attestations_of(tree.vault, snapshot) if is_of_a_copy(a)] == ["primary"]
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


def test_when_no_index_is_right_nothing_is_restored_and_the_remedy_is_said(
    tmp_path: Path, primary: MemoryRepository, local: MemoryRepository
) -> None:
    tree = Tree(tmp_path, primary, local)
    tree.write("file")
    snapshot = tree.snapshot()
    key = artifact_key("uploads", Tier.DAILY, snapshot.id, INDEX)
    damage(primary, key)
    local.delete(key)

    with pytest.raises(IntegrityError, match="No repository has a whole copy") as refused:
        tree.restore(snapshot)

    assert f"`lifeboat replicate {snapshot.label}` mends them" in refused.value.hint
    assert [path.name for path in tmp_path.iterdir() if "restored" in path.name] == []


def test_a_restore_goes_on_from_another_repository(
    tmp_path: Path, primary: MemoryRepository, local: MemoryRepository
) -> None:
    tree = Tree(tmp_path, primary, local)
    fill(tree.root)
    snapshot = tree.snapshot()
    for pack in snapshot.manifest.packs[:2]:
        damage(primary, pack_key("uploads", pack.id))
    for pack in snapshot.manifest.packs[2:]:
        primary.delete(pack_key("uploads", pack.id))

    assert picture(tree.restore(snapshot)) == picture(tree.root)


def test_a_new_recipient_opens_packs_that_were_rewrapped(tmp_path: Path, primary: MemoryRepository) -> None:
    tree = Tree(tmp_path, primary)
    tree.write("file")
    snapshot = tree.snapshot()
    later = Identity.generate("later", CLASSIC)

    [done] = rewrap(tree.vault, [snapshot], [later.recipient])

    assert set(done.added) == {"index", f"pack {snapshot.manifest.packs[0].id}"}
    assert rewrap(tree.vault, [snapshot], [later.recipient])[0].added == {}
    vault = vault_of(primary, keyring=Keyring(identities=(later,), signers=KEYRING.signers))
    restore_tree(vault, snapshot, tmp_path / "restored").raise_faults()
    assert verify(vault, snapshot, "primary").faults == {}
    assert check_identities(vault).unopened == {}


def test_rewrapped_keys_of_packs_are_replicated(
    tmp_path: Path, primary: MemoryRepository, local: MemoryRepository
) -> None:
    tree = Tree(tmp_path, primary, local)
    tree.write("file")
    snapshot = tree.snapshot()

    rewrap(tree.vault, [snapshot], [Identity.generate("later", CLASSIC).recipient])

    keys = [[info.key for info in r.list("packs/uploads/rewrapped/")] for r in (primary, local)]
    assert len(keys[0]) == 1
    assert keys[0] == keys[1]


def test_thawing_counts_packs(tmp_path: Path, primary: MemoryRepository) -> None:
    tree = Tree(tmp_path, primary)
    tree.write("file")
    snapshot = tree.snapshot()

    assert set(thaw_state(tree.vault, snapshot).artifacts) == {"index", f"pack {snapshot.manifest.packs[0].id}"}


def test_a_run_that_has_made_its_snapshot_finds_it_again(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("file")
    first = tree.back_up(scheduled_for=NOW)

    again = tree.back_up(scheduled_for=NOW)

    assert (again.reused, again.snapshot.id) == (True, first.snapshot.id)


def test_an_index_that_needs_a_pack_its_manifest_does_not_name_is_refused(
    tmp_path: Path, primary: MemoryRepository
) -> None:
    tree = Tree(tmp_path, primary)
    tree.write("file")
    snapshot = tree.snapshot()
    forged = Snapshot(Manifest(**{**vars(snapshot.manifest), "packs": ()}), snapshot.tier, snapshot.repositories)

    with pytest.raises(LifeboatError, match="could not be restored"):
        restore_tree(tree.vault, forged, tmp_path / "restored").raise_faults()


def test_a_vault_without_any_whole_repository_keeps_no_manifest(tmp_path: Path, primary: MemoryRepository) -> None:
    flaky = FailingRepository(primary, lambda _, method, key: method == "put" and key.startswith("packs/"))
    tree = Tree(tmp_path, flaky)
    fill(tree.root)

    with pytest.raises(RepositoryError, match="could not be stored in any repository"):
        tree.back_up()

    assert list(primary.list("snapshots/")) == []
