"""A platform of real servers and folders, two repositories on disk, and backups of all its sources."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from psycopg import sql

from lifeboat.assembly import configuration_source, database_source, open_vault, redis_source, tree_source
from lifeboat.attestation import Verdict, attest
from lifeboat.backup import back_up_database
from lifeboat.configuration.archiving import archive_configuration
from lifeboat.connections import connections_in
from lifeboat.files.sync import back_up_tree
from lifeboat.keys import CLASSIC, Identity, SigningKey, write_key
from lifeboat.postgres.connection import PostgresServer
from lifeboat.recovery.means import Means
from lifeboat.recovery.model import Mode, Point, Request
from lifeboat.redis_source.backup import back_up_redis
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.settings import Platform, load_platform
from lifeboat.snapshot import Kind, snapshot_prefix
from lifeboat.vault import Member, Snapshot, Vault
from tests.fixtures_postgres import PROGRAMS, new_name
from tests.fixtures_redis import BY_VERSION, PASSWORD, Running

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
YAML = """\
platform: SME Receivable Platform
recipients: [operations, escrow]
repositories:
  - name: near
    url: file://{folder}/near
  - name: far
    url: file://{folder}/far
state: {folder}/state
sources:
  databases:
    - name: receivables
      connection: platform_db
  files:
    - name: uploads
      path: {folder}/uploads
      named_by: {{database: receivables, sql: SELECT path FROM documents}}
  configuration:
    - name: configuration
      root: {folder}/platform
      paths: [.env, docker-compose.yml]
  redis:
    - name: sessions
      connection: platform_redis
application:
  stop: [['true']]
  start: [['true']]
recovery:
  contacts: ['Ada Lovelace, database, +1 555 0100']
"""


@dataclass
class Place:
    """The platform below `folder`. `variables` are its connections, which a test may point elsewhere."""

    folder: Path
    server: PostgresServer
    database: str
    redis: Running | None
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def uploads(self) -> Path:
        return self.folder / "uploads"

    @property
    def root(self) -> Path:
        return self.folder / "platform"

    @property
    def platform(self) -> Platform:
        return load_platform(self.folder / "platform.yaml")

    @property
    def vault(self) -> Vault:
        return open_vault(self.platform, connections_in(self.variables), reading=True)

    @property
    def means(self) -> Means:
        programs, redis = tuple(PROGRAMS.values()), tuple(BY_VERSION.values())
        return Means(self.vault, self.platform, connections_in(self.variables), lambda: programs, lambda: redis)

    def back_up(self, source: str, hours_ago: float, *, vault: Vault | None = None) -> Snapshot:
        """A snapshot that began so many hours ago."""
        vault, platform, lookup = vault or self.vault, self.platform, connections_in(self.variables)
        began = NOW - hours_ago * HOUR
        match platform.kind(source):
            case Kind.POSTGRES:
                programs = tuple(PROGRAMS.values())
                made = back_up_database(
                    vault, database_source(platform, source, lookup), installed=programs, began=began
                )
            case Kind.FILES:
                made = back_up_tree(vault, tree_source(platform, source, lookup), began=began)
            case Kind.REDIS:
                made = back_up_redis(vault, redis_source(platform, source, lookup), began=began)
            case Kind.CONFIG:
                return archive_configuration(
                    vault, configuration_source(platform, source, lookup), began=began, again=True
                ).snapshot
        return made.snapshot

    def back_up_all(self, hours_ago: float = 10) -> dict[str, Snapshot]:
        """Of every source a snapshot, half an hour apart."""
        names = self.platform.names()
        return {name: self.back_up(name, hours_ago - index / 2) for index, name in enumerate(names)}

    def prove(self, snapshot: Snapshot, *, seconds: float = 60) -> None:
        """What a restore test would attest."""
        details = {
            "seconds_in_all": seconds,
            "seconds": {"rows": seconds},
            "proven": True,
            "plain_size": snapshot.manifest.plain_size,
            "size": snapshot.manifest.facts.get("size", 0),
        }
        attest(self.vault, snapshot, Verdict.PROVEN, repository="near", details=details)

    def folder_of(self, repository: str, snapshot: Snapshot) -> Path:
        """Where a repository has a snapshot."""
        return self.folder / repository / snapshot_prefix(snapshot.manifest.source, snapshot.tier, snapshot.id)

    def damage(self, repository: str, snapshot: Snapshot, artifact: str) -> None:
        """Flip a bit of an artifact's ciphertext, where it is kept."""
        file = self.folder_of(repository, snapshot) / f"{artifact}.sealed"
        data = bytearray(file.read_bytes())
        data[-100] ^= 1
        file.chmod(0o600)
        file.write_bytes(data)

    def lose(self, repository: str, snapshot: Snapshot) -> None:
        """Remove a snapshot from a repository."""
        shutil.rmtree(self.folder_of(repository, snapshot))

    def alive(self) -> dict[str, Any]:
        """All that a look may not change: every file, and what the servers hold."""
        own = {"state", "redis-0"}  # caches, and what a running server writes down by itself
        files = {p: p.read_bytes() for p in sorted(self.folder.rglob("*")) if p.is_file() and not own & {*p.parts}}
        with self.server.visit("postgres") as admin:
            names = admin.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
        return {"files": files, "databases": names}


def request(mode: Mode = Mode.ASSESS, point: Point = Point.LATEST, **fields: Any) -> Request:
    """What a person asks for, of an incident of an hour ago."""
    return Request(mode, **{"began": NOW - HOUR, "title": "The server is gone", "point": point} | fields)


def make_place(folder: Path, server: PostgresServer, start_redis: Callable[..., Running] | None) -> Place:
    """The platform with something in each of its sources, and an empty vault."""
    database = new_name("recovery")
    with server.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    with server.visit(database) as connection:
        connection.execute(
            "CREATE TABLE documents (id int PRIMARY KEY, path text);"
            "INSERT INTO documents SELECT n, 'invoices/' || n || '.pdf' FROM generate_series(1, 30) n"
        )
    redis = start_redis("redis-8.2") if start_redis else None
    if redis:
        with redis.client() as client:
            client.mset({f"session:{n}": n for n in range(7)})
    place = Place(folder, server, database, redis)
    (place.uploads / "invoices").mkdir(parents=True)
    for number in range(1, 31):
        (place.uploads / "invoices" / f"{number}.pdf").write_bytes(b"invoice %d\n" % number)
    place.root.mkdir()
    (place.root / ".env").write_text("DB_PASSWORD=hunter2\n")
    (place.root / "docker-compose.yml").write_text("services: {}\n")
    text = YAML.format(folder=folder)
    if redis is None:
        start, _, rest = text.partition("  redis:\n")
        text = start + rest[rest.index("application:") :]
    (folder / "platform.yaml").write_text(text)
    keys = folder / "keys"
    operations, escrow = Identity.generate("operations", CLASSIC), Identity.generate("escrow", CLASSIC)
    signing = SigningKey.generate("host")
    for key in (operations, operations.recipient, escrow.recipient, signing, signing.signer):
        write_key(keys, key)
    login = f"{quote(server.user, safe='')}:{quote(server.password, safe='')}"
    place.variables |= {
        "AIRFLOW_CONN_LIFEBOAT_KEYS": json.dumps({"conn_type": "generic", "extra": {"keyring": str(keys)}}),
        "AIRFLOW_CONN_PLATFORM_DB": f"postgres://{login}@{server.host}:{server.port}/{database}",
    }
    if redis:
        password = quote(PASSWORD, safe="")
        place.variables["AIRFLOW_CONN_PLATFORM_REDIS"] = f"redis://:{password}@127.0.0.1:{redis.server.port}/0"
    for name in ("near", "far"):
        (folder / name).mkdir()
    Vault.create([Member(LocalDiskRepository(folder / name, name)) for name in ("near", "far")])
    return place
