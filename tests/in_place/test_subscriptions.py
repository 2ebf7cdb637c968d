"""A live database that subscribes to another server is swapped too, and nothing the publisher has is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from lifeboat.errors import NotReady, RestoreFailed
from lifeboat.in_place import restore_in_place, undo_in_place
from lifeboat.postgres import swap as swapping
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.swap import check_target, release, swap
from tests.fixtures_postgres import PROGRAMS, new_name
from tests.in_place.conftest import INSTALLED, NOW, Place, ask, databases, evidence_of, make_orders

pytestmark = pytest.mark.slow

SUBSCRIPTIONS = (
    "SELECT coalesce(string_agg(subname || ' ' || subenabled, ', '), 'none') FROM pg_subscription"
    " JOIN pg_database d ON d.oid = subdbid WHERE datname = current_database()"
)
LAST = "SELECT max(id) FROM orders"


@dataclass(frozen=True)
class Pair:
    """A publisher, and a live database on another server that subscribes to its orders."""

    publisher: PostgresServer
    origin: str
    server: PostgresServer
    live: str

    def publish(self, number: int) -> None:
        with self.publisher.visit(self.origin) as connection:
            connection.execute("INSERT INTO orders VALUES (%s, 'published')", [number])

    def arrives(self, database: str, number: int) -> None:
        deadline = time.monotonic() + 30
        while ask(self.server, database, LAST) != number:
            assert time.monotonic() < deadline, f"{number} did not arrive in {database}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def publisher() -> Iterator[PostgresServer]:
    with TemporaryCluster(PROGRAMS[17], settings={"wal_level": "logical"}) as cluster:
        yield cluster.server


@pytest.fixture
def pair(publisher: PostgresServer, postgres: PostgresServer) -> Iterator[Pair]:
    origin, live = make_orders(publisher, new_name("origin")), make_orders(postgres, new_name("subscribing"))
    with publisher.visit(origin) as connection:
        connection.execute("CREATE PUBLICATION giving FOR TABLE orders")
        connection.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
    with postgres.visit(live) as connection:
        connection.execute("DELETE FROM orders")
        where = psycopg.conninfo.make_conninfo(
            host=publisher.host, port=publisher.port, user=publisher.user, password=publisher.password, dbname=origin
        )
        connection.execute(
            sql.SQL("CREATE SUBSCRIPTION taking CONNECTION {} PUBLICATION giving WITH (slot_name = {})").format(
                sql.Literal(where), sql.Literal(origin)
            )
        )
    made = Pair(publisher, origin, postgres, live)
    made.arrives(live, 900)
    yield made
    for name in databases(postgres, live):
        with postgres.visit(name) as connection:
            if ask(postgres, name, SUBSCRIPTIONS) != "none":
                connection.execute("ALTER SUBSCRIPTION taking DISABLE")
                connection.execute("ALTER SUBSCRIPTION taking SET (slot_name = NONE)")
                connection.execute("DROP SUBSCRIPTION taking")


def test_a_live_database_that_subscribes_is_replaced_and_brought_back_without_losing_anything(
    pair: Pair, place: Place
) -> None:
    snapshot = place.back_up(pair.server, pair.live)
    pair.publish(1000)
    pair.arrives(pair.live, 1000)
    told: list[str] = []

    replaced = restore_in_place(
        place.vault, snapshot, pair.server, pair.live, installed=INSTALLED, now=NOW, report=told.append
    )
    pair.publish(1001)

    kept = replaced.swapped.kept
    assert "switching off the subscription taking" in told
    assert ask(pair.server, pair.live, LAST) == 900
    assert ask(pair.server, pair.live, SUBSCRIPTIONS) == "taking false"
    assert ask(pair.server, kept, SUBSCRIPTIONS) == "taking false"
    assert [note for note in replaced.remarks if "The subscription taking is switched off" in note]

    back = undo_in_place(pair.server, pair.live, kept, now=NOW)

    pair.arrives(pair.live, 1001)
    assert ask(pair.server, pair.live, SUBSCRIPTIONS) == "taking true"
    assert ask(pair.server, pair.live, "SELECT count(*) FROM orders WHERE id >= 1000") == 2
    assert [note for note in back.remarks if "The subscription taking is switched on again" in note]
    assert (
        ask(pair.server, pair.live, "SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text ~ 'lifeboat'") == 0
    )

    notes = release(pair.server, pair.live, back.swapped.kept, drop_it=back.swapped.kept)

    assert "taking" in notes[0]
    assert "slot" in notes[0]
    assert databases(pair.server, pair.live) == {pair.live}
    pair.publish(1002)
    pair.arrives(pair.live, 1002)


def test_a_swap_that_fails_leaves_the_subscription_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_orders(pair.server, f"{pair.live}_new")
    monkeypatch.setattr(swapping, "PATIENCE", 0)
    monkeypatch.setattr(swapping, "_end_visitors", lambda *_: ())

    with pair.server.visit(pair.live), pytest.raises(RestoreFailed, match="cannot be ended"):
        swap(pair.server, pair.live, other, now=NOW)

    assert ask(pair.server, pair.live, SUBSCRIPTIONS) == "taking true"
    pair.publish(1003)
    pair.arrives(pair.live, 1003)


def test_a_subscription_switched_on_after_the_swap_is_not_taken_over_by_an_undo(pair: Pair) -> None:
    other = make_orders(pair.server, f"{pair.live}_new")
    slot = sql.Literal(pair.origin)
    with pair.server.visit(other) as connection:
        connection.execute(
            sql.SQL(
                "CREATE SUBSCRIPTION taking CONNECTION 'host=127.0.0.1 port=1' PUBLICATION giving"
                " WITH (connect = false, slot_name = {})"
            ).format(slot)
        )
    kept = swap(pair.server, pair.live, other, now=NOW).kept
    with pair.server.visit(pair.live) as connection:
        connection.execute("ALTER SUBSCRIPTION taking ENABLE")

    back = swap(pair.server, pair.live, kept, now=NOW)

    # What the other one has taken from the slot would be missing here without a word.
    assert ask(pair.server, pair.live, SUBSCRIPTIONS) == "taking false"
    assert [note for note in back.notes if "was on in both" in note]


def test_what_was_switched_off_when_a_swap_was_killed_is_on_again_after_the_next(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_orders(pair.server, f"{pair.live}_new")
    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(swapping, "_rename_apart", dies)
        killed.setattr(swapping, "switch_on_again", lambda *_, **__: ((), ()))
        with pytest.raises(Killed):
            swap(pair.server, pair.live, other, now=NOW)
    assert ask(pair.server, pair.live, SUBSCRIPTIONS) == "taking false"

    kept = swap(pair.server, pair.live, other, now=NOW).kept
    swap(pair.server, pair.live, kept, now=NOW)

    assert ask(pair.server, pair.live, SUBSCRIPTIONS) == "taking true"


class Killed(BaseException):
    """As if by kill -9."""


def dies(*_: object) -> None:
    raise Killed


def test_who_may_not_switch_a_subscription_off_is_refused_before_anything(pair: Pair) -> None:
    with pair.server.visit("postgres") as admin:
        admin.execute("DROP ROLE IF EXISTS subscriber_owner")
        admin.execute("CREATE ROLE subscriber_owner LOGIN CREATEDB PASSWORD 'secret'")
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO subscriber_owner").format(sql.Identifier(pair.live)))
    owner = PostgresServer(pair.server.host, pair.server.port, "subscriber_owner", "secret")
    evidence = evidence_of(pair.server, pair.live)

    with pytest.raises(NotReady, match="may not switch off the subscription taking"):
        check_target(owner, pair.live, evidence)


def test_a_kept_database_whose_subscription_is_on_is_not_dropped(pair: Pair) -> None:
    other = make_orders(pair.server, f"{pair.live}_new")
    kept = swap(pair.server, pair.live, other, now=NOW).kept
    with pair.server.visit(kept) as connection:
        connection.execute("ALTER SUBSCRIPTION taking ENABLE")

    with pytest.raises(RestoreFailed, match="subscriptions are switched on: taking"):
        release(pair.server, pair.live, kept, drop_it=kept)

    assert kept in databases(pair.server, pair.live)
