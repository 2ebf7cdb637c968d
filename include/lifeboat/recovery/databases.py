"""Databases of a recovery: restored beside whatever is there, put in place by renaming, and back again.

A database keeps its number (oid) through every renaming. So what was restored is known again, whatever it is called
and however far it came.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lifeboat.assembly import smoke_of
from lifeboat.backup import DatabaseSource, read_evidence
from lifeboat.errors import NotReady, RestoreFailed
from lifeboat.in_place import restore_beside
from lifeboat.postgres.comparison import look_into
from lifeboat.postgres.evidence import Evidence, differences
from lifeboat.postgres.rebuilding import NotRebuilt, comparable, listed
from lifeboat.postgres.swap import Standing, check_kept, dated_name, oids_of, place, release, undo
from lifeboat.progress import count_text
from lifeboat.recovery.case import (
    PLACE,
    RESTORE,
    UNDO,
    Case,
    begun_before,
    repository_read,
    restored_before,
    step,
)
from lifeboat.recovery.left import identity_of, look_at
from lifeboat.recovery.model import Component, Restored, State
from lifeboat.snapshot import Kind
from lifeboat.vault import Snapshot


def restore_database(case: Case, component: Component, snapshot: Snapshot, left_seconds: float | None) -> Restored:
    """Restore a snapshot beside the live database, or under a dated name where there is none; compare and check it.

    Raises as `lifeboat.in_place.restore_beside`.
    """
    source, means = component.source, case.means
    target = means.server_of(source, case.request)
    if found := _recognised(case, component, snapshot, target):
        return found
    moment, began = datetime.now(UTC).replace(microsecond=0), time.monotonic()
    facts = {"snapshot": snapshot.label, "moment": moment.isoformat()}
    with step(case, RESTORE, source, facts, left_seconds) as done:
        beside = restore_beside(
            means.vault,
            snapshot,
            target.server,
            target.database,
            installed=means.installed(),
            now=moment,
            smoke=smoke_of(means.platform, source),
            other_server=True,  # after a disaster it is another one; the target's identity is what counts
            may_be_absent=True,
            repository=case.request.repository,
            progress=means.progress,
            children=means.children,
            report=means.report,
        )
        missing = beside.restored.not_rebuilt
        restored = _restored(case, component, snapshot, target, beside.database, beside.restored.evidence, missing)
        restored = replace(
            restored,
            repository=repository_read(case, snapshot, beside.restored.damaged),
            seconds=round(time.monotonic() - began, 3),
            notes=(*beside.remarks, *beside.restored.notes),
        )
        lacks = f", INCOMPLETE: {listed(missing)}" if missing else ""
        done.words = f"restored as {beside.database!r}, {_held(restored)}{lacks}"
        done.facts = {"restored": restored.record()}
    return restored


def place_database(case: Case, component: Component, restored: Restored, *, replaces_live: bool) -> Restored:
    """Put a database that waits in the place of the live one, if there is any; what was live is kept.

    Raises `NotReady` while something alive would be replaced and may not be, and `RestoreFailed`.
    """
    target = case.means.server_of(restored.source, case.request)
    if found := database_in_place(case, restored, target):
        return found
    oids = oids_of(target.server)
    if oids.get(restored.waiting) != restored.facts.get("oid"):
        raise RestoreFailed(
            f"What was restored of {restored.source} is not on {target.server} any more: {restored.waiting!r}.",
            hint="Repeat the step that restores it.",
        )
    refuse_unless_agreed(case, component, replaces_live)
    facts = {"snapshot": restored.snapshot, "replaces": oids.get(target.database)}
    with step(case, PLACE, restored.source, facts) as done:
        if target.database in oids:  # whoever agreed to that has been shown what an incomplete one lacks
            check_kept(target.server, target.database, restored.waiting, although_incomplete=True)
        swapped = place(
            target.server, target.database, restored.waiting, now=datetime.now(UTC), report=case.means.report
        )
        restored = replace(
            restored,
            waiting="",
            notes=restored.notes + swapped.notes,
            facts={**restored.facts, "kept": swapped.kept, "replaced_oid": oids.get(target.database)},
        )
        kept = f"what was live is {swapped.kept!r}" if swapped.kept else "there was none"
        done.words = f"in place of {target.database!r} after {swapped.seconds:.2f} s; {kept}"
        done.facts = {"restored": restored.record()}
    return restored


def database_in_place(case: Case, restored: Restored, target: DatabaseSource) -> Restored | None:
    """What is in place already, known by its number; None where it is not."""
    oids = oids_of(target.server)
    oid = restored.facts.get("oid")
    if oid is None or oids.get(target.database) != oid or not _is_same_server(case, restored):
        return None
    if "replaced_oid" in restored.facts and not restored.waiting:
        return restored
    begun = next(begun_before(case, PLACE, restored.source, restored.snapshot), {})
    replaced = begun.get("replaces")
    kept = next((name for name, number in oids.items() if number == replaced), "")
    case.means.report(f"{restored.source}: it is in place already")
    return replace(restored, waiting="", facts={**restored.facts, "kept": kept, "replaced_oid": replaced})


def undo_database(case: Case, restored: Restored) -> Restored:
    """Put the database that was live before back in its place; the restored one stays, and waits. May be repeated."""
    kept, replaced = restored.facts.get("kept"), restored.facts.get("replaced_oid")
    target = case.means.server_of(restored.source, case.request)
    oids = oids_of(target.server)
    if restored.waiting:
        return restored  # it was never put in place, or is back already
    if not kept:
        return replace(restored, notes=(*restored.notes, "There was no live database before, to go back to."))
    if oids.get(target.database) == replaced:
        waiting = next((name for name, number in oids.items() if number == restored.facts.get("oid")), "")
        return replace(restored, waiting=waiting)
    if oids.get(kept) != replaced:
        raise RestoreFailed(
            f"What was live before is not on {target.server} any more: {kept!r}.",
            hint="`lifeboat kept` lists what there is.",
        )
    with step(case, UNDO, restored.source, {"snapshot": restored.snapshot}) as done:
        swapped = undo(target.server, target.database, kept, now=datetime.now(UTC), report=case.means.report)
        restored = replace(restored, waiting=swapped.kept, notes=restored.notes + swapped.notes)
        done.words = f"{kept!r} is {target.database!r} again; what was restored is {swapped.kept!r}"
        done.facts = {"restored": restored.record()}
    return restored


def drop_replaced(case: Case, restored: Restored) -> tuple[str, ...]:
    """Drop the database that a restored one has replaced, while that one is in place; returns what was done."""
    kept, target = restored.facts.get("kept"), case.means.server_of(restored.source, case.request)
    oids = oids_of(target.server)
    if not kept or oids.get(kept) != restored.facts.get("replaced_oid"):
        return ()
    if oids.get(target.database) != restored.facts.get("oid"):
        return (f"{kept!r} stays: what was restored is not in its place.",)
    notes = release(target.server, target.database, kept, drop_it=kept)
    return (f"{kept!r} was dropped.", *notes)


def refuse_unless_agreed(case: Case, component: Component, replaces_live: bool) -> None:
    """Raise `NotReady` where a place is not what was assessed, or is alive and may not be replaced."""
    if case.practising:
        return
    now = look_at(case.means, component.source, case.request)
    if component.identity and now.identity != component.identity:
        raise NotReady(
            f"{now.place} was {component.identity} when it was assessed, and is now {now.identity or 'not to be had'}. "
            "Nothing was touched there.",
            hint="Is it the right one? Assess again, and approve what is found.",
        )
    if now.state is State.ALIVE and not replaces_live:
        raise NotReady(
            f"{now.place} is alive ({now.found}), and nobody has agreed to its being replaced.",
            hint="Approve the replacing of live data, or bring it back to another target.",
        )


# ---- knowing again --------------------------------------------------------------------------------------------------


def _recognised(case: Case, component: Component, snapshot: Snapshot, target: DatabaseSource) -> Restored | None:
    """What was restored of this very snapshot before: in place, or waiting and as its evidence says."""
    oids = oids_of(target.server)
    for restored in restored_before(case, RESTORE, component.source, snapshot.label):
        if not _is_same_server(case, restored):
            continue
        placed = next(restored_before(case, PLACE, component.source, snapshot.label), restored)
        for candidate in (placed, restored):
            is_it = candidate.facts.get("oid") == restored.facts.get("oid")
            if is_it and (found := database_in_place(case, candidate, target)):
                return found
        waiting = next((name for name, oid in oids.items() if oid == restored.facts.get("oid")), "")
        if waiting and _holds(case, snapshot, target, waiting, missing_of(restored)):
            return replace(restored, waiting=waiting)
    for facts in begun_before(case, RESTORE, component.source, snapshot.label):
        name = dated_name(target.database, Standing.READY, datetime.fromisoformat(facts["moment"]))
        if name in oids and (evidence := _holds(case, snapshot, target, name)):
            restored = _restored(case, component, snapshot, target, name, evidence)
            with step(case, RESTORE, component.source, facts) as done:  # it was cut short before that was written down
                done.words = f"{name!r} was restored already, {_held(restored)}"
                done.facts = {"restored": restored.record()}
            return restored
    return None


def missing_of(restored: Restored) -> tuple[NotRebuilt, ...]:
    """The objects that a restored database is known to lack."""
    return tuple(NotRebuilt.from_record(record) for record in restored.facts.get("not_rebuilt", ()))


def _holds(
    case: Case, snapshot: Snapshot, target: DatabaseSource, database: str, missing: Sequence[NotRebuilt] = ()
) -> Evidence | None:
    """What a waiting database holds, when that is what the evidence says."""
    evidence = read_evidence(case.means.vault, snapshot, repository=case.request.repository)
    found = look_into(target.server, database, evidence)
    if wrong := differences(*comparable(evidence, found, missing)):
        case.means.report(f"{database!r} is not what was restored, and is left alone: {wrong[0]}")
        return None
    case.means.report(f"{database!r} was restored already, and holds what the source held")
    return found


def _is_same_server(case: Case, restored: Restored) -> bool:
    return case.practising or restored.facts.get("identity") == identity_of(case.means, restored.source, case.request)


def _restored(
    case: Case,
    component: Component,
    snapshot: Snapshot,
    target: DatabaseSource,
    waiting: str,
    evidence: Evidence,
    missing: Sequence[NotRebuilt] = (),
) -> Restored:
    facts: Mapping[str, Any] = {
        "database": target.database,
        "tables": len(evidence.tables),
        "rows": evidence.rows,
        "oid": oids_of(target.server)[waiting],
        "identity": identity_of(case.means, component.source, case.request),
        "not_rebuilt": [one.record() for one in missing],
    }
    return Restored(
        component.source,
        Kind.POSTGRES,
        snapshot.label,
        repository_read(case, snapshot),
        f"database {target.database!r} on {target.server}",
        waiting,
        facts=facts,
    )


def _held(restored: Restored) -> str:
    return f"{count_text(restored.facts['tables'], 'table')} with {count_text(restored.facts['rows'], 'row')}"
