"""What commands print: results on standard output, everything about their making on standard error."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lifeboat.errors import LifeboatError
from lifeboat.progress import ProgressLog, progress_text

# Most commands print a few lines; what draws tables and bars is imported when there is something to draw.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from lifeboat.vault import Progress

# Without a terminal the width is unknown, and nobody wants a log wrapped at 80.
_WIDE = 200


def say(text: str) -> None:
    """Print a line of the result."""
    _print(sys.stdout, text)


def remark(text: str) -> None:
    """Print a line about the work: progress, warnings, next steps."""
    _print(sys.stderr, text)


def say_json(record: Mapping[str, Any]) -> None:
    """Print the result as one JSON document."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(record, indent=2, ensure_ascii=not is_unicode)
    sys.stdout.write(_ACTED_ON.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def say_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), nothing: str = ""
) -> None:
    """Print a table, or `nothing` in place of an empty one; the columns named in `right` are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    if nothing and not rows:
        say(nothing)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))  # Text, since plain strings would be read as markup
    _console(sys.stdout).print(table)


def say_error(error: LifeboatError) -> None:
    """Print what went wrong and what to do next."""
    console = _console(sys.stderr)
    console.print("Error: ", style="bold red", end="")
    _print(sys.stderr, error.message)
    if error.hint:
        console.print("Hint: ", style="bold", end="")
        _print(sys.stderr, error.hint)


@contextmanager
def showing_progress(totals: Mapping[str, int] | None = None) -> Iterator[Progress]:
    """A `Progress` shown as bars on a terminal, as a line now and then elsewhere. `totals` are bytes by artifact."""
    if not sys.stderr.isatty():
        yield ProgressLog(remark)
        return
    from rich import progress as bars

    console = _console(sys.stderr)
    bar = (bars.BarColumn(),) if totals else ()
    columns = (bars.TextColumn("{task.description}", markup=False), *bar, bars.TextColumn("{task.fields[passed]}"))
    with bars.Progress(*columns, console=console) as display:
        tasks: dict[str, tuple[TaskID, float]] = {}

        def hear(name: str, count: int) -> None:
            if name not in tasks:
                total = (totals or {}).get(name)
                tasks[name] = display.add_task(name, total=total, passed=""), time.monotonic()
            task, began = tasks[name]
            display.update(task, completed=count, passed=progress_text(count, time.monotonic() - began))

        yield hear


def print_anywhere() -> None:
    """Have the streams take every character: one that the terminal's encoding has not is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def harmless(text: str) -> str:
    """A text without what a terminal would act on: names of files and of objects are whatever somebody made them."""
    return _ACTED_ON.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


# Control characters but line feeds and tabs, and those that have others shown in another order.
_ACTED_ON = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _print(stream: Any, text: str) -> None:
    stream.write(f"{harmless(text)}\n")
    stream.flush()


def _console(stream: Any) -> Console:
    from rich.console import Console

    # Made anew for each use, so that it follows whatever the streams have become.
    console = Console(file=stream)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    return console
