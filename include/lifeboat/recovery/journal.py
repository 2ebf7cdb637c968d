"""An incident's journal: what was begun, done, asked and answered, kept beside the snapshots.

It is only ever added to: one small object an entry, in every repository that answers. So a recovery that is killed
anywhere is continued by whoever comes next, on any host. Nothing is believed on its word alone: it says where to look.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lifeboat.errors import LifeboatError, NotReady, ObjectExists, RepositoryError, SettingsError, SnapshotNotFound
from lifeboat.own_files import make_folders
from lifeboat.progress import Report
from lifeboat.recovery.model import Entry, Mode, Outcome, Request
from lifeboat.vault import Member, Vault

PREFIX = "reports/incidents/"
"""Where journals stand in every repository: a folder an incident."""

BEGIN, END = "begin", "end"
"""The steps that open and close an incident."""

TURNS = "reports/turns/"
"""Where it stands whose turn it is to recover the platform: an object a turn, each named once."""

PATIENCE = 20
"""Seconds in which a repository must take an entry; a recovery does not wait longer."""


@dataclass(frozen=True)
class Incident:
    """An incident of the vault: when it was `opened`, and how it ended, if it has."""

    id: str
    opened: datetime
    mode: Mode
    title: str
    request: Request | None
    ended: Entry | None = None


def new_incident(now: datetime) -> str:
    """A fresh incident id: the time, and eight random hexadecimal digits."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{os.urandom(4).hex()}"


def incident_of_run(run_after: datetime, run_id: str, form: Mapping[str, Any]) -> str:
    """The incident of a DAG run: the one that its form asks to go on with, or its own.

    Always the same one, so that a task which is cleared finds it again.
    """
    if form.get("incident"):
        return str(form["incident"])
    return f"{run_after.astimezone(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def opened_at(incident: str) -> datetime:
    """When an incident was opened, as its id says. Raises `SettingsError`."""
    return datetime.strptime(check_incident(incident).partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def check_incident(incident: str) -> str:
    """The id, when it is one. Raises `SettingsError`."""
    if not _INCIDENT.fullmatch(incident):
        raise SettingsError(
            f"{incident!r} is no incident's id.",
            hint="One looks like 20261124T081500Z-6f3a9c21; `lifeboat incidents` lists them.",
        )
    return incident


class Journal:
    """The journal of one incident. Safe to use from several threads and processes.

    Where no repository takes an entry, it is kept below `state`, and put into the repositories with a later one.
    """

    def __init__(self, vault: Vault, incident: str, *, state: Path | None = None, report: Report | None = None) -> None:
        self.incident = check_incident(incident)
        self._vault = vault
        self._state = state / "incidents" / incident if state is not None else None
        self._report = report or (lambda _: None)
        self._read: dict[str, Entry] = {}

    def write(
        self, step: str, outcome: Outcome, words: str, source: str = "", facts: Mapping[str, Any] | None = None
    ) -> Entry:
        """Add an entry. Never raises: a recovery does not fail because its journal cannot be written."""
        entry = Entry(datetime.now(UTC), step, outcome, words, source, dict(facts or {}))
        name = f"{entry.at:%Y%m%dT%H%M%S.%fZ}-{_slug(step)}-{os.urandom(4).hex()}.json"
        data = json.dumps(entry.record(), ensure_ascii=False).encode()
        self._read[name] = entry
        if self._put(name, data):
            self._put_kept()
        elif self._keep(name, data):
            self._report(f"WARNING: no repository takes the journal of {self.incident}; it is kept in {self._state}.")
        else:
            self._report(f"WARNING: nothing takes the journal of {self.incident}: {step} {outcome}: {words}")
        return entry

    def entries(self) -> tuple[Entry, ...]:
        """Everything that was written, by whomever, oldest first. What cannot be read is left out."""
        for member in self._vault.present:
            with suppress(RepositoryError):
                for info in member.repository.list(f"{PREFIX}{self.incident}/"):
                    name = info.key.rpartition("/")[2]
                    if name not in self._read:
                        with suppress(RepositoryError):
                            self._take(name, b"".join(member.repository.get(info.key)))
        for file in self._kept():
            if file.name not in self._read:
                with suppress(OSError):
                    self._take(file.name, file.read_bytes())
        return tuple(self._read[name] for name in sorted(self._read))

    def last(self, step: str, outcome: Outcome, source: str = "") -> Entry | None:
        """The newest entry of a step with an outcome, of a source where one is named."""
        fitting = [e for e in self.entries() if (e.step, e.outcome, e.source) == (step, outcome, source)]
        return fitting[-1] if fitting else None

    # ---- beginning and ending ---------------------------------------------------------------------------------------

    def begin(self, request: Request, *, by: str = "") -> bool:
        """Open the incident, or go on with it; whether it was open already.

        Raises `NotReady` while another one recovers the platform, and for one that has ended.
        """
        entries = self.entries()
        if ended := next((e for e in entries if e.step == END), None):
            raise NotReady(
                f"The incident {self.incident} has ended: {ended.words}",
                hint="Begin a new one. `lifeboat kept` shows the databases that wait.",
            )
        is_open = any(e.step == BEGIN for e in entries)
        if not is_open:
            facts = {"request": request.record(), "by": by}
            self.write(BEGIN, Outcome.BEGUN, f"{request.title} ({request.mode})", facts=facts)
        if request.mode is Mode.RECOVER:
            try:
                self._take_turn()
            except NotReady as refusal:
                if not is_open:
                    self.end(refusal.message, ok=False)
                raise
        return is_open

    def end(self, words: str, *, ok: bool = True, facts: Mapping[str, Any] | None = None) -> None:
        """Close the incident. May be repeated: it is closed once."""
        if all(e.step != END for e in self.entries()):
            self.write(END, Outcome.DONE if ok else Outcome.FAILED, words, facts=facts)

    def request(self) -> Request | None:
        """What was asked for when the incident was opened."""
        entry = self.last(BEGIN, Outcome.BEGUN)
        return _request_of(entry) if entry else None

    def _take_turn(self) -> None:
        """Take the next turn, once everybody has ended who had the one before. A name is only ever put once."""
        number, holders = _newest_turn(self._vault)
        if self.incident in holders:
            return
        for holder in holders:
            self._refuse_open(holder)
        key, took = f"{TURNS}{number + 1:08}", 0
        for member in self._vault.present:
            with suppress(RepositoryError):
                with suppress(ObjectExists):
                    member.repository.put(key, [self.incident.encode()])
                # Read back: a store that ignores conditions has let both of two put it.
                holder = b"".join(member.repository.get(key)).decode(errors="replace")
                if holder != self.incident:
                    self._refuse_open(holder, at_once=True)
                took += 1
        if not took:
            self._report("WARNING: no repository could be asked whether somebody else recovers the platform.")

    def _refuse_open(self, holder: str, *, at_once: bool = False) -> None:
        with suppress(SettingsError, SnapshotNotFound):
            other = find_incident(self._vault, holder)
            if other.ended is None:
                since = "just now" if at_once else f"since {other.opened:%Y-%m-%d %H:%M:%S} UTC"
                raise NotReady(
                    f"The platform is being recovered {since}, in the incident {holder}: {other.title}",
                    hint=f"Go on with that one. If nobody does, end it: `lifeboat incidents end {holder} --reason …`.",
                )

    # ---- entries ----------------------------------------------------------------------------------------------------

    def _put(self, name: str, data: bytes) -> bool:
        """Put an entry into every repository that answers in time; whether any has it."""
        key = f"{PREFIX}{self.incident}/{name}"

        def put(member: Member) -> None:
            with suppress(ObjectExists):
                member.repository.put(key, [data])

        work = {self._vault.pool.submit(put, member): member.name for member in self._vault.present}
        done, late = wait(work, timeout=PATIENCE)
        for future in late:
            self._report(f"WARNING: {work[future]} has not taken an entry of the journal within {PATIENCE} s.")
        for future in done:
            if isinstance(error := future.exception(), LifeboatError):
                self._report(f"WARNING: {work[future]} has not taken an entry of the journal: {error.message}")
        return any(future.exception() is None for future in done)

    def _keep(self, name: str, data: bytes) -> bool:
        if self._state is None:
            return False
        try:
            make_folders(self._state)
            (self._state / name).write_bytes(data)
        except OSError:
            return False
        return True

    def _kept(self) -> Iterable[Path]:
        return sorted(self._state.glob("*.json")) if self._state is not None else ()

    def _put_kept(self) -> None:
        for file in self._kept():
            with suppress(OSError):
                if self._put(file.name, file.read_bytes()):
                    file.unlink()

    def _take(self, name: str, data: bytes) -> None:
        with suppress(ValueError, TypeError):
            self._read[name] = Entry.of_record(json.loads(data))


def incidents(vault: Vault) -> tuple[Incident, ...]:
    """Every incident of the vault, oldest first. What cannot be read is left out."""
    names: dict[str, set[str]] = {}
    for member in vault.present:
        with suppress(RepositoryError):
            for info in member.repository.list(PREFIX):
                incident, _, name = info.key.removeprefix(PREFIX).partition("/")
                if _INCIDENT.fullmatch(incident) and _name_says(name, BEGIN, END):
                    names.setdefault(incident, set()).add(name)
    found = (_incident(vault, incident, names[incident]) for incident in sorted(names))
    return tuple(incident for incident in found if incident is not None)


def open_incidents(vault: Vault) -> tuple[Incident, ...]:
    """The incidents in which the platform is being recovered, or was when that was given up without a word."""
    return tuple(one for one in incidents(vault) if one.ended is None and one.mode is Mode.RECOVER)


def find_incident(vault: Vault, incident: str) -> Incident:
    """The incident of this id. Raises `SettingsError`, and `SnapshotNotFound` when there is none."""
    check_incident(incident)
    names: set[str] = set()
    for member in vault.present:
        with suppress(RepositoryError):
            keys = [info.key.rpartition("/")[2] for info in member.repository.list(f"{PREFIX}{incident}/")]
            names |= {name for name in keys if _name_says(name, BEGIN, END)}
    found = _incident(vault, incident, names)
    if found is None:
        raise SnapshotNotFound(f"There is no incident {incident}.", hint="`lifeboat incidents` lists them.")
    return found


def _incident(vault: Vault, incident: str, names: Iterable[str]) -> Incident | None:
    entries = [entry for name in sorted(names) if (entry := _entry(vault, f"{PREFIX}{incident}/{name}"))]
    begun = next((entry for entry in entries if entry.step == BEGIN), None)
    if begun is None:
        return None
    request = _request_of(begun)
    mode = request.mode if request else Mode.RECOVER
    ended = next((entry for entry in entries if entry.step == END), None)
    return Incident(incident, begun.at, mode, request.title if request else begun.words, request, ended)


def _entry(vault: Vault, key: str) -> Entry | None:
    for member in vault.present:
        with suppress(RepositoryError, ValueError, TypeError):
            return Entry.of_record(json.loads(b"".join(member.repository.get(key))))
    return None


def _request_of(entry: Entry) -> Request | None:
    with suppress(ValueError, KeyError, TypeError):
        return Request.of_record(entry.facts["request"])
    return None


def _newest_turn(vault: Vault) -> tuple[int, frozenset[str]]:
    """The number of the newest turn, and whoever has it: one, unless repositories could not be asked at the time."""
    newest, holders = 0, set[str]()
    for member in vault.present:
        with suppress(RepositoryError):
            for info in member.repository.list(TURNS):
                number = info.key.removeprefix(TURNS)
                if not number.isdigit() or int(number) < newest:
                    continue
                if int(number) > newest:
                    newest, holders = int(number), set()
                holders.add(b"".join(member.repository.get(info.key)).decode(errors="replace"))
    return newest, frozenset(holders)


def _name_says(name: str, *steps: str) -> bool:
    return name.endswith(".json") and any(f"Z-{step}-" in name for step in steps)


def _slug(step: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", step.lower()).strip("-") or "step"


_INCIDENT = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
