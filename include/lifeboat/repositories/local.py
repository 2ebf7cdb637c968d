"""A repository in a folder of this host: a disk, or something mounted like one."""

from __future__ import annotations

import errno
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from lifeboat.errors import (
    ObjectExists,
    ObjectNotFound,
    RepositoryError,
    RepositoryFull,
    RepositoryRefused,
    RepositoryUnavailable,
)
from lifeboat.repositories.contract import ObjectInfo, ThawState, cannot_lock, check_key, is_key, is_prefix
from lifeboat.repositories.findings import Finding, Level
from lifeboat.streams import CHUNK

VANISHING_FOLDERS = 10
"""How often a folder that a delete removes under our hands is made again."""

Result = TypeVar("Result")


class LocalDiskRepository:
    """Objects as files below a folder, readable by their owner alone. Symbolic links are never followed below it."""

    def __init__(self, root: Path, name: str) -> None:
        self._root = root
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        return f"file://{self._root}"

    # ---- writing ----------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        storage_class: str | None = None,  # noqa: ARG002 - a disk has one class
        locked_until: datetime | None = None,
    ) -> ObjectInfo:
        """As the contract says. A killed process leaves nothing; on NFS and the like, a file that no listing shows.

        The bytes are on the disk, and so are the names leading to them, before it returns.
        """
        *folders, name = check_key(key).split("/")
        if locked_until is not None:
            raise cannot_lock(self._name)
        self._refuse_existing(key)
        with self._faults("put", key):
            writer = self._in_folder(folders, _Writer)
        try:
            for chunk in chunks:
                with self._faults("put", key):
                    writer.write(chunk)
            with self._faults("put", key):
                info = writer.finish()
                self._in_folder(folders, lambda folder: self._publish(writer, folder, name, key))
        finally:
            writer.close()
        return ObjectInfo(key, info.st_size, _modified(info))

    def copy(
        self, source: str, target: str, *, storage_class: str | None = None, locked_until: datetime | None = None
    ) -> ObjectInfo:
        """As the contract says: the copy shares no blocks with its source, so that one bad sector harms one of them."""
        check_key(target)
        self.describe(source)
        return self.put(target, self.get(source), storage_class=storage_class, locked_until=locked_until)

    def delete(self, key: str) -> None:
        """As the contract says. Folders that this leaves empty go too."""
        *folders, name = check_key(key).split("/")
        with self._faults("delete", key), suppress(FileNotFoundError, NotADirectoryError):
            with self._folder(folders) as folder:
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
            with suppress(OSError):  # of a folder that is not empty
                while folders:
                    *folders, empty = folders
                    with self._folder(folders) as folder:
                        os.rmdir(empty, dir_fd=folder)

    def lock(self, key: str, until: datetime) -> None:  # noqa: ARG002 - whoever is root may delete any file
        self.describe(key)
        raise cannot_lock(self._name)

    def drop_unfinished(self, before: datetime) -> int:
        """As the contract says: files with a name that no key has, which killed processes leave on NFS and the like."""
        with self._faults("look for unfinished files below", str(self._root)):
            found = [path for path in self._root.rglob("~*") if _UNFINISHED.fullmatch(path.name)]
            dropped = 0
            for path in found:
                with suppress(FileNotFoundError):
                    info = path.lstat()
                    if stat.S_ISREG(info.st_mode) and _modified(info) < before:
                        path.unlink()
                        dropped += 1
        return dropped

    def thaw(self, key: str, *, days: int) -> ThawState:  # noqa: ARG002 - a disk archives nothing
        return self.describe(key).thaw_state

    def honours_create_only(self, key: str) -> bool:
        *folders, name = check_key(key).split("/")
        self.describe(key)
        with self._faults("probe", key), self._folder(folders) as folder:
            try:
                os.link(name, name, src_dir_fd=folder, dst_dir_fd=folder)
            except FileExistsError:
                return True
        return False

    # ---- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        with self._opened(key) as (file, info):
            end = info.st_size if length is None else min(info.st_size, start + length)
            os.lseek(file, start, os.SEEK_SET)
            position = start
            while position < end:
                with self._faults("read", key):
                    chunk = os.read(file, min(CHUNK, end - position))
                if not chunk:
                    raise RepositoryUnavailable(f"{self._cannot('read', key)}: it was cut short while it was read.")
                position += len(chunk)
                yield chunk

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the contract says; a folder is read when its turn comes."""
        if is_prefix(prefix):
            *folders, beginning = prefix.split("/")
            yield from self._walk(folders, beginning)

    def describe(self, key: str) -> ObjectInfo:
        with self._opened(key) as (_, info):
            return ObjectInfo(key, info.st_size, _modified(info))

    def examine(self) -> Iterator[Finding]:
        """Look at the folder."""
        try:
            with self._faults("look at", str(self._root)):
                info = self._root.stat()
        except RepositoryError as error:
            yield Finding("folder", Level.UNKNOWN, error.message, error.hint)
            return
        if info.st_mode & 0o077:
            yield Finding("others' access", Level.ADVICE, f"mode {info.st_mode & 0o777:o}", f"chmod 700 {self._root}")
        else:
            yield Finding("others' access", Level.GOOD, "none")
        if info.st_dev == Path("/").stat().st_dev:
            remedy = "Mount a disk of its own there, or one of another host: a full or broken system disk takes both."
            yield Finding("disk", Level.ADVICE, "the system's own", remedy)
        else:
            yield Finding("disk", Level.GOOD, "one of its own")

    def time(self) -> datetime | None:
        """The clock of whoever keeps the disk: another host's where it is mounted over a network."""
        try:
            with self._folder(()) as folder:
                writer = _Writer(folder)
        except OSError:
            return None  # it may be read alone, or is not there yet
        try:
            with self._faults("look at the time in", "the folder"):
                writer.write(b"What is the time?\n")
                return _modified(writer.finish())
        finally:
            writer.close()

    def free_bytes(self) -> int | None:
        """What is free to this user on the disk that holds the folder, or will."""
        with self._faults("look at", "the free space"):
            existing = next(path for path in (self._root, *self._root.parents) if path.exists())
            free = os.statvfs(existing)
            return free.f_bavail * free.f_frsize

    # ---- files and folders ------------------------------------------------------------------------------------------

    def _publish(self, writer: _Writer, folder: int, name: str, key: str) -> None:
        try:
            writer.link(folder, name)
        except FileExistsError:
            self._refuse_existing(key)
            raise
        os.fsync(folder)

    def _in_folder(self, folders: Sequence[str], act: Callable[[int], Result]) -> Result:
        """What `act` makes of a folder, which is created where it is missing.

        Done again when the folder vanishes meanwhile: a delete elsewhere may find it empty still, and remove it.
        """
        for _ in range(VANISHING_FOLDERS):
            with suppress(FileNotFoundError), self._folder(folders, create=True) as folder:
                return act(folder)
        with self._folder(folders, create=True) as folder:
            return act(folder)

    def _refuse_existing(self, key: str) -> None:
        try:
            self.describe(key)
        except ObjectNotFound:
            return
        raise ObjectExists(f"{key} already exists in {self._name}.", hint="Objects are never overwritten.")

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, os.stat_result]]:
        """An object's file, opened for reading."""
        *folders, name = check_key(key).split("/")
        with self._faults("read", key):
            try:
                with self._folder(folders) as folder:
                    # Not blocking, so that a pipe somebody put there does not hold us up.
                    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                hint = "`lifeboat list` shows what is there."
                raise ObjectNotFound(f"{self._cannot('read', key)}: it is not there.", hint=hint) from None
        try:
            info = os.fstat(file)
            if not stat.S_ISREG(info.st_mode):
                raise RepositoryError(f"{self._cannot('read', key)}: it is a folder or a device, not a file.")
            yield file, info
        finally:
            os.close(file)

    @contextmanager
    def _folder(self, folders: Iterable[str], *, create: bool = False) -> Iterator[int]:
        """A folder below the root, walked to name by name; what is created on the way is on the disk at once."""
        if create:
            _make_folders(self._root)
        here = os.open(self._root, _FOLDER)
        try:
            for name in folders:
                there = _open_below(here, name, create=create)
                os.close(here)
                here = there
            yield here
        finally:
            os.close(here)

    def _walk(self, folders: Sequence[str], beginning: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects below a folder, in key order: there, `a-b` comes before `a/b`, and `a/b` before `a0`."""
        path = "".join(f"{folder}/" for folder in folders)
        with self._faults("list", path or "everything"):
            entries = self._entries(folders, beginning)
        for name, info in entries:
            if name.endswith("/"):
                yield from self._walk([*folders, name[:-1]])
            else:
                yield ObjectInfo(path + name, info.st_size, _modified(info))

    def _entries(self, folders: Sequence[str], beginning: str) -> Sequence[tuple[str, os.stat_result]]:
        """A folder's own entries by name, those of folders with a `/`. What vanishes meanwhile is left out."""
        entries = []
        with suppress(FileNotFoundError, NotADirectoryError), self._folder(folders) as folder:
            for entry in os.scandir(folder):
                if not is_key(entry.name) or not entry.name.startswith(beginning):
                    continue  # unfinished, or somebody else's
                with suppress(FileNotFoundError):
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(info.st_mode):
                        entries.append((f"{entry.name}/", info))
                    elif stat.S_ISREG(info.st_mode):
                        entries.append((entry.name, info))
        return sorted(entries, key=lambda entry: entry[0])

    def _cannot(self, verb: str, key: str) -> str:
        return f"Cannot {verb} {key} in {self._name} ({self.url})"

    @contextmanager
    def _faults(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind, hint = _KINDS.get(error.errno or 0, (RepositoryError, "Look at the disk and at the kernel's log."))
            raise kind(f"{self._cannot(verb, key)}: {error.strerror or error}.", hint=hint) from error


class _Writer:
    """A file without a name, so that nothing is left of it unless it is finished; where those exist."""

    def __init__(self, folder: int) -> None:
        self._folder = os.dup(folder)
        self._name: str | None = None
        try:
            self._file = self._open()
        except BaseException:
            os.close(self._folder)
            raise

    def _open(self) -> int:
        if _UNNAMED.exists():
            try:
                return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
            except OSError as error:
                if os.fstat(self._folder).st_nlink == 0:  # ext4 then says EPERM
                    raise FileNotFoundError(errno.ENOENT, "the folder has been removed") from None
                # NFS and others have no unnamed files.
                if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
                    raise
        # No key has a `~`, so this name is never taken for an object.
        self._name = f"~{uuid.uuid4().hex}"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._name, flags, 0o600, dir_fd=self._folder)

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def finish(self) -> os.stat_result:
        os.fsync(self._file)
        return os.fstat(self._file)

    def link(self, folder: int, name: str) -> None:
        """Give it a name of its own. Raises `FileExistsError` where there is one: a link never replaces."""
        if self._name is None:
            os.link(_UNNAMED / str(self._file), name, dst_dir_fd=folder, follow_symlinks=True)
        else:
            os.link(self._name, name, src_dir_fd=self._folder, dst_dir_fd=folder)

    def close(self) -> None:
        os.close(self._file)
        if self._name is not None:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)
        os.close(self._folder)


def _open_below(folder: int, name: str, *, create: bool) -> int:
    """A folder in a folder. Raises `NotADirectoryError` for a file, and another `OSError` for a symbolic link."""
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, f"{name} is a symbolic link") from None
        raise
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    os.fsync(folder)
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)


def _make_folders(path: Path) -> None:
    """Create a folder and its parents, each on the disk before the next."""
    if path.is_dir():
        return
    _make_folders(path.parent)
    with suppress(FileExistsError):
        path.mkdir(0o700)
    parent = os.open(path.parent, _FOLDER)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _modified(info: os.stat_result) -> datetime:
    return datetime.fromtimestamp(info.st_mtime, UTC)


_UNFINISHED = re.compile(r"~[0-9a-f]{32}")
_UNNAMED = Path("/proc/self/fd")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_ROOM = (RepositoryFull, "Make room on the disk, or raise the quota; nothing of the object was left.")
_RIGHTS = (RepositoryRefused, "Let the user that runs Lifeboat write to the folder, and mount the disk for writing.")
_LINKS = (RepositoryRefused, f"{_RIGHTS[1]} It must know hard links: ext4, XFS and NFS do, FAT and exFAT do not.")
_DEVICE = (RepositoryUnavailable, "Look at the disk and its mount, then try again.")
_WAY = (RepositoryRefused, "A file or a symbolic link stands where a folder belongs; links are not followed.")

_KINDS = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _LINKS,
    errno.EOPNOTSUPP: _LINKS,
    errno.EROFS: _RIGHTS,
    errno.EIO: _DEVICE,
    errno.ESTALE: _DEVICE,
    errno.ETIMEDOUT: _DEVICE,
    errno.ENOTCONN: _DEVICE,
    errno.EHOSTDOWN: _DEVICE,
    errno.ELOOP: _WAY,
    errno.ENOTDIR: _WAY,
}
