"""Trees on the command line: backed up, looked into, restored and proven, without Airflow and without a database."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from lifeboat.settings import load_platform
from tests.cli.conftest import Place, damage
from tests.files.vaults import fill, picture


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path, "", ("lifeboat:identity", "lifeboat:signing"))
    for name in ("tree", "first", "second", "scratch"):
        (tmp_path / name).mkdir()
    fill(tmp_path / "tree")
    (tmp_path / "platform.yaml").write_text(
        f"""\
platform: files
recipients: [operations, escrow]
state: {tmp_path}/state
repositories:
  - name: first
    url: file://{tmp_path}/first
  - name: second
    url: file://{tmp_path}/second
sources:
  files:
    - name: uploads
      path: {tmp_path}/tree
      exclude: ["*.tmp", cache/]
"""
    )
    keys = {"conn_type": "generic", "extra": {"keyring": str(made.keyring)}}
    (tmp_path / ".env").write_text(f"AIRFLOW_CONN_LIFEBOAT_KEYS={json.dumps(keys)}\n")
    made.run("init")
    return made


def test_a_tree_is_backed_up_listed_verified_and_restored(place: Place) -> None:
    place.run("preflight")
    backed_up = place.run("backup", "uploads")
    assert "311 files of" in backed_up.out
    assert "is in first, second" in backed_up.out
    [listed] = place.run("list", "--json").json["snapshots"]
    assert (listed["kind"], listed["repositories"], listed["complete"]) == ("files", ["first", "second"], True)
    assert place.run("verify", "uploads").out.count("whole (every byte read and unsealed") == 2
    assert "packs" in place.run("show", "uploads").out

    restored = place.run_alone("files", "restore", "uploads", "--to", "restored", "--json").json

    assert (restored["files"], restored["faults"]) == (311, {})
    assert picture(place.folder / "restored") == picture(place.folder / "tree")


def test_chosen_files_are_found_and_restored_over_what_is_there(place: Place) -> None:
    place.run("backup", "uploads")
    (place.folder / "tree" / "photo.jpg").unlink()

    found = place.run("files", "find", "uploads", "*.jpg", "--json").json["entries"]
    place.run("files", "restore", "uploads", "/photo.jpg", "--to", "tree", "--into-existing")

    assert [entry["path"] for entry in found] == ["photo.jpg"]
    assert (place.folder / "tree" / "photo.jpg").stat().st_size == 300_000
    listed = place.run("files", "ls", "uploads", "invoices").out.splitlines()
    assert len(listed) == 302
    assert listed[0].startswith("d ")


def test_a_damaged_index_is_passed_over_and_the_end_says_so(place: Place) -> None:
    place.run("backup", "uploads")
    damage(next(place.folder.glob("first/snapshots/uploads/daily/*/index.sealed")), 200)

    restored = place.run("files", "restore", "uploads", "--to", "restored", "--json", expect=6)

    assert list(restored.json["damaged"]) == ["first"]
    assert "the copy in first is damaged" in restored.err
    assert picture(place.folder / "restored") == picture(place.folder / "tree")


def test_two_snapshots_are_compared(place: Place) -> None:
    place.run("backup", "uploads")
    [first] = place.run("list", "--json").json["snapshots"]
    time.sleep(1.05)  # ids have the second they began in
    (place.folder / "tree" / "new.txt").write_bytes(b"new")
    (place.folder / "tree" / "secret").chmod(0o640)
    place.run("backup", "uploads")

    lines = place.run("files", "diff", first["id"], "uploads").out.splitlines()
    records = place.run("files", "diff", first["id"], "uploads", "--json").json["differences"]

    assert set(lines) == {"+ new.txt", "~ secret", "~ ."}
    assert {(r["path"], r["change"]) for r in records} >= {("new.txt", "added"), ("secret", "properties")}


def test_a_vanished_tree_is_refused_with_the_way_out(place: Place) -> None:
    place.run("backup", "uploads")
    Path(place.folder / "tree").rename(place.folder / "away")
    (place.folder / "tree").mkdir()

    preflight = place.run("preflight", expect=75)
    refused = place.run("backup", "uploads", expect=75)
    place.run("backup", "uploads", "--i-know-these-files-are-gone")

    assert "is empty; the last snapshot has 311 files" in preflight.err
    assert "--i-know-these-files-are-gone" in refused.err


def test_a_tree_is_proven(place: Place) -> None:
    place.run("backup", "uploads")

    proven = place.run("prove", "uploads", "--scratch", str(place.folder / "scratch"))

    assert "is proven: restored from first" in proven.out
    assert "311 files" in proven.out
    assert place.run("list", "--json").json["snapshots"][0]["proven"] is True


def test_a_repository_is_filled_and_keys_checked(place: Place) -> None:
    place.run("backup", "uploads")
    for path in sorted((place.folder / "second" / "packs").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()

    place.run("replicate", "uploads")

    place.run("verify", "uploads", "--repository", "second")
    place.run("keys", "check")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("backup", "uploads", "--tables", "a"), "is no database"),
        (("files", "restore", "uploads", "--to", "tree"), "exists already"),
        (("files", "restore", "uploads", "../x", "--to", "new"), "fits nothing"),
        (("prove", "uploads", "--keep", "--connection", "x"), "x"),
    ],
    ids=["tables", "target", "pattern", "server"],
)
def test_what_cannot_be_meant_is_refused(place: Place, arguments: tuple[str, ...], said: str) -> None:
    place.run("backup", "uploads")

    assert said in place.run(*arguments, expect=3).err


def test_a_pattern_that_fits_nothing_is_a_wrong_setting(place: Place) -> None:
    file = place.folder / "platform.yaml"
    file.write_text(file.read_text().replace('"*.tmp"', '"../up"'))

    refused = place.run("preflight", expect=3)

    assert "sources.files[0].exclude[0]" in refused.err
    assert "fits nothing" in refused.err


def test_a_plain_mirror_is_kept_up_to_date(place: Place) -> None:
    file = place.folder / "platform.yaml"
    file.write_text(file.read_text() + f"      mirror: {{plain: 'file://{place.folder}/mirror', grace_days: 3}}\n")
    place.run("backup", "uploads")

    said = place.run("files", "mirror", "uploads").out

    assert "which is not encrypted: 311 files put" in said
    mirrored = place.folder / "mirror" / "current" / "invoices" / "2026" / "0007.txt"
    assert mirrored.read_bytes() == (place.folder / "tree" / "invoices" / "2026" / "0007.txt").read_bytes()


def test_a_mirror_within_the_vault_is_refused(place: Place) -> None:
    file = place.folder / "platform.yaml"
    file.write_text(file.read_text() + f"      mirror: {{plain: 'file://{place.folder}/first/mirror'}}\n")
    place.run("backup", "uploads")

    assert "one within the other" in place.run("files", "mirror", "uploads", expect=3).err


def test_a_storage_class_that_is_slower_than_the_objective_is_remarked(tmp_path: Path) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text(
        "platform: x\nrecipients: [a, b]\nobjectives: {rto_hours: 4}\nrepositories:\n"
        "  - {name: s3, url: 's3://bucket/x', connection: c, storage_class: {weekly: STANDARD_IA, monthly: GLACIER}}\n"
        "sources:\n  files:\n    - {name: uploads, path: /app/uploads}\n"
    )

    [remark] = load_platform(file).remarks()

    assert "GLACIER take 3 to 5 hours to be thawed, and the platform may be down for 4 hours" in remark
    assert "platform.yaml:5" in remark
