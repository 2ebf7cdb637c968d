"""A hot standby is a source like any other: what it cannot give is said beforehand, and what cancels us is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lifeboat.backup import DatabaseSource, back_up_database, check_ready, inspectors, restore_snapshot
from lifeboat.errors import SourceError
from lifeboat.keys import CLASSIC, Identity, Keyring, SigningKey, write_key
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import dump_database
from lifeboat.postgres.programs import Programs
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.vault import Member, Vault
from tests.fixtures_postgres import PROGRAMS, Standby, new_name
from tests.postgres.artifacts import Kept
from tests.processes import wait_until

pytestmark = pytest.mark.slow

SHOP = """
    CREATE TABLE invoices (id serial PRIMARY KEY, note text);
    INSERT INTO invoices (note) SELECT repeat(md5(n::text), 40) FROM generate_series(1, 9000) n;
    CREATE UNLOGGED TABLE sessions (id int GENERATED ALWAYS AS IDENTITY, token text);
    INSERT INTO sessions (token) VALUES ('a'), ('b');
    CREATE UNLOGGED SEQUENCE visits; SELECT nextval('visits');
    CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM invoices;
    SELECT lo_from_bytea(0, 'a large object');
"""
STREAM_SIZE = 1024 * 1024


@dataclass(frozen=True)
class Pair:
    primary: TemporaryCluster
    standby: Standby


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A primary that serves the database `shop`, and a standby that gives way to it at once."""
    with TemporaryCluster(PROGRAMS[17]) as primary:
        with primary.server.visit("postgres") as admin:
            admin.execute("CREATE DATABASE shop")
        with primary.server.visit("shop") as connection:
            connection.execute(SHOP.encode())
        with Standby(primary, {"max_standby_streaming_delay": "0"}) as standby:
            standby.catch_up()
            yield Pair(primary, standby)


def test_a_standby_is_backed_up_verified_and_restored_elsewhere(
    pair: Pair, postgres: PostgresServer, installed: tuple[Programs, ...], tmp_path: Path
) -> None:
    vault, server = _vault(tmp_path), pair.standby.server
    source = DatabaseSource("shop", server, "shop", content_hash=True, stream_size=STREAM_SIZE)

    remarks = check_ready(vault, source, installed)
    snapshot = back_up_database(vault, source, installed=installed, began=datetime.now(UTC)).snapshot
    vault.verify(snapshot, "near", inspectors=inspectors(installed))
    report = restore_snapshot(vault, snapshot, postgres, new_name("shop"), installed=installed)

    unlogged = "The unlogged table public.sessions is without rows: the source is a standby, which holds none of them."
    assert remarks == (unlogged,)
    assert snapshot.manifest.facts["remarks"] == [unlogged]
    assert unlogged in report.notes
    assert {table.name: table.rows for table in report.evidence.tables} == {"invoices": 9000, "sessions": 0}


def _vacuumed(server: PostgresServer) -> None:
    with server.visit("shop") as primary:
        primary.execute("UPDATE invoices SET note = note || '!' WHERE id % 2 = 0")
        primary.execute("VACUUM invoices")


def _dropped(server: PostgresServer) -> None:
    with server.visit("shop") as primary:
        primary.execute("DROP TABLE invoices CASCADE")


@pytest.mark.parametrize("happens", [_vacuumed, _dropped], ids=["rows removed", "a table dropped"])
def test_what_the_primary_does_may_cancel_a_dump_and_is_told_with_the_setting_that_helps(
    pair: Pair, installed: tuple[Programs, ...], happens: Callable[[PostgresServer], None]
) -> None:
    done: list[bool] = []

    def on_chunk(_: str) -> None:
        if not done:
            done.append(True)
            happens(pair.primary.server)
            wait_until(lambda: _conflicts(pair.standby.server) > before)

    before = _conflicts(pair.standby.server)
    with pytest.raises(SourceError, match="conflict with recovery") as failed:
        dump_database(pair.standby.server, "shop", Kept(on_chunk), installed=installed, stream_size=STREAM_SIZE)

    assert failed.value.transient
    assert "hot_standby_feedback" in failed.value.hint
    assert "max_standby_streaming_delay" in failed.value.hint


def _conflicts(standby: PostgresServer) -> int:
    with standby.visit("postgres") as connection:
        row = connection.execute("SELECT conflicts FROM pg_stat_database WHERE datname = 'shop'").fetchone()
    return int(row[0]) if row else 0


def _vault(folder: Path) -> Vault:
    (folder / "keys").mkdir(mode=0o700)
    (folder / "near").mkdir()
    operations, escrow = Identity.generate("operations", CLASSIC), Identity.generate("escrow", CLASSIC)
    signing = SigningKey.generate("host")
    for key in (operations, operations.recipient, escrow.recipient, signing, signing.signer):
        write_key(folder / "keys", key)
    Vault.create([Member(LocalDiskRepository(folder / "near", "near"))])
    member = Member(LocalDiskRepository(folder / "near", "near"))
    return Vault.open([member], Keyring.from_folder(folder / "keys"), ["operations", "escrow"])
