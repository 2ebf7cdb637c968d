"""The checksum at the end of an RDB: CRC-64 with Jones' polynomial, reflected, beginning at 0 (redis/src/crc64.c).

No library at hand knows this polynomial, and a loop over bytes does 10 MB/s. Many short lanes are therefore
advanced side by side, a byte of each at a time, by table lookups of `bytes.translate`; then they are joined, as
CRC(a ‖ b) = shift(CRC(a), length of b) ^ CRC(b).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache

_POLYNOMIAL = 0x95AC9329AC4BC9B5  # 0xad93d23594c935a9 with its bits reversed
_LANES = 1024
_LENGTH = 256
_BLOCK = _LANES * _LENGTH


class Crc64:
    """A checksum that grows with its data."""

    def __init__(self) -> None:
        self._value = 0
        self._waiting = b""

    def update(self, data: bytes) -> None:
        """Add data; what does not fill a block waits."""
        data = self._waiting + data
        whole = len(data) - len(data) % _BLOCK
        for start in range(0, whole, _BLOCK):
            self._value = _add_block(self._value, data[start : start + _BLOCK])
        self._waiting = data[whole:]

    @property
    def value(self) -> int:
        """The checksum of all that was added."""
        return _add_bytes(self._value, self._waiting)


def _add_bytes(value: int, data: bytes) -> int:
    table = _table()
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value


def _add_block(value: int, block: bytes) -> int:
    tables = _byte_tables()
    planes = [0] * 8  # planes[k] holds byte k of every lane's checksum
    for column in range(_LENGTH):
        lookup = (planes[0] ^ int.from_bytes(block[column::_LENGTH], "little")).to_bytes(_LANES, "little")
        found = [int.from_bytes(lookup.translate(table), "little") for table in tables]
        planes = [above ^ new for above, new in zip([*planes[1:], 0], found, strict=True)]
    mixed = bytearray(8 * _LANES)
    for index, plane in enumerate(planes):
        mixed[index::8] = plane.to_bytes(_LANES, "little")
    shifts = _shift_tables()
    for lane in struct.unpack(f"<{_LANES}Q", mixed):
        value = _apply(shifts, value) ^ lane
    return value


def _apply(tables: Sequence[Sequence[int]], value: int) -> int:
    t0, t1, t2, t3, t4, t5, t6, t7 = tables
    return (
        t0[value & 255] ^ t1[value >> 8 & 255] ^ t2[value >> 16 & 255] ^ t3[value >> 24 & 255]
        ^ t4[value >> 32 & 255] ^ t5[value >> 40 & 255] ^ t6[value >> 48 & 255] ^ t7[value >> 56]
    )  # fmt: skip


@cache
def _table() -> tuple[int, ...]:
    """What a byte does to a checksum."""

    def of(byte: int) -> int:
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        return byte

    return tuple(map(of, range(256)))


@cache
def _byte_tables() -> tuple[bytes, ...]:
    """The same, each byte of the result a table of its own."""
    return tuple(bytes(entry >> 8 * index & 0xFF for entry in _table()) for index in range(8))


@cache
def _shift_tables() -> tuple[tuple[int, ...], ...]:
    """What `_LENGTH` zero bytes do to each byte of a checksum; the rest follows, as it is linear."""
    zeros = bytes(_LENGTH)
    bits = [_add_bytes(1 << bit, zeros) for bit in range(64)]

    def of(index: int, byte: int) -> int:
        found = 0
        for bit in range(8):
            if byte >> bit & 1:
                found ^= bits[8 * index + bit]
        return found

    return tuple(tuple(of(index, byte) for byte in range(256)) for index in range(8))
