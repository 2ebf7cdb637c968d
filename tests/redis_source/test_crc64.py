"""The checksum against its published value, and the quick way against the plain one."""

from __future__ import annotations

import random

from lifeboat.redis_source.crc64 import Crc64


def test_it_is_the_one_of_redis() -> None:
    crc = Crc64()
    crc.update(b"123456789")

    assert crc.value == 0xE9C6D914C4B8D9CA  # redis/src/crc64.c, crc64Test


def test_data_in_any_pieces_gives_the_same_as_bit_by_bit() -> None:
    data = random.Random(1).randbytes(300_000)
    plain = 0
    for byte in data:
        plain ^= byte
        for _ in range(8):
            plain = plain >> 1 ^ (0x95AC9329AC4BC9B5 if plain & 1 else 0)

    for size in (1000, 262_144, 300_000):
        crc = Crc64()
        for start in range(0, len(data), size):
            crc.update(data[start : start + size])
        assert crc.value == plain
