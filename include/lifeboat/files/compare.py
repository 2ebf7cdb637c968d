"""Looking into snapshots of files without restoring them: what is there, where something is, what has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lifeboat.files.entries import Entry, key_of
from lifeboat.files.index import index_of
from lifeboat.files.restore import check_files
from lifeboat.files.scan import check_pattern, exclude
from lifeboat.vault import Snapshot, Vault


class Change(StrEnum):
    """How something differs between two snapshots."""

    ADDED = "added"
    REMOVED = "removed"
    CONTENTS = "changed"
    PROPERTIES = "properties"
    """Only its mode, owner, time or attributes differ."""


@dataclass(frozen=True)
class Difference:
    """Something that differs; the entry of the older or newer snapshot is None where that one has it not."""

    change: Change
    older: Entry | None
    newer: Entry | None

    @property
    def name(self) -> str:
        """Its path, for people."""
        entry = self.newer or self.older
        assert entry is not None
        return entry.name


def entries_in(vault: Vault, snapshot: Snapshot, folder: str = "", *, repository: str | None = None) -> Iterator[Entry]:
    """Yield what is in a folder of a snapshot and below, in order; of a file, the file. Raises as `Vault.read`."""
    check_files(snapshot)
    path = os.fsencode(folder.strip("/"))
    for entry in index_of(vault, snapshot, repository=repository).entries:
        if not path or entry.path == path or entry.path.startswith(path + b"/"):
            yield entry


def find_entries(vault: Vault, snapshot: Snapshot, patterns: Sequence[str]) -> Iterator[Entry]:
    """Yield what fits any of the patterns, which are written as those that exclude. Raises `SettingsError`."""
    check_files(snapshot)
    for pattern in patterns:
        check_pattern(pattern)
    fits = exclude(patterns)
    for entry in index_of(vault, snapshot).entries:
        if fits is None or fits(os.fsdecode(entry.path), entry.type == "folder"):
            yield entry


def differences(vault: Vault, older: Snapshot, newer: Snapshot) -> Iterator[Difference]:
    """Yield what differs between two snapshots of one source, in the order of paths."""
    check_files(older)
    check_files(newer)
    first, second = index_of(vault, older), index_of(vault, newer)
    same_key = first.hash_key == second.hash_key
    old, new = next(first.entries, None), next(second.entries, None)
    while old is not None or new is not None:
        if new is None or (old is not None and key_of(old.path) < key_of(new.path)):
            yield Difference(Change.REMOVED, old, None)
            old = next(first.entries, None)
        elif old is None or key_of(new.path) < key_of(old.path):
            yield Difference(Change.ADDED, None, new)
            new = next(second.entries, None)
        else:
            if _contents(old, same_key) != _contents(new, same_key):
                yield Difference(Change.CONTENTS, old, new)
            elif old.properties != new.properties:
                yield Difference(Change.PROPERTIES, old, new)
            old, new = next(first.entries, None), next(second.entries, None)


def _contents(entry: Entry, same_key: bool) -> object:
    """What tells contents apart; hashes under different keys do not, and then sizes and times must."""
    return entry.contents if same_key else (entry.type, entry.size, entry.target, entry.mtime)
