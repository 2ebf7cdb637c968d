"""Snapshots of files are proven by restoring them, and what was found is attested and told."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lifeboat.attestation import Verdict, attestations_of, is_proven
from lifeboat.configuration import proving
from lifeboat.errors import NotProven
from lifeboat.files import proof as files_proof
from lifeboat.files.proof import PREFIX, prove_tree, remove_scratch_folders
from lifeboat.packs import pack_key
from lifeboat.report import html_report, store_report
from lifeboat.repositories.memory import MemoryRepository
from tests.files.test_vault import damage
from tests.files.vaults import Tree, fill


@pytest.fixture
def primary() -> MemoryRepository:
    return MemoryRepository("primary")


@pytest.fixture
def local() -> MemoryRepository:
    return MemoryRepository("local")


@pytest.fixture
def tree(tmp_path: Path, primary: MemoryRepository, local: MemoryRepository) -> Tree:
    made = Tree(tmp_path, primary, local)
    fill(made.root)
    return made


def test_a_tree_is_proven_attested_and_reported(tree: Tree, tmp_path: Path) -> None:
    snapshot = tree.snapshot()

    proof = prove_tree(tree.vault, snapshot, tree=str(tree.root), base=tmp_path)

    assert (proof.proven, proof.reason, proof.repository) == (True, "", "primary")
    assert proof.counts["files"] == 311
    assert [check.name for check in proof.checks] == ["contents and properties", "sampled files of the source"]
    assert set(proof.seconds) == {"restore", "compare", "spot check"}
    assert is_proven(attestations_of(tree.vault, snapshot))
    assert not list(tmp_path.glob(f"{PREFIX}*"))
    page = html_report([proof], platform="test", made=datetime.now(UTC))
    assert "311 files" in page
    assert "PostgreSQL" not in page
    assert len(store_report(tree.vault, [proof], platform="test", made=datetime.now(UTC))) == 2


def test_a_damaged_copy_is_attested_and_the_next_one_proven(
    tree: Tree, primary: MemoryRepository, tmp_path: Path
) -> None:
    snapshot = tree.snapshot()
    damage(primary, pack_key("uploads", snapshot.manifest.packs[0].id))

    proof = prove_tree(tree.vault, snapshot, base=tmp_path)

    assert (proof.proven, proof.repository) == (True, "local")
    assert "cannot be had" in proof.damaged["primary"]
    verdicts = [(a.verdict, a.repository) for a in attestations_of(tree.vault, snapshot)]
    assert verdicts == [(Verdict.FAILED, "primary"), (Verdict.PROVEN, "local")]


def test_what_was_restored_otherwise_is_not_proven(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tree.snapshot()
    restore = files_proof.restore_tree

    def spoil(*arguments: object, **options: object) -> object:
        done = restore(*arguments, **options)  # type: ignore[arg-type]
        (done.target / "photo.jpg").chmod(0o777)
        return done

    monkeypatch.setattr(files_proof, "restore_tree", spoil)

    proof = prove_tree(tree.vault, snapshot, base=tmp_path)

    assert "1 of" in proof.reason
    with pytest.raises(NotProven):
        proof.raise_failure()
    assert not is_proven(attestations_of(tree.vault, snapshot))


def test_a_source_that_has_changed_in_silence_is_found(tree: Tree, tmp_path: Path) -> None:
    snapshot = tree.snapshot()
    info = (tree.root / "large.bin").stat()
    with (tree.root / "large.bin").open("r+b") as file:
        file.write(b"rot")
    os.utime(tree.root / "large.bin", ns=(info.st_atime_ns, info.st_mtime_ns))
    for number in range(290):  # so that the sample has every file
        (tree.root / "invoices" / "2026" / f"{number:04}.txt").unlink()
    smaller = tree.snapshot(allow_vanished=True)
    assert smaller.id != snapshot.id
    with (tree.root / "photo.jpg").open("r+b") as file:
        file.write(b"rot")
    os.utime(tree.root / "photo.jpg", ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))

    proof = prove_tree(tree.vault, smaller, tree=str(tree.root), base=tmp_path)

    assert "sampled files of the source: expected none different, found" in proof.reason
    assert "1 different" in proof.reason


def test_a_sample_is_proven_where_there_is_no_room(tree: Tree, tmp_path: Path) -> None:
    snapshot = tree.snapshot()

    proof = prove_tree(tree.vault, snapshot, base=tmp_path, share=0.3)

    assert proof.proven
    assert 40 < proof.counts["files"] < 180
    assert any("Only a sample was restored" in note for note in proof.notes)


@pytest.mark.parametrize(
    ("prefix", "remove"),
    [(PREFIX, remove_scratch_folders), (proving.PREFIX, proving.remove_scratch_folders)],
    ids=["files", "configuration"],
)
def test_scratch_folders_of_killed_tests_are_removed(
    tmp_path: Path, prefix: str, remove: Callable[[Path], tuple[str, ...]]
) -> None:
    left, running = tmp_path / f"{prefix}99999999-x", tmp_path / f"{prefix}{os.getpid()}-x"
    left.mkdir()
    running.mkdir()

    assert remove(tmp_path) == (left.name,)

    assert not left.exists()
    assert running.exists()
