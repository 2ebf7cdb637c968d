"""Rewrapping: a new recipient opens old snapshots, and not one byte of them changes."""

from __future__ import annotations

import json
import random

import pytest

from lifeboat.attestation import Verdict, attest, attestations_of
from lifeboat.custody import rewrap
from lifeboat.errors import RepositoryUnavailable, WrongIdentity
from lifeboat.keys import CLASSIC, HYBRID, Identity, Recipient
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.rewrapped import LONGEST, write_rewrapped
from lifeboat.sealing import rewrap_data_key
from lifeboat.snapshot import object_id
from lifeboat.vault import Member, Snapshot, Vault
from tests.core.storage_faults import FailingRepository
from tests.custody.vaults import (
    DUMP,
    ESCROW,
    LATER,
    OPERATIONS,
    STRANGER,
    back_up,
    content,
    contents,
    keyring,
    read,
    rewrapped_in,
    vault_of,
)


@pytest.fixture
def primary() -> MemoryRepository:
    return MemoryRepository("primary")


@pytest.fixture
def local() -> MemoryRepository:
    return MemoryRepository("local")


@pytest.fixture
def vault(primary: MemoryRepository, local: MemoryRepository) -> Vault:
    return vault_of(primary, local, identities=[OPERATIONS])


def test_the_new_identity_alone_reads_old_snapshots_from_every_repository(vault: Vault) -> None:
    snapshot = back_up(vault)
    new = Identity.generate("later", HYBRID)

    [rewrapping] = rewrap(vault, [snapshot], [new.recipient])
    vault.keyring = keyring(new)

    assert (rewrapping.faults, rewrapping.lacking) == ({}, {})
    assert rewrapping.added == {"dump": ("later",), "globals": ("later",)}
    assert [read(vault, snapshot, name) for name in ("primary", "local")] == [DUMP, DUMP]
    assert vault.verify(snapshot, "local").unsealed


def test_rewrapping_twice_adds_nothing(vault: Vault, primary: MemoryRepository) -> None:
    snapshot = back_up(vault)
    rewrap(vault, [snapshot], [ESCROW.recipient, LATER.recipient])
    before = contents(primary)

    [rewrapping] = rewrap(vault, [snapshot], [ESCROW.recipient, LATER.recipient])

    assert rewrapping.added == {}
    assert contents(primary) == before


def test_a_rewrapped_identity_can_rewrap_for_the_next(vault: Vault) -> None:
    snapshot = back_up(vault)
    rewrap(vault, [snapshot], [LATER.recipient])
    vault.keyring = keyring(LATER)

    rewrap(vault, [snapshot], [STRANGER.recipient])
    vault.keyring = keyring(STRANGER)

    assert read(vault, snapshot) == DUMP


def test_without_an_identity_that_opens_it_a_snapshot_is_left_and_the_others_are_rewrapped(vault: Vault) -> None:
    lost = back_up(vault_of(*(m.repository for m in vault.members), names=["escrow", "later"]))
    snapshot = back_up(vault, days=1)
    said: list[str] = []

    first, second = rewrap(vault, [lost, snapshot], [STRANGER.recipient], report=said.append)

    assert {type(fault) for fault in first.faults.values()} == {WrongIdentity}
    assert second.added == {"dump": ("stranger",), "globals": ("stranger",)}
    assert said == [f"1 of 2: {lost.label}: nothing added", f"2 of 2: {snapshot.label}: 2 artifacts for stranger"]


@pytest.mark.parametrize("seed", range(5))
def test_rewrapping_never_changes_an_object(seed: int) -> None:
    chance = random.Random(seed)
    repositories = [MemoryRepository(name) for name in ("primary", "local", "azure")[: chance.randint(1, 3)]]
    vault = vault_of(*repositories, identities=[OPERATIONS])
    snapshots = [back_up(vault, days=day) for day in range(chance.randint(1, 4))]
    people = [Identity.generate(f"person-{n}", chance.choice([CLASSIC, HYBRID])).recipient for n in range(4)]
    before = [contents(repository) for repository in repositories]

    for _ in range(4):
        rewrap(vault, chance.sample(snapshots, chance.randint(1, len(snapshots))), chance.sample(people, 2))

    for repository, objects in zip(repositories, before, strict=True):
        after = contents(repository)
        assert {key: after[key] for key in objects} == objects
        assert all("/rewrapped/" in key for key in after.keys() - objects.keys())
    assert len({frozenset(contents(repository).items()) for repository in repositories}) == 1


def test_whichever_storage_call_fails_rewrapping_again_completes_it() -> None:
    number = 0
    while True:
        number += 1
        primary, local = MemoryRepository("primary"), MemoryRepository("local")
        snapshot = back_up(vault_of(primary, local))
        faulty = FailingRepository(primary, lambda n, *_, number=number: n >= number)
        members = [Member(faulty), Member(local)]
        vault = Vault.open(members, keyring(OPERATIONS), ("operations",))
        rewrap(vault, [snapshot], [LATER.recipient])

        healthy = vault_of(primary, local, identities=[OPERATIONS])
        [rewrapping] = rewrap(healthy, [snapshot], [LATER.recipient])
        assert (rewrapping.faults, rewrapping.lacking) == ({}, {})
        for repository in (primary, local):
            alone = vault_of(repository, identities=[LATER])
            assert read(alone, snapshot) == DUMP, f"storage call {number}"
        if faulty.calls < number:
            break
    assert number > 5


def test_a_process_that_ends_midway_leaves_keys_that_are_used_and_completed(
    vault: Vault, primary: MemoryRepository, local: MemoryRepository
) -> None:
    snapshot = back_up(vault)

    def killed(_: int, method: str, key: str) -> bool:
        if method == "put" and "globals-" in key:
            raise KeyboardInterrupt
        return False

    dying = Vault.open([Member(FailingRepository(primary, killed)), Member(local)], vault.keyring, ("operations",))
    with pytest.raises(KeyboardInterrupt):
        rewrap(dying, [snapshot], [LATER.recipient])
    [made] = rewrapped_in(primary, snapshot)

    [rewrapping] = rewrap(vault, [snapshot], [LATER.recipient])

    assert rewrapping.added == {"globals": ("later",)}
    assert made in rewrapped_in(local, snapshot)
    assert len(rewrapped_in(primary, snapshot)) == 2
    assert contents(primary) == contents(local)


@pytest.mark.parametrize(
    "forged",
    [
        write_rewrapped([(LATER.recipient.key_id, b"")]),
        write_rewrapped([(LATER.recipient.key_id, bytes(80))]),
        write_rewrapped([(LATER.recipient.key_id, LATER.recipient.wrap(bytes(32), info=b""))]),
        write_rewrapped([(STRANGER.recipient.key_id, bytes(80))]),
        b"",
        b"{",
        b"{}",
        b"[]",
        b'{"format": 2}',
        b'{"format": 1, "recipients": [{"key_id": "zz", "wrapped": ""}]}',
        b'{"format": 1, "recipients": [7]}',
        b"[" * 100_000,
    ],
    ids=[
        "empty key",
        "noise",
        "another's data key",
        "for another",
        "nothing",
        "half",
        "empty",
        "a list",
        "later format",
        "no hexadecimal",
        "no recipient",
        "deep",
    ],
)
def test_a_forged_object_is_passed_over(vault: Vault, primary: MemoryRepository, forged: bytes) -> None:
    snapshot = back_up(vault)
    primary.put(f"{place_of(snapshot)}dump-00000000.json", [forged])
    vault.keyring = keyring(LATER)
    with pytest.raises(WrongIdentity, match="No identity at hand opens"):
        read(vault, snapshot)

    primary.put(f"{place_of(snapshot)}dump-ffffffff.json", [properly_wrapped(vault, snapshot)])

    assert read(vault, snapshot) == DUMP


def test_an_object_too_long_to_be_real_is_not_even_fetched(vault: Vault, primary: MemoryRepository) -> None:
    snapshot = back_up(vault)
    primary.put(f"{place_of(snapshot)}dump-00000000.json", [bytes(LONGEST + 1)])
    asked: list[str] = []
    listening = FailingRepository(primary, lambda _, method, key: asked.append(f"{method} {key}") or False)

    assert list(Vault.open([Member(listening)], vault.keyring, ()).rewrapped_keys(snapshot)) == []
    assert not [call for call in asked if call.startswith(f"get {place_of(snapshot)}")]


def test_a_forged_object_that_claims_to_be_for_an_identity_is_named(vault: Vault, primary: MemoryRepository) -> None:
    snapshot = back_up(vault)
    key = f"{place_of(snapshot)}dump-00000000.json"
    # The attacker has its own data key, wrapped as it must be; only the commitment tells that it is not the artifact's.
    identity = object_id(vault.id, "orders", snapshot.id, "dump")
    primary.put(key, [rewrap_data_key(bytes(32), identity, [LATER.recipient])])
    vault.keyring = keyring(LATER)

    with pytest.raises(WrongIdentity, match=f"damaged or forged: primary:{key}"):
        read(vault, snapshot)


def test_rewrapped_keys_of_one_artifact_open_no_other(vault: Vault, primary: MemoryRepository) -> None:
    snapshot = back_up(vault)
    rewrap(vault, [snapshot], [LATER.recipient])
    wrapped = {key.rsplit("/", 1)[1].split("-")[0]: content(primary, key) for key in rewrapped_in(primary, snapshot)}
    vault.keyring = keyring(LATER)
    for key in rewrapped_in(primary, snapshot):
        for member in vault.members:
            member.repository.delete(key)
        primary.put(key, [wrapped["globals"]])

    with pytest.raises(WrongIdentity):
        read(vault, snapshot)


def test_no_rewrapped_key_is_looked_for_where_the_header_has_one(vault: Vault, primary: MemoryRepository) -> None:
    snapshot = back_up(vault)
    asked: list[str] = []
    listening = FailingRepository(primary, lambda _, method, key: asked.append(f"{method} {key}") or False)

    read(Vault.open([Member(listening)], keyring(OPERATIONS), ()), snapshot)

    assert not [call for call in asked if "rewrapped" in call]


def test_replicating_copies_rewrapped_keys_and_attestations(primary: MemoryRepository, local: MemoryRepository) -> None:
    alone = vault_of(primary, identities=[OPERATIONS])
    snapshot = back_up(alone)
    vault = vault_of(primary, local, identities=[OPERATIONS])
    vault.replicate(snapshot)
    rewrap(alone, [snapshot], [LATER.recipient])
    attest(alone, snapshot, Verdict.PROVEN)

    replication = vault.replicate(vault.find("orders"))

    names = {name.rsplit("-", 1)[0].split("/")[0] for name in replication.copied["local"]}
    assert names == {"attestations", "rewrapped"}
    assert contents(primary) == contents(local)
    alone = vault_of(local, identities=[LATER])
    assert read(alone, alone.find("orders")) == DUMP
    assert len(attestations_of(alone, alone.find("orders"))) == 1
    assert vault.replicate(vault.find("orders")).copied == {}


def test_replicating_never_overwrites_what_was_added(vault: Vault, primary: MemoryRepository, local: MemoryRepository):
    snapshot = back_up(vault)
    key = f"{place_of(snapshot)}dump-00000000.json"
    primary.put(key, [b"one"])
    local.put(key, [b"another"])

    assert vault.replicate(snapshot).copied == {}

    assert (content(primary, key), content(local, key)) == (b"one", b"another")


def test_a_repository_that_does_not_take_rewrapped_keys_is_said_to_lack_them(
    vault: Vault, primary: MemoryRepository, local: MemoryRepository
) -> None:
    snapshot = back_up(vault)
    full = FailingRepository(local, lambda _, method, __: method == "put")

    degraded = Vault.open([Member(primary), Member(full)], vault.keyring, ("operations",))
    [rewrapping] = rewrap(degraded, [snapshot], [LATER.recipient])

    assert rewrapping.faults == {}
    assert rewrapping.lacking.keys() == {"local"}
    assert vault.replicate(snapshot).lacking == {}
    assert contents(primary) == contents(local)


def test_a_snapshot_no_repository_of_which_answers_is_worth_another_try(vault: Vault, primary: MemoryRepository):
    snapshot = back_up(vault)
    members = [Member(FailingRepository(m.repository, lambda _, __, key: "snapshots/" in key)) for m in vault.members]

    [rewrapping] = rewrap(Vault.open(members, vault.keyring, ()), [snapshot], [LATER.recipient])

    assert {type(fault) for fault in rewrapping.faults.values()} == {RepositoryUnavailable}


def test_an_object_is_as_the_format_says(vault: Vault, primary: MemoryRepository) -> None:
    snapshot = back_up(vault)
    rewrap(vault, [snapshot], [LATER.recipient, STRANGER.recipient])

    record = json.loads(content(primary, rewrapped_in(primary, snapshot)[0]))

    assert record["format"] == 1
    assert [sorted(recipient) for recipient in record["recipients"]] == [["key_id", "wrapped"]] * 2
    assert record["recipients"][0]["key_id"] == LATER.recipient.key_id.hex()


def place_of(snapshot: Snapshot) -> str:
    return f"snapshots/orders/{snapshot.tier}/{snapshot.id}/rewrapped/"


def properly_wrapped(vault: Vault, snapshot: Snapshot, recipient: Recipient = LATER.recipient) -> bytes:
    """The rewrapped key of the dump, from another vault of the same objects."""
    copy = MemoryRepository("copy")
    for key, data in contents(vault.members[1].repository).items():
        copy.put(key, [data])
    rewrap(vault_of(copy, identities=[OPERATIONS]), [snapshot_in(copy, snapshot)], [recipient])
    return content(copy, rewrapped_in(copy, snapshot)[0])


def snapshot_in(repository: MemoryRepository, snapshot: Snapshot) -> Snapshot:
    return Snapshot(snapshot.manifest, snapshot.tier, (repository.name,))
