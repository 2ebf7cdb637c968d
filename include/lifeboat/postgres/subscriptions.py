"""A database's subscriptions while it changes its name: switched off before, and on again where nothing is lost by it.

What is published meanwhile waits in the publisher's replication slot.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from psycopg import sql

from lifeboat.postgres.connection import Connection, PostgresServer, identifier

SETTING = "lifeboat.switched_off"
"""The database's setting that says, until they are on again, which subscriptions were switched off."""


@dataclass(frozen=True)
class Subscription:
    """A subscription of a database, and whether it is on; `mine`: whether the user may switch it."""

    name: str
    enabled: bool
    mine: bool


def subscriptions_of(admin: Connection, database: str) -> tuple[Subscription, ...]:
    """The subscriptions of a database, by name. Any database's connection will do."""
    rows = admin.execute(
        "SELECT subname, subenabled, pg_has_role(subowner, 'USAGE') FROM pg_subscription s"
        "  JOIN pg_database d ON d.oid = s.subdbid WHERE datname = %s ORDER BY 1",
        [database],
    )
    return tuple(Subscription(*row) for row in rows)


def switch_off(admin: Connection, server: PostgresServer, database: str) -> tuple[str, ...]:
    """Switch off the subscriptions of a database that are on, and note in it which; those noted, earlier ones too."""
    enabled = [subscription.name for subscription in subscriptions_of(admin, database) if subscription.enabled]
    if not enabled:
        return _noted(admin, database)
    noted = tuple(sorted({*enabled, *_noted(admin, database)}))
    with server.connect(database) as connection:
        # Noted first: whatever is killed after that is put right by the next swap.
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET {} TO {}").format(
                identifier(database), identifier(*SETTING.split(".")), sql.Literal(json.dumps(noted))
            )
        )
        connection.execute("SET lock_timeout = '10s'")
        for name in enabled:
            connection.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(identifier(name)))
    return noted


def switch_on_again(
    admin: Connection, server: PostgresServer, database: str, *, but: Collection[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Switch on what is noted in a database as switched off, except `but`, and forget the note.

    Returns which went on, and which were held back.
    """
    noted = _noted(admin, database)
    if not noted:
        return (), ()
    there = {subscription.name for subscription in subscriptions_of(admin, database)}
    on = tuple(name for name in noted if name in there and name not in but)
    with server.connect(database) as connection:
        for name in on:
            connection.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(identifier(name)))
        connection.execute(
            sql.SQL("ALTER DATABASE {} RESET {}").format(identifier(database), identifier(*SETTING.split(".")))
        )
    return on, tuple(name for name in noted if name in there and name in but)


def notes_on_subscriptions(
    admin: Connection, live: str, kept: str, *, off: Collection[str], on: Collection[str], held: Collection[str]
) -> Iterator[str]:
    """What to know after a swap: `off` were switched off in `kept`; of those of `live`, `on` went on and `held` not."""
    there = subscriptions_of(admin, live)
    waits = "its publisher keeps what it has to send, which fills its disk"
    for name, enabled in [(subscription.name, subscription.enabled) for subscription in there]:
        if name in on:
            yield f"The subscription {name} is switched on again in {live!r}, and goes on where it stopped."
        elif name in held:
            yield (
                f"The subscription {name} was on in both, one after the other, and stays switched off in {live!r}: "
                f"what {kept!r} has received is missing here; {waits}. {_AFRESH}"
            )
        elif name in off:
            yield (
                f"The subscription {name} is switched off in {live!r}, and now in {kept!r}; {waits}. "
                f"What {kept!r} has received since the snapshot is missing in {live!r}. {_AFRESH}"
            )
        elif not enabled:
            yield f"The subscription {name} is switched off in {live!r}. {_AFRESH}"
    for name in sorted(set(off) - {subscription.name for subscription in there}):
        yield f"The subscription {name}, which {live!r} has not, is switched off in {kept!r}; {waits}."


_AFRESH = (
    "To have all that is published: empty the tables it fills, ALTER SUBSCRIPTION … ENABLE, "
    "then ALTER SUBSCRIPTION … REFRESH PUBLICATION."
)


def forget_subscriptions(admin: Connection, server: PostgresServer, database: str) -> tuple[str, ...]:
    """Take away what keeps a database from being dropped, without a word to the server that publishes; their names.

    Restored ones never were connected, and share their slot there with the original.
    """
    there = tuple(subscription.name for subscription in subscriptions_of(admin, database))
    if there:
        with server.connect(database) as connection:
            for name in there:
                for action in ("ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)",
                               "DROP SUBSCRIPTION {}"):  # fmt: skip
                    connection.execute(sql.SQL(action).format(identifier(name)))
    return there


def _noted(admin: Connection, database: str) -> tuple[str, ...]:
    rows = admin.execute(
        "SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
        " WHERE datname = %s AND setrole = 0",
        [database],
    )
    values = [text.partition("=")[2] for (text,) in rows if text.partition("=")[0] == SETTING]
    return tuple(json.loads(values[0])) if values else ()
