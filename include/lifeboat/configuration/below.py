"""Files below a root, reached without following any symlink: nothing outside is ever read or written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1024 * 1024

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe that somebody has put in a file's place must not block whoever opens it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def split(path: str) -> tuple[str, str]:
    """The folder and the name of a path below a root; the folder is empty in the root itself."""
    folder, _, name = path.rpartition("/")
    return folder, name


@contextmanager
def folder_below(root: Path, folder: str) -> Iterator[int]:
    """A descriptor of a folder below the root. Raises `OSError`: ELOOP or ENOTDIR when the way is through a symlink."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in filter(None, folder.split("/")):
            if part == "..":
                raise NotADirectoryError(f"{folder} leads upwards")
            inner = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_below(root: Path, path: str) -> Iterator[int]:
    """A descriptor of a file below the root, to be read. Raises `OSError`."""
    folder, name = split(path)
    with folder_below(root, folder) as parent:
        descriptor = os.open(name, _FILE, dir_fd=parent)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def chunks_of(descriptor: int) -> Iterator[bytes]:
    """Yield what is in an open file, from where it stands."""
    while chunk := os.read(descriptor, CHUNK):
        yield chunk
