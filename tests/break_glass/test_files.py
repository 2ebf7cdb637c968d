"""Files come back without Lifeboat."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lifeboat.custody import rewrap
from lifeboat.keys import CLASSIC, Identity, write_key
from lifeboat.packs import pack_key
from lifeboat.repositories.local import LocalDiskRepository
from tests.break_glass.alone import Stranger
from tests.files.vaults import OPERATIONS, SIGNING, Tree, fill, picture


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path, LocalDiskRepository(tmp_path / "repository", "local"))
    fill(made.root)
    write_key(tmp_path / "keys", OPERATIONS)
    write_key(tmp_path / "keys", SIGNING.signer)
    return made


def test_a_tree_is_extracted_as_it_was(tree: Tree, stranger: Stranger) -> None:
    tree.back_up()

    stranger.run("extract", tree.folder / "repository", "uploads", "--keys", tree.folder / "keys", "--to", "out")

    assert picture(stranger.folder / "out") == picture(tree.root)


def test_what_is_at_its_extremes_is_extracted_too(tree: Tree, stranger: Stranger) -> None:
    for path in tree.root.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    os.utime(tree.write("dated"), ns=(9_300_000_000 * 10**9, 9_300_000_000 * 10**9))
    os.setxattr(tree.write("odd"), b"user.\xff", b"value")
    os.mkfifo(tree.root / "pipe")
    (tree.root / "link").symlink_to("nowhere")
    for name in ("pipe", "link"):
        os.link(tree.root / name, tree.root / f"other {name}", follow_symlinks=False)
    with tree.write("sparse").open("wb") as file:
        file.truncate(2**43)  # no file system of the tests has fewer
    tree.back_up()

    stranger.run("files", tree.folder / "repository", "uploads", "--keys", tree.folder / "keys")
    stranger.run("extract", tree.folder / "repository", "uploads", "--keys", tree.folder / "keys", "--to", "out")

    out = stranger.folder / "out"
    assert (out / "dated").stat().st_mtime_ns == (tree.root / "dated").stat().st_mtime_ns
    assert os.getxattr(out / "odd", b"user.\xff") == b"value"
    assert (out / "sparse").stat().st_size == 2**43
    for name in ("pipe", "link"):
        assert (out / name).lstat().st_ino == (out / f"other {name}").lstat().st_ino


def test_chosen_files_are_listed_and_extracted(tree: Tree, stranger: Stranger) -> None:
    tree.back_up()
    place = (
        tree.folder / "repository",
        "uploads",
        "invoices/2026/0007.txt",
        "photo.jpg",
        "--keys",
        tree.folder / "keys",
    )

    listed = stranger.run("files", *place)
    stranger.run("extract", *place, "--to", "out")

    assert [line.split()[-1] for line in listed.out.decode().splitlines()] == ["invoices/2026/0007.txt", "photo.jpg"]
    found = sorted(
        str(p.relative_to(stranger.folder / "out")) for p in (stranger.folder / "out").rglob("*") if p.is_file()
    )
    assert found == ["invoices/2026/0007.txt", "photo.jpg"]
    assert (stranger.folder / "out" / "photo.jpg").read_bytes() == (tree.root / "photo.jpg").read_bytes()


def test_packs_are_verified_and_lost_ones_named_with_their_files(tree: Tree, stranger: Stranger) -> None:
    snapshot = tree.snapshot()
    place = (tree.folder / "repository", "uploads", "--keys", tree.folder / "keys")
    assert stranger.run("verify", *place).out.count(b"whole") == 1 + len(snapshot.manifest.packs)
    large = max(snapshot.manifest.packs, key=lambda pack: pack.sealed_size)
    file = tree.folder / "repository" / pack_key("uploads", large.id)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)

    verified = stranger.run("verify", *place, expect=1)
    extracted = stranger.run("extract", *place, "--to", "out", expect=1)

    assert "it costs large.bin" in verified.err
    assert "large.bin: some of its contents are lost" in extracted.err
    whole = picture(tree.root)
    del whole[b"/large.bin"]
    assert picture(stranger.folder / "out") == whole


def test_rewrapped_packs_open(tree: Tree, stranger: Stranger) -> None:
    snapshot = tree.snapshot()
    later = Identity.generate("later", CLASSIC)
    rewrap(tree.vault, [snapshot], [later.recipient])
    (tree.folder / "keys" / "operations.identity").unlink()
    write_key(tree.folder / "keys", later)

    stranger.run("extract", tree.folder / "repository", "uploads", "--keys", tree.folder / "keys", "--to", "out")

    assert picture(stranger.folder / "out") == picture(tree.root)


def test_nothing_is_overwritten(tree: Tree, stranger: Stranger) -> None:
    tree.back_up()
    (stranger.folder / "out").mkdir()

    place = (tree.folder / "repository", "uploads", "--keys", tree.folder / "keys")
    refused = stranger.run("extract", *place, "--to", "out", expect=1)

    assert "exists already" in refused.err
