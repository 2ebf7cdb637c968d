"""`thaw`: asking archive storage for a snapshot, and waiting for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from lifeboat.cli.desk import EnvFileOption, JsonOption, PlatformOption, Wanted, choose, open_desk
from lifeboat.cli.exit_codes import OK, PASSING
from lifeboat.cli.output import remark, say, say_json
from lifeboat.cli.records import snapshot_record
from lifeboat.errors import RepositoryError
from lifeboat.repositories.contract import ThawState
from lifeboat.thawing import DAYS, Thaw, thaw_snapshot, thaw_state
from lifeboat.vault import Vault


def thaw(
    wanted: Wanted,
    repository: Annotated[
        str | None,
        typer.Option("--repository", metavar="NAME", help="Thaw it there; without it, where least is missing."),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="How long S3 keeps it readable.")] = DAYS,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all of it can be read.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, metavar="SECONDS", help="Look so often.")] = 300,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask archive storage for a snapshot, so that it can be restored. May be repeated; it also tells how far it is.

    Ends with 75 as long as it cannot be read yet. JSON: `snapshot` as in `list`, `repository`, `state`, `expected`, and
    `artifacts` (`readable`, `archived` or `thawing` by name).
    """
    vault = open_desk(platform, env_file).vault(reading=True)
    snapshot, _ = choose(vault, wanted)
    thawing = thaw_snapshot(vault, snapshot, repository=repository, days=days)
    if thawing.state is not ThawState.READABLE:
        _remark(thawing)
    while wait and thawing.state is not ThawState.READABLE:
        time.sleep(every)
        thawing = _look_again(vault, thawing)
    if as_json:
        say_json(_record(thawing))
    elif thawing.state is ThawState.READABLE:
        say(f"All of {snapshot.label} can be read from {thawing.repository}.")
    else:
        say(f"Run the same command again later, or with `--wait`: {', '.join(_missing(thawing))} cannot be read yet.")
    raise typer.Exit(OK if thawing.state is ThawState.READABLE else PASSING)


def _look_again(vault: Vault, before: Thaw) -> Thaw:
    """How far it is now; a wait of hours outlives a passing fault."""
    try:
        thawing = thaw_state(vault, before.snapshot, repository=before.repository)
    except RepositoryError as error:
        if not error.transient:
            raise
        remark(f"Warning: {error.message}")
        return before
    _remark(thawing)
    return thawing


def _remark(thawing: Thaw) -> None:
    remark(f"{datetime.now(UTC):%H:%M:%S} UTC: {thawing.progress}")


def _missing(thawing: Thaw) -> list[str]:
    return [name for name in thawing.artifacts if name not in thawing.in_state(ThawState.READABLE)]


def _record(thawing: Thaw) -> dict[str, object]:
    return {
        "snapshot": snapshot_record(thawing.snapshot),
        "repository": thawing.repository,
        "state": thawing.state.value,
        "expected": thawing.expected,
        "artifacts": {name: info.thaw_state.value for name, info in thawing.artifacts.items()},
    }
