"""The vault: all repositories together with the keys. Snapshots are put, listed, read, verified and replicated here.

A backup streams once and is written to every repository at the same time. It succeeds when at least one repository has
all of it; `replicate` copies what is missing elsewhere. The storage is the catalogue: nothing else needs to survive.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypedDict

from lifeboat import __version__
from lifeboat.dates import latest_now, misdated
from lifeboat.errors import (
    ArtifactMismatch,
    IntegrityError,
    KeyringError,
    LifeboatError,
    ObjectExists,
    ObjectNotFound,
    RepositoryError,
    RepositoryUnavailable,
    SettingsError,
    SnapshotNotFound,
    WrongIdentity,
)
from lifeboat.keys import Keyring, Recipient
from lifeboat.manifest import Artifact, Manifest, Pack, check_place, read_manifest
from lifeboat.marks import require_usable
from lifeboat.packs import (
    PackCheck,
    PackReader,
    lacking_packs,
    pack_key,
    pack_object_id,
    rewrapped_packs_prefix,
)
from lifeboat.record_cache import RecordCache
from lifeboat.repositories.contract import ObjectInfo, Repository
from lifeboat.repositories.web_words import looks_like_a_page, page_words
from lifeboat.rewrapped import LONGEST, RewrappedKeys, artifact_of, read_rewrapped, rewrapped_prefix
from lifeboat.sealing import seal, unseal
from lifeboat.snapshot import (
    VAULT_KEY,
    Kind,
    SnapshotId,
    Tier,
    artifact_key,
    check_name,
    manifest_key,
    object_id,
    parse_manifest_key,
    snapshot_prefix,
)
from lifeboat.stored import Heard, all_failed, drain, read_stored
from lifeboat.streams import Meter, Throttle, compress, decompress, tee

VAULT_FORMAT = 1

ADDITIONS = ("attestations/", "rewrapped/")
"""What is added to a snapshot after its manifest."""

SPARE_LOCK = 0.25
"""By how much of a daily lock a pack's is extended beyond it: it is asked for every night, and renewed once a week."""

Progress = Callable[[str, int], None]
"""Hears an artifact's name and how many of its bytes have passed so far."""

Put = Callable[[Iterator[bytes]], object]
"""Puts an object into a repository from a stream."""

Inspector = Callable[[Iterator[bytes]], None]
"""Reads an artifact's plaintext as far as it likes, and raises `LifeboatError` when its inside does not parse."""


@dataclass(frozen=True)
class Member:
    """A repository's part in the vault: whether every snapshot must be there, and in which storage class by tier.

    `tiers` are those that are kept there at all; `locks` is for how long a snapshot's objects are locked when they are
    put into a tier.
    """

    repository: Repository
    required: bool = True
    storage_classes: Mapping[Tier, str] = field(default_factory=dict)
    tiers: frozenset[Tier] = frozenset(Tier)
    locks: Mapping[Tier, timedelta] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.repository.name

    def locking(self, tier: Tier) -> Locking:
        """How a new object of a tier is put."""
        lock = self.locks.get(tier)
        return {"locked_until": _from_now(lock)} if lock else {}

    def locking_pack(self) -> Locking:
        """How a new pack is put: for longer than the snapshot needs, so that the next nights need not extend it."""
        lock = self.locks.get(Tier.DAILY)
        return {"locked_until": _from_now(lock + lock * SPARE_LOCK)} if lock else {}


def _from_now(span: timedelta) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + span


class Locking(TypedDict, total=False):
    """Until when an object that is put or copied stays locked; empty where it is not."""

    locked_until: datetime


@dataclass(frozen=True)
class Snapshot:
    """A finished snapshot, and the names of the repositories whose manifest says they have it.

    `misdated` says why its date cannot be right; empty when it can.
    """

    manifest: Manifest
    tier: Tier
    repositories: tuple[str, ...]
    misdated: str = field(default="", compare=False)

    @property
    def id(self) -> SnapshotId:
        return self.manifest.snapshot_id

    @property
    def age(self) -> tuple[bool, datetime, SnapshotId]:
        """What puts snapshots in order, oldest first: an id alone tells two of one second not apart.

        One whose date cannot be right comes before all others, so that whoever takes the newest takes it last.
        """
        return not self.misdated, self.manifest.began, self.id

    @property
    def label(self) -> str:
        """What people call it: source, tier and id."""
        return f"{self.manifest.source}/{self.tier}/{self.id}"


@dataclass(frozen=True)
class Listing:
    """Snapshots, oldest first, and what could not be read: (repository and key, reason)."""

    snapshots: tuple[Snapshot, ...]
    problems: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Verification:
    """What reading a snapshot back from one repository showed.

    `unsealed` tells whether an identity was at hand, so that the inside was checked as well as the sealed bytes.
    """

    snapshot: Snapshot
    repository: str
    unsealed: bool
    bytes_read: int
    faults: Mapping[str, LifeboatError]

    def raise_faults(self) -> None:
        """Raise the first fault, if there is any, saying how many there are."""
        for artifact, fault in self.faults.items():
            raise type(fault)(
                f"{self.snapshot.label} in {self.repository} is not whole: {artifact}: {fault.message} "
                f"({len(self.faults)} of {len(self.snapshot.manifest.artifacts)} artifacts are affected.)",
                hint=fault.hint,
            ) from fault


@dataclass(frozen=True)
class Replication:
    """What replicating a snapshot did: what was copied by repository, and why a repository still lacks any of it."""

    snapshot: Snapshot
    copied: Mapping[str, tuple[str, ...]]
    lacking: Mapping[str, str]


class Vault:
    """Repositories that hold the same snapshots, opened with the keys at hand. Safe to use from several threads."""

    def __init__(
        self,
        members: Sequence[Member],
        keyring: Keyring,
        recipient_names: Sequence[str],
        vault_id: str,
        absent: Mapping[str, LifeboatError],
    ) -> None:
        self.members = tuple(members)
        self.keyring = keyring
        self.recipient_names = tuple(recipient_names)
        self.id = vault_id
        self.absent = dict(absent)
        self.cache = RecordCache()
        self.throttle: Throttle | None = None
        # Small requests share these threads; making new ones for each would cost more than asking.
        self.pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="vault")

    @classmethod
    def create(cls, members: Sequence[Member]) -> str:
        """Mark every repository as part of one vault, and return its id. May be repeated; nothing is overwritten.

        A repository that is added later joins the vault the others already form.
        """
        found = _read_vault_ids(members)
        if failures := {name: r for name, r in found.items() if isinstance(r, LifeboatError)}:
            raise all_failed("Cannot look into", failures)
        vault_id = _single_id(found) or uuid.uuid4().hex
        for member in members:
            if found[member.name] is None:
                record = json.dumps({"format": VAULT_FORMAT, "vault_id": vault_id}).encode()
                member.repository.put(VAULT_KEY, [record])
        return vault_id

    @classmethod
    def open(cls, members: Sequence[Member], keyring: Keyring, recipient_names: Sequence[str]) -> Vault:
        """The vault these repositories form. Those that do not answer now are left out, and named in `absent`.

        Raises `SettingsError` when they belong to different vaults or to none yet, `RepositoryError` when none answers.
        """
        found = _read_vault_ids(members)
        vault_id = _single_id(found)
        absent = {name: result for name, result in found.items() if isinstance(result, LifeboatError)}
        if vault_id is None:
            if absent:
                raise all_failed("No repository of the vault can be used", absent)
            raise SettingsError(
                f"None of the repositories {', '.join(found)} is part of a vault yet.", hint="Run `lifeboat init` once."
            )
        for name, result in found.items():
            if result is None:
                absent[name] = SettingsError(
                    f"The repository {name} is not part of the vault: it has no {VAULT_KEY}.",
                    hint="A new or emptied repository joins with `lifeboat init`; `replicate` then fills it.",
                )
        return cls(members, keyring, recipient_names, vault_id, absent)

    @property
    def present(self) -> tuple[Member, ...]:
        """The repositories that answered when the vault was opened."""
        return tuple(member for member in self.members if member.name not in self.absent)

    # ---- writing ----------------------------------------------------------------------------------------------------

    def begin(
        self,
        source: str,
        kind: Kind,
        *,
        began: datetime,
        scheduled_for: datetime | None = None,
        tier: Tier = Tier.DAILY,
        progress: Progress | None = None,
    ) -> SnapshotWriter:
        """Begin an attempt at a snapshot, under a fresh id. Raises `KeyringError` when it could not be finished."""
        check_name(source, "a source")
        recipients = self.check_keys()
        snapshot_id = SnapshotId.make(began, os.urandom(4))
        return SnapshotWriter(self, source, kind, tier, snapshot_id, began, scheduled_for, recipients, progress)

    def check_keys(self) -> tuple[Recipient, ...]:
        """The recipients a snapshot is sealed for. Raises `KeyringError` when a key that a backup needs is missing."""
        if self.keyring.signing_key is None:
            raise KeyringError("The keyring has no signing key, so no snapshot can be made.", hint=_SIGNING_HINT)
        return self.keyring.recipients_named(self.recipient_names)

    def replicate(
        self, snapshot: Snapshot, *, whole: Sequence[str] | None = None, progress: Progress | None = None
    ) -> Replication:
        """Copy to every repository that keeps its tier what it lacks of a snapshot, from any other, byte for byte.

        Only from those that are `whole`, where it is known that others are not. Each artifact is digested on its way
        and never lands unless it is what the manifest says. What was added to the snapshot later goes along. What is
        there is left as it is, right or wrong; `lifeboat.healing` mends it. May be repeated.
        """
        source = snapshot if whole is None else Snapshot(snapshot.manifest, snapshot.tier, tuple(whole))
        copied: dict[str, tuple[str, ...]] = {}
        kept = {member.name for member in self.members if snapshot.tier in member.tiers}
        lacking = {name: error.message for name, error in self.absent.items() if name in kept}
        have = set(snapshot.repositories)
        for member in self.present:
            if snapshot.tier not in member.tiers:
                continue
            try:
                if member.name not in have:
                    copied[member.name] = self._copy_to(member, source, progress)
                elif packs := tuple(self._copy_packs(member, source, progress)):
                    copied[member.name] = packs  # lost since
                have.add(member.name)
            except LifeboatError as error:
                lacking[member.name] = error.message
        names = tuple(member.name for member in self.members if member.name in have)
        replicated = Snapshot(snapshot.manifest, snapshot.tier, names)
        added = self.replicate_additions(replicated)
        for name, what in added.copied.items():
            copied[name] = copied.get(name, ()) + what
        return Replication(replicated, copied, {**lacking, **added.lacking})

    def throttled(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """A stream on its way from one repository to another, no faster than `throttle` allows."""
        return self.throttle(chunks) if self.throttle else chunks

    def replicate_additions(self, snapshot: Snapshot) -> Replication:
        """Copy to every repository that has a snapshot the attestations and rewrapped keys that others have of it.

        Nothing is overwritten, and whoever reads them checks them. May be repeated.
        """
        lacking: dict[str, str] = {}
        found: dict[str, tuple[Member, ...]] = {}
        answering = []
        for member in self.present:
            if member.name in snapshot.repositories:
                try:
                    keys = [info.key for info in _additions(member, snapshot)]
                except RepositoryError as error:
                    lacking[member.name] = error.message
                    continue
                answering.append(member)
                for key in keys:
                    found[key] = (*found.get(key, ()), member)
        copied: dict[str, tuple[str, ...]] = {}
        for member in answering:
            for key, holders in sorted(found.items()):
                if member in holders:
                    continue
                name = key.removeprefix(snapshot_prefix(snapshot.manifest.source, snapshot.tier, snapshot.id))
                try:
                    with suppress(ObjectExists):
                        member.repository.put(key, holders[0].repository.get(key))
                        copied[member.name] = (*copied.get(member.name, ()), name)
                except RepositoryError as error:
                    lacking[member.name] = error.message
        return Replication(snapshot, copied, lacking)

    def lock_packs(self, member: Member, manifest: Manifest, tier: Tier) -> None:
        """Have a snapshot's packs stay locked as long as the snapshot does in a tier. A longer lock stays.

        May be repeated. Raises `RepositoryError`.
        """
        lock = member.locks.get(tier)
        if lock is None:
            return
        needed, spare = _from_now(lock), lock * SPARE_LOCK if tier is Tier.DAILY else timedelta()

        def extend(pack: Pack) -> None:
            key = pack_key(manifest.source, pack.id)
            with suppress(ObjectNotFound):  # told by whoever looks whether all are there
                until = member.repository.describe(key).locked_until
                if until is None or until < needed:
                    member.repository.lock(key, needed + spare)

        list(self.pool.map(extend, manifest.packs))

    # ---- finding ----------------------------------------------------------------------------------------------------

    def list(self, source: str | None = None, tier: Tier | None = None) -> Listing:
        """Every finished snapshot, with what is wrong. Raises `RepositoryError` only when no repository answers."""
        prefix = "snapshots/"
        if source is not None:
            prefix += f"{check_name(source, 'a source')}/"
            prefix += f"{tier}/" if tier is not None else ""
        problems = {name: error.message for name, error in self.absent.items()}
        keys: dict[tuple[str, Tier, SnapshotId], list[tuple[Member, ObjectInfo]]] = {}
        answered = 0
        for member in self.present:
            try:
                found = [(parse_manifest_key(info.key), info) for info in member.repository.list(prefix)]
            except RepositoryError as error:
                problems[member.name] = error.message
                continue
            answered += 1
            for place, info in found:
                if place is not None and tier in (None, place[1]):
                    keys.setdefault(place, []).append((member, info))
        if not answered:
            raise RepositoryUnavailable(
                f"No repository can be listed: {problems}.", hint="`lifeboat preflight` looks closer."
            )
        read = list(self.pool.map(lambda item: self._read_one(*item), keys.items()))
        stored = [max(info.modified for _, info in listed) for listed in keys.values()]
        dated = self.dated([(s, at) for (s, _), at in zip(read, stored, strict=True) if s], datetime.now(UTC))
        snapshots = sorted(dated, key=lambda s: (s.manifest.source, s.age, s.tier))
        for _, found_problems in read:
            problems.update(found_problems)
        return Listing(tuple(snapshots), tuple(problems.items()))

    def dated(self, snapshots: Sequence[tuple[Snapshot, datetime]], now: datetime) -> Sequence[Snapshot]:
        """The snapshots, each given with when it was stored, and what is wrong with their dates."""
        began = [snapshot.manifest.began for snapshot, _ in snapshots]
        limit = latest_now(now, began, [member.repository for member in self.present], self.pool)
        return [
            replace(snapshot, misdated=why) if (why := misdated(snapshot.manifest.began, at, limit)) else snapshot
            for snapshot, at in snapshots
        ]

    def find(self, source: str, snapshot_id: SnapshotId | None = None, tier: Tier | None = None) -> Snapshot:
        """The newest snapshot of a source, or the one of this id. Raises `SnapshotNotFound`."""
        listing = self.list(source, tier)
        fitting = [s for s in listing.snapshots if snapshot_id in (None, s.id)]
        if not fitting:
            wanted = f"snapshot {snapshot_id}" if snapshot_id else "snapshot"
            unreadable = "".join(f" {place}: {reason}" for place, reason in listing.problems)
            raise SnapshotNotFound(
                f"There is no {wanted} of {source}{f' in the tier {tier}' if tier else ''}.{unreadable}",
                hint="`lifeboat list` shows what there is.",
            )
        return max(fitting, key=lambda s: s.age)

    def finished_run(self, source: str, scheduled_for: datetime, fits: Callable[[Manifest], bool]) -> Snapshot | None:
        """The snapshot an earlier try of the same run has already finished, if there is one."""
        for snapshot in reversed(self.list(source, Tier.DAILY).snapshots):
            if snapshot.misdated:
                continue  # it may be of a run of that name in another year
            if snapshot.manifest.scheduled_for == scheduled_for and fits(snapshot.manifest):
                return snapshot
        return None

    # ---- reading ----------------------------------------------------------------------------------------------------

    def read(
        self,
        snapshot: Snapshot,
        name: str,
        *,
        repository: str | Sequence[str] | None = None,
        heard: Heard | None = None,
    ) -> Iterator[bytes]:
        """Yield an artifact's plaintext, from `repository`, the first of several, or the first that has it.

        When a repository fails midway, the next one goes on from the same byte. Nothing unauthenticated is given out.
        Where its header has no key for an identity at hand, rewrapped keys in any repository are tried.
        Raises `IntegrityError` kinds, `RepositoryError` when no repository is left.
        """
        artifact = snapshot.manifest.artifact(name)
        sealed = self.read_sealed(snapshot, artifact, repository=repository, heard=heard)
        identity = object_id(self.id, snapshot.manifest.source, snapshot.id, name)
        keys = self.rewrapped_keys(snapshot, name)
        return decompress(unseal(sealed, object_id=identity, identities=self.keyring.identities, rewrapped=keys))

    def rewrapped_keys(self, snapshot: Snapshot, name: str | None = None) -> Iterator[RewrappedKeys]:
        """Yield the rewrapped keys of an artifact, or of all, from every repository that answers.

        What cannot be read is passed over. A repository is asked when its turn comes.
        """
        prefix = rewrapped_prefix(snapshot.manifest.source, snapshot.tier, snapshot.id)
        for member in self.present:
            with suppress(RepositoryError):
                for info in member.repository.list(prefix):
                    artifact = artifact_of(info.key.removeprefix(prefix))
                    if artifact is None or name not in (None, artifact) or info.size > LONGEST:
                        continue
                    with suppress(RepositoryError, IntegrityError):
                        data = b"".join(member.repository.get(info.key))
                        yield read_rewrapped(data, artifact, place=f"{member.name}:{info.key}")

    def read_sealed(
        self,
        snapshot: Snapshot,
        artifact: Artifact,
        *,
        repository: str | Sequence[str] | None = None,
        heard: Heard | None = None,
    ) -> Iterator[bytes]:
        """Yield an artifact as it is stored; raises `ArtifactMismatch` at the end when it is not what was stored."""
        repositories = self.holders(snapshot, repository)
        key = artifact_key(snapshot.manifest.source, snapshot.tier, snapshot.id, artifact.name)
        yield from read_stored(repositories, key, artifact.sealed_size, artifact.sealed_sha256, heard)

    def packs_of(self, snapshot: Snapshot, *, repository: str | Sequence[str] | None = None) -> PackReader:
        """What reads a snapshot's packs, from `repository` or from the first that gives them."""
        repositories = self.holders(snapshot, repository)
        return PackReader(repositories, self.id, snapshot.manifest.source, self.keyring.identities)

    def holders(self, snapshot: Snapshot, repository: str | Sequence[str] | None = None) -> Sequence[Repository]:
        """The repositories that a snapshot can be read from now, or `repository` alone. Raises when there is none."""
        names = (repository,) if isinstance(repository, str) else repository or snapshot.repositories
        repositories = [m.repository for m in self.present if m.name in names]
        if not repositories:
            raise RepositoryUnavailable(
                f"No repository that holds {snapshot.label} can be used now ({', '.join(names)}).",
                hint="`lifeboat preflight` shows why.",
            )
        return repositories

    def verify(
        self,
        snapshot: Snapshot,
        repository: str,
        *,
        inspectors: Mapping[str, Inspector] | None = None,
        check_pack: PackCheck | None = None,
        progress: Progress | None = None,
    ) -> Verification:
        """Read every byte of a snapshot back from one repository: digests, seals, and the inside by media type.

        `check_pack` looks into packs. Without an identity at hand only the sealed bytes are compared, and `unsealed` is
        False.
        """
        faults: dict[str, LifeboatError] = {}
        unsealed = bool(self.keyring.identities)
        bytes_read = 0
        for artifact in snapshot.manifest.artifacts:
            inspector = (inspectors or {}).get(artifact.media_type)
            try:
                if unsealed:
                    try:
                        self._check_inside(snapshot, artifact, repository, inspector, progress)
                    except WrongIdentity:
                        unsealed = False
                if not unsealed:
                    drain(self.read_sealed(snapshot, artifact, repository=repository))
                bytes_read += artifact.sealed_size
            except (IntegrityError, RepositoryError) as error:
                faults[artifact.name] = error
        for pack in snapshot.manifest.packs:
            try:
                self._check_pack(snapshot, pack, repository, check_pack if unsealed else None, progress)
                bytes_read += pack.sealed_size
            except (IntegrityError, RepositoryError) as error:
                faults[f"pack {pack.id}"] = error
        return Verification(snapshot, repository, unsealed, bytes_read, faults)

    def overwriting_repositories(self) -> tuple[str, ...]:
        """The repositories that ignore create-only puts, found out by trying; snapshots there can be overwritten.

        Those that fail while being tried are taken for honest: a backup notices their fault by itself.
        """

        def ignores(member: Member) -> bool:
            try:
                return not member.repository.honours_create_only(VAULT_KEY)
            except RepositoryError:
                return False

        return tuple(member.name for member in self.present if ignores(member))

    def read_manifest(self, member: Member, place: tuple[str, Tier, SnapshotId], info: ObjectInfo) -> Manifest:
        """The manifest of a place that a listing of a repository shows as `info`, its signature checked.

        Raises `RepositoryError`, `IntegrityError`.
        """
        known = self.cache.parsed(member.repository, info)
        if isinstance(known, Manifest):
            return known
        where = f"{member.name}:{info.key}"
        manifest = self._opened(self.cache.read(member.repository, info), where)
        check_place(manifest, self.id, place[0], place[2], place=where)
        self.cache.remember(member.repository, info, manifest)
        return manifest

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _opened(self, envelope: bytes, place: str) -> Manifest:
        """The manifest in an envelope. Every repository has the same bytes, whose signature is checked once."""
        name, signers = ("manifest", hashlib.sha256(envelope).digest()), self.keyring.signers
        return self.cache.derived(name, signers, lambda: read_manifest(envelope, signers, place=place))

    def _read_one(
        self, place: tuple[str, Tier, SnapshotId], listed: Sequence[tuple[Member, ObjectInfo]]
    ) -> tuple[Snapshot | None, dict[str, str]]:
        """The snapshot at a place, as the first readable manifest has it, and what was wrong with the others."""
        source, tier, snapshot_id = place
        key = manifest_key(source, tier, snapshot_id)
        problems: dict[str, str] = {}
        manifests: dict[str, Manifest] = {}
        for member, info in listed:
            where = f"{member.name}:{key}"
            try:
                manifests[member.name] = self.read_manifest(member, (source, tier, snapshot_id), info)
            except (IntegrityError, RepositoryError) as error:
                problems[where] = error.message
        if not manifests:
            return None, problems
        manifest = next(iter(manifests.values()))
        return Snapshot(manifest, tier, tuple(n for n, m in manifests.items() if m == manifest)), problems

    def _copy_to(self, member: Member, snapshot: Snapshot, progress: Progress | None) -> tuple[str, ...]:
        manifest = snapshot.manifest
        copied = list(self._copy_packs(member, snapshot, progress))
        for artifact in manifest.artifacts:
            key = artifact_key(manifest.source, snapshot.tier, snapshot.id, artifact.name)
            hear = progress and _about(progress, f"{member.name}: {artifact.name}")
            chunks = iter(Meter(self.read_sealed(snapshot, artifact), hear))
            try:
                put_into(member, key, snapshot.tier)(self.throttled(chunks))
                copied.append(artifact.name)
            except ObjectExists:
                # Left by an attempt that failed on a later artifact; good only if it is what the manifest says.
                there = Snapshot(manifest, snapshot.tier, (member.name,))
                drain(self.read_sealed(there, artifact, repository=member.name))
        key = manifest_key(manifest.source, snapshot.tier, snapshot.id)
        envelope = self._manifest_envelope(snapshot, key)
        self.lock_packs(member, manifest, snapshot.tier)
        require_usable(member.repository, manifest.source, manifest.packs)
        try:
            member.repository.put(key, [envelope], **member.locking(snapshot.tier))
        except ObjectExists:
            if b"".join(member.repository.get(key)) != envelope:
                raise ArtifactMismatch(
                    f"{member.name}:{key} holds another manifest.",
                    hint="Keep it for inquiry, then remove it and repeat.",
                ) from None
        return tuple(copied)

    def _copy_packs(self, member: Member, snapshot: Snapshot, progress: Progress | None) -> Iterator[str]:
        """Copy to a repository the packs that it lacks; yields their names."""
        manifest = snapshot.manifest
        if not manifest.packs:
            return
        others = Snapshot(manifest, snapshot.tier, tuple(n for n in snapshot.repositories if n != member.name))
        for pack in lacking_packs(member.repository, manifest.source, manifest.packs):
            hear = progress and _about(progress, f"{member.name}: pack {pack.id}")
            chunks = iter(Meter(self.packs_of(others).sealed(pack), hear))
            with suppress(ObjectExists):  # put there meanwhile
                put_pack_into(member, pack_key(manifest.source, pack.id))(self.throttled(chunks))
                yield f"pack {pack.id}"

    def _manifest_envelope(self, snapshot: Snapshot, key: str) -> bytes:
        for member in self.present:
            if member.name in snapshot.repositories:
                envelope = b"".join(member.repository.get(key))
                if self._opened(envelope, f"{member.name}:{key}") == snapshot.manifest:
                    return envelope
        raise RepositoryUnavailable(f"The manifest of {snapshot.label} cannot be read again.", hint="Repeat later.")

    def _check_pack(
        self, snapshot: Snapshot, pack: Pack, repository: str, check: PackCheck | None, progress: Progress | None
    ) -> None:
        packs = self.packs_of(snapshot, repository=repository)
        hear = progress and _about(progress, f"pack {pack.id}")
        if check is None:
            drain(Meter(packs.sealed(pack), hear))
        else:
            check(pack, iter(Meter(packs.whole(pack), hear)))

    def _check_inside(
        self,
        snapshot: Snapshot,
        artifact: Artifact,
        repository: str,
        inspector: Inspector | None,
        progress: Progress | None,
    ) -> None:
        hear = progress and _about(progress, artifact.name)
        plain = Meter(self.read(snapshot, artifact.name, repository=repository), hear)
        failures = tee(plain, {"inside": inspector} if inspector else {"nothing": drain})
        for failure in failures.values():
            raise failure
        if (plain.size, plain.sha256) != (artifact.plain_size, artifact.plain_sha256):
            raise ArtifactMismatch(
                f"{artifact.name} unseals to {plain.size} bytes; its manifest says {artifact.plain_size}, or their "
                "digests differ.",
                hint="The host that wrote it had a fault; use another snapshot.",
            )


class SnapshotWriter:
    """An attempt at a snapshot. Call it with each artifact (it is an `ArtifactSink`), then `commit` once.

    An attempt that is not committed leaves artifacts that no listing shows; a later prune removes them.
    """

    def __init__(
        self,
        vault: Vault,
        source: str,
        kind: Kind,
        tier: Tier,
        snapshot_id: SnapshotId,
        began: datetime,
        scheduled_for: datetime | None,
        recipients: Sequence[Recipient],
        progress: Progress | None,
    ) -> None:
        self.id = snapshot_id
        self.failures: dict[str, LifeboatError] = dict(vault.absent)
        self._vault = vault
        self._source = source
        self._kind = kind
        self._tier = tier
        self._began = began
        self._scheduled_for = scheduled_for
        self._recipients = tuple(recipients)
        self._progress = progress
        self._artifacts: dict[str, Artifact] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str, chunks: Iterable[bytes], *, media_type: str) -> None:
        """Compress, seal and store one artifact in every repository still whole; see `ArtifactSink`.

        A repository that fails is left out of the rest of this snapshot. Raises when none is left.
        """
        key = artifact_key(self._source, self._tier, self.id, check_name(name, "an artifact"))
        identity = object_id(self._vault.id, self._source, self.id, name)
        plain = Meter(chunks, self._progress and _about(self._progress, name))
        sealed = Meter(seal(compress(plain), object_id=identity, recipients=self._recipients))
        self._store(name, lambda member: put_into(member, key, self._tier), sealed)
        with self._lock:
            self._artifacts[name] = Artifact(name, media_type, plain.size, plain.sha256, sealed.size, sealed.sha256)

    def put_pack(self, pack_id: str, chunks: Iterable[bytes], sealed_as: Callable[[int, str], None]) -> None:
        """Seal and store a pack in every repository still whole.

        `sealed_as` hears the sealed size and SHA-256 before the pack can be seen anywhere, so that whoever writes that
        down knows of every pack there can be. Fails as storing an artifact does.
        """
        identity = pack_object_id(self._vault.id, self._source, pack_id)
        sealed = Meter(seal(chunks, object_id=identity, recipients=self._recipients))

        def told() -> Iterator[bytes]:
            yield from sealed
            sealed_as(sealed.size, sealed.sha256)

        key = pack_key(self._source, pack_id)
        self._store(f"pack {pack_id}", lambda member: put_pack_into(member, key), told())

    def _store(self, name: str, into: Callable[[Member], Put], chunks: Iterable[bytes]) -> None:
        failures = tee(chunks, {m.name: into(m) for m in self._whole()})
        with self._lock:
            self.failures.update({name: _as_lifeboat_error(error) for name, error in failures.items()})
            if not self._whole():
                raise all_failed(f"{name} could not be stored in any repository", self.failures)

    def commit(self, facts: Mapping[str, object], packs: Sequence[Pack] = ()) -> Snapshot:
        """Write the manifest wherever all of it is, which makes the snapshot exist. Raises when nowhere."""
        signing_key = self._vault.keyring.signing_key
        assert signing_key is not None  # begin() has refused otherwise
        manifest = Manifest(
            vault_id=self._vault.id,
            source=self._source,
            kind=self._kind,
            snapshot_id=self.id,
            began=self._began,
            finished=datetime.now(UTC),
            scheduled_for=self._scheduled_for,
            artifacts=tuple(self._artifacts.values()),
            facts=dict(facts),
            written_by=f"lifeboat {__version__}",
            packs=tuple(packs),
        )
        envelope = manifest.sign(signing_key)
        key = manifest_key(self._source, self._tier, self.id)
        self._leave_out_who_lacks_packs(manifest)
        for member in self._whole():
            try:
                member.repository.put(key, [envelope], **member.locking(self._tier))
            except RepositoryError as error:
                self.failures[member.name] = error
        if not self._whole():
            raise all_failed("The manifest could not be stored in any repository", self.failures)
        return Snapshot(manifest, self._tier, tuple(member.name for member in self._whole()))

    def _leave_out_who_lacks_packs(self, manifest: Manifest) -> None:
        for member in self._whole() if manifest.packs else ():
            try:
                self._vault.lock_packs(member, manifest, self._tier)
                require_usable(member.repository, self._source, manifest.packs)
            except RepositoryError as error:
                self.failures[member.name] = error
        if not self._whole():
            raise all_failed("No repository has all packs of the snapshot", self.failures)

    def _whole(self) -> tuple[Member, ...]:
        return tuple(member for member in self._vault.members if member.name not in self.failures)


_SIGNING_HINT = "Put the .signing key of this host into the keyring; a host that only restores cannot back up."


def _read_vault_ids(members: Sequence[Member]) -> dict[str, str | LifeboatError | None]:
    """By repository: the id of the vault it belongs to, None when to none yet, or why that cannot be known."""
    results: dict[str, str | LifeboatError | None] = {}
    for member in members:
        try:
            data = b"".join(member.repository.get(VAULT_KEY))
            record = json.loads(data)
            results[member.name] = str(record["vault_id"])
        except ObjectNotFound:
            results[member.name] = None
        except RepositoryError as error:
            results[member.name] = error
        except (ValueError, KeyError, TypeError):
            results[member.name] = _unreadable_id(member.name, data)
    return results


def _unreadable_id(name: str, data: bytes) -> LifeboatError:
    if looks_like_a_page(data):
        return RepositoryError(
            f"{VAULT_KEY} in {name} is a web page, {page_words(data)}.",
            hint="Something else than the store has answered, or it was copied from a login page.",
        )
    return IntegrityError(f"{VAULT_KEY} in {name} is damaged.", hint="Copy the one of another repository over it.")


def _single_id(found: Mapping[str, str | LifeboatError | None]) -> str | None:
    ids = {name: result for name, result in found.items() if isinstance(result, str)}
    if len(set(ids.values())) > 1:
        raise SettingsError(
            f"These repositories belong to different vaults: {ids}.", hint="Correct the urls in platform.yaml."
        )
    return next(iter(ids.values()), None)


def _as_lifeboat_error(error: Exception) -> LifeboatError:
    if isinstance(error, LifeboatError):
        return error
    raise error  # a bug in a repository: its contract allows no other exceptions


def _additions(member: Member, snapshot: Snapshot) -> Iterator[ObjectInfo]:
    prefix = snapshot_prefix(snapshot.manifest.source, snapshot.tier, snapshot.id)
    for info in member.repository.list(prefix):
        if info.key.removeprefix(prefix).startswith(ADDITIONS) and info.size <= LONGEST:
            yield info
    packs = {pack.id for pack in snapshot.manifest.packs}
    prefix = rewrapped_packs_prefix(snapshot.manifest.source)
    for info in member.repository.list(prefix) if packs else ():
        if artifact_of(info.key.removeprefix(prefix)) in packs and info.size <= LONGEST:
            yield info


def put_into(member: Member, key: str, tier: Tier) -> Put:
    """What puts an object of a snapshot into a repository, in the class and under the lock of its tier."""
    return lambda chunks: member.repository.put(
        key, chunks, storage_class=member.storage_classes.get(tier), **member.locking(tier)
    )


def put_pack_into(member: Member, key: str) -> Put:
    """What puts a pack into a repository."""
    # Packs outlive the daily snapshot they are made for; the daily class is the one that is read back at once.
    return lambda chunks: member.repository.put(
        key, chunks, storage_class=member.storage_classes.get(Tier.DAILY), **member.locking_pack()
    )


def _about(progress: Progress, name: str) -> Callable[[int], None]:
    return lambda count: progress(name, count)
