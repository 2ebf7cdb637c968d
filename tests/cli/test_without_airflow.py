"""In a disaster Airflow may be what is gone: the core and the command line work without it."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import lifeboat

INCLUDE = str(Path(__file__).parents[2] / "include")

# `sys.modules[name] = None` makes every import of that name an ImportError.
BLOCKED = "import importlib, sys; sys.modules['airflow'] = None; [importlib.import_module(m) for m in sys.argv[1:]]"


def test_every_module_of_the_core_is_imported_with_airflow_blocked() -> None:
    modules = ["lifeboat", *(m.name for m in pkgutil.walk_packages(lifeboat.__path__, "lifeboat."))]
    assert "lifeboat.cli.app" in modules

    ended = subprocess.run(
        [sys.executable, "-c", BLOCKED, *modules],
        env={"PYTHONPATH": INCLUDE},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr


def test_the_block_does_block() -> None:
    ended = subprocess.run([sys.executable, "-c", BLOCKED, "airflow.sdk"], capture_output=True, text=True, check=False)

    assert "ModuleNotFoundError" in ended.stderr
