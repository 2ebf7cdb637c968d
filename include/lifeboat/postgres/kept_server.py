"""A scratch server that stays for some hours after its restore test, so that a person can look into it.

It has no parent any more: `timeout` ends it when its time is over, and the shell around that removes its data, whatever
has become of Lifeboat. What prevents that, such as a reboot, is made good by whoever removes leftovers next.
"""

from __future__ import annotations

import json
import math
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lifeboat.errors import SettingsError
from lifeboat.own_files import open_own, own_folders

PREFIX = "lifeboat-postgres-"
"""What the name of every throw-away server's folder begins with."""

END_SECONDS = 20
"""How long a server may take to end, before it is killed."""

_RECORD, _PASSWORDS = "kept.json", "pgpass"


@dataclass(frozen=True)
class KeptServer:
    """A scratch server that stays until a moment: its folder, where it listens on this host, and what is in it."""

    folder: Path
    address: str
    port: int
    user: str
    database: str
    snapshot: str
    until: datetime

    @property
    def name(self) -> str:
        """What people call it by."""
        return self.folder.name

    @property
    def password_file(self) -> Path:
        """A libpq password file that only who ran the restore test can read."""
        return self.folder / _PASSWORDS

    @property
    def running(self) -> bool:
        """Whether the server is there at all, as it is not after a reboot."""
        return _postmaster(self.folder) is not None

    @property
    def command(self) -> str:
        """What a person types to look into it."""
        where = f"--host={self.address} --port={self.port} --username={self.user} --dbname={self.database}"
        return f"PGPASSFILE={self.password_file} psql {where}"

    def __str__(self) -> str:
        return (
            f"The scratch server {self.name} stays until {self.until:%Y-%m-%d %H:%M:%S} UTC. "
            f"On {socket.gethostname()}, as {_whoami()}: `{self.command}`. "
            f"To let it go at once: `lifeboat scratch stop {self.name}`."
        )

    def record(self) -> dict[str, Any]:
        """All of it as JSON values; the password is in `password_file` alone."""
        return {
            "name": self.name,
            "host": socket.gethostname(),
            "address": self.address,
            "port": self.port,
            "user": self.user,
            "database": self.database,
            "snapshot": self.snapshot,
            "password_file": str(self.password_file),
            "until": self.until.isoformat(),
        }


def start_kept(kept: KeptServer, command: Sequence[str | Path], *, password: str, log: Path, lock: int) -> None:
    """Start `command`, the server, without waiting for it: it ends at the moment, and then its folder is removed.

    The record is there before the server is: if we are killed in between, the folder still goes in its time. `lock` is
    the descriptor that keeps others from the folder, and is held on.
    """
    with suppress(FileNotFoundError):
        kept.password_file.unlink()
    with os.fdopen(os.open(kept.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{kept.address}:{kept.port}:*:{kept.user}:{password}\n")
    record = kept.folder / f"{_RECORD}.new"
    record.write_text(json.dumps(kept.record()))
    record.replace(kept.folder / _RECORD)
    seconds = max(1, math.ceil((kept.until - datetime.now(UTC)).total_seconds()))
    with log.open("ab") as output:
        subprocess.run(
            ["setsid", "--fork", "sh", "-c", _KEEPER, "lifeboat-scratch", kept.folder, str(seconds), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            pass_fds=(lock,),
            env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},  # no secrets
            check=True,
        )


# SIGINT is a fast shutdown. Whatever ends the server, its data goes.
_KEEPER = 'folder=$1; seconds=$2; shift 2; timeout -s INT -k 60 "$seconds" "$@"; rm -rf -- "$folder"'


def kept_servers(base: Path) -> tuple[KeptServer, ...]:
    """The servers below `base` that stay, or whose time is over and whom nobody has removed yet; the first to go first.

    Those alone that this user has kept.
    """
    found = (read_kept(folder) for folder in own_folders(base.absolute(), PREFIX))
    return tuple(sorted((kept for kept in found if kept is not None), key=lambda kept: (kept.until, kept.name)))


def read_kept(folder: Path) -> KeptServer | None:
    """What is recorded of a kept server in its folder; None where there is no record that this user has written."""
    try:
        with os.fdopen(open_own(folder / _RECORD)) as file:
            said = json.load(file)
        return KeptServer(
            folder,
            str(said["address"]),
            int(said["port"]),
            str(said["user"]),
            str(said["database"]),
            str(said["snapshot"]),
            datetime.fromisoformat(said["until"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stop_kept(base: Path, name: str) -> KeptServer:
    """End a kept server before its time and remove its data. Raises `SettingsError` when there is none of this name."""
    for kept in kept_servers(base):
        if kept.name == name:
            remove_kept(kept)
            return kept
    names = ", ".join(kept.name for kept in kept_servers(base)) or "none"
    raise SettingsError(
        f"No scratch server {name!r} is kept in {base}.",
        hint=f"Kept there by {_whoami()} on {socket.gethostname()}: {names}. `lifeboat scratch list` shows them.",
    )


def remove_kept(kept: KeptServer) -> None:
    """End the server, if it runs, and remove its data. May be repeated."""
    for how in (signal.SIGQUIT, signal.SIGKILL):  # its data is not needed any more
        deadline = time.monotonic() + END_SECONDS
        process = _postmaster(kept.folder)
        if process is None:
            break
        with suppress(ProcessLookupError):
            os.kill(process, how)
        while _postmaster(kept.folder) == process and time.monotonic() < deadline:
            time.sleep(0.02)
    shutil.rmtree(kept.folder, ignore_errors=True)


def _postmaster(folder: Path) -> int | None:
    """The process of the server whose data is in this very folder; None when it has ended.

    A process that only has the number which the file names was not given that folder, as PostgreSQL was. Where it works
    would tell as well, but not to a container's root, who may not look at others' processes.
    """
    data = folder.resolve() / "data"
    with suppress(OSError, ValueError, IndexError):
        process = int((data / "postmaster.pid").read_text().splitlines()[0])
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        if any(Path(os.fsdecode(word)).resolve() == data for word in words if word.endswith(b"/data")):
            return process
    return None


def _whoami() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return f"user {os.geteuid()}"
