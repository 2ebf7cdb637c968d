"""Streams: counted, compressed and given to several consumers without being held."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifeboat.errors import RepositoryUnavailable, SealBroken
from lifeboat.streams import CHUNK, Meter, compress, decompress, tee


def test_a_meter_counts_and_digests_what_passes() -> None:
    heard: list[int] = []
    meter = Meter([b"abc", b"", b"de"], heard.append)

    assert b"".join(meter) == b"abcde"
    assert (meter.size, meter.sha256) == (5, hashlib.sha256(b"abcde").hexdigest())
    assert heard == [3, 3, 5]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=5000), max_size=6))
def test_what_was_compressed_comes_back(chunks: list[bytes]) -> None:
    assert b"".join(decompress(compress(chunks, threads=1))) == b"".join(chunks)


def test_decompression_gives_bounded_chunks_of_a_very_compressible_stream() -> None:
    packed = list(compress(bytes(CHUNK) for _ in range(64)))

    sizes = [len(chunk) for chunk in decompress(packed)]

    assert sum(sizes) == 64 * CHUNK
    assert max(sizes) <= CHUNK


def test_a_compressed_stream_cut_short_is_refused() -> None:
    packed = b"".join(compress([os.urandom(10_000)]))

    for length in (0, 5, 5000, len(packed) - 1):
        with pytest.raises(SealBroken):
            list(decompress([packed[:length]]))


@pytest.mark.parametrize("extra", [b"\0", b"more"], ids=["a zero", "text"])
def test_bytes_after_a_compressed_stream_are_refused(extra: bytes) -> None:
    packed = b"".join(compress([b"rows"]))

    with pytest.raises(SealBroken, match="follow the end"):
        list(decompress([packed + extra]))
    with pytest.raises(SealBroken, match="follow the end"):
        list(decompress([packed, extra]))


def test_a_damaged_compressed_stream_is_refused() -> None:
    packed = bytearray(b"".join(compress([b"rows" * 1000])))
    packed[-2] ^= 1  # inside the content checksum

    with pytest.raises(SealBroken):
        list(decompress([bytes(packed)]))


def test_a_tee_gives_every_consumer_the_whole_stream() -> None:
    got: dict[str, bytes] = {}

    failures = tee(
        (bytes([n]) * 100_000 for n in range(50)),
        {name: lambda chunks, name=name: got.update({name: b"".join(chunks)}) for name in ("one", "two")},
    )

    assert failures == {}
    assert got["one"] == got["two"] == b"".join(bytes([n]) * 100_000 for n in range(50))


def test_a_consumer_that_fails_is_left_behind_and_the_other_goes_on() -> None:
    got: list[bytes] = []

    def fails(chunks: Iterator[bytes]) -> None:
        next(chunks)
        raise RepositoryUnavailable("the line dropped")

    failures = tee((b"x" * 1000 for _ in range(100)), {"bad": fails, "good": got.extend})

    assert list(failures) == ["bad"]
    assert sum(map(len, got)) == 100_000


def test_once_every_consumer_has_failed_the_stream_is_read_no_further() -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * CHUNK

    def fails(_: Iterator[bytes]) -> None:
        raise RepositoryUnavailable("refused")

    failures = tee(endless(), {"one": fails, "two": fails})

    assert sorted(failures) == ["one", "two"]
    assert read < 20


def test_an_error_of_the_stream_reaches_every_consumer_and_the_caller() -> None:
    seen: list[str] = []

    def breaks() -> Iterator[bytes]:
        yield b"some"
        raise SealBroken("the dump failed")

    def consume(chunks: Iterator[bytes]) -> None:
        try:
            list(chunks)
        except SealBroken as error:
            seen.append(error.message)
            raise

    with pytest.raises(SealBroken, match="the dump failed"):
        tee(breaks(), {"one": consume, "two": consume})

    assert seen == ["the dump failed", "the dump failed"]


def test_a_consumer_that_has_enough_may_stop_early() -> None:
    heads: list[bytes] = []

    failures = tee((b"x" * CHUNK for _ in range(30)), {"head": lambda chunks: heads.append(next(chunks))})

    assert failures == {}
    assert len(heads) == 1
