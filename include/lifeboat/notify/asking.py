"""Asking a server by HTTP, through a connection of type `http`: the address, the credentials, and what may be said.

What goes wrong is `NotTaken`. Its text names the connection and the server, never an address that is itself a secret,
and never what the server answered.
"""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from lifeboat.connections import Connection, variable_of
from lifeboat.errors import NotTaken, SettingsError

SECONDS = 10.0
"""How long a server may take to answer, unless its connection's `timeout` says otherwise."""

LONGEST = 4 * 1024 * 1024
"""The bytes of an answer that are read at most."""


def ask(
    name: str,
    connection: Connection,
    url: str,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    whole: bool = False,
) -> bytes:
    """What a server answers to a request, its first byte or the `whole`; a POST where it has a body.

    Raises `NotTaken` for anything but success.
    """
    seconds = float(connection.extra.get("timeout") or SECONDS)
    request = urllib.request.Request(  # noqa: S310 - `url_of` gives http alone
        url, data=body, headers={"User-Agent": "lifeboat", **(headers or {})}, method=method
    )
    try:
        with _opener.open(request, timeout=seconds) as answer:
            return _read(answer, seconds) if whole else answer.read(1)
    except urllib.error.HTTPError as error:
        error.close()
        permanent = error.code < 500 and error.code not in _LATER
        raise not_taken(name, connection, f"it answered with status {error.code}", permanent) from None
    except (OSError, HTTPException, ValueError) as error:
        raise not_taken(name, connection, reason_of(error), is_distrusted(error)) from None


def headers_of(connection: Connection, scheme: str = "Bearer") -> dict[str, str]:
    """The headers a connection asks for: its credentials, a password without a login as a token; and its extras."""
    headers = {name: str(text) for name, text in connection.extra.items() if name not in _NO_HEADERS}
    if connection.login and connection.password:
        pair = b64encode(f"{connection.login}:{connection.password}".encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    elif connection.password:
        headers["Authorization"] = f"{scheme} {connection.password}"
    return headers


def url_of(connection: Connection) -> str:
    """The address, as Airflow's HTTP hook makes it; a connection written as a URI is itself. Raises `SettingsError`."""
    host, schema = connection.host or "", connection.schema or ""
    if "://" in host:
        url = host
    else:
        scheme = schema if schema in _HTTP else connection.conn_type if connection.conn_type in _HTTP else "http"
        url = f"{scheme}://{host}"
    parts = urlsplit(url)
    if connection.port and parts.port is None:
        url = f"{parts.scheme}://{parts.netloc}:{connection.port}{parts.path}"
    if schema and schema not in _HTTP:
        url = f"{url.rstrip('/')}/{schema}"
    if parts.scheme not in _HTTP or not parts.hostname:
        raise SettingsError(
            f"{variable_of(connection.conn_id)} has no address to be asked.",
            hint='Set it to {"conn_type": "http", "host": "https://…"}.',
        )
    return url


def not_taken(name: str, connection: Connection, reason: str, permanent: bool = False) -> NotTaken:
    """The error of a channel whose message was not taken; one that is not `permanent` may be tried again."""
    where = ""
    if connection.conn_type != "apprise":
        host = connection.host or ""
        parts = urlsplit(host if "://" in host else f"//{host}")
        where = f" at {parts.hostname}{f':{connection.port or parts.port}' if connection.port or parts.port else ''}"
    error = NotTaken(
        f"{name}{where} did not take the message: {reason}.",
        hint=f"Look at that service, and at {variable_of(connection.conn_id)}.",
    )
    error.transient = not permanent
    return error


def reason_of(error: BaseException) -> str:
    """A reason without addresses."""
    inner = getattr(error, "reason", error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({inner.verify_message}); SSL_CERT_FILE can name its authority's"
    if isinstance(inner, TimeoutError):
        return "it did not answer in time"
    return (inner.strerror if isinstance(inner, OSError) else None) or type(inner).__name__


def is_distrusted(error: BaseException) -> bool:
    """Whether a server's certificate is not trusted, which no waiting changes."""
    return isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would make an empty GET of a POST, and success of a message that nobody has got."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _read(answer: Any, seconds: float) -> bytes:
    """All of an answer, as far as it comes in time: the time limit of a socket begins anew with every byte."""
    deadline, read = time.monotonic() + seconds, bytearray()
    while chunk := answer.read1(65536):
        read += chunk
        if len(read) > LONGEST:
            raise ValueError
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(read)


_opener = urllib.request.build_opener(_NoRedirects)
_HTTP = ("http", "https")
_LATER = frozenset({408, 420, 425, 429})

# What Airflow's HTTP hook keeps for itself of a connection's extra; the rest are headers.
_NO_HEADERS = frozenset(
    {"stream", "cert", "proxies", "proxy", "timeout", "verify", "verify_ssl", "allow_redirects", "max_redirects",
     "trust_env", "check_response", "srv_lookup"}
)  # fmt: skip
