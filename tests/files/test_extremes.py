"""What a user of a tree can set, and what system calls can say of one entry, at their extremes: nothing ends a run."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifeboat.errors import SettingsError
from lifeboat.files import attributes, reading, scan, sync
from lifeboat.files.entries import Entry
from lifeboat.files.index import index_of
from lifeboat.files.proof import prove_tree
from lifeboat.files.restore import TOO_SPARSE, TreeRestore, restore_tree
from lifeboat.files.state import open_state
from lifeboat.manifest import tree_bytes
from lifeboat.outcome import BackupOutcome
from tests.files.vaults import Tree
from tests.other_user import as_other_user

NANO = 10**9

pytestmark = pytest.mark.ordinary


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder on tmpfs, which holds every time and size, and attributes of 64 KiB."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def entries_of(tree: Tree, outcome: BackupOutcome) -> dict[str, Entry]:
    return {entry.name: entry for entry in index_of(tree.vault, outcome.snapshot).entries}


def pretended(info: os.stat_result, **other: int) -> os.stat_result:
    """The same look at a file, with other numbers."""
    reduced: Any = info.__reduce__()
    values, extra = list(reduced[1][0]), dict(reduced[1][1])
    for name, value in other.items():
        if name in _FIELDS:
            values[_FIELDS.index(name)] = value
        else:
            extra[name] = value
    return os.stat_result(values, extra)


_FIELDS = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size")


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment",
    [9_300_000_000 * NANO + 5, 2**62 * NANO, (2**63 - 1) * NANO, -9_300_000_000 * NANO, -(2**63) * NANO],
    ids=["after 2262", "far ahead", "the last moment", "before 1677", "the first moment"],
)
def test_a_file_of_any_date_is_backed_up_and_comes_back_and_is_read_once(in_memory: Path, moment: int) -> None:
    tree = Tree(in_memory)
    tree.write("ordinary")
    for what in (tree.write("dated"), tree.root / "folder"):
        what.mkdir() if what.name == "folder" else None
        os.utime(what, ns=(moment, moment))
    expected = (tree.root / "dated").stat().st_mtime_ns
    assert not -(2**63) <= expected < 2**63

    first = tree.back_up()
    time.sleep(0.1)  # what has just changed is read once more
    tree.back_up()
    third = tree.back_up()

    assert first.snapshot.manifest.facts["partial"] is False
    assert third.snapshot.manifest.facts["read_files"] == 0
    restored = tree.restore()
    assert [(restored / name).stat().st_mtime_ns for name in ("dated", "folder")] == [expected] * 2


def test_a_date_that_the_place_of_a_restore_cannot_hold_is_told_and_no_reason_against_a_proof(
    in_memory: Path, tmp_path: Path
) -> None:
    tree = Tree(in_memory)
    os.utime(tree.write("dated"), ns=(2**62 * NANO, 2**62 * NANO))
    snapshot = tree.snapshot()

    done = restore_tree(tree.vault, snapshot, tmp_path / "restored")

    held = (tmp_path / "restored" / "dated").stat().st_mtime_ns == 2**62 * NANO
    assert held or done.notes == ["the time is beyond what this file system holds; it has the nearest one (1 times)"]
    assert done.faults == {}
    assert prove_tree(tree.vault, snapshot, base=tmp_path).reason == ""


@pytest.mark.parametrize(
    "numbers",
    [{"st_ino": 2**64 - 1}, {"st_dev": 2**63}, {"st_uid": 2**32 - 1, "st_gid": 2**32 - 1}, {"st_nlink": 2**32}],
    ids=["inode", "device", "owner", "links"],
)
def test_the_largest_numbers_of_a_file_system_are_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: dict[str, int]
) -> None:
    tree = Tree(tmp_path)
    odd = tree.write("odd")
    os.utime(odd, (1, 1))
    inode = odd.stat().st_ino
    for name in ("stat", "fstat"):
        honest = getattr(os, name)

        def look(*arguments: Any, honest: Callable[..., os.stat_result] = honest, **options: Any) -> os.stat_result:
            info = honest(*arguments, **options)
            return pretended(info, **numbers) if info.st_ino == inode else info

        monkeypatch.setattr(os, name, look)

    outcome = tree.back_up()
    time.sleep(0.1)
    tree.back_up()
    again = tree.back_up()

    monkeypatch.undo()
    assert outcome.snapshot.manifest.facts["partial"] is False
    assert again.snapshot.manifest.facts["read_files"] == 0
    done = restore_tree(tree.vault, outcome.snapshot, tmp_path / "restored")
    assert (tmp_path / "restored" / "odd").read_bytes() == b"contents"
    assert (done.faults, bool(done.notes)) == ({}, "st_uid" in numbers)


def test_a_sparse_file_of_exbibytes_is_kept_and_where_it_does_not_fit_that_one_is_named(
    in_memory: Path, tmp_path: Path
) -> None:
    tree = Tree(in_memory)
    tree.write("ordinary")
    with tree.write("sparse").open("wb") as file:
        file.truncate(2**62)
        file.seek(2**61)
        file.write(b"in the middle")

    snapshot = tree.snapshot()

    assert snapshot.manifest.facts["partial"] is False
    restored = tree.restore(snapshot)
    with (restored / "sparse").open("rb") as file:
        assert file.seek(0, os.SEEK_END) == 2**62
        file.seek(2**61)
        assert file.read(13) == b"in the middle"
    done = restore_tree(tree.vault, snapshot, tmp_path / "restored")
    assert done.faults == {"sparse": TOO_SPARSE}
    assert not done.hindered  # a recovery goes on without it
    assert tree_bytes(snapshot.manifest) < 1024**2
    assert prove_tree(tree.vault, snapshot, base=in_memory).reason == ""
    assert (tmp_path / "restored" / "ordinary").read_bytes() == b"contents"
    assert not (tmp_path / "restored" / "sparse").exists()


def test_a_sparse_file_of_very_many_parts_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_EXTENTS", 3)
    tree = Tree(tmp_path)
    with tree.write("sparse").open("wb") as file:
        file.truncate(40 * 1024**2)
        for part in (0, 3, 4, 11, 30, 31):
            file.seek(part * 1024**2)
            file.write(b"part %d" % part)
    before = (tree.root / "sparse").read_bytes()

    outcome = tree.back_up()

    extents = entries_of(tree, outcome)["sparse"].extents
    assert extents is not None
    assert len(extents) == 3
    assert (tree.restore() / "sparse").read_bytes() == before


def test_a_file_whose_holes_could_never_be_read_through_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path)
    tree.write("ordinary")
    with tree.write("hole").open("wb") as file:
        file.truncate(2**42)
    monkeypatch.setattr(sync, "extents_of", lambda *_: None)  # as on a file system that does not say where

    snapshot = tree.snapshot()

    assert tree.said == [f"'hole': {2**42} bytes would have to be read of it, nearly all of them in holes"]
    assert (snapshot.manifest.facts["unreadable"], snapshot.manifest.facts["partial"]) == (1, True)


def test_a_file_that_grows_beyond_measure_while_it_is_read_is_kept_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path)
    growing = tree.write("growing", b"its beginning")
    honest = reading._read

    def grow(file: int, length: int) -> bytes:
        os.truncate(growing, 2**42)
        return honest(file, length)

    monkeypatch.setattr(reading, "_read", grow)

    snapshot = tree.snapshot()

    assert snapshot.manifest.facts["changed_while_read"] == 1
    assert (tree.restore(snapshot) / "growing").read_bytes() == b"its beginning"


def test_attributes_of_any_name_come_back_and_too_many_are_named(in_memory: Path) -> None:
    tree = Tree(in_memory)
    few, many = tree.write("few"), tree.write("many")
    os.setxattr(few, b"user.\xff\n", b"\0\xfe")
    os.setxattr(few, "user.ü", b"plain")
    for number in range(6):
        os.setxattr(many, f"user.{number}", bytes(60_000))

    snapshot = tree.snapshot()

    assert snapshot.manifest.facts["partial"] is True
    assert len(tree.said) == 1
    assert tree.said[0].startswith("'many': its attribute 'user.")
    assert "more than 256 KiB" in tree.said[0]
    done = restore_tree(tree.vault, snapshot, in_memory / "restored")
    assert any(note.startswith("many: not in the snapshot: its attribute") for note in done.notes)
    restored = in_memory / "restored"
    assert os.getxattr(restored / "few", b"user.\xff\n") == b"\0\xfe"
    assert os.getxattr(restored / "few", "user.ü") == b"plain"
    assert len(os.listxattr(restored / "many")) == 4
    assert tree.snapshot().manifest.facts["partial"] is True  # as long as it is so


def test_attributes_of_symbolic_links_and_pipes_come_back(tmp_path: Path) -> None:
    """Only root may give a link any. An ordinary user has them on pipes, as their access control lists."""
    tree = Tree(tmp_path)
    (tree.root / "link").symlink_to("nowhere")
    os.mkfifo(tree.root / "pipe", 0o640)
    os.setxattr(tree.root / "pipe", "system.posix_acl_access", ACL)
    if os.geteuid() == 0:
        os.setxattr(tree.root / "link", "trusted.origin", b"here", follow_symlinks=False)

    restored = tree.restore(tree.snapshot())

    assert os.getxattr(restored / "pipe", "system.posix_acl_access") == ACL
    if os.geteuid() == 0:
        assert os.getxattr(restored / "link", "trusted.origin", follow_symlinks=False) == b"here"


ACL = bytes.fromhex("02000000" + "01000600ffffffff" + "02000400feff0000" + "04000400ffffffff" + "10000400ffffffff"
                    "20000000ffffffff")  # fmt: skip
"""Owner rw, user 65534 r, group r, mask r, others nothing."""


def test_other_names_of_links_and_pipes_are_names_of_one_thing_again(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tree.root / "link").symlink_to("nowhere")
    os.mkfifo(tree.root / "pipe")
    for name in ("link", "pipe"):
        os.link(tree.root / name, tree.root / f"other {name}", follow_symlinks=False)

    snapshot = tree.snapshot()

    restored = tree.restore(snapshot)
    for name in ("link", "pipe"):
        assert (restored / name).lstat().st_ino == (restored / f"other {name}").lstat().st_ino
    assert (restored / "link").readlink() == Path("nowhere")
    assert prove_tree(tree.vault, snapshot, base=tmp_path).reason == ""
    restore_tree(tree.vault, snapshot, restored, into_existing=True).raise_faults()


def test_what_an_older_lifeboat_remembers_of_links_is_looked_at_once_more(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tree.root / "link").symlink_to("nowhere")
    os.link(tree.root / "link", tree.root / "other", follow_symlinks=False)
    tree.write("file")
    time.sleep(0.1)
    tree.snapshot()
    with open_state(tree.source.state / "files", "uploads") as state, state.writing:
        state.writing.execute("UPDATE entry SET line = replace(line, '\"link\"', '\"past\"')")
        state.writing.execute("DELETE FROM about WHERE name = 'others'")

    outcome = tree.back_up()

    found = entries_of(tree, outcome)
    assert found["link"].link == found["other"].link is not None
    assert outcome.snapshot.manifest.facts["read_files"] == 0


def test_a_file_whose_first_name_goes_while_the_tree_is_walked_is_kept_by_its_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path)
    first = tree.write("1 first", b"delivered")
    os.link(first, tree.root / "2 second")
    os.link(first, tree.root / "3 third")
    flush = sync._Run._flush_batch

    def rename(run: sync._Run) -> None:
        first.unlink(missing_ok=True)
        flush(run)

    monkeypatch.setattr(sync._Run, "_flush_batch", rename)

    outcome = tree.back_up()

    assert sorted(entries_of(tree, outcome)) == [".", "2 second", "3 third"]
    restored = tree.restore()
    assert (restored / "2 second").read_bytes() == b"delivered"
    assert (restored / "3 third").stat().st_ino == (restored / "2 second").stat().st_ino


def nest(root: Path, depth: int, name: str = "d") -> None:
    """Folders within one another, each with a file whose name comes after the folder's."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.close(os.open("later", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
        os.mkdir(name, dir_fd=here)
        deeper = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)


def test_folders_may_be_nested_deeper_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    nest(tree.root, 700)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    resource.setrlimit(resource.RLIMIT_NOFILE, (500, limits[1]))
    try:
        snapshot = tree.snapshot()
        tree.restore(snapshot)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert tree.said == []
    facts = snapshot.manifest.facts
    assert (facts["files"], facts["folders"], facts["partial"]) == (700, 701, False)
    subprocess.run(["rm", "-rf", tree.root, tmp_path / "restored"], check=True)


def test_a_path_that_never_ends_is_named_where_it_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "LONGEST_PATH", 1024)
    tree = Tree(tmp_path)
    nest(tree.root, 20, "d" * 100)

    snapshot = tree.snapshot()

    assert snapshot.manifest.facts["unreadable"] == 1
    assert tree.said[0].endswith("its path has more than 1 KiB")
    assert snapshot.manifest.facts["files"] == 12


def test_a_folder_that_is_moved_away_while_it_is_walked_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "HELD_OPEN", 2)
    tree = Tree(tmp_path)
    tree.write("a/b/c/d/deep")
    for name in ("a/b/c/zz late", "a/zz late", "zz late"):
        tree.write(name)
    (tmp_path / "elsewhere").mkdir()
    found = []

    for item in scan.scan(str(tree.root)):
        found.append((item.path.decode(), item.fault))
        if item.path == b"a/b/c/d/deep":
            (tree.root / "a" / "b").rename(tmp_path / "elsewhere" / "b")

    assert found[-3:] == [("a/b/c/zz late", ""), ("a/zz late", ""), ("zz late", "")]


def test_a_folder_that_nothing_leads_to_any_more_is_told_by_all_that_was_left_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "HELD_OPEN", 2)
    tree = Tree(tmp_path)
    for name in ("a/b/c/d/deep", "a/b/zz late", "a/zz late", "zz late"):
        tree.write(name)
    found = []

    for item in scan.scan(str(tree.root)):
        found.append((item.path.decode(), item.fault))
        if item.path == b"a/b/c/d/deep":
            (tree.root / "a" / "b" / "c").rename(tmp_path / "c")
            (tree.root / "a" / "b").rename(tmp_path / "b")

    gone = "No such file or directory"
    assert found[-3:] == [("a/b/zz late", gone), ("a/zz late", ""), ("zz late", "")]


@pytest.mark.parametrize(
    ("number", "hindered"),
    [(errno.EFBIG, True), (errno.ENAMETOOLONG, False), (errno.ENOSPC, True), (errno.EACCES, True)],
)
def test_what_one_entry_asks_of_a_place_in_vain_is_no_fault_of_the_place(number: int, hindered: bool) -> None:
    done = TreeRestore(
        Path("/somewhere"), faults={"odd": os.strerror(number), "lost": "No copy is whole."}, lost=["lost"]
    )

    assert done.hindered is hindered


# ---- what an ordinary user meets ------------------------------------------------------------------------------------


def test_a_folder_that_can_be_listed_and_not_entered_is_named_for_an_ordinary_user() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        (Path(folder) / "tree").mkdir()
        tree = Tree(Path(folder))
        for name in ("listed/one", "listed/two", "closed/three", "open"):
            tree.write(name)
        (tree.root / "listed").chmod(0o644)
        (tree.root / "closed").chmod(0o600 if os.geteuid() == 0 else 0)

        def act() -> list[str]:
            snapshot = tree.snapshot()
            facts = snapshot.manifest.facts
            done = restore_tree(tree.vault, snapshot, Path(folder) / "restored")
            return [*tree.said, f"{facts['partial']} {facts['unreadable']}", *sorted(done.notes)]

        said = as_other_user(act)
        for name in ("listed", "closed"):
            (tree.root / name).chmod(0o755)

    assert said[:4] == [
        "'closed': Permission denied",
        "'listed/one': Permission denied",
        "'listed/two': Permission denied",
        "True 3",
    ]
    assert "closed: what is in it is not in the snapshot: Permission denied" in said
    assert "listed/two: its contents are not in the snapshot: Permission denied" in said


@pytest.mark.parametrize("call", ["open", "stat"])
def test_what_is_in_a_folder_that_is_closed_now_has_not_vanished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    tree = Tree(tmp_path)
    for number in range(30):
        tree.write(f"most of it/{number}")
    tree.write("open")
    tree.snapshot()
    fail(monkeypatch, call, "most of it", errno.EACCES)

    snapshot = tree.snapshot()

    assert tree.said == ["'most of it': Permission denied"]
    assert snapshot.manifest.facts["partial"] is True
    assert {entry.name for entry in index_of(tree.vault, snapshot).entries} == {".", "most of it", "open"}


# ---- what system calls can say --------------------------------------------------------------------------------------


def fail(monkeypatch: pytest.MonkeyPatch, call: str, name: str, number: int) -> None:
    """Have one system call on whatever has this name fail, by its name, a path or a descriptor."""
    honest = getattr(os, call)
    there = os.readlink

    def act(*arguments: Any, **options: Any) -> Any:
        for at, what in enumerate(arguments[:2]):
            shown = there(f"/proc/self/fd/{what}") if at == 0 and isinstance(what, int) and what > 2 else what
            if isinstance(shown, str | bytes) and os.fsdecode(shown).rpartition("/")[2] == name:
                raise OSError(number, os.strerror(number), name)
        return honest(*arguments, **options)

    monkeypatch.setattr(os, call, act)


ERRORS = (
    errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG, errno.EOVERFLOW, errno.EMFILE,
    errno.ENOMEM, errno.ENOTSUP,
)  # fmt: skip

KINDS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a file": (lambda p: p.write_bytes(b"odd"), ("stat", "open", "read", "fstat", "listxattr", "getxattr")),
    "a large file": (
        lambda p: p.write_bytes(os.urandom(9 * 1024**2)),
        ("stat", "open", "pread", "fstat", "lseek", "listxattr", "getxattr"),
    ),
    "a folder": (lambda p: (p.mkdir(), (p / "in it").touch()), ("stat", "open", "listdir", "listxattr", "getxattr")),
    "a link": (lambda p: p.symlink_to("good"), ("stat", "readlink", "listxattr", "getxattr")),
    "a pipe": (lambda p: os.mkfifo(p), ("stat", "listxattr", "getxattr")),
}

CALLS = [(kind, call) for kind, (_, calls) in KINDS.items() for call in calls]


@pytest.mark.parametrize(("kind", "call"), CALLS, ids=[f"{call} of {kind}" for kind, call in CALLS])
def test_a_system_call_that_fails_on_one_entry_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, call: str
) -> None:
    """The entry is named, and the snapshot partial, unless nothing of it is missing."""
    tree = Tree(tmp_path)
    for name in ("a good one", "good", "zz good too"):
        tree.write(name)
    make, _ = KINDS[kind]
    make(tree.root / "odd")
    if call == "getxattr" and kind not in ("a link", "a pipe"):
        os.setxattr(tree.root / "odd", "user.of it", b"value")
    elif call == "getxattr" and kind == "a pipe":
        os.setxattr(tree.root / "odd", "system.posix_acl_access", ACL)
    elif call == "getxattr" and os.geteuid() == 0:
        os.setxattr(tree.root / "odd", "trusted.of it", b"value", follow_symlinks=False)

    for number in ERRORS:
        tree.said.clear()
        with monkeypatch.context() as patch:
            fail(patch, call, "odd", number)
            outcome = tree.back_up()
        attributes._without.clear()
        facts, found = outcome.snapshot.manifest.facts, entries_of(tree, outcome)
        assert found.keys() >= {"a good one", "good", "odd", "zz good too"}
        harmless = call == "lseek" or (call, number) == ("listxattr", errno.ENOTSUP)
        if kind == "a link" and call == "getxattr":
            harmless = os.geteuid() != 0
        told = [text for text in tree.said if text.startswith("'odd'")]
        assert (len(told), len(tree.said), facts["partial"]) == ((0, 0, False) if harmless else (1, 1, True))
        odd = found["odd"]
        assert bool(odd.fault or odd.lacking) is not harmless
        done = restore_tree(tree.vault, outcome.snapshot, tmp_path / f"restored {number}")
        assert done.faults == {}
        assert any(note.startswith("odd") for note in done.notes) is not harmless
        assert (tmp_path / f"restored {number}" / "zz good too").read_bytes() == b"contents"


PLACED = [
    ("mkdir", "folder"), ("open", "file"), ("open", "sparse"), ("write", "file"), ("pwrite", "sparse"),
    ("truncate", "sparse"), ("symlink", "link"), ("mkfifo", "pipe"), ("link", "file"), ("fchown", "file"),
    ("fchmod", "file"), ("fchmod", "folder"), ("utime", "file"), ("utime", "link"), ("chmod", "pipe"),
    ("chown", "pipe"), ("setxattr", "file"), ("setxattr", "pipe"),
]  # fmt: skip
PROPERTIES = ("fchown", "fchmod", "utime", "chmod", "chown", "setxattr")


@pytest.mark.parametrize(("call", "name"), PLACED, ids=[f"{call} of a {name}" for call, name in PLACED])
def test_a_system_call_that_fails_in_a_restore_costs_at_most_its_own_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, name: str
) -> None:
    """Contents are kept where a property cannot be put back, and that is told."""
    if call in ("fchown", "chown") and os.geteuid() != 0:
        monkeypatch.setattr("lifeboat.files.placing.os.geteuid", lambda: 0)
    tree = Tree(tmp_path)
    tree.write("good")
    os.setxattr(tree.write("file"), "user.of it", b"value")
    os.link(tree.root / "file", tree.root / "other name")
    (tree.root / "folder").mkdir()
    with tree.write("sparse", b"its beginning").open("r+b") as file:
        file.truncate(9 * 1024**2)
    (tree.root / "link").symlink_to("good")
    os.mkfifo(tree.root / "pipe")
    os.setxattr(tree.root / "pipe", "system.posix_acl_access", ACL)
    snapshot = tree.snapshot()

    for error in (errno.EACCES, errno.EIO, errno.ENOSPC, errno.ENOTSUP, errno.EROFS):
        target = tmp_path / f"restored {error}"
        with monkeypatch.context() as patch:
            # Links and pipes are made under a passing name.
            fail_by_any(patch, call, error) if call in ("symlink", "mkfifo") else fail(patch, call, name, error)
            done = restore_tree(tree.vault, snapshot, target)
        assert (target / "good").read_bytes() == b"contents"
        if call in PROPERTIES:
            assert done.faults == {}
            assert any("could not be set" in note for note in done.notes)
            assert os.path.lexists(target / name)
            assert call == "setxattr" or done.differing == 1
        else:
            assert done.faults.keys() <= {name, "other name"}
            assert done.faults
            assert os.strerror(error) in next(iter(done.faults.values()))


def fail_by_any(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    def act(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, act)


def test_a_set_user_id_file_whose_owner_cannot_be_put_back_has_not_that_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path)
    tree.write("program").chmod(0o6755)
    snapshot = tree.snapshot()
    monkeypatch.setattr("lifeboat.files.placing.os.geteuid", lambda: 0)
    fail(monkeypatch, "fchown", "program", errno.EPERM)

    restore_tree(tree.vault, snapshot, tmp_path / "restored")

    assert stat.S_IMODE((tmp_path / "restored" / "program").stat().st_mode) == 0o755


def test_a_state_that_fails_for_another_reason_than_room_asks_for_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path)
    tree.write("file")
    tree.snapshot()
    with open_state(tree.source.state / "files", "uploads") as state, state.writing:
        state.writing.execute("DROP TABLE content")

    with pytest.raises(SettingsError) as raised:
        tree.snapshot()

    assert raised.value.hint == "It may be removed: then everything is read once more."


def test_a_look_at_what_cannot_be_looked_at_has_numbers_everywhere() -> None:
    assert (scan.UNSEEN.st_mtime_ns, scan.UNSEEN.st_ctime_ns, scan.UNSEEN.st_size) == (0, 0, 0)
