"""Our own sessions and those of client programs reach the same server in the same way, with the same demands."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from lifeboat.assembly import postgres_server
from lifeboat.connections import Connection
from lifeboat.errors import ClientMissing, SettingsError, SourceError
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import check_database, dump_database
from lifeboat.postgres.parameters import for_connections, programs_that_obey
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import PROGRAMS, new_name
from tests.postgres.artifacts import Kept, restore

pytestmark = pytest.mark.slow

NEWEST = PROGRAMS[max(PROGRAMS)]


def with_options(server: PostgresServer, **options: str) -> PostgresServer:
    return replace(server, options=options)


def child_reaches(server: PostgresServer) -> bool:
    """Whether a client program gets in, with what it is given."""
    said = subprocess.run(
        [NEWEST.path("psql"), "-XqAt", "--no-password", "-c", "SELECT 1",
         f"--dbname={server.database_argument('postgres')}"],
        env=server.child_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return said.returncode == 0


def we_reach(server: PostgresServer) -> bool:
    try:
        with server.connect("postgres"):
            return True
    except SourceError:
        return False


@pytest.fixture
def files(tmp_path: Path, postgres: PostgresServer) -> Mapping[str, str]:
    right, wrong, services = tmp_path / "right", tmp_path / "wrong", tmp_path / "services"
    right.write_text(f"*:*:*:*:{postgres.password}\n")
    wrong.write_text("*:*:*:*:wrong\n")
    services.write_text("[strict]\nrequire_auth=none\n[loose]\nrequire_auth=scram-sha-256\n")
    for file in (right, wrong):
        file.chmod(0o600)
    return {"right": str(right), "wrong": str(wrong), "services": str(services)}


@pytest.mark.parametrize(
    ("options", "gets_in"),
    [
        ({}, True),
        ({"require_auth": "scram-sha-256"}, True),
        ({"require_auth": "none"}, False),
        ({"sslmode": "verify-full", "sslrootcert": "/nonexistent"}, False),
        ({"sslmode": "require"}, False),
        ({"channel_binding": "require"}, False),
        ({"sslnegotiation": "direct", "sslmode": "require"}, False),
        ({"hostaddr": "127.0.0.1"}, True),
        ({"hostaddr": "127.255.255.254"}, False),
        ({"target_session_attrs": "standby"}, False),
        ({"min_protocol_version": "3.2", "max_protocol_version": "3.2"}, True),
        ({"gssencmode": "require"}, False),
    ],
    ids=str,
)
def test_both_sides_demand_the_same(postgres: PostgresServer, options: dict[str, str], gets_in: bool) -> None:
    server = with_options(postgres, **options)
    if "min_protocol_version" in options:
        gets_in = we_reach(server)  # servers before 18 do not speak it

    assert (we_reach(server), child_reaches(server)) == (gets_in, gets_in)


@pytest.mark.parametrize(("passfile", "gets_in"), [("right", True), ("wrong", False)])
@pytest.mark.parametrize("given", ["by the connection", "by the environment"])
def test_both_sides_read_the_same_password_file(
    postgres: PostgresServer,
    files: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    passfile: str,
    given: str,
    gets_in: bool,
) -> None:
    server = replace(postgres, password="")
    if given == "by the connection":
        server = with_options(server, passfile=files[passfile])
    else:
        monkeypatch.setenv("PGPASSFILE", files[passfile])

    assert (we_reach(server), child_reaches(server)) == (gets_in, gets_in)


@pytest.mark.parametrize(("service", "gets_in"), [("strict", False), ("loose", True)])
@pytest.mark.parametrize("given", ["by the connection", "by the environment"])
def test_both_sides_take_what_a_service_says(
    postgres: PostgresServer,
    files: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    service: str,
    given: str,
    gets_in: bool,
) -> None:
    monkeypatch.setenv("PGSERVICEFILE", files["services"])
    server = postgres
    if given == "by the connection":
        server = with_options(postgres, service=service)
    else:
        monkeypatch.setenv("PGSERVICE", service)

    assert (we_reach(server), child_reaches(server)) == (gets_in, gets_in)


@pytest.mark.parametrize(
    ("name", "value", "gets_in"),
    [("PGREQUIREAUTH", "none", False), ("PGSSLMODE", "require", False), ("PGHOSTADDR", "127.255.255.254", False),
     ("PGREQUIREAUTH", "scram-sha-256", True)],
)  # fmt: skip
def test_both_sides_obey_the_environment_where_the_connection_says_nothing(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str, gets_in: bool
) -> None:
    monkeypatch.setenv(name, value)

    assert (we_reach(postgres), child_reaches(postgres)) == (gets_in, gets_in)


def test_a_backup_and_a_restore_work_with_a_password_file_an_address_and_a_demand(
    postgres: PostgresServer, installed: tuple[Programs, ...], files: Mapping[str, str]
) -> None:
    name, kept = new_name("strict"), Kept()
    with postgres.visit("postgres") as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    server = PostgresServer(
        "a.name.that.is.nowhere", postgres.port, postgres.user,
        options={"hostaddr": "127.0.0.1", "passfile": files["right"], "require_auth": "scram-sha-256"},
    )  # fmt: skip

    check_database(server, name, installed)
    dump = dump_database(server, name, kept, installed=installed)
    report = restore(kept, dump, server, new_name("back"), installed)

    assert report.evidence.rows == 0


def test_programs_that_do_not_know_a_demand_are_not_used() -> None:
    older = tuple(PROGRAMS[major] for major in sorted(PROGRAMS) if major < 16) or (PROGRAMS[16],)
    demand = {"require_auth": "scram-sha-256"} if older[0].major < 16 else {"sslnegotiation": "direct"}

    assert programs_that_obey((*older, NEWEST), demand) == [NEWEST]
    with pytest.raises(ClientMissing, match=next(iter(demand))):
        programs_that_obey(older, demand)


def test_programs_that_do_not_know_a_demand_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLNEGOTIATION", "direct")

    with pytest.raises(ClientMissing, match="sslnegotiation"):
        programs_that_obey((PROGRAMS[16],), {})


@pytest.mark.parametrize("name", ["sslpassword", "scram_client_key", "sslkeylogfile", "oauth_client_secret"])
def test_what_an_argument_would_show_is_refused(name: str) -> None:
    connection = Connection("db", "postgres", "h", 5432, "u", "p", "d", {name: "secret"})

    with pytest.raises(SettingsError, match=name) as refused:
        postgres_server(connection)
    assert "secret" not in str(refused.value).replace(name, "")


def test_no_password_is_in_an_argument(postgres: PostgresServer) -> None:
    argument = with_options(postgres, options="-c x.y=1", sslmode="prefer").database_argument("d b'")

    assert postgres.password not in argument
    assert "x.y" not in argument
    assert "sslmode" in argument
    assert "sslmode" in for_connections()
