"""Thawing: asking archive storage for a snapshot's artifacts, which takes it hours, and seeing how far it is.

Storage classes that only cost more to read, such as Standard-IA, Glacier Instant Retrieval, Cool and Cold, need none.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lifeboat.archive_classes import DURATIONS
from lifeboat.errors import RepositoryError, RepositoryUnavailable
from lifeboat.packs import pack_key
from lifeboat.repositories.contract import ObjectInfo, Repository, ThawState
from lifeboat.snapshot import artifact_key
from lifeboat.vault import Snapshot, Vault

DAYS = 7
"""How long thawed objects stay readable in S3. Azure moves them to the tier Hot, for good."""

AT_ONCE = 16
"""Objects asked about at the same time."""


@dataclass(frozen=True)
class Thaw:
    """How far a snapshot can be read from one repository: its artifacts as the repository describes them."""

    snapshot: Snapshot
    repository: str
    artifacts: Mapping[str, ObjectInfo]

    def in_state(self, state: ThawState) -> tuple[str, ...]:
        """The artifacts in this state."""
        return tuple(name for name, info in self.artifacts.items() if info.thaw_state is state)

    @property
    def state(self) -> ThawState:
        """Archived as long as any artifact is, then thawing as long as any is."""
        states = {info.thaw_state for info in self.artifacts.values()}
        return next(state for state in (ThawState.ARCHIVED, ThawState.THAWING, ThawState.READABLE) if state in states)

    @property
    def expected(self) -> str:
        """How long thawing takes from its beginning, in words; empty when all can be read."""
        _, words = _duration(self)
        return words

    @property
    def hours(self) -> int:
        """The same as a number of hours, at most."""
        hours, _ = _duration(self)
        return hours

    @property
    def progress(self) -> str:
        """How far it is, for people."""
        readable = len(self.in_state(ThawState.READABLE))
        expected = f"; thawing takes {self.expected} from the first request" if self.expected else ""
        return f"{self.repository} gives {readable} of {len(self.artifacts)} artifacts{expected}"


def thaw_snapshot(vault: Vault, snapshot: Snapshot, *, repository: str | None = None, days: int = DAYS) -> Thaw:
    """Ask for what is archived of a snapshot, in `repository` or where least is missing. May be repeated.

    Raises `RepositoryError` when no repository that has the snapshot can be used.
    """
    thaw = thaw_state(vault, snapshot, repository=repository)
    archived = thaw.in_state(ThawState.ARCHIVED)
    if not archived:
        return thaw
    store = next(member.repository for member in vault.present if member.name == thaw.repository)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="thaw") as pool:
        list(pool.map(lambda name: store.thaw(thaw.artifacts[name].key, days=days), archived))
    return _look_at(store, snapshot)


def thaw_state(vault: Vault, snapshot: Snapshot, *, repository: str | None = None) -> Thaw:
    """How far a snapshot can be read from `repository`, or from the one where least is missing; nothing is asked for.

    That is the one with the fewest archived bytes; among equals, the one that thaws faster, then the first named.
    """
    names = snapshot.repositories if repository is None else (repository,)
    thaws: list[Thaw] = []
    faults: dict[str, RepositoryError] = {}
    for member in vault.present:
        if member.name in names:
            try:
                thaws.append(_look_at(member.repository, snapshot))
            except RepositoryError as error:
                faults[member.name] = error
    if thaws:
        return min(thaws, key=lambda thaw: (_archived_bytes(thaw), _duration(thaw)))
    if len(faults) == 1:
        raise next(iter(faults.values()))
    reasons = " ".join(error.message for error in faults.values())
    raise RepositoryUnavailable(
        f"No repository that holds {snapshot.label} can be used now ({', '.join(names)}). {reasons}".strip(),
        hint="`lifeboat preflight` shows why.",
    )


def _look_at(repository: Repository, snapshot: Snapshot) -> Thaw:
    manifest = snapshot.manifest
    stored = {
        artifact.name: artifact_key(manifest.source, snapshot.tier, snapshot.id, artifact.name)
        for artifact in manifest.artifacts
    }
    stored |= {f"pack {pack.id}": pack_key(manifest.source, pack.id) for pack in manifest.packs}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="describe") as pool:
        # Not from a listing: stores other than S3 itself list a thawed object as archived.
        return Thaw(
            snapshot, repository.name, dict(zip(stored, pool.map(repository.describe, stored.values()), strict=True))
        )


def _archived_bytes(thaw: Thaw) -> int:
    return sum(thaw.artifacts[name].size for name in thaw.in_state(ThawState.ARCHIVED))


def _duration(thaw: Thaw) -> tuple[int, str]:
    """The hours the slowest artifact takes at most, and how people say it."""
    waiting = [info for info in thaw.artifacts.values() if info.thaw_state is not ThawState.READABLE]
    return max((DURATIONS.get(info.storage_class or "", _UNKNOWN) for info in waiting), default=(0, ""))


_UNKNOWN = (24, "hours, perhaps a day")
