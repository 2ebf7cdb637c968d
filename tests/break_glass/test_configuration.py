"""restore.py gets configuration files back by itself, and lets no archive write anywhere else."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

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


def test_it_goes_where_it_is_told_also_above(place: Place, keys: Path, stranger: Stranger) -> None:
    archived(place)

    stranger.run("extract", place.folder / "near", "configuration", "--keys", keys, "--to", "../above")

    assert tree(stranger.folder.parent / "above") == tree(place.root)


FILE, LINK = tarfile.REGTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped", FILE, "")],
        [("a/../../escaped", FILE, "")],
        [("a", LINK, "/etc")],
        [("a", LINK, "../escaped")],
        [("a", LINK, ".."), ("a/escaped", FILE, "")],
        [("a", LINK, "b/../c"), ("b", LINK, ".")],
        [("a", LINK, "a"), ("a/escaped", FILE, "")],
        [("a", FILE, ""), ("a/b/c", FILE, "")],
        [("a", FILE, ""), ("a", FILE, "")],
        [("a", tarfile.LNKTYPE, "../escaped")],
        [("a", tarfile.CHRTYPE, "")],
    ],
    ids=[
        "upwards", "upwards from inside", "symlink", "relative symlink", "through a symlink",
        "by a symlink that comes later", "through a circle", "below a file", "twice", "hard link", "device",
    ],
)  # fmt: skip
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    place: Place, keys: Path, stranger: Stranger, members: list[tuple[str, bytes, str]]
) -> None:
    write_members(place, members)

    ended = stranger.run("extract", place.folder / "near", "configuration", "--keys", keys, "--to", "out", expect=1)

    assert "REFUSED" in ended.err
    assert "Traceback" not in ended.err
    assert not list(place.folder.rglob("escaped"))
    assert sorted(path.name for path in stranger.folder.iterdir()) == ["restore.py"]


def test_an_absolute_name_is_taken_for_one_inside_as_tar_does(place: Place, keys: Path, stranger: Stranger) -> None:
    write_members(place, [("/tmp/lifeboat-escaped", FILE, "")])

    stranger.run("extract", place.folder / "near", "configuration", "--keys", keys, "--to", "out")

    assert not Path("/tmp/lifeboat-escaped").exists()
    assert (stranger.folder / "out" / "tmp" / "lifeboat-escaped").read_bytes() == b"x"


def write_members(place: Place, members: list[tuple[str, bytes, str]]) -> None:
    """A snapshot whose archive has these members, by name, type and what they link to; files hold one byte."""
    archive = bytearray()
    for name, kind, link in members:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        if info.isreg():
            info.size, info.pax_headers = 1, {"comment": f"sha256 {hashlib.sha256(b'x').hexdigest()}"}
        archive += info.tobuf(tarfile.PAX_FORMAT) + (b"x".ljust(512, b"\0") if info.isreg() else b"")
    writer = place.vault().begin("configuration", Kind.CONFIG, began=NOW)
    writer(ARTIFACT, [bytes(archive) + bytes(1024)], media_type=MEDIA_TYPE)
    writer.commit({"files": 1})


def test_a_snapshot_of_anything_else_is_refused(place: Place, keys: Path, stranger: Stranger) -> None:
    writer = place.vault().begin("orders", Kind.POSTGRES, began=NOW)
    writer("dump", [b"x"], media_type="text/plain")
    writer.commit({})

    ended = stranger.run("extract", place.folder / "near", "orders", "--keys", keys, "--to", "out", expect=1)

    assert "is no snapshot of configuration files" in ended.err
