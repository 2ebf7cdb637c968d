"""Replacing, going back and letting go from the command line alone, as a person would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from demo.receivables import SMOKE_CHECKS
from lifeboat.errors import SettingsError
from lifeboat.postgres.connection import PostgresServer
from lifeboat.settings import load_platform
from tests.cli.conftest import Place, postgres_uri
from tests.fixtures_postgres import Clusters, new_name
from tests.in_place.conftest import ask, databases, evidence_of, make_orders, make_receivables

pytestmark = [pytest.mark.slow, pytest.mark.ordinary]

REALLY = "--i-know-this-replaces-the-live-database"
SETTLED = "SELECT count(*) FROM receivables.allocations"


@pytest.fixture
def live(tmp_path: Path, postgres: PostgresServer) -> Place:
    """A platform with a live receivables database that has been backed up, and lost its allocations since."""
    database = make_receivables(postgres, new_name("live"), invoices=500)
    place = Place(tmp_path, database, (postgres.password, "lifeboat:identity", "lifeboat:signing"))
    place.local.mkdir()
    (tmp_path / "checks.yaml").write_text(SMOKE_CHECKS.read_text())
    (tmp_path / "platform.yaml").write_text(
        f"""\
platform: SME
recipients: [operations, escrow]
repositories:
  - name: local
    url: file://{place.local}
sources:
  databases:
    - name: receivables
      connection: live_db
      smoke_checks: checks.yaml
application:
  stop: [[rm, -f, {tmp_path}/running]]
  start: [[touch, {tmp_path}/running]]
  timeout: 5
"""
    )
    (tmp_path / ".env").write_text(
        f"AIRFLOW_CONN_LIVE_DB={postgres_uri(postgres, database)}\n"
        f'AIRFLOW_CONN_LIFEBOAT_KEYS={{"conn_type": "generic", "extra": {{"keyring": "{place.keyring}"}}}}\n'
    )
    place.run("init")
    place.run("backup", "receivables")
    with postgres.visit(database) as connection:
        connection.execute("DELETE FROM receivables.allocations")
    return place


def test_a_live_database_is_replaced_brought_back_and_let_go(live: Place, postgres: PostgresServer) -> None:
    done = live.run_alone("replace", "receivables", REALLY, "--json").json
    assert ask(postgres, live.database, SETTLED) > 0
    assert (live.folder / "running").exists()
    assert (done["database"], done["notes"]) == (live.database, [])
    assert 0 < done["swap_seconds"] <= done["down_seconds"]

    (listed,) = live.run("kept", "--json").json["kept"]
    assert (listed["name"], listed["what"], listed["live"]) == (done["kept"], "before", live.database)
    assert done["kept"] in live.run("kept", "receivables").out

    back = live.run("undo", done["kept"], "--json").json
    assert ask(postgres, live.database, SETTLED) == 0

    refused = live.run("release", back["kept"], expect=1)
    assert "not confirmed" in refused.err
    assert back["kept"] in live.run("release", back["kept"], "--drop-it", back["kept"]).out
    assert databases(postgres, live.database) == {live.database}


def test_people_are_told_what_happens_and_how_to_go_back(live: Place) -> None:
    done = live.run("replace", "receivables", REALLY)

    for told in ("smoke checks: all right", "stop: rm -f", "swapped in", "start: touch"):
        assert told in done.err
    (name,) = re.findall(r"lifeboat undo (\S+)`", done.err)
    assert f"is kept as '{name}'" in done.out
    assert f"{name!r} is now {live.database!r}" in live.run("undo", name).out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--i-know-this-replaces"),
        (("--tables", "allocations"), "--replace-live-rows"),
        (("--tables", "allocations", REALLY), "--replace-live-rows"),
        (("--replace-live-rows",), "--tables"),
    ],
    ids=["nothing said", "tables", "tables with the other flag", "no tables"],
)
def test_nothing_live_is_touched_unless_that_is_said_in_so_many_words(
    live: Place, postgres: PostgresServer, arguments: tuple[str, ...], told: str
) -> None:
    refused = live.run("replace", "receivables", *arguments, expect=2)

    assert told in refused.err
    assert ask(postgres, live.database, SETTLED) == 0
    assert databases(postgres, live.database) == {live.database}


def test_a_failed_smoke_check_is_named_and_nothing_replaced(live: Place, postgres: PostgresServer) -> None:
    (live.folder / "checks.yaml").write_text("- {name: two invoices, sql: SELECT 500, expected: 2}\n")

    failed = live.run("replace", "receivables", REALLY, expect=1)

    assert "two invoices: expected 2, found 500" in failed.err
    assert ask(postgres, live.database, SETTLED) == 0
    assert databases(postgres, live.database) == {live.database}


@pytest.mark.parametrize(
    "command",
    [["restore", "--to-database", "x"], ["replace", REALLY], ["prove"],
     ["restore", "--into-schema", "x", "--tables", "a"]],
    ids=["restore", "replace", "prove", "into a schema"],
)  # fmt: skip
def test_a_snapshot_that_does_not_exist_is_not_found(live: Place, postgres: PostgresServer, command: list[str]) -> None:
    refused = live.run(command[0], "receivables/daily/20200101T000000Z-00000000", *command[1:], expect=4)

    assert "There is no" in refused.err
    assert "There are: receivables/daily/" in refused.err
    assert databases(postgres, live.database) == {live.database}


def test_live_rows_are_replaced(live: Place, postgres: PostgresServer) -> None:
    done = live.run("replace", "receivables", "--tables", "allocations", "--replace-live-rows", "--json").json

    count = ask(postgres, live.database, SETTLED)
    assert done["tables"] == {"receivables.allocations": {"before": 0, "after": count}}
    assert count > 0


def test_chosen_tables_and_definitions_alone_are_restored_into_new_databases(
    live: Place, postgres: PostgresServer
) -> None:
    some, empty = new_name("some"), new_name("empty")

    live.run("restore", "receivables", "--to-database", some, "--tables", "allocations, receivables.countries")
    live.run("restore", "receivables", "--to-database", empty, "--schema-only")

    assert {t.label for t in evidence_of(postgres, some).tables} == {"receivables.allocations", "receivables.countries"}
    assert evidence_of(postgres, some).rows > 0
    assert evidence_of(postgres, empty).rows == 0
    assert evidence_of(postgres, empty).objects == evidence_of(postgres, live.database).objects


def test_chosen_tables_are_restored_into_a_new_schema(live: Place, postgres: PostgresServer) -> None:
    names = ("--tables", "allocations,receivables.countries")

    done = live.run_alone("restore", "receivables", "--into-schema", "then", *names, "--json").json

    assert (done["database"], done["schema"]) == (live.database, "then")
    assert done["tables"]["then.allocations"] == ask(postgres, live.database, 'SELECT count(*) FROM "then".allocations')
    assert done["tables"]["then.allocations"] > ask(postgres, live.database, SETTLED) == 0
    assert databases(postgres, live.database) == {live.database}
    told = live.run("restore", "receivables", "--into-schema", "again", *names)
    assert "again.allocations has the" in told.out
    assert "does not come along" in told.err
    assert "already is a schema" in live.run("restore", "receivables", "--into-schema", "then", *names, expect=1).err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Say where to"),
        (("--to-database", "x", "--into-schema", "x", "--tables", "a"), "Say where to"),
        (("--into-schema", "x"), "Name them with --tables"),
        (("--into-schema", "x", "--tables", "a", "--schema-only"), "with their rows"),
        (("--to-database", "x", "--on-another-server"), "are about the database"),
    ],
    ids=["nowhere", "both", "no tables", "no rows", "a guard without need"],
)
def test_a_restore_whose_goal_is_unclear_is_refused(live: Place, arguments: tuple[str, ...], told: str) -> None:
    said = live.run("restore", "receivables", *arguments, expect=2).err
    assert told in " ".join(said.replace("│", "").split())


def test_another_server_is_replaced_only_when_it_is_meant(live: Place, clusters: Clusters) -> None:
    other = clusters.get(18).server
    make_orders(other, live.database)
    variables = {"AIRFLOW_CONN_OTHER": postgres_uri(other, live.database)}
    command = ["replace", "receivables", REALLY, "--connection", "other"]

    refused = live.run(*command, expect=1, **variables)
    assert "system identifier" in refused.err
    into_schema = ["restore", *command[1:2], *command[3:], "--into-schema", "x", "--tables", "allocations"]
    assert "system identifier" in live.run(*into_schema, expect=1, **variables).err
    live.run(*command, "--on-another-server", **variables)

    assert ask(other, live.database, SETTLED) > 0
    (listed,) = live.run("kept", "--connection", "other", "--json", **variables).json["kept"]
    assert listed["server"] == str(other)


@pytest.mark.parametrize("command", [["undo", "{}"], ["release", "{}", "--drop-it", "{}"]], ids=["undo", "release"])
@pytest.mark.parametrize("name", ["postgres", "other_before_20261123T213000Z"])
def test_no_other_database_is_touched(live: Place, postgres: PostgresServer, command: list[str], name: str) -> None:
    refused = live.run(*(part.format(name) for part in command), expect=3)

    assert "is not the name of a database kept beside" in refused.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("application: {stop: [docker stop web]}", "application.stop[0]"),
        ("application: {stop: [[docker, stop, web]]}", "would never be started again"),
        ("application: {start: [[]]}", "there must be at least one"),
        ("application: {start: [[sleep, 5]]}", "application.start[0][1]"),
        ("application: {start: [[a]], timeout: 0}", "application.timeout"),
        ("application: {begin: [[a]]}", "there is no such key"),
    ],
    ids=["a string", "no start", "an empty command", "a number", "no time", "another key"],
)
def test_what_is_wrong_about_the_application_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text(
        "platform: x\nrecipients: [a, b]\nrepositories: [{name: local, url: file:///x}]\n"
        f"sources: {{databases: [{{name: x, connection: x}}]}}\n{text}\n"
    )

    with pytest.raises(SettingsError) as wrong:
        load_platform(file)

    assert told in wrong.value.message
    assert f"{file}:5" in wrong.value.message
