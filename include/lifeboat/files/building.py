"""Files while they are being restored: what of their contents is wanted, and where in them it belongs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from lifeboat.files.entries import Entry, Extent
from lifeboat.files.reading import read_extents


@dataclass
class Building:
    """A file whose contents come in several pieces: it is written into as they come, and complete with the last."""

    entry: Entry
    stack: ExitStack
    file: int
    left: int
    fault: str = ""


@dataclass(frozen=True)
class Want:
    """A piece that some file needs, at a position in it."""

    entry: Entry
    position: int
    building: Building | None


class Together:
    """Contents of small files that are waiting to be made together, and who wants them."""

    def __init__(self) -> None:
        self._files: list[tuple[bytes, list[Want]]] = []
        self.size = 0

    def add(self, data: bytes, wants: list[Want]) -> None:
        """One more."""
        self._files.append((data, wants))
        self.size += len(data)

    def taken(self) -> Sequence[tuple[bytes, list[Want]]]:
        """All of them; then none are waiting."""
        taken, self._files, self.size = self._files, [], 0
        return taken


def spread(ranges: Sequence[Extent], position: int, data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield where bytes that begin at a position of the contents belong in the file."""
    rest = memoryview(data)
    for extent in ranges:
        if position >= extent.length:
            position -= extent.length
            continue
        part = rest[: extent.length - position]
        yield extent.offset + position, part
        rest, position = rest[len(part) :], 0
        if not rest:
            return


def holes_are_empty(file: int, entry: Entry) -> bool:
    """Whether a sparse file has nothing but zeros where it shall have holes."""
    position = 0
    for extent in (*(entry.extents or ()), Extent(entry.size, 0)):
        gap = (Extent(position, extent.offset - position),)
        for data in read_extents(file, gap, 0, extent.offset - position):
            if data.count(0) != len(data):
                return False
        position = extent.offset + extent.length
    return True
