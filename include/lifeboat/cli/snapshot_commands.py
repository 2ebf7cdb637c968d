"""`list`, `show`, `verify` and `replicate`: what there is, whether it is whole, and putting it where it lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Annotated

import typer

from lifeboat.assembly import policy_of
from lifeboat.attestation import Attestation, Verdict, attestations_of, last_restore_test
from lifeboat.choosing import check_repository, partial
from lifeboat.cli.desk import (
    AsOfOption,
    EnvFileOption,
    JsonOption,
    PlatformOption,
    ProvenOption,
    Wanted,
    choose,
    installed_programs,
    open_desk,
)
from lifeboat.cli.exit_codes import BROKEN, DEGRADED, OK, PASSING
from lifeboat.cli.output import remark, say, say_json, say_table, showing_progress
from lifeboat.cli.records import (
    full_record,
    problem_records,
    replication_record,
    snapshot_record,
    tested_record,
    verification_record,
)
from lifeboat.copies import attest_read_back
from lifeboat.errors import LifeboatError, SnapshotNotFound
from lifeboat.healing import heal, make_whole
from lifeboat.progress import duration_text, size_text
from lifeboat.vault import Listing, Snapshot, Vault, Verification


def list_snapshots(
    source: Annotated[str | None, typer.Argument(help="Only snapshots of this source.")] = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the snapshots, oldest first, and what could not be read.

    JSON: `snapshots`, a list of `id`, `source`, `tier`, `kind`, `began`, `finished`, `complete`, `scheduled_for`,
    `repositories`, `plain_size`, `sealed_size`, `artifact_count`, `misdated` (why its date cannot be right), `proven`
    and `tested` (by the last restore test, and when); `problems`, a list of `place`, `reason`.
    """
    vault = open_desk(platform, env_file).vault(reading=True)
    listing = vault.list(source)
    with ThreadPoolExecutor(max_workers=16, thread_name_prefix="attestations") as pool:
        tests = list(pool.map(lambda one: last_restore_test(attestations_of(vault, one)), listing.snapshots))
    if as_json:
        snapshots = [tested_record(*pair) for pair in zip(listing.snapshots, tests, strict=True)]
        say_json({"snapshots": snapshots, "problems": problem_records(listing)})
    else:
        say_table(
            ["source", "tier", "snapshot", "began (UTC)", "took", "dumped", "stored", "repositories", "proven", "only"],
            [_row(*pair) for pair in zip(listing.snapshots, tests, strict=True)],
            right=["took", "dumped", "stored"],
            nothing=f"There are no snapshots{f' of {source}' if source else ''}; `lifeboat backup` makes one.",
        )
        _remark_problems(listing)
        for one in listing.snapshots:
            if one.misdated:
                remark(f"Warning: {one.label}: {one.misdated}; it comes last in every choice. Look at the clocks.")
    raise typer.Exit(DEGRADED if listing.problems else OK)


def show(
    wanted: Wanted,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a snapshot: its artifacts, and what its source said of itself.

    JSON: as in `list`, with `vault_id`, `written_by`, `artifacts` (`name`, `media_type`, `plain_size`, `plain_sha256`,
    `sealed_size`, `sealed_sha256`) and `facts`.
    """
    vault = open_desk(platform, env_file).vault(reading=True)
    snapshot, listing = choose(vault, wanted)
    test = last_restore_test(attestations_of(vault, snapshot))
    if as_json:
        say_json(full_record(snapshot, test))
        return
    manifest = snapshot.manifest
    say(f"{snapshot.label}, a snapshot of a {manifest.kind} source, in {', '.join(snapshot.repositories)}")
    say(f"began {manifest.began:%Y-%m-%d %H:%M:%S} UTC, finished {manifest.finished:%Y-%m-%d %H:%M:%S} UTC")
    if manifest.scheduled_for:
        say(f"scheduled for {manifest.scheduled_for:%Y-%m-%d %H:%M:%S} UTC")
    say(f"written by {manifest.written_by} for the vault {manifest.vault_id}")
    say(f"proven: {_proven(test)}\n" if test else "not proven by a restore test yet; `lifeboat prove` does\n")
    rows = [
        [a.name, a.media_type, size_text(a.plain_size), size_text(a.sealed_size), a.sealed_sha256]
        for a in manifest.artifacts
    ]
    say_table(["artifact", "type", "plain", "sealed", "SHA-256 of what is stored"], rows, right=["plain", "sealed"])
    say("\nfacts: " + json.dumps(manifest.facts, indent=2, ensure_ascii=False))
    _remark_problems(listing)


def verify(
    wanted: Wanted,
    repository: Annotated[
        str | None, typer.Option("--repository", metavar="NAME", help="Only what this repository has.")
    ] = None,
    proven: ProvenOption = False,
    as_of: AsOfOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of a snapshot back from every repository: digests match, it unseals, its inside parses.

    What was seen is attested, where a signing key is at hand; `replicate` then mends what is damaged.

    JSON: `snapshot` as in `list`; `repositories`, a list of `repository`, `whole`, `unsealed`, `bytes_read`, `faults`
    (reason by artifact); `lacking`, the repositories that do not have the snapshot.
    """
    desk = open_desk(platform, env_file)
    vault = desk.vault(reading=True)
    snapshot, listing = choose(vault, wanted, proven=proven, as_of=as_of)
    verifications = [
        _verify_one(vault, snapshot, name) for name in _repositories_to_verify(vault, snapshot, repository)
    ]
    _attest(vault, snapshot, verifications)
    lacking = [] if repository else [r.name for r in desk.platform.repositories if r.name not in snapshot.repositories]
    if as_json:
        say_json(
            {
                "snapshot": snapshot_record(snapshot),
                "repositories": [verification_record(v) for v in verifications],
                "lacking": lacking,
            }
        )
    else:
        _say_verifications(snapshot, verifications, lacking)
        _remark_problems(listing, about=snapshot)
    raise typer.Exit(_verdict(verifications, forged=_untrusted(listing, snapshot), lacking=desk.required(lacking)))


def _attest(vault: Vault, snapshot: Snapshot, verifications: Sequence[Verification]) -> None:
    if vault.keyring.signing_key is None:
        return
    try:
        attest_read_back(vault, snapshot, verifications)
    except LifeboatError as error:
        remark(f"Note: what was seen is not attested: {error.message}")


def replicate(
    wanted: Annotated[
        str | None,
        typer.Argument(metavar="[SNAPSHOT|SOURCE]", help="Without it, the newest snapshot of every source."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every snapshot that a repository ought to have and has not.")
    ] = False,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy to every repository what it lacks of a snapshot, and mend there what is known to be damaged.

    Of a copy that was found damaged all is read, and each object that is wrong there is replaced by that of a
    repository which has it right. May be repeated.

    JSON: `replications`, a list of `snapshot` as in `list`, `copied` (artifacts by repository) and `lacking` (reason by
    repository).
    """
    desk = open_desk(platform, env_file)
    vault = desk.vault()
    with showing_progress() as progress:
        if everything:
            only = choose(vault, wanted)[0].manifest.source if wanted else None
            replications = heal(vault, policy_of(desk.platform), only, now=datetime.now(UTC), progress=progress)
        else:
            wanted_ones = [wanted] if wanted else desk.platform.names()
            replications = [make_whole(vault, choose(vault, one)[0], progress=progress) for one in wanted_ones]
    if as_json:
        say_json({"replications": [replication_record(replication) for replication in replications]})
    for replication in () if as_json else replications:
        copied = ", ".join(replication.copied) or "no repository: none that answers lacked anything of it"
        say(f"{replication.snapshot.label} was copied to {copied}.")
        for name, reason in replication.lacking.items():
            remark(f"Warning: {name} still lacks it: {reason}")
    if not replications and not as_json:
        say(f"Nothing was to be copied: {', '.join(m.name for m in vault.present)} lack nothing they ought to have.")
    raise typer.Exit(DEGRADED if any(desk.required(r.lacking) for r in replications) else OK)


def _row(snapshot: Snapshot, test: Attestation | None) -> list[str]:
    manifest = snapshot.manifest
    return [
        manifest.source,
        str(snapshot.tier),
        str(snapshot.id),
        f"{manifest.began:%Y-%m-%d %H:%M:%S}",
        duration_text((manifest.finished - manifest.began).total_seconds()),
        size_text(manifest.plain_size),
        size_text(manifest.sealed_size),
        ", ".join(snapshot.repositories),
        _proven(test),
        partial(snapshot),
    ]


def _proven(test: Attestation | None) -> str:
    if test is None:
        return ""
    return f"{'' if test.verdict is Verdict.PROVEN else 'FAILED '}{test.made:%Y-%m-%d %H:%M}"


def _remark_problems(listing: Listing, *, about: Snapshot | None = None) -> None:
    for place, reason in listing.problems:
        if about is None or "/" not in place or str(about.id) in place:
            remark(f"Warning: {place}: {reason}")


def _repositories_to_verify(vault: Vault, snapshot: Snapshot, only: str | None) -> Sequence[str]:
    if only is None:
        return snapshot.repositories
    check_repository(vault, only)
    if only not in snapshot.repositories:
        raise SnapshotNotFound(
            f"{only} does not have {snapshot.label}.",
            hint=f"{', '.join(snapshot.repositories)} has it; `lifeboat replicate` copies it.",
        )
    return [only]


def _verify_one(vault: Vault, snapshot: Snapshot, repository: str) -> Verification:
    from lifeboat.backup import inspectors
    from lifeboat.files.check import pack_check
    from lifeboat.redis_source.backup import redis_inspectors

    totals = {artifact.name: artifact.plain_size for artifact in snapshot.manifest.artifacts}
    remark(f"Reading {snapshot.label} back from {repository}")
    with showing_progress(totals) as progress:
        return vault.verify(
            snapshot,
            repository,
            inspectors={**inspectors(installed_programs()), **redis_inspectors()},
            check_pack=pack_check(vault, snapshot, repository),
            progress=progress,
        )


def _untrusted(listing: Listing, snapshot: Snapshot) -> bool:
    """Whether a repository has a manifest of this snapshot that cannot be read or trusted."""
    return any(f"/{snapshot.id}/" in place for place, _ in listing.problems)


def _verdict(verifications: Sequence[Verification], *, forged: bool, lacking: Sequence[str]) -> int:
    faults = [fault for verification in verifications for fault in verification.faults.values()]
    if forged or any(not fault.transient for fault in faults):
        return BROKEN
    if faults:
        return PASSING
    return DEGRADED if lacking else OK


def _say_verifications(snapshot: Snapshot, verifications: Sequence[Verification], lacking: Sequence[str]) -> None:
    say(snapshot.label)
    for verification in verifications:
        how = "every byte read and unsealed" if verification.unsealed else "every byte read; no identity to unseal it"
        verdict = "NOT WHOLE" if verification.faults else f"whole ({how}, {size_text(verification.bytes_read)})"
        say(f"  {verification.repository}: {verdict}")
        for artifact, fault in verification.faults.items():
            say(f"    {artifact}: {fault.message}")
            if fault.hint:
                say(f"      Hint: {fault.hint}")
    for name in lacking:
        say(f"  {name}: does not have it, or does not answer")
