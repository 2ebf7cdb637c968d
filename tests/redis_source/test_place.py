"""Putting an RDB in place under a server that is stopped."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lifeboat.errors import IntegrityError, LifeboatError, NotReady, SettingsError
from lifeboat.redis_source.backup import RedisSource, back_up_redis
from lifeboat.redis_source.place import data_folder_of, place_rdb, refuse_running, rewrite_append_only, steps
from lifeboat.vault import Snapshot, Vault
from tests.fixtures_redis import VERSIONS, RedisServers, Running, contents, fill, program, same
from tests.other_user import as_other_user

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)


def back_up(vault: Vault, running: Running) -> Snapshot:
    return back_up_redis(vault, RedisSource("sessions", running.server), began=NOW).snapshot


def spoil(running: Running) -> None:
    with running.client() as client:
        client.flushall()
        client.set("what came", "after")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_server_starts_with_the_snapshot_and_the_previous_file_is_kept(
    version: str, redis_servers: RedisServers, vault: Vault
) -> None:
    running = redis_servers.start(version, save="3600 1")
    fill(running)
    before, snapshot = contents(running), back_up(vault, running)
    spoil(running)
    running.save()
    running.stop()
    data = data_folder_of(running.folder / "redis.conf")
    previous = (running.folder / "dump.rdb").read_bytes()

    placed = place_rdb(vault, snapshot, data, server=running.server)
    running.start()

    assert same(before, contents(running))
    [kept] = placed.kept
    assert kept.read_bytes() == previous
    assert kept.name.startswith("dump.rdb.before-2")
    assert steps(placed, data) == ("Start the server as usual.",)
    assert not list(running.folder.glob("*.part"))


@pytest.mark.parametrize("version", VERSIONS)
def test_append_only_files_are_moved_aside_and_written_anew(
    version: str, redis_servers: RedisServers, vault: Vault
) -> None:
    running = redis_servers.start(version, appendonly="yes")
    fill(running)
    before, snapshot = contents(running), back_up(vault, running)
    spoil(running)
    running.stop()
    data = data_folder_of(running.folder / "redis.conf")
    assert data.append_only

    placed = place_rdb(vault, snapshot, data, server=running.server)
    assert placed.append_only_moved
    assert "--appendonly no" in steps(placed, data)[0]
    rewrite_append_only(placed, data, program(version))
    assert "as usual" in steps(replace(placed, rewritten=True), data)[0]
    running.start()  # with appendonly yes

    assert same(before, contents(running))
    aof = running.folder / ("appendonly.aof" if version == "redis-6.2" else "appendonlydir")
    assert aof.exists()
    assert placed.kept[-1].name.split(".before-")[0] == aof.name
    with running.client() as client:
        client.set("later", "kept")
    running.stop(kill=True)
    running.start()
    with running.client() as client:
        assert client.get("later") == b"kept"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_steps_told_to_a_person_work(version: str, redis_servers: RedisServers, vault: Vault) -> None:
    running = redis_servers.start(version, appendonly="yes")
    fill(running)
    before, snapshot = contents(running), back_up(vault, running)
    spoil(running)
    running.stop()
    place_rdb(vault, snapshot, data_folder_of(running.folder / "redis.conf"))

    running.start(appendonly="no")
    with running.client() as client:
        client.config_set("appendonly", "yes")
        while client.info("persistence")["aof_rewrite_in_progress"]:
            pass
    running.stop()
    running.start()

    assert same(before, contents(running))


def test_a_running_server_is_refused(redis_servers: RedisServers, vault: Vault) -> None:
    running = redis_servers.start("redis-6.2", save="3600 1")
    fill(running)
    snapshot, data = back_up(vault, running), data_folder_of(running.folder / "redis.conf")
    files = sorted(running.folder.iterdir())

    with pytest.raises(NotReady, match="A server holds"):
        place_rdb(vault, snapshot, data)
    assert sorted(running.folder.iterdir()) == files

    elsewhere = replace(data, folder=running.folder.parent)
    place_rdb(vault, snapshot, elsewhere, server=running.server)
    with running.client() as client:
        client.config_set("save", "")
        client.execute_command("CONFIG", "SET", "dir", str(elsewhere.folder))
    with pytest.raises(NotReady, match=r"holds|still answers"):
        place_rdb(vault, snapshot, elsewhere, server=running.server)


def test_a_server_whose_folder_this_user_cannot_see_may_hold_it(vault: Vault) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o777)
        servers = RedisServers(Path(name))
        running = servers.start("redis-8.2")
        running.folder.chmod(0o777)
        (running.folder / "redis.conf").chmod(0o644)
        process = running.process
        assert process is not None

        def refused() -> list[str]:
            with pytest.raises(NotReady) as raised:
                refuse_running(data_folder_of(running.folder / "redis.conf"), None)
            return [raised.value.message]

        (message,) = as_other_user(refused)
        servers.stop()

    assert re.search(rf"(holds .*: process|This user cannot see .*: process) .*\b{process.pid}\b", message)


def test_what_cannot_be_placed_is_refused(redis_servers: RedisServers, vault: Vault, tmp_path: Path) -> None:
    running = redis_servers.start("redis-8.2")
    snapshot, data = back_up(vault, running), data_folder_of(running.folder / "redis.conf")
    running.stop()

    with pytest.raises(NotReady, match="is no folder"):
        place_rdb(vault, snapshot, replace(data, folder=tmp_path / "nowhere"))
    with pytest.raises(NotReady, match="does not read"):
        place_rdb(vault, snapshot, data, program=program("redis-6.2"))
    (tmp_path / "cluster.conf").write_text(f"dir {tmp_path}\ncluster-enabled yes\n")
    with pytest.raises(SettingsError, match="Cluster"):
        data_folder_of(tmp_path / "cluster.conf")


def test_a_damaged_artifact_leaves_everything_as_it_was(
    redis_servers: RedisServers, vault: Vault, tmp_path: Path
) -> None:
    running = redis_servers.start("redis-8.2", appendonly="yes")
    fill(running)
    snapshot, data = back_up(vault, running), data_folder_of(running.folder / "redis.conf")
    running.stop()
    files = sorted(running.folder.rglob("*"))
    [sealed] = (tmp_path / "vault").rglob("rdb.sealed")
    sealed.chmod(0o600)
    broken = bytearray(sealed.read_bytes())
    broken[-100] ^= 1
    sealed.write_bytes(broken)

    with pytest.raises((IntegrityError, LifeboatError)):
        place_rdb(vault, snapshot, data)

    assert sorted(running.folder.rglob("*")) == files


@pytest.mark.timeout(120)
def test_what_the_folders_owner_puts_in_the_way_is_neither_waited_for_nor_followed(
    redis_servers: RedisServers, vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = redis_servers.start("redis-8.2")
    fill(running)
    snapshot = back_up(vault, running)
    running.stop()
    precious, pipe = tmp_path / "precious", running.folder / "lifeboat-x.part"
    precious.write_bytes(b"precious")
    os.mkfifo(pipe)
    flock = fcntl.flock

    def as_soon_as_it_is_locked(file: int, how: int) -> None:
        flock(file, how)
        for aside in running.folder.glob("lifeboat-*.part"):
            if aside.is_file():
                aside.unlink()
                aside.symlink_to(precious)

    monkeypatch.setattr(fcntl, "flock", as_soon_as_it_is_locked)

    place_rdb(vault, snapshot, data_folder_of(running.folder / "redis.conf"))

    assert precious.read_bytes() == b"precious"
    assert not pipe.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from lifeboat.redis_source import place
from tests.redis_source.vaults import open_vault

vault = open_vault(Path(sys.argv[1]), "vault")
data = place.data_folder_of(Path(sys.argv[2]) / "redis.conf")
left = int(sys.argv[3])


def count(event, arguments):
    global left
    if event in ("os.rename", "os.link", "os.remove") or (event == "open" and ".part" in str(arguments[0])):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


snapshot = vault.find("sessions")
sys.addaudithook(count)
place.place_rdb(vault, snapshot, data)
"""


@pytest.mark.parametrize("appendonly", ["yes", "no"])
def test_ended_at_any_step_the_folder_holds_one_or_the_other_and_placing_again_finishes(
    appendonly: str, redis_servers: RedisServers, vault: Vault, tmp_path: Path
) -> None:
    running = redis_servers.start("redis-8.2", appendonly=appendonly, save="3600 1")
    fill(running)
    snapshot_holds = contents(running)
    back_up(vault, running)
    spoil(running)
    previous = contents(running)
    running.stop()
    original = tmp_path / "original"
    shutil.copytree(running.folder, original)
    environment = {"PYTHONPATH": f"{ROOT / 'include'}:{ROOT}", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", KILLED, tmp_path, running.folder]
    steps_done = 0

    while subprocess.run([*command, str(steps_done)], env=environment, check=False).returncode == -signal.SIGKILL:
        running.start(appendonly="no" if list(running.folder.glob("appendonlydir.before*")) else appendonly)
        found = contents(running)
        running.stop(kill=True)
        assert same(found, previous) or same(found, snapshot_holds), steps_done
        steps_done += 1
        shutil.rmtree(running.folder)
        shutil.copytree(original, running.folder)

    assert steps_done >= (4 if appendonly == "yes" else 3)
    killed = subprocess.run([*command, "1"], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    placed = place_rdb(vault, vault.find("sessions"), data_folder_of(running.folder / "redis.conf"))
    assert not list(running.folder.glob("*.part"))
    running.start(appendonly="no")
    assert same(contents(running), snapshot_holds)
    assert placed.contents.keys == sum(place[0] >= 0 for place in snapshot_holds)
