"""Getting contents back out of packs: only the blocks that are needed, each piece held against its keyed hash."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence

from backports import zstd

from lifeboat.errors import ArtifactMismatch, IntegrityError, LifeboatError, RepositoryError
from lifeboat.files.entries import Piece
from lifeboat.files.index import Index
from lifeboat.files.packing import BLOCK
from lifeboat.files.state import StoredPack
from lifeboat.packs import PackReader
from lifeboat.vault import Snapshot, Vault

STRETCH = 8 * BLOCK
"""Stored bytes that are fetched together, about; a longer piece is fetched as it is."""


class Source:
    """Gives parts of the packs of a snapshot, from the first repository whose copy is right."""

    def __init__(self, vault: Vault, snapshot: Snapshot, index: Index, *, repository: str | None = None) -> None:
        manifest = snapshot.manifest
        self._packs = index.packs
        self._signed = {pack.id: pack for pack in manifest.packs}
        self._hash_key = index.hash_key
        holders = vault.holders(snapshot, repository)
        identities = vault.keyring.identities
        # All together first, so that one that drops out costs nothing; then each for itself, as one may be damaged.
        groups = [holders] if len(holders) == 1 else [holders, *([one] for one in holders[1:])]
        self._readers = [PackReader(group, vault.id, manifest.source, identities) for group in groups]

    def pack(self, number: int) -> StoredPack:
        """A pack by its number. Raises `ArtifactMismatch` for one that the signed manifest does not name."""
        stored = self._packs.get(number)
        if stored is None or self._signed.get(stored.pack.id) != stored.pack:
            raise ArtifactMismatch(
                f"The index needs a pack {number} that its manifest does not name.", hint="Use another snapshot."
            )
        return stored

    def take(self, number: int, pieces: Sequence[Piece], act: Callable[[Piece, Iterable[bytes]], None]) -> None:
        """Give pieces of one pack, in the order of their blocks, to `act` as streams.

        A copy that is damaged or away is left for another one, and all of the pieces are given once more. What `act`
        was given counts only when its stream has ended by itself. Raises `IntegrityError` kinds and `RepositoryError`.
        """
        stored = self.pack(number)
        failure: LifeboatError | None = None
        for reader in self._readers:
            try:
                blocks = _fetch(reader, stored, pieces)
                for piece in pieces:
                    if piece.length <= BLOCK:
                        act(piece, (whole(self._hash_key, piece, blocks.bytes_of(piece)),))
                    else:
                        act(piece, checked(self._hash_key, piece, blocks.bytes_of(piece)))
                return
            except (IntegrityError, RepositoryError) as error:
                failure = failure if isinstance(failure, IntegrityError) else error
        assert failure is not None  # there is at least one reader
        raise failure


def _fetch(reader: PackReader, stored: StoredPack, pieces: Sequence[Piece]) -> Blocks:
    """The blocks that some pieces need, fetched together from the first to the last."""
    first = min(piece.block for piece in pieces)
    last = max(last_block(stored, piece) for piece in pieces)
    start = sum(length for length, _ in stored.blocks[:first])
    length = sum(length for length, _ in stored.blocks[first : last + 1])
    return Blocks(stored, iter(reader.open(stored.pack)(start, length)), first)


class Blocks:
    """The blocks of a pack from `first` on, as their stored bytes arrive; each is opened when it is asked for."""

    def __init__(self, stored: StoredPack, chunks: Iterator[bytes], first: int = 0) -> None:
        self._blocks = stored.blocks
        self._chunks = chunks
        self._next = first
        self._rest = bytearray()
        self._number, self._plain = -1, b""

    def bytes_of(self, piece: Piece) -> Iterator[bytes]:
        """Yield a piece's bytes. Pieces are to be asked for in the order of their blocks."""
        number, offset, left = piece.block, piece.offset, piece.length
        while left:
            plain = self._block(number)
            part = plain if offset == 0 and left >= len(plain) else plain[offset : offset + left]
            left -= len(part)
            number, offset = number + 1, 0
            yield part
            if not part:
                return  # whoever compares lengths finds out

    def _block(self, number: int) -> bytes:
        while self._number < number:
            if self._next >= len(self._blocks):
                raise ArtifactMismatch("The index names a block that its pack does not have.", hint=_OLDER)
            stored, plain = self._blocks[self._next]
            while len(self._rest) < stored:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise ArtifactMismatch("A pack ends inside a block.", hint=_OLDER)
                self._rest += chunk
            data = bytes(self._rest[:stored])
            del self._rest[:stored]
            if self._next == number:
                self._plain = open_block(data, plain)
            self._number, self._next = self._next, self._next + 1
        return self._plain


_OLDER = "The host that wrote it had a fault; use an older snapshot."


def checked(hash_key: bytes, piece: Piece, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a piece's bytes; raises `ArtifactMismatch` at the end when they are not those that were read."""
    digest = hmac.new(hash_key, digestmod="sha256")
    length = 0
    for chunk in chunks:
        digest.update(chunk)
        length += len(chunk)
        yield chunk
    if length != piece.length or digest.digest()[:20].hex() != piece.hash:
        raise _not_what_was_read()


def whole(hash_key: bytes, piece: Piece, chunks: Iterable[bytes]) -> bytes:
    """A small piece's bytes, as `checked` gives them, in one."""
    data = b"".join(chunks)
    if len(data) != piece.length or hmac.digest(hash_key, data, "sha256")[:20].hex() != piece.hash:
        raise _not_what_was_read()
    return data


def _not_what_was_read() -> ArtifactMismatch:
    return ArtifactMismatch("Contents in a pack are not what was read.", hint=_OLDER)


def open_block(data: bytes, plain: int) -> bytes:
    """A block's contents. Raises `ArtifactMismatch`."""
    if len(data) == plain:
        return data
    try:
        decompressor = zstd.ZstdDecompressor()
        opened = decompressor.decompress(data, max_length=plain)
        if len(opened) == plain:
            return opened
    except zstd.ZstdError:
        pass
    raise ArtifactMismatch("A block is damaged.", hint=_OLDER)


def last_block(stored: StoredPack, piece: Piece) -> int:
    """The number of the block in which a piece ends."""
    number, room = piece.block, 0
    blocks = stored.blocks
    reach = piece.offset + piece.length
    while number < len(blocks):
        room += blocks[number][1]
        if reach <= room:
            return number
        number += 1
    return number


def stretches(stored: StoredPack, pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Yield the pieces of a pack in groups that are worth fetching together, in the order of their blocks."""
    group: list[Piece] = []
    size, end = 0, -1
    for piece in sorted(pieces):
        last = last_block(stored, piece)
        if group and ((size >= STRETCH and piece.block > end) or piece.block > end + 2):
            yield group
            group, size, end = [], 0, -1
        first = max(piece.block, end + 1)
        size += sum(length for length, _ in stored.blocks[first : last + 1])
        end = max(end, last)
        group.append(piece)
    if group:
        yield group
