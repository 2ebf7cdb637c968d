"""Throw-away Redis servers on loopback: for proving snapshots, and for reading keys out of an RDB.

The RDB reaches the server through a pipe that stands in the place of its file, so it touches no disk. The server is
told that it is a replica of a master it never finds: a replica does not drop what has expired, so that every key of
the RDB can be counted, and it lets nobody write.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lifeboat.children import Children
from lifeboat.errors import LifeboatError, NotReady, RestoreFailed, SourceError, SourceUnavailable
from lifeboat.own_files import own_folders
from lifeboat.redis_source.connection import RedisServer
from lifeboat.redis_source.programs import RedisProgram, no_server
from lifeboat.redis_source.rdb import RdbContents, read_rdb
from lifeboat.streams import CHUNK, tee

BASE = Path("/var/tmp")  # noqa: S108 - the names within are random
"""Where a server's folder is put unless another is named. It holds its configuration and its log."""

START_SECONDS = 60
"""How long a server may take until it reads its RDB, and until it answers afterwards."""

ROOM = 1.1
"""Memory that must be free, as a multiple of what the source used."""

_PREFIX = "lifeboat-redis-"
_TRIES = 3


@dataclass(frozen=True)
class ScratchRedis:
    """A running server, and what was loaded into it."""

    server: RedisServer
    program: RedisProgram
    contents: RdbContents | None
    log: Path


@contextmanager
def scratch_redis(
    program: RedisProgram,
    rdb: Iterable[bytes] | None = None,
    *,
    databases: int = 16,
    writable: bool = False,
    base: Path | None = None,
    children: Children | None = None,
) -> Iterator[ScratchRedis]:
    """A server with a password of its own and what `rdb` holds; gone at the end, and with this process.

    Raises `IntegrityError` for a damaged RDB, `RestoreFailed` with the end of its log when the server refuses it,
    `SourceUnavailable` when it does not start or is killed, `NotReady` when there is no place for its folder. Start it
    from a thread that outlives it.
    """
    base, children = base or BASE, children or Children()
    remove_leftovers(base)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_folder(base))
        # Nobody listens there: the port is taken, and stays so.
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))
        for attempt in range(_TRIES):
            server = RedisServer("127.0.0.1", _free_port(), None, secrets.token_urlsafe(24))
            _write_settings(folder, server, databases, master=None if writable else nobody.getsockname()[1])
            if rdb is not None and attempt == 0:
                os.mkfifo(folder / "dump.rdb", 0o600)
            process = _start(program, folder, children)
            stack.callback(children.stop, process)
            pipe = _open_pipe(folder / "dump.rdb", process) if rdb is not None else None
            if pipe is not None or (rdb is None and _answers(server, process)):
                break
        else:
            raise SourceUnavailable(
                f"A throw-away {program} did not start: {_last_words(folder)}", hint=f"It is {program.path}."
            )
        contents = None
        if rdb is not None and pipe is not None:
            contents = _load(rdb, pipe, program, folder, process)
            if not _answers(server, process):
                raise _ended(program, folder, process)
        yield ScratchRedis(server, program, contents, folder / "log")


def fitting_program(
    contents_flavour: str, rdb_version: int, version: str, installed: Iterable[RedisProgram]
) -> RedisProgram:
    """The installed program that loads an RDB: of the source's own version, else the next newer of its flavour.

    Raises `ClientMissing`. An RDB of Redis 7.2 or older (version 11) is read by Valkey as well.
    """
    wanted = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    able = [program for program in installed if reads(program, contents_flavour, rdb_version)]
    same = [p for p in able if p.version[:2] == wanted[:2]]
    newer = [p for p in able if p.flavour == contents_flavour and p.version >= wanted]
    for choice in (same, newer, able):
        if choice:
            return min(choice, key=lambda program: (program.flavour != contents_flavour, program.version))
    raise no_server(f"reads an RDB of version {rdb_version} from {contents_flavour.capitalize()} {version}")


LAST_SHARED = 11
"""The last version of the RDB format that Redis and Valkey have in common."""


def reads(program: RedisProgram, flavour: str, rdb_version: int) -> bool:
    """Whether a server reads an RDB of this version, by what is known of it."""
    return (program.flavour == flavour or rdb_version <= LAST_SHARED) and rdb_version <= known_rdb_version(program)


def known_rdb_version(program: RedisProgram) -> int:
    """The version of the RDB format that a server writes, and the newest it reads (RDB_VERSION of its rdb.h)."""
    if program.flavour == "valkey":
        return 80 if program.version >= (9,) else LAST_SHARED
    return next(rdb for since, rdb in _RDB_VERSIONS if program.version >= since)


# Later versions of Redis than these write at least the last one; what they cannot read they refuse by themselves.
_RDB_VERSIONS = (
    ((8, 4), 99), ((7, 4), 12), ((7, 2), 11), ((7,), 10), ((5,), 9), ((0,), 8),
)  # fmt: skip


def check_memory(used: int) -> None:
    """Raise `NotReady` when this host has not the memory to load what took a source `used` bytes."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    free = int(found[1]) * 1024 if found else None
    if free is not None and free < used * ROOM:
        raise NotReady(
            f"A scratch server needs about {int(used * ROOM)} bytes of memory, and this host has {free} available.",
            hint="Do it on a host with more memory.",
        )


def remove_leftovers(base: Path) -> None:
    """Remove the folders of this user's servers whose process was killed: nobody holds their lock any more."""
    for folder in own_folders(base, _PREFIX):
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def _folder(base: Path) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    except OSError as error:
        raise NotReady(
            f"A throw-away server cannot put its folder into {base}: {error.strerror}.",
            hint="Name another folder, one this user can write to.",
        ) from error
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _write_settings(folder: Path, server: RedisServer, databases: int, *, master: int | None) -> None:
    # A file and not arguments, which everybody on this host can read.
    lines = [
        "bind 127.0.0.1", f"port {server.port}", f"requirepass {server.password}", f"dir {folder}",
        "dbfilename dump.rdb", 'save ""', "appendonly no", "daemonize no", f"databases {databases}",
        f"logfile {folder / 'log'}", "activerehashing no",
        *([f"replicaof 127.0.0.1 {master}", "replica-serve-stale-data yes"] if master else []),
    ]  # fmt: skip
    file = folder / "settings"
    file.touch(0o600)
    file.write_text("\n".join(lines) + "\n")


def _start(program: RedisProgram, folder: Path, children: Children) -> subprocess.Popen[bytes]:
    # A child of it reads its standard output; nobody would read a pipe.
    with (folder / "output").open("ab") as output:
        return children.start(
            [program.path, folder / "settings"],
            env={k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "TZ")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def _open_pipe(path: Path, process: subprocess.Popen[bytes]) -> int | None:
    """The pipe in the place of the RDB, once the server reads from it; None when it has ended before."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if process.poll() is not None:
                return None
            time.sleep(0.01)
            continue
        os.set_blocking(pipe, True)
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CHUNK)
        path.unlink()  # newer servers open the file a second time, and would wait for ever for somebody to write
        return pipe
    return None


def _load(
    rdb: Iterable[bytes], pipe: int, program: RedisProgram, folder: Path, process: subprocess.Popen[bytes]
) -> RdbContents:
    """Write the RDB into the pipe and read it ourselves at the same time."""
    found: list[RdbContents] = []

    def feed(chunks: Iterator[bytes]) -> None:
        try:
            with os.fdopen(pipe, "wb", buffering=0) as server:
                for chunk in chunks:
                    view = memoryview(chunk)
                    while view:
                        view = view[server.write(view) :]
        except BrokenPipeError:
            raise _ended(program, folder, process) from None

    failures = tee(rdb, {"server": feed, "count": lambda chunks: found.append(read_rdb(chunks, now=time.time()))})
    for name in ("count", "server"):
        if name in failures:
            raise failures[name]
    return found[0]


def _answers(server: RedisServer, process: subprocess.Popen[bytes]) -> bool:
    """Whether the server answers, having loaded all it was given; False when it has ended or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None:
        try:
            with server.client(seconds=10) as client:
                client.ping()
            return True
        except SourceUnavailable:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        except SourceError:
            return False  # another program has taken the port
    return False


def _ended(program: RedisProgram, folder: Path, process: subprocess.Popen[bytes]) -> LifeboatError:
    """Why a server does not answer with what it was given: it refused that, or somebody has killed it meanwhile."""
    time.sleep(0.2)  # its log is written by then, and its end to be seen
    if process.poll() == -signal.SIGKILL:
        return SourceUnavailable(
            f"A throw-away {program} was killed while it loaded the RDB.",
            hint="If this host ran out of memory, its kernel's log says so. Start it again when there is more.",
        )
    return RestoreFailed(
        f"{program} does not load the RDB: {_last_words(folder)}",
        hint="An RDB needs a server at least as new as the one that wrote it, with the same modules.",
    )


def _last_words(folder: Path) -> str:
    """The end of what the server said, without the lines that quote keys."""
    lines: list[str] = []
    for name in ("log", "output"):
        with contextlib.suppress(FileNotFoundError):
            lines += (folder / name).read_text(errors="replace").splitlines()
    told = [re.sub(r"^\d+:\w \d+ \w+ \d+ [\d:.]+ . ", "", line) for line in lines if "key '" not in line]
    return " / ".join(line for line in told[-6:] if line.strip()) or "it said nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
