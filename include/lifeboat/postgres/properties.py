"""What is of a database itself and not in its dump: settings, grants, and how many may be connected to it."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

from lifeboat.postgres.connection import Connection, identifier
from lifeboat.postgres.evidence import DatabaseProperties
from lifeboat.postgres.faults import words_of


def apply_properties(admin: Connection, database: str, was: DatabaseProperties) -> tuple[str, ...]:
    """Give a restored database the settings and grants that the source had; remarks on those that are refused."""
    name = identifier(database)
    statements = []
    for role, setting in was.settings:
        parameter, _, value = setting.partition("=")
        whose = (
            sql.SQL("ROLE {} IN DATABASE {}").format(identifier(role), name)
            if role
            else sql.SQL("DATABASE {}").format(name)
        )
        shown = sql.SQL(value) if parameter in _LISTS else sql.Literal(value)
        statements.append(sql.SQL("ALTER {} SET {} TO {}").format(whose, identifier(parameter), shown))
    if was.grants:
        statements.append(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC, {}").format(name, identifier(was.owner)))
    for grantee, privilege, grantable in was.grants:
        to = identifier(grantee) if grantee else sql.SQL("PUBLIC")
        option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
        what = sql.SQL({"CONNECT": "CONNECT", "CREATE": "CREATE", "TEMPORARY": "TEMPORARY"}[privilege])
        statements.append(sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(what, name, to, option))
    return _run(admin, statements)


def apply_connection_limit(admin: Connection, database: str, was: DatabaseProperties) -> tuple[str, ...]:
    """Allow as many connections as the source did, once we need no more of our own; a remark where that is refused."""
    if was.connection_limit < 0:
        return ()
    limit = sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(identifier(database), was.connection_limit)
    return _run(admin, [limit])


# Settings whose stored value is a list that is quoted already; quoting it again would make one long name of it
# (variable_is_guc_list_quote in PostgreSQL's dumputils.c).
_LISTS = frozenset({"search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"})


def _run(admin: Connection, statements: Iterable[sql.Composed]) -> tuple[str, ...]:
    notes = []
    for statement in statements:
        try:
            admin.execute(statement)
        except psycopg.Error as error:
            notes.append(f"{statement.as_string(admin)} failed: {words_of(error)}")
    return tuple(notes)
