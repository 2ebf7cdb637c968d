"""The command line, end to end: back up, list, verify, prove, restore, place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.break_glass.alone import Stranger
from tests.fixtures_redis import PASSWORD, RedisServers, Running, contents, fill, same

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Desk:
    """A platform whose only source is a Redis."""

    folder: Path
    source: Running

    def run(self, *arguments: str | Path, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lifeboat", *map(str, arguments), "--platform", str(self.folder / "p.yaml")]
        connections = {
            "AIRFLOW_CONN_R": json.dumps(
                {"conn_type": "redis", "host": "127.0.0.1", "port": self.source.server.port, "password": PASSWORD}
            ),
            "AIRFLOW_CONN_LIFEBOAT_KEYS": json.dumps(
                {"conn_type": "generic", "extra": {"keyring": str(self.folder / "keys")}}
            ),
        }
        environment = {"PYTHONPATH": str(ROOT / "include"), "PATH": os.environ["PATH"], **connections, **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=self.folder, check=False)
        assert done.returncode == expect, (done.stdout, done.stderr)
        assert PASSWORD not in done.stdout + done.stderr
        return done

    def json(self, *arguments: str | Path, **variables: str) -> Any:
        return json.loads(self.run(*arguments, "--json", **variables).stdout)


@pytest.fixture
def desk(tmp_path: Path, redis_servers: RedisServers) -> Desk:
    running = redis_servers.start("redis-8.2")
    fill(running)
    (tmp_path / "place").mkdir()
    (tmp_path / "p.yaml").write_text(
        "platform: p\nrecipients: [operations, escrow]\n"
        f"repositories:\n  - name: local\n    url: file://{tmp_path / 'place'}\n"
        "sources:\n  redis:\n    - name: sessions\n      connection: r\n"
    )
    made = Desk(tmp_path, running)
    made.run("init")
    return made


def test_a_redis_goes_through_every_command(desk: Desk, redis_servers: RedisServers) -> None:
    before = contents(desk.source)

    assert desk.json("preflight")["ready"]
    said = desk.run("backup", "sessions").stdout
    assert "databases with" in said
    desk.run("verify", "sessions")
    assert desk.json("prove", "sessions")["proven"]
    target = redis_servers.start("redis-8.2")
    connection = json.dumps(
        {"conn_type": "redis", "host": "127.0.0.1", "port": target.server.port, "password": PASSWORD}
    )
    restored = desk.json("redis", "restore", "sessions", "--connection", "other", AIRFLOW_CONN_OTHER=connection)
    assert restored["restored"] == sum(place[0] >= 0 for place in before)
    assert same(before, contents(target))
    assert desk.run("backup", "sessions", "--schema-only", expect=3)


def test_place_has_the_server_write_its_append_only_files(desk: Desk, redis_servers: RedisServers) -> None:
    before = contents(desk.source)
    desk.run("backup", "sessions")
    stopped = redis_servers.start("redis-8.2", appendonly="yes")
    config = stopped.folder / "redis.conf"
    assert "holds" in desk.run("redis", "place", "sessions", "--config", config, expect=1).stderr
    stopped.stop()

    placed = desk.json("redis", "place", "sessions", "--config", config, "--server", stopped.program.path)

    assert placed["append_only_rewritten"]
    assert len(placed["kept"]) >= 1
    stopped.start()
    assert same(before, contents(stopped))


def test_restore_py_alone_gives_an_rdb_that_a_server_loads(
    desk: Desk, redis_servers: RedisServers, tmp_path: Path
) -> None:
    before = contents(desk.source)
    desk.run("backup", "sessions")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    stranger = Stranger(elsewhere)
    stranger.run("unseal", tmp_path / "place", "sessions", "rdb", "--keys", tmp_path / "keys", "--to", "plain")

    [file] = (elsewhere / "plain").iterdir()
    server = redis_servers.start("redis-8.2")
    server.stop()
    (server.folder / "dump.rdb").write_bytes(file.read_bytes())
    server.start()
    assert same(before, contents(server))
