"""Packing: blocks of file contents gathered into packs, several packs at a time, each sealed and stored as it grows."""

from __future__ import annotations

import itertools
import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from backports import zstd

from lifeboat.files.entries import Piece
from lifeboat.files.state import Row, State, StoredPack
from lifeboat.manifest import Pack
from lifeboat.streams import COMPRESSION_LEVEL
from lifeboat.vault import SnapshotWriter

BLOCK = 1024 * 1024
"""Bytes of contents in a block, at most."""

PACK = 32 * 1024 * 1024
"""Stored bytes after which a pack takes no more blocks."""

PACK_ROWS = 8192
"""Files after which it takes no more, so that few of them wait in memory for their pack to be sealed."""

GAIN = 0.95
"""A block is stored as it is unless compressing makes it smaller than this."""

Packed = Callable[[int, int], tuple[Sequence[Row], Sequence[Piece]]]
"""What to write down once blocks have their place: asked with the pack's number and the first block's."""


class GivenUp(Exception):
    """Something else has failed, and this is not gone on with."""


class Block(NamedTuple):
    """A block as it is stored, and how long it was before compression; stored plain where both are the same."""

    data: bytes
    plain: int


def make_block(plain: bytes) -> Block:
    """A block of these contents."""
    data = zstd.compress(plain, COMPRESSION_LEVEL)
    return Block(data if len(data) < GAIN * len(plain) else plain, len(plain))


class Packer:
    """Takes blocks from several threads and stores them in packs; `at_once` are open at the same time.

    A pack is written down, with what is in it, before it can be seen in any repository: a pack that exists is known.
    """

    def __init__(self, writer: SnapshotWriter, state: State, *, at_once: int) -> None:
        self.stored_packs = 0
        self.stored_bytes = 0
        self._writer = writer
        self._state = state
        self._numbers = itertools.count(state.last_number() + 1)
        self._at_once = at_once
        self._idle: list[_OpenPack] = []
        self._running = 0
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def add(self, blocks: Sequence[Block], packed: Packed) -> None:
        """Put blocks one after the other into a pack. Raises what storing an earlier one has raised."""
        pack = self._take()
        try:
            first = len(pack.blocks)
            rows, contents = packed(pack.number, first)
            pack.rows += rows
            pack.contents += contents
            for block in blocks:
                pack.blocks.append((len(block.data), block.plain))
                self._offer(pack, block.data)
        except BaseException:
            self._fail(pack)
            raise
        full = pack.size >= PACK or len(pack.rows) >= PACK_ROWS
        if full:
            self._offer(pack, None)
        else:
            with self._changed:
                self._idle.append(pack)
                self._changed.notify_all()

    def add_alone(self, chunks: Iterable[bytes], pieces: Callable[[int], Sequence[Piece]]) -> None:
        """Store chunks of at most a block each as a pack of their own, in this thread.

        `pieces` are asked, with the pack's number, once all chunks have been taken.
        """
        with self._changed:
            number = next(self._numbers)
        pack = _OpenPack(number, secrets.token_hex(16))
        trial = Trial()

        def blocks() -> Iterator[bytes]:
            for chunk in chunks:
                block = trial.block(chunk)
                pack.blocks.append((len(block.data), block.plain))
                yield block.data
            pack.contents += pieces(number)

        self._store(pack, blocks())

    def finish(self) -> None:
        """Close the packs that are open, and wait until all are stored. Raises what storing any of them has raised."""
        with self._changed:
            idle, self._idle = self._idle, []
        for pack in idle:
            self._offer(pack, None)
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        if self._failure:
            raise self._failure

    def abandon(self) -> None:
        """Give up what is not stored yet, and wait until nothing runs any more."""
        with self._changed:
            self._failure = self._failure or GivenUp()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running)

    def _take(self) -> _OpenPack:
        """An open pack that no other thread is adding to, waiting for one if as many as there may be are in use."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._running < self._at_once or self._failure)
            if self._failure:
                raise self._failure
            if self._idle:
                return self._idle.pop()
            pack = _OpenPack(next(self._numbers), secrets.token_hex(16))
            self._running += 1
        threading.Thread(target=self._run, args=(pack,), name=f"pack-{pack.number}", daemon=True).start()
        return pack

    def _offer(self, pack: _OpenPack, data: bytes | None) -> None:
        while True:
            if self._failure:
                raise self._failure
            try:
                pack.waiting.put(data, timeout=0.2)
            except queue.Full:
                continue
            return

    def _fail(self, pack: _OpenPack) -> None:
        pack.failed = True

    def _run(self, pack: _OpenPack) -> None:
        try:
            self._store(pack, self._taken(pack))
        except BaseException as error:  # noqa: BLE001 - raised in the threads that add, and at the end
            with self._changed:
                self._failure = self._failure or error
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _taken(self, pack: _OpenPack) -> Iterator[bytes]:
        while True:
            try:
                data = pack.waiting.get(timeout=0.2)
            except queue.Empty:
                if self._failure or pack.failed:
                    raise self._failure or GivenUp() from None
                continue
            if data is None:
                return
            yield data

    def _store(self, pack: _OpenPack, chunks: Iterator[bytes]) -> None:
        def sealed_as(size: int, sha256: str) -> None:
            stored = StoredPack(pack.number, Pack(pack.id, pack.plain_size, size, sha256), tuple(pack.blocks))
            self._state.record(pack.rows, pack.contents, [stored])

        self._writer.put_pack(pack.id, chunks, sealed_as)
        with self._changed:
            self.stored_packs += 1
            self.stored_bytes += pack.size


class Trial:
    """Makes blocks of one long file; where compressing did not help, it is tried again only now and then."""

    def __init__(self) -> None:
        self._skip = 0

    def block(self, plain: bytes) -> Block:
        """A block of these contents."""
        if self._skip:
            self._skip -= 1
            return Block(plain, len(plain))
        block = make_block(plain)
        self._skip = 7 if len(block.data) == block.plain else 0
        return block


class _OpenPack:
    """A pack being filled; `waiting` are blocks that are not sealed yet."""

    def __init__(self, number: int, pack_id: str) -> None:
        self.number = number
        self.id = pack_id
        self.rows: list[Row] = []
        self.contents: list[Piece] = []
        self.blocks: list[tuple[int, int]] = []
        self.waiting: queue.Queue[bytes | None] = queue.Queue(maxsize=8)
        self.failed = False

    @property
    def size(self) -> int:
        return sum(stored for stored, _ in self.blocks)

    @property
    def plain_size(self) -> int:
        return sum(plain for _, plain in self.blocks)
