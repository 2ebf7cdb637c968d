"""The manifest: the signed record of a snapshot, written after all its artifacts. No manifest, no snapshot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from lifeboat.errors import SettingsError, SignatureInvalid, UnknownFormat
from lifeboat.keys import Signer, SigningKey
from lifeboat.signing import open_record, sign_record
from lifeboat.snapshot import Kind, SnapshotId

PAYLOAD_TYPE = "application/vnd.lifeboat.manifest+json"
FORMAT = 1
PACKED_FORMAT = 2
"""Of a manifest that names packs. One without any is written as before, so that earlier readers go on reading it."""


@dataclass(frozen=True)
class Artifact:
    """One sealed object of a snapshot. `plain` is the stream the source gave; digests are SHA-256, hexadecimal."""

    name: str
    media_type: str
    plain_size: int
    plain_sha256: str
    sealed_size: int
    sealed_sha256: str


@dataclass(frozen=True)
class Pack:
    """One sealed object with contents of files, shared by snapshots of its source. `plain` is before compression."""

    id: str
    plain_size: int
    sealed_size: int
    sealed_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a snapshot consists of, of which source, and when.

    `scheduled_for` is the moment the run was meant for, so that a repeated run finds what it has already made.
    `facts` are JSON values the source gave: versions, sizes, what was selected. They hold no rows and no secrets.
    """

    vault_id: str
    source: str
    kind: Kind
    snapshot_id: SnapshotId
    began: datetime
    finished: datetime
    scheduled_for: datetime | None
    artifacts: tuple[Artifact, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    written_by: str = ""
    packs: tuple[Pack, ...] = ()

    def artifact(self, name: str) -> Artifact:
        """The artifact of this name. Raises `KeyError`."""
        return {artifact.name: artifact for artifact in self.artifacts}[name]

    @property
    def plain_size(self) -> int:
        """Bytes the source gave, over all artifacts and packs."""
        return sum(a.plain_size for a in self.artifacts) + sum(p.plain_size for p in self.packs)

    @property
    def sealed_size(self) -> int:
        """Bytes stored in one repository, over all artifacts and packs, whoever else shares those."""
        return sum(a.sealed_size for a in self.artifacts) + sum(p.sealed_size for p in self.packs)

    def sign(self, key: SigningKey) -> bytes:
        """The manifest as it is stored: JSON in a signed envelope."""
        return sign_record(_to_json(self), PAYLOAD_TYPE, key)


def tree_bytes(manifest: Manifest) -> int:
    """The bytes that files of a snapshot take once they are restored: holes, which anybody can make, take none."""
    size, holes = (manifest.facts.get(name, 0) for name in ("size", "holes"))
    return max(0, int(size) - int(holes)) if isinstance(size, int | float) and isinstance(holes, int | float) else 0


def read_manifest(envelope: bytes, signers: Sequence[Signer], *, place: str) -> Manifest:
    """The manifest in a signed envelope.

    Raises `SignatureInvalid` when nobody trusted signed it, `UnknownFormat` when a newer Lifeboat wrote it.
    """
    payload = open_record(envelope, PAYLOAD_TYPE, signers, place=place)
    try:
        record = json.loads(payload)
        found = record["format"]
        if found not in (FORMAT, PACKED_FORMAT):
            raise UnknownFormat(
                f"{place} has format {found}; this Lifeboat reads formats {FORMAT} and {PACKED_FORMAT}.",
                hint="Use a newer Lifeboat.",
            )
        return _from_record(record)
    except (ValueError, KeyError, TypeError, SettingsError) as error:
        # Signed by a trusted key and yet not a manifest: a fault of the writer, not of the storage.
        raise SignatureInvalid(
            f"{place} is signed but not a manifest: {error!r}.", hint="Report this as a bug."
        ) from error


def check_place(manifest: Manifest, vault_id: str, source: str, snapshot_id: SnapshotId, *, place: str) -> None:
    """Raise `SignatureInvalid` when a manifest stands where another snapshot's belongs: a replay."""
    if (manifest.vault_id, manifest.source, manifest.snapshot_id) != (vault_id, source, snapshot_id):
        raise SignatureInvalid(
            f"{place} is the manifest of {manifest.source}/{manifest.snapshot_id} of vault {manifest.vault_id}.",
            hint="Somebody moved it here, by mistake or to deceive. Look in another repository.",
        )


def _to_json(manifest: Manifest) -> bytes:
    record = asdict(manifest) | {
        "format": PACKED_FORMAT if manifest.packs else FORMAT,
        "snapshot_id": str(manifest.snapshot_id),
        "began": manifest.began.isoformat(),
        "finished": manifest.finished.isoformat(),
        "scheduled_for": manifest.scheduled_for and manifest.scheduled_for.isoformat(),
    }
    if not manifest.packs:
        del record["packs"]
    return json.dumps(record, sort_keys=True, ensure_ascii=False).encode()


def _from_record(record: Mapping[str, Any]) -> Manifest:
    scheduled_for = record["scheduled_for"]
    return Manifest(
        vault_id=record["vault_id"],
        source=record["source"],
        kind=Kind(record["kind"]),
        snapshot_id=SnapshotId.parse(record["snapshot_id"]),
        began=datetime.fromisoformat(record["began"]),
        finished=datetime.fromisoformat(record["finished"]),
        scheduled_for=datetime.fromisoformat(scheduled_for) if scheduled_for else None,
        artifacts=tuple(Artifact(**artifact) for artifact in record["artifacts"]),
        facts=record["facts"],
        written_by=record["written_by"],
        packs=tuple(Pack(**pack) for pack in record["packs"]) if record["format"] == PACKED_FORMAT else (),
    )
