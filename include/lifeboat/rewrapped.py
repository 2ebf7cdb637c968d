"""Rewrapped keys: an artifact's data key, wrapped later for recipients its header lacks. Data are never touched.

They stand beside the artifacts in every repository that holds the snapshot, and are only ever added to. Nobody signs
them: the commitment in an artifact's header refuses any key but its own.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from lifeboat.errors import SealBroken, UnknownFormat
from lifeboat.snapshot import SnapshotId, Tier, snapshot_prefix

FORMAT = 1

LONGEST = 1024 * 1024
"""Bytes of the longest object that is read as rewrapped keys; real ones have a few thousand."""


@dataclass(frozen=True)
class RewrappedKeys:
    """An artifact's data key, wrapped for some recipients: pairs of key id and wrapped key, read at `place`."""

    artifact: str
    place: str
    wrapped_keys: tuple[tuple[bytes, bytes], ...]


def rewrapped_prefix(source: str, tier: Tier, snapshot_id: SnapshotId) -> str:
    """Where a snapshot's rewrapped keys stand in every repository; ends with a slash."""
    return f"{snapshot_prefix(source, tier, snapshot_id)}rewrapped/"


def rewrapped_name(artifact: str, randomness: bytes) -> str:
    """The name of a new object with rewrapped keys of an artifact; `randomness` gives at least four bytes."""
    return f"{artifact}-{randomness[:4].hex()}.json"


def artifact_of(name: str) -> str | None:
    """The artifact whose rewrapped keys an object of this name has; None for any other object."""
    found = _NAME.fullmatch(name)
    return found[1] if found else None


def write_rewrapped(wrapped_keys: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Rewrapped keys as they are stored."""
    recipients = [
        {"key_id": key_id.hex(), "wrapped": b64encode(wrapped).decode("ascii")} for key_id, wrapped in wrapped_keys
    ]
    return json.dumps({"format": FORMAT, "recipients": recipients}).encode()


def read_rewrapped(data: bytes, artifact: str, *, place: str) -> RewrappedKeys:
    """The rewrapped keys in an object. Raises `SealBroken` when it holds none, `UnknownFormat` for a later format."""
    try:
        record = json.loads(data)
        if record["format"] != FORMAT:
            raise UnknownFormat(f"{place} has format {record['format']}, not {FORMAT}.", hint="Use a newer Lifeboat.")
        pairs = [(bytes.fromhex(r["key_id"]), b64decode(r["wrapped"], validate=True)) for r in record["recipients"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SealBroken(
            f"{place} does not hold rewrapped keys: {type(error).__name__}.",
            hint="It was damaged or forged; remove it, and run `lifeboat keys rewrap` again.",
        ) from error
    return RewrappedKeys(artifact, place, tuple(pairs))


_NAME = re.compile(r"([a-z0-9][a-z0-9_-]{0,62})-[0-9a-f]{8}\.json")
