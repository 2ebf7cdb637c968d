"""What configuration files say, held in memory to be compared: of an archive, or on disk now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lifeboat.configuration.archive import ARTIFACT, read_archive
from lifeboat.configuration.files import ConfigurationSource, Entry, list_files, read_listed
from lifeboat.vault import Snapshot, Vault

LONGEST_TEXT = 1024**2
"""Bytes of the largest file whose text is compared; of larger ones only whether they differ."""

LONGEST_TEXTS = 32 * 1024**2
"""Bytes of all texts that are held for a comparison."""


@dataclass(frozen=True)
class Content:
    """An entry, and the bytes of a file that is small enough to be compared."""

    entry: Entry
    text: bytes | None


Contents = Mapping[str, Content]
"""By path."""


def contents_of_snapshot(vault: Vault, snapshot: Snapshot, *, repository: str | None = None) -> Contents:
    """What a snapshot holds. Raises `WrongIdentity` without an identity that opens it, and as `Vault.read`."""
    return _gathered(read_archive(vault.read(snapshot, ARTIFACT, repository=repository)))


def contents_on_disk(source: ConfigurationSource) -> Contents:
    """What the files hold now. Raises `SourceError`."""
    listed = list_files(source).entries
    return _gathered((e, read_listed(source.root, e) if e.what == "file" else iter(())) for e in listed)


def _gathered(entries: Iterable[tuple[Entry, Iterator[bytes]]]) -> Contents:
    found, held = {}, 0
    for entry, chunks in entries:
        text = None
        if entry.what == "file" and entry.size <= min(LONGEST_TEXT, LONGEST_TEXTS - held):
            text = b"".join(chunks)
            held += len(text)
        found[entry.path] = Content(entry, text)
    return found
