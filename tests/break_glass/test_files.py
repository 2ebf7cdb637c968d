"""Files come back without Lifeboat."""

from __future__ import annotations

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
