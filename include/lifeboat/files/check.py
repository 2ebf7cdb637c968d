"""Looking into packs: whether they hold what the index says, and which files it costs when they do not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from lifeboat.errors import IntegrityError, RepositoryError
from lifeboat.files.entries import Piece
from lifeboat.files.index import index_of
from lifeboat.files.restore import check_files
from lifeboat.files.state import StoredPack
from lifeboat.files.unpacking import Blocks, checked
from lifeboat.manifest import Pack
from lifeboat.packs import PackCheck
from lifeboat.progress import count_text
from lifeboat.snapshot import Kind
from lifeboat.stored import drain
from lifeboat.vault import Snapshot, Vault

NAMED = 5
"""How many files an error names."""


def pack_check(vault: Vault, snapshot: Snapshot, repository: str) -> PackCheck | None:
    """What looks into the packs of a snapshot of files; None for any other snapshot."""
    if snapshot.manifest.kind is not Kind.FILES:
        return None
    check_files(snapshot)
    return _Check(vault, snapshot, repository)


class _Check:
    """The index is read when the first pack is looked into, into a database of its own, which goes with this."""

    def __init__(self, vault: Vault, snapshot: Snapshot, repository: str) -> None:
        self._vault = vault
        self._snapshot = snapshot
        self._repository = repository
        self._packs: dict[str, StoredPack] | None = None
        self._hash_key = b""
        self._pieces = sqlite3.connect("", check_same_thread=False)  # a file without a name, where it is large

    def __call__(self, pack: Pack, chunks: Iterator[bytes]) -> None:
        try:
            self._read_index()
        except (IntegrityError, RepositoryError):
            drain(chunks)  # the index is a fault of its own
            return
        stored = (self._packs or {}).get(pack.id)
        try:
            if stored is not None:
                blocks = Blocks(stored, chunks)
                for piece in self._pieces_of(stored.number):
                    drain(checked(self._hash_key, piece, blocks.bytes_of(piece)))
            drain(chunks)  # to its digest
        except (IntegrityError, RepositoryError) as error:
            raise type(error)(f"{error.message} {self._cost(stored)}".strip(), hint=error.hint) from error

    def _read_index(self) -> None:
        if self._packs is not None:
            return
        index = index_of(self._vault, self._snapshot, repository=self._repository)
        self._hash_key = index.hash_key
        self._pieces.execute("CREATE TABLE piece (pack, block, start, length, hash, name)")
        for entry in index.entries:
            rows = [(*piece, entry.name) for piece in entry.pieces]
            self._pieces.executemany("INSERT INTO piece VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._pieces.execute("CREATE INDEX by_pack ON piece (pack, block, start)")
        self._packs = {stored.pack.id: stored for stored in index.packs.values()}

    def _pieces_of(self, number: int) -> Iterator[Piece]:
        query = "SELECT DISTINCT pack, block, start, length, hash FROM piece WHERE pack = ? ORDER BY block, start"
        yield from map(Piece._make, self._pieces.execute(query, (number,)))

    def _cost(self, stored: StoredPack | None) -> str:
        """Which files of the snapshot need a pack."""
        if stored is None:
            return ""
        query = "SELECT DISTINCT name FROM piece WHERE pack = ?"
        names = [name for (name,) in self._pieces.execute(query, (stored.number,))]
        shown = ", ".join(repr(name) for name in names[:NAMED])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"It costs {count_text(len(names), 'file')} of {self._snapshot.label}: {shown}{more}."
