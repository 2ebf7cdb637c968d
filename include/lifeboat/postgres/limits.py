"""How many connections a server, a user or a database leaves us, and so how many streams may run at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lifeboat.errors import SourceRefused, SourceUnavailable
from lifeboat.postgres.connection import Connection, PostgresServer

PATIENCE = 10.0
"""Seconds for which a connection that has ended may still be counted by the server."""


@dataclass(frozen=True)
class Limit:
    """The narrowest limit: whose it is, how many it allows in all, and how many more may be opened now."""

    whose: str
    allowed: int
    left: int

    def __str__(self) -> str:
        return f"{self.whose} may have {self.allowed} connections, and {max(self.left, 0)} more can be opened now"


def narrowest(connection: Connection) -> Limit:
    """The limit of the server, of the user, or of the connection's database, that leaves the fewest."""
    connection.execute("SELECT pg_catalog.pg_stat_clear_snapshot()")  # within a transaction, it would stay as it was
    rows = connection.execute(_LIMITS.encode()).fetchall()
    return min((Limit(*row) for row in rows), key=lambda limit: limit.left)


def at_a_time(connection: Connection, server: PostgresServer, wanted: int, *, beside: int, fixed: int | None) -> int:
    """How many streams may run at a time: `wanted` or fewer. `beside` are connections that are opened besides, and
    `fixed` is how many we may have in all, by the settings; this connection is one.

    Raises `SourceRefused` when the limit itself is too narrow, and `SourceUnavailable` when others have too many.
    """
    wait_for_place(connection, beside + 1)
    limit = narrowest(connection)
    if limit.allowed < beside + 2:
        raise SourceRefused(
            f"{limit} on {server.host}:{server.port}; {beside + 2} are needed.",
            hint="Raise that limit: ALTER ROLE or ALTER DATABASE … CONNECTION LIMIT, or max_connections.",
        )
    if limit.left < beside + 1:
        raise SourceUnavailable(
            f"{limit} on {server.host}:{server.port}; {beside + 1} are needed.",
            hint="Wait until others are gone, or raise that limit.",
        )
    most = wanted if fixed is None else min(wanted, fixed - beside - 1)
    return max(1, min(most, limit.left - beside))


def wait_for_place(connection: Connection, count: int = 1) -> None:
    """Wait until the server has noticed that sessions of ours have ended; not longer than that takes."""
    until = time.monotonic() + PATIENCE
    while (limit := narrowest(connection)).left < count <= limit.allowed and time.monotonic() < until:
        time.sleep(0.05)


def remark(wanted: int, found: int, connection: Connection) -> str:
    """What to say where fewer streams run than were wanted."""
    return f"{found} at a time instead of {wanted}: {narrowest(connection)}."


# Superusers are bound by the server's own limit alone. Settings that a version has not got are null.
_LIMITS = """
    WITH me AS (SELECT oid, rolname, rolsuper, rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = session_user),
         taken AS (SELECT coalesce(sum(numbackends), 0)::int AS n FROM pg_catalog.pg_stat_database),
         most AS (SELECT current_setting('max_connections')::int - CASE WHEN rolsuper THEN 0 ELSE
                             current_setting('superuser_reserved_connections')::int
                             + coalesce(current_setting('reserved_connections', true), '0')::int END AS n FROM me)
    SELECT 'everybody together', most.n, most.n - taken.n FROM most, taken
    UNION ALL
    SELECT 'the user ' || rolname, rolconnlimit, rolconnlimit - (
               SELECT count(*)::int FROM pg_catalog.pg_stat_activity a WHERE a.usesysid = me.oid)
      FROM me WHERE NOT rolsuper AND rolconnlimit >= 0
    UNION ALL
    SELECT 'users of the database ' || d.datname, datconnlimit, datconnlimit - numbackends
      FROM me, pg_catalog.pg_database d JOIN pg_catalog.pg_stat_database s ON s.datid = d.oid
     WHERE d.datname = current_database() AND NOT rolsuper AND datconnlimit >= 0
"""
