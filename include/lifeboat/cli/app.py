"""The commands put together, and their errors turned into words and exit codes.

A command's module is imported when it is asked for: all of them together take longer than most commands need.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import FrameType
from typing import NamedTuple

import typer

from lifeboat import __version__
from lifeboat.cli.exit_codes import INTERRUPTED, MEANINGS, exit_code
from lifeboat.cli.output import print_anywhere, remark, say_error
from lifeboat.errors import LifeboatError


class Command(NamedTuple):
    """A command, or a group of them: the module and the name in it, and the first sentence of its help."""

    module: str
    name: str
    help: str


COMMANDS: Mapping[str, Command] = {
    "init": Command(
        "setup_commands", "init", "Make the keys that are missing, and mark every repository as part of one vault."
    ),
    "preflight": Command(
        "job_commands",
        "preflight",
        "Look for all that would stop tonight's backups: keys, repositories, room, client programs, privileges.",
    ),
    "backup": Command("job_commands", "backup", "Back up a source now, into every repository at once."),
    "notify": Command(
        "notify_command",
        "notify",
        "List the channels to people that platform.yaml names, or send a test message through each.",
    ),
    "list": Command(
        "snapshot_commands", "list_snapshots", "List the snapshots, oldest first, and what could not be read."
    ),
    "show": Command("snapshot_commands", "show", "Show a snapshot: its artifacts, and what its source said of itself."),
    "verify": Command(
        "snapshot_commands",
        "verify",
        "Read every byte of a snapshot back from every repository: digests match, it unseals, its inside parses.",
    ),
    "replicate": Command(
        "snapshot_commands",
        "replicate",
        "Copy to every repository what it lacks of a snapshot, and mend there what is known to be damaged.",
    ),
    "thaw": Command(
        "thaw_command",
        "thaw",
        "Ask archive storage for a snapshot, so that it can be restored. May be repeated; it also tells how far it is.",
    ),
    "prove": Command(
        "proof_commands",
        "prove",
        "Prove a snapshot: restore it into a scratch server, compare it with its source, run the smoke checks, attest.",
    ),
    "promote": Command(
        "keeping_commands",
        "promote",
        "Promote the best snapshot of every week (month) that has ended, as the DAGs do. May be repeated.",
    ),
    "prune": Command(
        "keeping_commands",
        "prune",
        "Remove the snapshots that platform.yaml keeps no longer. Never the newest, the newest proven, or a held one.",
    ),
    "health": Command(
        "keeping_commands",
        "health",
        "Show of every snapshot and repository what is there, when it was last read back, and what is owed.",
    ),
    "doctor": Command(
        "keeping_commands",
        "doctor",
        "Look whether buckets, containers and disks are set up as what is promised needs it, with remedies.",
    ),
    "hold": Command(
        "keeping_commands",
        "hold_snapshot",
        "Hold a snapshot, so that nothing ever prunes it, until a time or until the hold is ended with `--end`.",
    ),
    "accept": Command(
        "keeping_commands",
        "accept",
        "Say that a suspect snapshot is good: it may be promoted, and lets older ones go again.",
    ),
    "restore": Command(
        "job_commands",
        "restore",
        "Restore a snapshot into a new database, or some tables into a new schema, and compare with what the source "
        "held.",
    ),
    "replace": Command(
        "in_place_commands",
        "replace",
        "Put a snapshot in the place of the live database, or of the rows of some tables.",
    ),
    "undo": Command(
        "in_place_commands",
        "undo",
        "Put a kept database back in the place of the live one, which then is kept too.",
    ),
    "kept": Command(
        "in_place_commands",
        "kept",
        "List the databases that replacements have left beside the live ones, newest first.",
    ),
    "release": Command(
        "in_place_commands",
        "let_go",
        "Drop a kept database. It is gone then, and `lifeboat undo` cannot bring it back. JSON: `server`, `dropped`.",
    ),
    "keys": Command("custody_commands", "keys", "Make, list and show keys. Private halves are never printed."),
    "files": Command("files_commands", "files", "Look into snapshots of trees, compare them, and restore files."),
    "scratch": Command("proof_commands", "scratch", "Scratch servers that were kept for inspection on this host."),
    "config": Command(
        "config_commands", "config", "Look into archives of configuration files, compare them, put them back."
    ),
    "redis": Command(
        "redis_commands",
        "redis",
        "Restore snapshots of Redis: into a running server, or under one that is stopped.",
    ),
    "recover-platform": Command(
        "recovery_commands",
        "recover_platform",
        "Bring the whole platform back, step by step, as the DAG disaster_recovery does; without it, and without "
        "Airflow.",
    ),
    "incidents": Command(
        "recovery_commands",
        "incidents",
        "Incidents: what was recovered, practised or only assessed, and what is still open.",
    ),
    "runbook": Command(
        "runbook_command",
        "runbook",
        "Print the runbook as Markdown: sources, snapshots, keys, people, and the commands of every step. No secrets.",
    ),
}

_EXIT_CODES = "\n\n".join(["Exit codes:", *(f"{code}  {meaning}" for code, meaning in MEANINGS.items())])


def app_for(wanted: str | None) -> typer.Typer:
    """All commands, of which `wanted` can be run; of the others only the help is known."""
    app = typer.Typer(
        name="lifeboat",
        help=f"Lifeboat {__version__}: backup, proof of recovery and disaster recovery of a platform.",
        epilog=_EXIT_CODES,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # a traceback with local variables would show keys
        rich_markup_mode="rich",
    )
    for name, command in COMMANDS.items():
        made = load(command) if name == wanted else _not_loaded
        if isinstance(made, typer.Typer):
            app.add_typer(made, name=name)
        else:
            app.command(name, help=None if name == wanted else command.help)(made)
    return app


def load(command: Command) -> typer.Typer | Callable[..., None]:
    """The function of a command, or the group."""
    loaded: typer.Typer | Callable[..., None] = getattr(import_module(f"lifeboat.cli.{command.module}"), command.name)
    return loaded


def _not_loaded() -> None:
    raise AssertionError("another command was asked for")


def main() -> None:
    """Run the command in `sys.argv`, and exit with one of `MEANINGS`. With LIFEBOAT_DEBUG set, errors show where."""
    print_anywhere()
    # A polite end must stop child processes and clear up as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app_for(next((word for word in sys.argv[1:] if not word.startswith("-")), None))(prog_name="lifeboat")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            remark("Interrupted.")
        raise
    except LifeboatError as error:
        if os.environ.get("LIFEBOAT_DEBUG"):
            raise
        say_error(error)
        sys.exit(exit_code(error))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
