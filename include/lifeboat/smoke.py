"""Smoke checks: whether a restored database is one the platform can work with, in the platform's own terms.

SQL questions with the one value that is the right answer, a command, and an address to be asked. What fails, hangs or
answers otherwise is a result, never an exception that would hide the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lifeboat.children import Children, run
from lifeboat.errors import LifeboatError, SettingsError
from lifeboat.located_yaml import LocatedYaml, read_yaml

# Settings name checks; what asks them is imported when they are asked.
if TYPE_CHECKING:
    from lifeboat.postgres.connection import PostgresServer

SQL_SECONDS = 60.0
"""How long a question may take that sets no `seconds` of its own."""

COMMAND_SECONDS = 600.0
"""How long the command may take."""

URL_SECONDS = 30.0
"""How long the address may take to answer."""

SHOWN = 200
"""How many characters of a value or of a program's last words are shown."""


@dataclass(frozen=True)
class SqlCheck:
    """A question in SQL, and the one value that is the right answer."""

    name: str
    sql: str
    expected: Any
    seconds: float = SQL_SECONDS


@dataclass(frozen=True)
class SmokeChecks:
    """All that a restored database is asked. `command` is a program and its arguments."""

    sql: tuple[SqlCheck, ...] = ()
    command: tuple[str, ...] = ()
    url: str | None = None


@dataclass(frozen=True)
class CheckResult:
    """What a check expected and found, as text for people."""

    name: str
    passed: bool
    seconds: float
    expected: str
    found: str


def run_checks(
    server: PostgresServer, database: str, checks: SmokeChecks, *, children: Children | None = None
) -> tuple[CheckResult, ...]:
    """Ask a restored database everything, one after the other. Never raises for what a check finds, and
    `EndedFromOutside` when its command could not end by itself.

    SQL is asked in transactions that cannot write. The command finds the database through libpq's variables (PGHOST,
    PGDATABASE, …) and DATABASE_URL; it is given none of Airflow's and Lifeboat's own, which lead to the real one.
    """
    results = [_timed(check.name, partial(_ask, server, database, check)) for check in checks.sql]
    if checks.command:
        name = f"command {Path(checks.command[0]).name}"
        started = partial(_command, server, database, checks.command, children or Children())
        results.append(_timed(name, started))
    if checks.url is not None:
        results.append(_timed(f"GET {checks.url.partition('?')[0]}", partial(_probe, checks.url)))
    return tuple(results)


def read_sql_checks(file: Path) -> tuple[SqlCheck, ...]:
    """The questions in a YAML file: a list of `name`, `sql`, `expected` and, where a minute is too short, `seconds`.

    Raises one `SettingsError` listing every problem with its line and remedy.
    """
    located = read_yaml(file)
    if not isinstance(located.data, list) or not located.data:
        raise SettingsError(
            f"{file}:1 must be a list of smoke checks.",
            hint="Begin each with `- name: …`, and give it `sql: …` and `expected: …`.",
        )
    problems = [problem for index in range(len(located.data)) for problem in _problems(located, index)]
    if problems:
        raise SettingsError("\n".join([f"{file} is wrong:", *problems]), hint="Correct it there.")
    return tuple(SqlCheck(**item) for item in located.data)


# ---- running --------------------------------------------------------------------------------------------------------

_Outcome = tuple[bool, str, str]
"""Whether it passed, what was expected, what was found."""


def _timed(name: str, check: Callable[[], _Outcome]) -> CheckResult:
    began = time.monotonic()
    passed, expected, found = check()
    return CheckResult(name, passed, round(time.monotonic() - began, 3), expected, found)


def _ask(server: PostgresServer, database: str, check: SqlCheck) -> _Outcome:
    import psycopg

    from lifeboat.postgres.faults import words_of

    expected = _shown(check.expected)
    try:
        with server.visit(database, autocommit=False) as connection:
            connection.read_only = True
            try:
                connection.execute("SELECT set_config('statement_timeout', %s, true)", [f"{check.seconds * 1000:.0f}"])
                # A stream sends one statement alone, and holds no more than the rows that are looked at.
                rows = list(islice(connection.cursor().stream(check.sql.encode()), 2))
            except psycopg.errors.QueryCanceled:
                return False, expected, f"no answer within {check.seconds:g} s"
            except psycopg.Error as error:
                return False, expected, _cut(words_of(error))
            finally:
                connection.rollback()
    except LifeboatError as error:
        return False, expected, _cut(error.message)
    if len(rows) != 1 or len(rows[0]) != 1:
        return False, expected, "no row" if not rows else "more than one value"
    return _same(rows[0][0], check.expected), expected, _shown(rows[0][0])


def _command(server: PostgresServer, database: str, command: Sequence[str], children: Children) -> _Outcome:
    expected = "exit status 0"
    try:
        status, said = run(children, command, env=_environment(server, database), seconds=COMMAND_SECONDS)
    except OSError as error:
        return False, expected, _cut(str(error))
    ended = f"exit status {status}" if status is not None else f"no end within {COMMAND_SECONDS:g} s"
    for secret in filter(None, (server.password, quote(server.password, safe=""))):
        said = said.replace(secret, "…")
    return status == 0, expected, ended if status == 0 or not said else f"{ended}: {_cut(said, end=True)}"


def _environment(server: PostgresServer, database: str) -> dict[str, str]:
    inherited = server.application_environment()
    kept = {name: value for name, value in inherited.items() if not name.startswith(("AIRFLOW", "LIFEBOAT"))}
    login = quote(server.user, safe="") + (f":{quote(server.password, safe='')}" if server.password else "")
    url = f"postgresql://{login}@{server.host}:{server.port}/{quote(database, safe='')}"
    return kept | {"PGDATABASE": database, "DATABASE_URL": url}


def _probe(url: str) -> _Outcome:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=URL_SECONDS) as answer:  # noqa: S310 - settings allow http(s) alone
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except (OSError, ValueError, urllib.error.URLError) as error:
        return False, "status 2xx", _cut(str(error))
    return 200 <= status < 300, "status 2xx", f"status {status}"


def _same(found: Any, expected: Any) -> bool:
    """Whether a value of PostgreSQL is the one the YAML means: `true` is not 1, and 0.1 is the decimal number."""
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(expected, float) and isinstance(found, Decimal):
        return Decimal(str(expected)) == found
    if isinstance(expected, str):
        return str(found) == expected
    return bool(found == expected)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else _cut(str(value))


def _cut(text: str, *, end: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) <= SHOWN:
        return text
    return f"…{text[-SHOWN:]}" if end else f"{text[:SHOWN]}…"


# ---- reading --------------------------------------------------------------------------------------------------------

_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str) and bool(value.strip()), "Give what the check is called."),
    "sql": (lambda value: isinstance(value, str) and bool(value.strip()), "Give one statement that gives one value."),
    "expected": (
        lambda value: value is None or isinstance(value, bool | int | float | str | date | datetime),
        "Give the one right value, such as 0 or true.",
    ),
    "seconds": (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value > 0,
        "Give the seconds it may take, such as 300.",
    ),
}


def _problems(located: LocatedYaml, index: int) -> list[str]:
    check, found = located.data[index], []
    if not isinstance(check, dict):
        return [_problem(located, (index,), "is not a check.", "Give it `name`, `sql` and `expected`.")]
    for field, (right, remedy) in _FIELDS.items():
        if field not in check:
            if field != "seconds":
                found.append(_problem(located, (index,), f"`{field}` is missing.", remedy))
        elif not right(check[field]):
            found.append(_problem(located, (index, field), f"`{field}` is wrong.", remedy))
    for field in check.keys() - _FIELDS:
        known = ", ".join(_FIELDS)
        found.append(_problem(located, (index, field), f"There is no key `{field}`.", f"Known here: {known}."))
    for field in check:
        if (index, field) in located.duplicates:
            found.append(_problem(located, (index, field), f"`{field}` is given twice.", "Keep one of the two."))
    names = [other.get("name") for other in located.data[:index] if isinstance(other, dict)]
    if check.get("name") in names and isinstance(check.get("name"), str):
        found.append(_problem(located, (index, "name"), "`name` is another check's too.", "Give each its own."))
    return found


def _problem(located: LocatedYaml, path: tuple[int | str, ...], what: str, remedy: str) -> str:
    return f"  {located.place(path)}  {what}\n      {remedy}"
