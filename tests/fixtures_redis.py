"""Real Redis and Valkey servers, one a version and session, and a source that holds one of everything."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.storage import LOOPBACK, free_ports
from lifeboat.redis_source.connection import RedisServer
from lifeboat.redis_source.programs import RedisProgram, find_redis

PROGRAMS = find_redis()
NEEDED = (("redis", 6, 2), ("redis", 8, 2), ("valkey", 9, 1))
BY_VERSION = {f"{p.flavour}-{p.version[0]}.{p.version[1]}": p for p in PROGRAMS}
VERSIONS = sorted({*BY_VERSION, *(f"{flavour}-{major}.{minor}" for flavour, major, minor in NEEDED)})
PASSWORD = "a password with spaces"


def program(version: str) -> RedisProgram:
    if version not in BY_VERSION:
        pytest.fail(f"{version} is not installed. Remedy: make setup, which brings {NEEDED} as wheels.")
    return BY_VERSION[version]


@dataclass
class Running:
    """A server of a test's own, with a folder that outlives it."""

    program: RedisProgram
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    server: RedisServer = field(default_factory=lambda: RedisServer(LOOPBACK, 0, None, PASSWORD))
    process: subprocess.Popen[bytes] | None = None

    def start(self, **settings: str) -> Running:
        """Start it on the port it had, with settings on top of its own; `_` in a name stands for `-`."""
        self.server = replace(self.server, port=self.server.port or free_ports(1)[0])
        chosen = {"save": '""', "appendonly": "no", "repl-diskless-sync-delay": "0", "enable-debug-command": "yes"}
        if self.program.version < (7,):
            del chosen["enable-debug-command"]
        chosen |= self.settings | {name.replace("_", "-"): value for name, value in settings.items()}
        lines = [f"bind {LOOPBACK}", f"port {self.server.port}", f'requirepass "{PASSWORD}"', f"dir {self.folder}"]
        (self.folder / "redis.conf").write_text("\n".join([*lines, *(f"{k} {v}" for k, v in chosen.items())]) + "\n")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", self.program.path, self.folder / "redis.conf"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return self
            except redis.exceptions.RedisError:
                assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, "it did not start within 20 s"
                time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(20)
            self.process = None

    def save(self) -> None:
        """Have it write its file, once the child that wrote for a replica has ended."""
        with self.client() as client:
            while client.info("persistence")["rdb_bgsave_in_progress"]:
                time.sleep(0.02)
            client.save()

    @contextlib.contextmanager
    def client(self, database: int = 0) -> Iterator[Any]:
        with redis.Redis(host=LOOPBACK, port=self.server.port, password=PASSWORD, db=database, protocol=2) as client:
            yield client


class RedisServers:
    """Starts servers for one test; all end with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Running] = []

    def start(self, version: str, **settings: str) -> Running:
        """A new server."""
        folder = self._folder / f"redis-{len(self._started)}"
        folder.mkdir(parents=True)
        running = Running(program(version), folder, {k.replace("_", "-"): v for k, v in settings.items()})
        self._started.append(running)
        return running.start()

    def stop(self) -> None:
        for running in self._started:
            running.stop(kill=True)


@pytest.fixture
def redis_servers(tmp_path: Path) -> Iterator[RedisServers]:
    servers = RedisServers(tmp_path)
    yield servers
    servers.stop()


def has_field_ttl(running: Running) -> bool:
    return running.program.version >= ((9,) if running.program.flavour == "valkey" else (7, 4))


def fill(running: Running, *, sessions: int = 300) -> None:
    """One of every type and encoding, in three databases, with and without a time to live."""
    rand = random.Random(7)
    with running.client() as client:
        client.set("plain", "value")
        client.set("number", 12345)
        client.set("binary", bytes(range(256)))
        client.set(b"key \xff\x00 not text", "x")
        client.set("big", rand.randbytes(3_000_000))
        client.set("compresses", "a" * 500_000)
        client.set("expiring", "soon", ex=3600)
        client.set("far", "away", ex=10**9)
        client.rpush("list:small", *range(10))
        client.rpush("list:large", *(f"item {n}" * 20 for n in range(2000)), rand.randbytes(100_000))
        client.sadd("set:numbers", *range(100))
        client.sadd("set:small", "a", "b")
        client.sadd("set:large", *(f"member {n}" for n in range(2000)))
        client.zadd("zset:small", {"a": 1.5, "b": float("-inf")})
        client.zadd("zset:large", {f"member {n}": n / 3 for n in range(2000)})
        client.hset("hash:small", mapping={"a": "1", "b": "2"})
        client.hset("hash:large", mapping={f"field {n}": f"value {n}" * 5 for n in range(2000)})
        for n in range(500):
            client.xadd("stream", {"n": n, "text": f"entry {n}"})
        client.xgroup_create("stream", "group", 0)
        client.xreadgroup("group", "consumer", {"stream": ">"}, count=20)
        client.xadd("stream:trimmed", {"a": 1})
        client.xtrim("stream:trimmed", maxlen=0)
        client.pfadd("hyperloglog", *range(1000))
        client.geoadd("places", (13.4, 52.5, "Berlin"))
        client.setbit("bits", 100_000, 1)
        if has_field_ttl(running):
            client.hset("hash:ttl", mapping={"a": "1", "b": "2"})
            client.execute_command("HEXPIRE", "hash:ttl", 5000, "FIELDS", 1, "a")
            client.hset("hash:ttl:large", mapping={f"field {n}": n for n in range(1000)})
            client.execute_command("HEXPIRE", "hash:ttl:large", 5000, "FIELDS", 2, "field 1", "field 2")
        if running.program.version >= (7,):
            client.function_load("#!lua name=lib\nredis.register_function('answer', function() return 42 end)")
        client.script_load("return 1")
    with running.client(3) as client:
        pipeline = client.pipeline(transaction=False)
        for n in range(sessions):
            pipeline.hset(f"session:{n}", mapping={"user": n, "token": rand.randbytes(16).hex()})
            pipeline.expire(f"session:{n}", 3600 + n)
        pipeline.execute()
    with running.client(15) as client:
        client.set("last", "database")


def contents(running: Running) -> dict[tuple[int, bytes], tuple[object, ...]]:
    """Everything a server holds: by database and key its type, its value, and when it expires, in seconds."""
    found: dict[tuple[int, bytes], tuple[object, ...]] = {}
    with running.client() as client:
        databases = sorted(int(name[2:]) for name in client.info("keyspace"))
        if running.program.version >= (7,):
            for library in client.function_list(withcode=True):
                found[-1, dict(zip(library[::2], library[1::2], strict=True))[b"library_name"]] = (str(library),)
    for database in databases:
        with running.client(database) as client:
            for key in client.scan_iter(count=1000):
                kind = client.type(key).decode()
                ttl = client.pttl(key)
                expires = None if ttl < 0 else round((time.time() * 1000 + ttl) / 1000)
                found[database, key] = (kind, _READ[kind](client, key), expires)
    return found


def same(left: dict[tuple[int, bytes], tuple[object, ...]], right: dict[tuple[int, bytes], tuple[object, ...]]) -> bool:
    """Whether two servers hold the same, with a second of difference in when keys expire."""

    def close(a: tuple[object, ...], b: tuple[object, ...]) -> bool:
        if a[:-1] != b[:-1]:
            return False
        x, y = a[-1], b[-1]
        return x == y or (isinstance(x, int) and isinstance(y, int) and abs(x - y) <= 1)

    return left.keys() == right.keys() and all(close(left[key], right[key]) for key in left)


def _hash(client: Any, key: bytes) -> object:
    fields = client.hgetall(key)
    try:
        times = client.execute_command("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)
    except redis.exceptions.ResponseError:
        times = []
    return fields, dict(zip(fields, times, strict=False)) if any(int(t) > 0 for t in times) else {}


def _stream(client: Any, key: bytes) -> object:
    groups = [{k: v for k, v in g.items() if k not in ("lag",)} for g in client.xinfo_groups(key)]
    pending = [client.xpending_range(key, g["name"], "-", "+", 1000) for g in groups]
    kept = [[(p["message_id"], p["consumer"], p["times_delivered"]) for p in each] for each in pending]
    return client.xrange(key), groups, kept, client.xinfo_stream(key)["last-generated-id"]


_READ = {
    "string": lambda client, key: client.get(key),
    "list": lambda client, key: client.lrange(key, 0, -1),
    "set": lambda client, key: client.smembers(key),
    "zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    "hash": _hash,
    "stream": _stream,
}
