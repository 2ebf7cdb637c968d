"""The vault: a snapshot is whole or does not exist, and what is read is what was written."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lifeboat.errors import (
    ArtifactMismatch,
    DumpFailed,
    IntegrityError,
    KeyringError,
    LifeboatError,
    RepositoryError,
    RepositoryUnavailable,
    SealBroken,
    SettingsError,
    SnapshotNotFound,
    UnknownFormat,
    WrongIdentity,
)
from lifeboat.keys import CLASSIC, Identity, Keyring, SigningKey
from lifeboat.manifest import PAYLOAD_TYPE
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.signing import sign_record
from lifeboat.snapshot import VAULT_KEY, Kind, SnapshotId, Tier, artifact_key, manifest_key
from lifeboat.stored import RANGE, read_stored
from lifeboat.vault import Member, Snapshot, Vault
from tests.core.storage_faults import FailingRepository

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
OPERATIONS, ESCROW = Identity.generate("operations", CLASSIC), Identity.generate("escrow", CLASSIC)
SIGNING = SigningKey.generate("host-1")
KEYRING = Keyring(
    recipients={"operations": OPERATIONS.recipient, "escrow": ESCROW.recipient},
    identities=(OPERATIONS,),
    signers=(SIGNING.signer,),
    signing_key=SIGNING,
)
NAMES = ("operations", "escrow")
DUMP = b"row of the receivables\n" * 5000


@pytest.fixture
def primary() -> MemoryRepository:
    return MemoryRepository("primary")


@pytest.fixture
def local() -> MemoryRepository:
    return MemoryRepository("local")


@pytest.fixture
def vault(primary: MemoryRepository, local: MemoryRepository) -> Vault:
    return vault_of(primary, local)


def vault_of(*repositories: MemoryRepository | FailingRepository, keyring: Keyring = KEYRING) -> Vault:
    members = [Member(repository) for repository in repositories]
    Vault.create(members)
    return Vault.open(members, keyring, NAMES)


def back_up(vault: Vault, *, began: datetime = NOW, dump: bytes = DUMP, source: str = "orders") -> Snapshot:
    writer = vault.begin(source, Kind.POSTGRES, began=began, scheduled_for=began)
    writer("dump", [dump[i : i + 1000] for i in range(0, len(dump), 1000)], media_type="application/octet-stream")
    writer("globals", [b"CREATE ROLE sme_user;"], media_type="application/sql")
    return writer.commit({"database": "orders"})


def dump_key(snapshot: Snapshot, artifact: str = "dump") -> str:
    return artifact_key("orders", snapshot.tier, snapshot.id, artifact)


def overwrite(repository: MemoryRepository, key: str, data: bytes) -> None:
    """What somebody who can write to the storage might do."""
    repository.delete(key)
    repository.put(key, [data])


def content(repository: MemoryRepository, key: str) -> bytes:
    return b"".join(repository.get(key))


# ---- whole, or not there --------------------------------------------------------------------------------------------


def test_a_snapshot_is_in_every_repository_byte_for_byte(
    vault: Vault, primary: MemoryRepository, local: MemoryRepository
) -> None:
    snapshot = back_up(vault)

    keys = [info.key for info in primary.list("snapshots/")]
    assert len(keys) == 3
    assert all(content(primary, key) == content(local, key) for key in keys)
    assert snapshot.repositories == ("primary", "local")
    assert vault.find("orders") == snapshot


def test_what_is_read_is_what_the_source_gave(vault: Vault) -> None:
    snapshot = back_up(vault)

    assert b"".join(vault.read(snapshot, "dump")) == DUMP
    assert snapshot.manifest.artifact("dump").plain_size == len(DUMP)


def test_no_row_is_stored_in_the_clear(vault: Vault, primary: MemoryRepository) -> None:
    back_up(vault)

    assert not any(b"receivables" in content(primary, info.key) for info in primary.list(""))


def test_without_a_manifest_there_is_no_snapshot(vault: Vault, primary: MemoryRepository) -> None:
    writer = vault.begin("orders", Kind.POSTGRES, began=NOW)
    writer("dump", [DUMP], media_type="application/octet-stream")

    assert list(primary.list("snapshots/"))
    assert vault.list().snapshots == ()
    with pytest.raises(SnapshotNotFound):
        vault.find("orders")


def test_a_dump_that_fails_leaves_nothing_of_its_artifact(vault: Vault, primary: MemoryRepository) -> None:
    def breaks() -> Iterator[bytes]:
        yield DUMP
        raise DumpFailed("pg_dump ended with status 1.")

    writer = vault.begin("orders", Kind.POSTGRES, began=NOW)
    with pytest.raises(DumpFailed, match="status 1"):
        writer("dump", breaks(), media_type="application/octet-stream")

    assert list(primary.list("snapshots/")) == []


def test_two_attempts_at_the_same_second_do_not_meet(vault: Vault) -> None:
    first, second = back_up(vault), back_up(vault)

    assert first.id != second.id
    assert len(vault.list("orders").snapshots) == 2


def test_a_run_that_has_finished_is_found_again(vault: Vault) -> None:
    snapshot = back_up(vault)
    back_up(vault, began=NOW + timedelta(days=1))

    assert vault.finished_run("orders", NOW, lambda _: True) == snapshot
    assert vault.finished_run("orders", NOW, lambda manifest: manifest.facts["database"] == "other") is None
    assert vault.finished_run("orders", NOW - timedelta(days=1), lambda _: True) is None


# ---- one repository fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["put"])
@pytest.mark.parametrize("part", ["dump.sealed", "globals.sealed", "manifest.json"])
def test_a_repository_that_fails_is_left_out_and_replication_heals_it(
    primary: MemoryRepository, local: MemoryRepository, method: str, part: str
) -> None:
    vault_of(primary, local)
    faulty = FailingRepository(primary, lambda _, called, key: called == method and key.endswith(part))
    degraded = back_up(vault_of(faulty, local))
    assert degraded.repositories == ("local",)

    vault = vault_of(primary, local)
    replication = vault.replicate(vault.find("orders"))

    assert replication.lacking == {}
    assert replication.snapshot.repositories == ("primary", "local")
    key = dump_key(degraded)
    assert content(primary, key) == content(local, key)
    assert vault.find("orders").repositories == ("primary", "local")


def test_a_repository_down_from_the_start_is_named_and_the_backup_goes_on(local: MemoryRepository) -> None:
    vault_of(MemoryRepository("primary"), local)
    down = FailingRepository(MemoryRepository("primary"), lambda *_: True)
    vault = Vault.open([Member(down), Member(local)], KEYRING, NAMES)

    snapshot = back_up(vault)

    assert list(vault.absent) == ["primary"]
    assert snapshot.repositories == ("local",)
    assert vault.replicate(snapshot).lacking.keys() == {"primary"}


def test_when_every_repository_fails_the_backup_fails_and_may_be_repeated(
    primary: MemoryRepository, local: MemoryRepository
) -> None:
    vault_of(primary, local)
    faulty = [FailingRepository(r, lambda _, method, __: method == "put") for r in (primary, local)]
    vault = Vault.open([Member(repository) for repository in faulty], KEYRING, NAMES)

    with pytest.raises(RepositoryUnavailable, match=r"primary: .*local: ") as failed:
        back_up(vault)

    assert failed.value.transient


def test_whichever_storage_call_fails_no_broken_snapshot_is_ever_shown() -> None:
    number = 0
    while True:
        number += 1
        primary, local = MemoryRepository("primary"), MemoryRepository("local")
        vault_of(primary, local)
        faulty = FailingRepository(primary, lambda n, *_, number=number: n == number)
        try:
            vault = Vault.open([Member(faulty), Member(local)], KEYRING, NAMES)
            back_up(vault)
            vault.replicate(vault.find("orders"))
        except LifeboatError:
            pass

        healthy = vault_of(primary, local)
        for snapshot in healthy.list().snapshots:
            for repository in snapshot.repositories:
                healthy.verify(snapshot, repository).raise_faults()
        assert len(healthy.list().snapshots) == 1, f"storage call {number}"
        if faulty.calls < number:
            break
    assert number > 5


def test_reading_goes_on_from_the_next_repository_when_one_fails_midway(
    primary: MemoryRepository, local: MemoryRepository
) -> None:
    dump = os.urandom(3 * RANGE)
    snapshot = back_up(vault_of(primary, local), dump=dump)
    gets = 0

    def fails(_: int, method: str, key: str) -> bool:
        nonlocal gets
        gets += method == "get" and key.endswith("dump.sealed")
        return gets > 1

    vault = Vault.open([Member(FailingRepository(primary, fails)), Member(local)], KEYRING, NAMES)

    assert b"".join(vault.read(snapshot, "dump")) == dump
    assert gets > 1


# ---- altered storage ------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_found_named_and_the_other_repository_still_serves(
    vault: Vault, primary: MemoryRepository
) -> None:
    snapshot = back_up(vault)
    key = dump_key(snapshot)
    data = bytearray(content(primary, key))
    data[-5] ^= 1
    overwrite(primary, key, bytes(data))

    verification = vault.verify(snapshot, "primary")

    assert list(verification.faults) == ["dump"]
    with pytest.raises(IntegrityError, match="primary is not whole: dump"):
        verification.raise_faults()
    assert vault.verify(snapshot, "local").faults == {}
    assert b"".join(vault.read(snapshot, "dump", repository="local")) == DUMP


@pytest.mark.parametrize("keep", [0, 100, -1], ids=["to nothing", "in the header", "by its last byte"])
def test_an_artifact_cut_short_is_found(vault: Vault, primary: MemoryRepository, keep: int) -> None:
    snapshot = back_up(vault)
    overwrite(primary, dump_key(snapshot), content(primary, dump_key(snapshot))[:keep])

    assert list(vault.verify(snapshot, "primary").faults) == ["dump"]


def test_an_artifact_with_bytes_appended_is_found_even_without_an_identity(
    vault: Vault, primary: MemoryRepository
) -> None:
    snapshot = back_up(vault)
    overwrite(primary, dump_key(snapshot), content(primary, dump_key(snapshot)) + b"\0")
    blind = vault_of(primary, keyring=replace(KEYRING, identities=()))

    assert isinstance(blind.verify(snapshot, "primary").faults["dump"], ArtifactMismatch)
    assert isinstance(vault.verify(snapshot, "primary").faults["dump"], IntegrityError)


def test_a_missing_artifact_is_found(vault: Vault, primary: MemoryRepository) -> None:
    snapshot = back_up(vault)
    primary.delete(dump_key(snapshot))

    with pytest.raises(RepositoryError, match="dump"):
        vault.verify(snapshot, "primary").raise_faults()


def test_two_artifacts_swapped_are_both_refused(vault: Vault, primary: MemoryRepository) -> None:
    snapshot = back_up(vault)
    keys = dump_key(snapshot), dump_key(snapshot, "globals")
    contents = [content(primary, key) for key in keys]
    for key, data in zip(keys, reversed(contents), strict=True):
        overwrite(primary, key, data)

    assert sorted(vault.verify(snapshot, "primary").faults) == ["dump", "globals"]
    with pytest.raises(IntegrityError):
        list(vault.read(snapshot, "globals", repository="primary"))


def test_an_artifact_of_yesterday_in_todays_place_is_refused(vault: Vault, primary: MemoryRepository) -> None:
    yesterday, today = back_up(vault), back_up(vault, began=NOW + timedelta(days=1))
    overwrite(primary, dump_key(today), content(primary, dump_key(yesterday)))

    with pytest.raises(SealBroken, match="belongs to another object"):
        list(vault.read(today, "dump", repository="primary"))


def test_the_manifest_of_yesterday_in_todays_place_is_refused(vault: Vault, primary: MemoryRepository) -> None:
    yesterday, today = back_up(vault), back_up(vault, began=NOW + timedelta(days=1))
    overwrite(
        primary,
        manifest_key("orders", Tier.DAILY, today.id),
        content(primary, manifest_key("orders", Tier.DAILY, yesterday.id)),
    )

    listing = vault.list("orders")

    assert any("is the manifest of" in reason for _, reason in listing.problems)
    assert vault.find("orders", today.id).repositories == ("local",)


def test_a_forged_manifest_is_refused_and_reported(vault: Vault, primary: MemoryRepository) -> None:
    snapshot = back_up(vault)
    forged = replace(snapshot.manifest, facts={"database": "mine"}).sign(SigningKey.generate("stranger"))
    overwrite(primary, manifest_key("orders", Tier.DAILY, snapshot.id), forged)

    listing = vault.list()

    assert [s.repositories for s in listing.snapshots] == [("local",)]
    assert (
        "not signed by anybody this keyring trusts"
        in dict(listing.problems)[f"primary:{manifest_key('orders', Tier.DAILY, snapshot.id)}"]
    )


def test_replication_replaces_no_forged_manifest_but_says_so(vault: Vault, primary: MemoryRepository) -> None:
    snapshot = back_up(vault)
    forged = replace(snapshot.manifest, facts={}).sign(SigningKey.generate("stranger"))
    overwrite(primary, manifest_key("orders", Tier.DAILY, snapshot.id), forged)

    replication = vault.replicate(vault.find("orders"))

    assert "holds another manifest" in replication.lacking["primary"]


def test_a_manifest_of_a_newer_format_is_refused_politely(vault: Vault, primary: MemoryRepository) -> None:
    snapshot_id = SnapshotId.make(NOW, b"\0\0\0\7")
    newer = sign_record(b'{"format": 9, "novelty": true}', PAYLOAD_TYPE, SIGNING)
    primary.put(manifest_key("orders", Tier.DAILY, snapshot_id), [newer])

    listing = vault.list()

    assert listing.snapshots == ()
    assert "has format 9; this Lifeboat reads formats 1 and 2" in listing.problems[0][1]
    assert issubclass(UnknownFormat, IntegrityError)


def test_a_read_that_is_given_up_waits_for_nothing_that_is_on_its_way() -> None:
    """Else whoever collects a forgotten stream might wait for threads while it holds what they need to end."""
    given_up, waited_for = threading.Event(), []

    class Slow(MemoryRepository):
        def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
            if start and not given_up.wait(timeout=5):
                waited_for.append(start)
            yield from super().get(key, start=start, length=length)

    store = Slow("primary")
    store.put("large", [bytes(2 * RANGE)])
    chunks = read_stored([store], "large", 2 * RANGE, "")
    next(chunks)

    chunks.close()
    given_up.set()

    assert waited_for == []


def test_a_damaged_artifact_is_never_replicated(primary: MemoryRepository, local: MemoryRepository) -> None:
    snapshot = back_up(vault_of(primary))
    data = bytearray(content(primary, dump_key(snapshot)))
    data[100] ^= 1
    overwrite(primary, dump_key(snapshot), bytes(data))

    replication = vault_of(primary, local).replicate(snapshot)

    assert "SHA-256" in replication.lacking["local"]
    assert list(local.list("snapshots/")) == []


def test_a_leftover_that_is_not_what_the_manifest_says_is_not_taken_for_the_artifact(
    primary: MemoryRepository, local: MemoryRepository
) -> None:
    snapshot = back_up(vault_of(primary))
    vault = vault_of(primary, local)
    local.put(dump_key(snapshot), [b"left by somebody"])

    assert "local" in vault.replicate(snapshot).lacking


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_without_an_identity_only_sealed_bytes_are_verified_and_that_is_said(vault: Vault) -> None:
    snapshot = back_up(vault)
    blind = Vault.open(vault.members, replace(KEYRING, identities=()), NAMES)

    verification = blind.verify(snapshot, "primary")

    assert (verification.unsealed, verification.faults) == (False, {})
    assert vault.verify(snapshot, "primary").unsealed


def test_a_stranger_cannot_read(vault: Vault) -> None:
    snapshot = back_up(vault)
    strange = Vault.open(vault.members, replace(KEYRING, identities=(Identity.generate("stranger", CLASSIC),)), NAMES)

    with pytest.raises(WrongIdentity):
        list(strange.read(snapshot, "dump"))


def test_escrow_alone_can_read(vault: Vault) -> None:
    snapshot = back_up(vault)
    escrow = Vault.open(vault.members, Keyring(identities=(ESCROW,), signers=(SIGNING.signer,)), NAMES)

    assert b"".join(escrow.read(escrow.find("orders"), "dump")) == DUMP
    assert snapshot.id == escrow.find("orders").id


@pytest.mark.parametrize(
    ("keyring", "message"),
    [
        (replace(KEYRING, signing_key=None), "no signing key"),
        (replace(KEYRING, recipients={"operations": OPERATIONS.recipient}), "no recipient named escrow"),
    ],
    ids=["no signing key", "no escrow"],
)
def test_a_backup_that_could_not_be_finished_is_refused_before_anything_is_written(
    primary: MemoryRepository, keyring: Keyring, message: str
) -> None:
    vault = vault_of(primary, keyring=keyring)

    with pytest.raises(KeyringError, match=message):
        vault.begin("orders", Kind.POSTGRES, began=NOW)

    assert list(primary.list("snapshots/")) == []


# ---- opening --------------------------------------------------------------------------------------------------------


def test_creating_a_vault_twice_changes_nothing(primary: MemoryRepository, local: MemoryRepository) -> None:
    members = [Member(primary), Member(local)]

    assert Vault.create(members) == Vault.create(members)
    assert content(primary, VAULT_KEY) == content(local, VAULT_KEY)


def test_a_repository_added_later_joins_the_vault(primary: MemoryRepository, local: MemoryRepository) -> None:
    vault_id = Vault.create([Member(primary)])

    assert Vault.create([Member(local), Member(primary)]) == vault_id


def test_a_repository_that_comes_back_empty_is_left_out_until_it_joins_again(
    vault: Vault, primary: MemoryRepository
) -> None:
    empty = MemoryRepository("local")

    reopened = Vault.open([Member(primary), Member(empty)], KEYRING, NAMES)

    assert "lifeboat init" in reopened.absent["local"].hint


def test_repositories_of_different_vaults_are_refused(primary: MemoryRepository, local: MemoryRepository) -> None:
    Vault.create([Member(primary)])
    Vault.create([Member(local)])

    with pytest.raises(SettingsError, match="different vaults"):
        Vault.open([Member(primary), Member(local)], KEYRING, NAMES)


def test_a_vault_that_was_never_made_names_the_remedy(primary: MemoryRepository) -> None:
    with pytest.raises(SettingsError, match="part of a vault yet") as refused:
        Vault.open([Member(primary)], KEYRING, NAMES)

    assert "lifeboat init" in refused.value.hint


def test_a_vault_no_repository_of_which_answers_is_worth_a_retry() -> None:
    down = FailingRepository(MemoryRepository("primary"), lambda *_: True)

    with pytest.raises(RepositoryUnavailable, match="primary"):
        Vault.open([Member(down)], KEYRING, NAMES)


@pytest.mark.parametrize("source", ["", "../etc", "Orders", "a/b", "x" * 64])
def test_a_source_name_unfit_for_a_key_is_refused(vault: Vault, source: str) -> None:
    with pytest.raises(SettingsError, match="cannot name a source"):
        vault.begin(source, Kind.POSTGRES, began=NOW)


def test_snapshot_ids_survive_being_written_and_read() -> None:
    snapshot_id = SnapshotId.make(NOW, b"\x6f\x3a\x9c\x21rest")

    assert str(snapshot_id) == "20261123T020000Z-6f3a9c21"
    assert SnapshotId.parse(str(snapshot_id)) == snapshot_id
    with pytest.raises(SettingsError, match="is not a snapshot id"):
        SnapshotId.parse("yesterday")
