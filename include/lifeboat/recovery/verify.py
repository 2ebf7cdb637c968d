"""Finding out whether a platform that was put back is well. What fails is a result; what was ended is raised."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lifeboat.backup import read_evidence
from lifeboat.errors import EndedFromOutside, LifeboatError
from lifeboat.postgres.comparison import look_into
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.evidence import Evidence, differences
from lifeboat.postgres.rebuilding import comparable, listed
from lifeboat.postgres.swap import oids_of
from lifeboat.presets import commands_of
from lifeboat.progress import Report, count_text
from lifeboat.recovery.case import Case, snapshot_of
from lifeboat.recovery.commands import hider, run_command
from lifeboat.recovery.databases import missing_of
from lifeboat.recovery.model import Assessment, Outcome, Restored, Verified
from lifeboat.recovery.orphans import find_orphans
from lifeboat.recovery.places import what_is_missing
from lifeboat.smoke import CheckResult, SmokeChecks, run_checks
from lifeboat.snapshot import Kind
from lifeboat.vault import Snapshot

AGAIN = 1.0
"""Seconds after which an address that does not answer is asked again."""


def look_at_platform(case: Case, assessment: Assessment, restored: Sequence[Restored]) -> Verified:
    """Ask everything there is to ask: each source that was restored, then the platform as a whole."""
    checks: list[CheckResult] = []
    notes: list[str] = []
    for one in restored:
        look = _database if one.kind is Kind.POSTGRES else _place
        checks += _told(case, _tried(one.source, look(case, assessment, one, notes)))
    essential = list(checks)
    orphans = _orphans(case, restored, notes)
    platform = _told(case, _whole(case))
    settings = case.means.platform.application
    if settings is not None and settings.on_failure.smoke == "go on":
        notes += [f"{c.name} failed; it goes on, as platform.yaml says (on_failure)." for c in platform if not c.passed]
    else:
        essential += platform
    return Verified(
        well=all(check.passed for check in essential),
        checks=(*checks, *platform),
        orphans=orphans,
        notes=tuple(notes),
        undo_helps=any(one.facts.get("kept") and not one.waiting for one in restored),
    )


def _told(case: Case, checks: Iterator[CheckResult]) -> list[CheckResult]:
    found = []
    for check in checks:
        verdict = "right" if check.passed else f"WRONG: expected {check.expected}, found {check.found}"
        case.means.report(f"{check.name}: {verdict}")
        found.append(check)
    return found


def _tried(source: str, look: Iterator[CheckResult]) -> Iterator[CheckResult]:
    """What a look finds; an error on the way is one more thing that is wrong."""
    try:
        yield from look
    except EndedFromOutside:
        raise
    except LifeboatError as error:
        yield CheckResult(f"{source}: it can be looked at", False, 0, "an answer", error.message)


WHOLE = "all objects are there"
"""What the check of a database that was restored incompletely is called."""


# ---- each source ----------------------------------------------------------------------------------------------------


def _database(case: Case, assessment: Assessment, one: Restored, notes: list[str]) -> Iterator[CheckResult]:
    target, began = case.means.server_of(one.source, case.request), time.monotonic()
    is_it = oids_of(target.server).get(target.database) == one.facts.get("oid")
    found = "what was restored" if is_it else "another database"
    yield _check(f"{one.source}: in its place", is_it, began, "what was restored", found)
    if not is_it:
        return
    if missing := missing_of(one):
        yield _check(f"{one.source}: {WHOLE}", False, began, "every object", listed(missing))
    if _was_done(case, "migrate"):
        notes.append(f"{one.source} was migrated, so that it is not compared with its evidence any more.")
    else:
        began = time.monotonic()
        snapshot = snapshot_of(case, assessment.component(one.source))
        evidence = read_evidence(case.means.vault, snapshot, repository=case.request.repository)
        held = look_into(target.server, target.database, evidence)
        wrong = differences(*comparable(evidence, held, missing))
        if wrong and _was_done(case, "start"):
            changed, wrong = wrong, differences(*comparable(_with_rows_of(held, evidence), held, missing))
            if not wrong:
                notes.append(f"{one.source} has changed since the application was started: {changed[0]}")
        said = "the same" if not wrong else f"{wrong[0]} ({count_text(len(wrong), 'difference')} in all)"
        yield _check(f"{one.source}: as its evidence says", not wrong, began, "the same", said)
    checks = case.means.platform.smoke_checks(one.source)
    checks = replace(checks, url=None) if case.practising else checks
    for check in run_checks(target.server, target.database, checks, children=case.means.children):
        yield replace(check, name=f"{one.source}: {check.name}")


def _with_rows_of(held: Evidence, evidence: Evidence) -> Evidence:
    """The evidence as it would be with the rows that are there now: tables, objects and extensions still count."""
    now = {(table.schema, table.name): table for table in held.tables}
    tables = tuple(
        replace(table, rows=there.rows, content=there.content)
        if (there := now.get((table.schema, table.name)))
        else table
        for table in evidence.tables
    )
    return replace(evidence, tables=tables, sequences=(), large_objects=held.large_objects)


def _place(case: Case, assessment: Assessment, one: Restored, notes: list[str]) -> Iterator[CheckResult]:
    if faults := one.facts.get("faults"):
        notes.append(f"{one.source}: {count_text(faults, 'thing')} of the snapshot could not be restored.")
    if case.practising and one.kind is Kind.REDIS:
        return  # it was counted in its scratch server, which is gone
    began, snapshot = time.monotonic(), snapshot_of(case, assessment.component(one.source))
    if faults:
        return
    missing = _missing(case, one, snapshot)
    if missing and one.kind is Kind.REDIS and _was_done(case, "start"):
        notes.append(f"{one.source} has changed since the application was started: {missing}.")
        return
    yield _check(
        f"{one.source}: nothing is missing", not missing, began, "nothing missing", missing or "nothing missing"
    )


def _missing(case: Case, one: Restored, snapshot: Snapshot) -> str:
    try:
        return what_is_missing(case, one, snapshot)
    except OSError as error:
        return f"{one.place}: {error.strerror}"


def _orphans(case: Case, restored: Sequence[Restored], notes: list[str]) -> dict[str, dict[str, Any]]:
    """By tree, files that rows name and that are missing, and files that no row names. They are told, and no failure:
    two snapshots are never of the very same moment."""
    names, found = {one.source for one in restored}, {}
    for tree in case.means.platform.sources.files:
        named_by = tree.named_by
        if named_by is None or not {tree.name, named_by.database} & names:
            continue
        if case.practising and not {tree.name, named_by.database} <= names:
            continue
        target = case.means.server_of(named_by.database, case.request)
        try:
            orphans = find_orphans(
                target.server,
                target.database,
                named_by.sql,
                case.means.tree_of(tree.name, case.request),
                leave_out=tree.exclude,
                also=tree.path,
            )
        except (LifeboatError, OSError) as error:
            reason = error.message if isinstance(error, LifeboatError) else error.strerror
            notes.append(f"{tree.name} could not be held against the rows of {named_by.database}: {reason}")
            continue
        found[tree.name] = orphans.record()
        if orphans.missing or orphans.unnamed:
            notes.append(
                f"{tree.name}: {count_text(orphans.missing, 'file')} that rows of {named_by.database} name "
                f"{'is' if orphans.missing == 1 else 'are'} missing, and no row names "
                f"{count_text(orphans.unnamed, 'file')}."
            )
            case.means.report(notes[-1])
    return found


# ---- the platform as a whole ----------------------------------------------------------------------------------------


def _whole(case: Case) -> Iterator[CheckResult]:
    settings = case.means.platform.application
    if settings is None:
        return
    commands, seconds = commands_of(settings, "smoke"), settings.seconds("smoke")
    if case.practising:
        for command in commands:
            case.means.report(f"smoke: not run in a practice: {shlex.join(command)}")
        return
    if settings.smoke_url is not None:
        yield _answers(settings.smoke_url, seconds, case.means.report)
    hide = hider(case.means)
    for command in commands:
        ran = run_command(case.means, "smoke", command, seconds)
        said = "exit status 0" if ran.passed else f"{ran.ended}: {hide(' '.join(ran.said.split())[-300:])}"
        if not ran.passed and ran.failure is EndedFromOutside:
            raise EndedFromOutside(f"The command {ran.command} {said}", hint="Look once more.")
        yield CheckResult(f"command {Path(command[0]).name}", ran.passed, ran.seconds, "exit status 0", said)


def _answers(url: str, seconds: float, tell: Report) -> CheckResult:
    """Ask an address until it answers well: an application takes a while to start."""
    began, told = time.monotonic(), False
    while True:
        (check,) = run_checks(PostgresServer(""), "", SmokeChecks(url=url))
        waited = time.monotonic() - began
        if check.passed or waited > seconds:
            return replace(check, seconds=round(waited, 3))
        if not told:
            tell(f"waiting for {url} to answer, for {seconds:g} s at most: {check.found}")
            told = True
        time.sleep(AGAIN)


def _was_done(case: Case, step: str) -> bool:
    """Whether commands of a step have been run in this incident."""
    entry = case.journal.last(step, Outcome.DONE)
    return entry is not None and bool(entry.facts.get("commands"))


def _check(name: str, passed: bool, began: float, expected: str, found: str) -> CheckResult:
    return CheckResult(name, passed, round(time.monotonic() - began, 3), expected, found)
