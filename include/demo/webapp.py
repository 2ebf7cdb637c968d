"""The platform's web application in miniature: invoices and their documents, for people who have logged in.

    python -m demo.webapp start|stop|smoke <folder of its configuration>

It finds everything in the `.env` of that folder: DATABASE_URL, REDIS_URL, UPLOADS, PORT, SMOKE_USER, SMOKE_PASSWORD.
Users and their passwords are in the database, their sessions in Redis, documents among the uploads. `start` and `stop`
may be repeated; `smoke` ends with status 0 when a person could work with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import html
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import psycopg
import redis

from demo.receivables import OWNER
from lifeboat.env_file import read_env_file
from lifeboat.postgres.connection import PostgresServer

LOOPBACK = "127.0.0.1"
SESSION_SECONDS = 14 * 24 * 3600
SECONDS = 20.0
"""How long starting, stopping and a single question may take."""

PASSWORD = "correct horse battery staple"
"""The password of everybody who may log in: this platform is a demo."""


# ---- setting up -----------------------------------------------------------------------------------------------------


def load_web(server: PostgresServer, database: str, uploads: Path) -> str:
    """Let ten users of a receivables database log in, and name its documents; returns the first user's login."""
    script = (Path(__file__).parent / "receivables" / "web.sql").read_bytes()
    with server.visit(database, autocommit=False) as connection:
        connection.execute(f"SET ROLE {OWNER}")
        connection.execute(script)
        users = connection.execute("SELECT id, login FROM receivables.users ORDER BY id LIMIT 10").fetchall()
        for user_id, _ in users:
            connection.execute(
                "UPDATE receivables.users SET password_hash = %s WHERE id = %s", [password_hash(PASSWORD), user_id]
            )
        invoices = connection.execute("SELECT id FROM receivables.invoices ORDER BY id").fetchall()
        documents = sorted(str(path.relative_to(uploads)) for path in (uploads / "invoices").rglob("*.pdf"))
        with connection.cursor() as cursor, cursor.copy("COPY receivables.documents FROM STDIN") as copy:
            for path, (invoice,) in zip(documents, invoices, strict=False):
                copy.write_row((path, invoice))
        connection.commit()
    return str(users[0][1])


def password_hash(password: str, salt: str = "") -> str:
    """What is kept of a password."""
    salt = salt or secrets.token_hex(16)
    return f"{salt}${hashlib.scrypt(password.encode(), salt=salt.encode(), n=2**12, r=8, p=1).hex()}"


# ---- serving --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class App:
    """The application: what it knows, and where that is."""

    database_url: str
    redis_url: str
    uploads: Path
    port: int

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> App:
        """The application as its configuration has it. Raises `KeyError` for what is missing there."""
        uploads, port = Path(settings["UPLOADS"]), int(settings["PORT"])
        return cls(settings["DATABASE_URL"], settings["REDIS_URL"], uploads, port)

    def database(self) -> psycopg.Connection[Any]:
        """A connection, read-only and for one question."""
        return psycopg.connect(
            self.database_url, connect_timeout=5, autocommit=True, application_name="receivables-web"
        )

    def sessions(self) -> redis.Redis:
        """Where sessions are."""
        made: redis.Redis = redis.Redis.from_url(self.redis_url, socket_timeout=5, decode_responses=True)
        return made

    def health(self) -> dict[str, str]:
        """What works: "ok" or the kind of error, of database, redis and uploads."""

        def tried(question: Callable[[], object]) -> str:
            try:
                return "ok" if question() else "empty"
            except (psycopg.Error, redis.RedisError, OSError) as error:
                return type(error).__name__

        def ask_database() -> object:
            with self.database() as connection:
                return connection.execute("SELECT id FROM receivables.invoices LIMIT 1").fetchone()

        def ask_redis() -> object:
            with self.sessions() as sessions:
                return sessions.ping()

        questions = {"database": ask_database, "redis": ask_redis, "uploads": lambda: any(self.uploads.iterdir())}
        return {name: tried(question) for name, question in questions.items()}

    def log_in(self, login: str, password: str) -> str | None:
        """A new session's token; None for a wrong login or password."""
        with self.database() as connection:
            query = "SELECT id, password_hash FROM receivables.users WHERE login = %s AND active"
            row = connection.execute(query, [login]).fetchone()
        if row is None or row[1] is None:
            return None
        user_id, kept = row
        if not hmac.compare_digest(password_hash(password, kept.partition("$")[0]), kept):
            return None
        token = secrets.token_urlsafe(24)
        with self.sessions() as sessions:
            sessions.hset(f"session:{token}", mapping={"user_id": user_id, "csrf": secrets.token_hex(12)})
            sessions.expire(f"session:{token}", SESSION_SECONDS)
        return token

    def user_of(self, token: str) -> str | None:
        """The full name of whom a session belongs to; None when there is no such session."""
        with self.sessions() as sessions:
            user_id: Any = sessions.hget(f"session:{token}", "user_id")
        if user_id is None:
            return None
        with self.database() as connection:
            row = connection.execute("SELECT full_name FROM receivables.users WHERE id = %s", [int(user_id)]).fetchone()
        return str(row[0]) if row else None

    def invoices(self) -> list[tuple[str, str, str, str]]:
        """Number, customer, amount and document of the newest invoices that have one."""
        with self.database() as connection:
            return connection.execute(_INVOICES).fetchall()

    def document(self, path: str) -> bytes | None:
        """A document that a row names; None for anything else."""
        with self.database() as connection:
            if connection.execute("SELECT FROM receivables.documents WHERE path = %s", [path]).fetchone() is None:
                return None
        return (self.uploads / path).read_bytes()


_INVOICES = """
SELECT coalesce(i.number, 'draft'), c.name, i.gross || ' ' || i.currency, d.path
FROM receivables.documents d JOIN receivables.invoices i ON i.id = d.invoice_id
JOIN receivables.customers c ON c.id = i.customer_id ORDER BY i.issued_on DESC, i.id DESC LIMIT 50
"""


class _Handler(BaseHTTPRequestHandler):
    app: App

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/health":
            found = self.app.health()
            self._answer(200 if set(found.values()) == {"ok"} else 503, json.dumps(found).encode(), "application/json")
        elif path == "/login":
            self._page("Log in", _FORM)
        else:
            self._for_users(path)

    def do_POST(self) -> None:
        fields = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        token = self._tried(lambda: self.app.log_in(fields.get("login", [""])[0], fields.get("password", [""])[0]))
        if token:
            self._redirect("/", f"session={token}; HttpOnly; SameSite=Lax; Path=/")
        elif token is not _FAILED:
            self._answer(403, b"Wrong login or password.", "text/plain")

    def _for_users(self, path: str) -> None:
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("session")
        user = self._tried(lambda: self.app.user_of(cookie.value) if cookie else None)
        if user is _FAILED:
            return
        if user is None:
            self._redirect("/login")
        elif path == "/":
            rows = self._tried(self.app.invoices)
            if rows is not _FAILED:
                self._page(f"Invoices for {user}", _table(rows))
        else:
            name = unquote(path.removeprefix("/documents/"))
            data = self._tried(lambda: self.app.document(name))
            if data is not _FAILED:
                found = data is not None
                self._answer(
                    200 if found else 404, data or b"There is none.", "application/pdf" if found else "text/plain"
                )

    def _tried(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (psycopg.Error, redis.RedisError, OSError) as error:
            self._answer(503, f"Not available: {type(error).__name__}".encode(), "text/plain")
            return _FAILED

    def _page(self, title: str, body: str) -> None:
        text = f"<!DOCTYPE html><title>{html.escape(title)}</title><h1>{html.escape(title)}</h1>{body}"
        self._answer(200, text.encode(), "text/html; charset=utf-8")

    def _redirect(self, to: str, cookie: str = "") -> None:
        self.send_response(303)
        self.send_header("Location", to)
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


_FAILED: Any = ()
_FORM = (
    '<form method="post">Login <input name="login"> Password <input name="password" type="password"> '
    "<button>Log in</button></form>"
)


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    lines = [
        f"<tr><td>{html.escape(number)}</td><td>{html.escape(customer)}</td><td>{html.escape(amount)}</td>"
        f'<td><a href="/documents/{quote(path)}">document</a></td></tr>'
        for number, customer, amount, path in rows
    ]
    return f"<table>{''.join(lines)}</table>"


def serve(folder: Path) -> None:
    """Answer until a signal ends it."""
    app = App.of(read_env_file(folder / ".env"))
    handler = type("Handler", (_Handler,), {"app": app})
    with ThreadingHTTPServer((LOOPBACK, app.port), handler) as server:
        server.serve_forever()


# ---- by command -----------------------------------------------------------------------------------------------------


def start(folder: Path) -> None:
    """Start it in the background, unless it runs, and wait until it answers. Raises `RuntimeError`."""
    if _running(folder) is not None:
        return
    port = App.of(read_env_file(folder / ".env")).port
    log = _log_file(folder)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "demo.webapp", "serve", str(folder)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    _pid_file(folder).write_text(str(process.pid), "utf-8")
    deadline = time.monotonic() + SECONDS
    while _ask(f"http://{LOOPBACK}:{port}/login")[0] != 200:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"It did not start: {log.read_text('utf-8', errors='replace')[-500:]}")
        time.sleep(0.1)


def stop(folder: Path) -> None:
    """End it, if it runs. Raises `RuntimeError`."""
    process = _running(folder)
    if process is not None:
        os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS
        while _running(folder) is not None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"The process {process} does not end.")
            time.sleep(0.05)
    _pid_file(folder).unlink(missing_ok=True)


def smoke(folder: Path) -> None:
    """Log in as a person would, look at the invoices, and read a document. Raises `RuntimeError` for what fails."""
    settings = read_env_file(folder / ".env")
    site = f"http://{LOOPBACK}:{settings['PORT']}"
    status, body, _ = _ask(f"{site}/health")
    if status != 200:
        raise RuntimeError(f"It is not healthy: {body.decode(errors='replace') or status}")
    login = {"login": settings["SMOKE_USER"], "password": settings["SMOKE_PASSWORD"]}
    status, _, headers = _ask(f"{site}/login", body=urlencode(login).encode())
    if status != 303:
        raise RuntimeError(f"{settings['SMOKE_USER']} cannot log in: status {status}.")
    cookie = headers["Set-Cookie"].partition(";")[0]
    status, body, _ = _ask(f"{site}/", cookie)
    _, found, rest = body.decode().partition('href="')
    if status != 200 or not found:
        raise RuntimeError(f"There are no invoices with documents: status {status}.")
    status, body, _ = _ask(site + rest.partition('"')[0], cookie)
    if status != 200 or not body.startswith(b"%PDF-"):
        raise RuntimeError(f"The newest invoice's document cannot be read: status {status}.")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _ask(url: str, cookie: str = "", body: bytes | None = None) -> tuple[int, bytes, Mapping[str, str]]:
    """Status, body and headers of an answer; status 0 when there is none."""
    request = urllib.request.Request(url, data=body, headers={"Cookie": cookie} if cookie else {})  # noqa: S310 - http to itself, on loopback
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=SECONDS) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)
    except OSError:
        return 0, b"", {}


def _running(folder: Path) -> int | None:
    """The process that serves this folder; a number in the file may have been given to another one since."""
    with contextlib.suppress(OSError, ValueError):
        process = int(_pid_file(folder).read_text("utf-8"))
        if f"demo.webapp\0serve\0{folder}\0".encode() in Path(f"/proc/{process}/cmdline").read_bytes():
            return process
    return None


def _pid_file(folder: Path) -> Path:
    # Beside its configuration, not in it: that may be gone.
    return folder.parent / f"{folder.name}.pid"


def _log_file(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.log"


def main() -> int:
    """Run one command; 1, and the reason, when it fails."""
    command, folder = sys.argv[1], Path(sys.argv[2])
    try:
        {"serve": serve, "start": start, "stop": stop, "smoke": smoke}[command](folder)
    except (RuntimeError, OSError, KeyError) as error:
        print(f"{command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
