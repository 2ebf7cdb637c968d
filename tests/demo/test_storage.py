"""Servers of the demo and the tests leave nothing behind, and take nobody's place."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from demo import storage
from demo.storage import LOOPBACK, PORTS_OF_A_PROCESS, free_ports
from tests.other_user import as_other_user

SERVERS = ("seaweedfs", "ministack", "juicefs", "azurite")
NAMES = ("weed", "seaweedfs", "ministack", "juicefs", "azurite", "lifeboat-ports")


def left_in_temporary_folders() -> set[str]:
    """What carries a server's name in the folders that all users share."""
    folders = {"/tmp", "/var/tmp", tempfile.gettempdir()}
    return {str(path) for folder in folders for path in Path(folder).iterdir() if path.name.startswith(NAMES)}


@pytest.mark.slow
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_keeps_to_its_own_folder(tmp_path: Path, server: str) -> None:
    before = left_in_temporary_folders()

    with getattr(storage, server)(tmp_path):
        during = left_in_temporary_folders()

    assert during | left_in_temporary_folders() <= before


@pytest.mark.slow
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_whose_owner_is_killed_ends_and_leaves_nothing(tmp_path: Path, server: str) -> None:
    before = left_in_temporary_folders()
    code = f"""
import pathlib, signal
from demo.storage import {server}
with {server}(pathlib.Path({str(tmp_path)!r})) as running:
    print(running.port, flush=True)
    signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        port = int(owner.stdout.readline())
        owner.kill()

    deadline = time.monotonic() + 60
    while listens(port):
        assert time.monotonic() < deadline, f"{server} outlives its owner"
        time.sleep(0.05)
    assert left_in_temporary_folders() <= before


def test_processes_of_any_user_have_ports_of_their_own() -> None:
    ours = {port // PORTS_OF_A_PROCESS for port in free_ports(3)}

    theirs = {int(port) // PORTS_OF_A_PROCESS for port in as_other_user(lambda: map(str, free_ports(3)))}

    assert len(ours) == len(theirs) == 1
    assert ours != theirs


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
