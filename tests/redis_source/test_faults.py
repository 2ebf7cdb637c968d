"""What goes wrong at the source, on the way, and in what was stored."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lifeboat.attestation import Verdict, attestations_of
from lifeboat.errors import (
    ClientMissing,
    DumpFailed,
    IntegrityError,
    NotReady,
    RepositoryError,
    RestoreFailed,
    SourceRefused,
    SourceUnavailable,
)
from lifeboat.redis_source import scratch
from lifeboat.redis_source.backup import (
    EVIDENCE_MEDIA_TYPE,
    RDB_MEDIA_TYPE,
    RedisSource,
    back_up_redis,
    check_redis_ready,
    read_redis_evidence,
    redis_inspectors,
)
from lifeboat.redis_source.connection import ACL_RULE, RedisServer
from lifeboat.redis_source.evidence import RedisEvidence
from lifeboat.redis_source.proof import prove_redis
from lifeboat.redis_source.rdb import read_rdb
from lifeboat.redis_source.replication import rdb_of
from lifeboat.redis_source.scratch import scratch_redis
from lifeboat.snapshot import Kind
from lifeboat.vault import Snapshot, Vault
from tests.faulty_proxy import faulty_proxy
from tests.fixtures_redis import PASSWORD, PROGRAMS, VERSIONS, RedisServers, Running, fill, program
from tests.processes import children_of, wait_until

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]


def back_up(vault: Vault, server: RedisServer) -> Snapshot:
    return back_up_redis(vault, RedisSource("sessions", server), began=NOW).snapshot


def rdb_from(running: Running) -> bytes:
    with rdb_of(running.server, version=".".join(map(str, running.program.version))) as transfer:
        return b"".join(transfer.chunks)


def store(vault: Vault, rdb: bytes, evidence: RedisEvidence) -> Snapshot:
    """A snapshot as a host with a fault would have written it."""
    writer = vault.begin("sessions", Kind.REDIS, began=NOW)
    writer("rdb", [rdb], media_type=RDB_MEDIA_TYPE)
    writer("evidence", [evidence.to_json()], media_type=EVIDENCE_MEDIA_TYPE)
    return writer.commit({"flavour": "redis", "server_version": evidence.server_version, "rdb_version": 12})


# ---- getting in -----------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_tried_again_later(vault: Vault, redis_servers: RedisServers) -> None:
    running = redis_servers.start("redis-8.2")
    running.stop()

    with pytest.raises(SourceUnavailable) as refused:
        back_up(vault, running.server)
    assert refused.value.transient
    with pytest.raises(NotReady) as not_ready:
        check_redis_ready(vault, RedisSource("sessions", running.server))
    assert not_ready.value.transient


@pytest.mark.parametrize("password", ["wrong", None])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_wrong_password_is_refused_for_good_and_not_shown(
    version: str, password: str | None, vault: Vault, redis_servers: RedisServers
) -> None:
    server = replace(redis_servers.start(version).server, password=password)

    with pytest.raises(SourceRefused, match="user name or password") as refused:
        back_up(vault, server)
    assert not refused.value.transient
    assert "wrong" not in str(refused.value)
    with pytest.raises(NotReady) as not_ready:
        check_redis_ready(vault, RedisSource("sessions", server))
    assert not not_ready.value.transient


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rule_that_is_told_is_enough_and_without_psync_it_says_so(
    version: str, vault: Vault, redis_servers: RedisServers
) -> None:
    running = redis_servers.start(version)
    fill(running)
    rule = ACL_RULE.replace("<user>", "lifeboat").replace("<password>", "secret").split()
    with running.client() as client:
        client.execute_command(*rule)
        client.execute_command(*[word for word in rule if word != "+psync"][:2], "less", *rule[3:-1])
    allowed = replace(running.server, user="lifeboat", password="secret")
    less = replace(allowed, user="less")

    assert back_up(vault, allowed).manifest.facts["keys"] > 300
    assert check_redis_ready(vault, RedisSource("sessions", allowed)) == ()
    with pytest.raises(SourceRefused, match="psync") as refused:
        back_up(vault, less)
    assert ACL_RULE in refused.value.hint
    assert not refused.value.transient


def test_preflight_sees_that_psync_is_not_allowed(vault: Vault, redis_servers: RedisServers) -> None:
    running = redis_servers.start("redis-8.2")
    with running.client() as client:
        client.execute_command("ACL", "SETUSER", "most", "on", ">secret", "+@all", "-psync")

    with pytest.raises(NotReady, match="psync"):
        check_redis_ready(vault, RedisSource("s", replace(running.server, user="most", password="secret")))


def test_a_managed_service_without_psync_is_refused_with_the_remedy(vault: Vault, redis_servers: RedisServers) -> None:
    running = redis_servers.start("redis-6.2", rename_command='PSYNC ""')

    with pytest.raises(SourceRefused, match="does not know a command") as refused:
        back_up(vault, running.server)
    assert "ElastiCache" in refused.value.hint
    assert not refused.value.transient


def test_a_cluster_is_refused(vault: Vault, redis_servers: RedisServers) -> None:
    running = redis_servers.start("redis-8.2", cluster_enabled="yes")

    with pytest.raises(SourceRefused, match="Redis Cluster"):
        back_up(vault, running.server)


# ---- the server's own faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_cannot_save_is_told_of_and_leaves_no_snapshot(
    version: str, vault: Vault, redis_servers: RedisServers
) -> None:
    running = redis_servers.start(version, repl_diskless_sync="no")
    shutil.rmtree(running.folder)

    with pytest.raises((DumpFailed, SourceUnavailable), match="could not make its RDB") as refused:
        back_up(vault, running.server)

    assert refused.value.transient
    assert vault.list().snapshots == ()


def test_a_server_that_is_loading_is_tried_again_later(vault: Vault, redis_servers: RedisServers) -> None:
    running = redis_servers.start("redis-8.2", save="3600 1")
    fill(running)
    running.save()
    running.stop()
    starting = threading.Thread(
        target=running.start, kwargs={"key_load_delay": "20000", "loading_process_events_interval_bytes": "1024"}
    )
    starting.start()

    def is_loading() -> bool:
        with pytest.raises((SourceUnavailable, SourceRefused)) as refused:
            back_up(vault, running.server)
        return "loading" in refused.value.message

    wait_until(is_loading)
    with pytest.raises(NotReady, match="loading") as not_ready:
        check_redis_ready(vault, RedisSource("sessions", running.server))

    assert not_ready.value.transient
    starting.join()


# ---- on the way -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_a_connection_that_is_dropped_midway_leaves_no_snapshot(
    diskless: str, vault: Vault, redis_servers: RedisServers
) -> None:
    running = redis_servers.start("redis-8.2", repl_diskless_sync=diskless)
    fill(running)
    with faulty_proxy(running.server.port) as proxy:
        through = replace(running.server, port=proxy.port)
        proxy.drop(received=1_000_000)

        with pytest.raises(SourceUnavailable, match="broke off after") as refused:
            back_up(vault, through)
        proxy.heal()

        assert refused.value.transient
        assert vault.list().snapshots == ()
        assert back_up(vault, through).manifest.facts["keys"] > 300


def test_a_source_that_is_killed_midway_leaves_no_snapshot(vault: Vault, redis_servers: RedisServers) -> None:
    running = redis_servers.start("redis-8.2")
    fill(running)

    def kill(_: str, count: int) -> None:
        if count > 500_000:
            running.stop(kill=True)

    with pytest.raises(SourceUnavailable):
        back_up_redis(vault, RedisSource("sessions", running.server), began=NOW, progress=kill)
    assert vault.list().snapshots == ()


BACKUP = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from lifeboat.redis_source.backup import RedisSource, back_up_redis
from lifeboat.redis_source.connection import RedisServer
from tests.redis_source.vaults import open_vault

left = int(sys.argv[3])


def count(event, arguments):
    global left
    if event in ("os.rename", "os.link", "socket.connect", "socket.__new__") or event == "open" and arguments[2] & 1:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


vault = open_vault(Path(sys.argv[1]), "vault")
sys.addaudithook(count)
server = RedisServer("127.0.0.1", int(sys.argv[2]), None, os.environ["PASSWORD"])
back_up_redis(vault, RedisSource("sessions", server), began=datetime.now(UTC))
"""


def test_a_backup_that_is_killed_at_any_step_leaves_none_or_a_whole_snapshot(
    vault: Vault, redis_servers: RedisServers, tmp_path: Path
) -> None:
    running = redis_servers.start("redis-8.2")
    fill(running)
    environment = {
        "PYTHONPATH": f"{ROOT / 'include'}:{ROOT}",
        "PATH": os.environ["PATH"],
        "PASSWORD": PASSWORD,
    }
    command = [sys.executable, "-c", BACKUP, str(tmp_path), str(running.server.port)]
    step = 0

    while subprocess.run([*command, str(step)], env=environment, check=False).returncode == -signal.SIGKILL:
        for snapshot in vault.list().snapshots:
            assert vault.verify(snapshot, "vault", inspectors=redis_inspectors()).faults == {}
        step += 1

    assert step > 5
    whole = vault.list().snapshots
    assert whole
    assert all(vault.verify(s, "vault", inspectors=redis_inspectors()).faults == {} for s in whole)


def test_a_run_that_has_finished_is_not_repeated(vault: Vault, redis_servers: RedisServers) -> None:
    source = RedisSource("sessions", redis_servers.start("redis-8.2").server)

    first = back_up_redis(vault, source, began=NOW, scheduled_for=NOW)
    second = back_up_redis(vault, source, began=NOW, scheduled_for=NOW)

    assert (first.reused, second.reused) == (False, True)
    assert first.snapshot == second.snapshot


def test_a_vault_that_fails_ends_the_backup(
    vault: Vault, redis_servers: RedisServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = redis_servers.start("redis-8.2")
    fill(running)
    repository = vault.members[0].repository

    def full(key: str, chunks: Iterator[bytes], **_: object) -> None:
        next(iter(chunks))
        raise RepositoryError("No room.", hint="")

    monkeypatch.setattr(repository, "put", full)

    with pytest.raises(RepositoryError, match="No room"):
        back_up(vault, running.server)
    assert vault.list().snapshots == ()


# ---- what was stored ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_truncation_and_every_flipped_byte_is_noticed(version: str, redis_servers: RedisServers) -> None:
    running = redis_servers.start(version)
    fill(running)
    with running.client() as client:
        client.delete("big", "compresses", "list:large")
    rdb = rdb_from(running)
    whole = read_rdb([rdb])
    assert read_rdb(rdb[i : i + 7] for i in range(0, len(rdb), 7)) == whole

    for length in [0, 5, 9, *range(20, len(rdb), max(1, len(rdb) // 60)), len(rdb) - 9, len(rdb) - 8, len(rdb) - 1]:
        with pytest.raises(IntegrityError):
            read_rdb([rdb[:length]])
    for at in [3, *range(9, len(rdb), max(1, len(rdb) // 60)), len(rdb) - 1]:
        with pytest.raises(IntegrityError):
            read_rdb([rdb[:at] + bytes([rdb[at] ^ 0x10]) + rdb[at + 1 :]])
    with pytest.raises(IntegrityError, match="follow its end"):
        read_rdb([rdb + b"x"])


def flipped(rdb: bytes) -> bytes:
    return rdb[:-1000] + bytes([rdb[-1000] ^ 1]) + rdb[-999:]


@pytest.mark.parametrize("damage", [flipped, lambda rdb: rdb[:-500]], ids=["flipped", "cut short"])
def test_a_damaged_rdb_is_not_verified_and_not_proven(
    damage: Callable[[bytes], bytes], vault: Vault, redis_servers: RedisServers
) -> None:
    running = redis_servers.start("redis-8.2")
    fill(running)
    evidence = read_redis_evidence(vault, back_up(vault, running.server))
    snapshot = store(vault, damage(rdb_from(running)), evidence)

    faults = vault.verify(snapshot, "vault", inspectors=redis_inspectors()).faults
    proof = prove_redis(vault, snapshot, installed=PROGRAMS)

    assert isinstance(faults["rdb"], IntegrityError)
    assert not proof.proven
    assert "vault" in proof.damaged
    assert [a.verdict for a in attestations_of(vault, snapshot)] == [Verdict.FAILED]


def test_other_contents_than_the_evidence_says_are_not_proven(vault: Vault, redis_servers: RedisServers) -> None:
    running = redis_servers.start("redis-8.2")
    fill(running)
    evidence = read_redis_evidence(vault, back_up(vault, running.server))
    with running.client(3) as client:
        client.delete("session:1")
    snapshot = store(vault, rdb_from(running), evidence)

    proof = prove_redis(vault, snapshot, installed=PROGRAMS)

    assert "as the evidence says" in proof.reason
    assert [a.verdict for a in attestations_of(vault, snapshot)] == [Verdict.FAILED]


def test_a_scratch_server_that_is_killed_ends_the_proof_clearly_and_says_nothing_of_the_snapshot(
    vault: Vault, redis_servers: RedisServers, tmp_path: Path
) -> None:
    running = redis_servers.start("redis-8.2")
    fill(running)
    snapshot = back_up(vault, running.server)
    (tmp_path / "scratch").mkdir()

    def kill(_artifact: str, _bytes: int) -> None:  # as a host without memory does
        for process in children_of(os.getpid()):
            with contextlib.suppress(FileNotFoundError):  # it was killed already
                if Path(f"/proc/{process}/cwd").readlink().parent == tmp_path / "scratch":
                    os.kill(process, signal.SIGKILL)

    with pytest.raises(SourceUnavailable, match=r"was killed while it loaded") as ended:
        prove_redis(vault, snapshot, installed=PROGRAMS, base=tmp_path / "scratch", progress=kill)

    assert ended.value.transient
    assert list(attestations_of(vault, snapshot)) == []
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("does", ["echo no memory; exit 1", "exec sleep 600"], ids=["ends", "hangs"])
def test_a_scratch_server_that_does_not_start_says_nothing_of_the_snapshot_and_leaves_nothing(
    vault: Vault, redis_servers: RedisServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    monkeypatch.setattr(scratch, "START_SECONDS", 0.5)
    running = redis_servers.start("redis-8.2")
    fill(running)
    snapshot = back_up(vault, running.server)
    (tmp_path / "scratch").mkdir()
    broken = tmp_path / "redis-server"
    broken.write_text(f"#!/bin/bash\n{does}\n")
    broken.chmod(0o755)
    programs = [replace(program("redis-8.2"), path=broken)]

    with pytest.raises(SourceUnavailable, match="did not start") as ended:
        prove_redis(vault, snapshot, installed=programs, base=tmp_path / "scratch")

    assert ("no memory" in ended.value.message) is does.startswith("echo")
    assert list(attestations_of(vault, snapshot)) == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_keys_that_have_expired_since_do_not_spoil_a_proof(vault: Vault, redis_servers: RedisServers) -> None:
    running = redis_servers.start("redis-8.2")
    with running.client() as client:
        for number in range(200):
            client.set(f"short:{number}", "x", px=600 + number)
        client.set("long", "x")
    snapshot = back_up(vault, running.server)
    time.sleep(1)

    proof = prove_redis(vault, snapshot, installed=PROGRAMS)

    assert proof.proven, proof.reason
    assert proof.rows == 201


def test_a_server_that_is_missing_is_named_with_the_remedy(vault: Vault, redis_servers: RedisServers) -> None:
    snapshot = back_up(vault, redis_servers.start("redis-8.2").server)

    for installed in ((), (program("redis-6.2"), program("valkey-9.1"))):
        with pytest.raises(ClientMissing, match=r"reads an RDB of version 12 from Redis 8\.2") as missing:
            prove_redis(vault, snapshot, installed=installed)
        assert "LIFEBOAT_REDIS_BIN" in missing.value.hint
    assert attestations_of(vault, snapshot) == ()


def test_an_rdb_of_a_newer_server_is_stored_though_its_keys_cannot_be_counted(redis_servers: RedisServers) -> None:
    running = redis_servers.start("redis-8.2", rdbchecksum="no")
    with running.client() as client:
        client.set("key", "value")
    rdb = rdb_from(running)
    at = rdb.index(b"\x00\x03key\x05value")
    newer = rdb[:at] + b"\x1b" + rdb[at + 1 :]

    found = read_rdb([newer])

    assert "opcode 27" in found.uncounted
    assert found.databases == {}
    assert not found.checksummed
    with pytest.raises(IntegrityError):
        read_rdb([newer[:-8]])


def test_a_server_that_refuses_an_rdb_says_why(redis_servers: RedisServers, tmp_path: Path) -> None:
    running = redis_servers.start("redis-8.2")
    fill(running)

    with (
        pytest.raises(RestoreFailed, match="does not load the RDB"),
        scratch_redis(program("redis-6.2"), [rdb_from(running)], base=tmp_path),
    ):
        pass
    assert not list(tmp_path.glob("lifeboat-redis-*"))
