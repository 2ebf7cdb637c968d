"""What is left of a source: whether its place answers, what it holds, and what it calls itself. Nothing is changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from redis.exceptions import BusyLoadingError

from lifeboat.backup import DatabaseSource
from lifeboat.configuration.files import ConfigurationSource, list_files
from lifeboat.errors import LifeboatError, SettingsError, SourceError, SourceRefused, SourceUnavailable
from lifeboat.files.scan import exclude, scan
from lifeboat.postgres.connection import Connection, PostgresServer
from lifeboat.postgres.evidence import read_system_identifier
from lifeboat.progress import count_text, size_text
from lifeboat.recovery.means import Means
from lifeboat.recovery.model import Mode, Request, State
from lifeboat.redis_source.connection import RedisServer, cluster_refused
from lifeboat.redis_source.evidence import facts_of
from lifeboat.snapshot import Kind

COUNTING_SECONDS = 10.0
"""How long the files of a tree are counted."""

ASKING_SECONDS = 20
"""How long a server may take to say what it holds."""


@dataclass(frozen=True)
class Left:
    """What was found at the place that a source is brought back to.

    `identity` is what the place calls itself, empty where nothing answers. `obstacle` is why nothing could be brought
    back there now, empty where that is not known. `files` are counted where they are files.
    """

    place: str
    state: State
    found: str
    identity: str = ""
    obstacle: str = ""
    files: int | None = None


def look_at(means: Means, source: str, request: Request) -> Left:
    """What is left of a source, or at the target that it is brought back to. May be repeated; raises nothing of ours.

    A place that answers and lets nobody look is taken for alive: nothing there may be replaced unasked. A practice
    looks at nothing.
    """
    kind = means.platform.kind(source)
    if request.mode is Mode.PRACTICE:
        return Left(_SCRATCH[kind], State.GONE, "not looked at: a practice touches nothing live")
    try:
        return _LOOKS[kind](means, source, request)
    except SettingsError as error:
        return Left("unknown", State.GONE, error.message, obstacle=f"{error.message} {error.hint}".strip())


def identity_of(means: Means, source: str, request: Request) -> str:
    """What the place of a source calls itself now; empty where nothing answers, and in a practice."""
    return look_at(means, source, request).identity


# ---- databases ------------------------------------------------------------------------------------------------------


def _database(means: Means, source: str, request: Request) -> Left:
    target = means.server_of(source, request)
    place = f"database {target.database!r} on {target.server}"
    try:
        with target.server.connect(target.database) as connection:
            return _held(connection, target.server, place)
    except SourceError as error:
        return _ask_the_server(target, place, error)


def _held(connection: Connection, server: PostgresServer, place: str) -> Left:
    connection.execute(f"SET statement_timeout = '{ASKING_SECONDS}s'".encode())
    row = connection.execute(_HELD.encode()).fetchone()
    assert row is not None  # a SELECT of aggregates gives one row
    version, tables, others, size = row
    holds = f"{count_text(tables, 'table')}, {size_text(size)}" if tables or others else "without any table"
    state = State.ALIVE if tables or others else State.EMPTY
    return Left(place, state, f"PostgreSQL {version}, {holds}", _identity(connection, server))


def _ask_the_server(target: DatabaseSource, place: str, error: LifeboatError) -> Left:
    """What the server says of a database that does not let us in."""
    try:
        with target.server.administer() as admin:
            identity = _identity(admin, target.server)
            there = admin.execute("SELECT FROM pg_database WHERE datname = %s", [target.database]).fetchone()
            if there is None:
                found = f"PostgreSQL {admin.info.parameter_status('server_version')}, without this database"
                return Left(place, State.EMPTY, found, identity)
            return Left(place, State.ALIVE, error.message, identity, f"{error.message} {error.hint}".strip())
    except SourceRefused as refused:
        return Left(place, State.ALIVE, refused.message, obstacle=f"{refused.message} {refused.hint}".strip())
    except SourceUnavailable as silent:
        return Left(place, State.GONE, silent.message)
    except SourceError as other:
        return Left(place, State.ALIVE, other.message, obstacle=f"{other.message} {other.hint}".strip())


def _identity(connection: Connection, server: PostgresServer) -> str:
    identifier = read_system_identifier(connection)
    return f"system {identifier}" if identifier else f"server at {server.host}:{server.port}"


# What a database has of its own: not the system's, and not that of extensions.
_HELD = """
    SELECT current_setting('server_version'),
           (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                  AND d.deptype = 'e')),
           (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind NOT IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                  AND d.deptype = 'e'))
           + (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
               WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
                 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                                    AND d.deptype = 'e'))
           + (SELECT count(*) FROM pg_largeobject_metadata),
           pg_database_size(current_database())
"""


# ---- Redis ----------------------------------------------------------------------------------------------------------


def _redis(means: Means, source: str, request: Request) -> Left:
    server = means.redis_of(source, request).server
    place = f"Redis at {server}"
    try:
        with server.client(seconds=ASKING_SECONDS) as client:
            return _redis_held(server, client.info(), place)
    except SourceUnavailable as error:
        if isinstance(error.__cause__, BusyLoadingError):
            return Left(place, State.ALIVE, "it is still loading its data", obstacle=f"{error.message} {error.hint}")
        return Left(place, State.GONE, error.message)
    except SourceError as error:
        return Left(place, State.ALIVE, error.message, obstacle=f"{error.message} {error.hint}".strip())


def _redis_held(server: RedisServer, info: Mapping[str, object], place: str) -> Left:
    if info.get("cluster_enabled") == 1:
        raise cluster_refused(server)
    facts = facts_of(info)
    keys = sum(facts.keys.values())
    state = State.ALIVE if keys else State.EMPTY
    found = f"{facts.flavour.capitalize()} {facts.version}, {count_text(keys, 'key')}"
    return Left(place, state, found, f"run {info['run_id']}")


# ---- files and configuration ----------------------------------------------------------------------------------------


def _tree(means: Means, source: str, request: Request) -> Left:
    root = means.tree_of(source, request)
    missing = _missing(root)
    if missing is not None:
        return missing
    try:
        files, others, size, all_of_it = _count(root, means.platform.file_tree(source).exclude)
    except OSError as error:
        return _unreadable(root, error)
    identity = folder_identity(root)
    if all_of_it and not files and not others:
        return Left(str(root), State.EMPTY, "no files in it", identity, files=0)
    found = f"{count_text(files, 'file')}, {size_text(size)}"
    more = "" if all_of_it else f" in the first {COUNTING_SECONDS:g} s of counting"
    return Left(str(root), State.ALIVE, found + more, identity, files=files if all_of_it else None)


def _count(root: Path, patterns: tuple[str, ...]) -> tuple[int, int, int, bool]:
    """Files, things that are neither file nor folder, bytes, and whether there was time to count all."""
    files = others = size = 0
    until = time.monotonic() + COUNTING_SECONDS
    for found in scan(str(root), exclude(patterns)):
        if found.opened is None:
            regular = (found.info.st_mode & 0o170000) == 0o100000
            files += regular
            others += not regular
            size += found.info.st_size if regular else 0
        if time.monotonic() > until:
            return files, others, size, False
    return files, others, size, True


def _configuration(means: Means, source: str, request: Request) -> Left:
    target = means.root_of(source, request)
    missing = _missing(target.root)
    if missing is not None:
        return missing
    identity = folder_identity(target.root)
    if not _has_any(target):
        return Left(str(target.root), State.EMPTY, f"none of {', '.join(target.paths)} is there", identity, files=0)
    try:
        listed = list_files(target)
    except LifeboatError as error:
        return Left(str(target.root), State.ALIVE, error.message, identity)
    found = " ".join([count_text(len(listed.files), "file"), *(f"({remark})" for remark in listed.remarks)])
    return Left(str(target.root), State.ALIVE, found, identity, files=len(listed.files))


def _has_any(target: ConfigurationSource) -> bool:
    """Whether anything that the set names is there, readable or not."""
    return any(True for pattern in target.paths for _ in target.root.glob(pattern))


def folder_identity(root: Path) -> str:
    """What a folder is called by its file system, whatever its name."""
    info = root.stat()
    return f"device {info.st_dev}, inode {info.st_ino}"


def _missing(root: Path) -> Left | None:
    """What to say of a folder that is not there, or of which that cannot be known; None where it is there."""
    try:
        os.listdir(root)  # noqa: PTH208 - a mount that has failed says so only when it is read
        return None
    except FileNotFoundError:
        if not root.is_symlink():
            return Left(str(root), State.GONE, "there is no such folder")
        reason = f"{root} is a symlink that leads nowhere."
        return Left(str(root), State.GONE, reason, obstacle=f"{reason} Bring back what it leads to, or remove it.")
    except NotADirectoryError:
        reason = f"{root} is no folder."
        return Left(str(root), State.ALIVE, reason, obstacle=f"{reason} Move it aside, or choose another target.")
    except OSError as error:
        return _unreadable(root, error)


def _unreadable(root: Path, error: OSError) -> Left:
    reason = f"{root} cannot be read: {error.strerror}."
    return Left(str(root), State.ALIVE, reason, obstacle=f"{reason} Look at its mount and its owner.")


_LOOKS: Mapping[Kind, Callable[[Means, str, Request], Left]] = {
    Kind.POSTGRES: _database,
    Kind.REDIS: _redis,
    Kind.FILES: _tree,
    Kind.CONFIG: _configuration,
}

_SCRATCH: Mapping[Kind, str] = {
    Kind.POSTGRES: "a scratch server",
    Kind.REDIS: "a scratch server",
    Kind.FILES: "a scratch folder",
    Kind.CONFIG: "a scratch folder",
}
