"""The index of a snapshot: what was in the tree, and where in which packs its contents are. A sealed stream of lines.

The first line is the header, then comes a line for each pack, then one for each entry, in the order of their keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from lifeboat.errors import SealBroken, UnknownFormat
from lifeboat.files.entries import Entry, read_entry
from lifeboat.files.state import StoredPack
from lifeboat.manifest import Pack
from lifeboat.vault import Snapshot, Vault

INDEX = "index"
INDEX_MEDIA_TYPE = "application/vnd.lifeboat.file-index+json-lines"
FORMAT = 1

LINES = 1000
"""Lines that are written at a time."""


@dataclass(frozen=True)
class Index:
    """An index being read: packs by their number, and entries as they come. `hash_key` is that of the keyed hashes."""

    root: str
    hash_key: bytes
    packs: Mapping[int, StoredPack]
    entries: Iterator[Entry]


def write_index(root: str, hash_key: str, packs: Sequence[StoredPack], lines: Iterable[str]) -> Iterator[bytes]:
    """Yield an index."""
    header = {"format": FORMAT, "root": root, "hash": "HMAC-SHA-256, 160 bits", "hash_key": hash_key}
    waiting = [json.dumps(header), *(_pack_line(stored) for stored in packs)]
    for line in lines:
        waiting.append(line)
        if len(waiting) >= LINES:
            yield ("\n".join(waiting) + "\n").encode()
            waiting.clear()
    if waiting:
        yield ("\n".join(waiting) + "\n").encode()


def read_index(chunks: Iterable[bytes]) -> Index:
    """The index in a stream. Raises `SealBroken` when it is none, `UnknownFormat` when a newer Lifeboat wrote it."""
    records = _records(chunks)
    try:
        header = next(records, {})
        if header["format"] != FORMAT:
            raise UnknownFormat(f"The index has format {header['format']}, not {FORMAT}.", hint="Use a newer Lifeboat.")
        packs, first = {}, next(records, None)
        while first is not None and "pack" in first:
            stored = _stored_pack(first)
            packs[stored.number] = stored
            first = next(records, None)
        rest = records if first is None else chain([first], records)
        return Index(header["root"], bytes.fromhex(header["hash_key"]), packs, map(read_entry, rest))
    except (ValueError, KeyError, TypeError) as error:
        raise SealBroken(f"It is no index of files: {error!r}.", hint="Use another snapshot.") from error


def index_of(vault: Vault, snapshot: Snapshot, *, repository: str | None = None) -> Index:
    """The index of a snapshot, from `repository` or from the first that has it. Raises as `Vault.read`."""
    return read_index(vault.read(snapshot, INDEX, repository=repository))


def _records(chunks: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from map(json.loads, lines)
    if rest:
        raise SealBroken("The index ends inside a line.", hint="Use another snapshot.")


def _pack_line(stored: StoredPack) -> str:
    pack = stored.pack
    record = {"pack": stored.number, "id": pack.id, "plain_size": pack.plain_size, "sealed_size": pack.sealed_size}
    return json.dumps(record | {"sealed_sha256": pack.sealed_sha256, "blocks": stored.blocks}, separators=(",", ":"))


def _stored_pack(record: Mapping[str, Any]) -> StoredPack:
    pack = Pack(record["id"], record["plain_size"], record["sealed_size"], record["sealed_sha256"])
    return StoredPack(record["pack"], pack, tuple((stored, plain) for stored, plain in record["blocks"]))
