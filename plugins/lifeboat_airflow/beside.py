"""Keeps `run_events` at work beside the scheduler: when it dies, another is started. Costs next to nothing itself.

What the scheduler writes to the pipe is read by whichever is at work.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

POLL = 5.0
"""Seconds between looks whether the scheduler is still there."""

PAUSE = 10.0
"""Seconds before another is started in place of one that died."""

COMMAND = (sys.executable, "-m", "lifeboat_airflow.run_events")


def main() -> None:
    """Start it, and again after it died, until the scheduler ends. What it is telling then, it tells to the end."""
    scheduler = os.getppid()
    while os.getppid() == scheduler:
        process = subprocess.Popen(COMMAND)
        while process.poll() is None and os.getppid() == scheduler:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
        if process.poll() == 0 or os.getppid() != scheduler:
            return  # the pipe has ended
        time.sleep(PAUSE)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
