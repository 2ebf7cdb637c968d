"""Looking, before a backup of any kind is begun, for whatever would stop it or make it degraded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from lifeboat.errors import LifeboatError, NotReady, RepositoryError
from lifeboat.manifest import Manifest
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
    short = dict(_short_of_room(vault, source))
    remarks += short.values()
    if short and short.keys() == {member.name for member in vault.members} - vault.absent.keys():
        obstacles.append(NotReady("No repository has room.", hint="Free space, or add a repository."))
    return remarks, obstacles


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
