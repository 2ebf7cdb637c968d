"""A whole platform that can be destroyed: database, Redis, uploads, configuration and a web application, all real.

Backed up by the command line, destroyed by deleting what is on its disks, started anew as empty servers on the same
ports, and held against what it was. Whom it tells are receivers on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.comparison import Contents, contents
from demo.stand import DATABASE, Platform, application, furnish, server_programs
from demo.storage import redis_server, seaweedfs
from demo.uploads import tree_contents
from demo.webapp import PASSWORD
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.redis_source.connection import RedisServer
from tests.receivers import MailServer, StatusPageServer, WebServer, mail_server, status_page_server, web_server

SOURCES = ("receivables", "uploads", "configuration", "sessions")

NOTIFY = """\
notify:
  email: { connection: lifeboat_smtp, to: [operations@sme.example], sender: lifeboat@sme.example }
  chat: [lifeboat_chat]
  webhooks: [lifeboat_webhook]
  status_page: { connection: lifeboat_status, kind: statuspage, page: page1 }
  users: { to: [ada@sme.example, bo@sme.example] }
"""


@dataclass(frozen=True)
class Receivers:
    """Who is told: mail, chat and webhook (`web`), and the status page."""

    mail: MailServer
    web: WebServer
    status: StatusPageServer

    @property
    def connections(self) -> dict[str, str]:
        """The variables that lead to them."""
        chat = {"conn_type": "apprise", "extra": {"config": [{"path": f"json://{self.web.url[7:]}/chat"}]}}
        status = {"conn_type": "http", "host": self.status.url, "password": self.status.token}
        found = {
            "LIFEBOAT_SMTP": self.mail.connection,
            "LIFEBOAT_CHAT": chat,
            "LIFEBOAT_WEBHOOK": {"conn_type": "http", "host": f"{self.web.url}/hook"},
            "LIFEBOAT_STATUS": status,
        }
        return {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in found.items()}


@contextlib.contextmanager
def receivers() -> Iterator[Receivers]:
    """All of them."""
    with mail_server() as mail, web_server() as web, status_page_server() as status:
        yield Receivers(mail, web, status)


@dataclass(frozen=True)
class Whole:
    """Everything a platform holds: rows, roles, files, settings and keys."""

    database: Contents
    roles: Mapping[str, str]
    uploads: Mapping[str, str]
    configuration: Mapping[str, str]
    keys: Mapping[str, str]


@dataclass
class Doomed:
    """A platform that runs, until it is destroyed. `cookie` is of somebody who has logged in before that."""

    platform: Platform
    receivers: Receivers
    servers: Servers
    cookie: str = ""
    connections: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.platform.folder

    @property
    def settings(self) -> Path:
        """The folder of its configuration."""
        return self.folder / "sme-platform"

    def back_up(self) -> None:
        """Take a snapshot of every source, by the command line."""
        for source in SOURCES:
            self.platform.lifeboat("backup", source, quiet=True)

    def web(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the web application, such as `smoke`."""
        return self.platform.web(command)

    def log_in(self) -> str:
        """The cookie of a new session, as a browser gets it."""
        user = next(line for line in (self.settings / ".env").read_text().splitlines() if line.startswith("SMOKE_USER"))
        login = user.partition("=")[2].strip("'")
        body = f"login={login}&password={PASSWORD}".replace(" ", "+").encode()
        status, _, headers = self.ask("/login", body=body)
        assert status == 303, status
        return headers["Set-Cookie"].partition(";")[0]

    def ask(self, path: str, *, cookie: str = "", body: bytes | None = None) -> tuple[int, str, Mapping[str, str]]:
        """What the web application answers; status 0 when it does not."""
        headers = {"Cookie": cookie} if cookie else {}
        request = urllib.request.Request(self.platform.site + path, data=body, headers=headers)  # noqa: S310 - it is http
        try:
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=20) as answer:
                return answer.status, answer.read().decode(errors="replace"), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace"), dict(error.headers)
        except OSError:
            return 0, "", {}

    def whole(self) -> Whole:
        """All that it holds now."""
        return Whole(
            contents(self.platform.postgres, DATABASE),
            self._roles(),
            tree_contents(self.folder / "uploads"),
            tree_contents(self.settings),
            self.keys(),
        )

    def destroy(self) -> None:
        """Kill everything, and delete what is on the disks: data, uploads, configuration, and what Lifeboat remembers.

        Airflow's database goes with the server. The repositories and the keys are elsewhere, and stay.
        """
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((self.folder / "sme-platform.pid").read_text()), signal.SIGKILL)
        self.servers.destroy()
        for name in ("uploads", "sme-platform", "state", "sme-platform.pid", "sme-platform.log"):
            path = self.folder / name
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def start_empty(self) -> None:
        """New, empty servers on the ports of the old ones, as somebody provides them on the day."""
        self.servers.start_empty()

    def _roles(self) -> dict[str, str]:
        with self.platform.postgres.visit("postgres") as connection:
            query = (
                "SELECT rolname, rolcanlogin::text || coalesce(rolpassword, '') FROM pg_authid WHERE rolname !~ '^pg_'"
            )
            rows: list[Any] = connection.execute(query).fetchall()
        # The administrator is made anew with the server.
        return {name: text for name, text in rows if name != self.platform.postgres.user}

    def databases(self) -> list[str]:
        """The databases there are."""
        with self.platform.postgres.visit("postgres") as connection:
            rows: list[Any] = connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
        return [name for (name,) in rows]

    def keys(self) -> dict[str, str]:
        """What Redis holds, and until when."""
        found = {}
        for number in range(2):
            with self.platform.redis.client(number) as client:
                keys: list[Any] = sorted(client.scan_iter(count=5000))
                questions = client.pipeline(transaction=False)
                for key in keys:
                    questions.pexpiretime(key)
                    questions.dump(key)
                answers = questions.execute()
            pairs = zip(keys, answers[::2], answers[1::2], strict=True)
            found |= {f"{number}:{key!r}": f"{expires} {value!r}" for key, expires, value in pairs}
        return found


def differences(before: Whole, after: Whole) -> list[str]:
    """How a platform differs from what it was, in words; sessions that were begun since do not count."""
    found = []
    for name in ("roles", "uploads", "configuration", "keys"):
        ours, theirs = dict(getattr(before, name)), dict(getattr(after, name))
        if name == "keys":
            theirs = {key: value for key, value in theirs.items() if key in ours or "session:" not in key}
        found += [f"{name}: {key}" for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
    for name in ("tables", "others"):
        ours, theirs = getattr(before.database, name), getattr(after.database, name)
        found += [f"database: {key}" for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
    return found


@contextlib.contextmanager
def doomed(folder: Path, told: Receivers, *, invoices: int = 2_500) -> Iterator[Doomed]:
    """The platform, running, with people at work in it."""
    with Servers.running(folder) as servers, seaweedfs(folder / "seaweedfs") as s3:
        platform = Platform(folder, servers.cluster.server, s3, servers.redis)
        furnish(platform, notify=NOTIFY, connections=told.connections)
        with application(platform, invoices=invoices):
            made = Doomed(platform, told, servers, connections=told.connections)
            made.cookie = made.log_in()
            yield made


@dataclass
class Servers:
    """PostgreSQL and Redis on ports and with passwords that they keep, whatever becomes of their data."""

    folder: Path
    cluster: TemporaryCluster
    redis: RedisServer
    running_redis: contextlib.ExitStack

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path) -> Iterator[Servers]:
        with TemporaryCluster(server_programs()) as cluster, contextlib.ExitStack() as stack:
            redis = stack.enter_context(redis_server(folder / "redis", secrets.token_urlsafe(18)))
            yield (made := cls(folder, cluster, redis, stack))
            made.running_redis.close()

    def destroy(self) -> None:
        """Kill them, and delete their data."""
        self.cluster.stop(how=signal.SIGKILL)
        shutil.rmtree(self.cluster.data)
        self.running_redis.close()
        shutil.rmtree(self.folder / "redis")

    def start_empty(self) -> None:
        """Start them again on the same ports, with nothing in them."""
        self.cluster._initialise()
        self.cluster.start()
        again = redis_server(self.folder / "redis", self.redis.password or "", port=self.redis.port)
        self.running_redis.enter_context(again)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
