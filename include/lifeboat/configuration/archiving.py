"""Archiving a set of configuration files: looking whether it can be, and doing so when it has changed."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lifeboat.configuration.archive import ARTIFACT, MEDIA_TYPE, write_archive
from lifeboat.configuration.files import ConfigurationSource, Entry, FileList, list_files, read_listed, shown
from lifeboat.errors import KeyringError, LifeboatError, RepositoryError, SourceUnavailable
from lifeboat.keys import PRIVATE_ROLES, Keyring
from lifeboat.outcome import lacking
from lifeboat.readiness import look_at_vault, not_ready
from lifeboat.snapshot import Kind, Tier, artifact_key
from lifeboat.vault import Progress, Snapshot, SnapshotWriter, Vault

LONGEST_SEARCHED = 1024**2
"""Bytes of the largest file that is searched for private keys."""

TRIES = 3
"""How often the archive is begun anew when a file has changed since it was listed."""

_MARK = 8
"""Bytes of a mark: enough to tell the files of one set apart."""


@dataclass(frozen=True)
class Marks:
    """What a manifest may say of the files: digests that only the holder of the signing key can make or compare.

    Plain digests would let whoever can list a bucket try out what a short password is. `files` has a mark of each name,
    and of what stands there.
    """

    fingerprint: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Archived:
    """A set of configuration files as it is now, in a snapshot.

    `changed` says whether this run has made it, `previous` is what the set was before, as far as the vault knows.
    `lacking`: the repositories that do not have it, and why.
    """

    snapshot: Snapshot
    changed: bool
    previous: Snapshot | None
    lacking: Mapping[str, str]
    listed: FileList


def check_configuration(vault: Vault, source: ConfigurationSource) -> tuple[str, ...]:
    """Look for whatever would stop archiving, before it is begun. Returns remarks.

    Raises `NotReady` with every obstacle at once: keys, files that cannot be read or are too large, nothing there.
    """
    remarks, obstacles = look_at_vault(vault, source.name)
    try:
        listed = list_files(source)
        remarks += (*listed.remarks, *_private_keys_in(source, listed))
    except LifeboatError as error:
        obstacles.append(error)
    if obstacles:
        raise not_ready(source.name, obstacles)
    return tuple(remarks)


def _private_keys_in(source: ConfigurationSource, listed: FileList) -> Iterator[str]:
    """What holds the text of a private key: `keys` of a connection in an `.env` file, or a copy of the key's file."""
    for entry in listed.files:
        if entry.size <= LONGEST_SEARCHED:
            text = b"".join(read_listed(source.root, entry))
            if any(f"lifeboat:{role}:".encode() in text for role in PRIVATE_ROLES):
                yield (
                    f"{source.name}: {shown(entry.path)} holds a private key of Lifeboat's own, which then lies in the "
                    "snapshots that it opens or signs. Keep it in a folder that the connection names by `keyring`, and "
                    "a copy offline."
                )


def archive_configuration(
    vault: Vault,
    source: ConfigurationSource,
    *,
    began: datetime,
    scheduled_for: datetime | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> Archived:
    """Archive the files, sealed, into every repository of the vault, unless the newest snapshot has them as they are.

    `again` archives them in any case. Succeeds when at least one repository has all. May be repeated. Raises
    `SourceError`, `RepositoryError`, `KeyringError`.
    """
    for attempt in range(TRIES):
        listed = list_files(source)
        marks = marks_of(vault.keyring, source.name, listed)
        newest = newest_snapshot(vault, source.name)
        if newest is not None and _has(newest, marks) and not again and _is_there(vault, newest):
            ours = scheduled_for is not None and newest.manifest.scheduled_for == scheduled_for
            previous = newest_snapshot(vault, source.name, before=newest) if ours else newest
            return Archived(newest, ours, previous, lacking(vault, newest, {}), listed)
        writer = vault.begin(source.name, Kind.CONFIG, began=began, scheduled_for=scheduled_for, progress=progress)
        try:
            _write(writer, source, listed, _pad(vault.keyring, source.name, listed))
        except SourceUnavailable:
            if attempt == TRIES - 1:
                raise
            time.sleep(attempt + 1.0)
            continue
        snapshot = writer.commit(_facts(listed, marks))
        return Archived(snapshot, True, newest, lacking(vault, snapshot, writer.failures), listed)
    raise AssertionError("unreachable")


def newest_snapshot(vault: Vault, name: str, *, before: Snapshot | None = None) -> Snapshot | None:
    """The newest archive of a set, or the newest before another one; None when there is none."""
    snapshots = [
        snapshot
        for snapshot in vault.list(name, Tier.DAILY).snapshots
        if snapshot.manifest.kind is Kind.CONFIG and (before is None or _age(snapshot) < _age(before))
    ]
    return max(snapshots, key=_age, default=None)


def marks_of(keyring: Keyring, name: str, listed: FileList) -> Marks:
    """The marks of what was listed. Raises `KeyringError` without a signing key."""
    key = _key(keyring, name, b"marks")
    files = {
        _mac(key, b"name", _record(entry)[0])[:_MARK].hex(): _mac(key, b"entry", _record(entry))[:_MARK].hex()
        for entry in listed.entries
    }
    return Marks(_mac(key, b"all", [_record(entry) for entry in listed.entries]).hex(), files)


def fingerprint_in(snapshot: Snapshot) -> str:
    """The fingerprint of what a snapshot holds."""
    return str(snapshot.manifest.facts.get("fingerprint", ""))


def changed_names(keyring: Keyring, snapshot: Snapshot, listed: FileList) -> Sequence[str]:
    """What differs between a snapshot and what was listed, by name alone and without unsealing anything."""
    before = dict(snapshot.manifest.facts.get("marks", {}))
    lines = []
    for entry in listed.entries:
        now = marks_of(keyring, snapshot.manifest.source, FileList((entry,)))
        [(name, mark)] = now.files.items()
        old = before.pop(name, None)
        if old != mark:
            lines.append(f"{'added' if old is None else 'changed'}: {shown(entry.path)}")
    if before:
        lines.append(f"removed: {len(before)}, whose names only the sealed archive tells")
    return lines


def _write(writer: SnapshotWriter, source: ConfigurationSource, listed: FileList, pad: bytes) -> None:
    def open_file(entry: Entry) -> Iterator[bytes]:
        return read_listed(source.root, entry)

    writer(ARTIFACT, write_archive(listed.entries, open_file, pad), media_type=MEDIA_TYPE)


def _facts(listed: FileList, marks: Marks) -> Mapping[str, object]:
    return {
        "files": len(listed.files),
        "size": sum(entry.size for entry in listed.files),
        "missing": len(listed.remarks),
        "fingerprint": marks.fingerprint,
        "marks": dict(marks.files),
    }


def _age(snapshot: Snapshot) -> tuple[bool, datetime, datetime]:
    # Two attempts may begin in the same second, and the rest of an id is drawn by lot.
    return not snapshot.misdated, snapshot.id.began, snapshot.manifest.finished


def _has(snapshot: Snapshot, marks: Marks) -> bool:
    return hmac.compare_digest(fingerprint_in(snapshot), marks.fingerprint)


def _is_there(vault: Vault, snapshot: Snapshot) -> bool:
    """Whether a repository still has all of a snapshot, by size; a fault of one is no reason to archive again."""
    for member in vault.present:
        if member.name not in snapshot.repositories:
            continue
        for artifact in snapshot.manifest.artifacts:
            key = artifact_key(snapshot.manifest.source, snapshot.tier, snapshot.id, artifact.name)
            try:
                if member.repository.describe(key).size != artifact.sealed_size:
                    break
            except RepositoryError:
                break
        else:
            return True
    return False


def _pad(keyring: Keyring, name: str, listed: FileList) -> bytes:
    return _mac(_key(keyring, name, b"pad"), b"all", [_record(entry) for entry in listed.entries])


def _record(entry: Entry) -> list[Any]:
    """What makes an entry what it is."""
    return [entry.path, entry.what, entry.mode, entry.uid, entry.gid, entry.size, entry.sha256, entry.link]


def _key(keyring: Keyring, name: str, purpose: bytes) -> bytes:
    if keyring.signing_key is None:
        raise KeyringError(
            "The keyring has no signing key, so no snapshot can be made.",
            hint="Put the .signing key of this host into the keyring; a host that only restores cannot back up.",
        )
    return keyring.signing_key.derive(b"configuration " + purpose + b"\0" + name.encode())


def _mac(key: bytes, what: bytes, value: object) -> bytes:
    # JSON escapes what is not UTF-8 in a name, and has one form for one value.
    return hmac.digest(key, what + b"\0" + json.dumps(value).encode(), hashlib.sha256)
