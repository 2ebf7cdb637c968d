"""Practising a recovery: the same steps, on a scratch server and in scratch folders. Nothing live is even looked at.

Scratch targets are found again by the incident's id, by whichever process carries out the next step on this host.
"""

from __future__ import annotations

import errno
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lifeboat.assembly import database_source
from lifeboat.backup import read_evidence
from lifeboat.connections import Connection
from lifeboat.errors import ClientMissing, LifeboatError, NotReady, RestoreFailed, SettingsError
from lifeboat.own_files import is_own_folder, own_folders
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.kept_server import KeptServer, kept_servers, remove_kept
from lifeboat.recovery.case import Case, snapshot_of
from lifeboat.recovery.model import Assessment, Component, State
from lifeboat.snapshot import Kind

BASE = Path("/var/tmp")  # noqa: S108 - the folder made there is this process's own
"""Where scratch targets are put unless another folder is named."""

KEEP = timedelta(hours=24)
"""How long scratch targets stay at most, when nobody removes them."""

_CONNECTION = "lifeboat-practice-"

_PREFIX = "lifeboat-practice-"
"""What the name of every scratch folder begins with; the incident's id follows."""


def make_targets(case: Case, assessment: Assessment) -> None:
    """Make the scratch folder, and start the scratch server when any database takes part. May be repeated.

    Raises `ClientMissing`, `NotReady`, `SourceUnavailable`.
    """
    remove_leftovers(_base(case))
    folder = _folder(case)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not is_own_folder(folder):
            raise PermissionError(errno.EPERM, "it is somebody else's")
    except OSError as error:
        raise NotReady(f"{folder} cannot be made: {error.strerror}.", hint="Name another folder.") from error
    databases = [c for c in assessment.components if c.kind is Kind.POSTGRES and c.snapshot]
    if not databases or _server(case) is not None:
        return
    evidences = [
        read_evidence(case.means.vault, snapshot_of(case, component), repository=case.request.repository)
        for component in databases
    ]
    newest = max(evidence.server_major for evidence in evidences)
    able = sorted(p for p in case.means.installed() if p.major >= newest and p.has("initdb", "postgres"))
    if not able:
        raise ClientMissing(
            f"No server programs of PostgreSQL {newest} or newer are installed to practise with.",
            hint=f"Install postgresql-{newest}.",
        )
    # As durable as a real one, so that the time it takes is what a real recovery takes.
    with TemporaryCluster(able[0], settings={"fsync": "on"}, base=_base(case)) as cluster:
        kept = cluster.keep(datetime.now(UTC) + KEEP, database="postgres", snapshot=_mark(case.incident))
    case.means.report(f"{kept}")


def on_scratch(case: Case) -> Case:
    """The case with scratch targets in the place of the real ones; of any other mode, as it is."""
    if not case.practising:
        return case
    platform, kept = case.means.platform, _server(case)
    targets = {
        **{name: f"{_CONNECTION}{name}" for name in platform.names(Kind.POSTGRES)},
        **{name: str(_folder(case) / name) for name in platform.names(Kind.FILES, Kind.CONFIG)},
    }

    def lookup(name: str) -> Connection | None:
        if not name.startswith(_CONNECTION):
            return case.means.lookup(name)
        if kept is None:
            raise RestoreFailed(
                f"The scratch server of this practice is not on {socket.gethostname()}.",
                hint="Every step of a practice runs on the same host. Prepare again here.",
            )
        password = kept.password_file.read_text().strip().rpartition(":")[2]
        database = _database(case, name.removeprefix(_CONNECTION))
        return Connection(name, "postgres", kept.address, kept.port, kept.user, password, database)

    return replace(case, means=replace(case.means, lookup=lookup), request=replace(case.request, targets=targets))


def as_gone(component: Component) -> Component:
    """A component as a practice takes it: nothing is at its scratch target."""
    return replace(component, state=State.GONE, identity="")


def clear(case: Case) -> tuple[str, ...]:
    """Remove the scratch server and folders of a practice; their names. May be repeated."""
    return remove(case.incident, _base(case))


def remove(incident: str, base: Path = BASE) -> tuple[str, ...]:
    """The same by the incident's id, for one that nobody goes on with."""
    removed = []
    for kept in kept_servers(base):
        if kept.snapshot == _mark(incident):
            remove_kept(kept)
            removed.append(kept.name)
    folder = base / f"{_PREFIX}{incident}"
    if is_own_folder(folder):
        shutil.rmtree(folder, ignore_errors=True)
        removed.append(folder.name)
    return tuple(removed)


def remove_leftovers(base: Path = BASE) -> tuple[str, ...]:
    """Remove the scratch folders of practices that were given up long ago; their names. They hold secrets in the clear.

    Scratch servers end by themselves in their time.
    """
    removed = []
    for folder in own_folders(base, _PREFIX):
        with suppress(OSError):
            if time.time() - folder.lstat().st_mtime > KEEP.total_seconds():
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder.name)
    return tuple(removed)


def _server(case: Case) -> KeptServer | None:
    fitting = (kept for kept in kept_servers(_base(case)) if kept.snapshot == _mark(case.incident) and kept.running)
    return next(fitting, None)


def _database(case: Case, source: str) -> str:
    settings = case.means.platform.database(source)
    if settings.database:
        return settings.database
    try:
        return database_source(case.means.platform, source, case.means.lookup).database
    except (SettingsError, LifeboatError):
        return source


def _base(case: Case) -> Path:
    return case.means.base or BASE


def _folder(case: Case) -> Path:
    return _base(case) / f"{_PREFIX}{case.incident}"


def _mark(incident: str) -> str:
    return f"practice {incident}"
