"""Checking the keys: each identity at hand really opens what is kept, and what nobody has shown is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lifeboat.custody import Custody, Opening, check_identities, rewrap
from lifeboat.keys import Identity
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.rewrapped import rewrapped_prefix, write_rewrapped
from lifeboat.snapshot import artifact_key
from lifeboat.vault import Member, Snapshot, Vault
from tests.core.storage_faults import FailingRepository
from tests.custody.vaults import ESCROW, LATER, OPERATIONS, STRANGER, back_up, content, keyring, vault_of


@pytest.fixture
def primary() -> MemoryRepository:
    return MemoryRepository("primary")


@pytest.fixture
def local() -> MemoryRepository:
    return MemoryRepository("local")


def openings(custody: Custody) -> dict[tuple[str, str], Opening]:
    return {(trial.identity, trial.snapshot.label): trial.opening for trial in custody.trials}


def test_every_identity_opens_the_oldest_and_the_newest_snapshot_of_every_source(primary: MemoryRepository) -> None:
    vault = vault_of(primary, identities=[OPERATIONS, ESCROW])
    orders = [back_up(vault, days=day) for day in range(3)]
    invoices = back_up(vault, source="invoices")

    custody = check_identities(vault)

    tried = [orders[0].label, orders[2].label, invoices.label]
    assert openings(custody) == {(name, label): Opening.OPENS for name in ("operations", "escrow") for label in tried}
    assert (custody.mismatched, custody.unexercised, custody.unopened, custody.unreadable) == ((), {}, {}, {})


def test_a_recipient_whose_identity_is_lost_is_named(primary: MemoryRepository) -> None:
    vault = vault_of(primary, identities=[OPERATIONS])
    back_up(vault)

    custody = check_identities(vault)

    assert custody.unexercised == {"escrow": "platform.yaml, 1 snapshot"}
    assert custody.unopened == {}


def test_a_recipient_of_old_snapshots_alone_is_named_too(primary: MemoryRepository) -> None:
    back_up(vault_of(primary, names=["operations", "later"]))
    vault = vault_of(primary, identities=[OPERATIONS, ESCROW])
    del (known := dict(vault.keyring.recipients))["later"]
    vault.keyring = replace(vault.keyring, recipients=known)
    back_up(vault, days=1)

    assert check_identities(vault).unexercised == {LATER.recipient.key_id.hex(): "1 snapshot"}


def test_a_recipient_the_keyring_does_not_have_is_named(primary: MemoryRepository) -> None:
    vault = vault_of(primary, identities=[OPERATIONS, ESCROW], names=["operations", "escrow"])
    back_up(vault)
    vault.recipient_names = ("operations", "escrow", "auditor")

    assert check_identities(vault).unexercised == {"auditor": "platform.yaml"}


def test_a_snapshot_that_no_identity_at_hand_opens_is_named_wherever_it_stands_in_time(
    primary: MemoryRepository,
) -> None:
    vault = vault_of(primary, identities=[OPERATIONS])
    back_up(vault)
    lost = back_up(vault_of(primary, names=["escrow", "later"]), days=1)
    back_up(vault, days=2)

    assert check_identities(vault).unopened == {lost.label: "It is sealed for escrow, later."}


def test_without_any_identity_nothing_is_opened(primary: MemoryRepository) -> None:
    vault = vault_of(primary)
    snapshot = back_up(vault)

    custody = check_identities(vault)

    assert custody.trials == ()
    assert custody.unopened.keys() == {snapshot.label}
    assert custody.unexercised.keys() == {"operations", "escrow"}


def test_a_wrong_identity_under_the_right_name_is_caught(primary: MemoryRepository) -> None:
    vault = vault_of(primary, identities=[OPERATIONS])
    snapshot = back_up(vault)
    vault.keyring = keyring(OPERATIONS, Identity("escrow", STRANGER.algorithm, STRANGER.raw))

    custody = check_identities(vault)

    assert custody.mismatched == ("escrow",)
    assert openings(custody)["escrow", snapshot.label] is Opening.NOT_SEALED_FOR_IT
    assert custody.unexercised.keys() == {"escrow"}


@pytest.mark.parametrize("place", [60, 110, -1], ids=["commitment", "wrapped key", "first segment"])
def test_an_artifact_that_does_not_open_with_its_own_identity_fails_the_check(
    primary: MemoryRepository, place: int
) -> None:
    vault = vault_of(primary, identities=[OPERATIONS])
    snapshot = back_up(vault)
    damage(primary, snapshot, place)

    custody = check_identities(vault)

    [failed] = custody.failed
    assert failed.snapshot == snapshot
    assert failed.reason
    assert custody.unopened == {snapshot.label: failed.reason}


def test_one_whole_copy_is_enough(primary: MemoryRepository, local: MemoryRepository) -> None:
    vault = vault_of(primary, local, identities=[OPERATIONS])
    damage(primary, back_up(vault), -1)

    assert set(openings(check_identities(vault)).values()) == {Opening.OPENS}


def test_damage_is_told_before_a_repository_that_is_away(primary: MemoryRepository, local: MemoryRepository) -> None:
    vault = vault_of(primary, local, identities=[OPERATIONS])
    damage(local, back_up(vault), -1)
    gets = iter([False])  # the header can still be read
    away = FailingRepository(primary, lambda _, __, key: key.endswith(".sealed") and next(gets, True))

    custody = check_identities(Vault.open([Member(away), vault.members[1]], vault.keyring, ("operations",)))

    assert {trial.opening for trial in custody.trials} == {Opening.FAILS}


def test_a_snapshot_that_cannot_be_read_now_is_named_and_the_next_oldest_is_tried(primary: MemoryRepository) -> None:
    vault = vault_of(primary, identities=[OPERATIONS])
    away, oldest, newest = (back_up(vault, days=day) for day in range(3))
    faulty = FailingRepository(primary, lambda _, __, key: str(away.id) in key and key.endswith(".sealed"))

    custody = check_identities(
        Vault.open([replace(vault.members[0], repository=faulty)], vault.keyring, ("operations",))
    )

    assert custody.unreadable.keys() == {away.label}
    assert openings(custody).keys() == {("operations", oldest.label), ("operations", newest.label)}


def test_an_identity_added_later_opens_what_was_rewrapped_for_it(primary: MemoryRepository) -> None:
    vault = vault_of(primary, identities=[OPERATIONS])
    snapshot = back_up(vault)
    rewrap(vault, [snapshot], [LATER.recipient])
    vault.keyring = keyring(LATER)

    custody = check_identities(vault)

    assert openings(custody) == {("later", snapshot.label): Opening.OPENS}
    assert custody.unopened == {}


def test_keys_rewrapped_for_some_artifacts_only_do_not_count(primary: MemoryRepository) -> None:
    vault = vault_of(primary, identities=[OPERATIONS])
    snapshot = back_up(vault)
    rewrap(vault, [snapshot], [LATER.recipient])
    for info in list(primary.list(f"{rewrapped_prefix('orders', snapshot.tier, snapshot.id)}dump-")):
        primary.delete(info.key)
    vault.keyring = keyring(LATER)

    [trial] = (custody := check_identities(vault)).trials

    assert trial.opening is Opening.NOT_SEALED_FOR_IT
    assert "keys rewrap" in trial.reason
    assert custody.unopened.keys() == {snapshot.label}


def test_rewrapped_keys_that_are_forged_fail_the_check_and_are_named(primary: MemoryRepository) -> None:
    vault = vault_of(primary, identities=[OPERATIONS, LATER])
    snapshot = back_up(vault)
    for name in ("dump", "globals"):
        key = f"{rewrapped_prefix('orders', snapshot.tier, snapshot.id)}{name}-00000000.json"
        primary.put(key, [write_rewrapped([(LATER.recipient.key_id, LATER.recipient.wrap(bytes(32), info=b""))])])

    custody = check_identities(vault)

    [failed] = custody.failed
    assert failed.identity == "later"
    assert custody.unopened == {}
    assert "globals-00000000.json" in failed.reason


def damage(repository: MemoryRepository, snapshot: Snapshot, place: int) -> None:
    """Flip a bit of the smallest artifact."""
    key = artifact_key("orders", snapshot.tier, snapshot.id, "globals")
    data = bytearray(content(repository, key))
    data[place] ^= 1
    repository.delete(key)
    repository.put(key, [bytes(data)])
