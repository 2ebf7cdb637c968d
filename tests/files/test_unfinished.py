"""What a restore that was killed has left is found by the next one to that place, and removed if it is surely ours."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifeboat import aside
from lifeboat.aside import MadeAside
from lifeboat.files.restore import restore_tree
from lifeboat.vault import Snapshot
from tests.files.vaults import Tree, picture

pytestmark = pytest.mark.ordinary


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    for number in range(5):
        made.write(f"folder/{number}", b"invoice %d" % number)
    (made.root / "link").symlink_to("folder")
    (made.root / "folder").chmod(0o555)
    return made


def killed_at(step: int, calls: tuple[str, ...], act: Callable[[], object]) -> bool:
    """Whether a process that does something was killed at the step it had come to; else it has ended well."""
    child = os.fork()
    if not child:
        left = [step]

        def killing(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            return called

        for name in calls:
            setattr(os, name, killing(getattr(os, name)))
        try:
            act()
        except BaseException:  # noqa: BLE001 - told by the status
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def steps(calls: tuple[str, ...], act: Callable[[], object]) -> Iterator[int]:
    """Every step at which what is done can be killed."""
    step = 1
    while killed_at(step, calls, act):
        yield step
        step += 1


def test_a_new_folder_that_was_not_finished_is_removed_by_the_next_restore(tree: Tree, tmp_path: Path) -> None:
    snapshot, place = tree.snapshot(), tmp_path / "place"
    calls = ("open", "mkdir", "rename", "unlink", "symlink", "utime")
    said = []

    for step in steps(calls, lambda: restore_tree(tree.vault, snapshot, place / f"at {len(said)}")):
        whole = (place / f"at {len(said)}").exists()
        done = restore_tree(tree.vault, snapshot, place / f"next {step}")
        assert all(picture(path) == picture(tree.root) for path in place.iterdir() if path.name.startswith("next"))
        assert [path.name for path in place.glob(".*")] == []
        said.append(bool(done.notes))
        assert not (whole and done.notes)
        assert all("which a restore that was ended had left, is removed" in note for note in done.notes)

    assert said.count(True) > 10


def test_files_that_were_not_finished_over_what_is_there_are_removed_by_the_next_restore(
    tree: Tree, tmp_path: Path
) -> None:
    snapshot, target = tree.snapshot(), tmp_path / "target"
    calls = ("open", "rename", "symlink", "write")
    restore_tree(tree.vault, snapshot, target)
    (target / "folder").chmod(0o755)
    said = []

    def spoil_and_restore() -> None:
        (target / "folder").chmod(0o755)
        for path in (target / "folder").glob("[0-9]"):
            path.write_bytes(b"spoilt")
        (target / "link").unlink(missing_ok=True)
        restore_tree(tree.vault, snapshot, target, into_existing=True).raise_faults()

    for _ in steps(calls, spoil_and_restore):
        (target / "folder").chmod(0o755)
        done = restore_tree(tree.vault, snapshot, target, into_existing=True)
        assert list(target.rglob(".lifeboat-*")) == []
        assert picture(target) == picture(tree.root)
        said += done.notes

    assert len(said) > 5
    assert all("which a restore that was ended had left: removed" in note for note in said)


def test_what_a_restore_that_goes_on_is_making_is_left_alone(tree: Tree, tmp_path: Path) -> None:
    snapshot = tree.snapshot()
    with MadeAside(tmp_path / "going on") as other:
        (other.folder / "file").touch()

        done = restore_tree(tree.vault, snapshot, tmp_path / "restored")

        assert (other.folder / "file").exists()
        assert done.notes == []
    assert (tmp_path / "going on" / "file").exists()


@pytest.mark.parametrize(
    "what", ["no mark", "a mark of another host", "a mark of another text", "a mark that is a link", "another name"]
)
def test_what_is_not_ours_for_certain_is_left_and_told_at_most(tree: Tree, tmp_path: Path, what: str) -> None:
    snapshot: Snapshot = tree.snapshot()
    place = tmp_path / "place"
    name = ".mine.0123abcd" if what != "another name" else ".mine.0123abcdef"
    folder, mark = place / f"{name}.unfinished", place / f"{name}.mark.unfinished"
    (folder / "precious").mkdir(parents=True)
    (tmp_path / "text").write_bytes(aside.text_here())
    if what == "a mark of another host":
        mark.write_text(aside.TEXT.format(host="elsewhere"))
    elif what == "a mark of another text":
        mark.write_text("my own notes")
    elif what == "a mark that is a link":
        mark.symlink_to(tmp_path / "text")
    elif what == "another name":
        mark.write_bytes(aside.text_here())

    done = restore_tree(tree.vault, snapshot, place / "restored")

    assert (folder / "precious").exists()
    assert all("look into it, and remove it" in note for note in done.notes)
    assert len(done.notes) == (what != "another name")


def test_a_target_with_the_longest_name_is_made(tree: Tree, tmp_path: Path) -> None:
    target = tmp_path / ("ä" * 127)

    restore_tree(tree.vault, tree.snapshot(), target)

    assert picture(target) == picture(tree.root)
