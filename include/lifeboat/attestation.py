"""Attestations: small signed records that are added to a snapshot later. They never edit its manifest.

They stand beside the artifacts, in every repository that holds the snapshot, and are only ever added to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from lifeboat import __version__
from lifeboat.dates import TOLERANCE
from lifeboat.errors import (
    IntegrityError,
    KeyringError,
    LifeboatError,
    RepositoryError,
    SignatureInvalid,
    UnknownFormat,
)
from lifeboat.keys import Signer, SigningKey
from lifeboat.signing import open_record, sign_record
from lifeboat.snapshot import SnapshotId, snapshot_prefix
from lifeboat.vault import Snapshot, Vault

PAYLOAD_TYPE = "application/vnd.lifeboat.attestation+json"
FORMAT = 1


class Verdict(StrEnum):
    """What an attestation says of a snapshot, or of the copy of it that one repository has."""

    VERIFIED = "verified"
    """Every byte was read back, unsealed, and its inside parsed."""
    PROVEN = "proven"
    """It was restored into a scratch server and held what its evidence says."""
    FAILED = "failed"
    """It could not be verified or proven; the details say why."""
    HELD = "held"
    """It must stay; the details give `reason`, and `until` where the hold ends by itself."""
    HOLD_ENDED = "hold-ended"
    """The holds whose `made` the details list under `answers` are over."""
    SUSPECT = "suspect"
    """It differs much from those before it; the details say how."""
    ACCEPTED = "accepted"
    """A person found the snapshot good, despite the suspicions whose `made` the details list under `answers`."""


RESTORE_TESTS = (Verdict.PROVEN, Verdict.FAILED)
"""What an attempt to prove or verify a snapshot may end with; nothing else takes a proof away."""


@dataclass(frozen=True)
class Attestation:
    """What was found out about a snapshot, when, and from which repository it was read (None: from any).

    `details` are JSON values: durations in seconds, versions, checks. They hold no rows and no secrets.
    """

    vault_id: str
    source: str
    snapshot_id: SnapshotId
    verdict: Verdict
    made: datetime
    repository: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    written_by: str = ""

    def sign(self, key: SigningKey) -> bytes:
        """The attestation as it is stored: JSON in a signed envelope."""
        record = asdict(self) | {
            "format": FORMAT,
            "snapshot_id": str(self.snapshot_id),
            "made": self.made.isoformat(),
        }
        return sign_record(json.dumps(record, sort_keys=True, ensure_ascii=False).encode(), PAYLOAD_TYPE, key)


def attest(
    vault: Vault,
    snapshot: Snapshot,
    verdict: Verdict,
    *,
    repository: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Attestation:
    """Add an attestation to a snapshot, in every repository that has it and answers.

    Raises `KeyringError` without a signing key, `RepositoryError` when no repository took it.
    """
    attestation, _ = attest_everywhere(vault, snapshot, verdict, repository=repository, details=details)
    return attestation


def attest_everywhere(
    vault: Vault,
    snapshot: Snapshot,
    verdict: Verdict,
    *,
    repository: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> tuple[Attestation, Mapping[str, str]]:
    """As `attest`, and by name why a repository that has the snapshot did not take the attestation."""
    key = require_signing_key(vault)
    made = datetime.now(UTC)
    attestation = Attestation(
        vault.id,
        snapshot.manifest.source,
        snapshot.id,
        verdict,
        made,
        repository,
        details or {},
        f"lifeboat {__version__}",
    )
    envelope = attestation.sign(key)
    name = f"{attestations_prefix(snapshot)}{made:%Y%m%dT%H%M%SZ}-{os.urandom(4).hex()}.json"
    failures: dict[str, LifeboatError] = {n: e for n, e in vault.absent.items() if n in snapshot.repositories}
    taken = 0
    for member in vault.present:
        if member.name in snapshot.repositories:
            try:
                member.repository.put(name, [envelope])
                taken += 1
            except RepositoryError as error:
                failures[member.name] = error
    if not taken:
        if failures:
            raise next(iter(failures.values()))
        raise RepositoryError(f"No repository that has {snapshot.label} answers.")
    return attestation, {name: error.message for name, error in failures.items()}


def require_signing_key(vault: Vault) -> SigningKey:
    """The key that attestations are signed with. Raises `KeyringError`."""
    if vault.keyring.signing_key is None:
        raise KeyringError(
            "The keyring has no signing key, so nothing can be attested.",
            hint="Attest on a host that makes snapshots, or add a signing key with `lifeboat init`.",
        )
    return vault.keyring.signing_key


def attestations_of(vault: Vault, snapshot: Snapshot) -> tuple[Attestation, ...]:
    """Every attestation of a snapshot that can be read and trusted, oldest first, from all repositories together."""
    found: dict[str, tuple[Attestation, datetime]] = {}
    for member in vault.present:
        if member.name not in snapshot.repositories:
            continue
        try:
            infos = [info for info in member.repository.list(attestations_prefix(snapshot)) if info.key not in found]
        except RepositoryError:
            continue
        for info in infos:
            try:
                envelope = b"".join(member.repository.get(info.key))
                one = read_attestation_of(vault, snapshot, envelope, place=f"{member.name}:{info.key}")
                found[info.key] = one, info.modified
            except (RepositoryError, IntegrityError):
                continue  # another repository may have it whole
    return in_order(found.values())


def in_order(attestations: Iterable[tuple[Attestation, datetime]]) -> tuple[Attestation, ...]:
    """The attestations, each given with when it was stored, oldest first.

    What a clock that ran ahead has dated long after it was stored must not be the last word until that day has come.
    """

    def when(one: tuple[Attestation, datetime]) -> tuple[datetime, datetime]:
        attestation, stored = one
        return (stored if attestation.made > stored + TOLERANCE else attestation.made), attestation.made

    return tuple(attestation for attestation, _ in sorted(attestations, key=when))


def is_proven(attestations: Sequence[Attestation]) -> bool:
    """Whether the snapshot was proven, and no later attempt to prove it, from wherever it was read, has failed."""
    tried = last_restore_test(attestations)
    return tried is not None and tried.verdict is Verdict.PROVEN


def last_restore_test(attestations: Sequence[Attestation]) -> Attestation | None:
    """What the last attempt to prove the snapshot has shown."""
    tried = [a for a in attestations if a.verdict in RESTORE_TESTS]
    return tried[-1] if tried else None


def open_holds(attestations: Sequence[Attestation], now: datetime) -> tuple[Attestation, ...]:
    """The holds that stand: nobody has ended them, and the end they were given has not come.

    An end that cannot be read is none.
    """
    held = _unanswered(attestations, Verdict.HELD, Verdict.HOLD_ENDED)
    return tuple(hold for hold in held if (until := hold_end(hold)) is None or until > now)


def open_suspicions(attestations: Sequence[Attestation]) -> tuple[Attestation, ...]:
    """Why the snapshot is suspect, as far as nobody has accepted it."""
    return _unanswered(attestations, Verdict.SUSPECT, Verdict.ACCEPTED)


def hold_end(hold: Attestation) -> datetime | None:
    """When a hold ends by itself; None where it does not."""
    try:
        until = datetime.fromisoformat(hold.details["until"])
    except (KeyError, TypeError, ValueError):
        return None
    return until if until.tzinfo else until.replace(tzinfo=UTC)


def _unanswered(attestations: Sequence[Attestation], said: Verdict, answer: Verdict) -> tuple[Attestation, ...]:
    """What was said and no answer names. By name, not by time: a clock that was set back must not end a hold."""
    answered = {made for a in attestations if a.verdict is answer for made in (_texts(a.details.get("answers")))}
    return tuple(a for a in attestations if a.verdict is said and a.made.isoformat() not in answered)


def _texts(value: Any) -> Sequence[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list | tuple) else ()


def last_judgement(attestations: Sequence[Attestation]) -> Attestation | None:
    """As `last_restore_test`, but of the snapshot itself: that one repository's copy is damaged says nothing of it."""
    tried = [a for a in attestations if a.verdict in RESTORE_TESTS and not is_of_a_copy(a)]
    return tried[-1] if tried else None


def is_of_a_copy(attestation: Attestation) -> bool:
    """Whether it says that the copy in one repository is damaged. What a restore test found has `proven`."""
    named = attestation.repository is not None
    return attestation.verdict is Verdict.FAILED and named and "proven" not in attestation.details


def was_read_back(attestation: Attestation, repository: str) -> bool:
    """Whether it says that all of the copy in this repository was read and found whole."""
    if attestation.verdict not in (Verdict.VERIFIED, Verdict.PROVEN):
        return False
    return attestation.repository == repository or repository in _texts(attestation.details.get("repositories"))


def is_damaged(attestations: Sequence[Attestation], repository: str) -> bool:
    """Whether the last that was seen of the copy in one repository is that it is damaged."""
    seen = [a for a in attestations if was_read_back(a, repository) or (is_of_a_copy(a) and a.repository == repository)]
    return bool(seen) and seen[-1].verdict is Verdict.FAILED


def read_attestation(envelope: bytes, signers: Sequence[Signer], *, place: str) -> Attestation:
    """The attestation in a signed envelope. Raises `SignatureInvalid`, `UnknownFormat`."""
    payload = open_record(envelope, PAYLOAD_TYPE, signers, place=place)
    try:
        record = json.loads(payload)
        if record["format"] != FORMAT:
            raise UnknownFormat(f"{place} has format {record['format']}, not {FORMAT}.", hint="Use a newer Lifeboat.")
        if record["verdict"] not in list(Verdict):
            said = record["verdict"]
            raise UnknownFormat(f"{place} says {said!r}, which this Lifeboat does not know.", hint="Use a newer one.")
        return Attestation(
            vault_id=record["vault_id"],
            source=record["source"],
            snapshot_id=SnapshotId.parse(record["snapshot_id"]),
            verdict=Verdict(record["verdict"]),
            made=datetime.fromisoformat(record["made"]),
            repository=record["repository"],
            details=record["details"],
            written_by=record["written_by"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SignatureInvalid(
            f"{place} is signed but not an attestation: {error!r}.", hint="Report this as a bug."
        ) from error


def attestations_prefix(snapshot: Snapshot) -> str:
    """Where a snapshot's attestations stand in every repository; ends with a slash."""
    return f"{snapshot_prefix(snapshot.manifest.source, snapshot.tier, snapshot.id)}attestations/"


def read_attestation_of(vault: Vault, snapshot: Snapshot, envelope: bytes, *, place: str) -> Attestation:
    """As `read_attestation`; one of another snapshot is refused too."""
    attestation = read_attestation(envelope, vault.keyring.signers, place=place)
    named = (attestation.vault_id, attestation.source, attestation.snapshot_id)
    if named != (vault.id, snapshot.manifest.source, snapshot.id):
        raise SignatureInvalid(
            f"{place} is an attestation of another snapshot.", hint="Somebody moved it here, by mistake or to deceive."
        )
    return attestation
