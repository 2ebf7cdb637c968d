"""Looking whether a tree can be backed up."""

from __future__ import annotations

import os
from collections.abc import Iterator

from lifeboat.errors import RepositoryError, SettingsError
from lifeboat.files.scan import exclude
from lifeboat.files.source import TreeSource, check_root
from lifeboat.own_places import other_repositories
from lifeboat.readiness import look
from lifeboat.snapshot import Tier
from lifeboat.vault import Vault


def check_tree(source: TreeSource) -> None:
    """Raise what lies with the tree or with the folder for its state: `SourceError`, `SettingsError`."""
    check_root(source, None)
    folder = source.state
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110 - not allowed is not there
    if not os.access(existing, os.W_OK | os.X_OK):
        raise SettingsError(
            f"The state of {source.name} cannot be kept in {folder}: {existing} cannot be written to.",
            hint="Give `state` in platform.yaml a folder that the user who runs Lifeboat can write to.",
        )


def check_tree_ready(vault: Vault, source: TreeSource, *, allow_vanished: bool = False) -> tuple[str, ...]:
    """Look for whatever would stop a backup, before it is begun. Returns remarks: what will make it degraded.

    Raises `NotReady` with every obstacle at once: keys, the root, also one that is empty and was not, state, room.
    """

    def check_against_last() -> None:
        try:
            snapshots = vault.list(source.name, Tier.DAILY).snapshots
        except RepositoryError:
            return
        check_root(source, snapshots[-1] if snapshots else None, allow_vanished)

    remarks = look(vault, source.name, (lambda: check_tree(source), check_against_last))
    return (*remarks, *_repositories_in(source))


def _repositories_in(source: TreeSource) -> Iterator[str]:
    for below in other_repositories(source.path, exclude(source.exclude)):
        place = source.path if below == "." else f"{below} in {source.path}"
        remedy = "" if below == "." else f" If nobody means that, add `exclude: ['/{below}/']` to the tree."
        yield f"{source.name}: {place} is a repository of Lifeboat; all that is stored there is stored again.{remedy}"
