"""`lifeboat prove`, what other commands tell of it, and choosing what is proven."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.kept_server import kept_servers, remove_kept
from tests.cli.conftest import Place, postgres_uri
from tests.cli.test_commands import damage
from tests.fixtures_postgres import new_name

pytestmark = [pytest.mark.slow, pytest.mark.ordinary]

CHECKS = "- {name: customers, sql: SELECT count(*) > 0 FROM app.customers, expected: %s}\n"


def with_checks(place: Place, *, right: bool) -> Place:
    """The same platform with a smoke check."""
    (place.folder / "checks.yaml").write_text(CHECKS % ("true" if right else "false"))
    file = place.folder / "platform.yaml"
    text = file.read_text().replace("      smoke_checks: checks.yaml\n", "")
    file.write_text(text.replace("connection: odd_db\n", "connection: odd_db\n      smoke_checks: checks.yaml\n"))
    return place


def test_a_snapshot_is_proven_and_every_command_tells(ready: Place) -> None:
    with_checks(ready, right=True)
    snapshot = ready.run("backup", "odd", "--json").json["snapshot"]
    assert "not proven by a restore test yet" in ready.run("show", "odd").out

    proof = ready.run_alone("prove", "odd", "--json").json

    assert (proof["proven"], proof["repository"], proof["damaged"]) == (True, "s3", {})
    assert proof["snapshot"]["id"] == snapshot["id"]
    assert [(c["name"], c["passed"]) for c in proof["checks"]][-1] == ("customers", True)
    assert proof["seconds_in_all"] >= sum(proof["seconds"].values()) > 0
    assert all((ready.local / key).is_file() for key in proof["reports"])
    (listed,) = ready.run("list", "--json").json["snapshots"]
    shown = ready.run("show", "odd", "--json").json
    assert listed["proven"] is shown["proven"] is True
    assert listed["tested"] == shown["tested"] != ""
    assert listed["tested"][:10] in ready.run("list").out
    assert f"proven: {listed['tested'][:10]}" in ready.run("show", "odd").out


def test_a_failed_check_ends_the_command_so_and_only_what_is_proven_is_chosen(
    ready: Place, postgres: PostgresServer
) -> None:
    with_checks(ready, right=False)
    first, second = (ready.run("backup", "odd", "--json").json["snapshot"]["id"] for _ in range(2))
    on_server = ("--connection", "here")
    here = {"AIRFLOW_CONN_HERE": postgres_uri(postgres, "")}

    failed = ready.run("prove", second, *on_server, expect=5, **here)
    assert "customers: expected false, found true" in failed.err
    assert "FAILED" in failed.out
    assert "FAILED" in ready.run("list").out
    assert "no proven snapshot of odd" in ready.run("verify", "odd", "--proven", expect=4).err

    with_checks(ready, right=True)
    proven = ready.run("prove", first, *on_server, "--keep", **here)
    assert "is proven: restored from s3" in proven.out
    (kept,) = re.findall(r"The database '(\w+)' was kept on", proven.err)
    with postgres.visit("postgres") as admin:
        admin.execute(f"DROP DATABASE {kept}".encode())
    chosen = ready.run("restore", "odd", "--proven", "--to-database", new_name("cli proven"), "--json").json
    assert chosen["snapshot"]["id"] == first


def test_a_damaged_copy_makes_the_command_degraded(ready: Place, postgres: PostgresServer) -> None:
    ready.run("backup", "odd")
    file = ready.folder / "platform.yaml"
    text = file.read_text()
    s3, local = text.index("  - name: s3"), text.index("  - name: local")
    file.write_text(text[:s3] + text[local : text.index("sources:")] + text[s3:local] + text[text.index("sources:") :])
    artifact = next(ready.local.glob("snapshots/odd/daily/*/dump.sealed"))
    damage(artifact, artifact.stat().st_size // 2)

    proven = ready.run("prove", "odd", "--connection", "here", expect=6, AIRFLOW_CONN_HERE=postgres_uri(postgres, ""))

    assert "the copy in local is damaged" in proven.err
    assert "restored from s3" in proven.out
    names = new_name("damaged"), new_name("whole"), new_name("passed over")
    from_local = ready.run("restore", "odd", "--to-database", names[0], "--repository", "local", expect=5)
    assert "Use another repository" in from_local.err
    ready.run("restore", "odd", "--to-database", names[1], "--repository", "s3")
    restored = ready.run("restore", "odd", "--to-database", names[2], "--json", expect=6)
    assert list(restored.json["damaged"]) == ["local"]
    assert "the copy in local is damaged" in restored.err
    with postgres.visit("postgres") as admin:
        found = admin.execute("SELECT datname FROM pg_database WHERE datname = ANY(%s)", [list(names)]).fetchall()
    assert {name for (name,) in found} == set(names[1:])


def test_a_moment_chooses_the_snapshot_of_then(ready: Place) -> None:
    first = ready.run("backup", "odd", "--json").json["snapshot"]
    ready.run("backup", "odd")

    assert first["id"] in ready.run("verify", "odd", "--as-of", first["began"]).out
    assert "There are: odd/daily/" in ready.run("verify", "odd", "--as-of", "2020-01-01", expect=4).err
    assert "is no time" in ready.run("verify", "odd", "--as-of", "yesterday", expect=2).err


def test_a_database_is_kept_only_on_a_server_that_is_named(ready: Place, tmp_path: Path) -> None:
    ready.run("backup", "odd")

    assert "cannot be kept" in ready.run("prove", "odd", "--keep", expect=3).err
    refused = ready.run("prove", "odd", "--scratch", str(tmp_path / "none"), expect=1)
    assert "cannot put its data into" in refused.err


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where scratch servers are put, which the server's user can reach; none outlives the test."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)
        for kept in kept_servers(Path(name)):
            remove_kept(kept)


def test_a_scratch_server_is_kept_listed_and_let_go(ready: Place, folder: Path) -> None:
    ready.run("backup", "odd")
    scratch = ("--scratch", str(folder))
    assert "None is kept" in ready.run("scratch", "list", *scratch).out

    told = ready.run_alone("prove", "odd", "--keep-hours", "0.5", *scratch)

    (kept,) = kept_servers(folder)
    assert str(kept) in told.err
    assert kept.password_file.read_text().strip().rpartition(":")[2] not in told.out + told.err
    (listed,) = ready.run("scratch", "list", *scratch, "--json").json["kept"]
    assert listed == kept.record() | {"running": True}
    assert kept.command in ready.run("scratch", "list", *scratch).out

    assert kept.name in ready.run("scratch", "stop", kept.name, *scratch).out
    assert list(folder.iterdir()) == []
    assert "is kept in" in ready.run("scratch", "stop", kept.name, *scratch, expect=3).err
    assert "less than or equal to 72" in ready.run("prove", "odd", "--keep-hours", "73", expect=2).err
