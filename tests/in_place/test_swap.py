"""Swapping two databases by renaming: nobody gets in between, and all can be undone."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from lifeboat.errors import NotReady, RestoreFailed
from lifeboat.postgres import swap as swapping
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.swap import (
    Standing,
    check_target,
    dated_name,
    kept_databases,
    make_ready,
    read_dated_name,
    release,
    swap,
    undo,
    visitors,
)
from tests.fixtures_postgres import MAJORS, PROGRAMS, Clusters, new_name
from tests.in_place.conftest import NOW, Client, ask, databases, evidence_of, make_orders

pytestmark = pytest.mark.slow

WHICH = "SELECT note FROM orders WHERE id = 1"
ODD_NAMES = ["plain", "Odd Näme", 'with "quotes"', "it's; DROP --", "x" * 60, "ü" * 30]


@pytest.fixture
def live(postgres: PostgresServer) -> str:
    return make_orders(postgres, new_name("live"))


@pytest.fixture
def other(postgres: PostgresServer, live: str) -> str:
    return make_other(postgres, f"{live}_new")


def make_other(server: PostgresServer, name: str) -> str:
    make_orders(server, name)
    with server.visit(name) as connection:
        connection.execute("UPDATE orders SET note = 'now'")
    return name


@pytest.mark.parametrize("major", MAJORS)
def test_a_client_that_queries_all_the_time_sees_one_database_and_then_the_other(
    clusters: Clusters, major: int
) -> None:
    server = clusters.get(major).server
    live = make_orders(server, new_name("live"))
    other = make_other(server, f"{live}_new")

    with Client(server, live, WHICH) as client:
        swapped = swap(server, live, other, now=NOW)

    assert client.answers == sorted(client.answers, reverse=True)
    assert {answer for (answer,) in client.answers} == {"then", "now"}
    assert client.longest_gap < 2
    assert databases(server, live) == {live, swapped.kept}
    assert ask(server, swapped.kept, WHICH) == "then"


def test_whoever_is_connected_is_told_of_and_ended(postgres: PostgresServer, live: str, other: str) -> None:
    told: list[str] = []
    idle = psycopg.connect(
        host=postgres.host, port=postgres.port, user=postgres.user, password=postgres.password, dbname=live,
        application_name="reports",
    )  # fmt: skip
    idle.execute("SELECT 1")

    (visitor,) = visitors(postgres, live)
    swapped = swap(postgres, live, other, now=NOW, report=told.append)

    assert (visitor.application, visitor.state) == ("reports", "idle in transaction")
    assert told == [f"ending the connection of {visitor}"]
    assert visitor in swapped.ended
    with pytest.raises(psycopg.OperationalError):
        idle.execute("SELECT 1")


def test_a_swap_is_undone_and_the_replaced_one_is_kept_too(postgres: PostgresServer, live: str, other: str) -> None:
    first = swap(postgres, live, other, now=NOW)

    second = undo(postgres, live, first.kept, now=NOW + timedelta(minutes=1))

    assert ask(postgres, live, WHICH) == "then"
    assert ask(postgres, second.kept, WHICH) == "now"
    assert [kept.name for kept in kept_databases(postgres, live)] == [second.kept]


def test_two_swaps_within_one_second_keep_two_databases(postgres: PostgresServer, live: str, other: str) -> None:
    first = swap(postgres, live, other, now=NOW)

    second = undo(postgres, live, first.kept, now=NOW)

    assert ask(postgres, live, WHICH) == "then"
    assert databases(postgres, live) == {live, second.kept}
    assert read_dated_name(live, second.kept) == (Standing.BEFORE, NOW + timedelta(seconds=1))


def test_two_restores_within_one_second_wait_under_two_names(postgres: PostgresServer, live: str, other: str) -> None:
    one = make_ready(postgres, live, other, now=NOW)
    beside = make_orders(postgres, dated_name(live, Standing.BESIDE, NOW))

    two = make_ready(postgres, live, beside, now=NOW)

    assert one == dated_name(live, Standing.READY, NOW)
    assert read_dated_name(live, two) == (Standing.READY, NOW + timedelta(seconds=1))


def test_prepared_transactions_stop_a_swap_before_anybody_is_ended() -> None:
    with TemporaryCluster(PROGRAMS[17], settings={"max_prepared_transactions": "2"}) as cluster:
        live = make_orders(cluster.server, "live")
        other = make_other(cluster.server, "other")
        with cluster.server.visit(live) as connection:
            connection.execute("BEGIN")
            connection.execute("DELETE FROM orders")
            connection.execute("PREPARE TRANSACTION 'two phases'")

            with pytest.raises(RestoreFailed, match="two phases"):
                swap(cluster.server, live, other, now=NOW)

            assert connection.execute("SELECT count(*) FROM orders").fetchone() == (900,)


@pytest.mark.parametrize("where", ["live", "replacement"])
def test_somebody_who_cannot_be_ended_is_named_and_nothing_is_renamed(
    postgres: PostgresServer, live: str, other: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(swapping, "PATIENCE", 1)
    before = databases(postgres, live)
    with postgres.visit(live if where == "live" else other) as stuck:
        os.kill(stuck.info.backend_pid, signal.SIGSTOP)
        try:
            with pytest.raises(RestoreFailed, match=r"cannot be ended: postgres from 127.0.0.1 \(lifeboat, idle\)"):
                swap(postgres, live, other, now=NOW)
        finally:
            os.kill(stuck.info.backend_pid, signal.SIGCONT)

    assert databases(postgres, live) == before
    assert ask(postgres, live, WHICH) == "then"


def test_an_owner_who_is_no_superuser_can_swap_end_undo_and_release(
    postgres: PostgresServer, live: str, other: str
) -> None:
    role = new_name("owner")
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD 'x'").format(sql.Identifier(role)))
        for database in (live, other):
            admin.execute(
                sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database), sql.Identifier(role))
            )
    owner = replace(postgres, user=role, password="x")

    with Client(owner, live, "SELECT current_database()"):
        first = swap(owner, live, other, now=NOW)
        second = undo(owner, live, first.kept, now=NOW + timedelta(seconds=1))

    release(owner, live, second.kept, drop_it=second.kept)
    assert databases(postgres, live) == {live}
    assert ask(postgres, live, WHICH) == "then"


def test_the_connection_limit_moves_along_and_what_is_lost_is_told(
    postgres: PostgresServer, live: str, other: str
) -> None:
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 17").format(sql.Identifier(live)))
        admin.execute(sql.SQL("ALTER DATABASE {} SET work_mem = '9MB'").format(sql.Identifier(live)))
        admin.execute(sql.SQL("ALTER DATABASE {} SET jit = off").format(sql.Identifier(live)))
        admin.execute(sql.SQL("ALTER DATABASE {} SET jit = off").format(sql.Identifier(other)))
        admin.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO pg_monitor").format(sql.Identifier(live)))

    swapped = swap(postgres, live, other, now=NOW)

    assert ask(postgres, live, "SELECT datconnlimit FROM pg_database WHERE datname = current_database()") == 17
    assert swapped.notes == (
        "The replaced database had the grant of CREATE to pg_monitor, which the restored one has not.",
        "The replaced database had the setting work_mem=9MB, which the restored one has not.",
    )


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_swapped_listed_undone_and_released(postgres: PostgresServer, name: str) -> None:
    live = make_orders(postgres, name)
    beside = make_other(postgres, dated_name(live, Standing.BESIDE, NOW))
    ready = make_ready(postgres, live, beside, now=NOW)

    first = undo(postgres, live, ready, now=NOW)
    assert ask(postgres, live, WHICH) == "now"
    second = undo(postgres, live, first.kept, now=NOW + timedelta(seconds=1))
    assert ask(postgres, live, WHICH) == "then"

    assert [kept.name for kept in kept_databases(postgres, live)] == [second.kept]
    assert len(second.kept.encode()) <= 63
    release(postgres, live, second.kept, drop_it=second.kept)
    assert kept_databases(postgres, live) == ()


@pytest.mark.parametrize("live", ["receivables", "x" * 63, "ü" * 31, "a_before_b", "line\nbreak"])
@pytest.mark.parametrize("standing", Standing)
def test_a_dated_name_reads_back(live: str, standing: Standing) -> None:
    name = dated_name(live, standing, NOW)

    assert read_dated_name(live, name) == (standing, NOW)
    assert len(name.encode()) <= 63


def test_long_names_with_the_same_beginning_are_told_apart() -> None:
    assert read_dated_name("x" * 62, dated_name("x" * 63, Standing.BEFORE, NOW)) is None
    assert read_dated_name("x", dated_name("y", Standing.BEFORE, NOW)) is None


# ---- releasing ------------------------------------------------------------------------------------------------------


def test_a_kept_database_is_dropped_only_when_its_name_is_given_twice(
    postgres: PostgresServer, live: str, other: str
) -> None:
    kept = swap(postgres, live, other, now=NOW).kept

    for confirmation in ("", "yes", live):
        with pytest.raises(RestoreFailed, match="not confirmed"):
            release(postgres, live, kept, drop_it=confirmation)
    assert databases(postgres, live) == {live, kept}
    release(postgres, live, kept, drop_it=kept)

    assert databases(postgres, live) == {live}


def test_no_other_database_is_ever_dropped_or_swapped_in(postgres: PostgresServer, live: str, other: str) -> None:
    foreign = make_orders(postgres, dated_name(f"{live}x", Standing.BEFORE, NOW))
    for name in (live, other, foreign, "postgres", f"{live}_before_yesterday"):
        with pytest.raises(RestoreFailed, match="is not the name of a database that was kept"):
            release(postgres, live, name, drop_it=name)
        with pytest.raises(RestoreFailed, match="is not the name of a database that was kept"):
            undo(postgres, live, name, now=NOW)

    assert databases(postgres, live) == {live, other, foreign}


def test_a_kept_database_somebody_looks_into_is_not_dropped(postgres: PostgresServer, live: str, other: str) -> None:
    kept = swap(postgres, live, other, now=NOW).kept

    with postgres.visit(kept), pytest.raises(RestoreFailed, match="lifeboat, idle"):
        release(postgres, live, kept, drop_it=kept)

    assert kept in databases(postgres, live)


def test_a_restore_that_was_cut_short_is_never_put_in_place(postgres: PostgresServer, live: str) -> None:
    beside = make_orders(postgres, dated_name(live, Standing.BESIDE, NOW))

    with pytest.raises(RestoreFailed, match="not whole"):
        undo(postgres, live, beside, now=NOW)

    assert ask(postgres, live, WHICH) == "then"


# ---- the right target -----------------------------------------------------------------------------------------------


def test_the_database_a_snapshot_is_of_is_the_right_target(postgres: PostgresServer, live: str) -> None:
    assert check_target(postgres, live, evidence_of(postgres, live)) == ()


def test_another_server_or_database_is_refused_unless_it_is_meant(
    clusters: Clusters, postgres: PostgresServer, live: str
) -> None:
    evidence = evidence_of(postgres, live)
    elsewhere = clusters.get(16).server
    make_orders(elsewhere, f"{live} elsewhere")

    with pytest.raises(NotReady, match=r"(?s)system identifier.*The snapshot is of the database"):
        check_target(elsewhere, f"{live} elsewhere", evidence)

    check_target(elsewhere, f"{live} elsewhere", evidence, other_server=True)


def test_a_snapshot_that_knows_no_server_leaves_a_remark(postgres: PostgresServer, live: str) -> None:
    (remark,) = check_target(postgres, live, replace(evidence_of(postgres, live), system_identifier=None))

    assert "cannot be known" in remark


@pytest.mark.parametrize(
    ("database", "told"),
    [("nowhere", "There is no database 'nowhere'"), ("postgres", "cannot be renamed")],
)
def test_what_cannot_be_replaced_is_refused(postgres: PostgresServer, live: str, database: str, told: str) -> None:
    with pytest.raises(NotReady, match=told):
        check_target(postgres, database, evidence_of(postgres, live), other_server=True)


def test_a_disk_without_room_is_refused(postgres: PostgresServer, live: str) -> None:
    with pytest.raises(NotReady, match="has room for"):
        check_target(postgres, live, replace(evidence_of(postgres, live), size=1 << 60))


def test_a_user_who_may_not_rename_is_refused(postgres: PostgresServer, live: str) -> None:
    role = new_name("nobody")
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(role)))

    with pytest.raises(NotReady, match="may not rename it"):
        check_target(replace(postgres, user=role, password="x"), live, evidence_of(postgres, live))


def test_kept_databases_are_listed_newest_first(postgres: PostgresServer, live: str) -> None:
    moments = [datetime(2026, 1, day, tzinfo=UTC) for day in (2, 3, 1)]
    for moment in moments:
        make_orders(postgres, dated_name(live, Standing.BEFORE, moment))

    kept = kept_databases(postgres, live)

    assert [database.since.day for database in kept] == [3, 2, 1]
    assert all(database.size for database in kept)
