"""Roles on a server that lets us be no superuser: all or none are made, and whatever is not as it was is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from lifeboat.errors import NotReady, SourceError
from lifeboat.postgres.connection import Connection, PostgresServer
from lifeboat.postgres.dump import DatabaseDump, dump_database
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.roles import restore_roles
from tests.fixtures_postgres import MAJORS, Clusters, new_name
from tests.postgres.artifacts import Kept, restore

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Managed:
    """A server, its manager who is no superuser, and a superuser's connection."""

    manager: PostgresServer
    root: Connection


@pytest.fixture(params=MAJORS)
def managed(request: pytest.FixtureRequest, clusters: Clusters) -> Iterator[Managed]:
    server, manager = clusters.get(request.param).server, new_name("manager")
    with server.visit("postgres") as root:
        root.execute(f"CREATE ROLE {manager} LOGIN CREATEROLE CREATEDB PASSWORD 'm'".encode())
        yield Managed(replace(server, user=manager, password="m"), root)


def script_of(*roles: str) -> str:
    return "".join(
        f"CREATE ROLE {role};\nALTER ROLE {role} WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION "
        "NOBYPASSRLS PASSWORD 'SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2E=$c3RvcmVka2V5c3RvcmVka2V5c3RvcmVka2V5c3Q=:"
        "c2VydmVya2V5c2VydmVya2V5c2VydmVya2V5c2U=';\n"
        for role in roles
    )


def test_a_database_and_its_owner_are_restored_by_one_who_is_no_superuser(
    managed: Managed, installed: tuple[Programs, ...]
) -> None:
    owner, kept, target = new_name("app"), Kept(), new_name("target")
    dump = dumped_and_gone(managed, managed.manager, kept, owner, installed)

    report = restore(kept, dump, managed.manager, target, installed)

    assert f"The role {owner} was created." in report.notes
    row = managed.root.execute("SELECT rolcanlogin, rolpassword FROM pg_authid WHERE rolname = %s", [owner]).fetchone()
    assert row is not None
    assert row[0]
    assert str(row[1]).startswith("SCRAM-SHA-256$")
    found = managed.root.execute(
        "SELECT pg_get_userbyid(datdba), shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
        [target],
    ).fetchone()
    assert found == (owner, None)


def dumped_and_gone(
    managed: Managed, server: PostgresServer, kept: Kept, owner: str, installed: tuple[Programs, ...]
) -> DatabaseDump:
    """A database of an owner's own, of which nothing is left on the server."""
    name = new_name("owned")
    managed.root.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'app'".encode())
    managed.root.execute(f"CREATE DATABASE {name} OWNER {owner}".encode())
    root = replace(server, user=managed.root.info.user, password=managed.root.info.password)
    with root.visit(name) as connection:
        connection.execute(f"SET ROLE {owner}; CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 1 AS a".encode())
    dump = dump_database(root, name, kept, installed=installed)
    managed.root.execute(f"DROP DATABASE {name}".encode())
    managed.root.execute(f"DROP ROLE {owner}".encode())
    return dump


def test_roles_are_made_all_or_none(managed: Managed) -> None:
    first, second = new_name("role"), new_name("pg_role")  # the server keeps names that begin so for itself

    def make() -> None:
        with managed.manager.visit("postgres") as admin:
            restore_roles(admin, managed.manager, script_of(first, second), first)

    with pytest.raises(SourceError, match="is reserved"):
        make()

    assert managed.root.execute("SELECT FROM pg_roles WHERE rolname = %s", [first]).fetchone() is None


def test_what_may_not_be_given_is_left_out_and_told(managed: Managed) -> None:
    name, group = new_name("strong"), new_name("strong_group")
    script = (
        f"CREATE ROLE {group};\nALTER ROLE {group} WITH NOSUPERUSER INHERIT;\n"
        f"CREATE ROLE {name};\nALTER ROLE {name} WITH SUPERUSER NOINHERIT CREATEROLE CREATEDB LOGIN REPLICATION "
        f"BYPASSRLS CONNECTION LIMIT 7 VALID UNTIL '2040-01-01 00:00:00+00';\n"
        f"ALTER ROLE {name} SET work_mem TO '8MB';\nALTER ROLE {name} SET log_statement TO 'all';\n"
        f"GRANT {group} TO {name} WITH INHERIT TRUE GRANTED BY postgres;\n"
    )
    with managed.manager.visit("postgres") as admin:
        notes = restore_roles(admin, managed.manager, script, name)

    told = next(note for note in notes if note.startswith(f"The role {name} is not as it was"))
    assert "may not do everything, as a superuser" in told
    assert "has another setting of log_statement" in told
    assert "work_mem" not in told
    assert "connection limit" not in told
    row = managed.root.execute(
        "SELECT rolsuper, rolcanlogin, rolinherit, rolconnlimit FROM pg_roles WHERE rolname = %s", [name]
    ).fetchone()
    assert row == (False, True, False, 7)


def test_a_role_that_was_there_before_is_left_alone_and_its_differences_told(managed: Managed) -> None:
    name, other = new_name("there"), new_name("other_group")
    managed.root.execute(f"CREATE ROLE {other}; CREATE ROLE {name} NOLOGIN CREATEDB CONNECTION LIMIT 3".encode())
    managed.root.execute(f"GRANT {other} TO {name}; ALTER ROLE {name} SET search_path TO a, b".encode())

    with managed.root.transaction():
        notes = restore_roles(managed.root, managed.manager, script_of(name), name)

    assert notes == (
        f"The role {name} is not as it was on the source: it may make databases, may not log in, has no password, has "
        f"the connection limit 3, not -1, is a member of {other} too, has another setting of search_path.",
    )


def test_a_user_who_may_make_no_database_is_refused_before_any_role_is_made(
    managed: Managed, installed: tuple[Programs, ...]
) -> None:
    owner, kept = new_name("app"), Kept()
    dump = dumped_and_gone(managed, managed.manager, kept, owner, installed)
    managed.root.execute(f"ALTER ROLE {managed.manager.user} NOCREATEDB".encode())

    with pytest.raises(NotReady) as refused:
        restore(kept, dump, managed.manager, new_name("target"), installed)

    assert f"ALTER ROLE {managed.manager.user} CREATEDB" in refused.value.hint
