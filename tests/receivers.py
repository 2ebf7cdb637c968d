"""Real receivers on loopback: a mail server, a web server that keeps what it is sent, and a status page.

For any suite's use.
"""

from __future__ import annotations

import email.policy
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from demo.storage import LOOPBACK, free_ports


@dataclass
class MailServer:
    """What arrived, and where. `answer` is what it says to every message; "250 OK" takes it."""

    port: int
    user: str | None = None
    password: str | None = None
    answer: str = "250 OK"
    mails: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.answer.startswith("250"):
            parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
            assert isinstance(parsed, EmailMessage)
            parsed["X-Received"] = datetime.now(UTC).isoformat()
            parsed["X-To"] = ", ".join(envelope.rcpt_tos)
            self.mails.append(parsed)
        return self.answer

    @property
    def connection(self) -> dict[str, Any]:
        login = {"login": self.user, "password": self.password} if self.user else {}
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "lifeboat@sme.example"}
        return {"conn_type": "smtp", "host": LOOPBACK, "port": self.port, **login, "extra": extra}

    @property
    def uri(self) -> str:
        """The same without a login, as a URI."""
        return f"smtp://{LOOPBACK}:{self.port}/?disable_ssl=true&disable_tls=true&from_email=lifeboat%40sme.example"


@contextmanager
def mail_server(port: int | None = None, user: str | None = None, password: str | None = None) -> Iterator[MailServer]:
    """A mail server; with `user`, one that wants this login."""
    server = MailServer(port or free_ports(1)[0], user, password)

    def check(_server: Any, _session: Any, _envelope: Any, _how: str, data: Any) -> AuthResult:
        given = (data.login.decode(), data.password.decode())
        return AuthResult(success=given == (user, password), handled=False)  # so that aiosmtpd answers

    wanted = {"authenticator": check, "auth_required": True, "auth_require_tls": False} if user else {}
    controller = Controller(server, hostname=LOOPBACK, port=server.port, **wanted)
    controller.start()
    try:
        yield server
    finally:
        controller.stop()


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class WebServer:
    """What was asked, and where. `status` is what it answers; `statuses` come first, one each."""

    port: int = 0
    status: int = 200
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@contextmanager
def web_server() -> Iterator[WebServer]:
    """A web server that keeps what it is sent."""
    record = WebServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            record.requests.append(Request(self.command, self.path, dict(self.headers), body))
            self.send_response(record.statuses.pop(0) if record.statuses else record.status)
            for name, value in record.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    with _serving(Handler) as record.port:
        yield record


@dataclass
class StatusPageServer:
    """A page as Atlassian Statuspage's API has it, with the token it wants.

    `status` is what it answers instead of doing anything; `deaf` keeps what it has done but answers nothing useful.
    """

    port: int = 0
    token: str = "status-token-secret"
    page: str = "page1"
    status: int = 200
    seconds: float = 0
    deaf: bool = False
    incidents: list[dict[str, Any]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def answer(self, request: Request) -> tuple[int, Any]:
        """The status and the document that a request gets."""
        time.sleep(self.seconds)
        if self.status != 200:
            return self.status, {"error": self.token}
        if request.headers.get("Authorization") != f"OAuth {self.token}":
            return 401, {"error": "Could not authenticate"}
        path, _, query = request.path.partition("?")
        base, _, incident_id = path.partition(f"/v1/pages/{self.page}/incidents")
        if base or (request.method == "PATCH") != bool(incident_id):
            return 404, {"error": "Not found"}
        if request.method == "GET":
            wanted = parse_qs(query)
            size, number = int(wanted.get("limit", ["100"])[0]), int(wanted.get("page", ["1"])[0])
            return 200, self.incidents[::-1][(number - 1) * size : number * size]
        return self._change(incident_id.strip("/"), request.json["incident"])

    def _change(self, incident_id: str, change: dict[str, Any]) -> tuple[int, Any]:
        if not incident_id:
            incident = {"id": f"i{len(self.incidents)}", "incident_updates": [], **change}
            self.incidents.append(incident)
        else:
            incident = next(known for known in self.incidents if known["id"] == incident_id)
            incident |= {"status": change["status"]}
        incident["incident_updates"].insert(0, {"status": change["status"], "body": change["body"]})
        return (500 if self.deaf else 200), incident


@contextmanager
def status_page_server() -> Iterator[StatusPageServer]:
    """A status page's API."""
    record = StatusPageServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, dict(self.headers), body)
            record.requests.append(request)
            status, document = record.answer(request)
            text = json.dumps(document).encode()
            with suppress(OSError):  # whoever asked may have given up
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        do_GET = do_PATCH = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    with _serving(Handler) as record.port:
        yield record


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """The port at which `handler` answers; an answer that is still being given at the end is not waited for."""
    server = ThreadingHTTPServer((LOOPBACK, 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
