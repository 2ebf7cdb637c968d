"""One user's leftovers in the folders that all share stop nobody else, and are neither followed nor waited for."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lifeboat import own_files
from lifeboat.configuration import proving
from lifeboat.errors import SettingsError
from lifeboat.files import proof
from lifeboat.files.state import open_state
from lifeboat.postgres import cluster
from lifeboat.postgres.kept_server import kept_servers
from lifeboat.record_cache import RecordCache
from lifeboat.recovery import practice
from lifeboat.redis_source import scratch
from tests.other_user import NOBODY, SOMEBODY_ELSE, as_other_user

AS_ROOT = os.geteuid() == 0
PREFIXES = ("lifeboat-postgres-", "lifeboat-redis-", proof.PREFIX, proving.PREFIX, "lifeboat-practice-")
OVER = {
    **{"address": "127.0.0.1", "port": 1, "user": "postgres", "database": "orders", "snapshot": "x"},
    "until": "2020-01-01T00:00:00+00:00",
}
SWEEPS: dict[str, Callable[[Path], object]] = {
    "scratch servers of PostgreSQL": cluster.remove_leftovers,
    "those that were kept": kept_servers,
    "scratch servers of Redis": scratch.remove_leftovers,
    "scratch folders of files": proof.remove_scratch_folders,
    "scratch folders of configuration": proving.remove_scratch_folders,
    "practices": practice.remove_leftovers,
}


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like /var/tmp, in which somebody else has put things of our names; theirs are old and open to all.

    Root has them from a real other user. Where somebody else runs the tests, they are seen with another's eyes.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        (folder / "ours").mkdir()
        (folder / "ours" / "kept").write_bytes(b"kept")
        assert as_other_user(lambda: put_in_the_way(folder)) == ["done"]
        with monkeypatch.context() as eyes:
            if not AS_ROOT:
                eyes.setattr(os, "geteuid", lambda: SOMEBODY_ELSE)
            yield folder


def put_in_the_way(folder: Path) -> Iterator[str]:
    os.umask(0)
    for prefix in PREFIXES:
        left = folder / f"{prefix}99999999-left"
        left.mkdir()
        (left / "kept.json").write_text(json.dumps(OVER))
        os.mkfifo(left / "lock")
        os.utime(left, (0, 0))
        (folder / f"{prefix}99999998-nowhere").symlink_to("/nowhere")
        (folder / f"{prefix}99999997-ours").symlink_to(folder / "ours")
        os.mkfifo(folder / f"{prefix}99999996-pipe")
    yield "done"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS)
def test_what_other_users_have_left_is_passed_over_without_waiting_or_following(shared: Path, sweep) -> None:
    before = sorted(shared.rglob("*"))

    assert not sweep(shared)

    assert sorted(shared.rglob("*")) == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "sweep", [s for name, s in SWEEPS.items() if name not in ("those that were kept", "practices")]
)
def test_what_this_user_has_left_goes_all_the_same(tmp_path: Path, sweep) -> None:
    for prefix in PREFIXES[:4]:
        (tmp_path / f"{prefix}99999999-left").mkdir()
        (tmp_path / f"{prefix}99999999-left" / "lock").touch()
        os.utime(tmp_path / f"{prefix}99999999-left", (0, 0))

    sweep(tmp_path)

    assert len(list(tmp_path.iterdir())) == 3


def test_files_are_opened_only_when_they_are_plain_and_this_users(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("ours")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")

    with os.fdopen(own_files.open_own(tmp_path / "file")) as file:
        assert file.read() == "ours"
    for name in ("link", "pipe", "missing"):
        with pytest.raises(OSError, match=name):
            own_files.open_own(tmp_path / name)
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with pytest.raises(PermissionError, match="no file of this user"):
        own_files.open_own(tmp_path / "file")


def test_a_command_run_as_root_keeps_nobody_from_their_own_state(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        state = Path(name)
        if AS_ROOT:
            os.chown(state, NOBODY, NOBODY)

        use_state(state)

        assert as_other_user(lambda: use_state(state)) == ["used"]


def use_state(state: Path) -> Iterator[str]:
    with open_state(state / "files", "uploads"):
        pass
    RecordCache(state / "records")._keep(state / "records" / "aa" / "aabb", b"record")
    assert (state / "records" / "aa" / "aabb").read_bytes() == b"record"
    return iter(["used"])


def test_a_state_that_belongs_to_somebody_else_is_refused_with_its_remedy(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o555)

        def refused() -> Iterator[str]:
            with (
                pytest.raises(SettingsError, match="Permission denied") as raised,
                open_state(Path(name, "x"), "uploads"),
            ):
                pass
            yield raised.value.hint

        assert as_other_user(refused) == [
            "Give `state` in platform.yaml a folder that the user who runs Lifeboat can write to."
        ]
