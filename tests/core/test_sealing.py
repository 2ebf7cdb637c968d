"""Sealing: what was sealed comes back, and nothing else ever does."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifeboat import sealing
from lifeboat.errors import IntegrityError, SealBroken, UnknownFormat, WrongIdentity
from lifeboat.keys import CLASSIC, Identity
from lifeboat.sealing import TAG, seal, unseal, unseal_range

OPERATIONS = Identity.generate("operations")
ESCROW = Identity.generate("escrow")
SMALL = Identity.generate("small", CLASSIC)
OBJECT = "vault/orders/20261123T020000Z-00000000/dump"


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> int:
    """Segments of 48 bytes of plaintext, so that a few hundred bytes have many of them."""
    monkeypatch.setattr(sealing, "SEGMENT", 48 + TAG)
    monkeypatch.setattr(sealing, "PLAIN_SEGMENT", 48)
    return 48


def sealed(plain: bytes, *identities: Identity, object_id: str = OBJECT) -> bytes:
    return b"".join(seal([plain], object_id=object_id, recipients=[i.recipient for i in identities or (SMALL,)]))


def opened(data: bytes, *identities: Identity, object_id: str = OBJECT) -> bytes:
    return b"".join(unseal([data], object_id=object_id, identities=identities or (SMALL,)))


def give_out(data: bytes, given_out: bytearray) -> None:
    """Unseal into `given_out`, which keeps what was given out before a refusal."""
    for chunk in unseal([data], object_id=OBJECT, identities=[SMALL]):
        given_out += chunk


def header_length(data: bytes) -> int:
    position = 0

    def take(count: int) -> bytes:
        nonlocal position
        position += count
        return data[position - count : position]

    sealing.read_header(take)
    return position


@pytest.mark.parametrize("identity", [OPERATIONS, ESCROW], ids=["operations", "escrow"])
def test_every_recipient_alone_can_unseal(identity: Identity) -> None:
    data = sealed(b"rows", OPERATIONS, ESCROW)

    assert opened(data, identity) == b"rows"


@pytest.mark.parametrize(
    "size",
    [0, 1, 47, 48, 49, 96, 97, 1000],
    ids=lambda size: f"{size} bytes",
)
def test_any_length_comes_back_whole(short_segments: int, size: int) -> None:
    plain = bytes(range(256)) * 4

    assert opened(sealed(plain[:size])) == plain[:size]


@settings(deadline=None)
@given(chunks=st.lists(st.binary(max_size=400), max_size=8), cut=st.integers(1, 500))
def test_how_a_stream_is_cut_into_chunks_does_not_matter(chunks: list[bytes], cut: int) -> None:
    data = b"".join(seal(chunks, object_id=OBJECT, recipients=[SMALL.recipient]))
    pieces = [data[i : i + cut] for i in range(0, len(data), cut)]

    assert b"".join(unseal(pieces, object_id=OBJECT, identities=[SMALL])) == b"".join(chunks)


def test_real_segments_are_one_mebibyte_and_come_back_in_order() -> None:
    plain = b"".join(struct.pack(">I", n) for n in range(700_000))

    data = sealed(plain, OPERATIONS)

    assert len(data) - header_length(data) == len(plain) + 3 * TAG
    assert opened(data, OPERATIONS) == plain


def test_any_single_flipped_bit_is_refused_before_a_wrong_byte_is_given_out(short_segments: int) -> None:
    plain = bytes(range(100))
    data = sealed(plain)

    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            given_out = bytearray()
            with pytest.raises(IntegrityError):
                give_out(bytes(damaged), given_out)
            assert plain.startswith(bytes(given_out)), f"byte {position}, bit {bit}"


def test_a_flipped_bit_in_the_key_of_another_recipient_is_refused() -> None:
    data = bytearray(sealed(b"rows", OPERATIONS, ESCROW))
    data[header_length(bytes(data)) - 1] ^= 1

    with pytest.raises(SealBroken, match="altered"):
        opened(bytes(data), OPERATIONS)


def test_a_stream_cut_short_at_any_byte_is_refused(short_segments: int) -> None:
    plain = bytes(range(144))
    data = sealed(plain)

    for length in range(len(data)):
        given_out = bytearray()
        with pytest.raises(SealBroken):
            give_out(data[:length], given_out)
        assert plain.startswith(bytes(given_out)), f"cut to {length} bytes"


def test_appended_bytes_are_refused(short_segments: int) -> None:
    data = sealed(bytes(100))

    for extra in (b"\0", bytes(64), data[-64:]):
        with pytest.raises(SealBroken):
            opened(data + extra)


def segments_of(data: bytes) -> tuple[bytes, list[bytes]]:
    start = header_length(data)
    return data[:start], [data[i : i + sealing.SEGMENT] for i in range(start, len(data), sealing.SEGMENT)]


@pytest.mark.parametrize(
    "order",
    [[1, 0, 2], [0, 0, 1, 2], [0, 2], [0, 1, 1, 2], [2]],
    ids=["swapped", "first replayed", "one left out", "middle replayed", "only the last"],
)
def test_segments_in_another_order_are_refused(short_segments: int, order: list[int]) -> None:
    header, segments = segments_of(sealed(bytes(range(144))))
    assert len(segments) == 3

    with pytest.raises(SealBroken):
        opened(header + b"".join(segments[i] for i in order))


def test_a_segment_of_another_object_is_refused(short_segments: int) -> None:
    header, segments = segments_of(sealed(bytes(144)))
    _, strange = segments_of(sealed(bytes(144)))

    with pytest.raises(SealBroken):
        opened(header + segments[0] + strange[1] + segments[2])


def test_a_whole_object_under_another_name_is_refused() -> None:
    data = sealed(b"rows of one table", object_id=OBJECT)

    with pytest.raises(SealBroken, match="belongs to another object"):
        opened(data, object_id=OBJECT.replace("dump", "globals"))


def test_a_wrong_identity_is_told_apart_and_names_the_keys() -> None:
    data = sealed(b"rows", OPERATIONS, ESCROW)

    with pytest.raises(WrongIdentity) as refused:
        opened(data, SMALL)

    assert OPERATIONS.recipient.key_id.hex() in str(refused.value)
    assert "small" in str(refused.value)


def test_a_newer_format_is_refused_politely() -> None:
    data = bytearray(sealed(b"rows"))
    data[8] = 2

    with pytest.raises(UnknownFormat, match="format 2"):
        opened(bytes(data))


def test_something_else_entirely_is_refused() -> None:
    with pytest.raises(SealBroken, match="does not begin with LIFEBOAT"):
        opened(b"PGDMP" + bytes(2000))


@settings(deadline=None, max_examples=300)
@given(size=st.integers(1, 700), data=st.data())
def test_any_range_equals_that_part_of_the_whole(size: int, data: st.DataObject) -> None:
    plain = bytes(n % 251 for n in range(size))
    start = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - start))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "SEGMENT", 48 + TAG)
        patch.setattr(sealing, "PLAIN_SEGMENT", 48)
        whole = sealed(plain)
        part = unseal_range(
            lambda offset, count: [whole[offset : offset + count]],
            object_id=OBJECT,
            identities=[SMALL],
            sealed_size=len(whole),
            start=start,
            length=length,
        )
        assert b"".join(part) == plain[start : start + length]


def test_a_range_reads_only_the_header_and_the_segments_it_needs(short_segments: int) -> None:
    whole = sealed(bytes(range(48)) * 100)
    reads: list[tuple[int, int]] = []

    def read(offset: int, count: int) -> Iterator[bytes]:
        reads.append((offset, count))
        yield whole[offset : offset + count]

    list(unseal_range(read, object_id=OBJECT, identities=[SMALL], sealed_size=len(whole), start=960, length=50))

    assert reads[1] == (header_length(whole) + 20 * sealing.SEGMENT, 2 * sealing.SEGMENT)


def test_a_range_of_an_object_cut_short_is_refused(short_segments: int) -> None:
    whole = sealed(bytes(144))
    cut = whole[: -sealing.SEGMENT]

    with pytest.raises(SealBroken):
        list(
            unseal_range(
                lambda offset, count: [cut[offset : offset + count]],
                object_id=OBJECT,
                identities=[SMALL],
                sealed_size=len(cut),
                start=90,
                length=6,
            )
        )


def test_the_same_plaintext_never_seals_to_the_same_bytes() -> None:
    first, second = sealed(b"rows"), sealed(b"rows")

    assert first[-20:] != second[-20:]
