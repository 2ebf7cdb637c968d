"""Attestations: signed, added beside a snapshot in every repository that has it, and trusted only where they belong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from lifeboat.attestation import (
    PAYLOAD_TYPE,
    Attestation,
    Verdict,
    attest,
    attestations_of,
    is_proven,
    read_attestation,
)
from lifeboat.errors import KeyringError, RepositoryUnavailable, SignatureInvalid, UnknownFormat
from lifeboat.keys import SigningKey
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.signing import sign_record
from lifeboat.vault import Vault
from tests.core.storage_faults import FailingRepository
from tests.core.test_vault import KEYRING, NOW, SIGNING, back_up, overwrite, vault_of

PROVEN, FAILED, VERIFIED = Verdict.PROVEN, Verdict.FAILED, Verdict.VERIFIED


@pytest.fixture
def near() -> MemoryRepository:
    return MemoryRepository("near")


@pytest.fixture
def far() -> MemoryRepository:
    return MemoryRepository("far")


@pytest.fixture
def vault(near: MemoryRepository, far: MemoryRepository) -> Vault:
    return vault_of(near, far)


def keys_in(repository: MemoryRepository) -> list[str]:
    return [info.key for info in repository.list("snapshots/") if "/attestations/" in info.key]


def made(verdict: Verdict, hours: int = 0) -> Attestation:
    snapshot = back_up(vault_of(MemoryRepository("any")))
    return Attestation("0" * 32, "orders", snapshot.id, verdict, NOW + timedelta(hours=hours))


def test_what_is_attested_is_read_again_from_every_repository(
    vault: Vault, near: MemoryRepository, far: MemoryRepository
) -> None:
    snapshot = back_up(vault)

    attestation = attest(vault, snapshot, PROVEN, repository="near", details={"seconds_in_all": 1.5})

    assert keys_in(near) == keys_in(far) != []
    assert attestations_of(vault, snapshot) == (attestation,)
    for repository in (near, far):
        assert attestations_of(vault_of(repository), vault_of(repository).find("orders")) == (attestation,)


def test_a_snapshot_is_proven_by_its_last_restore_test() -> None:
    table: dict[tuple[Verdict, ...], bool] = {
        (): False,
        (VERIFIED,): False,
        (PROVEN,): True,
        (FAILED, PROVEN): True,
        (PROVEN, FAILED): False,
        (PROVEN, VERIFIED): True,
        (PROVEN, FAILED, VERIFIED): False,
        (FAILED, PROVEN, VERIFIED): True,
    }

    assert {v: is_proven([made(verdict, hour) for hour, verdict in enumerate(v)]) for v in table} == table


def forged(attestation: Attestation) -> bytes:
    return attestation.sign(SigningKey.generate("a stranger"))


def altered(attestation: Attestation) -> bytes:
    record = json.loads(attestation.sign(SIGNING))
    payload = dataclasses.replace(attestation, verdict=FAILED).sign(SIGNING)
    return json.dumps(record | {"payload": json.loads(payload)["payload"]}).encode()


def of_another_snapshot(attestation: Attestation) -> bytes:
    other = attestation.snapshot_id._replace(suffix="00000000")
    return dataclasses.replace(attestation, snapshot_id=other).sign(SIGNING)


def of_another_source(attestation: Attestation) -> bytes:
    return dataclasses.replace(attestation, source="payments").sign(SIGNING)


def of_another_vault(attestation: Attestation) -> bytes:
    return dataclasses.replace(attestation, vault_id="f" * 32).sign(SIGNING)


def a_signed_manifest(attestation: Attestation) -> bytes:
    return sign_record(b"{}", "application/vnd.lifeboat.manifest+json", SIGNING)


@pytest.mark.parametrize(
    "replaced",
    [forged, altered, of_another_snapshot, of_another_source, of_another_vault, a_signed_manifest, lambda _: b"no"],
    ids=["forged", "altered", "another snapshot's", "another source's", "another vault's", "a manifest", "nonsense"],
)
def test_an_attestation_that_does_not_belong_there_is_ignored_and_the_other_copy_read(
    vault: Vault, near: MemoryRepository, far: MemoryRepository, replaced: Callable[[Attestation], bytes]
) -> None:
    snapshot = back_up(vault)
    attestation = attest(vault, snapshot, PROVEN)
    (key,) = keys_in(near)

    overwrite(near, key, replaced(attestation))
    assert attestations_of(vault, snapshot) == (attestation,)

    overwrite(far, key, replaced(attestation))
    assert attestations_of(vault, snapshot) == ()


def test_an_attestation_moved_to_another_snapshot_does_not_prove_it(vault: Vault, near: MemoryRepository) -> None:
    proven, other = back_up(vault), back_up(vault, began=NOW + timedelta(days=1))
    attest(vault, proven, PROVEN)
    (key,) = keys_in(near)

    near.copy(key, key.replace(str(proven.id), str(other.id)))

    assert not is_proven(attestations_of(vault, other))


def test_an_attestation_of_a_later_format_is_refused_politely() -> None:
    with pytest.raises(UnknownFormat, match="format 2"):
        read_attestation(sign_record(b'{"format": 2}', PAYLOAD_TYPE, SIGNING), [SIGNING.signer], place="here")
    with pytest.raises(SignatureInvalid, match="not an attestation"):
        read_attestation(sign_record(b"{}", PAYLOAD_TYPE, SIGNING), [SIGNING.signer], place="here")


def test_a_repository_that_is_down_does_not_prevent_attesting(near: MemoryRepository, far: MemoryRepository) -> None:
    snapshot = back_up(vault_of(near, far))

    attest(vault_failing_to_put(near, far, names=["near"]), snapshot, PROVEN)
    assert (len(keys_in(near)), len(keys_in(far))) == (0, 1)

    with pytest.raises(RepositoryUnavailable):
        attest(vault_failing_to_put(near, far, names=["near", "far"]), snapshot, PROVEN)


@pytest.mark.parametrize("method", ["list", "get"])
def test_a_repository_that_cannot_be_read_does_not_hide_what_others_have(
    near: MemoryRepository, far: MemoryRepository, method: str
) -> None:
    vault = vault_of(near, far)
    snapshot = back_up(vault)
    attestation = attest(vault, snapshot, PROVEN)

    def fails(_: int, called: str, key: str) -> bool:
        return called == method and "/attestations/" in key

    assert attestations_of(vault_of(FailingRepository(near, fails), far), snapshot) == (attestation,)


def test_what_a_repository_lacks_of_the_attestations_is_replicated(
    near: MemoryRepository, far: MemoryRepository
) -> None:
    vault = vault_of(near, far)
    snapshot = back_up(vault)
    attestation = attest(vault_failing_to_put(near, far, names=["near"]), snapshot, PROVEN)

    vault.replicate(snapshot)

    assert attestations_of(vault_of(near), snapshot) == (attestation,)


def test_without_a_signing_key_nothing_is_attested(vault: Vault, near: MemoryRepository) -> None:
    snapshot = back_up(vault)
    vault.keyring = dataclasses.replace(KEYRING, signing_key=None)

    with pytest.raises(KeyringError, match="no signing key"):
        attest(vault, snapshot, PROVEN)
    assert keys_in(near) == []


def vault_failing_to_put(*repositories: MemoryRepository, names: Sequence[str]) -> Vault:
    def fails(name: str) -> Callable[[int, str, str], bool]:
        return lambda _, method, __: method == "put" and name in names

    return vault_of(*(FailingRepository(repository, fails(repository.name)) for repository in repositories))
