"""Two readers, written apart, agree on every stream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifeboat import sealing
from lifeboat.keys import CLASSIC, HYBRID, Identity
from lifeboat.streams import compress, decompress
from tests.break_glass.alone import GOLDEN, load
from tests.golden.make import pattern

restore = load()

IDENTITIES = [Identity.generate("one", HYBRID), Identity.generate("two", CLASSIC), Identity.generate("three", HYBRID)]
EDGE = sealing.PLAIN_SEGMENT
OBJECT = "vault/orders/20261123T020000Z-00000000/dump"


def at_hand(*identities: Identity) -> dict[bytes, object]:
    return {i.recipient.key_id: restore.Identity(i.name, i.algorithm, i.raw) for i in identities}


def plain_of(sealed: bytes, identities: dict[bytes, object], object_id: str = OBJECT, piece: int = 700_001) -> bytes:
    chunks = (sealed[start : start + piece] for start in range(0, len(sealed), piece))
    return b"".join(restore.unseal_stream(chunks, object_id, identities))


# About the ends of segments, where readers err.
sizes = st.builds(
    lambda segments, more: max(0, segments * EDGE + more),
    st.sampled_from([0, 1, 2]),
    st.sampled_from([-1, 0, 1]) | st.integers(2, 90_000),
)
places = st.integers(0, 2**32)


@settings(max_examples=60, deadline=None)
@given(
    size=sizes,
    chunk=st.sampled_from([1000, EDGE - 1, EDGE, EDGE + 1, 3 * EDGE]),
    piece=st.integers(50_000, 9 << 20),
    opener=st.integers(0, 2),
    data=st.data(),
)
def test_what_the_core_seals_the_other_unseals(
    size: int, chunk: int, piece: int, opener: int, data: st.DataObject
) -> None:
    object_id = data.draw(st.from_regex(r"[0-9a-f]{32}/[a-z0-9_-]{1,9}/[0-9TZ-]{5}/[a-z]{1,9}", fullmatch=True))
    plain = pattern_of(size)
    chunks = (plain[start : start + chunk] for start in range(0, size, chunk))
    sealed = b"".join(sealing.seal(chunks, object_id=object_id, recipients=[i.recipient for i in IDENTITIES]))

    assert plain_of(sealed, at_hand(IDENTITIES[opener]), object_id, piece) == plain


@settings(max_examples=60, deadline=None)
@given(size=sizes, where=places, bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_refused(size: int, where: int, bit: int) -> None:
    sealed = bytearray(
        b"".join(sealing.seal([pattern_of(size)], object_id=OBJECT, recipients=[IDENTITIES[1].recipient]))
    )
    sealed[where % len(sealed)] ^= 1 << bit

    with pytest.raises(restore.Refused):
        plain_of(bytes(sealed), at_hand(IDENTITIES[1]))


@settings(max_examples=60, deadline=None)
@given(size=sizes, where=places)
def test_a_stream_cut_anywhere_is_refused(size: int, where: int) -> None:
    sealed = b"".join(sealing.seal([pattern_of(size)], object_id=OBJECT, recipients=[IDENTITIES[1].recipient]))

    with pytest.raises(restore.Refused):
        plain_of(sealed[: where % len(sealed)], at_hand(IDENTITIES[1]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=5000), max_size=20))
def test_what_the_core_compresses_both_decompress(chunks: list[bytes]) -> None:
    compressed = list(compress(chunks))

    assert b"".join(restore.decompress(compressed)) == b"".join(decompress(compressed)) == b"".join(chunks)


@pytest.mark.parametrize("changed", [lambda frame: frame[:-1], lambda frame: frame + b"\0", lambda frame: frame * 2])
def test_a_frame_that_is_cut_short_or_followed_is_refused(changed: Callable[[bytes], bytes]) -> None:
    frame = b"".join(compress([b"rows\n" * 1000]))

    with pytest.raises(restore.Refused):
        list(restore.decompress([changed(frame)]))
    with pytest.raises(restore.Refused):
        list(restore.decompress([frame, b"x"]))


@pytest.mark.parametrize("version", sorted(path.name for path in GOLDEN.glob("v*")))
def test_segments_of_every_released_format_open(version: str) -> None:
    vector = json.loads((GOLDEN / version / "segments.json").read_text())
    plain = pattern(vector["plain_size"])
    header = bytes.fromhex(vector["header"])
    read = sealing.read_header(sealing._Reader([header]).take)
    cipher = sealing._payload_cipher(bytes.fromhex(vector["data_key"]), read, vector["object_id"])
    segments = list(sealing._seal_segments([plain], cipher, read.nonce_prefix, vector["object_id"]))
    assert [hashlib.sha256(segment).hexdigest() for segment in segments] == vector["segments_sha256"]
    folder = str(GOLDEN / version / "keys")

    opened = plain_of(b"".join([header, *segments]), restore.read_keys(folder).identities, vector["object_id"])

    assert opened == plain


def pattern_of(size: int) -> bytes:
    return (BLOCK * (size // len(BLOCK) + 1))[:size]


BLOCK = pattern(100_003)
