"""Looking, before a backup of any kind is begun, for whatever would stop it or make it degraded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from lifeboat.dates import BELIEVED_SKEW, SKEW, time_of
from lifeboat.errors import LifeboatError, NotReady, RepositoryError
from lifeboat.manifest import Manifest
from lifeboat.recovery.clock import span_text
from lifeboat.snapshot import Tier
from lifeboat.vault import Vault

ROOM = 1.2
"""A repository should have room for what the last snapshots took at most, times this."""


def look(vault: Vault, source: str, checks: Iterable[Callable[[], object]]) -> tuple[str, ...]:
    """Do the checks of a source, and look at keys and repositories. Returns remarks: what will make it degraded.

    Raises `NotReady` with every obstacle at once.
    """
    remarks, obstacles = look_at_vault(vault, source)
    for check in checks:
        try:
            check()
        except LifeboatError as error:
            obstacles.append(error)
    if obstacles:
        raise not_ready(source, obstacles)
    return tuple(remarks)


def look_at_vault(vault: Vault, source: str) -> tuple[list[str], list[LifeboatError]]:
    """What will make a backup of any source degraded, and what will stop it: keys, repositories, room."""
    obstacles: list[LifeboatError] = []
    try:
        vault.check_keys()
    except LifeboatError as error:
        obstacles.append(error)
    remarks = [f"The repository {name} is left out: {error}" for name, error in vault.absent.items()]
    remarks += [
        f"The repository {name} ignores create-only puts; Lifeboat looks before it writes there."
        for name in vault.overwriting_repositories()
    ]
    told, refused = look_at_clocks(vault, datetime.now(UTC))
    remarks += told
    obstacles += refused
    short = dict(_short_of_room(vault, source))
    remarks += short.values()
    if short and short.keys() == {member.name for member in vault.members} - vault.absent.keys():
        obstacles.append(NotReady("No repository has room.", hint="Free space, or add a repository."))
    return remarks, obstacles


def look_at_clocks(vault: Vault, now: datetime) -> tuple[Sequence[str], Sequence[LifeboatError]]:
    """What this host's clock does to a backup: remarks, and an obstacle where it must be wrong.

    A snapshot that begins more than a day ahead of its store counts for nothing, and one that begins as far behind is
    not found for the newest. Where only some stores say so, the store's clock may be the wrong one.
    """
    times = vault.pool.map(lambda member: time_of(member.repository), vault.present)
    ahead = {m.name: now - time for m, time in zip(vault.present, times, strict=True) if time is not None}
    far = {name: by for name, by in ahead.items() if abs(by) > BELIEVED_SKEW}
    told = [f"This host's clock is {skew_text(by)} the clock of the repository {name}." for name, by in far.items()]
    # A disk of this very host has this host's clock, and is no witness.
    local = {m.name for m in vault.present if m.repository.url.startswith("file:")} - far.keys()
    witnesses = [by for name, by in ahead.items() if name not in local]
    if not witnesses or not all(abs(by) > SKEW for by in witnesses):
        return told, ()
    return (), [NotReady(" ".join(told), hint="Set this host's clock by NTP: snapshots are told apart by their dates.")]


def skew_text(ahead: timedelta) -> str:
    """How far a clock is from another, in words that go before the other."""
    return f"{span_text(abs(ahead).total_seconds())} {'ahead of' if ahead > timedelta() else 'behind'}"


def _short_of_room(vault: Vault, source: str) -> Iterator[tuple[str, str]]:
    """Repositories with less room than the newest daily snapshots took, with a margin: (name, remark)."""
    try:
        snapshots = vault.list(source, Tier.DAILY).snapshots
    except RepositoryError:
        return
    needed = int(max((_stored_by(s.manifest) for s in snapshots[-7:]), default=0) * ROOM)
    for member in vault.members:
        free = None if member.name in vault.absent else member.repository.free_bytes()
        if free is not None and free < needed:
            yield (
                member.name,
                f"The repository {member.name} has room for {free} bytes; a snapshot of {source} needs about {needed}.",
            )


def _stored_by(manifest: Manifest) -> int:
    """Bytes that were new with a snapshot: of packs, those that it did not share with an earlier one."""
    packs = int(manifest.facts.get("stored_size", 0)) if manifest.packs else 0
    return packs + sum(artifact.sealed_size for artifact in manifest.artifacts)


def not_ready(source: str, obstacles: Sequence[LifeboatError]) -> NotReady:
    """One error for all obstacles; worth a retry only if every one of them is."""
    lines = "".join(f"\n- {error.message}" + (f" {error.hint}" if error.hint else "") for error in obstacles)
    error = NotReady(f"{source} cannot be backed up:{lines}", hint="Remove these obstacles; nothing was begun.")
    error.transient = all(obstacle.transient for obstacle in obstacles)
    return error
