"""A large file while several threads read it, each a part."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from lifeboat.files.entries import Extent, Piece
from lifeboat.files.scan import Found

PIECE = 64 * 1024 * 1024
"""Bytes of a large file in one pack. An append changes the last one only."""


@dataclass
class Large:
    """A large file being read in several parts at once."""

    found: Found
    file: int
    info: os.stat_result
    extents: tuple[Extent, ...] | None
    ranges: tuple[Extent, ...]
    attempt: int
    pieces: list[Piece | None] = field(default_factory=list)
    left: int = 0
    fault: str = ""

    @property
    def length(self) -> int:
        """Bytes of contents, without holes."""
        return sum(extent.length for extent in self.ranges)

    @property
    def whole(self) -> bool:
        """Whether all of them were there when they were read."""
        return sum(piece.length for piece in self.pieces if piece) == self.length

    def read_pieces(self) -> list[Piece]:
        """The pieces as far as they follow one another: of a file that was cut short, those before its end."""
        pieces: list[Piece] = []
        for index, piece in enumerate(self.pieces):
            if piece is None:
                break
            pieces.append(piece)
            if piece.length < min(PIECE, self.length - index * PIECE):
                break
        return pieces


def clipped(extents: tuple[Extent, ...], length: int) -> tuple[Extent, ...]:
    """The first extents, as far as they have these many bytes."""
    clipped = []
    for extent in extents:
        if length > 0:
            clipped.append(Extent(extent.offset, min(extent.length, length)))
        length -= extent.length
    return tuple(clipped)
