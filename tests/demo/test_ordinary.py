"""What root asks for is run by an ordinary user, in a place that goes again."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from demo import ordinary

pytestmark = pytest.mark.slow

TELL = "import os, tempfile, demo; print(os.getuid(), demo.__file__, tempfile.gettempdir()); raise SystemExit(7)"


def test_root_is_nobody_there_and_others_stay_who_they_are() -> None:
    command = [sys.executable, "-m", "demo.ordinary", "probe", "-c", TELL]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    user, module, temporary = done.stdout.splitlines()[-1].split()
    assert done.returncode == 7, done.stderr
    assert int(user) == (pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid())
    assert Path(module).is_relative_to(ordinary.ROOT) is (os.geteuid() != 0)
    assert Path(temporary).exists() is (os.geteuid() != 0)
    assert ordinary.find_workplace("probe") is None
