"""Connections in Airflow's own form, read without Airflow: one set of secrets serves both.

A connection stands in the variable `AIRFLOW_CONN_<ID>`, as a URI or as JSON (Airflow documentation, "Managing
Connections"). No message of this module repeats any part of one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from lifeboat.errors import SettingsError


@dataclass(frozen=True)
class Connection:
    """Where a server is and how to get in. What is empty is None. Values in `extra` may be text or JSON values."""

    conn_id: str
    conn_type: str
    host: str | None = None
    port: int | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    schema: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, other: AirflowConnection) -> Connection:
        """The same connection as one of Airflow's own."""
        return cls(
            conn_id=other.conn_id,
            conn_type=other.conn_type or "",
            host=other.host or None,
            port=other.port or None,
            login=other.login or None,
            password=other.password or None,
            schema=other.schema or None,
            extra=dict(other.extra_dejson),
        )


Lookup = Callable[[str], Connection | None]
"""Finds a connection by its id; None when there is none."""


class AirflowConnection(Protocol):
    """What Airflow's two classes of connections have in common."""

    @property
    def conn_id(self) -> str: ...
    @property
    def conn_type(self) -> str | None: ...
    @property
    def host(self) -> str | None: ...
    @property
    def port(self) -> int | None: ...
    @property
    def login(self) -> str | None: ...
    @property
    def password(self) -> str | None: ...
    @property
    def schema(self) -> str | None: ...
    @property
    def extra_dejson(self) -> dict[str, Any]: ...


def connections_in(environ: Mapping[str, str]) -> Lookup:
    """Finds connections among variables, as Airflow would. A malformed one raises `SettingsError`."""

    def lookup(conn_id: str) -> Connection | None:
        text = environ.get(variable_of(conn_id), "").strip()
        return parse_connection(conn_id, text) if text else None

    return lookup


def require_connection(lookup: Lookup, conn_id: str, place: str) -> Connection:
    """The connection named at `place` (`file:line`). Raises `SettingsError` with the variable to set."""
    connection = lookup(conn_id)
    if connection is None:
        raise SettingsError(
            f"{place} names the connection {conn_id!r}, which does not exist.",
            hint=f"Set {variable_of(conn_id)} in the environment or the .env file, to a URI or JSON; "
            "Airflow also finds it among its own connections.",
        )
    return connection


def variable_of(conn_id: str) -> str:
    """The variable that holds a connection."""
    return f"AIRFLOW_CONN_{conn_id.upper()}"


def parse_connection(conn_id: str, text: str) -> Connection:
    """The connection written as a URI or as JSON. Raises `SettingsError` that names the variable and not its text."""
    text = text.strip()
    try:
        return _from_json(conn_id, text) if text.startswith("{") else _from_uri(conn_id, text)
    except ValueError as error:
        # json's and urllib's own messages may quote the text, and with it the password.
        reason = error.args[0] if isinstance(error, _Malformed) else "it cannot be parsed"
        raise SettingsError(
            f"{variable_of(conn_id)} is no connection: {reason}.",
            hint="Write it as a URI, percent-encoded, such as postgres://user:p%40ss@host:5432/database, "
            'or as JSON, such as {"conn_type": "postgres", "host": "…"}.',
        ) from None


class _Malformed(ValueError):
    """Says what is wrong with a connection, without any part of it."""


def _from_json(conn_id: str, text: str) -> Connection:
    record = json.loads(text)
    unknown = record.keys() - _JSON_KEYS
    if unknown:
        raise _Malformed(f"it has the unknown keys {', '.join(sorted(unknown))}; known are {', '.join(_JSON_KEYS)}")
    extra = record.get("extra") or {}
    return _connection(conn_id, record, json.loads(extra) if isinstance(extra, str) else extra)


def _from_uri(conn_id: str, uri: str) -> Connection:
    """As Airflow's `Connection._parse_from_uri` reads it: `type://[protocol://][login[:password]@]host[:port]/schema`.

    Query parameters are the extra, each a JSON value where it parses as one; or `__extra__` has all of it as JSON.
    """
    if uri.count("://") > 2:
        raise _Malformed("`://` occurs more than twice; percent-encode it in passwords and parameters")
    scheme = urlsplit(uri).scheme
    if not scheme:
        raise _Malformed("it begins with no connection type")
    nested = uri.count("://") == 2
    rest = uri.replace(f"{scheme}://", "" if nested else "//")
    parts = urlsplit(rest)
    if nested and set(rest.split("://", 1)[0]) & set("@:"):
        raise _Malformed("`://` occurs in it twice; percent-encode it in passwords and parameters")
    host = _host(parts)
    fields = {
        "conn_type": scheme,
        "host": f"{parts.scheme}://{host}" if nested and host else host,
        "port": parts.port,
        "login": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "schema": unquote(parts.path[1:]),
    }
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "__extra__" in query:
        return _connection(conn_id, fields, json.loads(query["__extra__"] or "{}"))
    return _connection(conn_id, fields, {key: _json_or_text(value) for key, value in query.items()})


def _connection(conn_id: str, fields: Mapping[str, Any], extra: Any) -> Connection:
    if not isinstance(extra, dict):
        raise _Malformed("its extra is not a JSON object")
    conn_type = fields.get("conn_type") or ""
    try:
        port = int(fields["port"]) if fields.get("port") else None
    except (TypeError, ValueError):
        raise _Malformed("its port is not a number") from None
    return Connection(
        conn_id=conn_id,
        conn_type="postgres" if conn_type == "postgresql" else conn_type.replace("-", "_"),
        host=fields.get("host") or None,
        port=port,
        login=fields.get("login") or None,
        password=fields.get("password") or None,
        schema=fields.get("schema") or None,
        extra=extra,
    )


def _host(parts: SplitResult) -> str:
    host = unquote(parts.hostname or "")
    if "/" in host:
        # A socket's folder, percent-encoded: `hostname` has made lower case of it, so it is taken from the original.
        host = unquote(parts.netloc.rpartition("@")[2].partition(":")[0])
    return host


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


_JSON_KEYS = ("conn_type", "description", "host", "login", "password", "schema", "port", "extra")
