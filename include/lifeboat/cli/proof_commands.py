"""`prove`: a snapshot is really restored, compared and asked questions, and what was found is attested. `scratch`:
the servers that were kept for inspection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from lifeboat import proving
from lifeboat.assembly import postgres_server
from lifeboat.cli.desk import (
    AsOfOption,
    Desk,
    EnvFileOption,
    JsonOption,
    PlatformOption,
    Wanted,
    choose,
    installed_programs,
    installed_redis,
    open_desk,
)
from lifeboat.cli.exit_codes import DEGRADED, OK
from lifeboat.cli.output import remark, say, say_json, say_table, showing_progress
from lifeboat.cli.records import snapshot_record
from lifeboat.connections import require_connection
from lifeboat.errors import SettingsError
from lifeboat.postgres.cluster import BASE, remove_leftovers
from lifeboat.postgres.kept_server import kept_servers, stop_kept
from lifeboat.progress import duration_text
from lifeboat.proof import KEEP_HOURS, Proof, prove_snapshot
from lifeboat.report import store_report
from lifeboat.smoke import SmokeChecks
from lifeboat.snapshot import Kind
from lifeboat.vault import Snapshot

ScratchOption = Annotated[
    Path,
    typer.Option("--scratch", metavar="FOLDER", help="Where the scratch servers' data is put."),
]

scratch = typer.Typer(help="Scratch servers that were kept for inspection on this host.", no_args_is_help=True)


def prove(
    wanted: Wanted,
    as_of: AsOfOption = None,
    repository: Annotated[
        str | None, typer.Option("--repository", metavar="NAME", help="Only what this repository has, read from there.")
    ] = None,
    connection: Annotated[
        str | None,
        typer.Option(
            "--connection",
            metavar="ID",
            help="The connection of a server to prove it on; without it, a scratch server.",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the database on the server of `--connection`.")] = False,
    keep_hours: Annotated[
        float,
        typer.Option(
            "--keep-hours",
            min=0,
            max=KEEP_HOURS,
            metavar="HOURS",
            help="Keep the scratch server for so long, to look into it; `lifeboat scratch stop` lets it go earlier.",
        ),
    ] = 0,
    folder: ScratchOption = BASE,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Streams and indexes at a time; without it, one a core.")
    ] = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove a snapshot: restore it into a scratch server, compare it with its source, run the smoke checks, attest.

    A report is kept in the vault. JSON: `snapshot` as in `list`; `proven`, `reason`, `repository`, `began`, `seconds`
    by phase, `seconds_in_all`, `tables`, `rows`, sizes and versions, `checks` (`name`, `passed`, `seconds`,
    `expected`, `found`), `notes`, `damaged` (reason by repository), `reports` (two keys), `kept` (null, or a scratch
    server as in `scratch list`).
    """
    desk = open_desk(platform, env_file)
    vault = desk.vault(reading=True)
    snapshot, _ = choose(vault, wanted, complete=True, as_of=as_of, repository=repository)
    server = connection and postgres_server(require_connection(desk.lookup, connection, "--connection"))
    totals = {artifact.name: artifact.plain_size for artifact in snapshot.manifest.artifacts}
    with showing_progress(totals) as progress:
        if snapshot.manifest.kind is Kind.POSTGRES:
            remark(f"Proving {snapshot.label} on {server or 'a scratch server'}")
            proof = prove_snapshot(
                vault,
                snapshot,
                installed=installed_programs(),
                checks=_checks(desk, snapshot),
                server=server or None,
                repository=repository,
                jobs=jobs,
                keep=keep,
                keep_for=timedelta(hours=keep_hours) or None,
                base=folder,
                progress=progress,
                report=remark,
            )
        else:
            _refuse_server_options(snapshot, connection, keep, keep_hours)
            remark(f"Proving {snapshot.label} in a scratch place")
            named = None if folder == BASE else folder
            means = proving.Means(
                desk.platform,
                installed_programs,
                installed_redis,
                repository,
                base=named,
                progress=progress,
                report=remark,
            )
            proof = proving.prove(vault, snapshot, means)
    reports = store_report(
        vault,
        [proof],
        platform=desk.platform.platform,
        made=datetime.now(UTC),
        rto_hours=desk.platform.objectives.rto_hours,
    )
    if as_json:
        say_json(_record(proof, reports))
    else:
        _say_proof(proof, reports)
    proof.raise_failure()
    raise typer.Exit(DEGRADED if proof.damaged else OK)


@scratch.command("list")
def list_scratch(folder: ScratchOption = BASE, as_json: JsonOption = False) -> None:
    """List the scratch servers that were kept, and how to look into them. One whose time is over is removed.

    JSON: `kept`, a list of `name`, `host`, `address`, `port`, `user`, `database`, `snapshot`, `password_file`, `until`,
    `running`.
    """
    remove_leftovers(folder)
    found = kept_servers(folder)
    if as_json:
        say_json({"kept": [kept.record() | {"running": kept.running} for kept in found]})
        return
    for kept in found:
        say(f"{kept.snapshot}{'' if kept.running else ', which does not run any more'}: {kept}")
    if not found:
        say("None is kept.")


@scratch.command("stop")
def stop_scratch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One that `lifeboat scratch list` shows.")],
    folder: ScratchOption = BASE,
    as_json: JsonOption = False,
) -> None:
    """Let a kept scratch server go before its time, with all its data. JSON: `stopped`."""
    stop_kept(folder, name)
    if as_json:
        say_json({"stopped": name})
    else:
        say(f"{name} and its data are gone.")


def _refuse_server_options(snapshot: Snapshot, connection: str | None, keep: bool, keep_hours: float) -> None:
    if connection or keep or keep_hours:
        raise SettingsError(
            f"{snapshot.label} is of no database, and needs no server.",
            hint="Leave out --connection, --keep and --keep-hours.",
        )


def _checks(desk: Desk, snapshot: Snapshot) -> SmokeChecks:
    """The smoke checks of a snapshot's source; none of one that platform.yaml no longer names."""
    source = snapshot.manifest.source
    if source not in desk.platform.names(Kind.POSTGRES):
        remark(f"Note: platform.yaml names no database {source!r}, so there are no smoke checks.")
        return SmokeChecks()
    return desk.platform.smoke_checks(source)


def _record(proof: Proof, reports: tuple[str, ...]) -> dict[str, object]:
    checks = [
        {"name": c.name, "passed": c.passed, "seconds": c.seconds, "expected": c.expected, "found": c.found}
        for c in proof.checks
    ]
    return proof.record() | {
        "snapshot": snapshot_record(proof.snapshot),
        "checks": checks,
        "notes": list(proof.notes),
        "reports": list(reports),
    }


def _say_proof(proof: Proof, reports: tuple[str, ...]) -> None:
    say_table(["phase", "seconds"], [[n, f"{s:.1f}"] for n, s in proof.seconds.items()], right=["seconds"])
    if proof.checks:
        say("")
        rows = [
            [c.name, "passed" if c.passed else "FAILED", f"{c.seconds:.2f}", c.expected, c.found] for c in proof.checks
        ]
        say_table(["check", "result", "seconds", "expected", "found"], rows, right=["seconds"])
    say("")
    for note in proof.notes:
        remark(f"Note: {note}")
    for name, reason in proof.damaged.items():
        remark(f"Warning: the copy in {name} is damaged: {reason}")
    if proof.proven:
        say(f"{proof.snapshot.label} is proven: restored from {proof.repository} in {duration_text(proof.total)}.")
        others = ", and all other objects," if proof.snapshot.manifest.kind is Kind.POSTGRES else ""
        but = ", but for what no dump holds (see the notes)" if proof.left_out else ""
        say(f"{proof.restored}{others} are as the source had them{but}; every check passed.")
    say(f"Report: {', '.join(reports)}")
