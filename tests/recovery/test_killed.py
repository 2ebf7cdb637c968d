"""Whoever is killed in the middle of a recovery leaves it so that whoever comes next goes on, and repeats nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifeboat.postgres.connection import PostgresServer
from tests.fixtures_postgres import new_name
from tests.fixtures_redis import RedisServers
from tests.recovery.ruins import ORDERS, UPLOADS, Ruins

pytestmark = pytest.mark.slow


@pytest.fixture
def ruins(tmp_path: Path, postgres: PostgresServer, redis_servers: RedisServers) -> Ruins:
    redis = redis_servers.start("redis-8.2").server
    return Ruins(tmp_path, postgres, new_name("platform"), redis).build()


@pytest.mark.parametrize(
    "moment",
    [
        "prepare: begins",
        "prepare: sh",
        "restore configuration: 2 files",
        "prepare: everything is ready",
        "restore orders: begins",
        "rows and indexes:",
        "comparison:",
        "after:ready",
        "restore orders: restored",
        "restore uploads: begins",
        "after:restore_tree",
        "after:restore_redis",
        "stop: sh",
        "put in place orders: begins",
        "after:rename",
        "put in place orders: in place",
        "migrate: sh",
        "start: started",
        "verify: begins",
        "verify: the platform",
    ],
)
def test_killed_anywhere_a_recovery_of_nothing_goes_on(ruins: Ruins, moment: str) -> None:
    ruins.destroy()

    ruins.killed_at(moment)
    recovered = ruins.recover()

    ruins.check_whole()
    assert recovered.verified.well, recovered.verified.failed
    assert ruins.databases() == {ruins.database}
    begun = [e for e in recovered.case.journal.entries() if e.step == "begin"]
    assert len(begun) == 1
    if moment in ("after:ready", "restore orders: restored", "migrate: sh", "verify: begins"):
        assert not [line for line in ruins.said if line.startswith("rows and indexes:")]


@pytest.mark.parametrize(
    "moment",
    [
        "put in place configuration: begins",
        "after:restore_in_place",
        "after:rename",
        "put in place orders: in place",
        "after:restore_tree",
        "after:restore_redis",
        "start: started",
    ],
)
def test_killed_anywhere_a_replacement_of_what_is_alive_goes_on_and_keeps_what_was_live(
    ruins: Ruins, moment: str
) -> None:
    ruins.spoil()

    ruins.killed_at(moment, replaces_live=True)
    recovered = ruins.recover(replaces_live=True)

    ruins.check_whole()
    assert recovered.verified.well, recovered.verified.failed
    kept = recovered.of("orders").facts["kept"]
    assert ruins.databases() == {ruins.database, kept}
    assert ruins.notes(kept) == {"spoiled": ORDERS}
    (before,) = ruins.root.glob(".env.before-*")
    assert before.read_text() == "DB_PASSWORD=spoiled\n"
    assert recovered.of("configuration").facts["kept"] == {".env": before.name}


def test_what_is_uploaded_after_a_recovery_stays_when_its_steps_are_repeated(ruins: Ruins) -> None:
    ruins.spoil()
    case = ruins.case()
    first = ruins.carry_out(case, replaces_live=True)
    (ruins.uploads / "logo.png").write_bytes(b"a new logo")
    (ruins.root / ".env").write_text("DB_PASSWORD=rotated\n")

    from lifeboat.recovery.steps import put_in_place

    again = put_in_place(ruins.case(), first.assessment, first.placed, replaces_live=True)

    assert [one.record() for one in again] == [one.record() for one in first.placed]
    assert ruins.files() == UPLOADS | {"logo.png": b"a new logo", "since.pdf": b"uploaded since"}
    assert ruins.configuration()[".env"] == "DB_PASSWORD=rotated\n"
