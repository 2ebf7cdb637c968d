"""Databases that others designed, filled by their own programs: made once, kept in .cache as SQL, loaded anywhere."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from lifeboat.postgres.connection import PostgresServer
from tests.fixtures_postgres import MAJORS, PROGRAMS, Clusters, new_name, psql, psql_script

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CACHE = ROOT / ".cache" / "foreign"
LOCK_FILE = ROOT / "requirements" / "foreign.txt"
BESIDE = Path(sys.executable).parent

TPCH_SCALE = "0.01"

MANY = "5,000 tables"


def load(name: str, clusters: Clusters, major: int) -> str:
    """A new database on the server of this version that holds what the programs of `name` made; its name."""
    server, database = clusters.get(major).server, new_name(f"{name} original")
    psql(server, "postgres", "-c", f'CREATE DATABASE "{database}"')
    if name == MANY:
        psql(server, database, "-f", str(HERE / "many.sql"))
    else:
        psql(server, database, "-o", "/dev/null", "-f", str(_script(name, clusters)))
    return database


def _script(name: str, clusters: Clusters) -> Path:
    """What plain `pg_dump` of the oldest version here says of such a database, so that every server can load it."""
    oldest = MAJORS[0]
    made_of = [LOCK_FILE, ROOT / "requirements.txt", *sorted(path for path in HERE.iterdir() if path.is_file())]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in made_of)).hexdigest()[:16]
    script = CACHE / f"{name}-{oldest}-{key}.sql"
    with _alone(name):
        if not script.exists():
            server, database = clusters.get(oldest).server, new_name(name)
            psql(server, "postgres", "-c", f'CREATE DATABASE "{database}"')
            MAKERS[name](server, database)
            unfinished = script.with_suffix(".unfinished")
            _run([PROGRAMS[oldest].path("pg_dump"), "-d", database, "-f", unfinished], server.application_environment())
            unfinished.rename(script)
    return script


def _airflow(server: PostgresServer, database: str) -> None:
    login = f"{server.user}:{quote(server.password, safe='')}@{server.host}:{server.port}"
    ours = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    with tempfile.TemporaryDirectory() as home:
        settings = {
            "AIRFLOW_HOME": home,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{login}/{database}",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        _run([BESIDE / "airflow", "db", "migrate"], ours | settings)


def _ledger(server: PostgresServer, database: str) -> None:
    environment = server.application_environment() | {"PGDATABASE": database}
    _run([_programs_of_others() / "python", HERE / "make_ledger.py"], environment)


def _tpch(server: PostgresServer, database: str) -> None:
    psql_script(server, database, (HERE / "tpch.sql").read_text())
    with tempfile.TemporaryDirectory() as folder, server.visit(database) as connection:
        _run([_programs_of_others() / "tpchgen-cli", "csv", "-s", TPCH_SCALE, "--output-dir", folder], os.environ)
        for file in Path(folder).glob("*.csv"):
            copy = f"COPY {file.stem} FROM STDIN (FORMAT csv, HEADER)".encode()
            with connection.cursor().copy(copy) as into:
                into.write(file.read_bytes())
    psql_script(server, database, (HERE / "tpch_keys.sql").read_text())


def _tryton(server: PostgresServer, database: str) -> None:
    login = f"{server.user}:{quote(server.password, safe='')}@{server.host}:{server.port}"
    with tempfile.TemporaryDirectory() as folder:
        settings, password = Path(folder, "trytond.conf"), Path(folder, "password")
        settings.write_text(f"[database]\nuri = postgresql://{login}/\n")
        password.write_text("none that matters\n")
        admin = [_programs_of_others() / "trytond-admin", "--config", settings, "--database", database]
        wanted = [
            "--update",
            "account",
            "--activate-dependencies",
            "--language",
            "en",
            "--email",
            "admin@tryton.example",
        ]
        _run([*admin, *wanted], os.environ | {"TRYTONPASSFILE": str(password)})


MAKERS: dict[str, Callable[[PostgresServer, str], None]] = {
    "airflow": _airflow,
    "django-ledger": _ledger,
    "TPC-H": _tpch,
    "Tryton": _tryton,
}


def _programs_of_others() -> Path:
    """The programs of an environment built by the lock file, a few seconds, unless it is there already."""
    folder, installed = CACHE / "venv", CACHE / "venv" / "installed.txt"
    with _alone("venv"):
        if not installed.exists() or installed.read_text() != LOCK_FILE.read_text():
            ours = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
            _run([BESIDE / "uv", "venv", "--quiet", "--clear", "--python", sys.executable, folder], ours)
            python = folder / "bin" / "python"
            _run(
                [
                    BESIDE / "uv",
                    "pip",
                    "sync",
                    "--system-certs",
                    "--quiet",
                    "--python",
                    python,
                    "--require-hashes",
                    LOCK_FILE,
                ],
                ours,
            )
            installed.write_text(LOCK_FILE.read_text())
    return folder / "bin"


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """While this lasts, no other process makes the same."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
    done = subprocess.run(list(map(str, command)), env=dict(environment), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr[-2000:]}"
