"""A database of orders, backed up into two repositories on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from lifeboat.backup import DatabaseSource, back_up_database
from lifeboat.keys import CLASSIC, Identity, Keyring, SigningKey, write_key
from lifeboat.postgres.connection import PostgresServer
from lifeboat.proof import Proof, prove_snapshot
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.snapshot import artifact_key
from lifeboat.vault import Member, Snapshot, Vault
from tests.fixtures_postgres import PROGRAMS, new_name

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
INSTALLED = tuple(PROGRAMS.values())
OPERATIONS, ESCROW = Identity.generate("operations", CLASSIC), Identity.generate("escrow", CLASSIC)
SIGNING = SigningKey.generate("host")
KEYRING = Keyring(
    recipients={"operations": OPERATIONS.recipient, "escrow": ESCROW.recipient},
    identities=(OPERATIONS,),
    signers=(SIGNING.signer,),
    signing_key=SIGNING,
)


@dataclass(frozen=True)
class Place:
    """A vault of the repositories `near` and `far`, and a snapshot of the orders in it."""

    folder: Path
    vault: Vault
    snapshot: Snapshot
    server: PostgresServer
    scratch: Path

    def prove(self, **options: Any) -> Proof:
        """Prove the snapshot on the session's server, which is quicker than a scratch one."""
        return prove_snapshot(self.vault, self.snapshot, installed=INSTALLED, server=self.server, jobs=1, **options)

    def prove_on_scratch(self, **options: Any) -> Proof:
        """Prove the snapshot on a scratch server whose data is put into the folder `scratch`."""
        options = {"installed": INSTALLED, "base": self.scratch, "jobs": 1} | options
        return prove_snapshot(self.vault, self.snapshot, **options)

    def damage(self, repository: str, artifact: str = "dump") -> None:
        """Flip a bit of an artifact's ciphertext, where it is kept."""
        manifest = self.snapshot.manifest
        key = artifact_key(manifest.source, self.snapshot.tier, self.snapshot.id, artifact)
        file = self.folder / repository / key
        data = bytearray(file.read_bytes())
        data[-100] ^= 1
        file.chmod(0o600)
        file.write_bytes(data)

    def scratch_databases(self) -> list[str]:
        """What restore tests have left on the session's server."""
        with self.server.visit("postgres") as admin:
            found = admin.execute("SELECT datname FROM pg_database WHERE datname LIKE 'lifeboat_proof_%'").fetchall()
        return [name for (name,) in found]


@pytest.fixture(scope="session")
def orders(postgres: PostgresServer) -> str:
    name = new_name("proof_orders")
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with postgres.visit(name) as connection:
        connection.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, note text);"
            "INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(1, 2000) n"
        )
    return name


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that the server's user can reach, which one of pytest's is not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def place(tmp_path: Path, postgres: PostgresServer, orders: str, scratch: Path) -> Place:
    (tmp_path / "keys").mkdir(mode=0o700)
    for key in (OPERATIONS, OPERATIONS.recipient, ESCROW.recipient, SIGNING, SIGNING.signer):
        write_key(tmp_path / "keys", key)
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
    members = [Member(LocalDiskRepository(tmp_path / name, name)) for name in ("near", "far")]
    Vault.create(members)
    vault = Vault.open(members, KEYRING, ["operations", "escrow"])
    source = DatabaseSource("orders", postgres, orders)
    snapshot = back_up_database(vault, source, installed=INSTALLED, began=NOW).snapshot
    return Place(tmp_path, vault, snapshot, postgres, scratch)
