"""Hiding what connections keep secret in texts that leave the house, or stay for ever: mails, status pages, reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from lifeboat.connections import Connection, Lookup
from lifeboat.errors import LifeboatError
from lifeboat.notify.alert import mask_all
from lifeboat.recovery.model import Request
from lifeboat.settings import Platform

Mask = Callable[[str], str]
"""Gives a text without what is secret in it."""


def mask_of(platform: Platform, lookup: Lookup, request: Request | None = None) -> Mask:
    """A mask for the secrets of every connection that platform.yaml names, and that are a request's targets.

    A net, not a licence: no text is made of a secret on purpose. A connection that cannot be read hides nothing.
    """
    targets = () if request is None else tuple(request.targets.values())
    secrets: set[str] = set()
    for conn_id in {*_connection_ids(platform.model_dump()), *targets}:
        try:
            connection = lookup(conn_id)
        except LifeboatError:
            continue
        if connection is not None:
            secrets.update(_secrets(connection))
    return mask_all(secrets | {quote(secret, safe="") for secret in secrets})


def _connection_ids(settings: Any) -> Iterator[str]:
    """Whatever is an id of a connection in settings, at any depth."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key in ("connection", "keyring") and isinstance(value, str):
                yield value
            elif key in ("chat", "webhooks"):
                yield from value
            elif key == "dead_man":
                yield from value.values()
            else:
                yield from _connection_ids(value)
    elif isinstance(settings, list | tuple):
        for item in settings:
            yield from _connection_ids(item)


def _secrets(connection: Connection) -> Iterator[str]:
    if connection.password:
        yield connection.password
    if connection.conn_type.startswith("http"):
        # Of webhooks, the address is the secret.
        host = connection.host or ""
        path = urlsplit(host if "://" in host else f"//{host}").path.strip("/")
        yield from _long(path.split("/"))
        yield from _long([connection.schema or ""])
    yield from _named(connection.extra, secret=connection.conn_type == "apprise")


def _named(value: Any, *, secret: bool) -> Iterator[str]:
    """Every text below a name that says it is a secret; all of it where `secret`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _named(inner, secret=secret or _SECRET.search(str(name)) is not None)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(inner, secret=secret)
    elif secret and isinstance(value, str):
        yield from _long([value, *re.split(r"[/:@?&=]", value)])


def _long(texts: Iterable[str]) -> Iterator[str]:
    """Those that are long enough to be secrets, and not words or addresses that any text may have."""
    return (text for text in texts if len(text) >= 8 and not _ADDRESS.fullmatch(text))


_ADDRESS = re.compile(r"[0-9.]+|localhost")
_SECRET = re.compile(r"password|secret|token|sas|credential|authorization|\bkeys?\b|_key\b|private", re.IGNORECASE)
