"""Folders that a restore makes beside their target, and what one that was killed has left of them.

A file beside such a folder, its mark, is locked as long as the restore runs. A mark that nobody holds is of one that
was ended: what it names is ours for certain, and the next restore to that place removes both.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lifeboat.own_files import is_own_folder, open_own

SUFFIX = ".unfinished"
"""How the names of folders and marks end."""

TEXT = (
    "Lifeboat on {host} is restoring here. This file goes when it is done, and if it was ended with the next restore.\n"
)

_MARK = re.compile(r"(\..*\.[0-9a-f]{8})\.mark(\.unfinished|\.lifeboat-part)", re.DOTALL)
_FOLDER = re.compile(r"\..*\.[0-9a-f]{8}\.unfinished", re.DOTALL)
_TRIES = 10


class Mark:
    """A file that is locked as long as this process works on what it stands for. Raises `OSError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # where no locks are known, nobody gets one, and nothing is taken for left
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._file, text_here())

    def holds(self) -> bool:
        """Whether it is still there: another restore may have taken it for one that was left, before it was locked."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._file), self.path.lstat())
        return False

    def remove(self) -> None:
        """Remove it, and let it go."""
        with suppress(OSError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Let it go."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


class MadeAside:
    """A new folder beside a target, which becomes the target when all went well, and goes again otherwise.

    `notes` say what of others was found there. Raises `OSError`.
    """

    def __init__(self, target: Path, suffix: str = SUFFIX) -> None:
        self.notes: tuple[str, ...] = ()
        self._target = target.absolute()
        self._suffix = suffix

    def __enter__(self) -> MadeAside:
        parent = self._target.parent
        parent.mkdir(parents=True, exist_ok=True)
        self.notes = tuple(remove_left(parent))
        stem = os.fsdecode(os.fsencode(self._target.name)[:100])
        for _ in range(_TRIES):
            name = f".{stem}.{secrets.token_hex(4)}"
            self._mark = Mark(parent / f"{name}.mark{self._suffix}")
            if self._mark.holds():
                break
            self._mark.close()
        self.folder = parent / f"{name}{self._suffix}"
        try:
            self.folder.mkdir(0o700)
        except OSError:
            self._mark.remove()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                if self._target.exists():
                    self._target.rmdir()
                self.folder.rename(self._target)
        finally:
            if kind is not None or self.folder.exists():
                remove_tree(self.folder)
            self._mark.remove()


def remove_left(parent: Path) -> Iterator[str]:
    """Remove what this user's ended restores have left in a folder; yields what was removed, and what looks like it."""
    marked = set()
    for path in _names_in(parent):
        found = _MARK.fullmatch(path.name)
        if found is None:
            continue
        folder = parent / f"{found[1]}{found[2]}"
        file = held_by_nobody(path)
        if file is None:
            marked |= {folder.name} if _is_held(path) else set()
            continue
        marked.add(folder.name)
        try:
            if is_own_folder(folder):
                remove_tree(folder)
                yield (
                    f"{folder}, which a restore that was ended has left, cannot be removed"
                    if os.path.lexists(folder)
                    else f"{folder}, which a restore that was ended had left, is removed"
                )
            if not os.path.lexists(folder):
                with suppress(OSError):
                    path.unlink()
        finally:
            os.close(file)
    for path in _names_in(parent):
        if _FOLDER.fullmatch(path.name) and path.name not in marked and is_own_folder(path):
            yield (
                f"{path} looks like what a restore by an older Lifeboat, or on another host, has left; look into it, "
                "and remove it"
            )


def held_by_nobody(mark: Path) -> int | None:
    """A mark of this user's whose restore has ended, locked, to be closed; None for any other file."""
    try:
        file = open_own(mark)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.pread(file, 1000, 0) in (text_here(), b"") and os.path.samestat(os.fstat(file), mark.lstat()):
            return file
    except OSError:  # somebody is at work, or no locks are known here
        pass
    os.close(file)
    return None


def _is_held(mark: Path) -> bool:
    with suppress(OSError):
        file = open_own(mark)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
    return False


def text_here() -> bytes:
    """What a mark of this host holds. Not every network file system shows another host's locks."""
    return TEXT.format(host=socket.gethostname()).encode()


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it, as far as can be, also what is in folders that were read-only already."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        for inner, _, _ in os.walk(folder):
            with suppress(OSError):
                Path(inner).chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _names_in(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder.glob(".*"))
    return []
