"""The vault's health: of every snapshot and repository, what is there, and whether three copies in two kinds of places
with one elsewhere still hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from lifeboat.attestation import Attestation, was_read_back
from lifeboat.errors import RepositoryError
from lifeboat.inventory import Copy, Inventory, Place, take_inventory
from lifeboat.repositories.contract import ObjectInfo
from lifeboat.retention import Policy, plan_retention
from lifeboat.vault import Vault


@dataclass(frozen=True)
class CopyHealth:
    """What one repository has of a snapshot, by the store's own word about its largest artifact.

    `read_back` is when every byte of it was last read and found right. `owed`: it ought to be there whole, and is not.
    """

    label: str
    repository: str
    present: bool
    whole: bool
    size: int
    digest: str | None
    storage_class: str | None
    locked_until: datetime | None
    read_back: datetime | None
    owed: bool


@dataclass(frozen=True)
class Health:
    """All copies, newest first, what 3-2-1 lacks by source, and what could not be looked at, by place."""

    copies: tuple[CopyHealth, ...]
    lacking: Mapping[str, tuple[str, ...]]
    problems: tuple[tuple[str, str], ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is owed, damaged or unseen, and every source has what 3-2-1 asks for."""
        return not (self.problems or any(self.lacking.values()) or any(c.owed or not c.whole for c in self.copies))


def vault_health(vault: Vault, policy: Policy, source: str | None = None, *, now: datetime) -> Health:
    """Look at every copy of a source's snapshots, or of all. Changes nothing; a silent repository is a problem told."""
    inventory = take_inventory(vault, source, now=now)
    owed = {(one.place, one.repository) for one in plan_retention(inventory.copies, policy, now).owed}
    described = list(vault.pool.map(lambda copy: _describe(vault, copy), inventory.copies))
    there = {
        (copy.place, copy.repository): _of_copy(copy, info, inventory.attestations[copy.place], owed)
        for copy, info in zip(inventory.copies, described, strict=True)
    }
    for place, repository in owed - there.keys():
        label = "/".join(map(str, place))
        there[place, repository] = CopyHealth(label, repository, False, False, 0, None, None, None, None, True)
    newest_first = sorted(there, key=lambda key: (key[0][0], key[0][2], key[0][1], key[1]), reverse=True)
    problems = (*inventory.silent.items(), *inventory.problems)
    return Health(tuple(there[key] for key in newest_first), _three_two_one(vault, inventory), problems)


def _describe(vault: Vault, copy: Copy) -> ObjectInfo | None:
    """The largest artifact as the store describes it; a listing knows no locks, and not always digests."""
    sealed = [info for info in copy.objects if info.key.endswith(".sealed")]
    if not sealed:
        return None
    largest = max(sealed, key=lambda info: info.size)
    repository = next(m.repository for m in vault.present if m.name == copy.repository)
    try:
        return repository.describe(largest.key)
    except RepositoryError:
        return largest


def _of_copy(
    copy: Copy, info: ObjectInfo | None, attestations: Sequence[Attestation], owed: set[tuple[Place, str]]
) -> CopyHealth:
    read = [a.made for a in attestations if was_read_back(a, copy.repository)]
    return CopyHealth(
        copy.label,
        copy.repository,
        True,
        copy.whole,
        copy.size,
        info.digest if info else None,
        info.storage_class if info else None,
        info.locked_until if info else None,
        max(read, default=None),
        (copy.place, copy.repository) in owed,
    )


def _three_two_one(vault: Vault, inventory: Inventory) -> dict[str, tuple[str, ...]]:
    """By source, what its newest snapshot lacks of: two copies beside the live one, of two kinds, one off this host."""
    schemes = {member.name: member.repository.url.split(":", 1)[0] for member in vault.members}
    lacking: dict[str, tuple[str, ...]] = {}
    for source in sorted({copy.source for copy in inventory.copies}):
        newest = max((s for s in inventory.snapshots.values() if s.manifest.source == source), key=lambda s: s.age).id
        whole = {c.repository for c in inventory.copies if (c.source, c.id) == (source, newest) and c.whole}
        kinds = {schemes[name] for name in whole}
        said = []
        if len(whole) < 2:
            said.append(f"{newest} is whole in {len(whole)} repositories; two are needed beside the live one")
        if len(kinds) < 2:
            said.append(f"{newest} is in one kind of storage only: {', '.join(kinds) or 'none'}")
        if not kinds - {"file", "memory"}:
            said.append(f"{newest} is nowhere but on disks of this host")
        lacking[source] = tuple(said)
    return lacking
