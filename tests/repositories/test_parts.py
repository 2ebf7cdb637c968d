"""How a stream of unknown length is cut into parts."""

from __future__ import annotations

from itertools import islice

from lifeboat.repositories.parts import MIB, part_sizes

TIB = 1024**4


def test_ten_thousand_parts_hold_ten_tebibytes_and_none_is_larger_than_stores_take() -> None:
    sizes = list(islice(part_sizes(), 10_000))

    assert sum(sizes) > 10 * TIB
    assert sizes == sorted(sizes)
    assert 5 * MIB <= sizes[0] <= 64 * MIB
    assert max(sizes) <= 4000 * MIB  # Azure's largest block; S3's largest part is 5 GiB
