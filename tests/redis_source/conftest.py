"""A vault of one local repository, and Redis sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifeboat.vault import Vault
from tests.redis_source.vaults import make_vault


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """An empty vault in the folder `vault`, its keys in `keys`."""
    return make_vault(tmp_path, "vault")
