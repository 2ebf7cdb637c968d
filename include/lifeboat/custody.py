"""Custody of the keys: proving that they still open what is kept, and wrapping data keys for new recipients.

Neither changes anything that was stored. Wrapping for a new recipient takes nothing from an old one: what a lost or
stolen identity could open before, it opens for as long as the snapshot is kept.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import chain, islice
from typing import TypeVar

from lifeboat.errors import IntegrityError, LifeboatError, RepositoryError, RepositoryUnavailable
from lifeboat.keys import Identity, Keyring, Recipient
from lifeboat.manifest import Pack
from lifeboat.packs import pack_key, pack_object_id, rewrapped_packs_prefix
from lifeboat.progress import count_text
from lifeboat.repositories.contract import Repository
from lifeboat.rewrapped import RewrappedKeys, rewrapped_name, rewrapped_prefix
from lifeboat.sealing import HEADER_ROOM, Header, header_of, open_data_key, rewrap_data_key, unseal_range
from lifeboat.snapshot import artifact_key, object_id
from lifeboat.vault import Snapshot, Vault

AT_ONCE = 8
"""Headers that are read at the same time."""


class Opening(StrEnum):
    """What trying one identity on one snapshot showed."""

    OPENS = "opens"
    """It unwrapped the data key, which is the one the header is committed to, and the first segment unsealed."""
    NOT_SEALED_FOR_IT = "not sealed for it"
    FAILS = "fails"
    """It is sealed for this identity, and yet does not open with it."""
    UNREADABLE = "cannot be read now"


@dataclass(frozen=True)
class Trial:
    """One identity tried on one snapshot; `reason` says why it did not open."""

    identity: str
    key_id: bytes
    snapshot: Snapshot
    opening: Opening
    reason: str = ""


@dataclass(frozen=True)
class Custody:
    """What the identities at hand can do, and what nobody has shown.

    `mismatched` are identities that are not the private half of the recipient of their name. `unexercised` are
    recipients that no identity at hand was seen to open anything for: where each is named, by name or key id.
    `unopened` are snapshots that no identity at hand opens: the reason by label. `unreadable` is what could not be
    looked at: the reason by label or place.
    """

    trials: tuple[Trial, ...]
    mismatched: tuple[str, ...]
    unexercised: Mapping[str, str]
    unopened: Mapping[str, str]
    unreadable: Mapping[str, str]

    @property
    def failed(self) -> tuple[Trial, ...]:
        """The trials in which an identity did not open what is sealed for it."""
        return tuple(trial for trial in self.trials if trial.opening is Opening.FAILS)


@dataclass(frozen=True)
class Rewrapping:
    """What rewrapping one snapshot did: recipients added by artifact, and what could not be done.

    `faults` are reasons by artifact; `lacking` are reasons by repository that lacks some of the rewrapped keys.
    """

    snapshot: Snapshot
    added: Mapping[str, tuple[str, ...]]
    faults: Mapping[str, LifeboatError]
    lacking: Mapping[str, str]


def check_identities(vault: Vault) -> Custody:
    """Try every identity at hand on the oldest and the newest readable snapshot of every source.

    Of each the smallest artifact is opened, as far as its first segment; of all other snapshots, and of packs, only the
    headers are read. Raises `RepositoryError` only when no repository answers.
    """
    listing = vault.list()
    locks: dict[str, _Locks] = {}
    unreadable = dict(listing.problems)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="header") as pool:
        packs = _pack_locks(vault, listing.snapshots, pool)
        looked_at = pool.map(partial(_look_at, vault, packs), listing.snapshots)
        for snapshot, found in zip(listing.snapshots, looked_at, strict=True):
            if isinstance(found, LifeboatError):
                unreadable[snapshot.label] = found.message
            else:
                locks[snapshot.label] = found
    trials = [
        _try(vault, snapshot, locks[snapshot.label], identity)
        for snapshot in _oldest_and_newest(s for s in listing.snapshots if s.label in locks)
        for identity in vault.keyring.identities
    ]
    return Custody(
        tuple(trials),
        _mismatched(vault.keyring),
        _unexercised(vault, trials, locks.values()),
        _unopened(vault, trials, locks),
        unreadable,
    )


def rewrap(
    vault: Vault,
    snapshots: Sequence[Snapshot],
    recipients: Sequence[Recipient],
    *,
    report: Callable[[str], None] | None = None,
) -> tuple[Rewrapping, ...]:
    """Wrap the data key of every artifact and pack for those recipients that neither header nor rewrapped key knows.

    Each is stored beside the artifact, or with those of other packs, in every repository that has the snapshot;
    repositories that lack what an earlier, interrupted call stored elsewhere are given it. May be repeated.
    """
    done = []
    for number, snapshot in enumerate(snapshots, start=1):
        rewrapping = _rewrap_one(vault, snapshot, recipients)
        done.append(rewrapping)
        if report:
            names = ", ".join(dict.fromkeys(name for added in rewrapping.added.values() for name in added))
            what = f"{count_text(len(rewrapping.added), 'artifact')} for {names}" if names else "nothing added"
            report(f"{number} of {len(snapshots)}: {snapshot.label}: {what}")
    return tuple(done)


# ---- checking -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Locks:
    """The ids of the keys that open a snapshot, and of those rewrapped for some of its artifacts only."""

    whole: frozenset[bytes]
    partly: frozenset[bytes]


_PackLocks = Mapping[str, frozenset[bytes] | LifeboatError]
"""By pack, the ids of the keys that open it, or why that cannot be known."""


def _look_at(vault: Vault, packs: _PackLocks, snapshot: Snapshot) -> _Locks | LifeboatError:
    try:
        header = _from_any(vault, snapshot, partial(_read_header, _smallest(vault, snapshot)))
        rewrapped = _rewrapped_ids(vault, snapshot)
    except (RepositoryError, IntegrityError) as error:
        return error
    known = {key_id for key_id, _ in header.wrapped_keys}
    opens = [ids | known for ids in rewrapped.values()]
    for pack in snapshot.manifest.packs:
        found = packs[pack.id]
        if isinstance(found, LifeboatError):
            return found
        opens.append(found)
    everywhere = frozenset.intersection(*opens)
    return _Locks(everywhere, frozenset[bytes]().union(*opens) - everywhere)


def _rewrapped_ids(vault: Vault, snapshot: Snapshot) -> dict[str, frozenset[bytes]]:
    """By artifact, the ids of the keys it was rewrapped for."""
    ids = {artifact.name: frozenset[bytes]() for artifact in snapshot.manifest.artifacts}
    for keys in vault.rewrapped_keys(snapshot):
        if keys.artifact in ids:
            ids[keys.artifact] = ids[keys.artifact].union(key_id for key_id, _ in keys.wrapped_keys)
    return ids


def _pack_locks(vault: Vault, snapshots: Sequence[Snapshot], pool: ThreadPoolExecutor) -> _PackLocks:
    """Those of the packs of all snapshots together.

    A pack may be older than a snapshot that needs it, and sealed for other recipients.
    """
    holders: dict[str, tuple[Snapshot, Pack]] = {}
    rewrapped: dict[str, set[bytes]] = {}
    for snapshot in snapshots:
        new = [pack for pack in snapshot.manifest.packs if pack.id not in holders]
        holders.update({pack.id: (snapshot, pack) for pack in new})
        if new and vault.present:
            with suppress(RepositoryError):
                for keys in vault.packs_of(snapshot).rewrapped_keys():
                    ids = {key_id for key_id, _ in keys.wrapped_keys}
                    rewrapped.setdefault(keys.artifact, set()).update(ids)

    def look(pack_id: str) -> frozenset[bytes] | LifeboatError:
        snapshot, pack = holders[pack_id]
        try:
            header = _from_any(vault, snapshot, partial(_read_header, _sealed_pack(vault, snapshot, pack)))
        except (RepositoryError, IntegrityError) as error:
            return error
        return frozenset(key_id for key_id, _ in header.wrapped_keys) | rewrapped.get(pack_id, set())

    return dict(zip(holders, pool.map(look, holders), strict=True))


def _try(vault: Vault, snapshot: Snapshot, locks: _Locks, identity: Identity) -> Trial:
    """Open the first segment of the smallest artifact with this identity alone."""
    key_id = identity.recipient.key_id
    trial = partial(Trial, identity.name, key_id, snapshot)
    if key_id not in locks.whole:
        partly = "Only some of its artifacts were rewrapped for it; run `lifeboat keys rewrap` again."
        return trial(Opening.NOT_SEALED_FOR_IT, partly if key_id in locks.partly else "")
    artifact = _smallest(vault, snapshot)

    def open_first_segment(repository: Repository) -> None:
        plain = unseal_range(
            partial(_read, repository, artifact),
            object_id=artifact.object_id,
            identities=(identity,),
            sealed_size=artifact.sealed_size,
            start=0,
            length=1,
            rewrapped=vault.rewrapped_keys(snapshot, artifact.name),
        )
        next(plain)

    try:
        _from_any(vault, snapshot, open_first_segment)
    except IntegrityError as error:
        return trial(Opening.FAILS, error.message)
    except RepositoryError as error:
        return trial(Opening.UNREADABLE, error.message)
    return trial(Opening.OPENS)


def _oldest_and_newest(snapshots: Iterable[Snapshot]) -> Iterator[Snapshot]:
    by_source: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        by_source.setdefault(snapshot.manifest.source, []).append(snapshot)
    for of_source in by_source.values():
        yield from of_source if len(of_source) < 3 else (of_source[0], of_source[-1])


def _mismatched(keyring: Keyring) -> tuple[str, ...]:
    known = keyring.recipients
    return tuple(i.name for i in keyring.identities if i.name in known and known[i.name].key_id != i.recipient.key_id)


def _unexercised(vault: Vault, trials: Sequence[Trial], locks: Iterable[_Locks]) -> dict[str, str]:
    exercised = {trial.key_id for trial in trials if trial.opening is Opening.OPENS}
    known = vault.keyring.recipients
    places: dict[str, list[str]] = {}
    for name in vault.recipient_names:
        if name not in known or known[name].key_id not in exercised:
            places[name] = ["platform.yaml"]
    sealed_for = Counter(key_id for lock in locks for key_id in lock.whole - exercised)
    for key_id, count in sealed_for.items():
        places.setdefault(_name_of(vault.keyring, key_id), []).append(count_text(count, "snapshot"))
    return {name: ", ".join(found) for name, found in places.items()}


def _unopened(vault: Vault, trials: Sequence[Trial], locks: Mapping[str, _Locks]) -> dict[str, str]:
    at_hand = {identity.recipient.key_id for identity in vault.keyring.identities}
    found = {}
    for label, lock in locks.items():
        if not at_hand & lock.whole:
            names = ", ".join(sorted(_name_of(vault.keyring, key_id) for key_id in lock.whole))
            found[label] = f"It is sealed for {names}."
    opened = {trial.snapshot.label for trial in trials if trial.opening is Opening.OPENS}
    for trial in trials:
        if trial.opening is Opening.FAILS and trial.snapshot.label not in opened:
            found[trial.snapshot.label] = trial.reason
    return found


def _name_of(keyring: Keyring, key_id: bytes) -> str:
    """What the keyring calls a key; its id where it does not know it."""
    return next((name for name, known in keyring.recipients.items() if known.key_id == key_id), key_id.hex())


# ---- rewrapping -----------------------------------------------------------------------------------------------------


def _rewrap_one(vault: Vault, snapshot: Snapshot, recipients: Sequence[Recipient]) -> Rewrapping:
    rewrapped: dict[str, list[RewrappedKeys]] = {}
    known = vault.rewrapped_keys(snapshot)
    for keys in chain(known, vault.packs_of(snapshot).rewrapped_keys()) if snapshot.manifest.packs else known:
        rewrapped.setdefault(keys.artifact, []).append(keys)
    added: dict[str, tuple[str, ...]] = {}
    faults: dict[str, LifeboatError] = {}
    for sealed in _sealed(vault, snapshot):
        wrap = partial(_wrap, vault, sealed, rewrapped.get(sealed.rewrapped_as, ()), recipients)
        try:
            missing, data = _from_any(vault, snapshot, wrap)
            if missing:
                _from_any(vault, snapshot, partial(_put, sealed, data))
                added[sealed.name] = tuple(recipient.name for recipient in missing)
        except (RepositoryError, IntegrityError) as error:
            faults[sealed.name] = error
    return Rewrapping(snapshot, added, faults, vault.replicate_additions(snapshot).lacking)


def _wrap(
    vault: Vault,
    sealed: _Sealed,
    rewrapped: Sequence[RewrappedKeys],
    recipients: Sequence[Recipient],
    repository: Repository,
) -> tuple[list[Recipient], bytes]:
    """The recipients a sealed object lacks, and its data key wrapped for them; nothing where it lacks none."""
    header = _read_header(sealed, repository)
    pairs = chain(header.wrapped_keys, *(keys.wrapped_keys for keys in rewrapped))
    known = {key_id for key_id, _ in pairs}
    missing = [recipient for recipient in recipients if recipient.key_id not in known]
    if not missing:
        return [], b""
    data_key = open_data_key(header, sealed.object_id, vault.keyring.identities, rewrapped)
    return missing, rewrap_data_key(data_key, sealed.object_id, missing)


def _put(sealed: _Sealed, data: bytes, repository: Repository) -> None:
    # Without a storage class: it must be readable at once, even beside archived artifacts.
    repository.put(sealed.rewrapped_prefix + rewrapped_name(sealed.rewrapped_as, os.urandom(4)), [data])


# ---- both -----------------------------------------------------------------------------------------------------------

Found = TypeVar("Found")


def _from_any(vault: Vault, snapshot: Snapshot, act: Callable[[Repository], Found]) -> Found:
    """What `act` makes of the first repository with which it succeeds. Raises what was altered before what is away."""
    faults: list[LifeboatError] = []
    for member in vault.present:
        if member.name in snapshot.repositories:
            try:
                return act(member.repository)
            except (RepositoryError, IntegrityError) as error:
                faults.append(error)
    if not faults:
        raise RepositoryUnavailable(f"No repository that holds {snapshot.label} answers.", hint="Try again later.")
    raise next((fault for fault in faults if isinstance(fault, IntegrityError)), faults[0])


@dataclass(frozen=True)
class _Sealed:
    """An artifact or a pack: where it stands, what it is sealed as, and where its rewrapped keys are put."""

    name: str
    key: str
    object_id: str
    sealed_size: int
    rewrapped_prefix: str
    rewrapped_as: str


def _sealed(vault: Vault, snapshot: Snapshot) -> Iterator[_Sealed]:
    """Yield everything that a snapshot needs."""
    manifest, tier = snapshot.manifest, snapshot.tier
    for artifact in manifest.artifacts:
        yield _Sealed(
            artifact.name,
            artifact_key(manifest.source, tier, snapshot.id, artifact.name),
            object_id(vault.id, manifest.source, snapshot.id, artifact.name),
            artifact.sealed_size,
            rewrapped_prefix(manifest.source, tier, snapshot.id),
            artifact.name,
        )
    for pack in manifest.packs:
        yield _sealed_pack(vault, snapshot, pack)


def _sealed_pack(vault: Vault, snapshot: Snapshot, pack: Pack) -> _Sealed:
    source = snapshot.manifest.source
    identity, prefix = pack_object_id(vault.id, source, pack.id), rewrapped_packs_prefix(source)
    return _Sealed(f"pack {pack.id}", pack_key(source, pack.id), identity, pack.sealed_size, prefix, pack.id)


def _read_header(sealed: _Sealed, repository: Repository) -> Header:
    return header_of(b"".join(_read(repository, sealed, 0, min(HEADER_ROOM, sealed.sealed_size))))


def _read(repository: Repository, sealed: _Sealed, start: int, length: int) -> Iterator[bytes]:
    return repository.get(sealed.key, start=start, length=length)


def _smallest(vault: Vault, snapshot: Snapshot) -> _Sealed:
    artifacts = islice(_sealed(vault, snapshot), len(snapshot.manifest.artifacts))
    return min(artifacts, key=lambda artifact: artifact.sealed_size)
