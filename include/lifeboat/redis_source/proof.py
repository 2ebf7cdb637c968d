"""Proving a snapshot of Redis: it is really loaded into a scratch server, and its keys are counted there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lifeboat.attestation import require_signing_key
from lifeboat.children import Children
from lifeboat.errors import (
    RestoreFailed,
    SettingsError,
    SourceUnavailable,
)
from lifeboat.progress import PhaseClock, Report
from lifeboat.proof import Proof, prove_copies
from lifeboat.redis_source.backup import read_redis_evidence
from lifeboat.redis_source.evidence import RedisEvidence
from lifeboat.redis_source.programs import RedisProgram
from lifeboat.redis_source.rdb import RdbContents
from lifeboat.redis_source.scratch import ScratchRedis, check_memory, fitting_program, scratch_redis
from lifeboat.smoke import CheckResult
from lifeboat.snapshot import Kind
from lifeboat.vault import Progress, Snapshot, Vault


def prove_redis(
    vault: Vault,
    snapshot: Snapshot,
    *,
    installed: Sequence[RedisProgram],
    repository: str | None = None,
    base: Path | None = None,
    children: Children | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> Proof:
    """Load a snapshot into a scratch server, count its keys there and compare them with its evidence, and attest.

    From `repository`, or from the first that has a whole copy; a damaged copy is attested as such. In the proof,
    `tables` are databases and `rows` are keys. What merely prevents proving is raised, and nothing attested:
    `KeyringError`, `SettingsError`, `ClientMissing`, `NotReady`, `SourceError`, `RepositoryError`. May be repeated.
    """
    require_signing_key(vault)
    if snapshot.manifest.kind is not Kind.REDIS:
        raise SettingsError(f"{snapshot.label} is not a snapshot of Redis.", hint="`lifeboat list` shows the others.")
    children, clock, began, started = children or Children(), PhaseClock(report), datetime.now(UTC), time.monotonic()

    def of_copy_in(name: str) -> Proof:
        return _of_copy(vault, snapshot, name, began, installed, base, children, clock, progress)

    return prove_copies(vault, snapshot, of_copy_in, repository, clock, began, started, children)


def _of_copy(
    vault: Vault,
    snapshot: Snapshot,
    repository: str,
    began: datetime,
    installed: Sequence[RedisProgram],
    base: Path | None,
    children: Children,
    clock: PhaseClock,
    progress: Progress | None,
) -> Proof:
    evidence = read_redis_evidence(vault, snapshot, repository=repository)
    contents = evidence.contents
    program = fitting_program(contents.flavour, contents.version, evidence.server_version, installed)
    check_memory(evidence.used_memory)
    proof = Proof(
        snapshot, repository, began, clock.seconds, server_version=str(program), tables=len(contents.databases),
        rows=contents.keys, notes=evidence.remarks,
    )  # fmt: skip
    chunks = heard(vault.read(snapshot, "rdb", repository=repository), progress)
    databases = max(16, *(number + 1 for number in contents.databases)) if contents.databases else 16
    began_loading = time.monotonic()
    try:
        with scratch_redis(program, chunks, databases=databases, base=base, children=children) as scratch:
            clock.seconds["load"] = round(time.monotonic() - began_loading, 3)
            clock.report(f"load: {clock.seconds['load']:.1f} s")
            with clock.phase("count keys"):
                checks = tuple(_checks(evidence, scratch))
    except RestoreFailed as error:
        children.refuse_killed()
        return replace(proof, reason=error.message)
    except SourceUnavailable:
        children.refuse_killed()
        raise
    failed = [f"{c.name}: expected {c.expected}, found {c.found}" for c in checks if not c.passed]
    reason = f"{len(failed)} of {len(checks)} checks failed. {'; '.join(failed)}" if failed else ""
    return replace(proof, checks=checks, reason=reason)


def heard(chunks: Iterator[bytes], progress: Progress | None) -> Iterator[bytes]:
    """The same chunks, with their count told to `progress`."""
    count = 0
    for chunk in chunks:
        count += len(chunk)
        if progress is not None:
            progress("rdb", count)
        yield chunk


def _checks(evidence: RedisEvidence, scratch: ScratchRedis) -> Iterator[CheckResult]:
    """All keys of a database, to the key; then each type, where only keys that have expired since may be missing."""
    loaded = scratch.contents
    assert loaded is not None
    counted = evidence.contents
    began = time.monotonic()
    yield _check("as the evidence says", began, _summary(counted), _summary(loaded))
    if loaded.uncounted:
        return
    with scratch.server.client() as client:
        began, keyspace = time.monotonic(), client.info("keyspace")
    for number, database in loaded.databases.items():
        found = int(keyspace.get(f"db{number}", {}).get("keys", 0))
        yield _check(f"keys of database {number}", began, str(database.keys), str(found))
    extra = {int(name[2:]) for name in keyspace if name.startswith("db")} - loaded.databases.keys()
    yield _check("databases", began, "no others", "no others" if not extra else f"also {sorted(extra)}")
    for number, database in loaded.databases.items():
        for kind, keys in database.types.items():
            began = time.monotonic()
            found = _count(scratch, number, kind)
            gone = _expired(loaded, number, kind, time.time())
            least = keys - gone
            expected = str(keys) if least == keys else f"{least} to {keys}"
            seconds = round(time.monotonic() - began, 3)
            yield CheckResult(
                f"{kind} keys of database {number}", least <= found <= keys, seconds, expected, str(found)
            )


def _count(scratch: ScratchRedis, database: int, kind: str) -> int:
    # Nothing is written here, so SCAN gives every key once.
    with scratch.server.client(database) as client:
        cursor, count = 0, 0
        while True:
            cursor, keys = client.scan(cursor, count=5000, _type=kind)
            count += len(keys)
            if cursor == 0:
                return count


def _expired(contents: RdbContents, database: int, kind: str, now: float) -> int:
    """How many keys of a type have expired by `now`, at most: those whose second has begun."""
    return sum(n for (db, k, second), n in contents.soon.items() if (db, k) == (database, kind) and second <= now)


def _summary(contents: RdbContents) -> str:
    if contents.uncounted:
        return "not counted"
    databases: Mapping[int, object] = {n: dict(d.types) for n, d in contents.databases.items()}
    return f"{contents.size} bytes, {contents.keys} keys, {contents.functions} functions: {databases}"


def _check(name: str, began: float, expected: str, found: str) -> CheckResult:
    return CheckResult(name, expected == found, round(time.monotonic() - began, 3), expected, found)
