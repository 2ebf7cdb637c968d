"""A platform to be recovered, and receivers of what people are told meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.receivers import MailServer, StatusPageServer, WebServer
from tests.recovery.worlds import World, connections_of


@pytest.fixture
def world(tmp_path: Path, mail: MailServer, web: WebServer, status: StatusPageServer) -> World:
    return World(tmp_path, connections_of(mail, web, status))
