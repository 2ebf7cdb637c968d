"""Running the platform's own commands: what they say is heard while they run, without secrets, and not for ever."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lifeboat.children import Children, how_it_ended
from lifeboat.errors import EndedFromOutside, RestoreFailed
from lifeboat.notify.alert import mask_all
from lifeboat.presets import Step, commands_of
from lifeboat.progress import Report
from lifeboat.recovery.masking import Mask, mask_of
from lifeboat.recovery.means import Means

LOOK = 0.1
"""Seconds after which a command's output is looked at again."""

LAST_LINES = 20
"""Of a command that failed, so many lines are repeated in its error."""

LONGEST_LINE = 2000
"""Characters of one line that are reported."""


@dataclass(frozen=True)
class Ran:
    """A command that has ended: its exit status, None when it took too long, and the last it said."""

    command: str
    status: int | None
    seconds: float
    said: str

    @property
    def passed(self) -> bool:
        return self.status == 0

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        if self.status is None:
            return f"took more than {self.seconds:.0f} s"
        return how_it_ended(self.status)

    @property
    def failure(self) -> type[EndedFromOutside | RestoreFailed]:
        """The error of one that did not pass: what a signal has ended says nothing."""
        return EndedFromOutside if self.status is not None and self.status < 0 else RestoreFailed


def run_step(means: Means, step: Step, *, services: Sequence[str] = (), only_say: bool = False) -> tuple[str, ...]:
    """Run the commands of a step, one after the other; returns what went wrong where platform.yaml says to go on.

    With `only_say`, they are said and not run. Raises `RestoreFailed` for the first that fails otherwise, and
    `EndedFromOutside` for one that a signal has ended.
    """
    settings = means.platform.application
    commands = commands_of(settings, step, services) if settings is not None else ()
    if settings is None or not commands:
        means.report(f"{step}: platform.yaml names no commands for it")
        return ()
    goes_on = getattr(settings.on_failure, step, "stop") == "go on"
    failures = []
    for command in commands:
        if only_say:
            means.report(f"{step}: not run in a practice: {shlex.join(command)}")
            continue
        ran = run_command(means, step, command, settings.seconds(step))
        if ran.passed:
            continue
        failure = f"The command to {step} {ran.ended}: {ran.command}\n{ran.said or 'It said nothing.'}"
        if not goes_on:
            raise ran.failure(
                failure,
                hint=f"Correct it, or `application.{step}` in platform.yaml, and repeat this step: what is done stays.",
            )
        means.report(f"WARNING: {failure}\nIt goes on, as platform.yaml says (on_failure).")
        failures.append(failure)
    return tuple(failures)


def run_command(means: Means, step: str, command: Sequence[str], seconds: float) -> Ran:
    """Run a command; every line it says is reported as it comes. Never raises for how it ends.

    It gets our environment without what leads to Airflow's connections. What it leaves in the background may go on.
    """
    hide = hider(means)
    shown = hide(shlex.join(command))
    means.report(f"{step}: {shown}")
    children, began = Children(within=means.children), time.monotonic()
    # A file in memory, since what stays in the background would hold a pipe open.
    with os.fdopen(os.memfd_create("output"), "r+b", buffering=0) as output:
        try:
            process = children.start(
                command, env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        except OSError as error:
            return Ran(shown, 127, 0, f"{command[0]}: {error.strerror}")
        heard = _Lines(output.fileno(), lambda line: means.report(f"  {line}"), hide)
        status: int | None = None
        try:
            deadline = began + seconds
            while process.poll() is None and time.monotonic() < deadline:
                heard.look()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK)
            if process.poll() is not None:
                status = children.finish(process)
        finally:
            children.stop(process)
        heard.look(last=True)
    children.refuse_killed()
    return Ran(shown, status, round(time.monotonic() - began, 3), "\n".join(heard.last))


def hider(means: Means) -> Mask:
    """What takes secrets out of a text: those of the environment, and of the platform's connections."""
    mask = mask_of(means.platform, means.lookup)
    mine = mask_all({value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= _SHORTEST})
    return lambda text: mine(mask(text))


_SECRET = re.compile(
    r"PASS|SECRET|TOKEN|PRIVATE|CREDENTIAL|AIRFLOW_CONN_|(?<!MON)KEY$|DATABASE_URL|_DSN$", re.IGNORECASE
)

_SHORTEST = 4
"""A shorter secret would hide ordinary text."""


def _environment() -> Mapping[str, str]:
    """Our own, without what leads to the connections of Airflow and its metadata database."""
    prefixes = ("AIRFLOW_CONN_", "AIRFLOW__", "AIRFLOW_VAR_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


class _Lines:
    """Reads what was written to a file since the last look, line by line."""

    def __init__(self, file: int, tell: Report, hide: Callable[[str], str]) -> None:
        self._file = file
        self._tell = tell
        self._hide = hide
        self._position = 0
        self._rest = b""
        self.last: list[str] = []

    def look(self, *, last: bool = False) -> None:
        """Tell all whole lines that are new; with `last`, also one that is not whole."""
        while data := os.pread(self._file, 65536, self._position):
            self._position += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in whole:
                self._say(line)
            self._rest = self._rest[:LONGEST_LINE]
        if last and self._rest:
            self._say(self._rest)
            self._rest = b""

    def _say(self, line: bytes) -> None:
        text = self._hide(line.decode(errors="replace").rstrip())[:LONGEST_LINE]
        self.last = [*self.last[1 - LAST_LINES :], text]
        self._tell(text)
