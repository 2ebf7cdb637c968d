"""A plain mirror follows the tree, says what it is, and forgets slowly."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from lifeboat.files.mirror import README_KEY, Mirror, mirror_tree, mirrored_key
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.repositories.memory import MemoryRepository
from tests.files.vaults import NOW, Tree, fill


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.write("a b/ä.txt", b"one")
    made.write("plain.txt", b"two")
    made.back_up()
    return made


@pytest.fixture
def place() -> MemoryRepository:
    return MemoryRepository("mirror")


def contents(repository: MemoryRepository) -> dict[str, bytes]:
    return {i.key: b"".join(repository.get(i.key)) for i in repository.list("") if i.key != README_KEY}


def test_files_are_there_in_the_clear_and_marked_so(tree: Tree, place: MemoryRepository) -> None:
    done = mirror_tree(tree.source, Mirror(place), now=NOW)

    assert done.put == 2
    assert contents(place) == {"current/a=20b/=C3=A4.txt": b"one", "current/plain.txt": b"two"}
    readme = b"".join(place.get(README_KEY))
    assert b"**not encrypted**" in readme
    assert b"uploads" in readme


def test_only_what_has_changed_is_put_again(tree: Tree, place: MemoryRepository) -> None:
    mirror_tree(tree.source, Mirror(place), now=NOW)
    tree.write("plain.txt", b"changed")
    tree.back_up()

    done = mirror_tree(tree.source, Mirror(place), now=NOW)

    assert (done.put, done.alike) == (1, 1)
    assert contents(place)["current/plain.txt"] == b"changed"


def test_what_has_vanished_goes_after_the_grace_period(tree: Tree, place: MemoryRepository) -> None:
    mirror_tree(tree.source, Mirror(place), now=NOW)
    (tree.root / "plain.txt").unlink()
    tree.back_up()

    assert mirror_tree(tree.source, Mirror(place), now=NOW + timedelta(days=1)).removed == 0
    assert mirror_tree(tree.source, Mirror(place), now=NOW + timedelta(days=7)).removed == 0
    assert "current/plain.txt" in contents(place)
    assert mirror_tree(tree.source, Mirror(place), now=NOW + timedelta(days=9)).removed == 1
    assert "current/plain.txt" not in contents(place)


def test_a_day_has_a_folder_of_its_own_until_the_grace_period_ends(tree: Tree, place: MemoryRepository) -> None:
    dated = Mirror(place, dated=True, grace=timedelta(days=2))
    mirror_tree(tree.source, dated, now=NOW)
    tree.write("plain.txt", b"changed")
    tree.back_up()

    done = mirror_tree(tree.source, dated, now=NOW + timedelta(days=1))

    assert (done.put, done.copied) == (1, 1)
    found = contents(place)
    assert (found["2026-11-23/plain.txt"], found["2026-11-24/plain.txt"]) == (b"two", b"changed")
    mirror_tree(tree.source, dated, now=NOW + timedelta(days=4))
    assert {key.partition("/")[0] for key in contents(place)} == {"2026-11-27"}


def test_a_lost_memory_puts_everything_again(tree: Tree, place: MemoryRepository, tmp_path: Path) -> None:
    mirror_tree(tree.source, Mirror(place), now=NOW)
    (tmp_path / "state" / "files" / "uploads.mirror.sqlite").unlink()

    assert mirror_tree(tree.source, Mirror(place), now=NOW).put == 2


def test_everything_in_a_tree_that_is_a_file_is_mirrored(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    fill(tree.root)
    tree.back_up()
    repository = LocalDiskRepository(tmp_path / "mirror", "mirror")

    done = mirror_tree(tree.source, Mirror(repository), now=NOW)

    assert (done.put, done.left_out) == (311, [])
    for path in tree.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            key = mirrored_key("current", bytes(path.relative_to(tree.root)))
            assert (tmp_path / "mirror" / key).read_bytes() == path.read_bytes()


def test_a_file_of_any_date_is_mirrored_once_and_one_of_nothing_but_holes_is_named(
    tree: Tree, place: MemoryRepository
) -> None:
    os.utime(tree.write("dated"), ns=(9_300_000_000 * 10**9, 9_300_000_000 * 10**9))
    with tree.write("hole").open("wb") as file:
        file.truncate(2**42)
    tree.back_up()

    first, second = (mirror_tree(tree.source, Mirror(place), now=NOW) for _ in range(2))

    assert [text for text in first.left_out if "hole" in text] == [
        "hole: nearly all of it are holes, which a mirror cannot have"
    ]
    assert second.put == 0
    assert second.alike == first.put
