"""An RDB taken as a replica takes it: the server forks, and sends its data as of that moment.

Nothing is written to this host's disk, and the server's own persistence is not touched. The protocol is that of
redis/src/replication.c; `redis-cli --rdb` does the same.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lifeboat.errors import DumpFailed, LifeboatError, SourceError, SourceUnavailable
from lifeboat.redis_source.connection import SILENCE_SECONDS, RedisServer, errors_of, refusal
from lifeboat.streams import CHUNK

MARK = 40
"""Bytes of the mark that ends an RDB whose length is not known beforehand."""


@dataclass(frozen=True)
class RdbTransfer:
    """An RDB on its way. `replication_id` and `offset` are the moment in the server's history it is of."""

    replication_id: str
    offset: int
    chunks: Iterator[bytes]


@contextmanager
def rdb_of(server: RedisServer, *, version: str = "") -> Iterator[RdbTransfer]:
    """Ask a server for its RDB; its bytes are then read from `chunks`, which raises unless they end as they should.

    `version` is the server's own: Valkey writes for an older one otherwise, and fails on what that did not know.
    Raises `SourceRefused` when the user may not, `SourceUnavailable`, and `DumpFailed` when the server cannot make it.
    """
    with _Link(server) as link:
        link.introduce()
        # The server then keeps no changes for us while it sends, so a slow repository costs it no memory (6.2 and on).
        link.ask("REPLCONF", "rdb-only", "1", optional=True)
        # Straight from the fork into the connection, when the server prefers so; else by way of a file of its own.
        link.ask("REPLCONF", "capa", "eof", "capa", "psync2")
        if version:
            link.ask("REPLCONF", "version", version, optional=True)
        answer = link.ask("PSYNC", "?", "-1").split()
        if answer[0] != "FULLRESYNC" or len(answer) < 3:
            raise SourceError(f"{server} answered PSYNC with {answer[0]}.", hint="Is it a Redis or Valkey server?")
        yield RdbTransfer(answer[1], int(answer[2]), link.rdb())


def check_replication(server: RedisServer) -> None:
    """Raise what `rdb_of` would raise before the server begins to fork, as far as can be known without it."""
    with _Link(server) as link:
        link.introduce()
        link.ask("REPLCONF", "capa", "eof")


class _Link:
    """One connection on which a server is spoken to as a replica does."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._buffer = b""
        self._socket: socket.socket | None = None
        self._received = 0

    def __enter__(self) -> _Link:
        self._socket = self._server.open_socket()
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def introduce(self) -> None:
        """Log in where there is a password."""
        user, password = self._server.user, self._server.password
        if password:
            self.ask("AUTH", *([user] if user else []), password)
        self.ask("PING")

    def ask(self, *words: str, optional: bool = False) -> str:
        """Send a command; its answer, one line. Raises what the server's refusal means, unless it is `optional`."""
        assert self._socket is not None
        parts = [word.encode() for word in words]
        command = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with errors_of(self._server):
            self._socket.sendall(command)
        answer = self._line()
        while not answer:  # the server says that it is alive
            answer = self._line()
        if answer.startswith("-") and not optional:
            raise self._refusal(answer[1:])
        return answer[1:]

    def rdb(self) -> Iterator[bytes]:
        """Yield the RDB that the server announces next, once its fork is ready."""
        try:
            announced = self._line()
            while not announced:
                announced = self._line()
        except SourceUnavailable as error:
            raise self._failed(error.message) from error
        if announced.startswith("-"):
            raise self._refusal(announced[1:])
        if announced.startswith("$EOF:") and len(announced) == len("$EOF:") + MARK:
            yield from self._until(announced.removeprefix("$EOF:").encode())
        elif announced.startswith("$") and announced[1:].isdigit():
            yield from self._exactly(int(announced[1:]))
        else:
            raise SourceError(f"{self._server} sent no RDB.", hint="Is it a Redis or Valkey server?")

    def _exactly(self, count: int) -> Iterator[bytes]:
        while self._received < count:
            chunk = self._some(count - self._received)
            self._received += len(chunk)
            yield chunk

    def _until(self, mark: bytes) -> Iterator[bytes]:
        """The mark ends the stream, and nothing follows it: the server waits for an acknowledgement."""
        held = b""
        while not held.endswith(mark) or self._buffer:
            held += self._some(CHUNK)
            if len(held) > MARK:
                self._received += len(held) - MARK
                yield held[:-MARK]
                held = held[-MARK:]

    def _some(self, most: int) -> bytes:
        """Whatever has come, at most so much. Raises `SourceUnavailable` when the connection ends."""
        if not self._buffer:
            self._receive(within_rdb=True, most=most)
        some, self._buffer = self._buffer[:most], self._buffer[most:]
        return some

    def _line(self) -> str:
        while b"\n" not in self._buffer:
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r").decode(errors="replace")

    def _receive(self, *, within_rdb: bool = False, most: int = CHUNK) -> None:
        assert self._socket is not None
        try:
            with errors_of(self._server):
                received = self._socket.recv(min(most, CHUNK))
        except SourceUnavailable as error:
            raise self._dropped(error.message) if within_rdb else error from None
        if not received:
            raise (
                self._dropped(f"{self._server} closed the connection.")
                if within_rdb
                else SourceUnavailable(f"{self._server} closed the connection.", hint="Its log says why.")
            )
        self._buffer += received

    def _dropped(self, reason: str) -> LifeboatError:
        return SourceUnavailable(
            f"The RDB of {self._server} broke off after {self._received} bytes: {reason}",
            hint=f"Its log says why: it may have been stopped, or a child of it have been ended for lack of memory. "
            f"A server also ends a replica that takes nothing for `repl-timeout`; {SILENCE_SECONDS} s of silence end "
            "it here.",
        )

    def _failed(self, reason: str) -> LifeboatError:
        return DumpFailed(
            f"{self._server} could not make its RDB, and sent nothing of it: {reason}",
            hint="Its log says why, most often no memory to fork (see `vm.overcommit_memory`) or, with "
            "`repl-diskless-sync no`, a full or read-only `dir`.",
        )

    def _refusal(self, said: str) -> LifeboatError:
        if "BGSAVE failed" in said or "Unable to perform background save" in said:
            return self._failed(said)
        return refusal(self._server, said)
