"""Walking a tree: everything in it, in the order of the index, each with one look and nothing opened but folders.

Symbolic links are never followed. Folders are opened relative to their parents, so that nobody can lead the walk
elsewhere, and no path is too long.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from lifeboat.errors import SettingsError

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

HELD_OPEN = 128
"""Folders within one another that are held open; those above them are opened again by what is in them."""

LONGEST_PATH = 32 * 1024
"""Bytes of a path below which nothing is looked for: everything in the index has its path in full."""

Excluded = Callable[[str, bool], bool]
"""Whether a path, and whether it is a folder's, is to be left out."""


class Folder:
    """An open folder, closed when nobody uses it any more."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


@dataclass(slots=True)
class Found:
    """Something in the tree: where, in which open folder under which name, and what a look at it said.

    `opened` is a folder itself, open. `fault` says why it could not be, or why there was no look, `info` then being
    that of an empty file.
    """

    path: bytes
    folder: Folder
    name: str
    info: os.stat_result
    opened: Folder | None = None
    fault: str = ""

    @property
    def key(self) -> bytes:
        return self.path.replace(b"/", b"\0")


def scan(
    root: str, excluded: Excluded | None = None, shunned: Mapping[tuple[int, int], str] = MappingProxyType({})
) -> Iterator[Found]:
    """Yield the root and everything in it. Raises `OSError` when the root cannot be opened or listed.

    What vanishes meanwhile is left out. A folder that cannot be opened has a `fault`, and nothing below it is found; so
    has one that is `shunned`, by its device and inode, and why.
    """
    opened = Folder(os.open(root, FOLDER_FLAGS & ~os.O_NOFOLLOW))
    names = os.listdir(opened.fd)  # noqa: PTH208 - an open folder has no path
    yield Found(b"", opened, ".", os.fstat(opened.fd), opened)
    waiting = [_Level(b"", "", opened, names)]
    while waiting:
        level = waiting[-1]
        if not level.names:
            waiting.pop()
            if waiting and waiting[-1].closed:
                yield from waiting[-1].open_again(level.folder, opened)
            continue
        found, names = _look(level, level.names.pop(), excluded, shunned)
        if found is None:
            continue
        yield found
        if found.opened is not None:
            shown = f"{level.shown}{found.name}/" if excluded else ""
            waiting.append(_Level(found.path + b"/", shown, found.opened, names))
            if len(waiting) > HELD_OPEN:
                waiting[-HELD_OPEN - 1].close(opened)


class _Level:
    """A folder being walked, and the names in it whose turn has not come, the next one last."""

    __slots__ = ("closed", "folder", "names", "prefix", "shown")

    def __init__(self, prefix: bytes, shown: str, folder: Folder, names: list[str]) -> None:
        names.sort(key=os.fsencode, reverse=True)
        self.prefix, self.shown, self.folder, self.names = prefix, shown, folder, names
        self.closed: tuple[int, int] | None = None

    def close(self, root: Folder) -> None:
        """Let go of the folder, but for what it is: a process may not have very many open."""
        if not self.closed:
            with suppress(OSError):  # then it stays open
                info = os.fstat(self.folder.fd)
                self.closed, self.folder = (info.st_dev, info.st_ino), root

    def open_again(self, below: Folder, root: Folder) -> Iterator[Found]:
        """Open it by what was in it, or by its path; where neither leads there, yields all left in it with a fault."""
        fault = "its folder was moved meanwhile"
        for names, start in (([b".."], below), (self.prefix.split(b"/")[:-1], root)):
            try:
                folder = start
                for name in names:
                    folder = Folder(os.open(name, FOLDER_FLAGS, dir_fd=folder.fd))
                info = os.fstat(folder.fd)
            except OSError as error:
                fault = error.strerror or str(error)
                continue
            if (info.st_dev, info.st_ino) == self.closed:
                self.folder, self.closed = folder, None
                return
        self.closed = None
        while self.names:
            name = os.fsencode(self.names.pop())
            yield Found(self.prefix + name, root, os.fsdecode(name), UNSEEN, fault=fault)


def _look(
    level: _Level, name: str, excluded: Excluded | None, shunned: Mapping[tuple[int, int], str]
) -> tuple[Found | None, list[str]]:
    try:
        info = os.stat(name, dir_fd=level.folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None, []
    except OSError as error:  # such as a folder that may be listed and not entered
        path = level.prefix + os.fsencode(name)
        return Found(path, level.folder, name, UNSEEN, fault=error.strerror or str(error)), []
    is_folder = stat.S_ISDIR(info.st_mode)
    if excluded is not None and excluded(level.shown + name, is_folder):
        return None, []
    found = Found(level.prefix + os.fsencode(name), level.folder, name, info)
    if not is_folder:
        return found, []
    if len(level.prefix) > LONGEST_PATH:
        found.fault = f"its path has more than {LONGEST_PATH // 1024} KiB"
        return found, []
    if shunned and (info.st_dev, info.st_ino) in shunned:
        found.fault = shunned[info.st_dev, info.st_ino]
        return found, []
    try:
        found.opened = Folder(os.open(name, FOLDER_FLAGS, dir_fd=level.folder.fd))
        return found, os.listdir(found.opened.fd)  # noqa: PTH208 - a path could lead elsewhere by now
    except FileNotFoundError:
        return None, []
    except OSError as error:
        found.opened = None
        found.fault = error.strerror or str(error)
        return found, []


# Times in nanoseconds are None unless they are given.
UNSEEN = os.stat_result(
    (stat.S_IFREG, 0, 0, 1, 0, 0, 0, 0, 0, 0), {"st_atime_ns": 0, "st_mtime_ns": 0, "st_ctime_ns": 0}
)


# ---- leaving out ----------------------------------------------------------------------------------------------------


def exclude(patterns: Sequence[str]) -> Excluded | None:
    """What decides by patterns; None where there are none.

    A pattern without a slash fits a name at any depth, one with a slash a path from the root, and one that ends with a
    slash folders only. `*` and `?` fit within a name, `**` any number of folders, `[a-z]` one of these characters.
    """
    if not patterns:
        return None
    matches = re.compile("|".join(f"(?:{_expression(pattern)})" for pattern in patterns), re.DOTALL).fullmatch
    return lambda path, is_folder: matches(f"{path}/" if is_folder else path) is not None


def check_pattern(pattern: str) -> None:
    """Raise `SettingsError` when a pattern cannot fit anything."""
    parts = pattern.strip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise SettingsError(
            f"{pattern!r} fits nothing: it is empty, or has empty, `.` or `..` parts.",
            hint="Write it from the tree's root, such as cache/**, or as a name, such as *.tmp.",
        )
    try:
        re.compile(_expression(pattern))
    except re.error as error:
        raise SettingsError(
            f"{pattern!r} is no pattern: {error}.", hint="Write it such as *.tmp or cache/**."
        ) from None


def _expression(pattern: str) -> str:
    """A pattern as a regular expression of a path; a folder's path ends with a slash."""
    body = pattern.strip("/")
    anchored = "/" in pattern.rstrip("/")
    parts = []
    for part in body.split("/"):
        parts.append("**" if part == "**" else "".join(_character(letter) for letter in _TOKENS.findall(part)))
    text = "" if anchored else "(?:[^/]+/)*"
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            text += ".+" if last else "(?:[^/]+/)*"
        else:
            text += part if last else f"{part}/"
    if parts[-1] == "**":
        return text
    return text + ("/" if pattern.endswith("/") else "/?")


def _character(letter: str) -> str:
    if letter == "*":
        return "[^/]*"
    if letter == "?":
        return "[^/]"
    if len(letter) > 1:  # [a-z], [!a-z]
        inside = letter[1:-1].replace("\\", "\\\\")
        return f"[^/{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]"
    return re.escape(letter)


_TOKENS = re.compile(r"\[[!^]?[^\]]+\]|.", re.DOTALL)
