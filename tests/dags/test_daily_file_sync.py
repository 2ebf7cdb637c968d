"""The DAG that backs trees up, run by Airflow on real folders and a real store."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lifeboat.files.restore import restore_tree
from tests.dags.conftest import Place, RunDag, add_tree, back_up_tree_of, result_of
from tests.files.vaults import fill, picture

DAG = "daily_file_sync"

pytestmark = pytest.mark.slow


@pytest.fixture
def tree(place: Place) -> Path:
    """A tree that the platform protects."""
    root = add_tree(place)
    (root / "file").unlink()
    fill(root)
    return root


def test_every_tree_is_stored_copied_and_read_back(place: Place, run_dag: RunDag, tree: Path, tmp_path: Path) -> None:
    run = run_dag(DAG)

    assert run.state == "success"
    [snapshot] = place.vault().list("uploads").snapshots
    assert snapshot.repositories == ("s3", "local")
    assert snapshot.manifest.scheduled_for == run.run_after
    assert result_of(run, "tree.sync")["facts"]["files"] == 311
    restore_tree(place.vault(), snapshot, tmp_path / "restored").raise_faults()
    assert picture(tmp_path / "restored") == picture(tree)


def test_a_suddenly_empty_tree_fails_the_run_until_a_person_says_so(place: Place, run_dag: RunDag, tree: Path) -> None:
    run_dag(DAG)
    tree.rename(place.folder / "away")
    tree.mkdir()

    assert run_dag(DAG).state == "failed"
    assert len(place.vault().list("uploads").snapshots) == 1
    assert run_dag(DAG, i_know_these_files_are_gone=True).state == "success"


def test_a_platform_without_trees_has_nothing_to_do(place: Place, run_dag: RunDag) -> None:
    assert run_dag(DAG).state == "success"


def test_a_tree_is_proven_by_the_restore_test(place: Place, run_dag: RunDag, tree: Path) -> None:
    run_dag(DAG)

    run = run_dag("monthly_restore_test", sources=["uploads"])

    assert run.state == "success"
    assert result_of(run, "prove")["files"] == 311


def test_chosen_files_are_restored_from_the_form(place: Place, run_dag: RunDag, tree: Path, tmp_path: Path) -> None:
    back_up_tree_of(place)

    run = run_dag("restore_files", tree="uploads", to=str(tmp_path / "out"), patterns=["photo.jpg"])

    assert run.state == "success"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.jpg"]


def test_a_partial_snapshot_is_a_warning(
    place: Place, run_dag: RunDag, tree: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lifeboat.files import reading

    honest = reading.os.open

    def refuse(path: object, *arguments: object, **options: object) -> int:
        if path == "photo.jpg":
            raise PermissionError(13, "Permission denied")
        return honest(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reading.os, "open", refuse)
    with caplog.at_level(logging.WARNING):
        run = run_dag(DAG)

    assert run.state == "success"
    assert result_of(run, "tree.sync")["facts"]["unreadable"] == 1
