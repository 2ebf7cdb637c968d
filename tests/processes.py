"""What a process has started, and waiting for what happens in other processes."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def children_of(process: int, program: str = "") -> list[int]:
    """The processes a process has started, by any of its threads; only those that run `program` when it is named."""
    return _running(_families().get(process, []), program)


def descendants_of(process: int, program: str = "") -> list[int]:
    """The processes a process has started, what those have started, and so on; chosen as by `children_of`."""
    families, found, left = _families(), list[int](), [process]
    while left:
        found += families.get(left[0], [])
        left += families.get(left.pop(0), [])
    return _running(found, program)


def _families() -> dict[int, list[int]]:
    """The children of every process that has some.

    Not from /proc/<process>/task/<thread>/children, which leaves some out while others end: proc_tid_children(5).
    """
    families: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := read_text(entry / "stat")):
            parent = int(stat.rpartition(")")[2].split()[1])
            families.setdefault(parent, []).append(int(entry.name))
    return families


def _running(processes: list[int], program: str) -> list[int]:
    """Those that run a program, or all when none is named."""
    return [one for one in processes if Path(program_of(one)).name == program] if program else processes


def kill_with_descendants(process: int) -> None:
    """Kill a process and all it has started, at once, as when its host dies: none of them can do anything more."""
    doomed = [process]
    for one in doomed:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGSTOP)  # so that it starts nothing while the others are looked for
        doomed += children_of(one)
    for one in doomed:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def program_of(process: int) -> str:
    """What a process runs; nothing when it has ended."""
    return read_text(Path(f"/proc/{process}/cmdline")).partition("\0")[0]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 20 s"
        time.sleep(0.02)


def be_dumpable(dumpable: bool) -> None:
    """Whether others than root may look into this process; Airflow lets nobody look into its tasks (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, int(dumpable))


_PR_SET_DUMPABLE = 4


def read_text(path: Path) -> str:
    """What a file holds; nothing when it, or the process it tells of, is gone."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
