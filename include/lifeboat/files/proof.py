"""Proving a snapshot of files: restored into a scratch folder, held against its index, and against the tree itself."""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lifeboat.attestation import require_signing_key
from lifeboat.children import Children
from lifeboat.errors import ArtifactMismatch, NotReady
from lifeboat.files.entries import Entry, EntryType, Extent
from lifeboat.files.index import index_of
from lifeboat.files.placing import NOBODY_AT_ALL, Place, is_time_of, owner_here
from lifeboat.files.reading import read_extents
from lifeboat.files.restore import check_files, restore_tree
from lifeboat.manifest import tree_bytes
from lifeboat.own_files import remove_left
from lifeboat.progress import PhaseClock, Report, count_text, size_text
from lifeboat.proof import Proof, prove_copies
from lifeboat.smoke import CheckResult
from lifeboat.vault import Progress, Snapshot, Vault

BASE = Path("/var/tmp")  # noqa: S108 - on a disk, unlike /tmp, and the folder made in it is this process's own
"""Where scratch folders are made unless another place is named."""

PREFIX = "lifeboat-files-"

FULL_ENOUGH = 0.5
"""The share of free room that a scratch folder may take; a larger tree is proven by a sample."""

NAMED = 10
"""Notes of the restore that a proof repeats."""

SPOTS = 200
"""Files of the tree itself that are compared with the snapshot."""


def prove_tree(
    vault: Vault,
    snapshot: Snapshot,
    *,
    tree: str | None = None,
    repository: str | None = None,
    base: Path = BASE,
    share: float | None = None,
    children: Children | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> Proof:
    """Restore a snapshot of files into a scratch folder below `base`, compare it with its index, and attest.

    All of it, or where there is no room a sample, of about a `share` of its files when one is given. With `tree`, the
    source's own folder, sampled files of it that have not changed since are compared as well. The scratch folder goes
    again. Raises and returns as `prove_snapshot`.
    """
    require_signing_key(vault)
    check_files(snapshot)
    clock, started = PhaseClock(report), time.monotonic()
    remove_scratch_folders(base)
    share = _share_that_fits(vault, snapshot, base) if share is None else share
    trial = _Trial(vault, snapshot, tree, base, share, progress, clock, datetime.now(UTC), started)
    return prove_copies(
        vault, snapshot, trial.of_copy_in, repository, clock, trial.began, started, children or Children()
    )


@dataclass(frozen=True)
class _Trial:
    vault: Vault
    snapshot: Snapshot
    tree: str | None
    base: Path
    share: float
    progress: Progress | None
    clock: PhaseClock
    began: datetime
    started: float

    def of_copy_in(self, repository: str) -> Proof:
        """Restore one repository's copy. Raises `IntegrityError` or `RepositoryError` when it is not whole."""
        proof = Proof(self.snapshot, repository, self.began, self.clock.seconds)
        with tempfile.TemporaryDirectory(
            prefix=f"{PREFIX}{os.getpid()}-", dir=self.base, ignore_cleanup_errors=True
        ) as folder:
            target = Path(folder) / "tree"
            with self.clock.phase("restore"):
                done = restore_tree(
                    self.vault,
                    self.snapshot,
                    target,
                    only=self._chosen if self.share < 1 else None,
                    repository=repository,
                    progress=self.progress,
                )
            if done.lost:
                raise ArtifactMismatch(
                    f"The contents of {count_text(len(done.lost), 'file')} cannot be had: {done.faults[done.lost[0]]}",
                    hint="`lifeboat verify` names the files; restore them from another repository or snapshot.",
                )
            with self.clock.phase("compare"):
                checks = [self._compared(target, repository)]
            if self.tree is not None and Path(self.tree).is_dir():
                with self.clock.phase("spot check"):
                    checks.append(self._spot_checked(self.tree, repository))
        failed = [f"{c.name}: expected {c.expected}, found {c.found}" for c in checks if not c.passed]
        failed += [f"{count_text(len(done.faults), 'thing')} could not be restored"] if done.faults else []
        total = round(time.monotonic() - self.started, 3)
        return replace(
            proof,
            total=total,
            held=f"{count_text(done.files, 'file')} of {size_text(done.size)} in {count_text(done.folders, 'folder')}",
            counts={"files": done.files, "folders": done.folders, "others": done.others, "size": done.size},
            checks=tuple(checks),
            notes=(*self._notes(), *done.notes[:NAMED]),
            reason="; ".join(failed),
        )

    def _chosen(self, entry: Entry) -> bool:
        """Whether a file is in the sample: by the hash of its path and of the snapshot, so that every one differs."""
        digest = hashlib.sha256(str(self.snapshot.id).encode() + entry.path).digest()
        return int.from_bytes(digest[:4], "big") < self.share * 2**32

    def _notes(self) -> Iterator[str]:
        facts = self.snapshot.manifest.facts
        if self.share < 1:
            yield f"Only a sample was restored, of about {self.share:.1%} of the files: there is no room for more."
        if facts.get("partial"):
            yield (
                f"The snapshot itself is partial: {facts['unreadable']} things could not be read, and "
                f"{facts['changed_while_read']} files changed while they were read."
            )
        if os.geteuid() != 0:
            yield "Owners were not compared: only root can restore them."

    def _compared(self, target: Path, repository: str) -> CheckResult:
        """Everything that was restored, held against the index."""
        began = time.monotonic()
        index = index_of(self.vault, self.snapshot, repository=repository)
        place = Place(str(target), is_new=False)
        links: dict[str, tuple[int, int]] = {}
        count, wrong = 0, 0
        for entry in index.entries:
            if entry.type is EntryType.SOCKET or (self.share < 1 and not self._chosen(entry)):
                continue
            if entry.fault and entry.type is not EntryType.FOLDER:
                continue
            count += 1
            try:
                wrong += not _is_as_it_was(place, entry, index.hash_key, links)
            except OSError:
                wrong += 1
        what = count_text(count, "thing")
        found = f"all of {what}" if not wrong else f"{wrong} of {what} otherwise"
        seconds = round(time.monotonic() - began, 3)
        return CheckResult("contents and properties", not wrong, seconds, "as the index says", found)

    def _spot_checked(self, tree: str, repository: str) -> CheckResult:
        """Some files of the tree itself, held against the snapshot, as far as they have not changed since."""
        began = time.monotonic()
        index = index_of(self.vault, self.snapshot, repository=repository)
        chosen: list[Entry] = []
        seen = 0
        for entry in index.entries:
            if entry.type is EntryType.FILE and not entry.fault and not entry.changed:
                seen += 1
                if len(chosen) < SPOTS:
                    chosen.append(entry)
                elif (at := random.randrange(seen)) < SPOTS:  # noqa: S311 - a sample, no secret
                    chosen[at] = entry
        place = Place(tree, is_new=False)
        same, wrong, other = 0, 0, 0
        for entry in chosen:
            try:
                there = place.look(entry.path)
                if there is None or (there.st_size, there.st_mtime_ns) != (entry.size, entry.mtime):
                    other += 1
                elif _has_contents(place, entry, index.hash_key):
                    same += 1
                else:
                    wrong += 1
            except OSError:
                other += 1
        found = f"{same} alike, {wrong} different, {other} changed since or gone"
        seconds = round(time.monotonic() - began, 3)
        return CheckResult("sampled files of the source", not wrong, seconds, "none different", found)


def remove_scratch_folders(base: Path = BASE) -> tuple[str, ...]:
    """Remove what this user's restore tests that were killed have left; the names. Those that go on are left alone."""
    return remove_left(base, PREFIX)


def _is_as_it_was(place: Place, entry: Entry, hash_key: bytes, links: dict[str, tuple[int, int]]) -> bool:
    there = place.look(entry.path) if entry.path else os.fstat(place.root.fd)
    if there is None:
        return entry.type in (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE) and os.geteuid() != 0
    expected = _FORMATS[entry.type]
    if stat.S_IFMT(there.st_mode) != expected or not is_time_of(entry, there.st_mtime_ns):
        return False
    if entry.type is not EntryType.SYMLINK and stat.S_IMODE(there.st_mode) != entry.mode:
        return False
    owner = owner_here(entry)
    if os.geteuid() == 0 and (there.st_uid, there.st_gid) != owner and NOBODY_AT_ALL not in owner:
        return False
    if entry.link and links.setdefault(entry.link, (there.st_dev, there.st_ino)) != (there.st_dev, there.st_ino):
        return False
    if entry.type is EntryType.SYMLINK:
        return place.target_of(entry.path) == entry.target
    if entry.type is not EntryType.FILE:
        return True
    return there.st_size == entry.size and _has_contents(place, entry, hash_key)


def _has_contents(place: Place, entry: Entry, hash_key: bytes) -> bool:
    ranges = entry.extents if entry.extents is not None else (Extent(0, entry.size),)
    position = 0
    with place.opened(entry.path) as file:
        for piece in entry.pieces:
            digest = hmac.new(hash_key, digestmod="sha256")
            for data in read_extents(file, ranges, position, piece.length):
                digest.update(data)
            if digest.digest()[:20].hex() != piece.hash:
                return False
            position += piece.length
    return position == sum(extent.length for extent in ranges)


_FORMATS = {
    EntryType.FILE: stat.S_IFREG,
    EntryType.FOLDER: stat.S_IFDIR,
    EntryType.SYMLINK: stat.S_IFLNK,
    EntryType.FIFO: stat.S_IFIFO,
    EntryType.SOCKET: stat.S_IFSOCK,
    EntryType.CHARACTER_DEVICE: stat.S_IFCHR,
    EntryType.BLOCK_DEVICE: stat.S_IFBLK,
}


def _share_that_fits(vault: Vault, snapshot: Snapshot, base: Path) -> float:
    size, room = tree_bytes(snapshot.manifest), shutil.disk_usage(base).free * FULL_ENOUGH
    if size > room and "holes" not in snapshot.manifest.facts:  # an older Lifeboat has made it
        size = sum(piece.length for entry in index_of(vault, snapshot).entries for piece in entry.pieces)
    if room < 64 * 1024 * 1024:
        raise NotReady(f"{base} has no room for a scratch folder.", hint="Make room there, or name another folder.")
    return 1.0 if size <= room else room / size
