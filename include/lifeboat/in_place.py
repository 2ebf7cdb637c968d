"""Restoring over a live database without ever dropping it: beside it, compared, checked, then swapped by renaming.

Until the swap the live database serves on; what it was stays under a dated name until a person lets it go. At whatever
step this is killed, the names of the databases tell how far it came (`lifeboat.postgres.swap.Standing`).
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Unpack

from lifeboat.backup import RestoreOptions, read_evidence, restore_snapshot
from lifeboat.children import Children, run
from lifeboat.errors import LifeboatError, RestoreFailed, RestoreIncomplete
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.rebuilding import listed, refuse_lost_rows
from lifeboat.postgres.restore import RestoreReport, removed_on_failure, temporary
from lifeboat.postgres.selection import Selection
from lifeboat.postgres.swap import (
    Standing,
    Swapped,
    check_kept,
    check_target,
    kept_databases,
    make_ready,
    undo,
)
from lifeboat.postgres.tables import ReplacedRows, Table, check_replacing, replace_rows
from lifeboat.postgres.unfinished import name_beside
from lifeboat.progress import Report
from lifeboat.vault import Snapshot, Vault

Smoke = Callable[[PostgresServer, str], Sequence[str]]
"""Asks a database questions, and returns a sentence for every wrong answer."""


@dataclass(frozen=True)
class Application:
    """What stops and what starts the applications of a database: commands as lists of arguments, run one by one.

    Each may take `seconds`, must end with status 0, and must not mind being run twice.
    """

    stop: tuple[tuple[str, ...], ...] = ()
    start: tuple[tuple[str, ...], ...] = ()
    seconds: float = 120


@dataclass(frozen=True)
class InPlaceReport:
    """A replacement: the swap, how many seconds the application was down, and how the restore beside went.

    `restored` is None where a database was put in place that was there already. `remarks` is what to know of it.
    """

    swapped: Swapped
    down_seconds: float
    restored: RestoreReport | None
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Beside:
    """A database that was restored beside the live one and found right, and what to know of it."""

    database: str
    restored: RestoreReport
    remarks: tuple[str, ...]


def restore_in_place(
    vault: Vault,
    snapshot: Snapshot,
    server: PostgresServer,
    live: str,
    *,
    installed: Sequence[Programs],
    now: datetime,
    application: Application | None = None,
    smoke: Smoke | None = None,
    other_server: bool = False,
    **how: Unpack[RestoreOptions],
) -> InPlaceReport:
    """Restore a snapshot beside `live`, compare and check it, and put it in place while the application is stopped.

    `now` is when this begins; what was live is kept under the time of the swap.
    One that is incomplete is not put in place: it waits beside `live`, and `RestoreIncomplete` lists what it lacks.
    Whatever fails before the swap leaves `live` untouched and the application running. May be repeated. Raises as
    `check_target` and `restore_snapshot`, and `RestoreFailed` when a check fails, the application cannot be stopped or
    started, or nobody can be brought to leave the live database.
    """
    began = time.monotonic()
    beside = restore_beside(
        vault,
        snapshot,
        server,
        live,
        installed=installed,
        now=now,
        smoke=smoke,
        other_server=other_server,
        **how,
    )
    if beside.restored.not_rebuilt:
        name = shlex.quote(beside.database)
        raise RestoreIncomplete(
            f"{snapshot.label} was restored incompletely, as {beside.database!r}; {live!r} was not touched. "
            f"{listed(beside.restored.not_rebuilt)}",
            hint=f"`lifeboat undo {name} --i-have-seen-what-is-missing` puts it in place all the same, "
            f"`lifeboat release {name} --drop-it {name}` removes it.",
        )
    return _put_in_place(
        server,
        live,
        beside.database,
        now=now + timedelta(seconds=time.monotonic() - began),
        application=application,
        tell=_teller(how),
        restored=beside.restored,
        remarks=beside.remarks,
    )


def restore_beside(
    vault: Vault,
    snapshot: Snapshot,
    server: PostgresServer,
    live: str,
    *,
    installed: Sequence[Programs],
    now: datetime,
    smoke: Smoke | None = None,
    other_server: bool = False,
    may_be_absent: bool = False,
    **how: Unpack[RestoreOptions],
) -> Beside:
    """The first half: a database beside `live`, compared, checked, and named as ready; `undo_in_place` is the second.

    `live` is not touched; with `may_be_absent`, it need not be there. Raises as `restore_in_place`.
    """
    tell = _teller(how)
    remarks = check_target(
        server,
        live,
        read_evidence(vault, snapshot, repository=how.get("repository")),
        other_server=other_server,
        may_be_absent=may_be_absent,
    )
    beside = name_beside(server, live, now, tell)
    remarks += tuple(
        f"{kept.name!r} is still there, {_MEANINGS[kept.standing]}." for kept in kept_databases(server, live)
    )
    restored = restore_snapshot(vault, snapshot, server, beside, installed=installed, **how)
    whole = not restored.not_rebuilt
    with removed_on_failure(server, beside):
        remarks += _check(server, beside, smoke, tell, whole=whole)
        return Beside(make_ready(server, live, beside, now=now, whole=whole), restored, remarks)


def restore_rows_in_place(
    vault: Vault,
    snapshot: Snapshot,
    server: PostgresServer,
    live: str,
    tables: Sequence[str],
    *,
    replace_live_rows: bool,
    installed: Sequence[Programs],
    now: datetime,
    other_server: bool = False,
    **how: Unpack[RestoreOptions],
) -> ReplacedRows:
    """Replace all rows of some tables of `live`, named `name` or `schema.name`, by those they had in a snapshot.

    They are restored beside it and compared first, and the database made for that is removed at the end. Raises as
    `restore_snapshot` and `replace_rows`; then nothing in `live` has changed. May be repeated.
    """
    check_replacing(live, replace_live_rows=replace_live_rows)
    tell, evidence = _teller(how), read_evidence(vault, snapshot, repository=how.get("repository"))
    for remark in check_target(server, live, evidence, other_server=other_server):
        tell(remark)
    beside = name_beside(server, live, now, tell)
    restored = restore_snapshot(
        vault,
        snapshot,
        server,
        beside,
        installed=installed,
        selection=Selection(tuple(tables)),
        statistics=False,
        **how,
    )
    with temporary(server, beside):
        refuse_lost_rows(restored.not_rebuilt)
        found = _found(server, beside, tables)
        replaced = replace_rows(server, live, beside, found, replace_live_rows=replace_live_rows, report=tell)
    return replace(replaced, damaged=restored.damaged)


def undo_in_place(
    server: PostgresServer,
    live: str,
    kept: str,
    *,
    now: datetime,
    application: Application | None = None,
    although_incomplete: bool = False,
    report: Report | None = None,
) -> InPlaceReport:
    """Put a kept database back in the place of `live` while the application is stopped; what was live is kept too.

    The same puts a restored one in place that is `ready`, and one that is incomplete with `although_incomplete`: that a
    person has seen what it lacks. Raises as `restore_in_place`.
    """
    return _put_in_place(
        server,
        live,
        kept,
        now=now,
        application=application,
        tell=report or (lambda _: None),
        although_incomplete=although_incomplete,
    )


def _put_in_place(
    server: PostgresServer,
    live: str,
    replacement: str,
    *,
    now: datetime,
    application: Application | None,
    tell: Report,
    restored: RestoreReport | None = None,
    remarks: tuple[str, ...] = (),
    although_incomplete: bool = False,
) -> InPlaceReport:
    application = application or Application()
    check_kept(server, live, replacement, although_incomplete=although_incomplete)
    began = time.monotonic()
    try:
        with _started_again_on_failure(application, tell):
            _run_all(application.stop, application.seconds, "stop", tell)
            swapped = undo(server, live, replacement, now=now, although_incomplete=although_incomplete, report=tell)
    except LifeboatError as error:
        error.hint = f"{error.hint} {_still(live, replacement)}".strip()
        raise
    tell(f"swapped in {swapped.seconds:.2f} s; what was live is {swapped.kept!r}")
    try:
        _run_all(application.start, application.seconds, "start", tell)
    except LifeboatError as error:
        raise RestoreFailed(
            f"{live!r} was replaced, but its application did not start: {error.message}",
            hint=f"Start it by hand, or go back: `lifeboat undo {shlex.quote(swapped.kept)}`.",
        ) from error
    down = round(time.monotonic() - began, 3)
    return InPlaceReport(swapped, down, restored, remarks + swapped.notes)


def _teller(how: RestoreOptions) -> Report:
    return how.get("report") or (lambda _: None)


def _found(server: PostgresServer, side: str, names: Sequence[str]) -> tuple[Table, ...]:
    """Schema and name of tables that were restored; the restore has refused what is not plain."""
    with server.connect(side) as connection:
        rows = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"
            "   AND ARRAY[c.relname::text, n.nspname || '.' || c.relname] && %s ORDER BY 1, 2",
            [list(names)],
        ).fetchall()
    return tuple((schema, name) for schema, name in rows)


def _check(server: PostgresServer, database: str, smoke: Smoke | None, tell: Report, *, whole: bool) -> tuple[str, ...]:
    """Ask the smoke checks. Of a database that is not whole, wrong answers are remarks: its rows are kept."""
    failed = smoke(server, database) if smoke else ()
    if failed and not whole:
        return tuple(f"A smoke check gives a wrong answer: {answer}" for answer in failed)
    if failed:
        raise RestoreFailed(
            f"What was restored gives wrong answers: {' '.join(failed)}",
            hint="The live database was not touched; what was restored was removed. Choose another snapshot.",
        )
    tell("smoke checks: all right" if smoke else "smoke checks: there are none")
    return ()


@contextmanager
def _started_again_on_failure(application: Application, tell: Report) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        try:
            _run_all(application.start, application.seconds, "start", tell)
        except LifeboatError as second:
            if isinstance(error, LifeboatError):
                error.message += f" And then its application did not start again: {second.message}"
                error.hint = f"Start the application by hand. {error.hint}"
        raise


def _run_all(commands: Sequence[Sequence[str]], seconds: float, what: str, tell: Report) -> None:
    for command in commands:
        shown = shlex.join(command)
        tell(f"{what}: {shown}")
        # Not among the restore's own children: whoever ends those still wants the application back.
        status, said = run(Children(), command, env=os.environ, seconds=seconds)
        if status != 0:
            how = f"took more than {seconds:g} s" if status is None else f"ended with status {status}"
            raise RestoreFailed(
                f"The command to {what} the application {how}: {shown}\n{said or 'It said nothing.'}",
                hint="Correct `application:` in platform.yaml, or what the command says.",
            )


def _still(live: str, replacement: str) -> str:
    name = shlex.quote(replacement)
    return (
        f"{live!r} was not touched. {replacement!r} is whole and waits: `lifeboat undo {name}` puts it in place, "
        f"`lifeboat release {name} --drop-it {name}` removes it."
    )


_MEANINGS = {
    Standing.BESIDE: "left by a restore that was cut short, or of one that still runs; it is of no use",
    Standing.READY: "restored and checked, but never put in place",
    Standing.PARTLY: "restored without some objects, and never put in place",
    Standing.BEFORE: "kept by an earlier replacement",
}
