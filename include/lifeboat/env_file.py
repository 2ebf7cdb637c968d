"""Reading a `.env` file as Docker Compose does, so that one file serves both. No message repeats any of its text.

Compose refuses a file for one line that it cannot read. Here what is not ours is passed over: a recovery must not wait
for somebody to mend a line that means nothing to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from lifeboat.errors import SettingsError

OURS = ("AIRFLOW_CONN_", "LIFEBOAT_")
"""How the names begin whose lines must be right."""


def read_env_file(file: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables set in a `.env` file. Raises `SettingsError` naming the line of one of ours, and never its text.

    Values may go over several lines in quotes. In single quotes all is literal but `\\'`; in double quotes `\\n`,
    `\\r`, `\\t`, `\\"`, `\\\\` and `\\$` are escapes; elsewhere ` #` begins a comment. Outside single quotes `${NAME}`,
    `${NAME:-default}` and their like stand for what `environ`, else the file above, has; so does `$NAME` where either
    has it, and is otherwise literal, as it always was here. A name alone sets nothing.
    """
    try:
        text = file.read_text("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{file} cannot be read: {reason}.", hint="Name another with `--env-file`.") from None
    variables: dict[str, str] = {}
    around = os.environ if environ is None else environ
    position = 0
    while position < len(text):
        line, end = text.count("\n", 0, position) + 1, text.find("\n", position) + 1 or len(text) + 1
        found = _ASSIGNMENT.match(text, position)
        if found is None or not _sets(variables, found, {**variables, **around}):
            _refuse_ours(f"{file}:{line}", text[position : end - 1])
            position = end
        else:
            position = found.end()
    return variables


def _sets(variables: dict[str, str], found: re.Match[str], known: Mapping[str, str]) -> bool:
    """Set a variable; returns whether its value could be made."""
    single = found["single"] if found["single"] is not None else found["plain_single"]
    try:
        if single is not None:
            value = single.replace("\\'", "'")
        elif found["double"] is not None:
            value = _expanded(found["double"], known, _ESCAPES)
        else:
            value = _expanded(found["plain"].strip(), known, {})
    except ValueError:
        return False
    variables[found["key"]] = value
    return True


def _refuse_ours(place: str, line: str) -> None:
    name = re.match(r"\s*(?:export\s+)?([^\s=:]+)\s*[=:\s]", line)
    if name is not None and name[1].startswith(OURS):
        raise SettingsError(
            f"{place} is not of the form KEY=value.",
            hint="Put quotes around a value with spaces or quotes in it, and close them; nothing may follow them.",
        )


def _expanded(text: str, known: Mapping[str, str], escapes: Mapping[str, str]) -> str:
    """A value with what its references stand for. Raises `ValueError` for one that must be set, or never ends."""
    made, position = [], 0
    while position < len(text):
        one, rest = text[position], text[position + 1 :]
        if one == "\\" and escapes and rest[:1] in escapes:
            made.append(escapes[rest[0]])
            position += 2
        elif one == "$" and (braced := _BRACED.match(rest)):
            end = _end_of(rest, braced.end())
            made.append(_referred(braced["name"], braced["how"] or "", rest[braced.end() : end], known, escapes))
            position += end + 2
        elif one == "$" and (named := _NAMED.match(rest)) and named[0] in known:
            made.append(known[named[0]])
            position += 1 + named.end()
        else:
            made.append(one)
            position += 1
    return "".join(made)


def _referred(name: str, how: str, other: str, known: Mapping[str, str], escapes: Mapping[str, str]) -> str:
    """What `${name:-other}` and its like stand for; with a colon, what is empty counts as not set."""
    there = bool(known.get(name)) if how.startswith(":") else name in known
    match how[-1:]:
        case "-" if not there:
            return _expanded(other, known, escapes)
        case "+":
            return _expanded(other, known, escapes) if there else ""
        case "?" if not there:
            raise ValueError
    return known.get(name, "")


def _end_of(text: str, position: int) -> int:
    """Where the brace is closed that was opened before `position`. Raises `ValueError` where it never is."""
    depth = 1
    for at in range(position, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at
    raise ValueError


_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
_BRACED = re.compile(r"\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<how>:?[-+?])|(?=\}))")
_NAMED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(
    r"""[^\S\n]*(?:export[^\S\n]+)?(?P<key>[A-Za-z_][A-Za-z0-9_.-]*)[^\S\n]*[=:][^\S\n]*
    (?:'(?P<single>(?:[^'\\]|\\.)*)'|'(?P<plain_single>[^'\n]*)'|"(?P<double>(?:[^"\\]|\\.)*)"
    |(?P<plain>(?!['"])(?:[^#\n]|(?<!\s)\#)*))
    [^\S\n]*(?:(?<=\s)\#[^\n]*)?(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
