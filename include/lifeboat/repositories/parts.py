"""A stream of unknown length, cut into parts that grow, and work on parts several at a time in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import IO, TypeVar

from lifeboat.errors import RepositoryError

MIB = 1024 * 1024

FIRST_PART = 8 * MIB
"""Several streams to several stores at once must stay within 300 MB together: five parts of each are held at a time."""

LARGEST_PART = 4000 * MIB
"""Azure's largest block; S3 takes 5 GiB (Azure "Scalability targets"; S3 "Multipart upload limits")."""

AT_ONCE = 4
"""Parts of one stream that are sent at the same time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def part_sizes() -> Iterator[int]:
    """The sizes of a stream's parts: 10,000, as many as S3 takes, hold over 10 TiB."""
    yield from repeat(FIRST_PART, 1000)
    size = FIRST_PART
    while True:
        size = min(2 * size, LARGEST_PART)
        yield from repeat(size, 900)


@dataclass(frozen=True)
class Part:
    """A piece of a stream. A large body is an unnamed temporary file, closed by whoever has used the part."""

    number: int
    size: int
    body: bytes | IO[bytes]
    last: bool

    def close(self) -> None:
        if not isinstance(self.body, bytes):
            self.body.close()


def cut(chunks: Iterable[bytes], sizes: Iterator[int] | None = None) -> Iterator[Part]:
    """Yield the parts of a stream, numbered from 1; there is at least one, and only the last may be short or empty."""
    sizes = part_sizes() if sizes is None else sizes
    buffer = _Buffer(1, next(sizes))
    try:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                # Yielded only once more has arrived, so that the last part is known to be the last.
                if buffer.room == 0:
                    yield buffer.part(last=False)
                    buffer = _Buffer(buffer.number + 1, next(sizes))
                rest = rest[buffer.take(rest) :]
        yield buffer.part(last=True)
    except BaseException:
        buffer.close()
        raise


def in_parallel(items: Iterable[Item], act: Callable[[Item], Result]) -> list[Result]:
    """What `act` returns for each item, in order; `AT_ONCE` run at a time, and one more item waits.

    After a failure no more items are taken, and nothing is running any more when it is raised.
    """
    futures: list[Future[Result]] = []
    running: set[Future[Result]] = set()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="part") as pool:
        try:
            for item in items:
                futures.append(pool.submit(act, item))
                running.add(futures[-1])
                while len(running) > AT_ONCE:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        future.result()
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Buffer:
    """A part being filled: in memory, or in an unnamed temporary file when it is large."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.room = size
        self._filled = 0
        self._pieces: list[memoryview] = []
        self._file: IO[bytes] | None = None
        if size > FIRST_PART:
            with _temporary_folder(size):
                self._file = tempfile.TemporaryFile(prefix="lifeboat-")  # noqa: SIM115 - closed with the part

    def take(self, data: memoryview) -> int:
        """Take as much as there is room for, and say how much."""
        taken = data[: self.room]
        if self._file is None:
            self._pieces.append(taken)
        else:
            with _temporary_folder(self.room):
                self._file.write(taken)
        self.room -= len(taken)
        self._filled += len(taken)
        return len(taken)

    def part(self, *, last: bool) -> Part:
        if self._file is None:
            body: bytes | IO[bytes] = b"".join(self._pieces)
            self._pieces.clear()
        else:
            with _temporary_folder(self._filled):
                self._file.seek(0)
            body = self._file
        return Part(self.number, self._filled, body, last)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def _temporary_folder(size: int) -> Iterator[None]:
    """Turns a full temporary folder into an error that says which one."""
    try:
        yield
    except OSError as error:
        raise RepositoryError(
            f"A part of {size // MIB} MiB cannot be kept in {tempfile.gettempdir()}: {error.strerror}.",
            hint="Large uploads need a few parts' room there. Name a larger folder in TMPDIR.",
        ) from error
