"""Which snapshot is meant: the newest of a source, the newest proven one, the one of a moment, or one by its id."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from lifeboat.attestation import attestations_of, is_proven
from lifeboat.errors import SettingsError, SignatureInvalid, SnapshotNotFound
from lifeboat.snapshot import SnapshotId, Tier
from lifeboat.vault import Listing, Snapshot, Vault

SHOWN = 5
"""How many snapshots an error names when none fits."""


def choose_snapshot(
    vault: Vault,
    source: str | None,
    *,
    snapshot_id: SnapshotId | None = None,
    tier: Tier | None = None,
    before: datetime | None = None,
    proven: bool = False,
    repository: str | None = None,
    complete: bool = True,
    listing: Listing | None = None,
) -> Snapshot:
    """The newest snapshot that fits all that is asked; one that stands in several tiers, in the one that stays longest.

    `before`: it began then or earlier. `complete`: it has all of its source, unless it is asked for by its id.
    `listing` is what to choose from, where it is known already. Raises `SnapshotNotFound` naming what there is,
    `SignatureInvalid` when it is there but its manifest cannot be trusted, `SettingsError` for an unknown repository.
    """
    if repository is not None:
        check_repository(vault, repository)
    listing = listing or vault.list(source, tier)
    there = [s for s in listing.snapshots if source in (None, s.manifest.source) and tier in (None, s.tier)]
    fitting = [
        snapshot
        for snapshot in there
        if (snapshot_id == snapshot.id or (snapshot_id is None and not (complete and partial(snapshot))))
        and (before is None or snapshot.manifest.began <= before)
        and (repository is None or repository in snapshot.repositories)
    ]
    for snapshot in sorted(fitting, key=_age, reverse=True):
        if not proven or is_proven(attestations_of(vault, snapshot)):
            return snapshot
    wanted = f"{'complete ' if complete and snapshot_id is None else ''}{'proven ' if proven else ''}snapshot"
    wanted += "".join(_wishes(source, snapshot_id, tier, before, repository))
    about = [f"{place}: {why}" for place, why in listing.problems if f"/{snapshot_id or ''}" in place]
    if about and not any(snapshot_id in (None, snapshot.id) for snapshot in there):
        raise SignatureInvalid(
            f"There is no manifest that can be read and trusted of any {wanted}.\n  " + "\n  ".join(about),
            hint="Look at another snapshot, or at another repository: `lifeboat list` shows what there is.",
        )
    elsewhere = "".join(f"\n  {place}: {why}" for place, why in listing.problems)
    raise SnapshotNotFound(
        f"There is no {wanted}. {_what_there_is(there)}{elsewhere}", hint="`lifeboat list` shows all there are."
    )


def about_dates(chosen: Snapshot, listing: Listing) -> Iterator[str]:
    """What to tell of dates that cannot be right, when a snapshot was chosen of a listing."""
    if chosen.misdated:
        yield f"{chosen.label} may be of any time: {chosen.misdated}. Look at the clocks of this host and of the store."
        return
    for other in listing.snapshots:
        if other.misdated and (other.manifest.source, other.tier) == (chosen.manifest.source, chosen.tier):
            yield f"{other.label} is passed over: {other.misdated}. Its id chooses it."


def partial(snapshot: Snapshot) -> str:
    """What alone of its source a snapshot has, such as `tables a, b`; empty when it has everything."""
    selection = snapshot.manifest.facts.get("selection", {})
    names = ", ".join(selection.get("tables", ()))
    parts = [f"tables {names}" if names else "", "definitions" if selection.get("schema_only") else ""]
    return " ".join(part for part in parts if part)


def check_repository(vault: Vault, name: str) -> None:
    """Raise `SettingsError` when the vault has no repository of this name, or why it cannot be used now."""
    names = dict.fromkeys([*(member.name for member in vault.members), *vault.absent])
    if name not in names:
        raise SettingsError(f"platform.yaml names no repository {name!r}.", hint=f"It names: {', '.join(names)}.")
    if name in vault.absent:
        raise vault.absent[name]


def _age(snapshot: Snapshot) -> tuple[tuple[bool, datetime, SnapshotId], int]:
    return snapshot.age, list(Tier).index(snapshot.tier)


def _wishes(
    source: str | None,
    snapshot_id: SnapshotId | None,
    tier: Tier | None,
    before: datetime | None,
    repository: str | None,
) -> Iterator[str]:
    if snapshot_id is not None:
        yield f" {snapshot_id}"
    if source is not None:
        yield f" of {source}"
    if tier is not None:
        yield f" in the tier {tier}"
    if before is not None:
        yield f" that began at or before {before.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if repository is not None:
        yield f" in the repository {repository}"


def _what_there_is(there: list[Snapshot]) -> str:
    if not there:
        return "There are none at all."
    newest = sorted(there, key=_age, reverse=True)
    shown = [
        f"{s.label}{f' (only {partial(s)})' if partial(s) else ''} in {', '.join(s.repositories)}"
        for s in newest[:SHOWN]
    ]
    more = f", and {len(there) - SHOWN} older ones" if len(there) > SHOWN else ""
    return f"There are: {'; '.join(shown)}{more}."
