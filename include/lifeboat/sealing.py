"""Sealing: a stream encrypted for several recipients, in segments that cannot be cut, moved, swapped or forged.

The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015) over AES-256-GCM, with a fresh data key for every
object wrapped by HPKE (RFC 9180). `docs/format.md` gives every byte.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lifeboat.errors import SealBroken, UnknownFormat, WrongIdentity
from lifeboat.keys import Identity, Recipient
from lifeboat.rewrapped import RewrappedKeys, write_rewrapped

MAGIC = b"LIFEBOAT"
VERSION = 1
SUITE = 1
"""AES-256-GCM, HKDF-SHA256, 1 MiB segments."""

SEGMENT = 1024 * 1024
"""Length of a sealed segment, tag included; only the last may be shorter."""

TAG = 16
PLAIN_SEGMENT = SEGMENT - TAG
MAX_SEGMENTS = 2**32
MAX_RECIPIENTS = 64

_FIXED = struct.Struct(">8sBBH32s7s32s")  # magic, version, suite, recipients, salt, nonce prefix, commitment
_STANZA = struct.Struct(">16sH")  # key id, length of the wrapped key

HEADER_ROOM = _FIXED.size + MAX_RECIPIENTS * (_STANZA.size + 2048)
"""Bytes that hold any header."""


@dataclass(frozen=True)
class Header:
    """What stands before the first segment. `raw` are its bytes as read."""

    salt: bytes
    nonce_prefix: bytes
    commitment: bytes
    wrapped_keys: tuple[tuple[bytes, bytes], ...]
    raw: bytes

    @property
    def bound(self) -> bytes:
        """SHA-256 of the header without its commitment: what the commitment and the payload key are bound to."""
        start = _FIXED.size - 32
        return hashlib.sha256(self.raw[:start] + self.raw[_FIXED.size :]).digest()


def seal(chunks: Iterable[bytes], *, object_id: str, recipients: Sequence[Recipient]) -> Iterator[bytes]:
    """Yield the sealed form of a stream: a header, then segments. Repeating it gives different bytes.

    `object_id` says which object this is; unsealing under any other fails. At most 4 PiB.
    """
    data_key, salt, nonce_prefix = os.urandom(32), os.urandom(32), os.urandom(7)
    header = _make_header(data_key, salt, nonce_prefix, object_id, recipients)
    yield header.raw
    yield from _seal_segments(chunks, _payload_cipher(data_key, header, object_id), nonce_prefix, object_id)


def unseal(
    chunks: Iterable[bytes],
    *,
    object_id: str,
    identities: Sequence[Identity],
    rewrapped: Iterable[RewrappedKeys] = (),
) -> Iterator[bytes]:
    """Yield the plaintext of a sealed stream, each segment only after it has been authenticated.

    `rewrapped` are asked only when the header has no key for any of the identities. Raises `SealBroken` where the
    stream was altered, reordered, cut short or extended, `WrongIdentity` when none of the identities opens it, and
    `UnknownFormat` for a later format, before any byte of the segment concerned is given out.
    """
    reader = _Reader(chunks)
    header = read_header(reader.take)
    cipher = _payload_cipher(open_data_key(header, object_id, identities, rewrapped), header, object_id)
    yield from _unseal_segments(reader, cipher, header.nonce_prefix, object_id, first=0)


def unseal_range(
    read: Callable[[int, int], Iterable[bytes]],
    *,
    object_id: str,
    identities: Sequence[Identity],
    sealed_size: int,
    start: int,
    length: int,
    rewrapped: Iterable[RewrappedKeys] = (),
) -> Iterator[bytes]:
    """Yield `length` bytes of plaintext from `start`, reading only the segments that hold them.

    `read(offset, length)` gives the object's sealed bytes. `sealed_size` comes from the signed manifest; it tells which
    segment is the last. A range that reaches beyond the end raises `ValueError`.
    """
    header = read_header(_Reader(read(0, min(sealed_size, HEADER_ROOM))).take)
    data_key = open_data_key(header, object_id, identities, rewrapped)
    yield from OpenedSeal(header, data_key, object_id, sealed_size).read(read, start, length)


class OpenedSeal:
    """A sealed object whose data key is known: any part of it can be read, many times over."""

    def __init__(self, header: Header, data_key: bytes, object_id: str, sealed_size: int) -> None:
        self._header = header
        self._object_id = object_id
        self._cipher = _payload_cipher(data_key, header, object_id)
        self._sealed_size = sealed_size
        self._segments = max(1, -(-(sealed_size - len(header.raw)) // SEGMENT))
        self.plain_size = sealed_size - len(header.raw) - self._segments * TAG

    def read(self, read: Callable[[int, int], Iterable[bytes]], start: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes of plaintext from `start`, as `unseal_range` does."""
        if start < 0 or length < 0 or start + length > self.plain_size:
            raise ValueError(f"bytes {start} to {start + length} of an object of {self.plain_size} bytes")
        if length == 0:
            return
        first, last = start // PLAIN_SEGMENT, (start + length - 1) // PLAIN_SEGMENT
        offset = len(self._header.raw) + first * SEGMENT
        reader = _Reader(read(offset, min((last + 1 - first) * SEGMENT, self._sealed_size - offset)))
        prefix, skip, left = self._header.nonce_prefix, start - first * PLAIN_SEGMENT, length
        for index in range(first, last + 1):
            segment = reader.take_up_to(SEGMENT)
            final = index == self._segments - 1
            plain = _open_segment(self._cipher, prefix, index, final, segment, self._object_id)
            piece = plain[skip : skip + left]
            skip, left = 0, left - len(piece)
            yield piece


def read_header(take: Callable[[int], bytes]) -> Header:
    """Parse a header, reading just its bytes through `take(n)`. Raises `SealBroken` or `UnknownFormat`."""
    raw = take(_FIXED.size)
    magic, version, suite, count, salt, nonce_prefix, commitment = _FIXED.unpack(raw)
    if magic != MAGIC:
        raise SealBroken(
            "This is not a sealed object: it does not begin with LIFEBOAT.", hint="It was damaged or replaced."
        )
    if version != VERSION or suite != SUITE:
        raise UnknownFormat(
            f"This object is sealed in format {version}, suite {suite}; "
            f"this Lifeboat reads format {VERSION}, suite {SUITE}.",
            hint="Use the Lifeboat that wrote it, or a newer one.",
        )
    if not 1 <= count <= MAX_RECIPIENTS:
        raise SealBroken(
            f"The header names {count} recipients.", hint="It was damaged; restore from another repository."
        )
    wrapped_keys = []
    for _ in range(count):
        stanza = take(_STANZA.size)
        key_id, length = _STANZA.unpack(stanza)
        wrapped = take(length)
        wrapped_keys.append((key_id, wrapped))
        raw += stanza + wrapped
    return Header(salt, nonce_prefix, commitment, tuple(wrapped_keys), raw)


def header_of(sealed: bytes) -> Header:
    """The header that the beginning of a sealed object holds. Raises `SealBroken` or `UnknownFormat`."""
    return read_header(_Reader([sealed]).take)


def open_data_key(
    header: Header, object_id: str, identities: Sequence[Identity], rewrapped: Iterable[RewrappedKeys] = ()
) -> bytes:
    """The data key of an object: out of its header, else out of rewrapped keys, of which useless ones are passed over.

    Raises `WrongIdentity`, or `SealBroken` when the header was altered.
    """
    by_id = {identity.recipient.key_id: identity for identity in identities}
    for key_id, wrapped in header.wrapped_keys:
        if key_id not in by_id:
            continue
        data_key = _unwrapped(by_id[key_id], wrapped, header, object_id)
        if data_key is None:
            raise SealBroken(
                f"The header of {object_id} was altered, or belongs to another object.",
                hint="Restore from another repository.",
            )
        return data_key
    useless = []
    for keys in rewrapped:
        for key_id, wrapped in keys.wrapped_keys:
            data_key = _unwrapped(by_id[key_id], wrapped, header, object_id) if key_id in by_id else None
            if data_key is not None:
                return data_key
            if key_id in by_id:
                useless.append(keys.place)
    raise _wrong_identity(header, object_id, identities, useless)


def rewrap_data_key(data_key: bytes, object_id: str, recipients: Sequence[Recipient]) -> bytes:
    """An object's data key wrapped for more recipients, as it is stored beside the object."""
    return write_rewrapped([(r.key_id, r.wrap(data_key, info=_wrap_info(object_id))) for r in recipients])


def _unwrapped(identity: Identity, wrapped: bytes, header: Header, object_id: str) -> bytes | None:
    """The data key an identity unwraps; None unless it is the one the header is committed to."""
    data_key = identity.unwrap(wrapped, info=_wrap_info(object_id))
    return data_key if data_key is not None and _is_committed(data_key, header) else None


def _is_committed(data_key: bytes, header: Header) -> bool:
    return hmac.compare_digest(_commitment(data_key, header.salt, header.bound), header.commitment)


def _wrong_identity(
    header: Header, object_id: str, identities: Sequence[Identity], useless: Sequence[str]
) -> WrongIdentity:
    at_hand = ", ".join(f"{identity.name} ({identity.recipient.key_id.hex()})" for identity in identities) or "none"
    sealed_for = ", ".join(key_id.hex() for key_id, _ in header.wrapped_keys)
    damaged = f" Rewrapped keys that open nothing, damaged or forged: {', '.join(useless)}." if useless else ""
    return WrongIdentity(
        f"No identity at hand opens {object_id}. It is sealed for the keys {sealed_for}; at hand: {at_hand}.{damaged}",
        hint="Fetch the identity of one of those keys, for example the escrow one.",
    )


def _make_header(
    data_key: bytes, salt: bytes, nonce_prefix: bytes, object_id: str, recipients: Sequence[Recipient]
) -> Header:
    if not 1 <= len(recipients) <= MAX_RECIPIENTS:
        raise ValueError(f"{len(recipients)} recipients; 1 to {MAX_RECIPIENTS} are possible")
    wrapped_keys = tuple((r.key_id, r.wrap(data_key, info=_wrap_info(object_id))) for r in recipients)
    stanzas = b"".join(_STANZA.pack(key_id, len(wrapped)) + wrapped for key_id, wrapped in wrapped_keys)

    def raw(commitment: bytes) -> bytes:
        fixed = _FIXED.pack(MAGIC, VERSION, SUITE, len(wrapped_keys), salt, nonce_prefix, commitment)
        return fixed + stanzas

    uncommitted = Header(salt, nonce_prefix, bytes(32), wrapped_keys, raw(bytes(32)))
    commitment = _commitment(data_key, salt, uncommitted.bound)
    return Header(salt, nonce_prefix, commitment, wrapped_keys, raw(commitment))


def _seal_segments(chunks: Iterable[bytes], cipher: AESGCM, nonce_prefix: bytes, object_id: str) -> Iterator[bytes]:
    aad = object_id.encode()
    waiting = bytearray()
    index = 0
    for chunk in chunks:
        waiting += chunk
        # A full segment is kept back until another byte follows: it may turn out to be the last one.
        while len(waiting) > PLAIN_SEGMENT:
            with memoryview(waiting) as view:
                segment = cipher.encrypt(_nonce(nonce_prefix, index, last=False), view[:PLAIN_SEGMENT], aad)
            yield segment
            del waiting[:PLAIN_SEGMENT]
            index += 1
    yield cipher.encrypt(_nonce(nonce_prefix, index, last=True), waiting, aad)


def _unseal_segments(
    reader: _Reader, cipher: AESGCM, nonce_prefix: bytes, object_id: str, *, first: int
) -> Iterator[bytes]:
    index = first
    while True:
        segment = reader.take_up_to(SEGMENT)
        last = reader.at_end()
        yield _open_segment(cipher, nonce_prefix, index, last, segment, object_id)
        if last:
            return
        index += 1


def _open_segment(cipher: AESGCM, nonce_prefix: bytes, index: int, last: bool, segment: bytes, object_id: str) -> bytes:
    try:
        if len(segment) >= TAG:
            return cipher.decrypt(_nonce(nonce_prefix, index, last=last), segment, object_id.encode())
    except InvalidTag:
        pass
    # A stream cannot end without its final segment; one that was cut short fails here, like one that was altered.
    place = f"segment {index}" + (", where it ends" if last else "")
    raise SealBroken(
        f"{object_id} is not what was sealed: {place} was altered, moved, cut short or extended.",
        hint="Restore from another repository; `lifeboat verify` shows which are whole.",
    )


def _nonce(prefix: bytes, index: int, *, last: bool) -> bytes:
    if index >= MAX_SEGMENTS:
        raise ValueError("a sealed object holds at most 4 PiB")
    return prefix + struct.pack(">IB", index, last)


def _wrap_info(object_id: str) -> bytes:
    return b"lifeboat/1 data key\0" + object_id.encode()


def _commitment(data_key: bytes, salt: bytes, bound: bytes) -> bytes:
    return _hkdf(data_key, salt, b"lifeboat/1 commitment\0" + bound)


def _payload_cipher(data_key: bytes, header: Header, object_id: str) -> AESGCM:
    return AESGCM(_hkdf(data_key, header.salt, b"lifeboat/1 payload\0" + header.bound + object_id.encode()))


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(key)


class _Reader:
    """Takes exact counts of bytes out of a stream of chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises `SealBroken` when the stream ends before."""
        data = self.take_up_to(count)
        if len(data) < count:
            raise SealBroken(
                "A sealed object ends inside its header.", hint="It was cut short; restore from another repository."
            )
        return data

    def take_up_to(self, count: int) -> bytes:
        """`count` bytes, or fewer at the end of the stream."""
        self._fill(count)
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def at_end(self) -> bool:
        """Whether nothing follows."""
        self._fill(1)
        return not self._buffer

    def _fill(self, count: int) -> None:
        while len(self._buffer) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                return
            self._buffer += chunk
