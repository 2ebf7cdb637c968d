"""Fixtures that several suites share, and which tests run where and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler.loadfile import LoadFileScheduling

from tests.processes import be_dumpable

pytest_plugins = [
    "tests.fixtures_postgres",
    "tests.fixtures_receivers",
    "tests.fixtures_redis",
    "tests.fixtures_storage",
]

LONGEST_FIRST = (
    "tests/live/",
    "tests/recovery/",
    "tests/keeping/test_histories.py",
    "tests/dags/",
    "tests/keeping/test_calendar.py",
    "tests/postgres/test_everything.py",
    "tests/postgres/test_foreign_schemas.py",
    "tests/cli/test_commands.py",
    "tests/proof/test_proof.py",
    "tests/in_place/",
)
"""Files and folders that take longest. Begun last, one of them would run on alone while all others are done."""


def pytest_configure() -> None:
    """Test as a task of Airflow works. Root sees no difference: an ordinary user repeats what is marked `ordinary`."""
    be_dumpable(False)


class ByFile(LoadFileScheduling):
    """A file's tests stay together in one process, since they share servers; those of the live suites all do."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "tests/live/" if file.startswith("tests/live/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parents[1]
    order = {file: n for n, file in enumerate(LONGEST_FIRST)}

    def place(item: pytest.Item) -> int:
        file = item.path.relative_to(root).as_posix()
        return next((n for name, n in order.items() if file.startswith(name)), len(order))

    items.sort(key=place)  # a stable sort: whatever has no place stays in order
