"""What a process has started, and waiting for what happens in other processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def children_of(process: int, program: str = "") -> list[int]:
    """The processes a process has started, by any of its threads; only those that run `program` when it is named."""
    # Not from /proc/<process>/task/*/children, which leaves some out while others end: proc_tid_children(5).
    everyone = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    children = [one for one in everyone if parent_of(one) == process]
    return [child for child in children if Path(program_of(child)).name == program] if program else children


def descendants_of(process: int, program: str = "") -> list[int]:
    """The processes a process has started, what those have started, and so on; chosen as by `children_of`."""
    found, left = [], children_of(process)
    while left:
        found.append(left.pop())
        left += children_of(found[-1])
    return [one for one in found if Path(program_of(one)).name == program] if program else found


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


def parent_of(process: int) -> int:
    """The process that started this one; 0 when it has ended."""
    fields = read_text(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def program_of(process: int) -> str:
    """What a process runs; nothing when it has ended."""
    return read_text(Path(f"/proc/{process}/cmdline")).partition("\0")[0]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 20 s"
        time.sleep(0.02)


def read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
