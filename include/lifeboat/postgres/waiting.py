"""Who keeps our sessions waiting for a lock: told while they wait, and named when they give up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from psycopg import errors

from lifeboat.errors import LifeboatError
from lifeboat.postgres.connection import Connection, PostgresServer
from lifeboat.progress import Report

FIRST_LOOK = 1.0
"""Seconds after which it is looked whether anything waits; most work is done by then, and nothing is asked."""

AGAIN = 2.0
"""Seconds between two looks."""


@dataclass(frozen=True)
class Holder:
    """A session that holds what another waits for. No query is shown: it may have rows in it."""

    pid: int
    user: str
    application: str
    state: str
    since: datetime | None

    def __str__(self) -> str:
        if self.pid == 0:  # PostgreSQL manual, pg_blocking_pids
            return "a prepared transaction (see pg_prepared_xacts there)"
        since = f", its transaction since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        return f"pid {self.pid} ({self.user}, {self.application or 'unnamed'}, {self.state or 'state unknown'}{since})"


@dataclass(frozen=True)
class Wait:
    """What one of our sessions waits for, and who is in its way."""

    wanted: str
    holders: tuple[Holder, ...]

    @property
    def key(self) -> tuple[str, frozenset[int]]:
        """What it is told once of: states of sessions change all the time."""
        return self.wanted, frozenset(holder.pid for holder in self.holders)

    def __str__(self) -> str:
        return f"{self.wanted} is locked by {' and '.join(map(str, self.holders))}"


@contextmanager
def telling_of_locks(
    server: PostgresServer, database: str, report: Report | None = None
) -> Iterator[Callable[[], None]]:
    """While its body works on `database`, tell which locks our sessions wait for there, and who holds them.

    An error that comes of having waited too long names them too. Nothing fails by what is done here. Gives what ends
    it early, where its connection is needed.
    """
    stop, seen = threading.Event(), list[Wait]()
    thread = threading.Thread(
        target=_look, args=(server, database, report or (lambda _: None), stop, seen), name="locks", daemon=True
    )
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(timeout=10)

    try:
        yield end
    except LifeboatError as error:
        if seen and _waited_too_long(error):
            error.message = f"{error.message} {seen[-1]}."
            error.hint = "Let that transaction end, or end it there by its pid, and begin again."
        raise
    finally:
        end()


def _waits(connection: Connection) -> tuple[Wait, ...]:
    """What sessions of Lifeboat, by the connection's user and in its database, wait for now."""
    found: dict[str, Wait] = {}
    for wanted, *holder in connection.execute(_WAITS).fetchall():
        wait = found.get(wanted, Wait(wanted, ()))
        found[wanted] = Wait(wanted, (*wait.holders, *({Holder(*holder)} - {*wait.holders})))
    return tuple(found.values())


# It is asked only of those that wait, since to ask halts all locking for a moment. State and time are null without the
# right to see them.
_WAITS = """
    SELECT CASE WHEN c.oid IS NULL THEN 'what it needs (' || l.locktype || ')'
                ELSE format('%I.%I', n.nspname, c.relname) END,
           other.pid, coalesce(a.usename, 'unknown'), coalesce(a.application_name, ''), coalesce(a.state, ''),
           a.xact_start AT TIME ZONE 'UTC'
      FROM (SELECT pid, pg_blocking_pids(pid) AS blocking FROM pg_stat_activity
             WHERE wait_event_type = 'Lock' AND datname = current_database() AND usename = session_user
               AND application_name = 'lifeboat') ours
           CROSS JOIN LATERAL unnest(ours.blocking) AS other (pid)
           JOIN LATERAL (SELECT * FROM pg_locks l WHERE l.pid = ours.pid AND NOT l.granted LIMIT 1) l ON true
           LEFT JOIN pg_class c ON c.oid = l.relation
           LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_stat_activity a ON a.pid = other.pid
     ORDER BY 1, 2
"""


def _look(server: PostgresServer, database: str, report: Report, stop: threading.Event, seen: list[Wait]) -> None:
    if stop.wait(FIRST_LOOK):
        return
    told: set[tuple[str, frozenset[int]]] = set()
    # Whoever cannot be asked now, as while the server stops, is not: what works on it hears of that itself.
    with suppress(LifeboatError), server.connect(database, read_only=True) as connection:
        connection.execute("SET statement_timeout = '5s'")
        while True:
            for wait in _waits(connection):
                seen.append(wait)
                if wait.key not in told:
                    told.add(wait.key)
                    report(f"Waiting: {wait}.")
            if stop.wait(AGAIN):
                return


def _waited_too_long(error: LifeboatError) -> bool:
    return isinstance(error.__cause__, errors.LockNotAvailable) or "lock timeout" in error.message
