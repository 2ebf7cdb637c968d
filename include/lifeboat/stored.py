"""Reading what is stored: from the first repository that gives it, several ranges at a time, held to its digest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from lifeboat.errors import ArtifactMismatch, LifeboatError, RepositoryError, RepositoryUnavailable
from lifeboat.repositories.contract import Repository
from lifeboat.streams import Meter

READ_AHEAD = 4
"""Ranges of one object that are fetched at the same time."""

RANGE = 8 * 1024 * 1024
"""Bytes of one such range; a stream being read holds at most `READ_AHEAD` of them in memory."""

Heard = Callable[[str, RepositoryError | None], None]
"""Hears of each range of an artifact which repository gave it, or why one did not; called from any thread."""


def read_stored(
    repositories: Sequence[Repository], key: str, size: int, sha256: str, heard: Heard | None = None
) -> Iterator[bytes]:
    """Yield an object as it is stored; raises `ArtifactMismatch` at the end when it is not what was stored."""
    meter = Meter(read_ahead(repositories, key, size, heard))
    yield from meter
    if (meter.size, meter.sha256) != (size, sha256):
        raise ArtifactMismatch(
            f"{key} has {meter.size} bytes with SHA-256 {meter.sha256}; its manifest says {size} and {sha256}.",
            hint="Use another repository, then `lifeboat verify` to see which are whole.",
        )


def read_ahead(repositories: Sequence[Repository], key: str, size: int, heard: Heard | None = None) -> Iterator[bytes]:
    """Yield an object in order, several ranges fetched at a time, each from the first store that gives it.

    One byte more than `size` is asked for, so that an object that has grown does not pass for whole.
    """
    if size < RANGE:  # most artifacts and packs: threads would take longer to start than to read
        yield from read_range(repositories, key, 0, size + 1, heard)
        return
    starts = deque(range(0, size + 1, RANGE))
    waiting: deque[Future[list[bytes]]] = deque()
    pool = ThreadPoolExecutor(max_workers=READ_AHEAD, thread_name_prefix="read")
    try:
        while starts or waiting:
            while starts and len(waiting) < READ_AHEAD:
                start = starts.popleft()
                waiting.append(pool.submit(read_range, repositories, key, start, min(RANGE, size + 1 - start), heard))
            yield from waiting.popleft().result()
    finally:
        # Not waited for: a stream that was given up may be collected while another thread is just being started, whose
        # lock that would want, and then all stands still.
        pool.shutdown(wait=False, cancel_futures=True)


def read_range(
    repositories: Sequence[Repository], key: str, start: int, length: int, heard: Heard | None = None
) -> list[bytes]:
    failures: dict[str, LifeboatError] = {}
    for repository in repositories:
        try:
            chunks = list(repository.get(key, start=start, length=length))
        except RepositoryError as error:
            failures[repository.name] = error
            if heard is not None:
                heard(repository.name, error)
        else:
            if heard is not None:
                heard(repository.name, None)
            return chunks
    if len(failures) == 1:
        raise next(iter(failures.values()))
    raise all_failed(f"{key} cannot be read from any repository", failures)


def all_failed(what: str, failures: Mapping[str, LifeboatError]) -> RepositoryError:
    """One error for several; it is worth a retry when any of them is."""
    kind = RepositoryUnavailable if any(error.transient for error in failures.values()) else RepositoryError
    reasons = " ".join(f"{name}: {error.message}" for name, error in failures.items())
    hints = dict.fromkeys(error.hint for error in failures.values() if error.hint)
    return kind(f"{what}. {reasons}", hint=" ".join(hints))


def drain(chunks: Iterable[bytes]) -> None:
    """Read a stream to its end."""
    for _ in chunks:
        pass
