"""Healing: giving every repository what it ought to have whole, object by object, from whichever has it right.

What is wrong in a repository is known by its size, or, once a copy was found damaged, by reading all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from lifeboat.attestation import Attestation, Verdict, attest, attestations_of, is_damaged
from lifeboat.copies import DAMAGE
from lifeboat.errors import (
    IntegrityError,
    LifeboatError,
    ObjectExists,
    ObjectNotFound,
    RepositoryError,
    RepositoryUnavailable,
)
from lifeboat.inventory import Place, take_inventory
from lifeboat.packs import pack_key, packs_in
from lifeboat.repositories.contract import ObjectInfo, Repository
from lifeboat.retention import Policy, plan_retention
from lifeboat.snapshot import artifact_key, snapshot_prefix
from lifeboat.stored import all_failed, drain, read_stored
from lifeboat.streams import Meter
from lifeboat.vault import Member, Progress, Put, Replication, Snapshot, Vault, put_into, put_pack_into

AT_ONCE = 4
"""Snapshots healed at the same time; the objects of each come one after another."""


def heal(
    vault: Vault,
    policy: Policy,
    source: str | None = None,
    *,
    now: datetime,
    at_once: int = AT_ONCE,
    progress: Progress | None = None,
) -> Sequence[Replication]:
    """Make whole, as `make_whole` does, what repositories owe of one source or of all, and damaged copies that stay.

    Of a snapshot that no repository has whole nothing is owed: that one is for `make_whole`, since looking for what is
    right of it reads all copies. What is attested is spread too. What went wrong is in `lacking`. May be repeated.
    """
    inventory = take_inventory(vault, source, now=now)
    plan = plan_retention(inventory.copies, policy, now)
    whole: dict[Place, list[str]] = {}
    for copy in inventory.copies:
        if copy.whole:
            whole.setdefault(copy.place, []).append(copy.repository)
    ill = [one.copy.place for one in plan.keep if not one.copy.whole and one.copy.place in whole]
    places = dict.fromkeys([*(one.place for one in plan.owed), *ill])
    mender = _Mender(vault, progress)

    def heal_one(place: Place) -> Replication:
        return mender.make_whole(inventory.snapshots[place], inventory.attestations[place], whole[place])

    with ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="heal") as pool:
        done = list(pool.map(heal_one, places))
        # A hold that one repository did not take must be told it before that one is alone.
        uneven = [inventory.snapshots[place] for place in sorted(inventory.uneven - places.keys())]
        return [*done, *pool.map(vault.replicate_additions, uneven)]


def make_whole(vault: Vault, snapshot: Snapshot, *, progress: Progress | None = None) -> Replication:
    """Give every repository that keeps its tier all of a snapshot as it was stored, and mend what is wrong there.

    An object of another size than the manifest's is wrong; of a copy that is attested as damaged all objects are read.
    What is wrong goes once the right one has been read in full elsewhere, each object from whichever repository has it
    right, and is read back. A copy that was attested as damaged is then attested as verified. What cannot be mended
    stays as it is, and `lacking` says why. May be repeated, also after a kill.
    """
    return _Mender(vault, progress).make_whole(snapshot, attestations_of(vault, snapshot))


@dataclass(frozen=True)
class _Stored:
    """An object of a snapshot, as the signed manifest has it, and what puts it into a repository."""

    name: str
    key: str
    size: int
    sha256: str
    into: Callable[[Member], Put]


class _Mender:
    """Mends copies in a vault. Safe to use from several threads: snapshots share packs."""

    def __init__(self, vault: Vault, progress: Progress | None) -> None:
        self._vault = vault
        self._progress = progress
        self._turns: dict[tuple[str, str], threading.Lock] = {}

    def make_whole(
        self, snapshot: Snapshot, attestations: Sequence[Attestation], known_whole: Sequence[str] = ()
    ) -> Replication:
        whole = list(known_whole)
        mended: dict[str, list[str]] = {}
        faults: dict[str, str] = {}
        for member in self._vault.present:
            name = member.name
            damaged = is_damaged(attestations, name)
            if name in whole or name not in snapshot.repositories or (damaged and snapshot.tier not in member.tiers):
                continue
            try:
                if snapshot.tier in member.tiers:
                    for one in self._mend(member, snapshot, damaged=damaged):
                        mended.setdefault(name, []).append(one)
                whole.append(name)
            except LifeboatError as error:
                faults[name] = error.message
        done = self._vault.replicate(snapshot, whole=whole or None, progress=self._progress)
        copied = {name: (*mended.get(name, ()), *done.copied.get(name, ())) for name in {**mended, **done.copied}}
        return Replication(done.snapshot, copied, {**done.lacking, **faults})

    def _mend(self, member: Member, snapshot: Snapshot, *, damaged: bool) -> Iterator[str]:
        """Yield the names of the objects that were put right in a repository; raise when others stay wrong."""
        sizes = _sizes(member.repository, snapshot)
        mended, faults = 0, dict[str, LifeboatError]()
        for one in _objects(snapshot):
            if not damaged and sizes.get(one.key) == one.size:
                continue
            try:
                if self._put_right(member, snapshot, one):
                    mended += 1
                    yield one.name
            except LifeboatError as error:
                if error.transient:
                    raise
                faults[one.name] = error
        if mended:
            self._vault.lock_packs(member, snapshot.manifest, snapshot.tier)
        if faults:
            name, fault = next(iter(faults.items()))
            raise RepositoryError(
                f"{len(faults)} objects of {snapshot.label} in {member.name} are not right, and cannot be mended now, "
                f"such as {name}: {fault.message}",
                hint=fault.hint,
            )
        if damaged:
            details = {"unsealed": False, "bytes_read": snapshot.manifest.sealed_size, "mended": mended}
            attest(self._vault, snapshot, Verdict.VERIFIED, repository=member.name, details=details)

    def _put_right(self, member: Member, snapshot: Snapshot, one: _Stored) -> bool:
        """Have an object be right in a repository; whether it was not. Nothing goes while no other has it right."""
        store = member.repository
        others = [m.repository for m in self._vault.present if m.name in snapshot.repositories and m is not member]
        with self._turns.setdefault((member.name, one.key), threading.Lock()):
            there = _look(store, one.key)
            if there is not None:
                if there.size == one.size and self._fault(store, one) is None:
                    return False
                others = self._those_right(one, others, lacking=member.name)
                if _look(store, one.key) != there:
                    raise RepositoryUnavailable(
                        f"{one.key} in {member.name} was replaced while it was looked at.", hint="Repeat it."
                    )
                store.delete(one.key)
            self._put(member, one, others)
            return True

    def _fault(self, repository: Repository, one: _Stored) -> LifeboatError | None:
        """What is wrong with an object, all of which is read. Raises when that cannot be known now."""
        try:
            drain(self._read(repository, one))
        except DAMAGE as error:
            return error
        return None

    def _those_right(self, one: _Stored, others: Sequence[Repository], *, lacking: str) -> list[Repository]:
        """The first repository that has an object right, all of which is read, and those behind it, for its stead."""
        failures: dict[str, LifeboatError] = {}
        for number, repository in enumerate(others):
            try:
                fault = self._fault(repository, one)
            except RepositoryError as error:
                fault = error
            if fault is None:
                return list(others[number:])
            failures[repository.name] = fault
        raise _nowhere(f"{one.key} in {lacking} is not what its manifest says, and stays", failures)

    def _put(self, member: Member, one: _Stored, others: Sequence[Repository]) -> None:
        failures: dict[str, LifeboatError] = {}
        for repository in others:
            try:
                with suppress(ObjectExists):  # put there meanwhile
                    one.into(member)(self._read(repository, one, heard_as=f"{member.name}: {one.name}"))
                drain(self._read(member.repository, one))
                return
            except (IntegrityError, RepositoryError) as error:
                failures[repository.name] = error
        raise _nowhere(f"{member.name} lacks {one.key}", failures)

    def _read(self, repository: Repository, one: _Stored, *, heard_as: str = "") -> Iterator[bytes]:
        """Yield an object, held to its digest, at the speed that is set."""
        progress = self._progress
        hear = (lambda count: progress(heard_as, count)) if progress and heard_as else None
        chunks = iter(Meter(read_stored([repository], one.key, one.size, one.sha256), hear))
        return self._vault.throttled(chunks)


def _objects(snapshot: Snapshot) -> Iterator[_Stored]:
    manifest, tier = snapshot.manifest, snapshot.tier
    for artifact in manifest.artifacts:
        key = artifact_key(manifest.source, tier, snapshot.id, artifact.name)
        into = partial(put_into, key=key, tier=tier)
        yield _Stored(artifact.name, key, artifact.sealed_size, artifact.sealed_sha256, into)
    for pack in manifest.packs:
        key = pack_key(manifest.source, pack.id)
        into = partial(put_pack_into, key=key)
        yield _Stored(f"pack {pack.id}", key, pack.sealed_size, pack.sealed_sha256, into)


def _sizes(repository: Repository, snapshot: Snapshot) -> dict[str, int]:
    """The sizes of what a repository has of a snapshot, by key."""
    manifest = snapshot.manifest
    prefix = snapshot_prefix(manifest.source, snapshot.tier, snapshot.id)
    sizes = {info.key: info.size for info in repository.list(prefix)}
    packs = packs_in(repository, manifest.source) if manifest.packs else {}
    return sizes | {pack_key(manifest.source, pack): size for pack, size in packs.items()}


def _look(repository: Repository, key: str) -> ObjectInfo | None:
    try:
        return repository.describe(key)
    except ObjectNotFound:
        return None


def _nowhere(what: str, failures: dict[str, LifeboatError]) -> RepositoryError:
    if failures:
        return all_failed(f"{what}: no other repository gives it right", failures)
    return RepositoryError(f"{what}: no other repository that answers has the snapshot.")
