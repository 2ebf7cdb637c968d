"""Putting a snapshot's RDB in place in the data folder of a server that is stopped.

A server with `appendonly yes` reads its append-only files and ignores the RDB. They are moved aside, and then the
server must load the RDB once with `appendonly no` and write new ones: `rewrite_append_only` does that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lifeboat.children import Children
from lifeboat.errors import (
    NotReady,
    RestoreFailed,
    SettingsError,
    SourceError,
    SourceRefused,
    SourceUnavailable,
)
from lifeboat.redis_source.connection import RedisServer
from lifeboat.redis_source.programs import RedisProgram
from lifeboat.redis_source.proof import heard
from lifeboat.redis_source.rdb import RdbContents, read_rdb
from lifeboat.redis_source.scratch import reads
from lifeboat.snapshot import Kind
from lifeboat.streams import tee
from lifeboat.vault import Progress, Snapshot, Vault

REWRITE_SECONDS = 6 * 3600.0
"""How long loading, and writing new append-only files, may take."""


@dataclass(frozen=True)
class DataFolder:
    """Where a server keeps its data, by its configuration."""

    folder: Path
    rdb: str = "dump.rdb"
    append_only_file: str = "appendonly.aof"
    append_only_folder: str = "appendonlydir"
    append_only: bool | None = None
    password: str | None = field(default=None, repr=False)
    config: Path | None = None
    others: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Placed:
    """What was put in place. `kept` are the previous files, by the dated names they have now."""

    snapshot: Snapshot
    rdb: Path
    contents: RdbContents
    kept: tuple[Path, ...]
    append_only_moved: bool
    rewritten: bool = False


def data_folder_of(config: Path) -> DataFolder:
    """What a redis.conf says. Raises `SettingsError` when it cannot be read or names no absolute `dir`."""
    settings: dict[str, str] = {}
    try:
        for line in config.read_text("utf-8", errors="replace").splitlines():
            words = _words(line)
            if len(words) > 1:
                settings[words[0].lower()] = words[1]
    except OSError as error:
        raise SettingsError(f"{config} cannot be read: {error.strerror}.", hint="Name the server's own.") from None
    if settings.get("cluster-enabled") == "yes":
        raise SettingsError(f"{config} is of a Redis Cluster, which Lifeboat does not restore.", hint="Use its tools.")
    folder = Path(settings.get("dir", ""))
    if not folder.is_absolute():
        raise SettingsError(f"{config} names no absolute `dir`.", hint="Name the data folder with --folder.")
    return DataFolder(
        folder,
        settings.get("dbfilename", "dump.rdb"),
        settings.get("appendfilename", "appendonly.aof"),
        settings.get("appenddirname", "appendonlydir"),
        settings.get("appendonly", "no") == "yes",
        settings.get("requirepass") or None,
        config.resolve(),
        settings,
    )


def place_rdb(
    vault: Vault,
    snapshot: Snapshot,
    data: DataFolder,
    *,
    server: RedisServer | None = None,
    program: RedisProgram | None = None,
    repository: str | None = None,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> Placed:
    """Write the RDB aside, check all of it, and put it in place; previous files stay under dated names.

    Refused while a server holds the folder, or answers at `server` and may be its. Up to the last moment the folder is
    as it was; ended at any point, it holds either the previous data or the snapshot's. May be repeated. Raises
    `NotReady`, `SettingsError`, `RestoreFailed`, `IntegrityError`, `RepositoryError`.
    """
    if snapshot.manifest.kind is not Kind.REDIS:
        raise SettingsError(f"{snapshot.label} is not a snapshot of Redis.", hint="`lifeboat list` shows the others.")
    facts = snapshot.manifest.facts
    if program is not None and not reads(program, str(facts["flavour"]), int(facts["rdb_version"])):
        raise NotReady(
            f"{snapshot.label} is of {facts['flavour']} {facts['server_version']} (RDB {facts['rdb_version']}), "
            f"which {program} does not read.",
            hint="Install a server at least as new as the source's.",
        )
    _check_folder(data, snapshot.manifest.artifact("rdb").plain_size)
    refuse_running(data, server)
    _remove_leftovers(data.folder)
    stamp = f"{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    chunks = heard(vault.read(snapshot, "rdb", repository=repository), progress)
    with _aside(data, snapshot) as (aside, file):
        contents = _write(file, aside, chunks)
        refuse_running(data, server)
        kept = []
        rdb = data.folder / data.rdb
        if rdb.exists():
            previous = _free_name(rdb, stamp)
            os.link(rdb, previous)
            kept.append(previous)
        aside.replace(rdb)
    # Only now: with `appendonly yes` and no such files, a server started in between would begin empty.
    moved = []
    for name in (data.append_only_file, data.append_only_folder):
        path = data.folder / name
        if path.exists():
            moved.append(path.rename(_free_name(path, stamp)))
    _sync(data.folder)
    return Placed(snapshot, rdb, contents, (*kept, *moved), bool(moved))


def refuse_running(data: DataFolder, server: RedisServer | None) -> None:
    """Raise `NotReady` when a server uses the folder: it would overwrite the RDB when it ends."""
    holders, unseen = _holders(data.folder)
    if holders:
        raise NotReady(
            f"A server holds {data.folder}: process {', '.join(map(str, holders))}.",
            hint="Stop it first; it would write its own data over the snapshot when it ends.",
        )
    if unseen:
        raise NotReady(
            f"This user cannot see whether a server of the owner of {data.folder} holds it: process "
            f"{', '.join(map(str, unseen))}.",
            hint="Run this as root or as the server's user, or stop that server.",
        )
    if server is None:
        return
    try:
        with server.client(seconds=10) as client:
            client.ping()
            folder = client.config_get("dir").get("dir")
    except SourceUnavailable as error:
        if "loading" not in error.message:
            return
        folder = None
    except SourceError:
        folder = None  # it answers, and does not say
    theirs = folder.decode(errors="replace") if isinstance(folder, bytes) else folder
    if theirs is None or Path(theirs).resolve() == data.folder.resolve():
        raise NotReady(
            f"A server still answers at {server}, and {data.folder} may be its data folder.",
            hint="Stop it first, or leave out its connection when it is another one.",
        )


def rewrite_append_only(
    placed: Placed,
    data: DataFolder,
    program: RedisProgram,
    *,
    server: RedisServer | None = None,
    children: Children | None = None,
) -> None:
    """Load the placed RDB once with `appendonly no`, have the server write new append-only files, and stop it.

    It runs with its own configuration, as the folder's owner, reachable by nobody else. `server` gives user and
    password where the configuration does not. Raises `RestoreFailed`; may be repeated.
    """
    children = children or Children()
    owner = data.folder.stat()
    with tempfile.TemporaryDirectory(prefix="lifeboat-redis-settle-") as name:
        run = Path(name)
        socket_path, settings = run / "socket", run / "settings"
        settings.touch(0o600)
        settings.write_text("\n".join(_overrides(data, run)) + "\n")
        password = data.password or (server.password if server else None)
        there = RedisServer(str(socket_path), 0, server.user if server else None, password)
        with (run / "log").open("ab") as log:
            if os.geteuid() == 0:
                for path in (run, settings):
                    os.chown(path, owner.st_uid, owner.st_gid)
            process = children.start(
                [*_as_owner(owner), program.path, settings],
                env={k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "TZ")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            _settle(there, process, placed, run / "log")
        except RestoreFailed as error:
            raise children.error_of(process.poll() or 0, error) from None
        finally:
            children.stop(process)


def _settle(server: RedisServer, process: subprocess.Popen[bytes], placed: Placed, log: Path) -> None:
    deadline = time.monotonic() + REWRITE_SECONDS
    _await_answer(server, process, deadline, log)
    with server.client() as client:
        keyspace = client.info("keyspace")
        found = sum(int(entry["keys"]) for name, entry in keyspace.items() if name.startswith("db"))
        held = placed.contents
        expiring = sum(database.expiring for database in held.databases.values())
        if not held.uncounted and not held.keys - expiring <= found <= held.keys:
            raise RestoreFailed(
                f"The server has loaded {found} keys, and the snapshot holds {held.keys}, of which {expiring} expire.",
                hint=f"Is {placed.rdb} what its configuration names? Nothing was rewritten.",
            )
        client.config_set("appendonly", "yes")
        while True:
            info = client.info("persistence")
            if info.get("aof_last_bgrewrite_status", "ok") != "ok" or time.monotonic() > deadline:
                raise RestoreFailed(
                    f"The server could not write its append-only files: {_tail(log)}",
                    hint=f"The RDB is in place; free room in {placed.rdb.parent} and repeat.",
                )
            pending = info["aof_rewrite_in_progress"] or info.get("aof_rewrite_scheduled")
            if info["aof_enabled"] and not pending and int(info.get("aof_base_size", 0)) > 0:
                break
            time.sleep(0.05)
        with contextlib.suppress(SourceUnavailable):
            client.shutdown(nosave=True)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        raise RestoreFailed("The server does not stop.", hint="Its append-only files are written; stop it.") from None


def _await_answer(server: RedisServer, process: subprocess.Popen[bytes], deadline: float, log: Path) -> None:
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with server.client(seconds=30) as client:
                client.ping()
            return
        except SourceUnavailable:
            time.sleep(0.05)
        except SourceRefused as error:
            raise RestoreFailed(
                f"The server refuses to be asked: {error.message}",
                hint="Name its connection, with a user who may CONFIG, INFO and SHUTDOWN.",
            ) from error
    raise RestoreFailed(f"The server did not start: {_tail(log)}", hint="The RDB is in place; see what it says.")


def _overrides(data: DataFolder, run: Path) -> Iterator[str]:
    if data.config is not None:
        yield f"include {data.config}"
    yield from (f"dir {data.folder}", f"dbfilename {data.rdb}", f"appendfilename {data.append_only_file}")
    yield from ("appendonly no", 'save ""', "port 0", "daemonize no", "supervised no", 'logfile ""')
    yield from (f"unixsocket {run / 'socket'}", "unixsocketperm 700", f"pidfile {run / 'pid'}")
    # Only where they are known to be understood.
    if "tls-port" in data.others:
        yield "tls-port 0"
    if "appenddirname" in data.others or data.append_only_folder != "appendonlydir":
        yield f"appenddirname {data.append_only_folder}"
    for name in ("replicaof", "slaveof"):
        if name in data.others:
            yield f"{name} no one"


def _check_folder(data: DataFolder, size: int) -> None:
    if not data.folder.is_dir():
        raise NotReady(f"{data.folder} is no folder.", hint="Name the server's data folder: its setting `dir`.")
    if "/" in data.rdb or not os.access(data.folder, os.W_OK):
        raise NotReady(f"Nothing can be written to {data.folder}.", hint="Run this as root, or as the server's user.")
    free = shutil.disk_usage(data.folder).free
    if free < size:
        raise NotReady(f"{data.folder} has room for {free} bytes, and the RDB has {size}.", hint="Free some first.")


def _holders(folder: Path) -> tuple[list[int], list[int]]:
    """Servers that work in a folder: they make it their own working directory, also within a container.

    And servers of the folder's owner of which that cannot be seen: /proc shows it to their user and to root alone.
    """
    ours = folder.stat()
    found: list[int] = []
    unseen: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if not re.search("redis|valkey|keydb", (process / "comm").read_text()):
                continue
            try:
                theirs = (process / "cwd").stat()
            except PermissionError:
                if process.stat().st_uid == ours.st_uid:
                    unseen.append(int(process.name))
                continue
            if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
                found.append(int(process.name))
    return sorted(found), sorted(unseen)


@contextlib.contextmanager
def _aside(data: DataFolder, snapshot: Snapshot) -> Iterator[tuple[Path, int]]:
    """A file beside the RDB, locked, owned as the RDB is or as the folder is; gone unless it was renamed.

    It is written through its descriptor: the folder's owner could have put a link in its place.
    """
    aside = data.folder / f"lifeboat-{snapshot.id}.part"
    like = data.folder / data.rdb if (data.folder / data.rdb).exists() else data.folder
    file = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.geteuid() == 0:
            os.fchown(file, like.stat().st_uid, like.stat().st_gid)
        if like.is_file():
            os.fchmod(file, stat.S_IMODE(like.stat().st_mode))
        yield aside, file
    finally:
        aside.unlink(missing_ok=True)
        os.close(file)


def _write(descriptor: int, aside: Path, chunks: Iterator[bytes]) -> RdbContents:
    found: list[RdbContents] = []

    def write(stream: Iterator[bytes]) -> None:
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                for chunk in stream:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RestoreFailed(
                f"{aside.parent} does not take the RDB: {error.strerror}.", hint="The folder is as it was."
            ) from error

    failures = tee(chunks, {"write": write, "count": lambda stream: found.append(read_rdb(stream))})
    for failure in failures.values():
        raise failure
    return found[0]


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob("lifeboat-*.part"):
        with contextlib.suppress(OSError):
            # The folder's owner may have put a link or a pipe there.
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)


def _free_name(path: Path, stamp: str) -> Path:
    """A dated name that is not taken."""
    wanted = path.with_name(f"{path.name}.before-{stamp}")
    number = 1
    while wanted.exists():
        number += 1
        wanted = path.with_name(f"{path.name}.before-{stamp}-{number}")
    return wanted


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _as_owner(owner: os.stat_result) -> list[str]:
    if os.geteuid() != 0 or owner.st_uid == 0:
        return []
    # The kernel forgets at a change of user that a program is to end with us, so it is asked once more.
    ids = [f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]
    return ["setpriv", *ids, "--pdeathsig", "KILL", "--"]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=line.lstrip().startswith("#"))
    except ValueError:
        return line.split()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return " / ".join(line for line in lines[-5:] if "key '" not in line) or "it said nothing"


def steps(placed: Placed, data: DataFolder) -> tuple[str, ...]:
    """What remains to be done by a person."""
    if placed.rewritten:
        return ("Start the server as usual: its append-only files hold the snapshot.",)
    if not (placed.append_only_moved or data.append_only):
        if data.append_only is None:
            return (
                "Start the server. If its configuration has `appendonly yes`, start it once with `--appendonly no`, "
                "run `CONFIG SET appendonly yes`, and wait for aof_rewrite_in_progress:0; else it ignores the RDB.",
            )
        return ("Start the server as usual.",)
    return (
        "Start the server once with `--appendonly no`; with `appendonly yes` it would ignore the RDB and begin empty.",
        "Then run `CONFIG SET appendonly yes`, and wait until `INFO persistence` says aof_rewrite_in_progress:0.",
        "From then on it may be started as usual. `--server PROGRAM --config FILE` does all this by itself.",
    )
