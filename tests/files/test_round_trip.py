"""A tree comes back as it was, whatever is in it and wherever it was kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.storage import S3Server
from lifeboat.files.restore import restore_tree
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.repositories.s3 import S3Repository
from tests.files.vaults import BLIND, KEYRING, Tree, fill, picture, vault_of
from tests.fixtures_storage import BUCKET, s3_client_of, s3_store

__all__ = ["s3_store"]


@pytest.fixture(params=["memory", "local", "s3"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Repository]:
    if request.param == "memory":
        yield MemoryRepository("primary")
    elif request.param == "local":
        yield LocalDiskRepository(tmp_path / "repository", "primary")
    else:
        server: S3Server = request.getfixturevalue("s3_store")
        yield S3Repository(s3_client_of(server), BUCKET, f"files/{tmp_path.name}", "primary")


def test_everything_in_a_tree_comes_back_as_it_was(tmp_path: Path, repository: Repository) -> None:
    tree = Tree(tmp_path, repository)
    fill(tree.root)

    outcome = tree.back_up()
    restored = tree.restore()

    assert picture(restored) == picture(tree.root)
    facts = outcome.snapshot.manifest.facts
    assert (facts["files"], facts["partial"], facts["unreadable"]) == (311, False, 0)
    assert outcome.lacking == {}
    names = [(restored / name).stat().st_ino for name in ("one name", "another name")]
    assert names[0] == names[1]
    assert (restored / "sparse").stat().st_blocks * 512 < 1_000_000


def test_small_files_are_few_objects(tmp_path: Path) -> None:
    repository = MemoryRepository("primary")
    tree = Tree(tmp_path, repository)
    for number in range(2000):
        tree.write(f"{number % 100}/{number}.txt", b"%d" % number)

    tree.back_up()

    assert len(list(repository.list("packs/"))) <= 2


def test_an_unchanged_tree_is_not_read_again(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    fill(tree.root)
    settle(tree)
    first = tree.snapshot()

    second = tree.snapshot()

    assert second.manifest.facts["read_files"] == 0
    assert second.manifest.facts["stored_packs"] == 0
    assert {pack.id for pack in second.manifest.packs} == {pack.id for pack in first.manifest.packs}
    assert picture(tree.restore()) == picture(tree.root)


def test_a_change_costs_only_what_has_changed(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    fill(tree.root)
    settle(tree)
    first = tree.snapshot()
    before = picture(tree.root)
    tree.write("invoices/2026/0007.txt", b"changed")
    (tree.root / "photo.jpg").unlink()
    tree.write("new/file", b"new")

    second = tree.snapshot()

    assert second.manifest.facts["read_files"] == 2
    assert second.manifest.facts["stored_size"] < 1000
    assert picture(tree.restore(second, "second")) == picture(tree.root)
    assert picture(tree.restore(first, "first")) == before


def test_copies_and_moved_files_are_stored_once(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    data, large = os.urandom(500_000), os.urandom(20_000_000)
    tree.write("a", data)
    tree.write("large", large)
    tree.back_up()
    tree.write("b", data)
    (tree.root / "a").rename(tree.root / "c")
    (tree.root / "large").rename(tree.root / "moved")

    second = tree.snapshot()

    assert second.manifest.facts["stored_packs"] == 0
    assert (tree.restore() / "moved").read_bytes() == large


def test_copies_within_one_run_are_stored_once(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    data = os.urandom(100_000)
    for number in range(50):
        tree.write(f"{number}/copy", data)

    assert tree.snapshot().manifest.facts["stored_size"] < 2_200_000  # batches side by side may each have it


def test_a_lost_state_costs_reading_and_stores_nothing_twice(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    fill(tree.root)
    tree.back_up()
    for file in (tmp_path / "state" / "files").iterdir():
        file.unlink()

    second = tree.snapshot()

    assert second.manifest.facts["read_files"] > 300
    assert second.manifest.facts["stored_packs"] == 0
    assert picture(tree.restore()) == picture(tree.root)


def test_a_host_without_identities_backs_up_and_another_restores(tmp_path: Path) -> None:
    repository = MemoryRepository("primary")
    blind = Tree(tmp_path, repository, keyring=BLIND)
    fill(blind.root)
    blind.back_up()
    (tmp_path / "state" / "files" / "uploads.sqlite").write_bytes(b"damaged")

    blind.back_up()

    vault = vault_of(repository, keyring=KEYRING)
    report = restore_tree(vault, vault.find("uploads"), tmp_path / "restored")
    assert not report.faults
    assert picture(tmp_path / "restored") == picture(blind.root)


def test_what_is_excluded_is_not_there(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for path in ("keep", "a.tmp", "deep/b.tmp", "cache/x/y", "deep/cache/z", "logs/today", "deep/logs/kept"):
        tree.write(path)
    tree.source = type(tree.source)(
        "uploads", str(tree.root), tmp_path / "state", exclude=("*.tmp", "cache/", "/logs/**")
    )
    tree.back_up()

    restored = tree.restore()

    files = {str(path.relative_to(restored)) for path in restored.rglob("*") if path.is_file()}
    assert files == {"keep", "deep/logs/kept"}


def settle(tree: Tree) -> None:
    """Let the clock of the file system tick, so that no file looks as if it might be changing still."""
    import time

    time.sleep(0.06)
    assert tree.root.exists()
