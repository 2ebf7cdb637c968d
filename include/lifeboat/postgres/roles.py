"""Roles of the source on the server that is restored to: missing ones are made, all at once, and whatever is not as it
was is told, of those that were there before too.

Who restores need not be a superuser: what a role is by default is not asked for, and what the server does not let us
give is left out and told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg
from psycopg import errors, sql

from lifeboat.postgres.connection import Connection, PostgresServer, identifier
from lifeboat.postgres.globals import missing_roles, name_of, split_statements, statements_for
from lifeboat.postgres.session import TEXT

DEFAULTS: Mapping[str, bool] = {
    "SUPERUSER": False, "INHERIT": True, "CREATEROLE": False, "CREATEDB": False, "LOGIN": False, "REPLICATION": False,
    "BYPASSRLS": False,
}  # fmt: skip
"""What a role may, and whether it may without anybody saying so (PostgreSQL manual, CREATE ROLE)."""


@dataclass(frozen=True)
class Role:
    """What is known of a role. `password` is a hash, None where there is none, and empty where it is not known."""

    may: Mapping[str, bool] = field(default_factory=lambda: dict(DEFAULTS))
    limit: int = -1
    password: str | None = field(default=None, repr=False)
    until: str | None = None
    settings: frozenset[tuple[str, str]] = frozenset()
    members_of: frozenset[str] = frozenset()


def restore_roles(admin: Connection, server: PostgresServer, script: str, owner: str) -> tuple[str, ...]:
    """Make the script's roles that are missing, all or none; what was made, and what differs from the source.

    `owner` is the database's. Raises what psycopg raises when a role cannot be made at all.
    """
    existing = {name for (name,) in admin.execute("SELECT rolname FROM pg_catalog.pg_roles")}
    missing = missing_roles(script, existing)
    with admin.transaction():
        with suppress(errors.UndefinedObject), admin.transaction():
            # From 16 on, who makes a role is not by that able to act as it (PostgreSQL manual, Role Attributes).
            admin.execute("SET LOCAL createrole_self_grant = 'set, inherit'")
        for statement in statements_for(script, missing):
            for part in _parts(statement):
                if part.startswith("CREATE ROLE"):
                    admin.execute(part.encode())
                else:
                    _try(admin, part)
    notes = [f"The role {role} was created." for role in missing]
    notes += _joined(admin, server, [*missing, owner])
    return (*notes, *_differences(admin, script))


def _try(admin: Connection, statement: str) -> None:
    """What is refused is not as the source had it, and so is told with all else that differs."""
    try:
        with admin.transaction():
            admin.execute(statement.encode(*TEXT))
    except (psycopg.OperationalError, psycopg.InterfaceError):
        raise
    except psycopg.Error:
        return


def _parts(statement: str) -> Iterator[str]:
    """A statement, or each part of it that may be refused alone; without what is so by default."""
    found = _ATTRIBUTES.fullmatch(statement)
    if found is None:
        yield statement
        return
    for word in _words(found["rest"]):
        name = word.removeprefix("NO") if word.removeprefix("NO") in DEFAULTS else word
        if name not in DEFAULTS or (word == name) is not DEFAULTS[name]:
            yield f"{found['head']} {word}"


def _joined(admin: Connection, server: PostgresServer, roles: Sequence[str]) -> Iterator[str]:
    """Become a member of those of these roles that we may: only so things can be given to them."""
    rows = admin.execute(
        """
        SELECT rolname FROM pg_catalog.pg_roles r
         WHERE rolname = ANY(%s) AND NOT rolsuper AND NOT pg_has_role(oid, 'USAGE')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles me ON me.oid = m.roleid
                            WHERE m.member = r.oid AND me.rolname = current_user)
        """,
        [list(roles)],
    ).fetchall()
    for (name,) in rows:
        with suppress(errors.InsufficientPrivilege, errors.InvalidGrantOperation):
            admin.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(identifier(name)))
            yield f"{server.user} was made a member of the role {name}, to give it what it owned."


# ---- what differs ---------------------------------------------------------------------------------------------------


def _differences(admin: Connection, script: str) -> Iterator[str]:
    there = _found(admin)
    passwords = " PASSWORD " in script  # they are left out where the source forbids to read them
    for name, was in _stated(script):
        now = there.get(name)
        if now is None:
            yield f"The role {name} is missing."
            continue
        differs = [
            f"may {'' if now.may[what] else 'not '}{_MAY[what]}" for what in DEFAULTS if was.may[what] != now.may[what]
        ]
        if passwords and now.password != "" and was.password != now.password:
            differs.append(
                "has no password" if now.password is None else "has another password" if was.password else
                "has a password"
            )  # fmt: skip
        elif passwords and now.password == "" and was.password is not None:
            differs.append("may have another password, which cannot be seen from here")
        if was.limit != now.limit:
            differs.append(f"has the connection limit {now.limit}, not {was.limit}")
        if was.until is not None and now.until is None:
            differs.append("has a password without an end")
        differs += [f"is not a member of {other}" for other in sorted(was.members_of - now.members_of)]
        differs += [f"is a member of {other} too" for other in sorted(now.members_of - was.members_of)]
        mine, theirs = dict(now.settings), dict(was.settings)
        differs += [
            f"has another setting of {setting}" for setting in sorted(theirs.keys() | mine.keys())
            if _plain(mine.get(setting)) != _plain(theirs.get(setting))
        ]  # fmt: skip
        if differs:
            yield f"The role {name} is not as it was on the source: it {', '.join(differs)}."


_MAY = {
    "SUPERUSER": "do everything, as a superuser", "INHERIT": "use at once what its roles may",
    "CREATEROLE": "make roles", "CREATEDB": "make databases", "LOGIN": "log in", "REPLICATION": "replicate",
    "BYPASSRLS": "bypass row-level security",
}  # fmt: skip


def _plain(value: str | None) -> str | None:
    """A setting's value without quotes, which a list has in either place, and each otherwise."""
    return None if value is None else re.sub(r"(?<![\w'])E(?=')|[\s\"'\\]+", "", value)


def _found(admin: Connection) -> dict[str, Role]:
    """The roles of the server as they are now."""
    readable = admin.execute("SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')").fetchone() == (True,)
    secret = "(SELECT rolpassword FROM pg_catalog.pg_authid a WHERE a.oid = r.oid)" if readable else "''"
    rows = admin.execute(
        f"""
        SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,
               rolconnlimit, {secret}, rolvaliduntil::text, coalesce(
                   (SELECT setconfig FROM pg_catalog.pg_db_role_setting WHERE setrole = r.oid AND setdatabase = 0),
                   '{{}}'),
               ARRAY(SELECT g.rolname::text FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g
                         ON g.oid = m.roleid WHERE m.member = r.oid)
          FROM pg_catalog.pg_roles r
        """.encode()  # noqa: S608 - one of two constants
    ).fetchall()
    return {
        name: Role(
            dict(zip(DEFAULTS, may, strict=True)),
            limit,
            password,
            until,
            frozenset((text.partition("=")[0], text.partition("=")[2]) for text in settings),
            frozenset(groups),
        )
        for name, *may, limit, password, until, settings, groups in rows
    }


def _stated(script: str) -> Iterator[tuple[str, Role]]:
    """The roles that the script makes, as it describes them."""
    roles: dict[str, Role] = {}
    members: dict[str, set[str]] = {}
    settings: dict[str, set[tuple[str, str]]] = {}
    for statement in split_statements(script):
        if found := _CREATED.fullmatch(statement):
            roles[name_of(found[1])] = Role()
        elif found := _ATTRIBUTES.fullmatch(statement):
            roles[name_of(found["name"])] = _described(_words(found["rest"]))
        elif found := _SET.fullmatch(statement):
            settings.setdefault(name_of(found["name"]), set()).add((name_of(found["what"]), found["value"]))
        elif found := _MEMBER.match(statement):
            members.setdefault(name_of(found["member"]), set()).add(name_of(found["group"]))
    for name, role in roles.items():
        yield (
            name,
            Role(role.may, role.limit, role.password, role.until, frozenset(settings.get(name, ())),
                 frozenset(members.get(name, ()))),
        )  # fmt: skip


def _described(words: Sequence[str]) -> Role:
    may = dict(DEFAULTS)
    limit, password, until = -1, None, None
    for word in words:
        name, _, value = (
            word.rpartition(" ") if word.startswith(("CONNECTION", "VALID", "PASSWORD")) else (word, "", "")
        )
        bare = name.removeprefix("NO")
        if bare in may:
            may[bare] = bare == name
        elif name.startswith("CONNECTION"):
            limit = int(value)
        elif word.startswith("PASSWORD"):
            password = _text(word.removeprefix("PASSWORD "))
        elif word.startswith("VALID"):
            until = _text(word.removeprefix("VALID UNTIL "))
    return Role(may, limit, password, until)


def _text(literal: str) -> str:
    return literal.removeprefix("E").strip("'").replace("''", "'")


def _words(rest: str) -> list[str]:
    return [match[0] for match in _WORD.finditer(rest)]


_NAME = r'(?:"(?:[^"]|"")+"|[^\s"]+)'
_STRING = r"E?'(?:[^'\\]|''|\\.)*'"
_CREATED = re.compile(rf"CREATE ROLE ({_NAME})")
_ATTRIBUTES = re.compile(rf"(?s)(?P<head>ALTER ROLE (?P<name>{_NAME}) WITH) (?P<rest>.+)")
_WORD = re.compile(rf"CONNECTION LIMIT -?\d+|PASSWORD {_STRING}|VALID UNTIL {_STRING}|[A-Z]+", re.DOTALL)
_SET = re.compile(rf"(?s)ALTER ROLE (?P<name>{_NAME}) SET (?P<what>{_NAME}) (?:TO|=) (?P<value>.+)")
_MEMBER = re.compile(rf"GRANT (?P<group>{_NAME}) TO (?P<member>{_NAME})(?: WITH| GRANTED|\Z)")
