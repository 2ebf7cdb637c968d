"""A live database is replaced only by what was restored, compared and checked; all else leaves it as it was."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lifeboat import in_place
from lifeboat.backup import read_evidence, restore_snapshot
from lifeboat.errors import LifeboatError, NotReady, ObjectNotFound, RestoreFailed, RestoreIncomplete
from lifeboat.in_place import Application, InPlaceReport, Smoke, restore_in_place, undo_in_place
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.evidence import Evidence, differences
from lifeboat.postgres.swap import Standing, dated_name, kept_databases, release
from lifeboat.snapshot import Kind
from lifeboat.vault import Snapshot
from tests.fixtures_postgres import CHECK_THAT_NO_LONGER_HOLDS, NEEDED, Clusters, new_name, psql
from tests.in_place.conftest import (
    INSTALLED,
    NOW,
    Client,
    Place,
    ask,
    databases,
    evidence_of,
    make_orders,
    make_receivables,
)

pytestmark = pytest.mark.slow

SPOILED = "SELECT count(*) FROM orders WHERE note = 'spoiled'"


@pytest.fixture
def live(postgres: PostgresServer) -> str:
    return make_orders(postgres, new_name("live"))


@pytest.fixture
def snapshot(place: Place, postgres: PostgresServer, live: str) -> Snapshot:
    """A snapshot of the live database, in which all rows are spoiled since then."""
    made = place.back_up(postgres, live)
    with postgres.visit(live) as connection:
        connection.execute("UPDATE orders SET note = 'spoiled'")
    return made


def replace_with(
    place: Place,
    snapshot: Snapshot,
    server: PostgresServer,
    live: str,
    *,
    application: Application | None = None,
    smoke: Smoke | None = None,
    other_server: bool = False,
    minutes: int = 0,
) -> InPlaceReport:
    return restore_in_place(
        place.vault,
        snapshot,
        server,
        live,
        installed=INSTALLED,
        now=NOW + timedelta(minutes=minutes),
        application=application,
        smoke=smoke,
        other_server=other_server,
    )


def application_in(folder: Path, *, stop: str = "rm -f running", start: str = "touch running") -> Application:
    """An application that runs while the file `running` is there; each of its commands is noted in `log`."""
    (folder / "running").touch()
    commands = [("sh", "-c", f"cd {folder} && echo {name} >> log && {text}") for name, text in
                (("stop", stop), ("start", start))]  # fmt: skip
    return Application((commands[0],), (commands[1],), seconds=2)


def test_an_incomplete_database_takes_the_live_ones_place_only_once_somebody_has_seen_what_it_lacks(
    place: Place, postgres: PostgresServer
) -> None:
    live = new_name("incomplete live")
    psql(postgres, "postgres", "-c", f'CREATE DATABASE "{live}"')
    psql(postgres, live, "-c", CHECK_THAT_NO_LONGER_HOLDS)
    snapshot = place.back_up(postgres, live)

    with pytest.raises(RestoreIncomplete, match="a_orders_amount_check"):
        replace_with(place, snapshot, postgres, live, smoke=lambda *_: ["the sum is wrong"])

    [waiting] = kept_databases(postgres, live)
    assert waiting.standing is Standing.PARTLY
    with pytest.raises(RestoreIncomplete):
        undo_in_place(postgres, live, waiting.name, now=NOW)
    assert ask(postgres, live, ALL_CHECKS) == 1
    undo_in_place(postgres, live, waiting.name, now=NOW, although_incomplete=True)
    assert ask(postgres, live, "SELECT count(*) FROM a_orders") == 10
    assert [kept.standing for kept in kept_databases(postgres, live)] == [Standing.BEFORE]


ALL_CHECKS = "SELECT count(*) FROM pg_constraint WHERE convalidated AND conname = 'a_orders_amount_check'"


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().split()


@pytest.mark.parametrize("major", NEEDED)
def test_a_live_database_is_replaced_by_its_snapshot_and_answers_throughout(
    clusters: Clusters, place: Place, major: int
) -> None:
    server = clusters.get(major).server
    live = make_receivables(server, new_name("live"))
    before = evidence_of(server, live)
    snapshot = place.back_up(server, live)
    with server.visit(live) as connection:
        connection.execute("UPDATE receivables.settings SET value = '\"spoiled\"' WHERE name = 'business_date'")
    spoiled = evidence_of(server, live)
    application = application_in(place.folder)

    with Client(server, live, "SELECT value FROM receivables.settings WHERE name = 'business_date'") as client:
        report = replace_with(place, snapshot, server, live, application=application)

    assert evidence_of(server, live).tables == before.tables
    assert differences(before, evidence_of(server, live)) == ()
    assert evidence_of(server, report.swapped.kept).tables == spoiled.tables
    assert client.answers[0] == ("spoiled",)
    assert client.answers[-1] != ("spoiled",)
    assert client.longest_gap < 2
    assert log(place.folder) == ["stop", "start"]
    assert (place.folder / "running").exists()
    assert databases(server, live) == {live, report.swapped.kept}


def test_settings_grants_and_comment_of_the_database_are_as_they_were(place: Place, postgres: PostgresServer) -> None:
    live = make_orders(postgres, new_name("live"))
    with postgres.visit(live) as connection:
        for statement in (
            "ALTER DATABASE {} SET work_mem = '9MB'", "GRANT CREATE ON DATABASE {} TO pg_monitor WITH GRANT OPTION",
            "REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC", "COMMENT ON DATABASE {} IS 'ours'",
            "ALTER ROLE postgres IN DATABASE {} SET jit = off",
        ):  # fmt: skip
            connection.execute(statement.format(live).encode())
    before = evidence_of(postgres, live).database

    report = replace_with(place, place.back_up(postgres, live), postgres, live)

    assert evidence_of(postgres, live).database == before
    assert report.swapped.notes == ()


def test_a_replacement_is_undone_while_the_application_is_stopped(
    place: Place, snapshot: Snapshot, postgres: PostgresServer, live: str
) -> None:
    application = application_in(place.folder)
    first = replace_with(place, snapshot, postgres, live, application=application)
    assert ask(postgres, live, SPOILED) == 0

    second = undo_in_place(postgres, live, first.swapped.kept, now=NOW + timedelta(minutes=1), application=application)

    assert ask(postgres, live, SPOILED) == 900
    assert ask(postgres, second.swapped.kept, SPOILED) == 0
    assert log(place.folder) == ["stop", "start"] * 2


@pytest.mark.parametrize(
    ("standing", "told"),
    [
        (Standing.BESIDE, "not whole"),
        (Standing.BEFORE, "There is no database"),
        (None, "is not the name of a database"),
    ],
    ids=["half restored", "gone", "foreign"],
)
def test_what_cannot_be_put_in_place_is_refused_before_the_application_is_stopped(
    place: Place, postgres: PostgresServer, live: str, standing: Standing | None, told: str
) -> None:
    name = "postgres" if standing is None else dated_name(live, standing, NOW)

    with pytest.raises(RestoreFailed, match=told) as refused:
        undo_in_place(postgres, live, name, now=NOW, application=application_in(place.folder))

    assert not (place.folder / "log").exists()
    assert "waits" not in refused.value.hint


def wrong_answers(server: PostgresServer, database: str) -> Sequence[str]:
    return [f"rows: expected 1, found {ask(server, database, 'SELECT count(*) FROM orders')}."]


def cannot_ask(server: PostgresServer, database: str) -> Sequence[str]:
    raise RuntimeError("the check itself is broken")


def failing_swap(*_: object, **__: object) -> None:
    raise RestoreFailed("Somebody cannot be ended: reports.")


@pytest.mark.parametrize(
    ("smoke", "stop", "patched", "expected", "left", "logged"),
    [
        (wrong_answers, "true", None, "rows: expected 1, found 900", set(), []),
        (cannot_ask, "true", None, "itself is broken", set(), []),
        (None, "rm running; echo no such service; false", None, "no such service", {"ready"}, ["stop", "start"]),
        (None, "rm running; sleep 60", None, "took more than 2 s", {"ready"}, ["stop", "start"]),
        (None, "rm running", "undo", "cannot be ended: reports", {"ready"}, ["stop", "start"]),
        (None, "rm running", "make_ready", "cannot be ended: reports", set(), []),
    ],
    ids=["a wrong answer", "a broken check", "stop fails", "stop hangs", "the swap", "making it ready"],
)
def test_what_fails_before_the_swap_leaves_the_live_database_and_its_application_as_they_were(
    place: Place,
    snapshot: Snapshot,
    postgres: PostgresServer,
    live: str,
    monkeypatch: pytest.MonkeyPatch,
    smoke: Smoke | None,
    stop: str,
    patched: str | None,
    expected: str,
    left: set[str],
    logged: list[str],
) -> None:
    before = evidence_of(postgres, live)
    application = application_in(place.folder, stop=stop)
    (place.folder / "log").touch()
    if patched:
        monkeypatch.setattr(in_place, patched, failing_swap)

    with (
        pytest.raises((LifeboatError, RuntimeError), match=expected) as failed,
        Client(postgres, live, SPOILED) as client,
    ):
        replace_with(place, snapshot, postgres, live, application=application, smoke=smoke)

    assert evidence_of(postgres, live).tables == before.tables
    assert client.longest_gap < 2
    assert {answer for (answer,) in client.answers} == {900}
    assert log(place.folder) == logged
    assert (place.folder / "running").exists()
    names = {dated_name(live, Standing(standing), NOW) for standing in left}
    assert databases(postgres, live) == {live} | names
    assert all(f"lifeboat undo {name}" in str(failed.value) for name in names)


def test_what_waits_after_a_failure_is_put_in_place_without_restoring_again(
    place: Place, snapshot: Snapshot, postgres: PostgresServer, live: str
) -> None:
    with pytest.raises(RestoreFailed, match="ended with status 1") as failed:
        replace_with(place, snapshot, postgres, live, application=application_in(place.folder, stop="exit 1"))
    (name,) = re.findall(r"lifeboat undo (\S+)`", failed.value.hint)

    undo_in_place(postgres, live, name, now=NOW, application=application_in(place.folder))

    assert ask(postgres, live, SPOILED) == 0
    assert (place.folder / "running").exists()


def test_an_application_that_does_not_start_afterwards_says_how_to_go_back(
    place: Place, snapshot: Snapshot, postgres: PostgresServer, live: str
) -> None:
    broken = application_in(place.folder, start="echo port taken >&2; exit 7")

    with pytest.raises(RestoreFailed, match=r"(?s)was replaced, but .*status 7.*port taken") as failed:
        replace_with(place, snapshot, postgres, live, application=broken)

    assert ask(postgres, live, SPOILED) == 0
    (name,) = re.findall(r"lifeboat undo (\S+)`", failed.value.hint)
    assert [kept.name for kept in kept_databases(postgres, live)] == [name]


def test_an_application_that_neither_stops_nor_starts_is_told_of_in_full(
    place: Place, snapshot: Snapshot, postgres: PostgresServer, live: str
) -> None:
    broken = application_in(place.folder, stop="exit 3", start="exit 4")

    with pytest.raises(RestoreFailed, match=r"(?s)status 3.*status 4") as failed:
        replace_with(place, snapshot, postgres, live, application=broken)

    assert failed.value.hint.startswith("Start the application by hand.")
    assert ask(postgres, live, SPOILED) == 900


def test_an_application_left_in_the_background_by_its_start_goes_on(
    place: Place, snapshot: Snapshot, postgres: PostgresServer, live: str
) -> None:
    start = "{ (sleep 1; touch later) & touch running; }"

    replace_with(place, snapshot, postgres, live, application=application_in(place.folder, start=start))

    subprocess.run(["sleep", "1.5"], check=True)
    assert (place.folder / "later").exists()


def test_the_wrong_server_is_refused_before_anything_is_made(
    clusters: Clusters, place: Place, snapshot: Snapshot, live: str
) -> None:
    elsewhere = clusters.get(18).server
    make_orders(elsewhere, live)

    with pytest.raises(NotReady, match="system identifier"):
        replace_with(place, snapshot, elsewhere, live)

    assert databases(elsewhere, live) == {live}
    report = replace_with(place, snapshot, elsewhere, live, other_server=True)
    assert databases(elsewhere, live) == {live, report.swapped.kept}


def rewritten(place: Place, snapshot: Snapshot, evidence: Evidence) -> Snapshot:
    """The same snapshot made again by its own host, with other evidence."""
    writer = place.vault.begin("orders", Kind.POSTGRES, began=NOW)
    for artifact in snapshot.manifest.artifacts:
        stored = b"".join(place.vault.read(snapshot, artifact.name))
        content = evidence.to_json() if artifact.name == "evidence" else stored
        writer(artifact.name, [content], media_type=artifact.media_type)
    return writer.commit(snapshot.manifest.facts)


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"size": 1 << 60}, "room for"), ({"extensions": {"plpgsql": "1", "postgis": "3"}}, "the extension postgis")],
    ids=["no room", "no extension"],
)
def test_a_server_that_cannot_hold_the_database_is_refused_before_anything_is_made(
    place: Place, snapshot: Snapshot, postgres: PostgresServer, live: str, changed: dict[str, Any], told: str
) -> None:
    other = rewritten(place, snapshot, replace(read_evidence(place.vault, snapshot), **changed))
    begun: list[str] = []

    with pytest.raises(NotReady, match=told):
        replace_with(place, other, postgres, live)
    with pytest.raises(NotReady, match=told):
        restore_snapshot(place.vault, other, postgres, f"{live}_new", installed=INSTALLED, report=begun.append)

    assert begun == []
    assert databases(postgres, live) == {live}
    assert ask(postgres, live, SPOILED) == 900


@pytest.mark.parametrize("artifact", ["dump", "evidence", "globals"])
def test_a_snapshot_that_is_not_whole_leaves_the_live_database_alone(
    place: Place, snapshot: Snapshot, postgres: PostgresServer, live: str, artifact: str
) -> None:
    (file,) = place.folder.rglob(f"{artifact}.sealed")
    file.unlink()

    with pytest.raises(ObjectNotFound, match=artifact):
        replace_with(place, snapshot, postgres, live)
    with pytest.raises(ObjectNotFound, match=artifact):
        restore_snapshot(place.vault, snapshot, postgres, f"{live}_new", installed=INSTALLED)

    assert databases(postgres, live) == {live}
    assert ask(postgres, live, SPOILED) == 900


# ---- what is killed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "spoiled", "left", "running"),
    [
        ("restore", 900, Standing.BESIDE, True),
        ("smoke", 900, Standing.BESIDE, True),
        ("stop", 900, Standing.READY, False),
        ("swap", 900, Standing.READY, False),
        ("renamed", 900, Standing.READY, False),
        ("start", 0, Standing.BEFORE, False),
    ],
)
def test_killed_at_any_step_its_state_is_plain_and_a_repeated_run_works(
    place: Place,
    snapshot: Snapshot,
    postgres: PostgresServer,
    live: str,
    step: str,
    spoiled: int,
    left: Standing,
    running: bool,
) -> None:
    application = application_in(place.folder)
    command = [sys.executable, "-m", "tests.in_place.test_in_place", step, str(place.folder), live, str(postgres.port)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PASSWORD": postgres.password}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL

    assert ask(postgres, live, SPOILED) == spoiled
    (kept,) = kept_databases(postgres, live)
    assert kept.standing is left
    assert (place.folder / "running").exists() is running

    report = replace_with(place, snapshot, postgres, live, application=application, minutes=1)
    assert ask(postgres, live, SPOILED) == 0
    assert (place.folder / "running").exists()
    if step != "restore":  # what was not whole, and nobody restores any more, has gone
        assert any(repr(kept.name) in remark for remark in report.remarks)
        release(postgres, live, kept.name, drop_it=kept.name)
    assert databases(postgres, live) == {live, report.swapped.kept}


def replace_and_die(step: str, folder: str, live: str, port: str) -> None:
    from lifeboat.postgres import swap as swapping

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying(function: Callable[..., None], when: Callable[..., bool]) -> Callable[..., None]:
        return lambda *a, **k: die() if when(*a, **k) else function(*a, **k)

    server = PostgresServer("127.0.0.1", int(port), "postgres", os.environ["PASSWORD"])
    place = Place(Path(folder))
    commands = in_place._run_all
    match step:
        case "restore":
            from lifeboat.postgres import restore

            restore.compare = die
        case "swap":
            in_place.undo = die
        case "renamed":
            run = swapping._run
            swapping._run = lambda on, statements: (run(on, statements), len(statements) > 1 and die())
        case "stop" | "start":
            in_place._run_all = lambda commands_, s, what, tell: (
                die() if what == "start" and step == "start" else commands(commands_, s, what, tell),
                die() if what == "stop" and step == "stop" else None,
            )
    replace_with(
        place, place.vault.find("orders"), server, live, application=application_in(place.folder),
        smoke=die if step == "smoke" else None,
    )  # fmt: skip


if __name__ == "__main__":
    replace_and_die(*sys.argv[1:])
