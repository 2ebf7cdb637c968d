"""Configuration files from the command line: archived, looked into, compared, put back; Airflow is nowhere."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Place

pytestmark = pytest.mark.slow

SECRET = "hunter2-and-more"


@pytest.fixture
def files(place: Place) -> Place:
    """A platform with a set of configuration files, initialised."""
    root = place.folder / "platform"
    (root / "k8s").mkdir(parents=True)
    (root / ".env").write_text(f"DB_PASSWORD={SECRET}\nWORKERS=4\n")
    (root / "k8s" / "web.yaml").write_text("spec: {replicas: 2}\n")
    with (place.folder / "platform.yaml").open("a") as file:
        file.write(
            f"  configuration:\n    - name: settings\n      root: {root}\n      paths: [.env, k8s/*.yaml, nginx.conf]\n"
        )
    place.run("init")
    return Place(place.folder, place.database, (*place.secrets, SECRET))


def test_a_set_is_backed_up_verified_and_a_second_time_nothing_has_changed(files: Place) -> None:
    first = files.run("backup", "settings")
    second = files.run("backup", "settings")

    assert "settings/daily/" in first.out
    assert "2 files" in first.out
    assert "Warning: nginx.conf: there is no such file below" in first.err
    assert "Nothing has changed since settings/daily/" in second.out
    assert files.run("verify", "settings", "--json").json["repositories"][0]["unsealed"]
    [snapshot] = files.run("list", "settings", "--json").json["snapshots"]
    assert (snapshot["kind"], snapshot["complete"]) == ("config", True)


def test_preflight_looks_at_configuration_too(files: Place) -> None:
    ready = files.run("preflight", "--json").json

    assert ready["ready"]
    assert any("nginx.conf" in remark for remark in ready["remarks"])
    (files.folder / "platform" / "k8s" / "x.yaml").symlink_to("/etc/passwd")

    assert "k8s/x.yaml is a symlink that leads out of the root" in files.run("preflight", expect=1).err


def test_an_archive_is_proven_and_the_report_says_so(files: Place) -> None:
    files.run("backup", "settings")

    told = files.run("prove", "settings")
    record = files.run("prove", "settings", "--json").json

    assert "2 files are as the source had them; every check passed." in told.out
    assert (record["proven"], record["checks"][0]["found"]) == (True, "2 files, all the same")
    report = next(files.local.glob("reports/*.md")).read_text()
    assert "2 configuration files" in report
    assert "PostgreSQL" not in report
    assert files.run("list", "settings", "--json").json["snapshots"][0]["proven"]


def test_a_change_is_told_without_secrets(files: Place) -> None:
    files.run("config", "archive", "settings")
    env = files.folder / "platform" / ".env"
    env.write_text(f"DB_PASSWORD={SECRET}2\nWORKERS=5\n")

    told = files.run("config", "diff", "settings").out
    archived = files.run("config", "archive", "settings", "--json").json

    lines = ["~ .env: 2 values", "    ~ DB_PASSWORD: (hidden) changed", "    ~ WORKERS: 4 → 5"]
    assert told.splitlines() == lines
    assert (archived["changed"], archived["lines"]) == (True, lines)
    older, newer = (s["id"] for s in files.run("list", "settings", "--json").json["snapshots"])
    assert files.run("config", "diff", older, newer, "--json").json["lines"] == lines
    assert "Nothing differs from settings/daily/" in files.run("config", "diff", "settings").out
    assert "Nothing has changed since" in files.run("config", "archive", "settings").out
    assert files.run("config", "archive", "settings", "--again", "--json").json["changed"]


def test_without_an_identity_only_names_are_told(files: Place) -> None:
    files.run("backup", "settings")
    (files.folder / "platform" / ".env").write_text("WORKERS=5\n")
    for identity in files.keyring.glob("*.identity"):
        identity.rename(files.folder / identity.name)

    told = files.run("config", "diff", "settings")

    assert told.out == "changed: .env\n"
    assert "no identity" in told.err


def test_an_archive_is_listed(files: Place) -> None:
    files.run("backup", "settings")

    entries = files.run("config", "ls", "settings", "--json").json["entries"]

    assert [(e["path"], e["what"]) for e in entries] == [(".env", "file"), ("k8s", "folder"), ("k8s/web.yaml", "file")]
    assert "k8s/web.yaml" in files.run("config", "ls", "settings", "k8s/*").out


def test_files_are_restored_into_a_folder_and_in_place(files: Place) -> None:
    files.run("backup", "settings")
    env = files.folder / "platform" / ".env"
    env.write_text("broken\n")

    files.run("config", "restore", "settings", "--to", "new", "--only", ".env")
    put_back = files.run("config", "restore", "settings", "--in-place", "--json").json

    assert (files.folder / "new" / ".env").read_text() == env.read_text() == f"DB_PASSWORD={SECRET}\nWORKERS=4\n"
    assert not (files.folder / "new" / "k8s").exists()
    assert (put_back["written"], put_back["unchanged"]) == ([".env"], ["k8s/web.yaml"])
    assert (env.parent / put_back["kept"][".env"]).read_text() == "broken\n"
    said = files.run("config", "restore", "settings", "--in-place").out
    assert "0 files written" in said


@pytest.mark.parametrize("where", [[], ["--to", "x", "--in-place"]], ids=["nowhere", "both"])
def test_where_to_restore_must_be_clear(files: Place, where: list[str]) -> None:
    files.run("backup", "settings")

    assert "Give either" in files.run("config", "restore", "settings", *where, expect=2).err


def test_a_restore_needs_nothing_of_airflow(files: Place) -> None:
    files.run_alone("backup", "settings")

    files.run_alone("config", "restore", "settings", "--to", "new")

    assert (files.folder / "new" / "k8s" / "web.yaml").exists()
