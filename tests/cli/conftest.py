"""A platform to command: a real PostgreSQL, an S3 server, a local repository, and `python -m lifeboat` in a process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import pytest

from demo.storage import S3Server, seaweedfs
from lifeboat.cli.app import main
from lifeboat.postgres.connection import PostgresServer
from tests.fixtures_postgres import make_odd_database, new_name

INCLUDE = str(Path(__file__).parents[2] / "include")

# Whatever imports Airflow fails: the command line must never need it. A shell that started the tests in the background
# has them, and their children, ignore SIGINT. Its open files are closed to others, as those of Airflow's tasks are.
COMMAND = (
    "import ctypes, signal, sys; sys.modules['airflow'] = None; ctypes.CDLL(None).prctl(4, 0); "  # PR_SET_DUMPABLE
    "signal.signal(signal.SIGINT, signal.default_int_handler); from lifeboat.cli.app import main; main()"
)


@dataclass(frozen=True)
class Ended:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Place:
    """A folder with a platform.yaml and a `.env`, in which commands run."""

    folder: Path
    database: str
    secrets: tuple[str, ...]

    @property
    def keyring(self) -> Path:
        return self.folder / "keys"

    @property
    def local(self) -> Path:
        return self.folder / "repository"

    def run(self, *arguments: str, expect: int = 0, **variables: str) -> Ended:
        """Run a command in this process and check its exit code; `variables` come on top of the `.env` file."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["lifeboat", *arguments])
            patch.setattr(os, "environ", self._environment(variables))
            with pytest.raises(SystemExit) as end:
                main()
        return self._checked(Ended(int(end.value.code or 0), out.getvalue(), err.getvalue()), arguments, expect)

    def run_alone(self, *arguments: str, expect: int = 0, **variables: str) -> Ended:
        """The same as a process of its own, in which Airflow cannot be imported."""
        process = self.start(*arguments, **variables)
        out, err = process.communicate()
        return self._checked(Ended(process.returncode, out, err), arguments, expect)

    def start(self, *arguments: str, stderr: int = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=self.folder,
            env=self._environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        base = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": INCLUDE}
        return base | {"LIFEBOAT_PLATFORM": "platform.yaml"} | variables

    def _checked(self, ended: Ended, arguments: tuple[str, ...], expect: int) -> Ended:
        told = f"lifeboat {' '.join(arguments)}\n{ended.out}\n{ended.err}"
        assert ended.code == expect, told
        assert not [secret for secret in self.secrets if secret in told], "a secret was printed"
        assert "Traceback" not in told, told
        return ended


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="module")
def odd_database(postgres: PostgresServer) -> str:
    """A database with one of everything, on the session's server."""
    name = new_name("cli odd")
    make_odd_database(postgres, name)
    return name


@pytest.fixture
def place(tmp_path: Path, postgres: PostgresServer, s3_server: S3Server, odd_database: str) -> Place:
    """A platform of its own, not initialised yet: the odd database, into S3 and a local folder."""
    bucket = new_name("cli-").replace("_", "")
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
    )
    client.create_bucket(Bucket=bucket)
    made = Place(
        tmp_path, odd_database, (postgres.password, s3_server.secret_key, "lifeboat:identity", "lifeboat:signing")
    )
    made.local.mkdir()
    (tmp_path / "platform.yaml").write_text(
        f"""\
platform: odd
recipients: [operations, escrow]
repositories:
  - name: s3
    url: s3://{bucket}/lifeboat
    connection: lifeboat_s3
  - name: local
    url: file://{made.local}
sources:
  databases:
    - name: odd
      connection: odd_db
      content_hash: true
      stream_size: 1 KiB
"""
    )
    (tmp_path / ".env").write_text(
        f"AIRFLOW_CONN_ODD_DB={postgres_uri(postgres, odd_database)}\n"
        f"export AIRFLOW_CONN_LIFEBOAT_S3='{json.dumps(s3_server.connection)}'\n"
        f'AIRFLOW_CONN_LIFEBOAT_KEYS={{"conn_type": "generic", "extra": {{"keyring": "{made.keyring}"}}}}\n'
    )
    return made


@pytest.fixture
def ready(place: Place) -> Place:
    """The same, initialised."""
    place.run("init")
    return place


def postgres_uri(server: PostgresServer, database: str) -> str:
    """A connection to a database as people write it into `.env`."""
    login = f"{quote(server.user, safe='')}:{quote(server.password, safe='')}"
    return f"postgres://{login}@{server.host}:{server.port}/{quote(database, safe='')}"


def damage(file: Path, position: int) -> None:
    file.chmod(0o600)
    with file.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)
        stream.seek(position)
        stream.write(bytes([byte[0] ^ 1]))
