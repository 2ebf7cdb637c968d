"""The inventory: what every repository really has of every snapshot, and what is attested of it, freshly listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from lifeboat.attestation import (
    Attestation,
    Verdict,
    in_order,
    is_damaged,
    is_proven,
    last_judgement,
    open_holds,
    open_suspicions,
    read_attestation_of,
)
from lifeboat.choosing import partial
from lifeboat.errors import IntegrityError, RepositoryError
from lifeboat.holding import reasons
from lifeboat.manifest import Manifest
from lifeboat.packs import packs_in
from lifeboat.references import needs_of
from lifeboat.repositories.contract import ObjectInfo
from lifeboat.snapshot import (
    SnapshotId,
    Tier,
    check_name,
    manifest_key,
    parse_manifest_key,
    parse_snapshot_key,
    snapshot_prefix,
)
from lifeboat.vault import ADDITIONS, Member, Snapshot, Vault

Place = tuple[str, Tier, SnapshotId]
"""Source, tier and id: where a snapshot stands in every repository that has it."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Standing:
    """What is attested of a snapshot. The texts say why, and are empty where it is not so.

    `unreadable`: an attestation is there that cannot be read and trusted, so that nobody knows what it says.
    """

    proven: bool = False
    verified: bool = False
    failed: bool = False
    held: str = ""
    suspect: str = ""
    unreadable: str = ""


_NOTHING_SAID = Standing()


@dataclass(frozen=True)
class Copy:
    """What one repository has of a snapshot.

    `whole`: every artifact and pack is listed there with its right size, and none was found damaged since it was last
    read well. `size` is the bytes of everything but packs, `modified` when the store says the manifest was put.
    """

    source: str
    tier: Tier
    id: SnapshotId
    repository: str
    size: int
    modified: datetime
    whole: bool = True
    complete: bool = True
    locked_until: datetime | None = None
    needs: frozenset[SnapshotId] = frozenset()
    standing: Standing = field(default_factory=Standing)
    objects: tuple[ObjectInfo, ...] = field(default=(), repr=False, compare=False)

    @property
    def label(self) -> str:
        """What people call the snapshot: source, tier and id."""
        return f"{self.source}/{self.tier}/{self.id}"

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.source, self.tier, self.id


@dataclass(frozen=True)
class Leftover:
    """Objects of one repository that belong to no snapshot it has: unfinished, or not wholly removed."""

    source: str
    tier: Tier
    id: SnapshotId
    repository: str
    objects: tuple[ObjectInfo, ...]

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(info.size for info in self.objects)


@dataclass(frozen=True)
class Inventory:
    """Copies and leftovers of all repositories that answered; `snapshots` are their manifests by place.

    `attested` are the keys of all attestations that were listed, read or not. `uneven` are the places of which one
    repository has attestations or rewrapped keys that another that has the snapshot lacks.
    `silent` names the repositories that gave no listing, with the reason. `problems` are manifests that cannot be read
    or trusted: (repository and key, reason). What they belong to is neither a copy nor a leftover: it is left alone.
    """

    copies: tuple[Copy, ...]
    leftovers: tuple[Leftover, ...]
    snapshots: Mapping[Place, Snapshot]
    attestations: Mapping[Place, tuple[Attestation, ...]]
    attested: Mapping[Place, frozenset[str]]
    uneven: frozenset[Place]
    silent: Mapping[str, str]
    problems: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Listed:
    """What one repository lists of one place, sorted by what it is."""

    repository: str
    place: Place
    objects: Sequence[ObjectInfo]
    manifest: ObjectInfo | None
    attestations: tuple[ObjectInfo, ...]
    added: frozenset[str]
    sizes: Mapping[str, int]
    size: int
    locked_until: datetime | None


@dataclass(frozen=True, eq=False)
class _Read:
    """What was read of one snapshot, in every tier and repository that lists anything of it.

    By place: its manifest, when it was stored at the latest, what is attested, why that cannot be read, the keys of
    attestations. `timed`: what stands of it depends on what time it is.
    """

    listed: tuple[_Listed, ...]
    snapshots: Mapping[Place, Snapshot]
    stored: Mapping[Place, datetime]
    attestations: Mapping[Place, tuple[Attestation, ...]]
    unreadable: Mapping[Place, str]
    attested: Mapping[Place, frozenset[str]]
    uneven: frozenset[Place]
    problems: tuple[tuple[str, str], ...]
    timed: bool


Name = tuple[str, SnapshotId]
"""Source and id: what a snapshot is called in every tier."""

Part = tuple[Member, Place, Sequence[ObjectInfo]]
"""What a repository lists of a place."""

Packs = Mapping[tuple[str, str], Mapping[str, int]]
"""Sizes of packs by id, by repository and source."""


def take_inventory(vault: Vault, source: str | None = None, *, now: datetime) -> Inventory:
    """What there is of a source, or of all. A repository that does not answer is named, and raises nothing.

    Everything is listed anew. What is listed of a snapshot as it was the last time is not read again.
    """
    prefix = f"snapshots/{check_name(source, 'a source')}/" if source else "snapshots/"
    silent = {name: error.message for name, error in vault.absent.items()}
    parts: dict[Name, list[Part]] = {}
    listings = vault.pool.map(lambda member: _list(vault, member, prefix), vault.present)
    for member, found in zip(vault.present, listings, strict=True):
        if isinstance(found, RepositoryError):
            silent[member.name] = found.message
            continue
        for place, objects in found.items():
            parts.setdefault((place[0], place[2]), []).append((member, place, objects))
    read = _read_all(vault, parts)
    snapshots = _dated(vault, read, now)
    packs, unlisted = _list_packs(vault, snapshots.values())
    silent |= unlisted
    copies: list[Copy] = []
    leftovers: list[Leftover] = []
    for name, one in zip(parts, read, strict=True):
        its_copies, its_leftovers = _what_is_there(vault, name, one, packs, frozenset(silent), now)
        copies += its_copies
        leftovers += its_leftovers
    return Inventory(
        tuple(copies),
        tuple(leftovers),
        snapshots,
        _together(one.attestations for one in read),
        _together(one.attested for one in read),
        frozenset[Place]().union(*(one.uneven for one in read if one.uneven)),
        silent,
        tuple(problem for one in read for problem in one.problems),
    )


def _dated(vault: Vault, read: Iterable[_Read], now: datetime) -> dict[Place, Snapshot]:
    """The snapshots by place, with what is wrong with their dates."""
    found = [(place, snapshot, one.stored[place]) for one in read for place, snapshot in one.snapshots.items()]
    dated = vault.dated([(snapshot, stored) for _, snapshot, stored in found], now)
    return {place: snapshot for (place, _, _), snapshot in zip(found, dated, strict=True)}


def _together(mappings: Iterable[Mapping[Place, Item]]) -> dict[Place, Item]:
    together: dict[Place, Item] = {}
    for mapping in mappings:
        together.update(mapping)
    return together


# ---- listing --------------------------------------------------------------------------------------------------------


def _list(vault: Vault, member: Member, prefix: str) -> Mapping[Place, Sequence[ObjectInfo]] | RepositoryError:
    """A repository's objects by the place they belong to."""
    try:
        listing = list(member.repository.list(prefix))
    except RepositoryError as error:
        return error
    return vault.cache.derived(("listing", member.repository.url, prefix), listing, lambda: _by_place(listing))


def _by_place(listing: Iterable[ObjectInfo]) -> Mapping[Place, Sequence[ObjectInfo]]:
    found: dict[Place, list[ObjectInfo]] = {}
    prefix, objects = "", list[ObjectInfo]()
    for info in listing:
        if not prefix or not info.key.startswith(prefix):
            place = parse_snapshot_key(info.key)
            if place is None:
                continue
            prefix, objects = snapshot_prefix(*place), found.setdefault(place, [])
        objects.append(info)
    return found


def _list_packs(vault: Vault, snapshots: Iterable[Snapshot]) -> tuple[Packs, dict[str, str]]:
    """The packs of every source that has some, by repository and source, and which repositories did not list them."""
    sources = sorted({snapshot.manifest.source for snapshot in snapshots if snapshot.manifest.packs})
    wanted = [(member, source) for member in vault.present for source in sources]
    found: dict[tuple[str, str], Mapping[str, int]] = {}
    silent: dict[str, str] = {}

    def look(one: tuple[Member, str]) -> None:
        member, source = one
        try:
            there = packs_in(member.repository, source)
            # The very same mapping as the last time where it is equal: it is compared for every snapshot.
            name = ("packs", member.repository.url, source)
            found[member.name, source] = vault.cache.derived(name, there, lambda: there)
        except RepositoryError as error:
            silent[member.name] = error.message

    list(vault.pool.map(look, wanted))
    return found, silent


# ---- reading --------------------------------------------------------------------------------------------------------


def _read_all(vault: Vault, parts: Mapping[Name, Sequence[Part]]) -> list[_Read]:
    """Read every snapshot whose listing is another than the last time: several at a time, unless all is known of it."""
    cache, pool = vault.cache, vault.pool
    urls = {member.name: (member.name, member.repository.url) for member in vault.present}
    made_of = [tuple((urls[member.name], place, objects) for member, place, objects in its) for its in parts.values()]
    before = [cache.known(("read", *name), its) for name, its in zip(parts, made_of, strict=True)]
    pending = [
        None if known is not None or _is_known(vault, its) else pool.submit(_read, vault, its)
        for known, its in zip(before, parts.values(), strict=True)
    ]
    read: list[_Read] = []
    for name, listed, known, future, its in zip(parts, made_of, before, pending, parts.values(), strict=True):
        one = known or (future.result() if future else _read(vault, its))
        # What was wrong may be right the next time, though the listing is the same.
        if known is None and not one.problems and not any(one.unreadable.values()):
            cache.keep(("read", *name), listed, one)
        read.append(one)
    return read


def _is_known(vault: Vault, parts: Sequence[Part]) -> bool:
    """Whether every record of these was read before, so that a thread would only delay it."""
    return all(
        vault.cache.parsed(member.repository, info) is not None
        for member, _, objects in parts
        for info in objects
        if info.key.endswith(".json")
    )


def _read(vault: Vault, parts: Sequence[Part]) -> _Read:
    """Read one snapshot's manifests and attestations."""
    problems: list[tuple[str, str]] = []
    manifests: dict[Place, dict[str, Manifest]] = {}
    by_place: dict[Place, list[tuple[Member, _Listed]]] = {}
    listed = tuple(_sort(*part) for part in parts)
    for (member, place, _), one in zip(parts, listed, strict=True):
        by_place.setdefault(place, []).append((member, one))
        if one.manifest is None:
            continue
        try:
            manifests.setdefault(place, {})[member.name] = vault.read_manifest(member, place, one.manifest)
        except (RepositoryError, IntegrityError) as error:
            problems.append((f"{member.name}:{one.manifest.key}", error.message))
    agreed, differing = _agreed(manifests)
    snapshots = {
        place: Snapshot(manifest, place[1], tuple(n for n, m in manifests[place].items() if m == manifest))
        for place, manifest in agreed.items()
    }
    attested = {place: _read_attestations(vault, snapshots[place], by_place[place]) for place in snapshots}
    attestations = {place: found for place, (found, _) in attested.items()}
    return _Read(
        listed,
        snapshots,
        _stored(listed),
        attestations,
        unreadable={place: why for place, (_, why) in attested.items()},
        attested={p: frozenset(info.key for _, one in by_place[p] for info in one.attestations) for p in snapshots},
        uneven=frozenset(place for place in snapshots if len({one.added for _, one in by_place[place]}) > 1),
        problems=(*problems, *differing),
        timed=any(a.verdict is Verdict.HELD for found in attestations.values() for a in found),
    )


def _stored(listed: Iterable[_Listed]) -> Mapping[Place, datetime]:
    """By place when the manifest was stored, by the word of the store that says the latest."""
    stored: dict[Place, datetime] = {}
    for one in listed:
        if one.manifest is not None:
            stored[one.place] = max(one.manifest.modified, stored.get(one.place, one.manifest.modified))
    return stored


def _sort(member: Member, place: Place, objects: Sequence[ObjectInfo]) -> _Listed:
    prefix = snapshot_prefix(*place)
    return _Listed(
        member.name,
        place,
        objects,
        manifest=next((info for info in objects if parse_manifest_key(info.key) is not None), None),
        attestations=tuple(info for info in objects if info.key.startswith(f"{prefix}attestations/")),
        added=frozenset(o.key for o in objects if any(f"/{folder}" in o.key for folder in ADDITIONS)),
        sizes={info.key.removeprefix(prefix): info.size for info in objects},
        size=sum(info.size for info in objects),
        locked_until=max((info.locked_until for info in objects if info.locked_until), default=None),
    )


def _agreed(manifests: Mapping[Place, Mapping[str, Manifest]]) -> tuple[dict[Place, Manifest], list[tuple[str, str]]]:
    """The manifest of each place, as the first repository has it; and where another trusted one stands instead."""
    agreed, differing = {}, []
    for place, found in manifests.items():
        first, manifest = next(iter(found.items()))
        agreed[place] = manifest
        differing += [
            (f"{name}:{manifest_key(*place)}", f"It is not the manifest that {first} has.")
            for name, other in found.items()
            if other != manifest
        ]
    return agreed, differing


def _read_attestations(
    vault: Vault, snapshot: Snapshot, listed: Sequence[tuple[Member, _Listed]]
) -> tuple[tuple[Attestation, ...], str]:
    """Every attestation of a snapshot from all repositories together, and why one of them cannot be read anywhere."""
    found: dict[str, Attestation] = {}
    faults: dict[str, str] = {}
    for member, one in listed:
        repository = member.repository
        for info in one.attestations:
            if info.key in found:
                continue
            known = vault.cache.parsed(repository, info)
            try:
                if not isinstance(known, Attestation):
                    envelope = vault.cache.read(repository, info)
                    known = read_attestation_of(vault, snapshot, envelope, place=f"{member.name}:{info.key}")
                    vault.cache.remember(repository, info, known)
                found[info.key] = known
            except (RepositoryError, IntegrityError) as error:
                faults[info.key] = error.message
    unreadable = [fault for key, fault in faults.items() if key not in found]
    stored = {info.key: info.modified for _, one in reversed(listed) for info in one.attestations}
    return in_order((one, stored[key]) for key, one in found.items()), " ".join(unreadable)


# ---- judging --------------------------------------------------------------------------------------------------------


def _what_is_there(
    vault: Vault, name: Name, read: _Read, packs: Packs, silent: frozenset[str], now: datetime
) -> tuple[Sequence[Copy], Sequence[Leftover]]:
    """The copies and leftovers of one snapshot, taken over when all that they are made of is the same."""
    packed = any(snapshot.manifest.packs for snapshot in read.snapshots.values())
    theirs = tuple(packs.get((one.repository, name[0]), {}) for one in read.listed) if packed else ()
    made_of = (read, theirs, silent, now if read.timed else None)
    return vault.cache.derived(("there", *name), made_of, lambda: _judged(name, read, packs, silent, now))


def _judged(
    name: Name, read: _Read, packs: Packs, silent: frozenset[str], now: datetime
) -> tuple[Sequence[Copy], Sequence[Leftover]]:
    standings = _standings(read, now)
    copies: list[Copy] = []
    leftovers: list[Leftover] = []
    for one in read.listed:
        repository, snapshot = one.repository, read.snapshots.get(one.place)
        if repository in silent:
            continue
        if one.manifest is None:
            leftovers.append(Leftover(*one.place, repository, tuple(one.objects)))
        elif snapshot is not None and repository in snapshot.repositories:
            there = packs.get((repository, name[0]), {})
            copies.append(_copy(one, snapshot, there, read.attestations[one.place], standings[one.place]))
    return copies, leftovers


def _standings(read: _Read, now: datetime) -> dict[Place, Standing]:
    """What is attested by place; a hold or a suspicion that one tier's copy tells of is that of every tier's."""
    everywhere = [a for found in read.attestations.values() for a in found]
    unreadable = next((why for why in read.unreadable.values() if why), "")
    if not everywhere and not unreadable:
        return dict.fromkeys(read.snapshots, _NOTHING_SAID)
    standings = {}
    for place, found in read.attestations.items():
        test = last_judgement(found)
        standings[place] = Standing(
            proven=is_proven(found),
            verified=any(a.verdict is Verdict.VERIFIED for a in found),
            failed=test is not None and test.verdict is Verdict.FAILED,
            held=reasons(_once(open_holds(everywhere, now))),
            suspect=reasons(_once(open_suspicions(everywhere))),
            unreadable=unreadable,
        )
    return standings


def _once(attestations: Sequence[Attestation]) -> tuple[Attestation, ...]:
    """Each once, though several tiers tell of it."""
    return tuple({a.made: a for a in attestations}.values())


def _copy(
    one: _Listed,
    snapshot: Snapshot,
    packs: Mapping[str, int],
    attestations: Sequence[Attestation],
    standing: Standing,
) -> Copy:
    assert one.manifest is not None  # or it would be a leftover
    manifest = snapshot.manifest
    listed = all(one.sizes.get(f"{a.name}.sealed") == a.sealed_size for a in manifest.artifacts)
    lacking = any(packs.get(pack.id) != pack.sealed_size for pack in manifest.packs)
    return Copy(
        *one.place,
        repository=one.repository,
        size=one.size,
        modified=one.manifest.modified,
        whole=listed and not lacking and not is_damaged(attestations, one.repository),
        complete=not partial(snapshot),
        locked_until=one.locked_until,
        needs=needs_of(manifest),
        standing=standing,
        objects=tuple(one.objects),
    )
