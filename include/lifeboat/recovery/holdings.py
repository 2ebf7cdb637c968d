"""What every repository really has of a snapshot, looked at before anybody relies on it: whole, readable, openable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lifeboat.archive_classes import DURATIONS
from lifeboat.attestation import Attestation, was_read_back
from lifeboat.errors import IntegrityError, LifeboatError, ObjectArchived, WrongIdentity
from lifeboat.inventory import Copy, Inventory
from lifeboat.packs import lacking_packs
from lifeboat.progress import count_text
from lifeboat.recovery.model import CopyFound
from lifeboat.repositories.contract import ThawState
from lifeboat.snapshot import artifact_key, manifest_key
from lifeboat.stored import drain
from lifeboat.thawing import Thaw, thaw_state
from lifeboat.vault import Member, Snapshot, Vault

READ_ALL = 64 * 1024 * 1024
"""Bytes up to which all of a copy is read and held against its digests; of a larger one the first of each kind."""


@dataclass(frozen=True)
class Holdings:
    """The copies of a snapshot. `locked` says why no key at hand opens it; empty where one does, or none was tried.

    `thaw_seconds` is how long archive storage takes at most until a copy can be read; 0 where one can be read at once.
    """

    copies: tuple[CopyFound, ...]
    locked: str = ""
    thaw_seconds: float = 0

    @property
    def whole(self) -> bool:
        """Whether any repository has all of it, readable at once or later."""
        return any(copy.whole for copy in self.copies)

    @property
    def why_not(self) -> str:
        """What is wrong with each copy, in a sentence."""
        return "; ".join(f"{copy.repository}: {copy.remark.rstrip('.')}" for copy in self.copies if not copy.whole)


def holdings_of(vault: Vault, snapshot: Snapshot, inventory: Inventory, *, only: str | None = None) -> Holdings:
    """Look at each repository's copy of a snapshot, or at that of one alone. Changes nothing, and raises nothing.

    Small copies are read back whole; of others the listing, what is attested, and the beginning of an artifact are
    what is known. Storage that must be thawed is not asked for anything.
    """
    looks = [
        look
        for member in vault.members
        if only in (None, member.name)
        for look in _look(vault, member, snapshot, inventory)
    ]
    for name, error in vault.absent.items():
        if name not in {member.name for member in vault.members} and only in (None, name):
            looks.append(_Look(CopyFound(name, False, remark=f"it cannot be used: {error.message}")))
    waits = [look.thaw_seconds for look in looks if look.copy.whole]
    opened = any(look.copy.whole and not look.locked and not look.copy.thawing for look in looks)
    locked = "" if opened else next((look.locked for look in looks if look.locked), "")
    return Holdings(tuple(look.copy for look in looks), locked, min(waits, default=0))


@dataclass(frozen=True)
class _Look:
    copy: CopyFound
    locked: str = ""
    thaw_seconds: float = 0


def _look(vault: Vault, member: Member, snapshot: Snapshot, inventory: Inventory) -> Iterator[_Look]:
    name, place = member.name, (snapshot.manifest.source, snapshot.tier, snapshot.id)
    copy = next((c for c in inventory.copies if c.place == place and c.repository == name), None)
    if copy is None:
        if (why := _why_without(inventory, name, snapshot)) or snapshot.tier in member.tiers:
            yield _Look(CopyFound(name, False, remark=why or "it is not there"))
        return
    try:
        if not copy.whole:
            yield _Look(CopyFound(name, False, remark=_fault(member, copy, snapshot, inventory)))
            return
        if (thaw := _archived(vault, snapshot, copy)) is not None:
            asked = "it is thawing" if thaw.state is ThawState.THAWING else "it is archived, and was not asked for yet"
            yield _Look(
                CopyFound(name, True, thaw.expected, f"{asked}; {thaw.progress}"), thaw_seconds=thaw.hours * 3600.0
            )
            return
        locked = _try(vault, snapshot, name)
    except ObjectArchived as error:
        yield _Look(CopyFound(name, True, "hours, perhaps a day", error.message), thaw_seconds=24 * 3600.0)
    except (IntegrityError, LifeboatError) as error:
        what = "it is damaged" if isinstance(error, IntegrityError) else "it cannot be read now"
        yield _Look(CopyFound(name, False, remark=f"{what}: {error.message}"))
    else:
        yield _Look(CopyFound(name, True, remark=_read_back(snapshot, name, inventory)), locked)


def _why_without(inventory: Inventory, name: str, snapshot: Snapshot) -> str:
    if name in inventory.silent:
        return f"it does not answer: {inventory.silent[name]}"
    where = f"{name}:{manifest_key(snapshot.manifest.source, snapshot.tier, snapshot.id)}"
    return next((f"its manifest is of no use: {why}" for at, why in inventory.problems if at == where), "")


def _fault(member: Member, copy: Copy, snapshot: Snapshot, inventory: Inventory) -> str:
    """What a listing and earlier readings say against a copy that is not whole."""
    manifest = snapshot.manifest
    sizes = {info.key: info.size for info in copy.objects}
    for artifact in manifest.artifacts:
        size = sizes.get(artifact_key(manifest.source, snapshot.tier, snapshot.id, artifact.name))
        if size is None:
            return f"it is damaged: {artifact.name} is missing"
        if size != artifact.sealed_size:
            return f"it is damaged: {artifact.name} has {size} bytes instead of {artifact.sealed_size}"
    if lacking := lacking_packs(member.repository, manifest.source, manifest.packs) if manifest.packs else ():
        return f"it is damaged: {count_text(len(lacking), 'pack')} of files missing"
    said = [a for a in inventory.attestations.get(copy.place, ()) if a.repository == copy.repository]
    reason = said[-1].details.get("reason", "") if said else ""
    return f"it was found damaged: {reason}" if reason else "it was found damaged"


def _archived(vault: Vault, snapshot: Snapshot, copy: Copy) -> Thaw | None:
    """How far a copy in archive storage can be read; None of one that can be read at once."""
    classes = {(info.storage_class or "").upper() for info in copy.objects}
    if not classes & {name.upper() for name in DURATIONS}:
        return None
    thaw = thaw_state(vault, snapshot, repository=copy.repository)
    return None if thaw.state is ThawState.READABLE else thaw


def _try(vault: Vault, snapshot: Snapshot, name: str) -> str:
    """Read a copy, or a little of a large one, and open it; returns why no key does. Raises when it is damaged."""
    manifest = snapshot.manifest
    if manifest.sealed_size <= READ_ALL:
        for artifact in manifest.artifacts:
            drain(vault.read_sealed(snapshot, artifact, repository=name))
        for pack in manifest.packs:
            drain(vault.packs_of(snapshot, repository=name).sealed(pack))
    smallest = min(manifest.artifacts, key=lambda artifact: artifact.sealed_size)
    try:
        next(vault.read(snapshot, smallest.name, repository=name), b"")
        for pack in sorted(manifest.packs, key=lambda pack: pack.sealed_size)[:1]:
            next(vault.packs_of(snapshot, repository=name).whole(pack), b"")
    except WrongIdentity as error:
        return f"{error.message} {error.hint}".strip()
    return ""


def _read_back(snapshot: Snapshot, name: str, inventory: Inventory) -> str:
    if snapshot.manifest.sealed_size <= READ_ALL:
        return "read back now"
    place = snapshot.manifest.source, snapshot.tier, snapshot.id
    read: Sequence[Attestation] = [a for a in inventory.attestations.get(place, ()) if was_read_back(a, name)]
    return f"read back on {read[-1].made:%Y-%m-%d}" if read else "never read back as a whole"
