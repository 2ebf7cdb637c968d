"""A tree of files that is backed up, and whether it is there as it should be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lifeboat.errors import SettingsError, SourceRefused, SourceUnavailable
from lifeboat.files.scan import exclude
from lifeboat.own_places import OwnPlace, within
from lifeboat.vault import Snapshot

FEW = 20
"""A tree of fewer files may lose any of them, but not all."""


@dataclass(frozen=True)
class TreeSource:
    """A tree of files that is backed up under the name `name`; `state` is the folder for what is remembered of it.

    `vanishing` is the share of its files that may be missing since the last snapshot without anybody being asked. `own`
    are Lifeboat's places on this host.
    """

    name: str
    path: str
    state: Path
    exclude: tuple[str, ...] = ()
    vanishing: float = 0.5
    own: tuple[OwnPlace, ...] = ()


def check_root(source: TreeSource, last: Snapshot | None, allow_vanished: bool = False) -> None:
    """Raise `SourceError` when the root is not there, cannot be read, or is empty though it was not.

    `SettingsError` when a place of Lifeboat's own is in it.
    """
    try:
        with os.scandir(source.path) as entries:
            empty = next(entries, None) is None
        os.close(os.open(source.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError:
        raise SourceUnavailable(
            f"{source.name}: there is no folder {source.path}.", hint="Mount it, or correct `path` in platform.yaml."
        ) from None
    except OSError as error:
        raise SourceRefused(
            f"{source.name}: {source.path} cannot be read: {error.strerror}.",
            hint="Let the user that runs Lifeboat read the folder.",
        ) from error
    _refuse_own(source)
    before = last.manifest.facts.get("files", 0) if last else 0
    if empty and before and not allow_vanished:
        raise SourceUnavailable(
            f"{source.name}: {source.path} is empty; the last snapshot has {before} files.", hint=_VANISHED_HINT
        )


_VANISHED_HINT = (
    "Is it mounted? If the files were really deleted, back up once with `--i-know-these-files-are-gone`, or the form's "
    "field of that name."
)


def refuse_vanished(source: TreeSource, last: Snapshot | None, *, files: int, hidden: int) -> None:
    """Raise `SourceUnavailable` when most of a tree, or all of it, has gone since the last snapshot.

    `hidden` are things in folders that cannot be entered any more.
    """
    before = int(last.manifest.facts.get("files", 0)) if last else 0
    # What is hidden has not vanished: its folder is named, and the snapshot partial.
    gone = before - files - hidden
    if (before >= FEW and gone > source.vanishing * before) or (before and not files + hidden):
        raise SourceUnavailable(
            f"{source.name}: {gone} of {before} files have vanished from {source.path} since the last snapshot.",
            hint=_VANISHED_HINT,
        )


def _refuse_own(source: TreeSource) -> None:
    """Raise `SettingsError` naming every place of Lifeboat's own in a tree that is not excluded."""
    is_excluded = exclude(source.exclude)
    found: list[OwnPlace] = []
    excludes: list[str] = []
    for own in source.own:
        below = within(Path(source.path), own.path)
        if below is None:
            continue
        parts = below.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if below == "." or is_excluded is None or not any(is_excluded(path, True) for path in above):
            found.append(own)
            excludes.append(below)
    if not found:
        return
    said = "all of it, private keys too," if any(own.holds_keys for own in found) else "all of it"
    patterns = ", ".join(f"'/{below}/'" for below in dict.fromkeys(excludes))
    remedy = "Give the tree a folder of its own" if "." in excludes else f"Add `exclude: [{patterns}]` to the tree"
    raise SettingsError(
        f"{source.name}: {' and '.join(map(str, found))} {'is' if len(found) == 1 else 'are'} in the tree "
        f"{source.path}: every backup would store {said} once more.",
        hint=f"{remedy}, or move it elsewhere.",
    )
