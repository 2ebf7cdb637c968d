"""The steps of a recovery, one after the other; each may be repeated, and goes on where it was cut short.

A step never asks a person anything: whoever calls it has asked. Nothing that is alive is touched before `put_in_place`
is told that it may. What was done is found again by looking, and the journal says where to look.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lifeboat.backup import read_evidence
from lifeboat.errors import LifeboatError, NotReady
from lifeboat.manifest import tree_bytes
from lifeboat.postgres.room import ROOM, free_bytes
from lifeboat.postgres.swap import oids_of
from lifeboat.presets import Step, commands_of
from lifeboat.progress import Report, size_text
from lifeboat.recovery import practice
from lifeboat.recovery.case import (
    PLACE,
    RESTORE,
    UNDO,
    Case,
    begun_before,
    open_case,
    restored_before,
    snapshot_of,
    step,
)
from lifeboat.recovery.commands import run_step
from lifeboat.recovery.databases import (
    database_in_place,
    drop_replaced,
    place_database,
    refuse_unless_agreed,
    restore_database,
    undo_database,
)
from lifeboat.recovery.model import Assessment, Component, Mode, Outcome, Restored, State, Verified
from lifeboat.recovery.places import go_over, is_pending, restore_place, undo_place
from lifeboat.recovery.practice import on_scratch
from lifeboat.recovery.verify import look_at_platform
from lifeboat.redis_source.evidence import ask_facts
from lifeboat.snapshot import Kind

__all__ = [
    "PLACE",
    "RESTORE",
    "UNDO",
    "Case",
    "clear_practice",
    "finish",
    "migrate",
    "open_case",
    "prepare",
    "put_in_place",
    "restore",
    "start",
    "undo",
    "verify",
]

ORDER = (Kind.CONFIG, Kind.POSTGRES, Kind.FILES, Kind.REDIS)
"""In which order sources are put in place."""


def prepare(case: Case, assessment: Assessment) -> None:
    """Make everything ready to be restored to: configuration that is gone, data services, room on every target.

    Configuration that is gone is put back first, since the commands may need it. Then the `prepare` commands run, and
    servers are waited for. Raises `NotReady` with every obstacle at once, `RestoreFailed` for a command.
    """
    with step(case, "prepare", left_seconds=assessment.expected_seconds) as done:
        _raise_all("The recovery cannot go on", assessment.obstacles, "Assess again once this is put right.")
        if case.practising:
            practice.make_targets(case, assessment)
        for component in _components(case, assessment, Kind.CONFIG):
            if component.state is not State.ALIVE and component.snapshot:
                restore(case, assessment, component.source)
        failures = _run(case, "prepare")
        _wait_for_servers(case, assessment)
        _raise_all("There is not room enough", _lacking_room(case, assessment), "Make room, or choose another target.")
        done.words = _words("everything is ready", failures)


def restore(case: Case, assessment: Assessment, source: str) -> Restored:
    """Bring a source back as far as that touches nothing alive.

    A database is restored beside the live one, compared with its evidence and asked the smoke checks. Files,
    configuration and Redis whose place is gone or empty go straight there; what is alive is left to `put_in_place`.
    What was restored already is recognised, by looking at it. Raises as the restores of its kind, and `NotReady` when a
    place is alive that was not.
    """
    case = on_scratch(case)
    component = _component(case, assessment, source)
    snapshot = snapshot_of(case, component)
    bring_back = restore_database if component.kind is Kind.POSTGRES else restore_place
    return bring_back(case, component, snapshot, _left_seconds(case, assessment))


def put_in_place(
    case: Case, assessment: Assessment, restored: Sequence[Restored], *, replaces_live: bool
) -> tuple[Restored, ...]:
    """Stop the application, and put everything that was restored in its place; what is there already is recognised.

    `replaces_live` says that a person has agreed to the replacing of what is alive; without it, nothing alive is
    touched, and `NotReady` raised. The identity of each target is checked just before. Returns them as they are now.
    When it fails midway, the application stays stopped; repeated, it goes on.
    """
    case = on_scratch(case)
    pending = [one for one in restored if _is_pending(case, assessment, one)]
    refusals = [refusal for one in pending if (refusal := _refusal(case, assessment, one, replaces_live))]
    if refusals:
        hints = dict.fromkeys(refusal.hint for refusal in refusals)
        raise NotReady("\n".join(refusal.message for refusal in refusals), hint=" ".join(hints))
    if pending:
        stop(case)
    placed = {one.source: one for one in restored}
    for one in sorted(restored, key=lambda one: ORDER.index(one.kind)):
        component = _component(case, assessment, one.source)
        if one.kind is Kind.POSTGRES:
            placed[one.source] = place_database(case, component, one, replaces_live=replaces_live)
        else:
            snapshot = snapshot_of(case, component)
            placed[one.source] = go_over(case, component, snapshot, one, replaces_live=replaces_live)
    return tuple(placed[one.source] for one in restored)


def stop(case: Case) -> None:
    """Stop the application's services. Raises `RestoreFailed`."""
    with step(case, "stop") as done:
        _run(case, "stop")
        done.words, done.facts = "the application is stopped", {"commands": _count(case, "stop")}


def migrate(case: Case) -> None:
    """Run the `migrate` commands. Raises `RestoreFailed`, unless platform.yaml says to go on."""
    with step(case, "migrate") as done:
        failures = _run(case, "migrate")
        done.words = _words("migrated" if _count(case, "migrate") else "nothing to migrate", failures)
        done.facts = {"commands": _count(case, "migrate")}


def start(case: Case) -> None:
    """Start the application's services, those the request names or all. Raises as `migrate`."""
    with step(case, "start") as done:
        failures = _run(case, "start")
        done.words = _words("started" if _count(case, "start") else "nothing to start", failures)
        done.facts = {"commands": _count(case, "start")}


def verify(case: Case, assessment: Assessment, restored: Sequence[Restored]) -> Verified:
    """Find out whether the platform is well: databases, smoke commands, its address, files that rows name.

    Never raises for what is found.
    """
    case = on_scratch(case)
    with step(case, "verify") as done:
        verified = look_at_platform(case, assessment, restored)
        failed = "".join(f" {sentence}" for sentence in verified.failed)
        done.words = "the platform is well" if verified.well else f"the platform is NOT well.{failed}"
        done.outcome = Outcome.DONE if verified.well else Outcome.FAILED
        done.facts = {"verified": verified.record()}
    return verified


def undo(case: Case, restored: Sequence[Restored]) -> tuple[Restored, ...]:
    """Put what was live before back in its place: databases and configuration. Returns them as they are now.

    The application is stopped for it, and started again. Files and Redis cannot be put back, and their notes say so.
    Raises `RestoreFailed`.
    """
    case = on_scratch(case)
    stop(case)
    back = {one.source: one for one in restored}
    for one in sorted(restored, key=lambda one: ORDER.index(one.kind), reverse=True):
        back[one.source] = (undo_database if one.kind is Kind.POSTGRES else undo_place)(case, one)
    start(case)
    return tuple(back[one.source] for one in restored)


def finish(case: Case, ok: bool) -> None:
    """End the incident. Replaced databases go, when that was asked for and all is well. May be repeated."""
    notes: list[str] = []
    if ok and case.request.drop_replaced and case.request.mode is Mode.RECOVER:
        with step(case, "drop what was replaced") as done:
            for one in _placed(case):
                try:
                    notes += drop_replaced(case, one)
                except LifeboatError as error:
                    notes.append(f"{one.facts.get('kept')!r} stays: {error.message}")
            done.words = " ".join(notes) or "nothing was replaced"
    words = "The platform is recovered." if ok else "It was given up."
    if case.request.mode is not Mode.RECOVER:
        words = f"The {'practice' if case.practising else 'assessment'} {'went well' if ok else 'failed'}."
    case.journal.end(words, ok=ok, facts={"notes": notes})


def clear_practice(case: Case) -> tuple[str, ...]:
    """Remove everything that a practice has made: its scratch server and folders. Returns their names. May be repeated.

    Of a case in another mode, nothing.
    """
    removed = practice.clear(case) if case.practising else ()
    for name in removed:
        case.means.report(f"removed: {name}")
    return removed


# ---- components -----------------------------------------------------------------------------------------------------


def _component(case: Case, assessment: Assessment, source: str) -> Component:
    try:
        component = assessment.component(source)
    except KeyError:
        known = ", ".join(c.source for c in assessment.components)
        raise NotReady(f"{source} was not assessed; assessed were: {known}.", hint="Assess again.") from None
    return practice.as_gone(component) if case.practising else component


def _components(case: Case, assessment: Assessment, *kinds: Kind) -> Iterator[Component]:
    for component in assessment.components:
        if component.kind in kinds:
            yield _component(case, assessment, component.source)


def _is_pending(case: Case, assessment: Assessment, one: Restored) -> bool:
    component = _component(case, assessment, one.source)
    if one.kind is Kind.POSTGRES:
        return database_in_place(case, one, case.means.server_of(one.source, case.request)) is None
    return is_pending(case, component, snapshot_of(case, component))


def _refusal(case: Case, assessment: Assessment, one: Restored, replaces_live: bool) -> NotReady | None:
    try:
        refuse_unless_agreed(case, _component(case, assessment, one.source), replaces_live)
    except NotReady as refusal:
        return refusal
    return None


def _placed(case: Case) -> Iterator[Restored]:
    """The databases that were put in place, as the journal has them."""
    seen: set[str] = set()
    for entry in reversed(case.journal.entries()):
        if entry.step == PLACE and entry.outcome is Outcome.DONE and entry.source not in seen:
            seen.add(entry.source)
            one = Restored.of_record(entry.facts["restored"])
            if one.kind is Kind.POSTGRES:
                yield one


def _left_seconds(case: Case, assessment: Assessment) -> float | None:
    """How long everything that is not restored yet may take, by earlier proofs; None where that is not known."""
    left = [c.expected_seconds for c in assessment.components if not _is_restored(case, c)]
    return None if None in left else sum(seconds for seconds in left if seconds is not None)


def _is_restored(case: Case, component: Component) -> bool:
    return next(restored_before(case, RESTORE, component.source, component.snapshot), None) is not None


# ---- commands -------------------------------------------------------------------------------------------------------


def _run(case: Case, what: Step) -> tuple[str, ...]:
    services = case.request.services if what == "start" else ()
    return run_step(case.means, what, services=services, only_say=case.practising)


def _count(case: Case, what: Step) -> int:
    """How many commands were run for a step."""
    settings = case.means.platform.application
    if settings is None or case.practising:
        return 0
    return len(commands_of(settings, what, case.request.services if what == "start" else ()))


def _words(good: str, failures: Sequence[str]) -> str:
    return good if not failures else f"{good}, but: {' '.join(failures)}"


# ---- getting ready --------------------------------------------------------------------------------------------------


def _raise_all(what: str, obstacles: Sequence[str], hint: str) -> None:
    if obstacles:
        raise NotReady(f"{what}:" + "".join(f"\n- {obstacle}" for obstacle in obstacles), hint=hint)


def _wait_for_servers(case: Case, assessment: Assessment) -> None:
    """Wait until every database server and Redis answers; raises `NotReady` naming all that do not."""
    case = on_scratch(case)
    settings = case.means.platform.application
    deadline = time.monotonic() + (settings.seconds("answer") if settings is not None else 120)
    silent = []
    for component in _components(case, assessment, Kind.POSTGRES, Kind.REDIS):
        if case.practising and component.kind is Kind.REDIS:
            continue
        try:
            _wait_for(_question(case, component), deadline, f"waiting for {component.place}", case.means.report)
        except LifeboatError as error:
            silent.append(f"{component.source}: {error.message}")
    _raise_all("Not every server answers", silent, "Start it, or correct its connection, and repeat this step.")


def _question(case: Case, component: Component) -> Callable[[], object]:
    if component.kind is Kind.POSTGRES:
        server = case.means.server_of(component.source, case.request).server
        return lambda: oids_of(server)
    redis = case.means.redis_of(component.source, case.request).server
    return lambda: ask_facts(redis)


def _wait_for(ask: Callable[[], object], deadline: float, words: str, tell: Report) -> None:
    told = False
    while True:
        try:
            ask()
            return
        except LifeboatError as error:
            if not error.transient or time.monotonic() > deadline:
                raise
            if not told:
                tell(words)
                told = True
            time.sleep(0.5)


def _lacking_room(case: Case, assessment: Assessment) -> tuple[str, ...]:
    """What says that a target has not room for what is still to be restored to it, where that can be seen from here."""
    case = on_scratch(case)
    return (*_lacking_on_servers(case, assessment), *_lacking_on_disks(case, assessment))


def _lacking_on_servers(case: Case, assessment: Assessment) -> Iterator[str]:
    needed: dict[tuple[str, int], int] = {}
    servers = {}
    for component in _components(case, assessment, Kind.POSTGRES):
        if not component.snapshot or _is_restored(case, component):
            continue
        server = case.means.server_of(component.source, case.request).server
        evidence = read_evidence(case.means.vault, snapshot_of(case, component), repository=case.request.repository)
        where = server.host, server.port
        servers[where] = server
        needed[where] = needed.get(where, 0) + int(evidence.size * ROOM)
    for where, size in needed.items():
        with servers[where].administer() as admin:
            free = free_bytes(admin, servers[where])
        if free is None:
            case.means.report(f"The room on {servers[where]} cannot be seen from here; {size_text(size)} are needed.")
        elif free < size:
            yield f"{servers[where]} has room for {size_text(free)}, and about {size_text(size)} are needed."


def _lacking_on_disks(case: Case, assessment: Assessment) -> Iterator[str]:
    needed: dict[int, int] = {}
    disks: dict[int, Path] = {}
    for component in _components(case, assessment, Kind.FILES):
        begun = next(begun_before(case, RESTORE, component.source, component.snapshot), None)
        if not component.snapshot or component.state is State.ALIVE or begun is not None:
            continue  # of what is there already, how much stays is not known
        target = case.means.tree_of(component.source, case.request)
        disk = next(folder for folder in (target, *target.parents) if folder.exists())
        device = disk.stat().st_dev
        disks.setdefault(device, disk)
        size = tree_bytes(snapshot_of(case, component).manifest)
        needed[device] = needed.get(device, 0) + size
    for device, size in needed.items():
        status = os.statvfs(disks[device])
        free = status.f_bavail * status.f_frsize
        if free < size:
            yield f"{disks[device]} has room for {size_text(free)}, and {size_text(size)} are needed."
