"""A Redis source and its snapshots: looking whether a backup can be made, making it, reading what it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis.exceptions import ResponseError

from lifeboat.errors import IntegrityError, LifeboatError
from lifeboat.outcome import BackupOutcome, lacking
from lifeboat.readiness import look_at_vault, not_ready
from lifeboat.redis_source.connection import RedisServer, refusal
from lifeboat.redis_source.evidence import RedisEvidence, ServerFacts, ask_facts, differences
from lifeboat.redis_source.rdb import RdbContents, read_drained, read_rdb
from lifeboat.redis_source.replication import check_replication, rdb_of
from lifeboat.snapshot import Kind
from lifeboat.streams import ArtifactSink, tee
from lifeboat.vault import Inspector, Progress, Snapshot, Vault

RDB_MEDIA_TYPE = "application/vnd.redis.rdb"
EVIDENCE_MEDIA_TYPE = "application/vnd.lifeboat.redis-evidence+json"


@dataclass(frozen=True)
class RedisSource:
    """A server that is backed up under the name `name`."""

    name: str
    server: RedisServer


def check_redis_ready(vault: Vault, source: RedisSource) -> tuple[str, ...]:
    """Look for whatever would stop a backup, before it is begun. Returns remarks: what will make it degraded.

    Raises `NotReady` with every obstacle at once. Whether PSYNC itself is allowed shows only where the user may ask.
    """
    obstacles: list[LifeboatError] = []
    remarks: list[str] = []
    try:
        remarks += look_at_server(source)
    except LifeboatError as error:
        obstacles.append(error)
    found, missing = look_at_vault(vault, source.name)
    if obstacles or missing:
        raise not_ready(source.name, [*missing, *obstacles])
    return (*found, *remarks)


def look_at_server(source: RedisSource) -> tuple[str, ...]:
    """The same for the server alone. Raises what stands in the way."""
    check_replication(source.server)
    facts = ask_facts(source.server)
    with source.server.client() as client:
        _check_psync(source.server, client)
    return _remarks(facts)


def back_up_redis(
    vault: Vault,
    source: RedisSource,
    *,
    began: datetime,
    scheduled_for: datetime | None = None,
    progress: Progress | None = None,
) -> BackupOutcome:
    """Stream a server's RDB once into every repository of the vault, with its evidence, and write the manifest last.

    A run that has already finished, by its `scheduled_for`, is found again and not repeated. Succeeds when at least
    one repository has all. May be repeated. Raises `SourceError`, `RepositoryError`, `KeyringError`, `IntegrityError`.
    """
    if scheduled_for is not None:
        made = vault.finished_run(source.name, scheduled_for, lambda _: True)
        if made is not None:
            return BackupOutcome(made, True, lacking(vault, made, {}))
    before = ask_facts(source.server)
    writer = vault.begin(source.name, Kind.REDIS, began=began, scheduled_for=scheduled_for, progress=progress)
    with rdb_of(source.server, version=before.version) as transfer:
        contents = _store(transfer.chunks, writer)
    after = ask_facts(source.server)
    evidence = RedisEvidence(
        before.version,
        contents,
        transfer.replication_id,
        transfer.offset,
        before.keys,
        after.keys,
        after.used_memory,
        (*_remarks(before), *([f"Keys were not counted: {contents.uncounted}."] if contents.uncounted else [])),
    )
    evidence_remarks = differences(evidence)
    if evidence_remarks:
        raise IntegrityError(
            f"The RDB of {source.server} is not what the server announced: {'; '.join(evidence_remarks)}.",
            hint="Repeat the backup; if it happens again, look into the server's log.",
        )
    writer("evidence", [evidence.to_json()], media_type=EVIDENCE_MEDIA_TYPE)
    snapshot = writer.commit(_facts(before, evidence))
    return BackupOutcome(snapshot, False, lacking(vault, snapshot, writer.failures))


def read_redis_evidence(vault: Vault, snapshot: Snapshot, *, repository: str | None = None) -> RedisEvidence:
    """What the source held when the snapshot was made."""
    return RedisEvidence.from_json(b"".join(vault.read(snapshot, "evidence", repository=repository)))


def redis_inspectors() -> Mapping[str, Inspector]:
    """By media type, what reads an artifact's inside."""
    return {RDB_MEDIA_TYPE: read_drained, EVIDENCE_MEDIA_TYPE: _parse_evidence}


def _store(chunks: Iterator[bytes], sink: ArtifactSink) -> RdbContents:
    """Store an RDB and count its keys at the same time. When either fails, no artifact remains."""
    found: list[RdbContents] = []
    given_up = threading.Event()

    def until_given_up() -> Iterator[bytes]:
        for chunk in chunks:
            if given_up.is_set():
                return
            yield chunk

    def store(stream: Iterator[bytes]) -> None:
        try:
            sink("rdb", stream, media_type=RDB_MEDIA_TYPE)
        except BaseException:
            given_up.set()
            raise

    def count(stream: Iterator[bytes]) -> None:
        found.append(read_rdb(stream))

    failures = tee(until_given_up(), {"store": store, "count": count})
    for name in ("store", "count"):
        if name in failures:
            raise failures[name]
    return found[0]


def _check_psync(server: RedisServer, client: Any) -> None:
    """Ask the server whether this user may PSYNC, where it can be asked (ACL DRYRUN, 7.0 and on)."""
    try:
        user = client.execute_command("ACL", "WHOAMI")
        answer = client.execute_command("ACL", "DRYRUN", user, "PSYNC", "?", "-1")
    except ResponseError:
        return  # it is too old, or this user may not ask: the backup will tell
    if answer not in (b"OK", True, "OK"):
        raise refusal(server, "NOPERM the 'psync' command")


def _remarks(facts: ServerFacts) -> tuple[str, ...]:
    remarks = []
    if facts.last_save_failed:
        remarks.append("The server's own last background save failed; its log says why.")
    if facts.role != "master":
        remarks.append("The source is a replica: what its master has not sent yet is not in the snapshot.")
    return tuple(remarks)


def _facts(server: ServerFacts, evidence: RedisEvidence) -> Mapping[str, object]:
    contents = evidence.contents
    return {
        "flavour": server.flavour,
        "server_version": server.version,
        "rdb_version": contents.version,
        "databases": len(contents.databases),
        "keys": None if contents.uncounted else contents.keys,
        "used_memory": evidence.used_memory,
        "checksummed": contents.checksummed,
        "append_only": server.append_only,
    }


def _parse_evidence(chunks: Iterator[bytes]) -> None:
    try:
        RedisEvidence.from_json(b"".join(chunks))
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"It is no evidence: {error!r}.", hint="Use another snapshot.") from error
