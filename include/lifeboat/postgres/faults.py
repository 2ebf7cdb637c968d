"""What PostgreSQL's errors mean to the person who has to act: kind, message, hint, and whether to try again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors

from lifeboat.errors import LifeboatError, SourceError, SourceRefused, SourceUnavailable

if TYPE_CHECKING:
    from lifeboat.postgres.connection import PostgresServer


@contextmanager
def errors_explained(server: PostgresServer, database: str) -> Iterator[None]:
    """Turn psycopg's errors into ours, which name server and database and never the password."""
    try:
        yield
    except psycopg.Error as error:
        raise _explained(error, server, database) from error


def _explained(error: psycopg.Error, server: PostgresServer, database: str) -> LifeboatError:
    place = f"{server}, database {database!r}"
    text = " ".join(str(error).split())
    if _is(error, errors.InvalidPassword, errors.InvalidAuthorizationSpecification) or _REFUSED.search(text):
        return SourceRefused(
            f"{place} refuses the login: {text}", hint="Correct user and password of the connection, or pg_hba.conf."
        )
    if _is(error, errors.InvalidCatalogName) or re.search(r'database ".*" does not exist', text):
        return SourceRefused(
            f"There is no database {database!r} on {server}.", hint="Correct its name in platform.yaml."
        )
    if _is(error, errors.InsufficientPrivilege):
        return SourceRefused(f"{place}: {text}", hint=f"Grant {server.user} the privilege it lacks.")
    if _is(error, errors.LockNotAvailable):
        return SourceUnavailable(f"{place}: {text}", hint="Somebody holds a lock on a table; see pg_locks there.")
    if _is(error, errors.OperationalError, psycopg.OperationalError, psycopg.InterfaceError):
        return SourceUnavailable(f"{place} does not answer: {text}", hint="Is it running, and reachable from here?")
    return SourceError(f"{place}: {text}", hint="See the server's log.")


_REFUSED = re.compile(
    r"password authentication failed|no password supplied|no pg_hba\.conf entry|role \".*\" does not exist"
)


def _is(error: psycopg.Error, *kinds: type[psycopg.Error]) -> bool:
    return isinstance(error, kinds)
