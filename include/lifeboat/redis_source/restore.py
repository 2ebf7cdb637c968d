"""Restoring a snapshot into a running server: key by key, out of a scratch server that has loaded it.

Keys keep their database and the moment they expire. What is there already is never overwritten unasked, and asking
twice does no harm: a key that is already as it should be is passed over.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.exceptions import NoPermissionError, OutOfMemoryError, ResponseError

from lifeboat.children import Children
from lifeboat.errors import LifeboatError, NotReady, RestoreFailed, SettingsError, SourceRefused
from lifeboat.progress import PhaseClock, Report, size_text
from lifeboat.redis_source.backup import read_redis_evidence
from lifeboat.redis_source.connection import ACL_RULE_TO_RESTORE, RedisServer, cluster_refused
from lifeboat.redis_source.evidence import RedisEvidence, ServerFacts, facts_of
from lifeboat.redis_source.programs import RedisProgram, no_server
from lifeboat.redis_source.proof import heard
from lifeboat.redis_source.scratch import (
    ScratchRedis,
    check_memory,
    fitting_program,
    known_rdb_version,
    reads,
    scratch_redis,
)
from lifeboat.snapshot import Kind
from lifeboat.vault import Progress, Snapshot, Vault

BATCH_KEYS = 500
"""Keys that are copied with one round trip, at most."""

BATCH_BYTES = 8 * 1024 * 1024
"""Bytes of values that are in memory at the same time, at most, unless a single one is larger."""

FLAG = "--i-know-this-overwrites-keys"


@dataclass(frozen=True)
class RedisRestore:
    """What a restore did: keys by what became of them, `seconds` by phase.

    `expired` have reached the end of their time since the snapshot was made.
    """

    snapshot: Snapshot
    server: str
    restored: int
    overwritten: int
    there_already: int
    expired: int
    functions: int
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()


def restore_redis(
    vault: Vault,
    snapshot: Snapshot,
    target: RedisServer,
    *,
    installed: Sequence[RedisProgram],
    overwrite: bool = False,
    repository: str | None = None,
    base: Path | None = None,
    children: Children | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> RedisRestore:
    """Copy every key and function of a snapshot into a running server.

    All that can be known beforehand is looked at before anything is written: version, memory, databases, keys of the
    same names. Other keys of the target stay. May be repeated, also after it was ended midway. Raises `NotReady`,
    `SettingsError`, `ClientMissing`, `SourceError`, `RestoreFailed`, `IntegrityError`, `RepositoryError`.
    """
    if snapshot.manifest.kind is not Kind.REDIS:
        raise SettingsError(f"{snapshot.label} is not a snapshot of Redis.", hint="`lifeboat list` shows the others.")
    children, clock = children or Children(), PhaseClock(report)
    evidence = read_redis_evidence(vault, snapshot, repository=repository)
    with _rights_told():
        facts = _check_target(target, evidence)
        program = _program_for(target, facts, evidence, installed, base, children)
    check_memory(evidence.used_memory)
    numbers = list(evidence.contents.databases)
    chunks = heard(vault.read(snapshot, "rdb", repository=repository), progress)
    began = time.monotonic()
    databases = max([15, *numbers]) + 1
    scratched = scratch_redis(program, chunks, databases=databases, base=base, children=children)
    with _rights_told(), scratched as scratch:
        clock.seconds["load"] = round(time.monotonic() - began, 3)
        clock.report(f"load: {clock.seconds['load']:.1f} s")
        numbers = _databases(scratch)
        with clock.phase("look"):
            notes = _check_room(target, facts, scratch, overwrite=overwrite)
            if not overwrite:
                _refuse_taken(target, scratch, numbers)
        evicted = _evicted(target)
        with clock.phase("copy"):
            functions = _copy_functions(target, scratch, overwrite=overwrite)
            counts = _Counts()
            for number in numbers:
                _copy(target, scratch, number, counts, overwrite=overwrite, hear=progress)
        if lost := _evicted(target) - evicted:
            raise RestoreFailed(
                f"{target} has evicted {lost} keys meanwhile, by its `maxmemory`; which ones is not known.",
                hint="Raise `maxmemory` there, and repeat: what is there already is passed over.",
            )
    return RedisRestore(
        snapshot, str(target), counts.restored, counts.overwritten, counts.there, counts.expired, functions,
        clock.seconds, notes,
    )  # fmt: skip


class _Counts:
    restored = overwritten = there = expired = 0


@dataclass(frozen=True)
class _Key:
    """A key with its value as DUMP gives it, and when it expires, in milliseconds of the epoch; 0 for never."""

    name: bytes
    value: bytes
    expires: int


@contextmanager
def _rights_told() -> Iterator[None]:
    """What a user lacks is told by the rights of a restore, which are not those of a backup."""
    try:
        yield
    except SourceRefused as error:
        if isinstance(error.__cause__, NoPermissionError):
            error.hint = f"Let its administrator run: {ACL_RULE_TO_RESTORE}."
        raise


# ---- looking first --------------------------------------------------------------------------------------------------


def _check_target(target: RedisServer, evidence: RedisEvidence) -> ServerFacts:
    with target.client() as client:
        info = client.info()
    if int(info.get("cluster_enabled", 0)):
        raise cluster_refused(target)
    facts = facts_of(info)
    if facts.role != "master":
        raise NotReady(f"{target} is a replica, which takes no keys.", hint="Restore into its master.")
    for number in evidence.contents.databases:
        try:
            with target.client(number) as client:
                client.ping()
        except LifeboatError as error:
            if "index is out of range" in error.message or "out of range" in error.message:
                raise NotReady(
                    f"The snapshot has keys in database {number}, and {target} has no such database.",
                    hint="Raise `databases` in its configuration.",
                ) from error
            raise
    return facts


def _program_for(
    target: RedisServer,
    facts: ServerFacts,
    evidence: RedisEvidence,
    installed: Sequence[RedisProgram],
    base: Path | None,
    children: Children,
) -> RedisProgram:
    """An installed server that reads the snapshot and whose values the target takes, found out by trying.

    A value that a newer server has dumped is refused by an older one, whatever is in it.
    """
    contents = evidence.contents
    fitting_program(contents.flavour, contents.version, evidence.server_version, installed)  # or its own error
    able = [program for program in installed if reads(program, contents.flavour, contents.version)]
    wanted = (facts.flavour, tuple(int(part) for part in facts.version.split(".")[:2]))
    able.sort(key=lambda p: ((p.flavour, p.version[:2]) != wanted, p.flavour != facts.flavour, p.version))
    tried = []
    for program in able:
        with scratch_redis(program, writable=True, base=base, children=children) as probe:
            if _takes_values_of(target, probe):
                return program
        tried.append(str(program))
    newest = known_rdb_version(RedisProgram(facts.flavour, tuple(map(int, facts.version.split(".")[:3])), Path()))
    if contents.version > newest or contents.flavour != facts.flavour:
        raise NotReady(
            f"The snapshot is of {contents.flavour.capitalize()} {evidence.server_version} (RDB {contents.version}), "
            f"and {target} is {facts.flavour.capitalize()} {facts.version}, which does not take its values "
            f"(tried with {', '.join(tried)}).",
            hint="Restore into a server of the same kind that is at least as new.",
        )
    raise no_server(f"reads the snapshot and whose values {facts.flavour.capitalize()} {facts.version} takes")


def _takes_values_of(target: RedisServer, probe: ScratchRedis) -> bool:
    """Restore a value under a name nobody uses, for a second, and remove it."""
    name = f"lifeboat:probe:{secrets.token_hex(8)}".encode()
    with probe.server.client() as client:
        client.set(name, b"value")
        value = client.dump(name)
    with target.client() as client:
        try:
            client.restore(name, 1000, value)
        except ResponseError as error:
            if "payload version or checksum" in str(error):
                return False
            raise
        client.delete(name)
    return True


def _check_room(target: RedisServer, facts: ServerFacts, scratch: ScratchRedis, *, overwrite: bool) -> tuple[str, ...]:
    """Refuse what would end in errors or evictions midway."""
    if not facts.maxmemory:
        return ()
    with scratch.server.client() as client:
        memory = client.info("memory")
        needed = int(memory["used_memory"]) - int(memory.get("used_memory_startup", 0))
    free = facts.maxmemory - facts.used_memory
    if needed <= free:
        return ()
    text = (
        f"{target} has `maxmemory` {size_text(facts.maxmemory)}, of which {size_text(max(free, 0))} are free, and the "
        f"snapshot takes about {size_text(needed)}."
    )
    if overwrite:
        return (f"{text} What is overwritten makes room, so it was tried.",)
    then = "the restore would end midway" if facts.maxmemory_policy == "noeviction" else "keys would be evicted"
    raise NotReady(f"{text} By its policy {facts.maxmemory_policy}, {then}.", hint="Raise `maxmemory` there first.")


def _refuse_taken(target: RedisServer, scratch: ScratchRedis, numbers: Sequence[int]) -> None:
    """Raise `SettingsError` when the target has keys of the snapshot's names with something else in them."""
    taken: dict[int, int] = {}
    for number in numbers:
        with target.client(number) as theirs:
            for batch in _batches(scratch, number):
                there = [key for key, found in zip(batch, _exist(theirs, batch), strict=True) if found]
                taken[number] = taken.get(number, 0) + _same(theirs, there).count(False)
    if sum(taken.values()):
        named = ", ".join(f"{count} in database {number}" for number, count in taken.items() if count)
        raise SettingsError(
            f"{target} has other keys of the same names: {named}. Nothing was written.",
            hint=f"Restore into an empty server, or give {FLAG}.",
        )


def _exist(client: Any, keys: Sequence[_Key]) -> Sequence[int]:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.exists(key.name)
    found: Sequence[int] = pipeline.execute()
    return found


def _same(client: Any, keys: Sequence[_Key]) -> list[bool]:
    """Which of the target's keys are what the snapshot has.

    Dumps of two servers differ, so each value is put beside the target's for a moment, and both are dumped there.
    """
    if not keys:
        return []
    mark = secrets.token_hex(8)
    beside = [f"lifeboat:compare:{mark}:{number}".encode() for number in range(len(keys))]
    pipeline = client.pipeline(transaction=False)
    for key, name in zip(keys, beside, strict=True):
        pipeline.restore(name, 60_000, key.value)
        pipeline.dump(key.name)
        pipeline.dump(name)
        pipeline.pttl(key.name)
    try:
        found = pipeline.execute()
        now = int(time.time() * 1000)
        same = []
        for key, name, theirs, ours, ttl in zip(keys, beside, found[1::4], found[2::4], found[3::4], strict=True):
            expires = now + ttl if ttl >= 0 else 0
            alike = theirs == ours or _members(client, key.name) == (_members(client, name) or ())
            when = expires == key.expires or bool(expires and key.expires and abs(expires - key.expires) < 2000)
            same.append(alike and when)
        return same
    finally:
        client.delete(*beside)


def _members(client: Any, name: bytes) -> object:
    """The members of a large collection, whose order in a dump means nothing; None for other types."""
    kind = client.type(name)
    if kind == b"set":
        return client.smembers(name)
    if kind == b"zset":
        return client.zrange(name, 0, -1, withscores=True)
    if kind == b"hash":
        fields = client.hgetall(name)
        try:
            times = client.execute_command("HPEXPIRETIME", name, "FIELDS", len(fields), *fields)
            return fields, dict(zip(fields, times, strict=True))
        except ResponseError:  # fields have no time to live in this version
            return fields, {}
    return None


# ---- copying --------------------------------------------------------------------------------------------------------


def _copy(
    target: RedisServer,
    scratch: ScratchRedis,
    number: int,
    counts: _Counts,
    *,
    overwrite: bool,
    hear: Progress | None,
) -> None:
    with target.client(number) as client, scratch.server.client(number) as source:
        passed = size = 0
        keys = source.dbsize()
        for batch in _batches(scratch, number):
            passed += len(batch)
            there = _exist(client, batch) if overwrite else [0] * len(batch)
            pipeline = client.pipeline(transaction=False)
            for key in batch:
                pipeline.restore(key.name, key.expires, key.value, replace=overwrite, absttl=bool(key.expires))
            answers = pipeline.execute(raise_on_error=False)
            _count(counts, answers, there)
            busy = [key for key, answer in zip(batch, answers, strict=True) if _says(answer, "BUSYKEY")]
            if not all(_same(client, busy)):
                raise RestoreFailed(
                    f"{target} has been given other keys of the same names meanwhile; {counts.restored} keys were "
                    "restored before.",
                    hint="Stop what writes there, and repeat: what is there already is passed over.",
                )
            counts.there += len(busy)
            for answer in answers:
                _raise_other(target, answer, counts)
            if hear is not None:
                size += sum(len(key.value) for key in batch)
                hear(f"keys of database {number}", size)
        counts.expired += keys - passed


def _count(counts: _Counts, answers: Sequence[object], there: Sequence[int]) -> None:
    for answer, had in zip(answers, there, strict=True):
        if not isinstance(answer, Exception):
            counts.overwritten += bool(had)
            counts.restored += not had


def _says(answer: object, word: str) -> bool:
    return isinstance(answer, ResponseError) and word in str(answer)


def _raise_other(target: RedisServer, answer: object, counts: _Counts) -> None:
    if not isinstance(answer, Exception) or _says(answer, "BUSYKEY"):
        return
    if _says(answer, "OOM") or isinstance(answer, OutOfMemoryError):
        raise RestoreFailed(
            f"{target} has no memory left by its `maxmemory`; {counts.restored} keys were restored before.",
            hint="Raise `maxmemory` there, and repeat: what is there already is passed over.",
        )
    raise answer


def _copy_functions(target: RedisServer, scratch: ScratchRedis, *, overwrite: bool) -> int:
    """Restore the libraries of functions (7.0 and on); how many there are."""
    if scratch.program.version < (7,) or scratch.contents is None or not scratch.contents.functions:
        return 0
    with scratch.server.client() as source:
        dump = source.function_dump()
    with target.client() as client:
        try:
            client.function_restore(dump, "REPLACE" if overwrite else "APPEND")
        except ResponseError as error:
            if "already exists" not in str(error):
                raise
            if client.function_dump() != dump:
                raise SettingsError(
                    f"{target} has other libraries of functions of the same names.",
                    hint=f"Remove them, or give {FLAG}.",
                ) from error
    return scratch.contents.functions


def _batches(scratch: ScratchRedis, number: int) -> Iterator[list[_Key]]:
    """Yield the keys of a database, those that have expired left out, a few megabytes at a time."""
    exact = scratch.program.version >= (7,)
    with scratch.server.client(number) as client:
        cursor = 0
        while True:
            cursor, names = client.scan(cursor, count=BATCH_KEYS)
            for some in _by_size(client, names):
                pipeline = client.pipeline(transaction=False)
                pipeline.time()
                for name in some:
                    pipeline.dump(name)
                    pipeline.execute_command("PEXPIRETIME" if exact else "PTTL", name)
                (seconds, micros), *found = pipeline.execute()
                now = seconds * 1000 + micros // 1000
                keys = zip(some, found[::2], found[1::2], strict=True)
                batch = [
                    _Key(name, value, 0 if when < 0 else when if exact else now + when)
                    for name, value, when in keys
                    if value is not None
                ]
                if batch:
                    yield batch
            if cursor == 0:
                return


def _by_size(client: Any, names: Sequence[bytes]) -> Iterator[list[bytes]]:
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.memory_usage(name)
    batch: list[bytes] = []
    size = 0
    for name, used in zip(names, pipeline.execute(), strict=True):
        if batch and size + (used or 0) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += used or 0
    if batch:
        yield batch


def _databases(scratch: ScratchRedis) -> list[int]:
    with scratch.server.client() as client:
        return sorted(int(name[2:]) for name in client.info("keyspace") if name[2:].isdigit())


def _evicted(target: RedisServer) -> int:
    with target.client() as client:
        return int(client.info("stats").get("evicted_keys", 0))
