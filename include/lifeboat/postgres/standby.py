"""A standby puts what its primary does before our dump: that is told as the cause of whatever fails by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from lifeboat.errors import EndedFromOutside, LifeboatError, SourceUnavailable
from lifeboat.postgres.connection import Connection, PostgresServer
from lifeboat.postgres.faults import fault_said

_CONFLICT = "conflict with recovery"


@contextmanager
def telling_of_conflicts(server: PostgresServer, database: str, connection: Connection) -> Iterator[None]:
    """While its body reads a standby, in several sessions, tell a conflict as the cause of what fails by one: of a
    table that is gone, as another session's lock on it was taken away, or a connection that was lost."""
    before = _conflicts(connection)
    try:
        yield
    except EndedFromOutside:
        raise
    except LifeboatError as error:
        if before is None or _CONFLICT in error.message or not _cancelled(server, database, connection, before):
            raise
        fault = fault_said(_CONFLICT)
        raise SourceUnavailable(
            f"{server}, database {database!r}: the standby has cancelled what we did, as what its primary did was in "
            f"{_CONFLICT}. {error.message}",
            hint=fault.hint_for(server.user) if fault else error.hint,
        ) from error


def _cancelled(server: PostgresServer, database: str, connection: Connection, before: int) -> bool:
    """Whether our session there was ended for a conflict, or anybody's has been cancelled since."""
    try:
        connection.execute("SELECT")
    except psycopg.Error as error:
        if _CONFLICT in str(error):
            return True
    with suppress(LifeboatError), server.connect(database) as asking:
        return (_conflicts(asking) or 0) > before
    return False


def _conflicts(connection: Connection) -> int | None:
    """How many sessions of this database were cancelled until now; None where it is no standby."""
    row = connection.execute(
        "SELECT conflicts FROM pg_catalog.pg_stat_database"
        " WHERE datname = pg_catalog.current_database() AND pg_catalog.pg_is_in_recovery()"
    ).fetchone()
    return None if row is None else int(row[0])
