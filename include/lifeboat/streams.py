"""Streams of bytes: counted, digested and compressed as they pass, never held.

Everything that moves data takes and gives iterators of `bytes`. Chunks are about `CHUNK` long; nothing depends on it.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from backports import zstd

from lifeboat.errors import SealBroken

CHUNK = 1024 * 1024
"""The usual length of a chunk: 1 MiB."""

COMPRESSION_LEVEL = 1
"""zstd's fastest regular level: on dumps it compresses within 3 % of level 3 at half the processor time."""


class ArtifactSink(Protocol):
    """Takes the streams a source gives, one call an artifact; may be called from several threads at once."""

    def __call__(self, name: str, chunks: Iterable[bytes], *, media_type: str) -> None:
        """Drain `chunks` into the artifact `name`. What `chunks` raises passes through, and no artifact remains."""


class Meter:
    """Counts and digests (SHA-256) the bytes that pass through it; `on_bytes` hears the count so far."""

    def __init__(self, chunks: Iterable[bytes], on_bytes: Callable[[int], None] | None = None) -> None:
        self._chunks = chunks
        self._on_bytes = on_bytes
        self._digest = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._digest.update(chunk)
            self.size += len(chunk)
            if self._on_bytes is not None:
                self._on_bytes(self.size)
            yield chunk

    @property
    def sha256(self) -> str:
        """The digest of what has passed so far, in hexadecimal."""
        return self._digest.hexdigest()


def compress(chunks: Iterable[bytes], *, level: int = COMPRESSION_LEVEL, threads: int | None = None) -> Iterator[bytes]:
    """Yield one zstd frame with a content checksum (RFC 8878); `threads` workers make it, one a core by default."""
    parameter = zstd.CompressionParameter
    compressor = zstd.ZstdCompressor(
        options={
            parameter.compression_level: level,
            parameter.nb_workers: os.cpu_count() or 1 if threads is None else threads,
            parameter.checksum_flag: 1,
        }
    )
    for chunk in chunks:
        if compressed := compressor.compress(chunk):
            yield compressed
    yield compressor.flush()


def decompress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what was compressed, in chunks of at most `CHUNK`. Raises `SealBroken` when it is damaged or cut short."""
    decompressor = zstd.ZstdDecompressor()
    try:
        for chunk in chunks:
            if decompressor.eof:
                raise SealBroken(
                    "Bytes follow the end of a compressed stream.", hint="The artifact was not written by Lifeboat."
                )
            data = chunk
            while True:
                plain = decompressor.decompress(data, max_length=CHUNK)
                if plain:
                    yield plain
                if decompressor.eof or decompressor.needs_input:
                    break
                data = b""
        if not decompressor.eof:
            raise SealBroken("A compressed stream ends too early.", hint="The artifact was not written whole.")
        if decompressor.unused_data:
            raise SealBroken(
                "Bytes follow the end of a compressed stream.", hint="The artifact was not written by Lifeboat."
            )
    except zstd.ZstdError as error:
        raise SealBroken(
            f"A compressed stream is damaged: {error}.", hint="Restore from another repository."
        ) from error


class _Broken:
    """Put on a queue instead of a chunk: the stream ends here with this error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Branch:
    """One consumer of a tee, in a thread of its own, fed through a queue of a few chunks."""

    def __init__(self, name: str, consume: Callable[[Iterator[bytes]], object]) -> None:
        self.name = name
        self.failure: Exception | None = None
        self._queue: queue.Queue[bytes | _Broken | None] = queue.Queue(maxsize=4)
        self._consume = consume
        self._thread = threading.Thread(target=self._run, name=f"tee-{name}", daemon=True)
        self._thread.start()

    def offer(self, item: bytes | _Broken | None) -> None:
        """Hand over an item, waiting for room; a consumer that has failed takes nothing more."""
        while self._thread.is_alive():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            self._consume(self._chunks())
        except Exception as error:  # noqa: BLE001 - kept, and judged by the caller of tee()
            self.failure = error

    def _chunks(self) -> Iterator[bytes]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, _Broken):
                raise item.error
            yield item


def tee(chunks: Iterable[bytes], consumers: Mapping[str, Callable[[Iterator[bytes]], object]]) -> dict[str, Exception]:
    """Feed one stream to all consumers at the same time; return the failures by name, empty when all went well.

    A consumer that fails is left behind and the others go on; once all have failed the stream is not read further.
    If `chunks` raises, every consumer sees that error where its next chunk would be, and it passes through.
    The slowest consumer sets the pace; at most a few chunks wait for each.
    """
    branches = [_Branch(name, consume) for name, consume in consumers.items()]
    try:
        for chunk in chunks:
            for branch in branches:
                branch.offer(chunk)
            if all(branch.failure is not None for branch in branches):
                break
    except BaseException as error:
        for branch in branches:
            branch.offer(_Broken(error))
        for branch in branches:
            branch.join()
        raise
    for branch in branches:
        branch.offer(None)
    for branch in branches:
        branch.join()
    return {branch.name: branch.failure for branch in branches if branch.failure is not None}


class Throttle:
    """Lets streams through at `bytes_per_second` in all, however many pass at the same time."""

    def __init__(
        self,
        bytes_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()
        self._lock = threading.Lock()

    def __call__(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the same chunks, each when its turn has come."""
        for chunk in chunks:
            with self._lock:
                now = self._clock()
                start = max(now, self._free_at)
                self._free_at = start + len(chunk) / self._rate
            if start > now:
                self._sleep(start - now)
            yield chunk
