"""Backing up real servers of every version, and proving it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from lifeboat.redis_source.backup import (
    RedisSource,
    back_up_redis,
    check_redis_ready,
    read_redis_evidence,
    redis_inspectors,
)
from lifeboat.redis_source.programs import program_at
from lifeboat.redis_source.proof import prove_redis
from lifeboat.redis_source.scratch import scratch_redis
from lifeboat.vault import Vault
from tests.fixtures_redis import PROGRAMS, VERSIONS, RedisServers, contents, fill, program, same

NOW = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)


@pytest.mark.parametrize("diskless", ["yes", "no"])
@pytest.mark.parametrize("version", VERSIONS)
def test_all_types_are_counted_verified_and_proven(
    version: str, diskless: str, redis_servers: RedisServers, vault: Vault
) -> None:
    running = redis_servers.start(version, repl_diskless_sync=diskless)
    fill(running)
    before = contents(running)
    source = RedisSource("sessions", running.server)

    remarks = check_redis_ready(vault, source)
    outcome = back_up_redis(vault, source, began=NOW)

    assert remarks == ()
    evidence = read_redis_evidence(vault, outcome.snapshot)
    held = evidence.contents
    keys = [place for place in before if place[0] >= 0]
    assert held.keys == len(keys)
    for number, database in held.databases.items():
        kinds = [before[place][0] for place in keys if place[0] == number]
        assert database.types == {kind: kinds.count(kind) for kind in set(kinds)}
    assert held.checksummed
    assert not held.uncounted
    assert evidence.before == evidence.after == {number: d.keys for number, d in held.databases.items()}
    assert vault.verify(outcome.snapshot, "vault", inspectors=redis_inspectors()).faults == {}
    proof = prove_redis(vault, outcome.snapshot, installed=PROGRAMS)
    assert proof.proven, proof.reason
    assert (proof.tables, proof.rows) == (len(held.databases), held.keys)
    assert same(before, contents(running))


def test_a_program_keeps_the_name_it_is_linked_by(tmp_path: Path) -> None:
    real = program("redis-8.2").path
    (tmp_path / "redis-check-rdb").symlink_to(real)
    (tmp_path / "redis-server").symlink_to("redis-check-rdb")

    found = program_at(tmp_path / "redis-server")

    with scratch_redis(found) as scratch, scratch.server.client() as client:
        assert client.ping()
