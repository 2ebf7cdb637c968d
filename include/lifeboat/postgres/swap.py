"""Swapping a restored database with the live one on the same server, by renaming both in one transaction.

To rename a database PostgreSQL locks it, and who wants to connect meanwhile waits; whoever is connected already is
ended until nobody is. So nobody comes in between, and a swap that is killed anywhere has happened wholly or not at all.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from psycopg import errors, sql

from lifeboat.errors import LifeboatError, NotReady, RestoreFailed, RestoreIncomplete
from lifeboat.postgres.connection import Connection, PostgresServer, identifier
from lifeboat.postgres.evidence import Evidence, read_system_identifier
from lifeboat.postgres.room import ROOM, free_bytes
from lifeboat.postgres.subscriptions import (
    forget_subscriptions,
    notes_on_subscriptions,
    subscriptions_of,
    switch_off,
    switch_on_again,
)
from lifeboat.postgres.waiting import telling_of_locks
from lifeboat.progress import Report, size_text

PATIENCE = 30
"""Seconds in which everybody must have left a database before a swap is given up."""


class Standing(StrEnum):
    """What a database beside the live one is; it is part of its name."""

    BESIDE = "beside"
    """It is being restored, or was when the restore was killed. Never to be trusted."""
    READY = "ready"
    """It was restored, compared and checked, and waits to be put in place."""
    PARTLY = "partly"
    """The same, but some of its objects could not be rebuilt: a person must have seen which."""
    BEFORE = "before"
    """It was the live one, until it was replaced."""


@dataclass(frozen=True)
class KeptDatabase:
    """A database beside the live one, since when, and its bytes (None where they may not be read)."""

    name: str
    standing: Standing
    since: datetime
    size: int | None


@dataclass(frozen=True)
class Visitor:
    """Somebody's connection to a database."""

    pid: int
    user: str
    application: str
    address: str
    state: str

    def __str__(self) -> str:
        return f"{self.user} from {self.address or 'the server itself'} ({self.application or 'unnamed'}, {self.state})"


@dataclass(frozen=True)
class Swapped:
    """A swap that happened: what was live is `kept`, empty when there was nothing; `ended` were connected; `notes` say
    what is not as it was."""

    live: str
    kept: str
    ended: tuple[Visitor, ...]
    seconds: float
    notes: tuple[str, ...]


# ---- names ----------------------------------------------------------------------------------------------------------


def dated_name(live: str, standing: Standing, moment: datetime) -> str:
    """What a database beside `live` is called: `<live>_before_20261123T213000Z`. A long name is shortened."""
    return f"{_stem(live)}_{standing}_{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def read_dated_name(live: str, name: str) -> tuple[Standing, datetime] | None:
    """What a dated name beside `live` says; None for any other name."""
    found = _DATED.fullmatch(name)
    if found is None or found["stem"] != _stem(live):
        return None
    moment = datetime.strptime(found["moment"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return Standing(found["standing"]), moment


_DATED = re.compile(r"(?s)(?P<stem>.+)_(?P<standing>beside|ready|partly|before)_(?P<moment>\d{8}T\d{6}Z)")

# PostgreSQL cuts longer names silently, and `_before_` with the time takes 24 of its 63 bytes.
_STEM_BYTES = 63 - 24


def _stem(live: str) -> str:
    if len(live.encode()) <= _STEM_BYTES:
        return live
    digest = hashlib.sha256(live.encode()).hexdigest()[:8]
    return f"{live.encode()[: _STEM_BYTES - 9].decode(errors='ignore')}_{digest}"


# ---- looking --------------------------------------------------------------------------------------------------------


def check_target(
    server: PostgresServer,
    live: str,
    evidence: Evidence,
    *,
    other_server: bool = False,
    added_to: bool = False,
    may_be_absent: bool = False,
) -> tuple[str, ...]:
    """Make sure that `live` on `server` is the very database the snapshot is of, and can be replaced. Returns remarks.

    With `other_server` it may be another one. With `added_to` it is only to get a new schema. With `may_be_absent`, one
    that is not there can be made. Raises `NotReady` with every obstacle at once.
    """
    with server.administer() as admin:
        absent = may_be_absent and _oid(admin, live) is None
        obstacles = [*(_obstacles_to_make(admin, server) if absent else _obstacles(admin, server, live, added_to))]
        here = read_system_identifier(admin)
        remarks = []
        if evidence.system_identifier is None or here is None:
            remarks.append(f"Whether {server} is the server the snapshot was made on cannot be known.")
        elif here != evidence.system_identifier and not other_server:
            obstacles.append(
                f"{server} has the system identifier {here}; the snapshot's server had {evidence.system_identifier}."
            )
        if live != evidence.database.name and not other_server:
            obstacles.append(f"The snapshot is of the database {evidence.database.name!r}, not of {live!r}.")
        free = free_bytes(admin, server)
    needed = int(evidence.size * ROOM)
    if free is None:
        remarks.append(f"The room on {server} cannot be seen from here; the restored database takes about "
                       f"{size_text(needed)} beside the live one.")  # fmt: skip
    elif free < needed:
        obstacles.append(f"{server} has room for {size_text(free)}, and about {size_text(needed)} are needed.")
    if obstacles:
        raise NotReady(
            f"{live!r} on {server} cannot be {'added to' if added_to else 'replaced'}:"
            + "".join(f"\n- {obstacle}" for obstacle in obstacles),
            hint="Nothing was touched. If another server or database is really meant, say so with the flag for it.",
        )
    return tuple(remarks)


def visitors(server: PostgresServer, *databases: str) -> tuple[Visitor, ...]:
    """Who is connected to these databases now, other than PostgreSQL's own workers."""
    with server.administer() as admin:
        return _visitors(admin, [oid for oid in (_oid(admin, name) for name in databases) if oid is not None])


def kept_databases(server: PostgresServer, live: str) -> tuple[KeptDatabase, ...]:
    """The databases that restores in place have left beside `live`, newest first."""
    with server.administer() as admin:
        rows = admin.execute(
            "SELECT datname, CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) END"
            "  FROM pg_database"
        ).fetchall()
    read = [(name, read_dated_name(live, name), size) for name, size in rows]
    kept = [KeptDatabase(name, *found, size) for name, found, size in read if found]
    return tuple(sorted(kept, key=lambda database: (database.since, database.name), reverse=True))


# ---- acting ---------------------------------------------------------------------------------------------------------


def swap(
    server: PostgresServer, live: str, replacement: str, *, now: datetime, report: Report | None = None
) -> Swapped:
    """Put `replacement` in the place of `live`, which stays under a dated name. Whoever is connected is ended.

    Subscriptions of `live` are switched off, and on again when it comes back, or when this fails.
    Raises `RestoreFailed` when somebody cannot be ended or the server forbids; then nothing has changed.
    """
    with telling_of_locks(server, server.maintenance, report), server.administer() as admin:
        kept = _free_name(admin, live, Standing.BEFORE, now)
        old, new = _required_oid(admin, server, live), _required_oid(admin, server, replacement)
        _refuse_prepared(admin, server, live)
        notes = (*_lost_properties(admin, old, new), *_slots(admin, live, kept))
        statements = [_rename(live, kept), _rename(replacement, live), *_connection_limit(admin, old, live)]
        for visitor in _visitors(admin, [old, new]):
            (report or (lambda _: None))(f"ending the connection of {visitor}")
        began = time.monotonic()
        with _subscriptions_off(server, admin, live, old, report or (lambda _: None)) as off:
            try:
                ended = _rename_apart(server, admin, (old, new), statements)
            except LifeboatError:
                # The connection may have been lost just after the end of the transaction.
                with server.administer() as again:
                    if _oid(again, live) != new:
                        raise
                ended = ()
        seconds = time.monotonic() - began
    return Swapped(live, kept, ended, round(seconds, 3), (*notes, *_subscriptions_after(server, live, kept, off)))


def place(
    server: PostgresServer, live: str, replacement: str, *, now: datetime, report: Report | None = None
) -> Swapped:
    """Put `replacement` in the place of `live`, as `swap` does; where there is no `live`, it only gets that name."""
    with server.administer() as admin:
        if _oid(admin, live) is None:
            new = _required_oid(admin, server, replacement)
            for visitor in _visitors(admin, [new]):
                (report or (lambda _: None))(f"ending the connection of {visitor}")
            began = time.monotonic()
            ended = _rename_apart(server, admin, (new,), [_rename(replacement, live)])
            return Swapped(live, "", ended, round(time.monotonic() - began, 3), ())
    return swap(server, live, replacement, now=now, report=report)


def undo(
    server: PostgresServer,
    live: str,
    kept: str,
    *,
    now: datetime,
    although_incomplete: bool = False,
    report: Report | None = None,
) -> Swapped:
    """Put a kept database back in the place of `live`, which then is kept too. One that is `ready` can be put in place
    in the same way, and as `check_kept` says one that is `partly`. Raises as that."""
    check_kept(server, live, kept, although_incomplete=although_incomplete)
    return swap(server, live, kept, now=now, report=report)


def check_kept(server: PostgresServer, live: str, kept: str, *, although_incomplete: bool = False) -> None:
    """Raise `RestoreFailed` for what cannot be put in the place of `live`, while nothing has been touched.

    `RestoreIncomplete` for one that lacks objects, unless `although_incomplete` says that a person has seen which.
    """
    standing = _standing(live, kept)
    if standing is Standing.PARTLY and not although_incomplete:
        raise RestoreIncomplete(
            f"{kept!r} is incomplete: objects that its restore has listed could not be rebuilt.",
            hint=f"`lifeboat undo {shlex.quote(kept)} --i-have-seen-what-is-missing` puts it in place all the same.",
        )
    if standing is Standing.BESIDE:
        raise RestoreFailed(
            f"{kept!r} was being restored when that was cut short; it is not whole.",
            hint=f"`lifeboat release` removes it. Restore again; {live!r} is untouched.",
        )
    with server.administer() as admin:
        _required_oid(admin, server, live)
        _required_oid(admin, server, kept)
        _refuse_prepared(admin, server, live)


def make_ready(server: PostgresServer, live: str, beside: str, *, now: datetime, whole: bool = True) -> str:
    """Rename what was restored beside `live` and has been found right, so that its name says so; returns the name.

    One that is not `whole` lacks objects that could not be rebuilt.
    """
    with server.administer() as admin:
        ready = _free_name(admin, live, Standing.READY if whole else Standing.PARTLY, now)
        _rename_apart(server, admin, (_required_oid(admin, server, beside),), [_rename(beside, ready)])
    return ready


def release(server: PostgresServer, live: str, kept: str, *, drop_it: str) -> tuple[str, ...]:
    """Drop a database that a restore in place has left beside `live`. `drop_it` must be its name once more.

    Returns remarks. Raises `RestoreFailed` for any other name, while somebody is connected to it, and while one of its
    subscriptions is on.
    """
    _standing(live, kept)
    if drop_it != kept:
        raise RestoreFailed(
            f"{kept!r} was not dropped: that was not confirmed with its name.",
            hint="Give the name once more as the confirmation. What is dropped can only be restored from a snapshot.",
        )
    with server.administer() as admin:
        oid = _required_oid(admin, server, kept)
        if on := [subscription.name for subscription in subscriptions_of(admin, kept) if subscription.enabled]:
            raise RestoreFailed(
                f"{kept!r} was not dropped: its subscriptions are switched on: {', '.join(on)}.",
                hint="Somebody may still need what they bring. Otherwise, ALTER SUBSCRIPTION … DISABLE them there.",
            )
        connected = _visitors(admin, [oid])
        if connected:
            raise RestoreFailed(
                f"{kept!r} was not dropped: {', '.join(map(str, connected))} is connected to it.",
                hint="Somebody may still need it. End these connections, or wait.",
            )
        gone = forget_subscriptions(admin, server, kept)
        admin.execute(sql.SQL("DROP DATABASE {}").format(identifier(kept)))
    return tuple(
        f"The subscription {name} went with it; its replication slot stays on the publisher, for the live database. "
        "Drop it there if nobody needs it: it holds WAL back."
        for name in gone
    )


# ---- subscriptions --------------------------------------------------------------------------------------------------


@contextmanager
def _subscriptions_off(
    server: PostgresServer, admin: Connection, live: str, old: int, tell: Report
) -> Iterator[tuple[str, ...]]:
    """What is subscribed to would connect again and again; it goes on when `live` was not renamed."""
    for subscription in subscriptions_of(admin, live):
        if subscription.enabled:
            tell(f"switching off the subscription {subscription.name}")
    try:
        yield switch_off(admin, server, live)
    except BaseException:
        with server.administer() as again:
            if _oid(again, live) == old:
                switch_on_again(again, server, live)
        raise


def _subscriptions_after(server: PostgresServer, live: str, kept: str, off: Sequence[str]) -> tuple[str, ...]:
    """Switch on again what was on when this database was the live one before; what to know of all of them.

    Not where the other has taken from the same slot meanwhile: what it took would be missing without a word.
    """
    with server.administer() as admin:
        on, held = switch_on_again(admin, server, live, but=off)
        return tuple(notes_on_subscriptions(admin, live, kept, off=off, on=on, held=held))


# ---- renaming -------------------------------------------------------------------------------------------------------


def _rename_apart(
    server: PostgresServer, admin: Connection, oids: Sequence[int], statements: Sequence[sql.Composed]
) -> tuple[Visitor, ...]:
    """Run renaming statements in one transaction, ending all connections to their databases; who was ended."""
    ended: dict[int, Visitor] = {}
    deadline = time.monotonic() + PATIENCE
    while True:
        with server.administer(autocommit=False) as renaming, ThreadPoolExecutor(1, "rename") as pool:
            try:
                work = pool.submit(_run, renaming, statements)
                while not work.done():
                    ended |= {visitor.pid: visitor for visitor in _end_visitors(admin, oids)}
                    wait([work], timeout=0.02)
                work.result()
                renaming.commit()
                return tuple(ended.values())
            except errors.ObjectInUse as error:
                # PostgreSQL waits five seconds for those it was told to end.
                renaming.rollback()
                if time.monotonic() > deadline:
                    left = ", ".join(map(str, _visitors(admin, oids))) or str(error)
                    raise RestoreFailed(
                        f"Somebody cannot be ended: {left}.", hint="Nothing was renamed. End them and begin again."
                    ) from error


def _run(connection: Connection, statements: Sequence[sql.Composed]) -> None:
    connection.execute("SET LOCAL lock_timeout = '10s'")
    for statement in statements:
        connection.execute(statement)


def _rename(name: str, to: str) -> sql.Composed:
    return sql.SQL("ALTER DATABASE {} RENAME TO {}").format(identifier(name), identifier(to))


def _connection_limit(admin: Connection, old: int, live: str) -> Iterator[sql.Composed]:
    """The connection limit, which no snapshot knows."""
    row = admin.execute("SELECT datconnlimit FROM pg_database WHERE oid = %s", [old]).fetchone()
    if row is not None and row[0] >= 0:
        yield sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(identifier(live), sql.Literal(row[0]))


# PostgreSQL's own workers have no user; it ends those by itself.
_VISITORS = """
    SELECT pid, usename, coalesce(application_name, ''), coalesce(host(client_addr), ''), coalesce(state, 'unknown')
      FROM pg_stat_activity
     WHERE datid = ANY(%s::bigint[]::oid[]) AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
"""


def _visitors(admin: Connection, oids: Sequence[int]) -> tuple[Visitor, ...]:
    return tuple(Visitor(*row) for row in admin.execute(_VISITORS, [list(oids)]).fetchall())


def _end_visitors(admin: Connection, oids: Sequence[int]) -> tuple[Visitor, ...]:
    found = _visitors(admin, oids)
    for visitor in found:
        admin.execute("SELECT pg_terminate_backend(%s)", [visitor.pid])
    return found


# ---- refusals and notes ---------------------------------------------------------------------------------------------


def _obstacles(admin: Connection, server: PostgresServer, live: str, added_to: bool) -> Iterator[str]:
    row = admin.execute(
        """
        SELECT pg_is_in_recovery(),
               (SELECT rolsuper OR (rolcreatedb AND pg_has_role(d.datdba, 'USAGE'))
                  FROM pg_roles WHERE rolname = current_user),
               (SELECT rolsuper OR (rolcreatedb AND has_database_privilege(d.oid, 'CREATE'))
                  FROM pg_roles WHERE rolname = current_user)
          FROM pg_database d WHERE datname = %s
        """,
        [live],
    ).fetchone()
    if row is None:
        what = "add to" if added_to else "replace"
        yield f"There is no database {live!r} to {what}; `lifeboat restore --to-database` makes it."
        return
    standby, may_rename, may_add = row
    if live in (("template0", "template1") if added_to else ("postgres", "template0", "template1")):
        yield f"{live!r} is PostgreSQL's own{'' if added_to else ' and cannot be renamed'}."
    if standby:
        yield f"{server} is a standby; the primary is wanted."
    if added_to and not may_add:
        yield f"{server.user} may not make a schema there: it needs CREATE on the database, and CREATEDB."
    if not added_to and not may_rename:
        yield f"{server.user} may not rename it: it must own the database and have CREATEDB, or be a superuser."
    for subscription in () if added_to else subscriptions_of(admin, live):
        if subscription.enabled and not subscription.mine:
            yield f"{server.user} may not switch off the subscription {subscription.name}, which somebody else owns."


def _obstacles_to_make(admin: Connection, server: PostgresServer) -> Iterator[str]:
    row = admin.execute(
        "SELECT pg_is_in_recovery(), rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    standby, may_make = row
    if standby:
        yield f"{server} is a standby; the primary is wanted."
    if not may_make:
        yield f"{server.user} may not make databases there: it needs CREATEDB, or to be a superuser."


def _refuse_prepared(admin: Connection, server: PostgresServer, live: str) -> None:
    rows = admin.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [live]).fetchall()
    if rows:
        raise RestoreFailed(
            f"{live!r} on {server} has prepared transactions: {', '.join(gid for (gid,) in rows)}.",
            hint="COMMIT PREPARED or ROLLBACK PREPARED them there; until then nobody can rename it.",
        )


def _lost_properties(admin: Connection, old: int, new: int) -> Iterator[str]:
    """Settings and grants that the live database has and the restored one has not: they are younger than it."""
    rows = admin.execute(
        """
        WITH said AS (
            SELECT setdatabase AS oid, 'the setting ' || unnest(setconfig)
                   || CASE WHEN setrole <> 0 THEN ' for ' || pg_get_userbyid(setrole) ELSE '' END AS what
              FROM pg_db_role_setting
            UNION ALL
            SELECT d.oid, 'the grant of ' || a.privilege_type || ' to '
                   || CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) ELSE 'PUBLIC' END
              FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a)
        SELECT what FROM said WHERE oid = %(old)s AND what NOT LIKE 'the setting lifeboat.%%'
        EXCEPT SELECT what FROM said WHERE oid = %(new)s ORDER BY 1
        """,
        {"old": old, "new": new},
    ).fetchall()
    for (what,) in rows:
        yield f"The replaced database had {what}, which the restored one has not."


def _slots(admin: Connection, live: str, kept: str) -> Iterator[str]:
    for (slot,) in admin.execute("SELECT slot_name FROM pg_replication_slots WHERE database = %s", [live]).fetchall():
        yield f"The replication slot {slot} now belongs to {kept!r}, and holds WAL back until it is dropped."


def _standing(live: str, kept: str) -> Standing:
    found = read_dated_name(live, kept)
    if found is None:
        raise RestoreFailed(
            f"{kept!r} is not the name of a database that was kept beside {live!r}.",
            hint=f"One looks like {dated_name(live, Standing.BEFORE, datetime(2026, 11, 23, 2, tzinfo=UTC))!r}; "
            "`lifeboat kept` lists them. No other is ever touched.",
        )
    return found[0]


def oids_of(server: PostgresServer) -> dict[str, int]:
    """The databases of a server: by name, what stays the same when one is renamed."""
    with server.administer() as admin:
        return {name: int(oid) for name, oid in admin.execute("SELECT datname, oid::bigint FROM pg_database")}


def free_name(server: PostgresServer, live: str, standing: Standing, now: datetime) -> str:
    """A dated name that no database of the server has: a second later for each taken within the same second."""
    with server.administer() as admin:
        return _free_name(admin, live, standing, now)


def _free_name(admin: Connection, live: str, standing: Standing, now: datetime) -> str:
    while _oid(admin, name := dated_name(live, standing, now)) is not None:
        now += timedelta(seconds=1)
    return name


def _oid(admin: Connection, database: str) -> int | None:
    row = admin.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", [database]).fetchone()
    return None if row is None else int(row[0])


def _required_oid(admin: Connection, server: PostgresServer, database: str) -> int:
    oid = _oid(admin, database)
    if oid is None:
        raise RestoreFailed(
            f"There is no database {database!r} on {server}.", hint="`lifeboat kept` lists those there are."
        )
    return oid
