"""`runbook`: what to do when the platform is gone, with real names, for paper and for beside the backups."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from lifeboat.cli.desk import EnvFileOption, PlatformOption, installed_programs, installed_redis, open_desk
from lifeboat.cli.exit_codes import DEGRADED, OK
from lifeboat.cli.output import remark, say
from lifeboat.recovery.means import Means
from lifeboat.recovery.runbook import runbook_html, runbook_markdown, store_runbook


def runbook(
    html: Annotated[bool, typer.Option("--html", help="As a page that prints well, such as to PDF.")] = False,
    store: Annotated[
        bool, typer.Option("--store", help="Put it into break-glass/ of every repository, as a DAG does every day.")
    ] = False,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """Print the runbook as Markdown: sources, snapshots, keys, people, and the commands of every step. No secrets."""
    desk = open_desk(platform, env_file)
    now = datetime.now(UTC)
    means = Means(desk.vault(reading=True), desk.platform, desk.lookup, installed_programs, installed_redis)
    if not store:
        sys.stdout.write(runbook_html(means, now) if html else runbook_markdown(means, now))
        return
    stored = store_runbook(means, now)
    for key in stored.keys:
        say(f"Put {key}")
    for old in stored.removed:
        remark(f"Removed {old}")
    for name, why in stored.lacking.items():
        remark(f"{name}: {why}")
    raise typer.Exit(DEGRADED if stored.lacking else OK)
