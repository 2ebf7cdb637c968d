"""How much room a server has, where that can be seen from here."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from pathlib import Path

from lifeboat.postgres.connection import Connection, PostgresServer

ROOM = 1.1
"""A server should have room for the size of what is restored, times this."""


def free_bytes(admin: Connection, server: PostgresServer) -> int | None:
    """Free bytes under the data directory, where the server is on this very host; None where that cannot be seen."""
    if not _is_here(server.host):
        return None
    row = admin.execute(
        "SELECT current_setting('data_directory') WHERE pg_has_role('pg_read_all_settings', 'USAGE')"
    ).fetchone()
    with suppress(OSError):
        if row is not None and Path(row[0]).is_dir():
            status = os.statvfs(row[0])
            return status.f_bavail * status.f_frsize
    return None


def _is_here(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.startswith("/")
