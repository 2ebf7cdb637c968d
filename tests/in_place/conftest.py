"""A vault on local disk, a live database on a real server, and somebody who queries it all the time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from demo.receivables import load_receivables
from lifeboat.backup import DatabaseSource, back_up_database
from lifeboat.keys import CLASSIC, Identity, Keyring, SigningKey, write_key
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.evidence import Evidence, count_tables, describe_database, read_sequences, tables_to_read
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.vault import Member, Snapshot, Vault
from tests.fixtures_postgres import PROGRAMS

NOW = datetime(2026, 11, 23, 21, 30, tzinfo=UTC)
INSTALLED = tuple(PROGRAMS.values())


@dataclass(frozen=True)
class Place:
    """A folder with keys and a repository."""

    folder: Path

    @property
    def vault(self) -> Vault:
        repository = LocalDiskRepository(self.folder / "repository", "near")
        return Vault.open([Member(repository)], Keyring.from_folder(self.folder / "keys"), ["operations", "escrow"])

    def back_up(self, server: PostgresServer, database: str) -> Snapshot:
        source = DatabaseSource("orders", server, database, content_hash=True, stream_size=64 * 1024)
        return back_up_database(self.vault, source, installed=INSTALLED, began=NOW).snapshot


def make_place(folder: Path) -> Place:
    (folder / "keys").mkdir(mode=0o700)
    (folder / "repository").mkdir()
    operations, escrow = Identity.generate("operations", CLASSIC), Identity.generate("escrow", CLASSIC)
    signing = SigningKey.generate("host")
    for key in (operations, operations.recipient, escrow.recipient, signing, signing.signer):
        write_key(folder / "keys", key)
    Vault.create([Member(LocalDiskRepository(folder / "repository", "near"))])
    return Place(folder)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


def make_orders(server: PostgresServer, name: str) -> str:
    """A small database, for swaps."""
    with server.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with server.visit(name) as connection:
        connection.execute("CREATE TABLE orders AS SELECT n AS id, 'then' AS note FROM generate_series(1, 900) n")
    return name


def make_receivables(server: PostgresServer, name: str, invoices: int = 1000) -> str:
    load_receivables(server, name, invoices=invoices)
    return name


def evidence_of(server: PostgresServer, database: str) -> Evidence:
    with server.visit(database) as connection:
        tables = count_tables(connection, tables_to_read(connection), content_hash=True)
        return describe_database(connection, tables=tables, sequences=read_sequences(connection))


def databases(server: PostgresServer, live: str) -> set[str]:
    """Every database of this name, or whose name begins with it."""
    with server.visit("postgres") as admin:
        return {name for (name,) in admin.execute("SELECT datname FROM pg_database") if name.startswith(live)}


def ask(server: PostgresServer, database: str, query: str) -> Any:
    with server.visit(database) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@dataclass
class Client:
    """Asks a database the same question all the time, connecting again whenever it must; notes when it was answered."""

    server: PostgresServer
    database: str
    query: str
    answers: list[Any] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Client:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        while not self.answers:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        count = len(self.answers)
        while len(self.answers) < count + 2:  # one may have been given already, and not been noted yet
            time.sleep(0.01)
        self._ended.set()
        self._thread.join()

    @property
    def longest_gap(self) -> float:
        return max(b - a for a, b in zip(self.moments, self.moments[1:], strict=False))

    def _ask(self) -> None:
        parameters = {"host": self.server.host, "port": self.server.port, "user": self.server.user}
        while not self._ended.is_set():
            try:
                with psycopg.connect(
                    **parameters, password=self.server.password, dbname=self.database, autocommit=True
                ) as connection:
                    while not self._ended.is_set():
                        self.answers.append(connection.execute(self.query.encode()).fetchone())
                        self.moments.append(time.monotonic())
            except psycopg.Error:
                time.sleep(0.005)
