"""Reading files as they are: one that changes meanwhile is read again, and taken as changing in the end."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifeboat.files.attributes import attributes_of
from lifeboat.files.entries import Extent
from lifeboat.files.scan import Found

LARGE = 8 * 1024 * 1024
"""Bytes from which a file has packs of its own, and is not read at one go."""

ATTEMPTS = 3
"""How often a file is read that changes while it is read."""

RACY = 50_000_000
"""Nanoseconds before a look within which a change need not show in a file's times, which tick like a clock."""

CHUNK = 1024 * 1024

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # so that a pipe put there does not hold us up


@dataclass(slots=True)
class Read:
    """A file as it was read: what a look said of it at that moment, and its contents.

    `trusted` is false when a later change might not show in its times. `changed`: it was never the same from beginning
    to end. `fault` says why there are no contents, `lacking` what else of it could not be had.
    """

    info: os.stat_result
    data: bytes = b""
    xattrs: Mapping[bytes, bytes] | None = None
    lacking: str = ""
    trusted: bool = True
    changed: bool = False
    fault: str = ""


def read_file(found: Found) -> Read | None:
    """A whole file; None when it has vanished."""
    info = found.info
    data = b""
    for _ in range(ATTEMPTS):
        began = time.time_ns()
        try:
            file = os.open(found.name, _FLAGS, dir_fd=found.folder.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Read(info, fault=_reason(error), trusted=False)
        try:
            data = _read(file, info.st_size + 1)
            after = os.fstat(file)
            if not stat.S_ISREG(after.st_mode):
                return Read(info, fault="it was replaced while it was read", trusted=False)
            if same(info, after) and len(data) == info.st_size:
                has = attributes_of(file, after.st_dev)
                trusted = after.st_ctime_ns < began - RACY and not has.lacking
                return Read(after, data, has.values, has.lacking, trusted)
        except OSError as error:
            return Read(info, fault=_reason(error), trusted=False)
        finally:
            os.close(file)
        data = data[: info.st_size]
        if after.st_size >= LARGE:  # it has grown too large to be read at one go
            break
        info = after
    return Read(resized(info, len(data)), data, changed=True, trusted=False)


def same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two looks saw the same file, unchanged."""
    return (
        one.st_mtime_ns == other.st_mtime_ns
        and one.st_ctime_ns == other.st_ctime_ns
        and one.st_size == other.st_size
        and one.st_ino == other.st_ino
        and one.st_dev == other.st_dev
    )


def resized(info: os.stat_result, size: int) -> os.stat_result:
    """The same look, with another size: that of what was read."""
    if size == info.st_size:
        return info
    reduced: Any = info.__reduce__()
    values, extra = reduced[1]
    return os.stat_result((*values[:6], size, *values[7:]), extra)


def extents_of(file: int, info: os.stat_result) -> tuple[Extent, ...] | None:
    """Where a file has bytes, when it has holes and the file system says where; None otherwise.

    Of more than `MOST_EXTENTS`, those with the smallest holes between them are taken together.
    """
    if info.st_blocks * 512 >= info.st_size:
        return None
    extents: list[Extent] = []
    position = 0
    try:
        while position < info.st_size:
            start = os.lseek(file, position, os.SEEK_DATA)
            position = min(os.lseek(file, start, os.SEEK_HOLE), info.st_size)
            if start < position:
                extents.append(Extent(start, position - start))
    except OSError as error:
        if error.errno != errno.ENXIO:  # no more data
            return None
    if sum(extent.length for extent in extents) == info.st_size:
        return None
    return tuple(extents if len(extents) <= MOST_EXTENTS else _fewer(extents))


MOST_EXTENTS = 10_000


def _fewer(extents: Sequence[Extent]) -> Sequence[Extent]:
    """The same bytes in `MOST_EXTENTS`: the largest holes are kept, and the others read as the zeros they are."""
    ends = [extent.offset + extent.length for extent in extents]
    holes = sorted(range(1, len(extents)), key=lambda at: ends[at - 1] - extents[at].offset)  # the largest first
    firsts = [0, *sorted(holes[: MOST_EXTENTS - 1])]
    lasts = [*(first - 1 for first in firsts[1:]), len(extents) - 1]
    return [
        Extent(extents[first].offset, ends[last] - extents[first].offset)
        for first, last in zip(firsts, lasts, strict=True)
    ]


READABLE, THIN = 64 * 1024**3, 1024
"""A file is read that has this many bytes, or not this many times as many as it takes on its disk."""


def too_thin(info: os.stat_result, length: int) -> str:
    """Why a sparse file of so many bytes with the holes that must be read is not read: it would never end."""
    if length <= READABLE + THIN * info.st_blocks * 512:
        return ""
    return f"{length} bytes would have to be read of it, nearly all of them in holes"


def read_extents(file: int, extents: Sequence[Extent], start: int, length: int) -> Iterator[bytes]:
    """Yield `length` bytes from `start` of what the extents hold together; fewer when the file ends early."""
    for extent in extents:
        if start >= extent.length:
            start -= extent.length
            continue
        position, end = extent.offset + start, extent.offset + min(extent.length, start + length)
        start = 0
        while position < end:
            data = os.pread(file, min(CHUNK, end - position), position)
            if not data:
                return
            position += len(data)
            length -= len(data)
            yield data
        if not length:
            return


def open_file(found: Found) -> int:
    """A file of the tree, open for reading. Raises `OSError`."""
    return os.open(found.name, _FLAGS, dir_fd=found.folder.fd)


def _read(file: int, length: int) -> bytes:
    data = os.read(file, length)
    while 0 < len(data) < length - 1:  # the last byte is only asked for to see that there is none
        more = os.read(file, length - len(data))
        if not more:
            break
        data += more
    return data


def _reason(error: OSError) -> str:
    return "it was replaced by a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
