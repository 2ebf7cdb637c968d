"""A small pooler for PostgreSQL, for any suite's use: it hands clients on to sessions of its own, as pgbouncer does.

It knows no `options` at the login, answers with a process id of its own, and in the mode `transaction` gives a session
back after each transaction and the last one given back to the next who asks. What Lifeboat does with it was compared
by hand with pgbouncer 1.18 in both modes: the same refusals, and the same backup and restore.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
import threading
from contextlib import suppress
from functools import partial

import psycopg

from lifeboat.postgres.connection import PostgresServer

_SSL, _GSS = 80877103, 80877104
_TOLD = ("server_version", "server_encoding", "client_encoding", "integer_datetimes", "standard_conforming_strings",
         "DateStyle", "TimeZone")  # fmt: skip


class Pooler:
    """Listens while it is a context; `server` is how it is reached."""

    def __init__(self, behind: PostgresServer, mode: str) -> None:
        self._behind, self._mode = behind, mode
        self._idle: dict[str, list[psycopg.Connection]] = {}
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.server = PostgresServer("127.0.0.1", port, behind.user, behind.password)

    def __enter__(self) -> Pooler:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        for session in [session for sessions in self._idle.values() for session in sessions]:
            session.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError, psycopg.Error):
            database = self._log_in(client)
            if database is not None:
                self._pass_on(client, database)

    def _log_in(self, client: socket.socket) -> str | None:
        while True:
            (length,) = struct.unpack("!i", _exactly(client, 4))
            body = _exactly(client, length - 4)
            (code,) = struct.unpack("!i", body[:4])
            if code not in (_SSL, _GSS):
                break
            client.sendall(b"N")
        if code >> 16 != 3:
            return None  # somebody wants to cancel
        words = body[4:].split(b"\0")
        said = dict(zip(words[::2], words[1::2], strict=False))
        if b"options" in said:
            client.sendall(_message(b"E", b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"))
            return None
        database = said[b"database"].decode()
        session = self._take(database)
        told = [(name, session.info.parameter_status(name) or "") for name in _TOLD]
        self._idle.setdefault(database, []).append(session)
        statuses = b"".join(_message(b"S", f"{name}\0{value}\0".encode()) for name, value in told)
        key = _message(b"K", struct.pack("!i", 1 + secrets.randbelow(2**30)) + secrets.token_bytes(4))
        client.sendall(_message(b"R", bytes(4)) + statuses + key + _message(b"Z", b"I"))
        return database

    def _take(self, database: str) -> psycopg.Connection:
        with suppress(IndexError, KeyError):
            return self._idle[database].pop()
        return psycopg.connect(host=self._behind.host, port=self._behind.port, user=self._behind.user,
                               password=self._behind.password, dbname=database, autocommit=True)  # fmt: skip

    def _pass_on(self, client: socket.socket, database: str) -> None:
        session: psycopg.Connection | None = None
        try:
            while True:
                waited_for = [client] if session is None else [client, session.fileno()]
                ready, _, _ = select.select(waited_for, [], [])
                if client in ready:
                    kind, message = _read(client.recv)
                    if kind == b"X":
                        return
                    session = session or self._take(database)
                    _write(session.fileno(), message)
                elif session is not None:
                    kind, message = _read(partial(os.read, session.fileno()))
                    client.sendall(message)
                    if kind == b"Z" and message[5:] == b"I" and self._mode == "transaction":
                        self._idle.setdefault(database, []).append(session)
                        session = None
        finally:
            if session is not None:
                session.close()


def _read(receive) -> tuple[bytes, bytes]:
    head = _some(receive, 5)
    (length,) = struct.unpack("!i", head[1:])
    return head[:1], head + _some(receive, length - 4)


def _some(receive, size: int) -> bytes:
    got = b""
    while len(got) < size:
        try:
            more = receive(size - len(got))
        except BlockingIOError:
            continue
        if not more:
            raise EOFError
        got += more
    return got


def _exactly(client: socket.socket, size: int) -> bytes:
    return _some(client.recv, size)


def _write(at: int, message: bytes) -> None:
    while message:
        with suppress(BlockingIOError):
            message = message[os.write(at, message) :]


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
