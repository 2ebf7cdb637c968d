"""What this user has made in folders where others can make things too, such as /var/tmp.

Anybody can give a folder, a link or a pipe any name there. What is somebody else's is passed over: it is neither
followed nor waited for, and stops nobody.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def own_folders(base: Path, prefix: str) -> Iterator[Path]:
    """Yield this user's folders in `base` whose names begin with `prefix`."""
    return (path for path in base.glob(f"{prefix}*") if is_own_folder(path))


def remove_left(base: Path, prefix: str) -> tuple[str, ...]:
    """Remove this user's folders that ended processes have left; the names. A process's number follows the prefix."""
    removed = []
    for folder in own_folders(base, prefix):
        process = folder.name.removeprefix(prefix).partition("-")[0]
        if process.isdigit() and not Path("/proc", process).exists():
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
    return tuple(removed)


def is_own_folder(path: Path) -> bool:
    """Whether this is a folder of this user's, and not a link to one."""
    with suppress(OSError):
        status = path.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return False


def open_own(path: Path) -> int:
    """A descriptor to read a file of this user's. Raises `OSError`, for a link, a pipe and another's file as well."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        return file
    os.close(file)
    raise PermissionError(errno.EPERM, "it is no file of this user's", str(path))


def make_folders(folder: Path) -> None:
    """Make a private folder, and those above it that are missing. What root makes belongs to who owns the one above.

    So a command that was once run as root keeps nobody's nightly runs from their own state. Raises `OSError`.
    """
    if folder.is_dir():
        return
    make_folders(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(0o700)
        if os.geteuid() == 0:
            above = folder.parent.stat()
            # By its descriptor: the owner of the one above could have put something else in its place meanwhile.
            made = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchown(made, above.st_uid, above.st_gid)
            finally:
                os.close(made)


def make_file(path: Path, flags: int) -> int:
    """A descriptor of a private file, made if it is missing; what root makes belongs to the folder's owner."""
    file = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    # A name somebody has given to another file, by a hard link, must not make that file theirs.
    if os.geteuid() == 0 and os.fstat(file).st_nlink == 1:
        above = path.parent.stat()
        os.fchown(file, above.st_uid, above.st_gid)
    return file
