"""Reading a `.env` file as Docker Compose does, so that one file serves both. No message repeats any of its text.

Compose refuses a file for one line that it cannot read. Here what is not ours is passed over: a recovery must not wait
for somebody to mend a line that means nothing to it.
"""

from __future__ import annotations

import codecs
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
        data = file.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be read: {error.strerror}.", hint="Name another with `--env-file`."
        ) from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # else none of it would be found to be ours
        raise SettingsError(f"{file} cannot be read: it is UTF-16 text.", hint="Store it as UTF-8.")
    text = data.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n")
    variables: dict[str, str] = {}
    around = os.environ if environ is None else environ
    position = 0
    while position < len(text):
        line, end = text.count("\n", 0, position) + 1, text.find("\n", position) + 1 or len(text) + 1
        found = _ASSIGNMENT.match(text, position)
        wrong = _NO_ASSIGNMENT if found is None else _set(variables, found, {**variables, **around})
        if wrong is not None:
            _refuse_ours(f"{file}:{line}", text[position : end - 1], wrong)
        position = end if found is None or wrong else found.end()
    return variables


def assignments(text: str) -> list[tuple[str, str]]:
    """Every assignment of a file as it is written: references and what follows a bare value as they are.

    Raises `ValueError` for a line that assigns nothing, and for a quote that may be closed or not: then what looks like
    a name may be part of a secret.
    """
    text, position = text.replace("\r\n", "\n"), 0
    made: list[tuple[str, str]] = []
    while position < len(text):
        end = text.find("\n", position) + 1 or len(text) + 1
        found = _ASSIGNMENT.match(text, position)
        line = text[position : end - 1].strip()
        if found is None and line and not line.startswith("#"):
            raise ValueError("there are lines that assign nothing")
        if found is not None and (found["plain_single"] or "").endswith("\\"):
            raise ValueError("a quote may be closed or not")
        if found is not None:
            quoted = _single(found) if found["double"] is None else found["double"]
            plain = text[max(found.start("plain"), 0) : found.end()].strip()
            made.append((found["key"], plain if quoted is None else quoted))
        position = end if found is None else found.end()
    return made


_Wrong = tuple[str, str]
"""What is wrong with a line, and what to do."""

_NO_ASSIGNMENT = (
    "is not of the form KEY=value",
    "Put quotes around a value with spaces or quotes in it, and close them; nothing may follow them.",
)


def _single(found: re.Match[str]) -> str | None:
    single: str | None = found["single"] if found["single"] is not None else found["plain_single"]
    return None if single is None else single.replace("\\'", "'")


def _set(variables: dict[str, str], found: re.Match[str], known: Mapping[str, str]) -> _Wrong | None:
    """Set a variable; what is wrong with it, if its value cannot be made."""
    single = _single(found)
    try:
        if single is not None:
            value = single
        elif found["double"] is not None:
            value = _expanded(found["double"], known, _ESCAPES)
        else:
            value = _expanded(found["plain"].strip(), known, {})
    except ValueError:
        return "refers to a variable that is not set or is not closed", "Set that variable, or close its brace."
    if found["key"].startswith(OURS) and _STRAY.search(value):
        return "is not UTF-8 text", "Store the file as UTF-8."
    variables[found["key"]] = value
    return None


_STRAY = re.compile("[\udc80-\udcff]")
"""A byte that is no UTF-8."""


def _refuse_ours(place: str, line: str, wrong: _Wrong) -> None:
    name = re.match(r"\s*(?:export\s+)?([^\s=:]+)\s*[=:\s]", line)
    if name is not None and name[1].startswith(OURS):
        raise SettingsError(f"{place} {wrong[0]}.", hint=wrong[1])


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
