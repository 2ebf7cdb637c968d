"""Files that a restore over what is in a folder has made aside, and was killed before they had their names."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lifeboat.aside import Mark, held_by_nobody
from lifeboat.files.placing import ASIDE
from lifeboat.files.scan import scan
from lifeboat.progress import count_text

_MARK = ".restoring"


@contextmanager
def marked(root: Path, run: str) -> Iterator[tuple[str, ...]]:
    """A mark in a folder that is restored into; gives what is to be said of files that ended restores had left there.

    Where none can be made, the restore goes on without: what it would leave if it were killed is then not found.
    """
    notes = tuple(_removed_below(root))
    mark = None
    with suppress(OSError), _keeping_time(root):
        mark = Mark(root / f"{ASIDE}{run}{_MARK}")
    try:
        yield notes
    finally:
        if mark is not None:
            with _keeping_time(root):
                mark.remove()


def _removed_below(root: Path) -> Iterator[str]:
    for path in sorted(root.glob(f"{ASIDE}*{_MARK}")):
        run = path.name.removeprefix(ASIDE).removesuffix(_MARK)
        held = held_by_nobody(path) if re.fullmatch("[0-9a-f]{8}", run) else None
        if held is None:
            continue
        try:
            with _keeping_time(root):
                count = _remove(root, re.compile(re.escape(f"{ASIDE}{run}") + "[0-9a-f]{16}"))
                path.unlink()
            if count:
                files = count_text(count, "unfinished file")
                yield f"{files} in {root}, which a restore that was ended had left: removed"
        except OSError as error:
            yield f"what a restore that was ended has left in {root} cannot be removed: {error.strerror}"
        finally:
            os.close(held)


def _remove(root: Path, name: re.Pattern[str]) -> int:
    count = 0
    for found in scan(str(root)):
        if name.fullmatch(found.name) and not stat.S_ISDIR(found.info.st_mode):
            os.unlink(found.name, dir_fd=found.folder.fd)
            count += 1
    return count


@contextmanager
def _keeping_time(folder: Path) -> Iterator[None]:
    """The folder's time stays what it is: it is somebody else's, or has just been put back."""
    before = folder.stat()
    yield
    with suppress(OSError):  # not its owner
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
