"""A way to a store that refuses requests by their headers, as limited stores and policies do; all else goes through."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Refusal = Callable[[str, str, Mapping[str, str]], tuple[int, str, str] | None]
"""Given the method, the path and the headers in lower case: the status, code and text of a refusal, or nothing."""

_OWN = ("connection", "transfer-encoding", "content-length")


@contextmanager
def demanding_proxy(server_port: int, refuses: Refusal) -> Iterator[int]:
    """The port of the way, for a `with` block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if refusal := refuses(self.command, self.path, headers):
                status, code, text = refusal
                said = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
                self._answer(status, {"Content-Type": "application/xml", "x-amz-request-id": "1"}, said)
                return
            way = http.client.HTTPConnection("127.0.0.1", server_port)
            try:
                way.request(self.command, self.path, body, dict(self.headers.items()))
                answer = way.getresponse()
                data = answer.read()
                length = {"Content-Length": answer.headers["Content-Length"]} if self.command == "HEAD" else {}
                self._answer(answer.status, {**dict(answer.headers.items()), **length}, data)
            finally:
                way.close()

        def _answer(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in _OWN:
                    self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", headers.get("Content-Length", "") or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
