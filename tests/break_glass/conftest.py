"""A computer that has never seen Lifeboat."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.break_glass.alone import Stranger


@pytest.fixture
def stranger(tmp_path: Path) -> Stranger:
    """An empty folder to run restore.py in."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return Stranger(folder)
