"""What a session of ours is set to, so that neither server, database, role nor environment can bend what we do.

The settings come after the login, with functions named in full, as nothing may be looked up before the search path is
ours; a pooler takes none at the login. What must hold during the login, and what client programs are to have, goes with
it as `options`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.adapt import Dumper, Loader

SEARCH_PATH = "pg_catalog, pg_temp"
"""Only what PostgreSQL brings is found without its schema. An owner of a database can plant a function or an operator
under any name, and whoever calls it runs it with rights of his own (CVE-2018-1058). Temporary things come last: not
named here, they would be found before all others."""

_KEPT_ALIVE = {
    "statement_timeout": 0,  # a count, an index or a COPY takes as long as it takes
    "lock_timeout": 0,  # where waiting has an end, our code sets one
    "idle_in_transaction_session_timeout": 0,  # an exported snapshot lives as long as its transaction
    "idle_session_timeout": 140000,  # what holds a mark or an advisory lock is idle meanwhile
    "transaction_timeout": 170000,
}
"""Limits that would end a session whose life we rely on, each with the version of the server that first knows it."""

EVENT_TRIGGERS_SINCE = 170000
"""The version that can do without event triggers, which are the application's, and has those that fire at a login."""


@dataclass
class Known:
    """What sessions have found out of a server; of nobody asked yet, nothing. Every session brings it up to date.

    `pooled`: another program stands in between, and hands each session on to one of its own; `keeps_sessions`: to the
    same one until the end, as was found out.
    """

    version: int | None = None
    pooled: bool = False
    keeps_sessions: bool = False
    may_silence: bool = False

    @property
    def at_login(self) -> dict[str, str]:
        """What is to hold from the login on: no trigger of the application's fires at it, where we may say so."""
        return {"event_triggers": "off"} if self.may_silence and not self.pooled else {}


def of_children(known: Known) -> dict[str, str]:
    """The settings of client programs' sessions; they set a search path themselves before they look at anything."""
    return {"default_transaction_read_only": "off"} | _limits(known.version or 0) | known.at_login


def _limits(version: int) -> dict[str, str]:
    return {name: "0" for name, since in _KEPT_ALIVE.items() if since <= version}


def options_text(settings: Mapping[str, str]) -> str:
    """Settings as libpq's `options` takes them, where a backslash keeps a space."""
    return " ".join("-c " + re.sub(r"([\\\s])", r"\\\1", f"{name}={value}") for name, value in settings.items())


def settle(connection: psycopg.Connection[Any], *, read_only: bool, known: Known) -> bool:
    """Give a new session its settings, in one question. False where they were not set: a pooler stands in between, and
    that it keeps a session for whoever has begun it must be known first; `insist` sets them all the same."""
    version = connection.info.server_version
    backend = connection.info.backend_pid
    asked = sql.SQL(
        "SELECT pg_catalog.pg_backend_pid(), {silence},"
        " CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {backend} THEN {settings} END"
    ).format(silence=_may_silence(version), backend=sql.Literal(backend), settings=_settings(version, read_only))
    row = connection.execute(asked).fetchone()
    assert row is not None
    known.version, known.pooled, known.may_silence = version, row[0] != backend, bool(row[1])
    return not known.pooled


def insist(connection: psycopg.Connection[Any], *, read_only: bool) -> None:
    """Give a session its settings, whoever stands in between."""
    connection.execute(sql.SQL("SELECT {}").format(_settings(connection.info.server_version, read_only)))


def keeps_sessions(
    connection: psycopg.Connection[Any], another: Callable[[], AbstractContextManager[psycopg.Connection[Any]]]
) -> bool:
    """Whether who stands in between keeps a session for whoever has begun it.

    In its modes "transaction" and "statement" the session that we have just left goes to the next who wants one.
    """
    for _ in range(3):
        ours = _backend(connection)
        with another() as other:
            other.execute("BEGIN")
            taken = _backend(other) == ours
            if taken or _backend(connection) != ours:
                return False
    return True


def _backend(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def _settings(version: int, read_only: bool) -> sql.Composed:
    # A server or a role may be set to read only, or not to; what writes says so with every session.
    wanted = {"search_path": SEARCH_PATH, "default_transaction_read_only": "on" if read_only else "off"}
    set_each = [
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(sql.Literal(name), sql.Literal(value))
        for name, value in (wanted | _limits(version)).items()
    ]
    return sql.SQL("pg_catalog.concat({})").format(sql.SQL(", ").join(set_each))


def _may_silence(version: int) -> sql.SQL:
    if version < EVENT_TRIGGERS_SINCE:
        return sql.SQL("false")
    return sql.SQL("pg_catalog.has_parameter_privilege('event_triggers', 'SET')")


# ---- text -----------------------------------------------------------------------------------------------------------

TEXT = ("utf-8", "surrogateescape")
"""How bytes become text and text bytes: of the server, of client programs, in arguments. What is no UTF-8 survives."""

RAW = "SQL_ASCII"
"""What a database is called whose bytes mean nothing to the server: it can convert them to no other encoding."""


def client_encoding(connection: psycopg.Connection[Any]) -> None:
    """Have the server give all text as UTF-8; from a database of bytes, the bytes."""
    if connection.info.parameter_status("server_encoding") != RAW:
        if connection.info.parameter_status("client_encoding") != "UTF8":
            connection.execute("SET client_encoding = 'UTF8'")
        return
    if connection.info.parameter_status("client_encoding") != RAW:
        connection.execute("SET client_encoding = 'SQL_ASCII'")
    for oid in _TEXTS:
        connection.adapters.register_loader(oid, _RawLoader)
    connection.adapters.register_dumper(str, _RawDumper)


_TEXTS = (0, 18, 19, 25, 705, 1042, 1043)
"""The oids of what holds text: unknown to psycopg, "char", name, text, unknown, bpchar, varchar."""


class _RawLoader(Loader):
    def load(self, data: Any) -> str:
        return bytes(data).decode(*TEXT)


class _RawDumper(Dumper):
    def dump(self, obj: str) -> bytes:
        return obj.encode(*TEXT)


class Name(sql.Identifier):
    """A quoted, qualified name. Psycopg's own takes the encoding of the session, which a database of bytes has not."""

    def as_bytes(self, context: Any = None) -> bytes:  # noqa: ARG002 - psycopg's own form
        return b".".join(b'"' + part.encode(*TEXT).replace(b'"', b'""') + b'"' for part in self._obj)

    def as_string(self, context: Any = None) -> str:
        return self.as_bytes(context).decode(*TEXT)


def argument(text: str, encoding: str) -> str:
    """A name as a client program takes it that speaks the encoding of its database or archive."""
    return os.fsdecode(text.encode(codec(encoding), "surrogateescape"))


def read_script(script: bytes) -> str:
    """What `pg_dumpall` or `pg_restore` has written, by the encoding that it says it is in."""
    found = re.search(rb"^SET client_encoding = '(\w+)';", script, re.MULTILINE)
    return script.decode(codec(found[1].decode()) if found else TEXT[0], TEXT[1])


def as_utf8(script: bytes, encoding: str) -> bytes:
    """A script out of an archive of this encoding, as a session of ours takes it, which speaks UTF-8."""
    if codec(encoding) == TEXT[0]:
        return script
    script = script.replace(f"SET client_encoding = '{encoding}';".encode(), b"SET client_encoding = 'UTF8';", 1)
    return script.decode(codec(encoding), TEXT[1]).encode(*TEXT)


def codec(encoding: str) -> str:
    """What Python calls one of PostgreSQL's encodings; UTF-8 for one it has not, whose bytes so survive."""
    return _CODECS.get(encoding, TEXT[0])


# Encodings that databases can have, by PostgreSQL's names, as Python calls them (PostgreSQL manual, Character Set
# Support).
_CODECS = {
    "EUC_CN": "gb2312", "EUC_JIS_2004": "euc_jis_2004", "EUC_JP": "euc_jp", "EUC_KR": "euc_kr",
    "ISO_8859_5": "iso8859-5", "ISO_8859_6": "iso8859-6", "ISO_8859_7": "iso8859-7", "ISO_8859_8": "iso8859-8",
    "KOI8R": "koi8-r", "KOI8U": "koi8-u", "LATIN1": "iso8859-1", "LATIN2": "iso8859-2", "LATIN3": "iso8859-3",
    "LATIN4": "iso8859-4", "LATIN5": "iso8859-9", "LATIN6": "iso8859-10", "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14", "LATIN9": "iso8859-15", "LATIN10": "iso8859-16", "WIN866": "cp866", "WIN874": "cp874",
    "WIN1250": "cp1250", "WIN1251": "cp1251", "WIN1252": "cp1252", "WIN1253": "cp1253", "WIN1254": "cp1254",
    "WIN1255": "cp1255", "WIN1256": "cp1256", "WIN1257": "cp1257", "WIN1258": "cp1258",
}  # fmt: skip
