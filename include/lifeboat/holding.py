"""Holds and acceptances: what a person says of a snapshot, so that it stays, or counts again.

Both are attestations, added in every tier the snapshot stands in, in every repository that has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lifeboat.attestation import (
    Attestation,
    Verdict,
    attest_everywhere,
    attestations_of,
    open_holds,
    open_suspicions,
)
from lifeboat.errors import SettingsError
from lifeboat.vault import Snapshot, Vault


@dataclass(frozen=True)
class Said:
    """What was attested of a snapshot: in which tiers, by label, and why a repository that has it did not take it."""

    attestations: Mapping[str, Attestation]
    lacking: Mapping[str, str]


def hold(vault: Vault, snapshot: Snapshot, *, reason: str, until: datetime | None, now: datetime) -> Said:
    """Keep a snapshot from ever being pruned, until `until` or until the hold is ended. Several may stand at once.

    Raises `SettingsError` without a reason or with an end that has passed, and as `attest`.
    """
    _require(reason, "A hold")
    if until is not None and until <= now:
        raise SettingsError(
            f"The hold would end at {until:%Y-%m-%d %H:%M} UTC, which has passed.", hint="Give a later end."
        )
    details = {"reason": reason, "until": until and until.isoformat()}
    return _say(vault, same_in_every_tier(vault, snapshot), Verdict.HELD, details)


def end_holds(vault: Vault, snapshot: Snapshot, *, reason: str, now: datetime) -> Said:
    """End every hold on a snapshot. Raises `SettingsError` without a reason, or when nothing holds it."""
    _require(reason, "Ending a hold")
    return _answer(vault, snapshot, Verdict.HOLD_ENDED, reason, lambda found: open_holds(found, now), "holds")


def accept(vault: Vault, snapshot: Snapshot, *, reason: str) -> Said:
    """Say that a suspect snapshot is good. Raises `SettingsError` without a reason, or when it is not suspect."""
    _require(reason, "Accepting")
    return _answer(vault, snapshot, Verdict.ACCEPTED, reason, open_suspicions, "suspicions")


def same_in_every_tier(vault: Vault, snapshot: Snapshot) -> tuple[Snapshot, ...]:
    """The snapshot in every tier it stands in."""
    return tuple(s for s in vault.list(snapshot.manifest.source).snapshots if s.id == snapshot.id) or (snapshot,)


def _answer(vault: Vault, snapshot: Snapshot, verdict: Verdict, reason: str, open_ones: Any, what: str) -> Said:
    everywhere = same_in_every_tier(vault, snapshot)
    # A hold that only one tier's copy tells of holds all of them, so its end is said in all of them too.
    said = sorted({a.made.isoformat() for one in everywhere for a in open_ones(attestations_of(vault, one))})
    if not said:
        raise SettingsError(f"There are no {what} on {snapshot.label}.", hint="`lifeboat show` tells what is attested.")
    details = {"reason": reason, "answers": said}
    return _say(vault, everywhere, verdict, details)


def _say(vault: Vault, snapshots: Sequence[Snapshot], verdict: Verdict, details: Mapping[str, Any]) -> Said:
    attestations: dict[str, Attestation] = {}
    lacking = {name: error.message for name, error in vault.absent.items()}  # whether they have it is not known
    for snapshot in snapshots:
        attestations[snapshot.label], missed = attest_everywhere(vault, snapshot, verdict, details=details)
        lacking |= missed
    return Said(attestations, lacking)


def _require(reason: str, what: str) -> None:
    if not reason.strip():
        raise SettingsError(f"{what} needs a reason.", hint="Whoever finds it in a year wants to know why.")


def reasons(attestations: Sequence[Attestation]) -> str:
    """What holds or suspicions say, for people."""
    return "; ".join(str(a.details.get("reason") or "no reason given") for a in attestations)
