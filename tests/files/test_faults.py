"""What goes wrong with trees: files that cannot be read or change, mounts that vanish, runs that are killed."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lifeboat.errors import RepositoryError, RepositoryFull, SettingsError, SourceError, SourceUnavailable
from lifeboat.files import reading, sync
from lifeboat.files.index import index_of
from lifeboat.files.restore import restore_tree
from lifeboat.files.scan import scan
from lifeboat.files.state import open_state
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.vault import Snapshot
from tests.files.vaults import Tree, fill, picture
from tests.other_user import as_other_user


def faults_in(tree: Tree, snapshot: Snapshot) -> dict[str, str]:
    return {entry.name: entry.fault for entry in index_of(tree.vault, snapshot).entries if entry.fault}


# ---- what cannot be read --------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_is_listed_and_makes_the_snapshot_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path)
    tree.write("good")
    tree.write("bad")
    honest = os.open

    def refuse(path: object, *arguments: object, **options: object) -> int:
        if path == "bad":
            raise PermissionError(13, "Permission denied")
        return honest(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reading.os, "open", refuse)

    snapshot = tree.snapshot()

    monkeypatch.undo()
    facts = snapshot.manifest.facts
    assert (facts["unreadable"], facts["partial"], facts["files"]) == (1, True, 2)
    assert faults_in(tree, snapshot) == {"bad": "Permission denied"}
    assert tree.said == ["'bad': Permission denied"]
    restored = restore_tree(tree.vault, snapshot, tmp_path / "restored")
    assert any("bad: its contents are not in the snapshot" in note for note in restored.notes)
    assert tree.snapshot().manifest.facts["partial"] is False  # read again, once it can be


def test_permissions_are_faults_for_a_real_user() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "closed" / "deep").mkdir(parents=True)
        (root / "listed").mkdir()
        for name in ("listed/file", "secret", "open"):
            (root / name).write_bytes(b"x")
        (root / "secret").chmod(0)
        (root / "closed").chmod(0)
        (root / "listed").chmod(0o644)

        def walk() -> list[str]:
            said = []
            for found in scan(folder):
                is_file = stat.S_ISREG(found.info.st_mode) and not found.fault
                read = reading.read_file(found) if is_file else None
                said.append(f"{found.path.decode()}: {found.fault or (read.fault if read else '')}")
            return said

        assert as_other_user(walk) == [
            ": ",
            "closed: Permission denied",
            "listed: ",
            "listed/file: Permission denied",
            "open: ",
            "secret: Permission denied",
        ]


@pytest.mark.parametrize("what", ["missing", "a file"])
def test_a_root_that_is_no_folder_is_refused(tmp_path: Path, what: str) -> None:
    tree = Tree(tmp_path)
    tree.root.rmdir()
    if what == "a file":
        tree.root.write_bytes(b"")

    with pytest.raises(SourceError, match="tree"):
        tree.back_up()


def test_a_tree_that_is_suddenly_empty_is_refused_unless_that_is_known(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("only one")
    tree.back_up()
    (tree.root / "only one").unlink()

    with pytest.raises(SourceUnavailable, match=r"is empty; the last snapshot has 1 files") as refused:
        tree.back_up()

    assert "--i-know-these-files-are-gone" in refused.value.hint
    assert tree.snapshot(allow_vanished=True).manifest.facts["files"] == 0


def test_a_tree_that_has_lost_most_of_its_files_is_refused_unless_that_is_known(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for number in range(40):
        tree.write(f"{number}")
    tree.back_up()
    for number in range(21):
        (tree.root / f"{number}").unlink()

    with pytest.raises(SourceUnavailable, match="21 of 40 files have vanished"):
        tree.back_up()
    assert len(tree.vault.list("uploads").snapshots) == 1

    snapshot = tree.snapshot(allow_vanished=True)
    assert snapshot.manifest.facts["files"] == 19
    assert picture(tree.restore(snapshot)) == picture(tree.root)


# ---- what changes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 9_000_000], ids=["small", "large"])
def test_a_file_that_always_changes_is_recorded_as_changing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    tree = Tree(tmp_path)
    file = tree.write("log", os.urandom(size))
    tree.write("steady")
    honest = sync.same

    def append(one: os.stat_result, other: os.stat_result) -> bool:
        with file.open("ab") as log:
            log.write(b"line\n")
        return honest(one, other) and False

    monkeypatch.setattr(reading, "same", append)
    monkeypatch.setattr(sync, "same", append)
    steady = tree.root / "steady"
    steady.unlink()

    snapshot = tree.snapshot()

    facts = snapshot.manifest.facts
    assert (facts["changed_while_read"], facts["partial"]) == (1, True)
    monkeypatch.undo()
    restored = (tree.restore(snapshot) / "log").read_bytes()
    assert file.read_bytes().startswith(restored)
    assert len(restored) >= size


@pytest.mark.parametrize("size", [1000, 9_000_000], ids=["small", "large"])
@pytest.mark.parametrize("how", ["removed", "a folder", "a symlink", "cut short"])
def test_a_file_that_is_taken_away_while_the_tree_is_walked_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, size: int
) -> None:
    tree = Tree(tmp_path)
    file = tree.write("file", os.urandom(size))
    tree.write("steady")
    take = sync._Run._take

    def act(run: sync._Run, found: sync.Found) -> None:
        if found.path == b"file" and file.is_file():
            if how == "cut short":
                os.truncate(file, size // 2)
            else:
                file.unlink()
            if how == "a folder":
                file.mkdir()
            elif how == "a symlink":
                file.symlink_to("/etc/passwd")
        take(run, found)

    monkeypatch.setattr(sync._Run, "_take", act)

    snapshot = tree.snapshot()

    restored = tmp_path / "restored"
    assert not restore_tree(tree.vault, snapshot, restored).faults
    assert (restored / "steady").read_bytes() == b"contents"
    if how == "cut short":
        assert (restored / "file").stat().st_size == size // 2
    else:
        assert not (restored / "file").exists()
    monkeypatch.undo()
    assert picture(tree.restore(tree.snapshot(), "later")) == picture(tree.root)


def test_a_file_changed_in_the_same_tick_is_noticed(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    file = tree.write("file", b"one")
    tree.back_up()
    info = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))

    assert (tree.restore(tree.snapshot()) / "file").read_bytes() == b"two"


# ---- odd trees ------------------------------------------------------------------------------------------------------


def test_paths_may_be_longer_than_any_system_call_takes(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    here = os.open(tree.root, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("n" * 100, dir_fd=here)
        deeper = os.open("n" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    file = os.open("at the bottom", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here)
    os.write(file, b"deep")
    os.close(file)
    os.close(here)

    snapshot = tree.snapshot()
    restored = tree.restore(snapshot)

    assert snapshot.manifest.facts["folders"] == 61
    tree.root = restored
    tree.source = type(tree.source)("uploads", str(restored), tmp_path / "state")
    again = tree.snapshot()
    assert again.manifest.facts["files"] == 1
    assert again.manifest.facts["stored_packs"] == 0
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)


def test_symbolic_links_are_never_followed_and_special_files_never_opened(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tree.root / "out").symlink_to(outside)
    (tree.root / "up").symlink_to("..")
    os.mkfifo(tree.root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree.root / "socket"))
    if os.geteuid() == 0:
        os.mknod(tree.root / "null", 0o020666, os.makedev(1, 3))

    snapshot = tree.snapshot()

    names = [entry.name for entry in index_of(tree.vault, snapshot).entries]
    assert [name for name in names if "secret" in name] == []
    assert set(names) >= {"out", "up", "pipe", "socket"}
    if os.geteuid() == 0:
        restored = tree.restore(snapshot)
        assert (restored / "null").stat().st_rdev == os.makedev(1, 3)


# ---- storage and processes ------------------------------------------------------------------------------------------


def test_a_full_repository_leaves_no_snapshot_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = MemoryRepository("primary")
    tree = Tree(tmp_path, repository)
    fill(tree.root)
    put = MemoryRepository.put

    def full(self: MemoryRepository, key: str, chunks: object, **options: object) -> object:
        if key.endswith("index.sealed"):
            raise RepositoryFull("primary is full.")
        return put(self, key, chunks, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryRepository, "put", full)
    with pytest.raises(Exception, match="is full"):
        tree.back_up()
    monkeypatch.undo()

    snapshot = tree.snapshot()

    assert snapshot.manifest.facts["stored_packs"] == 0
    assert picture(tree.restore(snapshot)) == picture(tree.root)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 40 MiB, in a repository's place."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", folder], check=True)
    try:
        yield
        subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True)
    except BaseException:
        subprocess.run(["umount", folder], check=True)
        raise


@contextmanager
def small_files(_: Path) -> Iterator[None]:
    """Files of 16 MiB at most, which any user may ask for."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024 * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def some_file(folder: Path, number: int, size: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{number}.bin").write_bytes(os.urandom(size))


@pytest.mark.parametrize("limit", [small_files, small_disk] if os.geteuid() == 0 else [small_files])
def test_a_disk_that_fills_up_midway_in_a_pack_is_named_and_the_next_run_goes_on(
    tmp_path: Path, limit: Callable[[Path], AbstractContextManager[None]]
) -> None:
    disk = tmp_path / "repository"
    disk.mkdir()
    for number in range(6):
        some_file(tmp_path / "tree", number, 9_000_000)
    some_file(tmp_path / "tree", 6, 24_000_000)
    with ExitStack() as stack:
        limited = stack.enter_context(ExitStack())
        limited.enter_context(limit(disk))
        if limit is small_disk:
            stack.callback(subprocess.run, ["umount", disk], check=True)
        repository = LocalDiskRepository(disk, "primary")
        tree = Tree(tmp_path, repository)

        with pytest.raises(RepositoryError, match=f"Cannot put packs/uploads/.* in primary .file://{disk}") as raised:
            tree.back_up()

        assert "Make room on the disk" in str(raised.value.hint)
        assert not tree.vault.list("uploads").snapshots
        assert_goes_on(tree, repository, limited.close)


def test_a_bucket_that_fills_up_midway_in_a_pack_is_named_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = MemoryRepository("bucket")
    tree = Tree(tmp_path, repository)
    for number in range(6):
        tree.write(f"{number}.bin", os.urandom(9_000_000))
    put, room = MemoryRepository.put, [30_000_000]

    def limited(self: MemoryRepository, key: str, chunks: Iterable[bytes], **options: Any) -> object:
        def while_there_is_room() -> Iterator[bytes]:
            for chunk in chunks:
                room[0] -= len(chunk)
                if room[0] < 0:
                    raise RepositoryFull(f"Cannot put {key} in bucket.", hint="Raise its quota.")
                yield chunk

        return put(self, key, while_there_is_room(), **options)

    monkeypatch.setattr(MemoryRepository, "put", limited)
    with pytest.raises(RepositoryError, match=r"Cannot put packs/uploads/.* in bucket") as raised:
        tree.back_up()

    assert raised.value.hint == "Raise its quota."
    assert not tree.vault.list("uploads").snapshots
    assert_goes_on(tree, repository, monkeypatch.undo)


def assert_goes_on(tree: Tree, repository: Repository, make_room: Callable[[], object]) -> None:
    """Once there is room, what was finished before is used, and the rest alone is stored."""
    finished = {info.key for info in repository.list("packs/")}
    assert finished
    make_room()

    snapshot = tree.snapshot()

    kept = {f"packs/uploads/{pack.id[:2]}/{pack.id}" for pack in snapshot.manifest.packs}
    assert finished < kept
    assert snapshot.manifest.facts["stored_packs"] == len(kept) - len(finished)
    assert picture(tree.restore(snapshot)) == picture(tree.root)


def test_a_killed_run_is_continued_without_storing_finished_packs_again(tmp_path: Path) -> None:
    repository = LocalDiskRepository(tmp_path / "repository", "primary")
    tree = Tree(tmp_path, repository)
    for number in range(12):
        tree.write(f"{number}.bin", os.urandom(9_000_000))
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
import pickle
from pathlib import Path
from datetime import datetime, UTC
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.keys import Keyring
from lifeboat.vault import Member, Vault
from lifeboat.files.source import TreeSource
from lifeboat.files.sync import back_up_tree
from lifeboat.keys import *
signing = SigningKey.generate("x")
ids = [Identity.generate(n, CLASSIC) for n in ("operations", "escrow")]
keyring = Keyring(recipients={{i.name: i.recipient for i in ids}}, signers=(signing.signer,), signing_key=signing)
members = [Member(LocalDiskRepository(Path({str(tmp_path / "repository")!r}), "primary"))]
vault = Vault.open(members, keyring, ["operations", "escrow"])
source = TreeSource("uploads", {str(tree.root)!r}, Path({str(tmp_path / "state")!r}))
back_up_tree(vault, source, began=datetime.now(UTC))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    packs = tmp_path / "repository" / "packs"
    deadline = time.monotonic() + 60
    while process.poll() is None and len([p for p in packs.rglob("*") if p.is_file()]) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {info.key for info in repository.list("packs/")}

    outcome = tree.back_up()

    assert len(finished) >= 3
    kept = {f"packs/uploads/{pack.id[:2]}/{pack.id}" for pack in outcome.snapshot.manifest.packs}
    assert finished <= kept
    assert outcome.snapshot.manifest.facts["stored_packs"] == len(kept) - len(finished)


def test_two_runs_on_one_tree_are_one_too_many(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("file")
    with open_state(tmp_path / "state" / "files", "uploads"), pytest.raises(SourceUnavailable, match="another process"):
        tree.back_up()


def test_a_state_that_cannot_be_kept_is_a_setting_to_correct(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tmp_path / "state").write_bytes(b"a file")

    with pytest.raises(SettingsError, match="cannot be kept"):
        tree.back_up()


def test_what_is_remembered_is_for_the_owner_alone(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("file")
    tree.back_up()

    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state" / "files").iterdir()}

    assert set(modes.values()) == {0o600}


def test_no_threads_are_left_behind_by_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path)
    fill(tree.root)

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(sync, "make_block", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        tree.back_up()

    names = [thread.name for thread in threading.enumerate()]
    assert [name for name in names if name.startswith(("files", "pack", "tee"))] == []
