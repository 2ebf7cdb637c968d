"""A PostgreSQL server: how to reach it, from here and from its client programs, without showing its password."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from lifeboat.errors import SourceRefused
from lifeboat.postgres import parameters, session
from lifeboat.postgres.faults import errors_explained, is_full, is_of_the_database

Connection = psycopg.Connection[Any]

FULL_SECONDS = 2.0
"""How long a server that takes no more connections is asked again."""


@dataclass(frozen=True)
class PostgresServer:
    """Where a server is and as whom to log in. `options` are further libpq parameters, such as `sslmode`.

    `maintenance` is the database to log in to for what is of the server as a whole.
    """

    host: str
    port: int = 5432
    user: str = "postgres"
    password: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    maintenance: str = "postgres"
    known: session.Known = field(default_factory=session.Known, init=False, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"

    @contextmanager
    def connect(self, database: str, *, autocommit: bool = True, read_only: bool = False) -> Iterator[Connection]:
        """A session of ours, closed at the end: with our settings and nobody else's (see session.py).

        Names are to be given in full, but for PostgreSQL's own. Raises `SourceUnavailable` or `SourceRefused`, as all
        use of it does.
        """
        with errors_explained(self, database), self._login(database) as connection:
            session.client_encoding(connection)
            if not session.settle(connection, read_only=read_only, known=self.known):
                self._refuse_sharing(connection, database)
                session.insist(connection, read_only=read_only)
            connection.autocommit = autocommit
            yield connection

    @contextmanager
    def visit(self, database: str, *, autocommit: bool = True) -> Iterator[Connection]:
        """A session as the application's are, with the settings of server, database and role. Raises as `connect`."""
        with errors_explained(self, database), psycopg.connect(**self._parameters(database)) as connection:
            session.client_encoding(connection)
            connection.autocommit = autocommit
            yield connection

    @contextmanager
    def administer(self, *, autocommit: bool = True) -> Iterator[Connection]:
        """A connection for what is of the server as a whole: to `maintenance` or, where that lets us not in, to
        `template1`, which every server has."""
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(self.connect(self.maintenance, autocommit=autocommit))
            except SourceRefused as error:
                if not is_of_the_database(error):
                    raise
                try:
                    connection = stack.enter_context(self.connect("template1", autocommit=autocommit))
                except SourceRefused as other:
                    raise SourceRefused(
                        f"{error.message} Nor is it possible through template1: {other.message}",
                        hint="Give the connection an extra `maintenance_database`: one that this user may log in to.",
                    ) from other
            yield connection

    def child_environment(self, **settings: str) -> dict[str, str]:
        """The environment of a client program of ours: how to reach the server, and the settings of its session.

        They go with the login, which a pooler does not take; there the programs' own must do. Where no server has been
        asked yet, only what all versions know is set.
        """
        # Of variables for libpq both we and they obey what the connection does not say.
        ours_too = {name: value for name, value in os.environ.items() if name.startswith("PG")}
        environment = ours_too | self.application_environment()
        if not self.known.pooled:
            ours = session.of_children(self.known) | settings
            environment["PGOPTIONS"] = f"{environment.get('PGOPTIONS', '')} {session.options_text(ours)}".strip()
        return environment

    def application_environment(self) -> dict[str, str]:
        """The environment of a program of the application's: our own, plus how to reach the server.

        The password is in the environment of that child only (PostgreSQL manual, libpq environment variables); other
        users cannot read it there, as they could read an argument.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment |= {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGAPPNAME": "lifeboat",
            "PGCONNECT_TIMEOUT": "10",
            "LC_ALL": "C",
        }
        known = parameters.variables()
        if self.password:
            environment["PGPASSWORD"] = self.password
        environment |= {known[name]: value for name, value in self.options.items() if name in known}
        return environment

    def database_argument(self, database: str) -> str:
        """What client programs take as a database: its name, whatever characters it has, and all that our own sessions
        are reached with, but for the password and the settings, which an argument would show or replace."""
        given = {name: value for name, value in self._parameters(database).items() if name not in _NOT_ARGUMENTS}
        return make_conninfo(**given)

    @contextmanager
    def _login(self, database: str) -> Iterator[Connection]:
        given = self._parameters(database)
        if ours := session.options_text(self.known.at_login):
            try:
                both = f"{given.get('options') or os.environ.get('PGOPTIONS', '')} {ours}".strip()
                connection = _opened(**given | {"options": both})
            except psycopg.OperationalError as error:
                # Another server answers than before, or another program in front of it.
                if not re.search("event_triggers|unsupported startup parameter", str(error)):
                    raise
                connection = _opened(**given)
        else:
            connection = _opened(**given)
        with connection:
            yield connection

    def _parameters(self, database: str) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password or None,
            "dbname": database,
            "application_name": "lifeboat",
            "connect_timeout": 10,
            "keepalives_idle": 30,
            "autocommit": True,
            **self.options,
        }

    def _refuse_sharing(self, connection: Connection, database: str) -> None:
        """Raise `SourceRefused` where settings of a session would be others' too, and not ours for long."""
        if self.known.keeps_sessions:
            return
        if not session.keeps_sessions(connection, lambda: psycopg.connect(**self._parameters(database))):
            raise SourceRefused(
                f"{self}, database {database!r}, is reached through a pooler that shares its sessions out by the "
                "transaction; a backup needs sessions of its own.",
                hint="Let the connection lead to the server itself, or to a pool with `pool_mode = session`.",
            )
        self.known.keeps_sessions = True


def _opened(**given: Any) -> Connection:
    """A connection. A session of ours that has just ended counts for a moment still, where few are allowed."""
    until = time.monotonic() + FULL_SECONDS
    while True:
        try:
            return psycopg.connect(**given)
        except psycopg.OperationalError as error:
            if not is_full(error) or time.monotonic() > until:
                raise
            time.sleep(0.1)


_NOT_ARGUMENTS = frozenset({"password", "options", "autocommit"})


def identifier(*parts: str) -> sql.Identifier:
    """A quoted, qualified name, whatever bytes it has."""
    return session.Name(*parts)
