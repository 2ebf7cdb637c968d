"""Restoring files: never outside the target, each whole or not at all, and no more fetched than must be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lifeboat.cli.exit_codes import BROKEN, FAILED, exit_code
from lifeboat.errors import RestoreFailed, SealBroken, SettingsError
from lifeboat.files.compare import differences, entries_in, find_entries
from lifeboat.files.entries import read_entry
from lifeboat.files.restore import TreeRestore, restore_tree
from lifeboat.packs import pack_key
from lifeboat.repositories.memory import MemoryRepository
from tests.files.test_vault import damage
from tests.files.vaults import Tree, fill, picture


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    fill(made.root)
    return made


def over(tree: Tree, target: Path, **options: object) -> TreeRestore:
    return restore_tree(tree.vault, tree.vault.find("uploads"), target, into_existing=True, **options)  # type: ignore[arg-type]


def test_over_what_is_there_only_what_differs_is_fetched(tree: Tree) -> None:
    tree.back_up()
    before = picture(tree.root)
    (tree.root / "invoices" / "2026" / "0001.txt").write_bytes(b"spoilt")
    (tree.root / "photo.jpg").unlink()
    (tree.root / "script.sh").chmod(0o600)
    (tree.root / "dangling").unlink()
    (tree.root / "dangling").symlink_to("elsewhere")
    (tree.root / "extra").write_bytes(b"kept")

    done = over(tree, tree.root)

    assert not done.faults
    assert done.fetched < 310_000
    assert (tree.root / "extra").read_bytes() == b"kept"
    (tree.root / "extra").unlink()
    os.utime(tree.root, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
    assert picture(tree.root) == before


def test_chosen_files_are_restored_with_the_folders_they_are_in(tree: Tree, tmp_path: Path) -> None:
    tree.back_up()

    restored = tree.restore(patterns=["0001.txt", "/invoices/2026/000[2-3].txt", "empty folder"])

    found = sorted(str(path.relative_to(restored)) for path in restored.rglob("*"))
    assert found == ["empty folder", "invoices", "invoices/2026", *(f"invoices/2026/000{n}.txt" for n in (1, 2, 3))]
    assert (restored / "invoices" / "2026").stat().st_mtime_ns == 1_700_000_000_123_456_789


def test_a_chosen_folder_means_everything_in_it(tree: Tree) -> None:
    tree.back_up()

    restored = tree.restore(patterns=["invoices"])

    assert len(list((restored / "invoices" / "2026").iterdir())) == 300
    assert not (restored / "photo.jpg").exists()


def test_restoring_into_a_folder_leaves_its_own_properties_alone(tree: Tree, tmp_path: Path) -> None:
    tree.back_up()
    target = tmp_path / "shared"
    target.mkdir(mode=0o711)
    target.chmod(0o711)

    over(tree, target, patterns=["photo.jpg"])

    assert target.stat().st_mode & 0o7777 == 0o711


def test_what_fits_nothing_is_said_and_leaves_nothing(tree: Tree, tmp_path: Path) -> None:
    tree.back_up()

    with pytest.raises(RestoreFailed, match=r"Nothing in uploads/daily/.* fits no\.such"):
        tree.restore(patterns=["no.such"])

    assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize("there", ["a file", "a full folder", "a symlink"])
def test_a_new_target_must_be_new(tree: Tree, tmp_path: Path, there: str) -> None:
    tree.back_up()
    target = tmp_path / "restored"
    if there == "a file":
        target.write_bytes(b"")
    elif there == "a full folder":
        target.mkdir()
        (target / "something").write_bytes(b"")
    else:
        target.symlink_to(tmp_path)

    with pytest.raises(SettingsError, match="exists already"):
        tree.restore()


@pytest.mark.parametrize("planted", ["a folder", "a file", "the folder of a file"])
def test_a_planted_symbolic_link_leads_nowhere(tree: Tree, tmp_path: Path, planted: str) -> None:
    tree.back_up()
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "victim").write_bytes(b"untouched")
    if planted == "a folder":
        (target / "invoices").symlink_to(outside)
    elif planted == "a file":
        (target / "photo.jpg").symlink_to(outside / "victim")
    else:
        (target / "invoices").mkdir()
        (target / "invoices" / "2026").symlink_to(outside)

    done = over(tree, target)

    assert sorted(path.name for path in outside.iterdir()) == ["victim"]
    assert (outside / "victim").read_bytes() == b"untouched"
    if planted == "a file":
        assert not (target / "photo.jpg").is_symlink()
        assert not done.faults
    else:
        assert len(done.faults) >= 300


@pytest.mark.parametrize("path", ["../evil", "a/../../evil", "/etc/evil", "a//b", ".", "a/.", "a\0b"])
def test_an_index_that_leads_out_of_the_tree_is_refused(path: str) -> None:
    record = {"path": path, "type": "file", "mode": 0o600, "uid": 0, "gid": 0, "mtime": 0, "size": 0, "pieces": []}

    with pytest.raises(SealBroken, match="leads out of the tree"):
        read_entry(record)


def test_a_lost_pack_costs_its_files_and_no_others(tmp_path: Path) -> None:
    repository = MemoryRepository("primary")
    tree = Tree(tmp_path, repository)
    fill(tree.root)
    snapshot = tree.snapshot()
    large = max(snapshot.manifest.packs, key=lambda pack: pack.sealed_size)
    damage(repository, pack_key("uploads", large.id))

    done = restore_tree(tree.vault, snapshot, tmp_path / "restored")

    assert list(done.faults) == ["large.bin"]
    assert not (tmp_path / "restored" / "large.bin").exists()
    whole = picture(tree.root)
    del whole[b"/large.bin"]
    assert picture(tmp_path / "restored") == whole
    with pytest.raises(RestoreFailed, match=r"1 of \d+ things could not be restored") as raised:
        done.raise_faults()
    assert exit_code(raised.value) == BROKEN


def test_contents_that_no_repository_gives_today_are_not_called_damaged(tree: Tree, tmp_path: Path) -> None:
    done = TreeRestore(tmp_path, files=1, faults={"one": "No answer."}, lost=["one"])

    with pytest.raises(RestoreFailed) as raised:
        done.raise_faults()

    assert exit_code(raised.value) == FAILED


def test_a_restore_that_fails_leaves_no_folder(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tree.snapshot()

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("lifeboat.files.placing.Place.make_other", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        tree.restore(snapshot)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "tree"]


def test_a_folder_where_a_file_belongs_is_left_and_said(tree: Tree, tmp_path: Path) -> None:
    tree.back_up()
    target = tmp_path / "target"
    (target / "photo.jpg").mkdir(parents=True)

    done = over(tree, target)

    assert list(done.faults) == ["photo.jpg"]
    assert [path for path in target.iterdir() if path.name.startswith(".lifeboat")] == []


# ---- looking into snapshots -----------------------------------------------------------------------------------------


def test_a_snapshot_is_listed_and_searched(tree: Tree) -> None:
    snapshot = tree.snapshot()

    in_folder = [entry.name for entry in entries_in(tree.vault, snapshot, "invoices/2026/")]
    found = [entry.name for entry in find_entries(tree.vault, snapshot, ["*.jpg", "/invoices/*/029?.txt"])]

    assert (in_folder[:2], len(in_folder)) == (["invoices/2026", "invoices/2026/0000.txt"], 301)
    assert found == [*(f"invoices/2026/029{n}.txt" for n in range(10)), "photo.jpg"]
    assert "not utf-8 \\xff\\xfe.txt" in [entry.name for entry in entries_in(tree.vault, snapshot)]
    assert "umlaut ä\\n new line" in [entry.name for entry in entries_in(tree.vault, snapshot)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: (root / "new").write_bytes(b""), [("added", "new")]),
        (lambda root: (root / "photo.jpg").unlink(), [("removed", "photo.jpg")]),
        (lambda root: (root / "secret").write_bytes(b"other text...."), [("changed", "secret")]),
        (lambda root: (root / "secret").chmod(0o640), [("properties", "secret")]),
        (lambda root: (root / "empty").unlink() or (root / "empty").mkdir(), [("changed", "empty")]),
        (lambda root: (root / "link").unlink() or (root / "link").symlink_to("x"), [("changed", "link")]),
        (Path.exists, []),
    ],
    ids=["added", "removed", "contents", "mode", "type", "target", "nothing"],
)
def test_two_snapshots_are_compared(
    tree: Tree, change: Callable[[Path], object], expected: list[tuple[str, str]]
) -> None:
    older = tree.snapshot()
    change(tree.root)
    os.utime(tree.root, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))

    newer = tree.snapshot()

    found = [(difference.change.value, difference.name) for difference in differences(tree.vault, older, newer)]
    assert found == expected
