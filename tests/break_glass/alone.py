"""Runs restore.py as a person would on a computer that has never seen Lifeboat."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from lifeboat.break_glass import restore as beside_the_core

RESTORE = Path(beside_the_core.__file__)
GOLDEN = Path(__file__).parents[1] / "golden"
TRUST = "--trust-manifests-that-anybody-may-have-forged"


@dataclass(frozen=True)
class Ended:
    """What it printed and how it ended."""

    code: int
    out: bytes
    err: str


@dataclass(frozen=True)
class Stranger:
    """A folder elsewhere with a copy of restore.py in it."""

    folder: Path

    def run(self, *arguments: str | Path, expect: int = 0, **variables: str) -> Ended:
        """Run restore.py by itself: no path leads to Lifeboat. Checks its exit status, and that it explains itself."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **variables},
            capture_output=True,
            check=False,
        )
        ended = Ended(done.returncode, done.stdout, done.stderr.decode())
        assert ended.code == expect, ended
        assert "Traceback" not in ended.err, ended.err
        assert expect == 0 or "REFUSED" in ended.err, ended.err
        assert not re.search(r"lifeboat:identity:\w", ended.err), "a private key was printed"
        return ended

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line that `run` runs."""
        script = self.folder / "restore.py"
        if not script.exists():
            shutil.copyfile(RESTORE, script)
        return [sys.executable, "-I", str(script), *map(str, arguments)]

    def files(self, name: str = "out") -> list[str]:
        """Everything in a folder below, hidden or not."""
        return sorted(path.name for path in (self.folder / name).glob("*"))


def load() -> ModuleType:
    """restore.py as a module, by its path."""
    spec = importlib.util.spec_from_file_location("restore_by_path", RESTORE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
