"""Lifeboat's own places on this host, which belong into no snapshot: repositories, mirrors, its state, its keys.

A tree that holds a repository grows with every backup by all that the one before has stored; one that holds the keyring
puts private keys where snapshots go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lifeboat.snapshot import VAULT_KEY

MOST_LOOKED_INTO = 1000
"""Folders of a tree that are looked into for repositories of other vaults."""


@dataclass(frozen=True)
class OwnPlace:
    """A folder of Lifeboat's: what it is, where, and the `file:line` that says so."""

    what: str
    path: Path
    setting: str
    holds_keys: bool = False

    def __str__(self) -> str:
        return f"{self.what} ({self.path}, {self.setting})"


def within(root: Path, place: Path) -> str | None:
    """The path of a place below a root, `.` where both are one; None where it is elsewhere.

    Folders are told by what they are, not by their names: a symbolic link and a second mount lead to the same one. The
    place itself need not be there yet.
    """
    with suppress(OSError):
        wanted, real = _identity(root), Path(os.path.realpath(place))
        for folder in (real, *real.parents):
            with suppress(OSError):  # not there yet, or within a folder that this user may not enter
                if _identity(folder) == wanted:
                    return str(real.relative_to(folder))
    return None


def identities(places: Sequence[OwnPlace]) -> Mapping[tuple[int, int], str]:
    """By device and inode, what to say of each place that is there: a mount may have it anywhere in a tree."""
    found = {}
    for place in places:
        with suppress(OSError):
            found[_identity(place.path)] = f"it is {place}, and never backed up"
    return found


def other_repositories(root: str, is_excluded: Callable[[str, bool], bool] | None) -> Iterator[str]:
    """Yield what in a folder, or the folder itself (`.`), is a repository of any vault, and is not excluded."""
    with suppress(OSError):
        if _is_repository(root):
            yield "."
        with os.scandir(root) as entries:
            for count, entry in enumerate(entries):
                if count >= MOST_LOOKED_INTO:
                    return
                if is_excluded is None or not is_excluded(entry.name, True):
                    with suppress(OSError):
                        if entry.is_dir(follow_symlinks=False) and _is_repository(entry.path):
                            yield entry.name


def _is_repository(folder: str) -> bool:
    return Path(folder, VAULT_KEY).is_file() and Path(folder, "snapshots").is_dir()


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
