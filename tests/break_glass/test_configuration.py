"""restore.py gets configuration files back by itself, and lets no archive write anywhere else."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lifeboat.configuration.archive import ARTIFACT, MEDIA_TYPE
from lifeboat.configuration.archiving import archive_configuration
from lifeboat.keys import write_key
from lifeboat.snapshot import Kind
from tests.break_glass.alone import Stranger
from tests.configuration.conftest import (
    ESCROW,
    FILES,
    NOW,
    OPERATIONS,
    SIGNING,
    Place,
    place,
    tree,
)

__all__ = ["place"]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    for key in (OPERATIONS, OPERATIONS.recipient, ESCROW.recipient, SIGNING.signer):
        write_key(tmp_path / "keys", key)
    return tmp_path / "keys"


def archived(place: Place) -> str:
    return archive_configuration(place.vault(), place.source, began=NOW).snapshot.label


def test_everything_comes_back_and_single_files(place: Place, keys: Path, stranger: Stranger) -> None:
    (place.root / "k8s" / "now.yaml").symlink_to("web.yaml")
    place.write(os.fsdecode(b"k8s/caf\xe9.yaml"), "x")
    archived(place)
    near = place.folder / "near"

    stranger.run("extract", near, "configuration", "--keys", keys, "--to", "out")
    stranger.run("extract", near, "configuration", ".env", "k8s", "--keys", keys, "--to", "some")

    assert tree(stranger.folder / "out") == tree(place.root)
    assert set(FILES) - tree(stranger.folder / "some").keys() == {"docker-compose.yml", "monitoring/prometheus.yml"}


def test_show_says_how(place: Place, keys: Path, stranger: Stranger) -> None:
    archived(place)

    shown = stranger.run("show", place.folder / "near", "configuration", "--keys", keys).out.decode()

    assert "extract" in shown
    assert "--to FOLDER" in shown


def test_a_folder_that_exists_and_a_path_that_is_not_there_are_refused(
    place: Place, keys: Path, stranger: Stranger
) -> None:
    archived(place)
    near = place.folder / "near"
    (stranger.folder / "out").mkdir()

    stranger.run("extract", near, "configuration", "--keys", keys, "--to", "out", expect=1)
    stranger.run("extract", near, "configuration", "nginx.conf", "--keys", keys, "--to", "new", expect=1)

    assert stranger.files() == []
    assert not list(stranger.folder.glob("*new*"))


def test_an_altered_archive_leaves_nothing(place: Place, keys: Path, stranger: Stranger) -> None:
    label = archived(place)
    file = place.folder / "near" / "snapshots" / label / f"{ARTIFACT}.sealed"
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)

    stranger.run("extract", place.folder / "near", "configuration", "--keys", keys, "--to", "out", expect=1)

    assert sorted(path.name for path in stranger.folder.iterdir()) == ["restore.py"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../escaped"},
        {"name": "/tmp/lifeboat-escaped"},
        {"name": "a/../../escaped"},
        {"name": "a", "type": tarfile.SYMTYPE, "linkname": "/etc", "size": 0},
        {"name": "a", "type": tarfile.SYMTYPE, "linkname": "../escaped", "size": 0},
        {"name": "a", "type": tarfile.LNKTYPE, "linkname": "../escaped", "size": 0},
        {"name": "a", "type": tarfile.CHRTYPE, "size": 0},
    ],
    ids=["upwards", "absolute", "upwards from inside", "symlink", "relative symlink", "hard link", "device"],
)
def test_a_hostile_archive_writes_nothing_outside(
    place: Place, keys: Path, stranger: Stranger, changes: dict[str, Any]
) -> None:
    info = tarfile.TarInfo()
    info.size, info.pax_headers = 1, {"comment": f"sha256 {hashlib.sha256(b'x').hexdigest()}"}
    for key, value in changes.items():
        setattr(info, key, value)
    body = b"x".ljust(512, b"\0") if info.isreg() else b""
    writer = place.vault().begin("configuration", Kind.CONFIG, began=NOW)
    writer(ARTIFACT, [info.tobuf(tarfile.PAX_FORMAT) + body + bytes(1024)], media_type=MEDIA_TYPE)
    writer.commit({"files": 1})

    # An absolute name is taken for one inside, as `tar` does; all else is refused.
    inside = changes["name"].startswith("/")
    arguments = ("extract", place.folder / "near", "configuration", "--keys", keys, "--to", "out")
    stranger.run(*arguments, expect=0 if inside else 1)

    assert not Path("/tmp/lifeboat-escaped").exists()
    assert not list(place.folder.rglob("escaped"))
    assert sorted(path.name for path in stranger.folder.iterdir()) == (["out"] if inside else []) + ["restore.py"]


def test_a_snapshot_of_anything_else_is_refused(place: Place, keys: Path, stranger: Stranger) -> None:
    writer = place.vault().begin("orders", Kind.POSTGRES, began=NOW)
    writer("dump", [b"x"], media_type="text/plain")
    writer.commit({})

    ended = stranger.run("extract", place.folder / "near", "orders", "--keys", keys, "--to", "out", expect=1)

    assert "is no snapshot of configuration files" in ended.err
