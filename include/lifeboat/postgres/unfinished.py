"""Databases that are being restored say so, and one whose restore was killed is known for certain and can be removed.

While a restore runs, its database has a comment with the database's own oid, and the restore's session holds an
advisory lock on that oid in the database it administers from, which the server lets go when the session ends, however
it ends. So what has the comment and no lock is what a killed restore has left. A copy, or one restored by other means,
has another oid; and whoever wants to keep it changes the comment. What has no comment yet has a name of ours, as
`making` says.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import datetime

import psycopg
from psycopg import sql

from lifeboat.errors import LifeboatError, RestoreFailed, TargetUnavailable
from lifeboat.postgres.connection import Connection, PostgresServer, identifier
from lifeboat.postgres.faults import words_of
from lifeboat.postgres.subscriptions import forget_subscriptions
from lifeboat.postgres.swap import Standing, free_name, kept_databases, visitors
from lifeboat.progress import Report


def mark_unfinished(admin: Connection, database: str, oid: int) -> tuple[str, ...]:
    """Mark a database that was just made, for as long as this connection lasts; remarks."""
    admin.execute("SELECT pg_advisory_lock(%s)", [_lock(oid)])
    try:
        _comment(admin, database, _mark(oid))
    except psycopg.errors.InsufficientPrivilege as error:
        return (f"{database!r} could not be marked as unfinished while it was restored: {words_of(error)}",)
    return ()


def mark_finished(server: PostgresServer, database: str, oid: int, comment: str | None) -> tuple[str, ...]:
    """Give a restored database the comment that the source had, or none, instead of the mark; remarks."""
    with server.administer() as admin:
        marked = _comment_of(admin, database) == (oid, _mark(oid))
        try:
            if marked or comment is not None:
                _comment(admin, database, comment)
        except psycopg.errors.InsufficientPrivilege as error:
            return (f"The comment on {database!r} could not be made: {words_of(error)}",)
    return ()


def remove_unfinished(admin: Connection, server: PostgresServer, database: str, tell: Report) -> None:
    """Drop what a restore that was killed has left under this name; nothing else, ever.

    Raises `RestoreFailed` when the name is taken by anything else: a database without the mark, one that is being
    restored now, or one that somebody looks into.
    """
    found = _comment_of(admin, database)
    if found is None:
        return
    oid, comment = found
    if comment != _mark(oid):
        raise RestoreFailed(
            f"There already is a database {database!r} on {server}.",
            hint="A restore never overwrites one. Choose a new name, for example one with today's date.",
        )
    row = admin.execute("SELECT pg_try_advisory_lock(%s)", [_lock(oid)]).fetchone()
    if row != (True,):
        raise RestoreFailed(
            f"{database!r} on {server} is being restored just now, by somebody else.",
            hint="Wait for that, or choose another name.",
        )
    try:
        # What the killed restore has begun may still be at work there, and is as dead as it is.
        others = [visitor for visitor in visitors(server, database) if visitor.application != "lifeboat"]
        if others:
            raise RestoreFailed(
                f"{database!r} on {server} is left of a restore that was cut short, and not whole; it was not removed: "
                f"{', '.join(map(str, others))} is connected to it.",
                hint="End these connections and begin again, or choose another name.",
            )
        tell(f"removing {database!r}, which a restore that was cut short has left")
        remove_database(server, database, oid)
    finally:
        admin.execute("SELECT pg_advisory_unlock(%s)", [_lock(oid)])


def name_beside(server: PostgresServer, live: str, now: datetime, tell: Report) -> str:
    """What a database restored beside `live` is to be called. What killed restores have left there is removed first,
    where that is known for certain and nobody is connected to it."""
    for kept in kept_databases(server, live):
        if kept.standing is Standing.BESIDE:
            with suppress(RestoreFailed), server.administer() as admin:
                remove_unfinished(admin, server, kept.name, tell)
    return free_name(server, live, Standing.BESIDE, now)


def remove_database(server: PostgresServer, database: str, oid: int) -> None:
    """Drop the database a failed restore has made; only that very one, whatever its name is by now."""
    name, first = identifier(database), sys.exception()
    try:
        with server.administer() as admin:
            mine = admin.execute("SELECT FROM pg_database WHERE oid = %s AND datname = %s", [oid, database]).fetchone()
            if mine is not None:
                forget_subscriptions(admin, server, database)
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
    except LifeboatError as error:
        kind = TargetUnavailable if error.transient else RestoreFailed
        why = f"The restore failed: {first.message}" if isinstance(first, LifeboatError) else "The restore failed."
        raise kind(
            f"{why} And {database!r} could not be removed again: {error.message}",
            hint=f"Once the server answers: DROP DATABASE {name.as_string()}",
        ) from error


def _mark(oid: int) -> str:
    return (
        f"Lifeboat is restoring this database ({oid}): it is not whole. If no restore runs, one was cut short here, "
        "and the next restore to this name removes it."
    )


def _lock(oid: int) -> int:
    """Locks are shared by everybody who uses that database; this part of their numbers is ours."""
    return (0x4C696665 << 32) | oid


def _comment(admin: Connection, database: str, comment: str | None) -> None:
    admin.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(identifier(database), sql.Literal(comment)))


def _comment_of(admin: Connection, database: str) -> tuple[int, str | None] | None:
    row = admin.execute(
        "SELECT oid::bigint, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [database]
    ).fetchone()
    return None if row is None else (int(row[0]), row[1])
