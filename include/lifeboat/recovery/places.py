"""Files, configuration and Redis of a recovery: straight to their place where it is gone or empty, else over it.

What is alive is only ever gone over when that was agreed. A place that was begun is known again by what it calls itself
and what is in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lifeboat.configuration.restoring import kept_files, paths_in, put_back, restore_in_place
from lifeboat.copies import Copies, damage_notes, passed_over
from lifeboat.errors import NotReady, RestoreFailed
from lifeboat.files.entries import EntryType
from lifeboat.files.index import index_of
from lifeboat.files.placing import Place
from lifeboat.files.restore import TreeRestore, restore_tree
from lifeboat.progress import count_text, size_text
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
from lifeboat.recovery.databases import refuse_unless_agreed
from lifeboat.recovery.left import identity_of, look_at
from lifeboat.recovery.model import Component, Restored, State
from lifeboat.redis_source.backup import read_redis_evidence
from lifeboat.redis_source.evidence import ask_facts
from lifeboat.redis_source.proof import prove_redis
from lifeboat.redis_source.restore import restore_redis
from lifeboat.snapshot import Kind
from lifeboat.vault import Snapshot

Made = TypeVar("Made")


@dataclass(frozen=True)
class Filling:
    """A place to be filled: `over` what is there, or only where nothing is; since `moment`."""

    case: Case
    source: str
    snapshot: Snapshot
    over: bool
    moment: datetime


@dataclass(frozen=True)
class Filled:
    """What filling a place gave: from where, facts for people and in words, and what to know of it."""

    repository: str
    words: str
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def restore_place(case: Case, component: Component, snapshot: Snapshot, left_seconds: float | None) -> Restored:
    """Bring a source straight back to its place when that is gone or empty; of one that is alive, only say so.

    Raises `NotReady` when the place is not as it was assessed, and as the restores of its kind.
    """
    kind = snapshot.manifest.kind
    if found := _recognised(case, RESTORE, component, snapshot):
        return found  # alive perhaps, by an assessment that was made since
    if component.state is State.ALIVE and not case.practising:
        note = f"{component.place} is alive; it is gone over when everything is put in place."
        case.means.report(f"{component.source}: {note}")
        return Restored(component.source, kind, snapshot.label, repository_read(case, snapshot), component.place)
    if not _was_begun(case, RESTORE, component, snapshot):
        _refuse_unless_empty(case, component)
    return _fill(case, RESTORE, component, snapshot, left_seconds)


def go_over(
    case: Case, component: Component, snapshot: Snapshot, restored: Restored, *, replaces_live: bool
) -> Restored:
    """Bring a source that is alive back over what is there, and fetch only what differs; what was done is recognised.

    Raises as `restore_place`, and `NotReady` while that was not agreed.
    """
    if component.state is not State.ALIVE or case.practising:
        return restored
    for name in (PLACE, RESTORE):
        if found := _recognised(case, name, component, snapshot):
            return found
    refuse_unless_agreed(case, component, replaces_live)
    return _fill(case, PLACE, component, snapshot, None)


def is_pending(case: Case, component: Component, snapshot: Snapshot) -> bool:
    """Whether a source is still to be brought back over what is alive."""
    return (
        component.state is State.ALIVE
        and not case.practising
        and not any(_recognised(case, name, component, snapshot) for name in (PLACE, RESTORE))
    )


def what_is_missing(case: Case, restored: Restored, snapshot: Snapshot) -> str:
    """Something of a snapshot that is not in its place, in words; empty when nothing is missing."""
    return _missing(case, restored.source, snapshot)


def undo_place(case: Case, restored: Restored) -> Restored:
    """Put back what configuration files were before; of the others, say that this cannot be. May be repeated."""
    if restored.kind is not Kind.CONFIG:
        note = f"{restored.place} cannot be put back: nothing of what was there before is kept."
        return restored if note in restored.notes else replace(restored, notes=(*restored.notes, note))
    kept = restored.facts.get("kept") or {}
    if not kept:
        return restored
    with step(case, UNDO, restored.source, {"snapshot": restored.snapshot}) as done:
        paths = put_back(case.means.root_of(restored.source, case.request).root, kept)
        restored = replace(restored, facts={**restored.facts, "kept": {}})
        done.words = f"{count_text(len(paths), 'file')} put back"
        done.facts = {"restored": restored.record()}
    return restored


# ---- filling --------------------------------------------------------------------------------------------------------


def _fill(case: Case, name: str, component: Component, snapshot: Snapshot, left_seconds: float | None) -> Restored:
    kind, began = snapshot.manifest.kind, time.monotonic()
    if not case.practising or kind is not Kind.REDIS:
        _make_folder(case, component, kind)
    moment = _moment(case, name, component, snapshot)
    identity = _identity(case, component.source, kind)
    facts = {"snapshot": snapshot.label, "identity": identity, "moment": moment.isoformat()}
    with step(case, name, component.source, facts, left_seconds) as done:
        filled = _FILLS[kind](Filling(case, component.source, snapshot, name == PLACE, moment))
        restored = Restored(
            component.source,
            kind,
            snapshot.label,
            filled.repository,
            _place(case, component, kind),
            seconds=round(time.monotonic() - began, 3),
            facts={"identity": identity, **filled.facts},
            notes=filled.notes,
        )
        done.words = filled.words
        done.facts = {"restored": restored.record()}
    for note in filled.notes:
        case.means.report(f"Note: {note}")
    return restored


def _fill_tree(filling: Filling) -> Filled:
    case, source, snapshot = filling.case, filling.source, filling.snapshot
    means = case.means
    target = means.tree_of(source, case.request)

    def fill(repository: str) -> TreeRestore:
        return restore_tree(
            means.vault,
            snapshot,
            target,
            into_existing=True,  # so that one which is cut short goes on
            repository=case.request.repository,
            index_from=repository,
            progress=means.progress,
            report=means.report,
        )

    done, notes = _of_first_whole(case, snapshot, fill)
    if done.hindered:
        done.raise_faults()  # it lies with the target, such as a disk that is full; once mended, it goes on
    faults = [f"{name} could not be restored: {reason}" for name, reason in list(done.faults.items())[:20]]
    if len(done.faults) > len(faults):
        faults.append(f"And {len(done.faults) - len(faults)} more could not be restored.")
    files = count_text(done.files, "file")
    facts = {"files": done.files, "size": done.size, "fetched": done.fetched, "faults": len(done.faults)}
    words = f"{files} of {size_text(done.size)}, of which {size_text(done.fetched)} were fetched"
    words += f"; {count_text(len(done.faults), 'thing')} could not be restored" if done.faults else ""
    return Filled(repository_read(case, snapshot), words, facts, (*faults, *done.notes, *notes))


def _fill_configuration(filling: Filling) -> Filled:
    case, source, snapshot, moment = filling.case, filling.source, filling.snapshot, filling.moment
    root = case.means.root_of(source, case.request).root

    def fill(repository: str) -> tuple[int, dict[str, str], str]:
        done = restore_in_place(case.means.vault, snapshot, root, now=moment, repository=repository)
        paths = (*done.written, *done.unchanged)
        # Those of a try before that was cut short are kept under the same names.
        return len(paths), {**kept_files(root, paths, moment), **dict(done.kept)}, repository

    (files, kept, repository), notes = _of_first_whole(case, snapshot, fill)
    words = count_text(files, "file") + (f", of which {len(kept)} replaced others that are kept" if kept else "")
    return Filled(repository, words, {"files": files, "kept": kept}, notes)


def _fill_redis(filling: Filling) -> Filled:
    case, source, snapshot = filling.case, filling.source, filling.snapshot
    means = case.means
    if case.practising:
        proof = prove_redis(
            means.vault,
            snapshot,
            installed=means.installed_redis(),
            repository=case.request.repository,
            base=means.base,
            children=means.children,
            progress=means.progress,
            report=means.report,
        )
        proof.raise_failure()
        words = f"{count_text(proof.rows, 'key')} loaded into a scratch server, which is gone again"
        return Filled(proof.repository or "", words, {"keys": proof.rows}, proof.notes)
    server = means.redis_of(source, case.request).server

    def fill(repository: str) -> tuple[Any, str]:
        done = restore_redis(
            means.vault,
            snapshot,
            server,
            installed=means.installed_redis(),
            overwrite=filling.over,
            repository=repository,
            base=means.base,
            children=means.children,
            progress=means.progress,
            report=means.report,
        )
        return done, repository

    (done, repository), notes = _of_first_whole(case, snapshot, fill)
    keys = done.restored + done.overwritten + done.there_already
    facts = {"keys": keys, "overwritten": done.overwritten, "expired": done.expired, "functions": done.functions}
    words = f"{count_text(keys, 'key')}, {done.expired} expired since"
    return Filled(repository, words, facts, (*done.notes, *notes))


_FILLS: Mapping[Kind, Callable[[Filling], Filled]] = {
    Kind.FILES: _fill_tree,
    Kind.CONFIG: _fill_configuration,
    Kind.REDIS: _fill_redis,
}


def _of_first_whole(case: Case, snapshot: Snapshot, make: Callable[[str], Made]) -> tuple[Made, tuple[str, ...]]:
    """What is made of the first whole copy, and notes on those that are not whole or did not answer."""
    copies = Copies(case.means.vault, snapshot, case.request.repository)
    made = copies.first_whole(
        make, lambda name, error: case.means.report(f"the copy in {name} is damaged: {error.message}")
    )
    if made is None:
        raise copies.failure()
    return made, damage_notes(copies.damaged) + passed_over(copies.unreadable)


# ---- knowing again --------------------------------------------------------------------------------------------------


def _recognised(case: Case, name: str, component: Component, snapshot: Snapshot) -> Restored | None:
    """What was brought back before, when it is still there: the same place, and nothing of it missing."""
    kind = snapshot.manifest.kind
    if case.practising and kind is Kind.REDIS:
        return next(restored_before(case, name, component.source, snapshot.label), None)
    for restored in restored_before(case, name, component.source, snapshot.label):
        identity = _identity(case, component.source, kind)
        if not identity or (kind is not Kind.REDIS and restored.facts.get("identity") != identity):
            continue  # a Redis calls itself otherwise after each start
        missing = _missing(case, component.source, snapshot)
        if missing:
            case.means.report(f"{component.source} was brought back before, but {missing}: once more")
            return None
        case.means.report(f"{component.source} was brought back already, and nothing of it is missing")
        return restored
    return None


def _missing(case: Case, source: str, snapshot: Snapshot) -> str:
    """Something of a snapshot that is not in its place, in words; empty when nothing is. It may have changed since."""
    find = {Kind.FILES: _missing_file, Kind.CONFIG: _missing_configuration, Kind.REDIS: _missing_keys}
    look = partial(find[snapshot.manifest.kind], case, source, snapshot)
    missing, _ = _of_first_whole(case, snapshot, look)
    return missing


def _missing_file(case: Case, source: str, snapshot: Snapshot, repository: str) -> str:
    place = Place(str(case.means.tree_of(source, case.request)), is_new=False)
    for entry in index_of(case.means.vault, snapshot, repository=repository).entries:
        is_made = entry.type in (EntryType.FILE, EntryType.FOLDER, EntryType.SYMLINK) and not entry.fault
        if is_made and entry.path and place.look(entry.path) is None:
            return f"{entry.name} is missing"
    return ""


def _missing_configuration(case: Case, source: str, snapshot: Snapshot, repository: str) -> str:
    root = case.means.root_of(source, case.request).root
    paths = paths_in(case.means.vault, snapshot, repository=repository)
    return next((f"{path} is missing" for path in paths if not os.path.lexists(root / path)), "")


def _missing_keys(case: Case, source: str, snapshot: Snapshot, repository: str) -> str:
    """Of keys that never expire, none may be missing."""
    contents = read_redis_evidence(case.means.vault, snapshot, repository=repository).contents
    there = ask_facts(case.means.redis_of(source, case.request).server).keys
    for number, counted in contents.databases.items():
        if there.get(number, 0) < counted.keys - counted.expiring:
            return f"keys of database {number} are missing"
    return ""


def _was_begun(case: Case, name: str, component: Component, snapshot: Snapshot) -> bool:
    """Whether what is in a place was put there by this step, which was cut short."""
    kind = snapshot.manifest.kind
    if case.practising:
        return True
    identity = _identity(case, component.source, kind)
    for facts in begun_before(case, name, component.source, snapshot.label):
        if kind is Kind.REDIS or facts.get("identity") == identity:
            return True
    return False


def _moment(case: Case, name: str, component: Component, snapshot: Snapshot) -> datetime:
    """When this was first begun, by which replaced configuration files are called."""
    first: datetime | None = None
    for facts in begun_before(case, name, component.source, snapshot.label):
        first = datetime.fromisoformat(facts["moment"])
    return first or datetime.now(UTC).replace(microsecond=0)


def _refuse_unless_empty(case: Case, component: Component) -> None:
    now = look_at(case.means, component.source, case.request)
    if now.obstacle and now.state is not State.GONE:
        raise NotReady(f"{now.place}: {now.found}", hint=now.obstacle)
    if now.state is State.ALIVE:
        raise NotReady(
            f"{now.place} was {component.state} when it was assessed, and is alive now: {now.found}. It was not "
            "touched.",
            hint="Assess again, so that its replacing can be approved; or empty it, if nobody needs it.",
        )


def _identity(case: Case, source: str, kind: Kind) -> str:
    if not case.practising:
        return identity_of(case.means, source, case.request)
    return "" if kind is Kind.REDIS else f"folder {_folder(case, source, kind)}"


def _folder(case: Case, source: str, kind: Kind) -> Path:
    means = case.means
    return means.tree_of(source, case.request) if kind is Kind.FILES else means.root_of(source, case.request).root


def _place(case: Case, component: Component, kind: Kind) -> str:
    if kind is not Kind.REDIS:
        return str(_folder(case, component.source, kind))
    if case.practising:
        return "a scratch Redis"
    return str(case.means.redis_of(component.source, case.request).server)


def _make_folder(case: Case, component: Component, kind: Kind) -> None:
    """The folder that is to be filled, so that it calls itself something before anything is in it."""
    if kind is Kind.REDIS:
        return
    folder = _folder(case, component.source, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RestoreFailed(
            f"{folder} cannot be made: {error.strerror}.", hint="Is its mount there, and may this user write to it?"
        ) from error
