"""Sweeping packs: what no snapshot refers to is marked, and goes a grace later if that is still so.

Why no snapshot can lose a pack by it, whatever runs at the same time, is written down in docs/adr/0018.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lifeboat.errors import ObjectNotFound
from lifeboat.inventory import Inventory, Place, take_inventory
from lifeboat.marks import Mark, mark, marks_in
from lifeboat.packs import pack_prefix, rewrapped_packs_prefix
from lifeboat.references import packs_of
from lifeboat.repositories.contract import ObjectInfo, Repository
from lifeboat.vault import Member, Vault

LONGEST_SYNC = timedelta(days=14)
"""A younger pack is not marked: it may be of a backup that is still running, or of a killed one to be gone on with."""

WINDOW = timedelta(hours=1)
"""What was listed so long ago is no reason to delete or to unmark any more."""


@dataclass
class Swept:
    """What sweeping the packs of a source in a repository did. `locked` are packs that cannot go yet, with the end."""

    source: str
    packs: list[str] = field(default_factory=list)
    size: int = 0
    locked: dict[str, datetime] = field(default_factory=dict)


def sweep_packs(
    vault: Vault,
    member: Member,
    inventory: Inventory,
    owed: Collection[Place],
    *,
    clock: Callable[[], datetime],
    grace: timedelta,
) -> Iterator[Swept]:
    """Mark packs in a repository that no snapshot there refers to; delete those marked a grace ago and unused since.

    What snapshots need that the repository is `owed` stays too. Nothing is done while any repository is silent, nor
    with a source without snapshots or of which any manifest cannot be read: what cannot be seen may refer to anything.
    May be repeated, and run beside backups and itself. Raises `RepositoryError`.
    """
    for source, there in _packs_by_source(member.repository).items() if not inventory.silent else ():
        one = _Source(vault, member, source, there, owed, clock=clock, grace=grace)
        if (referenced := one.referenced(inventory)) is not None:
            yield one.sweep(referenced)


class _Source:
    """The packs of one source in one repository."""

    def __init__(
        self,
        vault: Vault,
        member: Member,
        source: str,
        there: Mapping[str, ObjectInfo],
        owed: Collection[Place],
        *,
        clock: Callable[[], datetime],
        grace: timedelta,
    ) -> None:
        self.vault = vault
        self.name, self.store = member.name, member.repository
        self.source = source
        self.there = there
        self.owed = owed
        self.clock = clock
        self.grace = grace
        self.swept = Swept(source)

    def referenced(self, inventory: Inventory) -> set[str] | None:
        """The packs that snapshots need, here or on their way; None where that cannot be known."""
        if inventory.silent or any(f":snapshots/{self.source}/" in place for place, _ in inventory.problems):
            return None
        theirs = {place: one for place, one in inventory.snapshots.items() if place[0] == self.source}
        here = [one for place, one in theirs.items() if self.name in one.repositories or place in self.owed]
        return {pack for one in here for pack in packs_of(one.manifest)} if theirs else None

    def sweep(self, referenced: set[str]) -> Swept:
        marks = list(marks_in(self.store, self.source))
        begun = self.clock()
        due = {pack for one in marks if one.made < begun - self.grace for pack in one.packs}
        due = {pack for pack in due - referenced if self._older(pack, begun - self.grace)}
        if due or any(one.packs & referenced for one in marks):
            # Decided anew: a snapshot may have come to refer to one of them, or ceased to, while we looked.
            again = self.referenced(take_inventory(self.vault, self.source, now=begun))
            if again is None:
                return self.swept
            referenced = again
        self._delete(due - referenced, begun)
        self._settle(marks, referenced, begun)
        young = begun - max(self.grace, LONGEST_SYNC)
        fresh = self.there.keys() - referenced - {pack for one in marks for pack in one.packs}
        mark(self.store, self.source, (pack for pack in fresh if self._older(pack, young)), begun)
        return self.swept

    def _older(self, pack: str, moment: datetime) -> bool:
        return pack in self.there and self.there[pack].modified < moment

    def _known_for_too_long(self, begun: datetime) -> bool:
        """Whether what was listed is too long ago to act on: this host may have been asleep."""
        return self.clock() - begun > min(WINDOW, self.grace / 8)

    def _delete(self, due: set[str], begun: datetime) -> None:
        for pack in sorted(due):
            info = self.there[pack]
            with suppress(ObjectNotFound):  # another sweep is at it
                until = self.store.describe(info.key).locked_until
                if until and until > self.clock():
                    self.swept.locked[pack] = until
                    continue
            if self._known_for_too_long(begun):
                return
            for keys in list(self.store.list(f"{rewrapped_packs_prefix(self.source)}{pack}-")):
                self.store.delete(keys.key)
            self.store.delete(info.key)
            self.swept.packs.append(pack)
            self.swept.size += info.size

    def _settle(self, marks: Sequence[Mark], referenced: set[str], begun: datetime) -> None:
        """Forget marks of packs that are gone, and of packs that are referred to again.

        A mark that is old enough to be acted on soon is renewed first, so that no sweep that knows it is still at work
        when it goes; packs marked together with a used one are marked anew.
        """
        left = self.there.keys() - set(self.swept.packs)
        for one in marks:
            still = one.packs & left
            if still and not still & referenced:
                continue
            if self._known_for_too_long(begun):
                return
            young = one.made > begun - self.grace / 2
            mark(self.store, self.source, still - referenced if young else still, begun)
            self.store.delete(one.key)


def _packs_by_source(repository: Repository) -> dict[str, dict[str, ObjectInfo]]:
    """The packs of each source that has any, or marks of any, by id."""
    found: dict[str, dict[str, ObjectInfo]] = {i.key.split("/")[1]: {} for i in repository.list("unreferenced/")}
    for info in repository.list("packs/"):
        source = info.key.split("/")[1]
        folder, _, pack = info.key.removeprefix(pack_prefix(source)).partition("/")
        if folder == pack[:2]:
            found.setdefault(source, {})[pack] = info
    return found
