"""The address of a Redis or Valkey server, and what it says when it refuses."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from lifeboat.errors import LifeboatError, SourceError, SourceRefused, SourceUnavailable

CONNECT_SECONDS = 15
"""How long a server may take to accept a connection."""

SILENCE_SECONDS = 120
"""How long a server may say nothing while something is awaited of it."""

ACL_RULE = "ACL SETUSER <user> on ><password> +ping +info +replconf +psync"
"""What a user needs to back up. It needs no keys, but whoever may do this reads all of them."""

ACL_RULE_TO_RESTORE = "ACL SETUSER <user> on ><password> ~* +@read +@write +@connection +@scripting +info"
"""What a user needs to restore into a running server."""


@dataclass(frozen=True)
class Tls:
    """How a server is trusted, and how we show who we are. Files are PEM; without `ca`, the system's are used."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    verify: bool = True
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """The same, for a socket. Raises `OSError` for files that cannot be read."""
        context = ssl.create_default_context(cafile=self.ca)
        context.check_hostname = self.verify and self.check_hostname
        context.verify_mode = ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True)
class RedisServer:
    """Where a server is and how to get in. A host that begins with a slash is a socket's path."""

    host: str
    port: int = 6379
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def __str__(self) -> str:
        return self.host if self.host.startswith("/") else f"{self.host}:{self.port}"

    @contextmanager
    def client(self, database: int = 0, *, seconds: float = SILENCE_SECONDS) -> Iterator[Any]:
        """A client whose errors are ours. It asks nothing twice by itself."""
        with errors_of(self):
            options: dict[str, Any] = {"unix_socket_path": self.host} if self.host.startswith("/") else {
                "host": self.host, "port": self.port,
            }  # fmt: skip
            client = redis.Redis(
                **options,
                **self._tls_options(),
                db=database,
                username=self.user,
                password=self.password,
                protocol=2,
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=seconds,
                retry=Retry(NoBackoff(), 0),
                driver_info=None,
            )
            try:
                yield client
            finally:
                client.close()

    def open_socket(self) -> socket.socket:
        """A connection without a word said. Raises `SourceUnavailable` or, when trust fails, `SourceRefused`."""
        with errors_of(self):
            if self.host.startswith("/"):
                plain = socket.socket(socket.AF_UNIX)
                plain.settimeout(CONNECT_SECONDS)
                plain.connect(self.host)
            else:
                plain = socket.create_connection((self.host, self.port), timeout=CONNECT_SECONDS)
            try:
                wrapped = self.tls.context().wrap_socket(plain, server_hostname=self.host) if self.tls else plain
            except BaseException:
                plain.close()
                raise
            wrapped.settimeout(SILENCE_SECONDS)
            return wrapped

    def _tls_options(self) -> Mapping[str, Any]:
        if self.tls is None:
            return {}
        return {
            "ssl": True,
            "ssl_cert_reqs": "required" if self.tls.verify else "none",
            "ssl_check_hostname": self.tls.verify and self.tls.check_hostname,
            "ssl_ca_certs": self.tls.ca,
            "ssl_certfile": self.tls.certificate,
            "ssl_keyfile": self.tls.key,
        }


@contextmanager
def errors_of(server: RedisServer) -> Iterator[None]:
    """Turn what redis-py and sockets raise into `SourceError` kinds. No value and no key is repeated."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise as_source_error(server, error) from error


def as_source_error(server: RedisServer, error: Exception) -> LifeboatError:
    """The same error in our terms."""
    tls = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, ssl.SSLError)), None)
    if tls is not None:
        return SourceRefused(
            f"{server} is not trusted, or speaks no TLS: {getattr(tls, 'verify_message', '') or tls.reason}.",
            hint="Correct `ssl`, `ssl_ca_certs` or the host's name in the connection.",
        )
    if isinstance(error, exceptions.AuthenticationError):
        return refusal(server, "WRONGPASS")
    if isinstance(error, exceptions.NoPermissionError):
        return refusal(server, f"NOPERM {error}")
    if isinstance(error, exceptions.BusyLoadingError):
        return refusal(server, "LOADING")
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | TimeoutError | ConnectionError):
        return SourceUnavailable(
            f"{server} does not answer, or dropped the connection: {_reason(error)}.",
            hint="Is it running, and is the connection's host and port right?",
        )
    if isinstance(error, OSError):
        return SourceUnavailable(
            f"{server} cannot be reached: {_reason(error)}.", hint="Is the connection's host and port right?"
        )
    return refusal(server, str(error))


def refusal(server: RedisServer, said: str) -> LifeboatError:
    """The error for an answer that begins with a minus, by its first word."""
    for word, make in _REFUSALS.items():
        if said.startswith(word):
            return make(server, said)
    if "unknown command" in said.lower():
        return SourceRefused(
            f"{server} does not know a command that is needed: {said}",
            hint="Managed services withhold PSYNC (such as ElastiCache, MemoryDB, Azure Cache): use the provider's own "
            "backups there. Elsewhere it may have been renamed with `rename-command`; take that back.",
        )
    return SourceError(f"{server} answered: {said}", hint="Look into its log.")


def _wrong_password(server: RedisServer, _: str) -> LifeboatError:
    return SourceRefused(
        f"{server} refused the user name or password.", hint="Correct login and password in the connection."
    )


def _no_permission(server: RedisServer, said: str) -> LifeboatError:
    what = said.removeprefix("NOPERM ").removeprefix("this user has no permissions to run the ").strip()
    return SourceRefused(
        f"{server} does not allow this user what is needed: {what}.", hint=f"Let its administrator run: {ACL_RULE}."
    )


def _passing(server: RedisServer, said: str) -> LifeboatError:
    reasons = {"LOADING": "it is still loading its data", "BUSY": "a script keeps it busy", "TRYAGAIN": "a failover"}
    reason = reasons.get(said.split(" ", 1)[0], "it has lost its own master")
    return SourceUnavailable(f"{server} is not ready: {reason}.", hint="Try again when it is.")


def _out_of_memory(server: RedisServer, said: str) -> LifeboatError:
    return SourceRefused(f"{server} has no memory left by its `maxmemory`: {said}", hint="Raise `maxmemory` there.")


def _cluster(server: RedisServer, _: str) -> LifeboatError:
    return cluster_refused(server)


def cluster_refused(server: RedisServer) -> LifeboatError:
    """Redis Cluster is not backed up."""
    return SourceRefused(
        f"{server} is part of a Redis Cluster, which Lifeboat does not back up or restore.",
        hint="Protect each master by the tools of the cluster; a single server or a Sentinel's master works here.",
    )


_REFUSALS = {
    "WRONGPASS": _wrong_password,
    "NOAUTH": _wrong_password,
    "ERR invalid password": _wrong_password,
    "ERR AUTH": _wrong_password,
    "NOPERM": _no_permission,
    "LOADING": _passing,
    "BUSY ": _passing,
    "TRYAGAIN": _passing,
    "NOMASTERLINK": _passing,
    "MASTERDOWN": _passing,
    "OOM": _out_of_memory,
    "MOVED": _cluster,
    "CROSSSLOT": _cluster,
}


def _reason(error: Exception) -> str:
    for found in (error, error.__cause__, error.__context__):
        if isinstance(found, TimeoutError):
            return "it took too long"
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
    return str(error).rstrip(".") or type(error).__name__
