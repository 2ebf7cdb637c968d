"""Roles come back whatever their names are, and those that exist are left alone."""

from __future__ import annotations

import pytest
from psycopg import sql

from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import dump_database
from lifeboat.postgres.globals import missing_roles, missing_tablespaces, split_statements, statements_for
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import PROGRAMS, new_name
from tests.postgres.artifacts import Kept, restore

ODD_NAMES = (
    "two words",
    "semi;colon",
    'a "quoted" one',
    "it's",
    "--comment",
    "E",
    "two\nlines",
    "\\restrict x",
    "ünï",
    "a TO b",
    "x GRANTED BY y",
    "TO x WITH",
)

ROLES = (
    "SELECT rolname, rolpassword, rolcanlogin, rolcreatedb, rolconnlimit, rolvaliduntil,"
    " shobj_description(oid, 'pg_authid'), (SELECT setconfig FROM pg_db_role_setting WHERE setrole = a.oid),"
    " (SELECT array_agg(r.rolname::text ORDER BY r.rolname) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid"
    " WHERE m.member = a.oid) FROM pg_authid a WHERE rolname !~ '^(pg_|postgres$)' ORDER BY rolname"
)

SCRIPT = r"""
-- Roles; and a comment
SET client_encoding = 'UTF8';
\restrict token;
CREATE ROLE known;
ALTER ROLE known WITH LOGIN PASSWORD 'SCRAM;known';
CREATE ROLE "new ""1"" one";
ALTER ROLE "new ""1"" one" WITH LOGIN PASSWORD 'SCRAM;new';
COMMENT ON ROLE "new ""1"" one" IS E'it''s; \\ GRANTED BY me';
ALTER ROLE known SET work_mem TO '1MB';
GRANT "new ""1"" one" TO known GRANTED BY postgres;
GRANT known TO "new ""1"" one" WITH INHERIT TRUE GRANTED BY "x TO known";
CREATE TABLESPACE "fast one" OWNER known LOCATION '/fast';
GRANT ALL ON TABLESPACE "fast one" TO "new ""1"" one";
GRANT SET ON PARAMETER log_statement TO "new ""1"" one";
\unrestrict token
"""


def test_only_missing_roles_are_created_described_and_made_members() -> None:
    missing = missing_roles(SCRIPT, {"known", "postgres"})

    assert missing == ('new "1" one',)
    assert list(statements_for(SCRIPT, missing)) == [
        'CREATE ROLE "new ""1"" one"',
        'ALTER ROLE "new ""1"" one" WITH LOGIN PASSWORD \'SCRAM;new\'',
        'COMMENT ON ROLE "new ""1"" one" IS E\'it\'\'s; \\\\ GRANTED BY me\'',
        'GRANT known TO "new ""1"" one" WITH INHERIT TRUE',
        'GRANT SET ON PARAMETER log_statement TO "new ""1"" one"',
    ]


def test_nothing_is_done_for_roles_that_all_exist() -> None:
    assert missing_roles(SCRIPT, {"known", 'new "1" one'}) == ()
    assert list(statements_for(SCRIPT, ())) == []


def test_missing_tablespaces_are_known() -> None:
    assert missing_tablespaces(SCRIPT, {"pg_default"}) == ("fast one",)
    assert missing_tablespaces(SCRIPT, {"fast one"}) == ()


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("", []),
        (";;\n;", []),
        ("SELECT 1", []),
        ("SELECT ';', \";\", E'\\';', '\\';", ["SELECT ';', \";\", E'\\';', '\\'"]),
        ("SELECT 'a--b' -- c;\n;", ["SELECT 'a--b'"]),
        ("SELECT 1 - 2;", ["SELECT 1 - 2"]),
        ("SELECT '\n\\x\n';\n\\x\nSELECT 2;", ["SELECT '\n\\x\n'", "SELECT 2"]),
    ],
    ids=["nothing", "semicolons", "no end", "quotes", "comments", "a minus", "backslashes"],
)
def test_a_script_is_split_where_its_statements_end(script: str, statements: list[str]) -> None:
    assert list(split_statements(script)) == statements


def test_roles_of_any_name_come_back_with_password_settings_comment_and_memberships(
    installed: tuple[Programs, ...],
) -> None:
    with TemporaryCluster(PROGRAMS[17]) as source, TemporaryCluster(PROGRAMS[17]) as target:
        with source.server.visit("postgres") as admin:
            make_odd_roles(source.server)
            admin.execute("CREATE ROLE existing LOGIN PASSWORD 'of the source'")
            admin.execute('GRANT "it\'s" TO existing')
        with target.server.visit("postgres") as admin:
            admin.execute("CREATE ROLE existing LOGIN PASSWORD 'of the target' CONNECTION LIMIT 3")
            kept_as_it_is = admin.execute(f"SELECT * FROM ({ROLES}) r".encode()).fetchall()
        kept = Kept()

        dump = dump_database(source.server, "postgres", kept, installed=installed)
        report = restore(kept, dump, target.server, "restored", installed)

        with source.server.visit("postgres") as one, target.server.visit("postgres") as other:
            expected = [row for row in one.execute(ROLES).fetchall() if row[0] != "existing"]
            found = other.execute(ROLES).fetchall()
    assert dump.role_passwords
    assert [row for row in found if row[0] != "existing"] == expected
    assert [row for row in found if row[0] == "existing"] == kept_as_it_is
    assert set(report.notes) == {
        *(f"The role {name} was created." for name in ODD_NAMES),
        "The role postgres is not as it was on the source: it has another password.",
        "The role existing is not as it was on the source: it has another password, has the connection limit 3, not "
        "-1, is not a member of it's.",
    }


def test_a_tablespace_that_is_missing_does_not_stop_a_restore(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    name = new_name("tables in space")
    with TemporaryCluster(PROGRAMS[17]) as source:
        with source.server.visit("postgres") as admin:
            admin.execute("SET allow_in_place_tablespaces = on")
            admin.execute("CREATE ROLE in_space")
            admin.execute("CREATE TABLESPACE \"fast one\" LOCATION ''")
            admin.execute('GRANT CREATE ON TABLESPACE "fast one" TO in_space')
            admin.execute('CREATE TABLE here TABLESPACE "fast one" AS SELECT 1 AS a')
            admin.execute('CREATE INDEX ON here (a) TABLESPACE "fast one"')
        kept = Kept()
        dump = dump_database(source.server, "postgres", kept, installed=installed)

    report = restore(kept, dump, postgres, name, installed)

    assert report.evidence.tables == dump.evidence.tables
    assert f"The tablespace fast one is not on {postgres}; everything is in the default one." in report.notes


def make_odd_roles(server: PostgresServer) -> None:
    """Each a member of the one before, which granted it; with a password, a setting and a comment."""
    with server.visit("postgres") as admin:
        before = None
        for name in ODD_NAMES:
            role = sql.Identifier(name)
            admin.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {} VALID UNTIL '2030-01-01'").format(
                    role, sql.Literal(f"{name}';\\")
                )
            )
            admin.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(f"{name};\n\\x\n--'' {name}")))
            admin.execute(sql.SQL("ALTER ROLE {} SET search_path TO {}, public").format(role, role))
            if before is not None:
                admin.execute(sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(before, role))
            before = role
        admin.execute('SET ROLE "a TO b"')
        admin.execute('GRANT "ünï" TO "TO x WITH"')
