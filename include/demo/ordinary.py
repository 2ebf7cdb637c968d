"""Running by an ordinary user what root has asked for, as Airflow is run where it counts.

Root sees nothing of what its processes may do and others' may not. So the demo, and the tests of a running Airflow, run
as `nobody`, in a copy of the project that belongs to that user: root's own folders may be closed to everybody else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.storage import ServerFailed
from lifeboat.own_files import is_own_folder

ROOT = Path(__file__).resolve().parents[2]
USER = "nobody"
BASE = Path("/var/tmp")  # noqa: S108 - the folder made there must be root's own
NOT_COPIED = (".venv", ".git", ".demo", ".cache", "node_modules", ".*_cache", ".hypothesis")
ASKED_BY_ROOT = "LIFEBOAT_DEMO_USER"
"""A variable of what runs here: as whom it does."""


@dataclass(frozen=True)
class Workplace:
    """A copy of the project that an ordinary user owns; `python` is an interpreter with its packages."""

    folder: Path
    python: Path

    @property
    def project(self) -> Path:
        """The copy."""
        return self.folder / "project"

    def run(self, *arguments: str) -> int:
        """Run the interpreter with arguments in the copy, as the ordinary user; its exit status.

        What would end us ends it, and we wait for that.
        """
        process = subprocess.Popen([self.python, *arguments], cwd=self.project, env=self.environment(), **_as_user())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        return process.wait()

    def environment(self) -> dict[str, str]:
        """The variables of what runs in it: ours, but for what is a user's own."""
        temporary = self.folder / "tmp"
        own = {"HOME": str(self.project), "USER": USER, "LOGNAME": USER, "TMPDIR": str(temporary), ASKED_BY_ROOT: USER}
        return os.environ | own | {"PYTHONPATH": str(self.project / "include")}


def is_root() -> bool:
    """Whether root asks."""
    return os.geteuid() == 0


def find_workplace(purpose: str) -> Workplace | None:
    """The workplace that was made for this purpose and is still there."""
    folder = _folder(purpose)
    return Workplace(folder, _python(folder)) if is_own_folder(folder) else None


def make_workplace(purpose: str) -> Workplace:
    """A new workplace in place of the last one for this purpose. Raises `ServerFailed` with the remedy."""
    folder = _folder(purpose)
    remove_workplace(purpose)
    try:
        folder.mkdir(mode=0o755)
    except FileExistsError:
        raise ServerFailed(f"{folder} is not root's. Remedy: remove it, or whoever made it does.") from None
    project, temporary = folder / "project", folder / "tmp"
    shutil.copytree(ROOT, project, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
    temporary.mkdir()
    owner = pwd.getpwnam(USER)
    subprocess.run(["chown", "-R", f"{owner.pw_uid}:{owner.pw_gid}", project, temporary], check=True)
    if not _can_run(Path(sys.executable)):
        print("The packages are installed once more, where an ordinary user can read them.", flush=True)
        place = Workplace(folder, Path(sys.executable))
        subprocess.run(
            ["requirements/install", ".venv"], cwd=project, env=place.environment(), check=True, **_as_user()
        )
    return Workplace(folder, _python(folder))


def remove_workplace(purpose: str) -> None:
    """Remove what was made for this purpose; nothing that is not root's. May be repeated."""
    folder = _folder(purpose)
    if is_own_folder(folder):
        shutil.rmtree(folder)


@contextlib.contextmanager
def workplace(purpose: str) -> Iterator[Workplace]:
    """A workplace for as long as a `with` block lasts."""
    try:
        yield make_workplace(purpose)
    finally:
        remove_workplace(purpose)


def _folder(purpose: str) -> Path:
    """One for each checkout, so that what was left by a killed one is found again."""
    return BASE / f"lifeboat-{purpose}-{hashlib.sha256(bytes(ROOT)).hexdigest()[:8]}"


def _python(folder: Path) -> Path:
    own = folder / "project" / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def _can_run(python: Path) -> bool:
    """Whether the ordinary user can run this interpreter and read its packages."""
    command = [str(python), "-c", "import cryptography"]
    try:
        done = subprocess.run(command, cwd="/", capture_output=True, check=False, **_as_user())
    except PermissionError:
        return False
    return done.returncode == 0


def _as_user() -> dict[str, Any]:
    owner = pwd.getpwnam(USER)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def main(arguments: Sequence[str]) -> int:
    """`python -m demo.ordinary PURPOSE ARGUMENTS…`: the interpreter with these arguments, by an ordinary user.

    Without arguments, what a failed run for that purpose has left is removed.
    """
    purpose, *rest = arguments
    if not rest:
        remove_workplace(purpose)
        return 0
    if not is_root():
        os.execv(sys.executable, [sys.executable, *rest])  # noqa: S606 - the same interpreter
    with workplace(purpose) as place:
        return place.run(*rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
