"""`keys check` and `keys rewrap`: whether the keys open what is kept, and wrapping data keys for more recipients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lifeboat.cli.desk import EnvFileOption, JsonOption, PlatformOption, choose, open_desk
from lifeboat.cli.exit_codes import BROKEN, DEGRADED, OK, WRONG_SETTINGS, exit_code
from lifeboat.cli.output import remark, say, say_error, say_json, say_table
from lifeboat.cli.setup_commands import keys
from lifeboat.custody import Custody, Rewrapping, check_identities
from lifeboat.custody import rewrap as rewrap_snapshots
from lifeboat.keys import Keyring
from lifeboat.progress import count_text
from lifeboat.vault import Snapshot, Vault

IdentitiesOption = Annotated[
    Path | None,
    typer.Option(
        "--identities",
        metavar="FOLDER",
        help="Use the identities in this folder too, such as the one the escrow identity is kept in.",
    ),
]


@keys.command("check")
def check(
    identities: IdentitiesOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open the oldest and the newest snapshot of every source with every identity at hand.

    Fails when an identity does not open what is sealed for it, is not the private half of the recipient of its name, or
    when no identity at hand opens a snapshot. JSON: `trials`, a list of `identity`, `key_id`, `snapshot`, `opening`,
    `reason`; `mismatched`, identities; `unexercised`, `unopened` and `unreadable`, by name or snapshot.
    """
    custody = check_identities(_open_vault(platform, env_file, identities))
    if as_json:
        say_json(_custody_record(custody))
    else:
        _say_custody(custody)
    raise typer.Exit(_verdict(custody))


@keys.command("rewrap")
def rewrap(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE|SNAPSHOT]...",
            help="All snapshots of a source, or single ones; without any, all there are.",
        ),
    ] = None,
    identities: IdentitiesOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the recipients in platform.yaml open snapshots that were sealed before they were named there.

    Needs an identity that opens them. Stores small objects beside the artifacts and changes nothing else. May be
    repeated. It takes nothing from anybody: what a lost identity could open, it still opens. JSON: `rewrappings`, a
    list of `snapshot`, `added` (recipients by artifact), `faults` (reason by artifact) and `lacking` (reason by
    repository).
    """
    vault = _open_vault(platform, env_file, identities)
    recipients = vault.keyring.recipients_named(vault.recipient_names)
    rewrappings = rewrap_snapshots(vault, _wanted(vault, wanted or []), recipients, report=remark)
    if as_json:
        say_json({"rewrappings": [_rewrapping_record(rewrapping) for rewrapping in rewrappings]})
    else:
        _say_rewrappings(rewrappings)
    faults = [fault for rewrapping in rewrappings for fault in rewrapping.faults.values()]
    lacking = any(rewrapping.lacking for rewrapping in rewrappings)
    raise typer.Exit(exit_code(faults[0]) if faults else DEGRADED if lacking or vault.absent else OK)


def _open_vault(platform: Path | None, env_file: Path | None, identities: Path | None) -> Vault:
    vault = open_desk(platform, env_file).vault(reading=True)
    if identities is not None:
        more = Keyring.from_folder(identities).identities
        vault.keyring = replace(vault.keyring, identities=vault.keyring.identities + more)
    return vault


def _wanted(vault: Vault, wanted: list[str]) -> list[Snapshot]:
    if not wanted:
        return list(vault.list().snapshots)
    found: list[Snapshot] = []
    for one in wanted:
        snapshot, listing = choose(vault, one)
        whole_source = one == snapshot.manifest.source
        found += listing.snapshots if whole_source else [snapshot]
    return list({snapshot.label: snapshot for snapshot in found}.values())


def _verdict(custody: Custody) -> int:
    if custody.failed:
        return BROKEN
    if custody.mismatched or custody.unopened:
        return WRONG_SETTINGS
    return DEGRADED if custody.unreadable else OK


def _say_custody(custody: Custody) -> None:
    say_table(
        ["identity", "snapshot", "result"],
        [
            [trial.identity, trial.snapshot.label, f"{trial.opening}. {trial.reason}".rstrip(". ")]
            for trial in custody.trials
        ],
        nothing="There is nothing to be opened: no snapshot, or no identity at hand.",
    )
    for name in custody.mismatched:
        say(f"The identity {name} is not the private half of the recipient {name}.")
    for label, reason in custody.unopened.items():
        say(f"No identity at hand opens {label}. {reason}")
    for name, places in custody.unexercised.items():
        remark(
            f"Nobody has shown that {name} opens anything ({places}). Its identity is not at hand, or opened nothing."
        )
    for label, reason in custody.unreadable.items():
        remark(f"Warning: {label} could not be looked at: {reason}")


def _say_rewrappings(rewrappings: tuple[Rewrapping, ...]) -> None:
    for rewrapping in rewrappings:
        for artifact, fault in rewrapping.faults.items():
            remark(f"{rewrapping.snapshot.label}: {artifact} could not be rewrapped.")
            say_error(fault)
        for name, reason in rewrapping.lacking.items():
            remark(f"Warning: {name} lacks rewrapped keys of {rewrapping.snapshot.label}: {reason}")
    artifacts = sum(len(rewrapping.added) for rewrapping in rewrappings)
    say(f"Rewrapped {count_text(artifacts, 'data key')} of {count_text(len(rewrappings), 'snapshot')}.")


def _custody_record(custody: Custody) -> dict[str, object]:
    return {
        "trials": [
            {
                "identity": trial.identity,
                "key_id": trial.key_id.hex(),
                "snapshot": trial.snapshot.label,
                "opening": str(trial.opening),
                "reason": trial.reason,
            }
            for trial in custody.trials
        ],
        "mismatched": list(custody.mismatched),
        "unexercised": dict(custody.unexercised),
        "unopened": dict(custody.unopened),
        "unreadable": dict(custody.unreadable),
    }


def _rewrapping_record(rewrapping: Rewrapping) -> dict[str, object]:
    return {
        "snapshot": rewrapping.snapshot.label,
        "added": {artifact: list(names) for artifact, names in rewrapping.added.items()},
        "faults": {artifact: fault.message for artifact, fault in rewrapping.faults.items()},
        "lacking": dict(rewrapping.lacking),
    }
