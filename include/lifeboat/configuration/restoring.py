"""Putting archived configuration files back: into a folder of their own, or in place, with what was there kept.

Everything is written aside first, and put in place by renaming once the whole archive has been read and found to be
what was written. No symlink is followed, so that nothing outside the target is touched.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lifeboat.aside import MadeAside
from lifeboat.configuration.archive import ARTIFACT, read_archive
from lifeboat.configuration.below import chunks_of, folder_below, opened_below, split
from lifeboat.configuration.files import PART_SUFFIX, Entry, shown
from lifeboat.errors import RestoreFailed, SettingsError
from lifeboat.snapshot import Kind
from lifeboat.vault import Snapshot, Vault

LONGEST_NAME = 255
"""Bytes of the longest name that file systems take."""


@dataclass(frozen=True)
class Restored:
    """What a restore has put where. `kept` has the name of each previous file, by the path of the one that replaced it.

    `unchanged` were as they had been archived already. `notes` say what ended restores had left there.
    """

    target: Path
    written: tuple[str, ...]
    unchanged: tuple[str, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def restore_to_folder(
    vault: Vault, snapshot: Snapshot, folder: Path, *, only: Sequence[str] = (), repository: str | None = None
) -> Restored:
    """Restore a snapshot into a folder that does not exist yet, or is empty: the whole of it appears, or nothing.

    `only`: paths and patterns. Raises `SettingsError` for a folder that holds anything, or when `only` names nothing;
    `RestoreFailed`, and as `Vault.read`.
    """
    require_configuration(snapshot)
    if os.path.lexists(folder) and not (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())):
        raise SettingsError(f"{folder} exists and is not empty.", hint="Choose another folder, or restore in place.")
    try:
        with MadeAside(folder, PART_SUFFIX) as aside:
            stage = _Stage(aside.folder, str)
            stage.take(vault.read(snapshot, ARTIFACT, repository=repository), only)
            _check_found(stage.entries, only, snapshot)
            stage.finish_folders()
    except OSError as error:
        raise _failed(snapshot, folder, error) from error
    return Restored(folder, tuple(entry.path for entry in stage.entries), notes=aside.notes)


def restore_in_place(
    vault: Vault,
    snapshot: Snapshot,
    root: Path,
    *,
    now: datetime,
    only: Sequence[str] = (),
    repository: str | None = None,
) -> Restored:
    """Restore a snapshot over the files below `root`. What is replaced stays beside, as `<name>.before-<time>`.

    Every file is replaced at one stroke, after all of them were written aside. What is as it was archived is left
    alone, and so is what the snapshot does not have. May be repeated, also after a kill. Raises as `restore_to_folder`.
    """
    require_configuration(snapshot)
    stamp = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    stage = _Stage(root, _aside)
    try:
        if not root.is_dir():
            return restore_to_folder(vault, snapshot, root, only=only, repository=repository)
        try:
            stage.take(vault.read(snapshot, ARTIFACT, repository=repository), only)
            _check_found(stage.entries, only, snapshot)
            changing = [entry for entry in stage.entries if not _is_already(root, entry)]
            for entry in changing:
                _refuse_folder(root, entry)
            kept = {entry.path: _put(root, entry, stamp) for entry in changing}
            stage.finish_folders()
        finally:
            stage.remove()
    except OSError as error:
        raise _failed(snapshot, root, error) from error
    return Restored(
        root,
        written=tuple(kept),
        unchanged=tuple(entry.path for entry in stage.entries if entry.path not in kept),
        kept=tuple((path, name) for path, name in kept.items() if name is not None),
    )


def kept_files(root: Path, paths: Sequence[str], now: datetime) -> dict[str, str]:
    """By path, where a restore in place at `now` has kept what was there before; only what is there still."""
    suffix = f".before-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    found = {}
    for path in paths:
        folder, name = split(path)
        kept = os.fsdecode(os.fsencode(name)[: LONGEST_NAME - len(suffix)]) + suffix
        with suppress(OSError), folder_below(root, folder) as parent:
            os.stat(kept, dir_fd=parent, follow_symlinks=False)
            found[path] = kept
    return found


def put_back(root: Path, kept: Mapping[str, str]) -> tuple[str, ...]:
    """Put files that a restore in place has kept back under their own names; returns the paths. May be repeated.

    Raises `RestoreFailed`.
    """
    done = []
    for path, name in kept.items():
        folder, own = split(path)
        try:
            with folder_below(root, folder) as parent, suppress(FileNotFoundError):
                os.replace(name, own, src_dir_fd=parent, dst_dir_fd=parent)
                os.fsync(parent)
                done.append(path)
        except OSError as error:
            raise RestoreFailed(
                f"{shown(path)} below {root} cannot be put back: {error.strerror}.",
                hint=f"What it was is {shown(name)} beside it; rename it by hand.",
            ) from error
    return tuple(done)


def paths_in(vault: Vault, snapshot: Snapshot, *, repository: str | None = None) -> tuple[str, ...]:
    """The files and symlinks of a snapshot. Raises as `Vault.read`."""
    require_configuration(snapshot)
    chunks = vault.read(snapshot, ARTIFACT, repository=repository)
    return tuple(entry.path for entry, _ in read_archive(chunks) if entry.what != "folder")


def require_configuration(snapshot: Snapshot) -> None:
    """Raise `SettingsError` when a snapshot is of anything else."""
    if snapshot.manifest.kind is not Kind.CONFIG:
        raise SettingsError(
            f"{snapshot.label} is a snapshot of a {snapshot.manifest.kind} source, not of configuration files.",
            hint="`lifeboat list` shows what each is.",
        )


# ---- aside ----------------------------------------------------------------------------------------------------------


class _Stage:
    """An archive, written below a root under the names that `rename` gives."""

    def __init__(self, root: Path, rename: Callable[[str], str]) -> None:
        self.root = root
        self.entries: list[Entry] = []
        self._rename = rename
        self._folders: dict[str, Entry] = {}
        self._used: dict[str, None] = {}

    def take(self, chunks: Iterator[bytes], only: Sequence[str]) -> None:
        """Write what is wanted of an archive. Raises `OSError`, and what reading it does."""
        for entry, data in read_archive(chunks):
            if entry.what == "folder":
                self._folders[entry.path] = entry
                if not only:
                    self._make(entry.path)
            elif not only or any(_fits(entry.path, pattern) for pattern in only):
                folder, name = split(entry.path)
                self._make(folder)
                self.entries.append(entry)  # first, so that it is cleared away whatever happens
                with folder_below(self.root, folder) as parent:
                    _write(parent, self._rename(name), entry, data)

    def finish_folders(self) -> None:
        """Give the folders on the way their owners and modes; from the innermost, while they can be entered."""
        for path in reversed(self._used):
            if entry := self._folders.get(path):
                with folder_below(self.root, path) as descriptor:
                    if os.geteuid() == 0:
                        os.fchown(descriptor, entry.uid, entry.gid)
                    os.fchmod(descriptor, entry.mode)

    def remove(self) -> None:
        """Remove what was written and is not in place."""
        for entry in self.entries:
            folder, name = split(entry.path)
            with suppress(OSError), folder_below(self.root, folder) as parent:
                os.unlink(self._rename(name), dir_fd=parent)

    def _make(self, path: str) -> None:
        done = ""
        for part in filter(None, path.split("/")):
            with folder_below(self.root, done) as parent, suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=parent)
            done = f"{done}/{part}" if done else part
            self._used.setdefault(done)


def _aside(name: str) -> str:
    """The name under which a file is written first: short, always the same, so that a killed restore leaves one."""
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{PART_SUFFIX}"


def _fits(path: str, pattern: str) -> bool:
    pattern = pattern.strip("/")
    return path == pattern or path.startswith(f"{pattern}/") or fnmatch.fnmatchcase(path, pattern)


def _check_found(entries: Sequence[Entry], only: Sequence[str], snapshot: Snapshot) -> None:
    lacking = [p for p in only if not any(_fits(e.path, p) for e in entries)]
    if lacking:
        raise SettingsError(
            f"{snapshot.label} has nothing that is called {', '.join(map(shown, lacking))}.",
            hint="`lifeboat config ls` shows what it has.",
        )


def _write(parent: int, name: str, entry: Entry, chunks: Iterator[bytes]) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
    if entry.what == "link":
        os.symlink(entry.link, name, dir_fd=parent)
        if os.geteuid() == 0:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=parent)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        if os.geteuid() == 0:
            os.fchown(descriptor, entry.uid, entry.gid)
        os.fchmod(descriptor, entry.mode)  # after the owner, since changing that takes set-user-id away
        file.flush()
        os.fsync(descriptor)


# ---- in place -------------------------------------------------------------------------------------------------------


def _is_already(root: Path, entry: Entry) -> bool:
    """Whether a file is as it was archived."""
    folder, name = split(entry.path)
    with folder_below(root, folder) as parent:
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if os.geteuid() == 0 and (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            return False
        if entry.what == "link":
            return stat.S_ISLNK(status.st_mode) and os.readlink(name, dir_fd=parent) == entry.link
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) != entry.mode:
            return False
    digest = hashlib.sha256()
    with opened_below(root, entry.path) as descriptor:
        for chunk in chunks_of(descriptor):
            digest.update(chunk)
    return digest.hexdigest() == entry.sha256


def _refuse_folder(root: Path, entry: Entry) -> None:
    folder, name = split(entry.path)
    with folder_below(root, folder) as parent, suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, "A folder stands where a file was", shown(entry.path))


def _put(root: Path, entry: Entry, stamp: str) -> str | None:
    """Put what was written aside into place; returns the name under which what was there is kept."""
    folder, name = split(entry.path)
    with folder_below(root, folder) as parent:
        kept = _keep(parent, name, stamp)
        os.replace(_aside(name), name, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)
    return kept


def _keep(parent: int, name: str, stamp: str) -> str | None:
    """Give what stands under a name a second, dated one: the first is never without a file."""
    for number in range(1, 1000):
        suffix = f".before-{stamp}" + (f"-{number}" if number > 1 else "")
        kept = os.fsdecode(os.fsencode(name)[: LONGEST_NAME - len(suffix)]) + suffix
        try:
            os.link(name, kept, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
            return kept
        except FileExistsError:
            continue
        except FileNotFoundError:
            return None
    raise FileExistsError(errno.EEXIST, "Too many files were kept", name)


def _failed(snapshot: Snapshot, target: Path, error: OSError) -> RestoreFailed:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        why = "a symlink stands where a folder was, and none is followed"
    else:
        why = (error.strerror or str(error)) + (f": {error.filename}" if isinstance(error.filename, str) else "")
    return RestoreFailed(
        f"{snapshot.label} cannot be restored to {target}: {why}.",
        hint="Nothing that was there is lost. Restore into a new folder, and look at both.",
    )
