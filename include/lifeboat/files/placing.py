"""Putting things into a folder: never outside of it, never through a symbolic link, each whole or not at all."""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

from lifeboat.files.attributes import path_in
from lifeboat.files.entries import Entry, EntryType, for_people
from lifeboat.files.scan import FOLDER_FLAGS, Folder

HELD = range(-(2**31) * 10**9, 2**31 * 10**9)
"""Times in nanoseconds that every file system can hold; beyond, some put the nearest one that they can."""

ASIDE = ".lifeboat-"
"""What the name of an unfinished file begins with."""


class Place:
    """A folder that things are put into. Safe to use from several threads.

    `is_new`: nothing was in it, and nobody else puts anything there, so that files need not be made aside. What is made
    aside has `run` in its name. `notes` are
    properties that could not be put back, by reason; `differing` of them are owners, modes and times.
    """

    def __init__(self, root: str, *, is_new: bool, run: str = "") -> None:
        self.root = Folder(os.open(root, FOLDER_FLAGS & ~os.O_NOFOLLOW))
        self.is_new = is_new
        self._aside = f"{ASIDE}{run}".encode()
        self._local = threading.local()
        self._privileged = os.geteuid() == 0
        self._own = os.geteuid(), os.getegid()
        self.notes: dict[str, int] = {}
        self.differing = 0
        self._lock = threading.Lock()

    def make_folder(self, path: bytes) -> bool:
        """Make a folder in one that is there; returns whether it was not there already."""
        if not path:
            return self.is_new
        folder, name = self._parent(path)
        try:
            os.mkdir(name, 0o700, dir_fd=folder.fd)
        except FileExistsError:
            os.close(os.open(name, FOLDER_FLAGS, dir_fd=folder.fd))  # raises where it is no folder
            return False
        return True

    def make_file(self, entry: Entry, data: bytes) -> None:
        """Make a file with these contents, in the place of any other file of its name."""
        with self.new_file(entry) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]

    @contextmanager
    def new_file(self, entry: Entry) -> Iterator[int]:
        """A file to be written; it has its name once nothing was raised."""
        folder, name = self._parent(entry.path)
        aside = name if self.is_new else self._aside + secrets.token_hex(8).encode()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(aside, flags, 0o600, dir_fd=folder.fd)
        try:
            try:
                yield file
                self._set_properties(entry, file)
            finally:
                os.close(file)
            if not self.is_new:
                os.rename(aside, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(aside, dir_fd=folder.fd)
            raise

    def make_link(self, entry: Entry, first: bytes) -> None:
        """Give a file that is there another name."""
        source, source_name = self._parent(first)
        target, name = self._parent(entry.path)
        self._put(
            target,
            name,
            lambda aside: os.link(
                source_name, aside, src_dir_fd=source.fd, dst_dir_fd=target.fd, follow_symlinks=False
            ),
        )

    def make_other(self, entry: Entry) -> None:
        """Make a symbolic link, a pipe, or, where this process may, a device. A socket is its program's to make."""
        folder, name = self._parent(entry.path)
        if entry.type is EntryType.SYMLINK:
            self._put(folder, name, lambda aside: os.symlink(entry.target, aside, dir_fd=folder.fd))
        elif entry.type is EntryType.FIFO:
            self._put(folder, name, lambda aside: os.mkfifo(aside, 0o600, dir_fd=folder.fd))
        elif entry.type is EntryType.SOCKET:
            self._note("sockets are made by the programs that listen on them")
            return
        else:
            kind = stat.S_IFCHR if entry.type is EntryType.CHARACTER_DEVICE else stat.S_IFBLK
            try:
                device = os.makedev(*entry.device)
                self._put(folder, name, lambda aside: os.mknod(aside, kind | 0o600, device, dir_fd=folder.fd))
            except PermissionError:
                self._note("devices can only be made by root")
                return
        with self._telling("owner"):
            if self._privileged:
                uid, gid = _owner_to_give(entry)
                os.chown(name, uid, gid, dir_fd=folder.fd, follow_symlinks=False)
        self._set_xattrs(entry, path_in(folder.fd, name), follow_symlinks=False)
        with self._telling("mode"):
            if entry.type is not EntryType.SYMLINK:
                os.chmod(name, entry.mode, dir_fd=folder.fd)
        with self._telling("time"):
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=folder.fd, follow_symlinks=False)
        self._tell_time(entry, lambda: os.stat(name, dir_fd=folder.fd, follow_symlinks=False))

    def set_properties(self, entry: Entry) -> None:
        """Give a file or folder that is there the properties it had."""
        folder, name = self._parent(entry.path) if entry.path else (self.root, b".")
        flags = FOLDER_FLAGS if entry.type is EntryType.FOLDER else os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=folder.fd)
        try:
            self._set_properties(entry, file)
        finally:
            os.close(file)

    def look(self, path: bytes) -> os.stat_result | None:
        """What is there under a path, if anything."""
        try:
            folder, name = self._parent(path)
            return os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def target_of(self, path: bytes) -> bytes:
        """Where a symbolic link leads."""
        folder, name = self._parent(path)
        return os.readlink(name, dir_fd=folder.fd)

    @contextmanager
    def opened(self, path: bytes) -> Iterator[int]:
        """A file that is there, for reading."""
        folder, name = self._parent(path)
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder.fd)
        try:
            yield file
        finally:
            os.close(file)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _parent(self, path: bytes) -> tuple[Folder, bytes]:
        """The open folder that holds a path, walked to name by name, and the name in it."""
        parent, _, name = path.rpartition(b"/")
        if getattr(self._local, "path", None) != parent:
            here = self.root
            for part in parent.split(b"/") if parent else ():
                here = Folder(os.open(part, FOLDER_FLAGS, dir_fd=here.fd))
            self._local.folder, self._local.path = here, parent
        return self._local.folder, name

    def _put(self, folder: Folder, name: bytes, make: Callable[[bytes], None]) -> None:
        """Make something aside and give it its name, in the place of what had it before, unless that is a folder."""
        aside = self._aside + secrets.token_hex(8).encode()
        make(aside)
        try:
            os.rename(aside, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
            with suppress(FileNotFoundError):  # two names of one file: such a rename does nothing
                os.unlink(aside, dir_fd=folder.fd)
        except OSError:
            with suppress(OSError):
                os.unlink(aside, dir_fd=folder.fd)
            raise

    def _set_properties(self, entry: Entry, file: int) -> None:
        """Give it what it had, as far as can be: contents are worth more than a mode that this file system has not."""
        mode = entry.mode
        if self._privileged:
            try:
                os.fchown(file, *_owner_to_give(entry))
            except (OSError, OverflowError) as error:
                self._differs("owner", error)
                mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they would be another's rights
        elif owner_here(entry) != self._own:
            self._note("owners can only be restored by root")
        if entry.xattrs:
            self._set_xattrs(entry, file)  # before the mode, which may forbid writing
        try:
            os.fchmod(file, mode)
        except OSError as error:
            self._differs("mode", error)
        try:
            os.utime(file, ns=(entry.mtime, entry.mtime))
        except (OSError, OverflowError) as error:
            self._differs("time", error)
        if entry.mtime not in HELD:
            self._tell_time(entry, lambda: os.fstat(file))

    def _set_xattrs(self, entry: Entry, file: int | bytes, *, follow_symlinks: bool = True) -> None:
        for name, value in entry.xattrs.items():
            try:
                os.setxattr(file, name, value, follow_symlinks=follow_symlinks)
            except OSError as error:
                self._note(f"the attribute {for_people(name)} could not be set: {error.strerror}")

    def _tell_time(self, entry: Entry, look: Callable[[], os.stat_result]) -> None:
        """Say so when a time is beyond what the file system here can hold."""
        if entry.mtime not in HELD and look().st_mtime_ns != entry.mtime:
            self._note("the time is beyond what this file system holds; it has the nearest one")

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, OverflowError) as error:
            self._differs(what, error)

    def _differs(self, what: str, error: Exception) -> None:
        self._note(f"the {what} could not be set: {getattr(error, 'strerror', None) or error}")
        with self._lock:
            self.differing += 1

    def _note(self, reason: str) -> None:
        with self._lock:
            self.notes[reason] = self.notes.get(reason, 0) + 1


def is_time_of(entry: Entry, found: int) -> bool:
    """Whether a time is what an entry had, or the nearest that a file system could hold."""
    if found == entry.mtime or entry.mtime in HELD:
        return found == entry.mtime
    return HELD[-1] <= found < entry.mtime if entry.mtime > 0 else entry.mtime < found <= HELD[0]


def owner_here(entry: Entry) -> tuple[int, int]:
    """The user and group that an entry's names stand for on this host, or its numbers where there are no such names."""
    return _user(entry.user, entry.uid), _group(entry.group, entry.gid)


def _owner_to_give(entry: Entry) -> tuple[int, int]:
    owner = owner_here(entry)
    if NOBODY_AT_ALL in owner:
        raise OverflowError(f"{NOBODY_AT_ALL} is no user and no group")
    return owner


NOBODY_AT_ALL = 2**32 - 1
"""What some file systems say where they know no owner. To give a file to it means to leave its owner as it is."""


@cache
def _user(name: str | None, number: int) -> int:
    with suppress(KeyError):
        return pwd.getpwnam(name).pw_uid if name else number
    return number


@cache
def _group(name: str | None, number: int) -> int:
    with suppress(KeyError):
        return grp.getgrnam(name).gr_gid if name else number
    return number
