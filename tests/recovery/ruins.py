"""A small platform on real servers, its backups, and everything that can be done to it; also from another process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
import yaml
from psycopg import sql

from lifeboat.assembly import configuration_source, database_source, open_vault, redis_source, tree_source
from lifeboat.backup import back_up_database
from lifeboat.configuration.archiving import archive_configuration
from lifeboat.connections import connections_in
from lifeboat.files.sync import back_up_tree
from lifeboat.keys import CLASSIC, Identity, SigningKey, write_key
from lifeboat.postgres.connection import PostgresServer
from lifeboat.recovery.assessment import assess
from lifeboat.recovery.means import Means
from lifeboat.recovery.model import Assessment, Mode, Point, Request, Restored, Verified
from lifeboat.recovery.steps import (
    Case,
    finish,
    migrate,
    open_case,
    prepare,
    put_in_place,
    restore,
    start,
    verify,
)
from lifeboat.redis_source.backup import back_up_redis
from lifeboat.redis_source.connection import RedisServer
from lifeboat.redis_source.programs import find_redis
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.settings import load_platform
from lifeboat.vault import Member, Vault
from tests.fixtures_postgres import PROGRAMS

BEGAN = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
INCIDENT = "20261124T080500Z-0a1b2c3d"
ORDERS = 900
CONFIGURATION = {".env": "DB_PASSWORD=hunter2\n", "k8s/web.yaml": "kind: Deployment\n"}
UPLOADS = {f"invoices/{n:03}.pdf": os.urandom(2000) for n in range(60)} | {"logo.png": os.urandom(300_000)}


@dataclass
class Ruins:
    """A platform below a folder: a database, sessions in Redis, uploads, configuration, and a pretended application.

    The application's commands write their names into `log`; a file of a command's name makes that command fail.
    """

    folder: Path
    server: PostgresServer
    database: str
    redis: RedisServer | None = None
    said: list[str] = field(default_factory=list)
    application: dict[str, Any] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    scratch: Path | None = None
    named_by: dict[str, str] = field(default_factory=dict)

    @property
    def uploads(self) -> Path:
        return self.folder / "uploads"

    @property
    def root(self) -> Path:
        return self.folder / "platform"

    @property
    def log(self) -> list[str]:
        file = self.folder / "log"
        return file.read_text().split() if file.exists() else []

    # ---- building ---------------------------------------------------------------------------------------------------

    def build(self) -> Ruins:
        """Make everything, and back it all up."""
        operations, escrow = Identity.generate("operations", CLASSIC), Identity.generate("escrow", CLASSIC)
        signing = SigningKey.generate("host")
        for key in (operations, operations.recipient, escrow.recipient, signing, signing.signer):
            write_key(self.folder / "keys", key)
        for name in ("near", "far"):
            (self.folder / name).mkdir()
        Vault.create([Member(LocalDiskRepository(self.folder / name, name)) for name in ("near", "far")])
        self.make_database()
        for path, text in CONFIGURATION.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)
        for path, data in UPLOADS.items():
            (self.uploads / path).parent.mkdir(parents=True, exist_ok=True)
            (self.uploads / path).write_bytes(data)
        with self.client() as client:
            for n in range(50):
                client.set(f"session:{n}", f"user {n}")
        self.write_platform()
        self.back_up()
        return self

    def make_database(self, note: str = "then") -> None:
        with self.server.visit("postgres") as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))
        with self.server.visit(self.database) as connection:
            connection.execute(
                sql.SQL("CREATE TABLE orders AS SELECT n AS id, {}::text AS note FROM generate_series(1, {}) n").format(
                    sql.Literal(note), sql.Literal(ORDERS)
                )
            )

    def write_platform(self, **application: Any) -> None:
        self.application |= application
        commands = {
            step: [["sh", "-c", f"cd {self.folder} && echo {step} >> log && test ! -e {step}"]]
            for step in ("prepare", "stop", "migrate", "start", "smoke")
        }
        platform = {
            "platform": "Ruins",
            "recipients": ["operations", "escrow"],
            "repositories": [{"name": n, "url": f"file://{self.folder}/{n}"} for n in ("near", "far")],
            "state": str(self.folder / "state"),
            "application": commands | self.application,
            "sources": {
                "databases": [{"name": "orders", "connection": "platform_db", "content_hash": True}],
                "files": [
                    {"name": "uploads", "path": str(self.uploads)}
                    | ({"named_by": self.named_by} if self.named_by else {})
                ],
                "configuration": [{"name": "configuration", "root": str(self.root), "paths": [".env", "k8s/*.yaml"]}],
                "redis": [{"name": "sessions", "connection": "platform_redis"}],
            },
        }
        (self.folder / "platform.yaml").write_text(yaml.safe_dump(platform))
        login = f"{self.server.user}:{quote(self.server.password, safe='')}"
        assert self.redis is not None
        keyring = {"conn_type": "generic", "extra": {"keyring": str(self.folder / "keys")}}
        variables = {
            "AIRFLOW_CONN_PLATFORM_DB": f"postgres://{login}@{self.server.host}:{self.server.port}/{self.database}",
            "AIRFLOW_CONN_PLATFORM_REDIS": f"redis://:{quote(self.redis.password or '', safe='')}@{self.redis.host}:"
            f"{self.redis.port}/0",
            "AIRFLOW_CONN_LIFEBOAT_KEYS": json.dumps(keyring),
        }
        (self.folder / "variables.json").write_text(json.dumps(variables))

    @property
    def variables(self) -> dict[str, str]:
        made: dict[str, str] = json.loads((self.folder / "variables.json").read_text())
        return made

    def means(self, report: Callable[[str], None] | None = None) -> Means:
        """All anew, as another process would build it."""
        platform, lookup = load_platform(self.folder / "platform.yaml"), connections_in(self.variables)
        return Means(
            open_vault(platform, lookup),
            platform,
            lookup,
            lambda: tuple(PROGRAMS.values()),
            find_redis,
            report=report or self.said.append,
            base=self.scratch or self.folder / "scratch",
        )

    def back_up(self) -> None:
        (self.folder / "scratch").mkdir(exist_ok=True)
        means = self.means()
        platform, vault, lookup = means.platform, means.vault, means.lookup
        installed = means.installed()
        back_up_database(vault, database_source(platform, "orders", lookup), installed=installed, began=BEGAN)
        back_up_tree(vault, tree_source(platform, "uploads", lookup), began=BEGAN)
        archive_configuration(vault, configuration_source(platform, "configuration", lookup), began=BEGAN)
        back_up_redis(vault, redis_source(platform, "sessions", lookup), began=BEGAN)

    def back_up_database_again(self) -> None:
        means = self.means()
        source = database_source(means.platform, "orders", means.lookup)
        back_up_database(means.vault, source, installed=means.installed(), began=BEGAN + timedelta(minutes=30))

    # ---- harm -------------------------------------------------------------------------------------------------------

    def client(self) -> Any:
        assert self.redis is not None
        return redis.Redis(host=self.redis.host, port=self.redis.port, password=self.redis.password, protocol=2)

    def destroy(self, *what: str) -> None:
        """Remove sources, or all of them."""
        what = what or ("orders", "uploads", "configuration", "sessions")
        if "orders" in what:
            with self.server.visit("postgres") as admin:
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.database)))
        if "uploads" in what:
            shutil.rmtree(self.uploads)
        if "configuration" in what:
            shutil.rmtree(self.root)
        if "sessions" in what:
            with self.client() as client:
                client.flushall()

    def spoil(self) -> None:
        """Change every source while it stays alive."""
        with self.server.visit(self.database) as connection:
            connection.execute("UPDATE orders SET note = 'spoiled'")
        (self.uploads / "logo.png").write_bytes(b"spoiled")
        (self.uploads / "since.pdf").write_bytes(b"uploaded since")
        (self.root / ".env").write_text("DB_PASSWORD=spoiled\n")
        with self.client() as client:
            client.set("session:0", "spoiled")
            client.delete("session:1")

    # ---- recovering -------------------------------------------------------------------------------------------------

    def request(self, **fields: Any) -> Request:
        values = {"mode": Mode.RECOVER, "began": BEGAN, "title": "The server is gone", "point": Point.LATEST}
        return Request(**(values | {"targets": self.targets} | fields))

    def case(self, incident: str = INCIDENT, means: Means | None = None, **fields: Any) -> Case:
        return open_case(means or self.means(), self.request(**fields), incident)

    def assess(self, case: Case) -> Assessment:
        return assess(case.means, case.request, datetime.now(UTC))

    def recover(self, *, replaces_live: bool = False, incident: str = INCIDENT, **fields: Any) -> Recovered:
        """All steps, one after the other, as the DAG and the command line take them."""
        case = self.case(incident, **fields)
        return self.carry_out(case, replaces_live=replaces_live)

    def carry_out(self, case: Case, *, replaces_live: bool = False, assessment: Assessment | None = None) -> Recovered:
        case.journal.begin(case.request)
        assessment = assessment or self._assessed_before(case) or self.assess(case)
        (self.folder / f"{case.incident}.json").write_text(json.dumps(assessment.record()))
        prepare(case, assessment)
        restored = tuple(restore(case, assessment, component.source) for component in assessment.components)
        placed = put_in_place(case, assessment, restored, replaces_live=replaces_live)
        migrate(case)
        start(case)
        verified = verify(case, assessment, placed)
        finish(case, verified.well)
        return Recovered(case, assessment, placed, verified)

    def _assessed_before(self, case: Case) -> Assessment | None:
        file = self.folder / f"{case.incident}.json"
        return Assessment.of_record(json.loads(file.read_text())) if file.exists() else None

    def killed_at(self, moment: str, *, replaces_live: bool = False) -> None:
        """Recover in a process of its own, which is killed (kill -9) at a moment: see `die_at`."""
        command = [sys.executable, "-m", "tests.recovery.ruins", moment, str(int(replaces_live))]
        state = {
            "folder": str(self.folder), "host": self.server.host, "port": self.server.port, "user": self.server.user,
            "password": self.server.password, "database": self.database, "application": self.application,
        }  # fmt: skip
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "RUINS": json.dumps(state)}
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stdout[-2000:] + done.stderr[-4000:]

    # ---- looking ----------------------------------------------------------------------------------------------------

    def notes(self, database: str | None = None) -> dict[str, int]:
        """How many orders there are by what is noted on them."""
        with self.server.visit(database or self.database) as connection:
            return dict(connection.execute("SELECT note, count(*) FROM orders GROUP BY note").fetchall())

    def databases(self) -> set[str]:
        with self.server.visit("postgres") as admin:
            found = admin.execute("SELECT datname FROM pg_database").fetchall()
        return {name for (name,) in found if name.startswith(self.database)}

    def sessions(self) -> dict[str, str]:
        with self.client() as client:
            return {key.decode(): client.get(key).decode() for key in client.scan_iter()}

    def files(self) -> dict[str, bytes]:
        return _files(self.uploads)

    def configuration(self) -> dict[str, str]:
        return {path: data.decode() for path, data in _files(self.root).items() if ".before-" not in path}

    def check_whole(self) -> None:
        """Everything is as it was when it was backed up."""
        assert self.notes() == {"then": ORDERS}
        assert self.files().items() >= UPLOADS.items()
        assert self.configuration() == CONFIGURATION
        assert self.sessions() == {f"session:{n}": f"user {n}" for n in range(50)}


@dataclass(frozen=True)
class Recovered:
    """What a whole recovery gave."""

    case: Case
    assessment: Assessment
    placed: Sequence[Restored]
    verified: Verified

    def of(self, source: str) -> Restored:
        return {one.source: one for one in self.placed}[source]


def _files(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


# ---- dying ----------------------------------------------------------------------------------------------------------


def die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(moment: str) -> Callable[[str], None]:
    """What hears a recovery's lines, and dies at one that begins so. `after:<what>` dies once something is done."""
    from lifeboat.recovery import databases, places

    if moment == "after:rename":
        place = databases.place
        databases.place = lambda *a, **k: die(place(*a, **k))
    if moment == "after:ready":
        beside = databases.restore_beside
        databases.restore_beside = lambda *a, **k: die(beside(*a, **k))
    for what in ("restore_tree", "restore_in_place", "restore_redis"):
        if moment == f"after:{what}":
            real = getattr(places, what)
            setattr(places, what, lambda *a, real=real, **k: die(real(*a, **k)))

    def hear(line: str) -> None:
        print(line, flush=True)
        if line.startswith(moment):
            die()

    return hear


def main(moment: str, replaces_live: str) -> None:
    state = json.loads(os.environ["RUINS"])
    server = PostgresServer(state["host"], state["port"], state["user"], state["password"])
    ruins = Ruins(Path(state["folder"]), server, state["database"], application=state["application"])
    case = ruins.case(means=ruins.means(die_at(moment)))
    ruins.carry_out(case, replaces_live=replaces_live == "1")


if __name__ == "__main__":
    main(*sys.argv[1:])
