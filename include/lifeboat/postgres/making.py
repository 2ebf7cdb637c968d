"""Making the database that a restore fills. It is known for ours before it exists, whatever ends us meanwhile.

It is made under a name that is unmistakably ours, marked there, and only then given the name that was asked for. While
it is made, our session holds an advisory lock on that name, in the database it administers from; so one of such a name
and no lock is what a killed restore has left, and is removed by the next.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import errors, sql

from lifeboat.errors import LifeboatError, NotReady, RestoreFailed, TargetUnavailable
from lifeboat.postgres.connection import Connection, PostgresServer, identifier
from lifeboat.postgres.evidence import DatabaseProperties
from lifeboat.postgres.faults import fault_of, words_of
from lifeboat.postgres.unfinished import mark_unfinished
from lifeboat.progress import Report

PREFIX = "lifeboat_unfinished_"


def refuse_unable(admin: Connection, server: PostgresServer) -> None:
    """Raise `NotReady` where no database can be made at all, while nothing has been touched."""
    row = admin.execute(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool, rolsuper OR rolcreatedb"
        "  FROM pg_catalog.pg_roles WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    standby, read_only, able = row
    if standby:
        raise NotReady(
            f"{server} is a standby.",
            hint="Name the primary, which takes new databases. Nothing was touched.",
        )
    if read_only:
        raise NotReady(
            f"{server} is read-only: default_transaction_read_only is set there.",
            hint=f"Nothing was touched. ALTER ROLE {server.user} SET default_transaction_read_only = off.",
        )
    if not able:
        raise NotReady(
            f"{server.user} may not make databases on {server.host}.",
            hint=f"ALTER ROLE {server.user} CREATEDB. Nothing was touched.",
        )


def make_database(
    admin: Connection, server: PostgresServer, database: str, was: DatabaseProperties, tell: Report
) -> tuple[int, tuple[str, ...]]:
    """Make a database as the source was, marked as unfinished while this connection lasts; its oid, and remarks.

    Raises `RestoreFailed` when it cannot be made; then nothing of it is left.
    """
    remove_nameless(admin, tell)
    row = admin.execute("SELECT pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = %s", [was.owner]).fetchone()
    with _explained(admin, server, database, was):
        if row == (False,):  # who makes it may neither mark nor rename it: it is made where it is to be
            admin.execute(_creating(database, was))
            oid = _oid(admin, database)
            return oid, mark_unfinished(admin, database, oid)
        name = f"{PREFIX}{secrets.token_hex(8)}"
        admin.execute("SELECT pg_advisory_lock(%s)", [_lock(name)])
        try:
            admin.execute(_creating(name, was))
            oid = _oid(admin, name)
            remarks = mark_unfinished(admin, name, oid)
            admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(identifier(name), identifier(database)))
        except BaseException:
            with suppress(psycopg.Error):
                _drop(admin, name)
            raise
        finally:
            with suppress(psycopg.Error):
                admin.execute("SELECT pg_advisory_unlock(%s)", [_lock(name)])
    return oid, remarks


def remove_nameless(admin: Connection, tell: Report) -> None:
    """Drop what killed restores have left before it had its name; never one that is being made now."""
    pattern = f"{PREFIX}[0-9a-f]{{16}}"
    rows = admin.execute("SELECT datname FROM pg_database WHERE datname ~ %s", [f"^{pattern}$"]).fetchall()
    for (name,) in rows:
        if admin.execute("SELECT pg_try_advisory_lock(%s)", [_lock(name)]).fetchone() != (True,):
            continue
        try:
            tell(f"removing {name!r}, which a restore that was cut short has left")
            # What another user has left is for him to remove.
            with suppress(errors.InsufficientPrivilege, errors.InvalidCatalogName):
                _drop(admin, name)
        finally:
            admin.execute("SELECT pg_advisory_unlock(%s)", [_lock(name)])


def _creating(name: str, was: DatabaseProperties) -> sql.Composed:
    parts = [
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
            identifier(name),
            identifier(was.owner),
            *map(sql.Literal, (was.encoding, was.collate, was.ctype)),
        )
    ]
    if was.locale_provider == "i":
        parts.append(sql.SQL("LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(was.locale)))
    elif was.locale_provider == "b":
        parts.append(sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(was.locale)))
    return sql.SQL(" ").join(parts)


def _drop(admin: Connection, name: str) -> None:
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier(name)))


def _oid(admin: Connection, database: str) -> int:
    row = admin.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", [database]).fetchone()
    assert row is not None
    return int(row[0])


def _lock(name: str) -> int:
    """Locks are shared by everybody who uses that database; this number is of the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


# ---- what the server said -------------------------------------------------------------------------------------------


@contextmanager
def _explained(admin: Connection, server: PostgresServer, database: str, was: DatabaseProperties) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        fault = fault_of(error)
        kind = TargetUnavailable if fault is not None and fault.passing else RestoreFailed
        hint = _hint(admin, server, error, was.owner) or (fault.hint_for(server.user) if fault else "")
        said = words_of(error)
        error.args = (said,)
        raise kind(
            f"{server} cannot make {database!r} as the source was, owned by {was.owner!r}, with the encoding "
            f"{was.encoding} and the locale {was.locale or was.collate}: {said}",
            hint=hint or "The server's log may tell more.",
        ) from error


def _hint(admin: Connection, server: PostgresServer, error: psycopg.Error, owner: str) -> str:
    """What to do about a refusal that is of making a database, and not of the server as a whole."""
    with suppress(psycopg.Error, LifeboatError):
        there = admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [owner]).fetchone() is not None
        if isinstance(error, errors.UndefinedObject) and not there:
            return f"Create the role {owner!r} there, or restore to a server that has it."
        if isinstance(error, errors.InsufficientPrivilege):
            return (
                f"{server.user} must be able to become the owner: GRANT {identifier(owner).as_string(admin)} "
                f"TO {identifier(server.user).as_string(admin)}."
            )
        if isinstance(error, errors.DuplicateDatabase):
            return "Somebody has just made one of that name. Choose another."
    if isinstance(error, _OF_LOCALE):
        return "The encoding or the locale is missing there: install the locale, or restore to a server that has it."
    return ""


_OF_LOCALE = (errors.UndefinedObject, errors.WrongObjectType, errors.InvalidParameterValue, errors.FeatureNotSupported)
