"""How long a restore may be expected to take, from what earlier proofs have measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from lifeboat.attestation import Attestation, Verdict
from lifeboat.inventory import Inventory
from lifeboat.manifest import Manifest, tree_bytes
from lifeboat.snapshot import Kind

RECENT = 5
"""Of how many of a source's last proofs the middle one counts."""

TEST_ONLY = ("scratch server", "pages and indexes", "spot check", "damaged copy in ")
"""How the phases of a restore test begin that a recovery has not, or not every time."""


@dataclass(frozen=True)
class Measured:
    """What one proof has shown: so many bytes of a source were restored and compared in so many seconds."""

    source: str
    kind: Kind
    made: datetime
    size: int
    seconds: float


def measured(attestation: Attestation, kind: Kind) -> Measured | None:
    """What an attestation tells of how fast its source is restored; None where it tells nothing."""
    details = attestation.details
    seconds, size = _number(details.get("seconds_in_all")), _number(details.get(_SIZE[kind]))
    if attestation.verdict is not Verdict.PROVEN or not seconds or not size:
        return None
    phases = details.get("seconds")
    for name, took in phases.items() if isinstance(phases, Mapping) else ():
        if str(name).startswith(TEST_ONLY):
            seconds -= _number(took)
    return Measured(attestation.source, kind, attestation.made, int(size), max(0.0, seconds))


def measured_in(inventory: Inventory) -> frozenset[Measured]:
    """What every proof there is has measured."""
    found = (
        measured(attestation, inventory.snapshots[place].manifest.kind)
        for place, attested in inventory.attestations.items()
        for attestation in attested
    )
    return frozenset(one for one in found if one is not None)


def size_of(manifest: Manifest) -> int:
    """The bytes by which the time of restoring a snapshot is reckoned: as the source gave them."""
    if manifest.kind is Kind.FILES:
        return tree_bytes(manifest)  # its packs hold other snapshots' contents too
    return manifest.plain_size


def expected_seconds(source: str, kind: Kind, size: int, proofs: Iterable[Measured]) -> float | None:
    """How long restoring so many bytes of a source takes: the middle of its last proofs, more where it has grown.

    Where it was never proven, what other sources of its kind took for a byte is taken; None where there is none either.
    """
    of_kind = sorted((proof for proof in proofs if proof.kind is kind), key=lambda proof: proof.made)
    own = [proof for proof in of_kind if proof.source == source]
    if own:
        # A snapshot that is smaller than the one that was proven still needs the connections, the roles, the looks.
        return median(proof.seconds * max(1.0, size / proof.size) for proof in own[-RECENT:])
    if of_kind:
        return median(proof.seconds * size / proof.size for proof in of_kind[-RECENT:])
    return None


_SIZE: Mapping[Kind, str] = {
    Kind.POSTGRES: "plain_size",
    Kind.REDIS: "plain_size",
    Kind.CONFIG: "plain_size",
    Kind.FILES: "size",  # where there was no room for all, a sample was restored
}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
