"""Running a command once: how long it took, how much processor time, and how much memory its largest process held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Run:
    """One run: seconds on the clock, seconds of processor time of its own processes, mebibytes at its peak."""

    wall: float
    processor: float
    peak_mib: float


def run(command: str | Sequence[str], *, env: Mapping[str, str] | None = None) -> Run:
    """Run a command, or a line for bash with `pipefail` on; raises `RuntimeError` with what it said when it fails."""
    arguments = ["bash", "-o", "pipefail", "-c", command] if isinstance(command, str) else list(command)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _MEASURE, *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with status {done.returncode}: {done.stderr[-3000:]}")
    return Run(*json.loads(done.stdout))


def middle(runs: Sequence[Run]) -> Run:
    """The median of each figure, and the highest peak."""
    return Run(
        median(run.wall for run in runs), median(run.processor for run in runs), max(run.peak_mib for run in runs)
    )


# In a small process of its own: a new process is counted as large as the one that made it. ru_maxrss is that of the
# largest process a command has waited for, in KiB; of a pipeline, of its largest member.
_MEASURE = """
import os, sys, time
began = time.monotonic()
quiet = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[quiet])
_, status, usage = os.wait4(process, 0)
print([time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024])
sys.exit(os.waitstatus_to_exitcode(status) and 1)
"""
