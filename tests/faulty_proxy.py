"""A network that fails on purpose: a proxy on loopback between a client and a server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from demo.storage import LOOPBACK

BUFFER = 64 * 1024
EVERY = float("inf")


class FaultyProxy:
    """Passes everything on until it is told to fail; `heal` ends all faults."""

    def __init__(self, server_port: int) -> None:
        self._server = (LOOPBACK, server_port)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._moving = threading.Event()
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.dropped = 0
        self.altered = 0
        self._listen()
        self.heal()

    def refuse(self) -> None:
        """Close the port, and drop every connection."""
        with suppress(OSError):  # when it is closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            self._close(connection)

    def drop(self, *, sent: float = EVERY, received: float = EVERY, times: float = EVERY) -> None:
        """Drop connections that have sent or received more bytes than this; so many connections, or every one."""
        with self._lock:
            self._sent, self._received, self._times = sent, received, times

    def slow(self, bytes_per_second: float) -> None:
        """Let each connection send no faster than this."""
        self._pace = 1 / bytes_per_second

    def alter(self, what: bytes, by: bytes) -> None:
        """Change these bytes into others of the same number wherever a connection sends them within one piece."""
        assert len(what) == len(by)
        self._altered = what, by

    def stall(self) -> None:
        """Let nothing be sent."""
        self._moving.clear()

    def heal(self) -> None:
        """Pass everything on again, from the port it had."""
        self.drop(times=0)
        self._pace = 0.0
        self._altered = b"", b""
        self._moving.set()
        if self._listener.fileno() == -1:
            self._listener = socket.create_server((LOOPBACK, self.port))
            self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # when it is closed
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._connections |= {client, server}
                threading.Thread(target=self._send, args=(client, server), daemon=True).start()
                threading.Thread(target=self._receive, args=(client, server), daemon=True).start()

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        sent = 0
        with suppress(OSError):
            while not self._breaks(sent > self._sent) and (data := client.recv(BUFFER)):
                self._moving.wait()
                time.sleep(len(data) * self._pace)
                server.sendall(self._alter(data))
                sent += len(data)
        self._close(client, server)

    def _alter(self, data: bytes) -> bytes:
        what, by = self._altered
        if not what or what not in data:
            return data
        self.altered += 1
        return data.replace(what, by)

    def _receive(self, client: socket.socket, server: socket.socket) -> None:
        received = 0
        with suppress(OSError):
            while not self._breaks(received > self._received) and (data := server.recv(BUFFER)):
                client.sendall(data)
                received += len(data)
        self._close(client, server)

    def _breaks(self, enough: bool) -> bool:
        with self._lock:
            breaks = enough and self._times > 0
            self._times -= breaks
            self.dropped += breaks
        return breaks

    def _close(self, *connections: socket.socket) -> None:
        for connection in connections:
            with self._lock:
                self._connections.discard(connection)
            with suppress(OSError):  # when it is closed already
                connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
            connection.close()


@contextmanager
def faulty_proxy(server_port: int) -> Iterator[FaultyProxy]:
    """A proxy that lasts for a `with` block."""
    proxy = FaultyProxy(server_port)
    try:
        yield proxy
    finally:
        proxy.heal()
        proxy.refuse()
