"""`redis restore` and `redis place`: a snapshot of Redis into a running server, or under one that is stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lifeboat.assembly import redis_server, redis_source
from lifeboat.cli.desk import (
    AsOfOption,
    Desk,
    EnvFileOption,
    JsonOption,
    PlatformOption,
    ProvenOption,
    Wanted,
    choose,
    installed_redis,
    open_desk,
)
from lifeboat.cli.output import remark, say, say_json, showing_progress
from lifeboat.cli.records import snapshot_record
from lifeboat.connections import require_connection
from lifeboat.errors import SettingsError
from lifeboat.progress import count_text, duration_text
from lifeboat.redis_source.connection import RedisServer
from lifeboat.redis_source.place import DataFolder, data_folder_of, place_rdb, rewrite_append_only, steps
from lifeboat.redis_source.programs import program_at
from lifeboat.redis_source.restore import FLAG, restore_redis
from lifeboat.vault import Snapshot

redis = typer.Typer(
    no_args_is_help=True, help="Restore snapshots of Redis: into a running server, or under one that is stopped."
)

RepositoryOption = Annotated[
    str | None, typer.Option("--repository", metavar="NAME", help="Only what this repository has, read from there.")
]


@redis.command("restore")
def restore(
    wanted: Wanted,
    connection: Annotated[
        str | None,
        typer.Option("--connection", metavar="ID", help="The connection of the server; without it, the source's own."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(FLAG, help="Overwrite keys of the same names that hold something else.")
    ] = False,
    proven: ProvenOption = False,
    as_of: AsOfOption = None,
    repository: RepositoryOption = None,
    scratch: Annotated[
        Path | None,
        typer.Option("--scratch", metavar="FOLDER", help="Where the scratch server's log is put; else /var/tmp."),
    ] = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy every key of a snapshot into a running server, with its database and the moment it expires.

    Keys with other contents are not overwritten, and other keys stay. May be repeated. JSON: `snapshot` as in `list`;
    `server`, `restored`, `overwritten`, `there_already`, `expired`, `functions`, `notes`, and `seconds` by phase.
    """
    desk = open_desk(platform, env_file)
    vault = desk.vault(reading=True)
    snapshot, _ = choose(vault, wanted, complete=True, proven=proven, as_of=as_of, repository=repository)
    server = _server(desk, snapshot, connection)
    assert server is not None
    remark(f"Restoring {snapshot.label} into {server}")
    with showing_progress() as progress:
        report = restore_redis(
            vault,
            snapshot,
            server,
            installed=installed_redis(),
            overwrite=overwrite,
            repository=repository,
            base=scratch,
            progress=progress,
            report=remark,
        )
    if as_json:
        say_json(
            {
                "snapshot": snapshot_record(snapshot),
                "server": report.server,
                "restored": report.restored,
                "overwritten": report.overwritten,
                "there_already": report.there_already,
                "expired": report.expired,
                "functions": report.functions,
                "notes": list(report.notes),
                "seconds": dict(report.seconds),
            }
        )
        return
    for note in report.notes:
        remark(f"Note: {note}")
    took = duration_text(sum(report.seconds.values()))
    say(f"{snapshot.label} is restored into {report.server}, in {took}.")
    others = {"overwritten": report.overwritten, "there already": report.there_already, "expired": report.expired}
    told = "".join(f", {count:,} {what}" for what, count in others.items() if count)
    say(f"{count_text(report.restored, 'key')} restored{told}.")


@redis.command("place")
def place(
    wanted: Wanted,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The stopped server's redis.conf, which names all files."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="FOLDER", help="Its data folder, where there is no file to read.")
    ] = None,
    filename: Annotated[str | None, typer.Option("--filename", help="The RDB's name; else dump.rdb.")] = None,
    program: Annotated[
        Path | None,
        typer.Option(
            "--server",
            metavar="PROGRAM",
            help="The server's program: with `appendonly yes` it is started once, to write new append-only files.",
        ),
    ] = None,
    connection: Annotated[
        str | None,
        typer.Option("--connection", metavar="ID", help="The connection of the server, which must not answer."),
    ] = None,
    proven: ProvenOption = False,
    as_of: AsOfOption = None,
    repository: RepositoryOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a snapshot's RDB in place under a server that is stopped; previous files stay under dated names.

    JSON: `snapshot` as in `list`; `rdb`, `keys`, `kept` (paths), `append_only_moved`, `append_only_rewritten`, `steps`.
    """
    desk = open_desk(platform, env_file)
    vault = desk.vault(reading=True)
    snapshot, _ = choose(vault, wanted, complete=True, proven=proven, as_of=as_of, repository=repository)
    data = _data(config, folder, filename)
    server = _server(desk, snapshot, connection, must=connection is not None)
    chosen = program_at(program) if program is not None else None
    with showing_progress({a.name: a.plain_size for a in snapshot.manifest.artifacts}) as progress:
        placed = place_rdb(
            vault, snapshot, data, server=server, program=chosen, repository=repository, progress=progress
        )
    if chosen is not None and (data.append_only or placed.append_only_moved):
        remark("Having the server write new append-only files")
        rewrite_append_only(placed, data, chosen, server=server)
        placed = replace(placed, rewritten=True)
    next_steps = steps(placed, data)
    if as_json:
        say_json(
            {
                "snapshot": snapshot_record(snapshot),
                "rdb": str(placed.rdb),
                "keys": placed.contents.keys,
                "kept": [str(path) for path in placed.kept],
                "append_only_moved": placed.append_only_moved,
                "append_only_rewritten": placed.rewritten,
                "steps": list(next_steps),
            }
        )
        return
    say(f"{snapshot.label} is in place as {placed.rdb}, with {count_text(placed.contents.keys, 'key')}.")
    for path in placed.kept:
        say(f"What was there before is {path}.")
    for step in next_steps:
        say(f"Next: {step}")


def _data(config: Path | None, folder: Path | None, filename: str | None) -> DataFolder:
    if config is None and folder is None:
        raise SettingsError("Where the data folder is is not known.", hint="Give --config or --folder.")
    if config is None:
        assert folder is not None
        data = DataFolder(folder.absolute())
    else:
        data = data_folder_of(config)
        data = replace(data, folder=folder.absolute()) if folder else data
    return replace(data, rdb=filename) if filename else data


def _server(desk: Desk, snapshot: Snapshot, conn_id: str | None, *, must: bool = True) -> RedisServer | None:
    """The server of the connection, or the source's own. Raises `SettingsError` where there `must` be one."""
    if conn_id is not None:
        return redis_server(require_connection(desk.lookup, conn_id, "--connection"))
    try:
        return redis_source(desk.platform, snapshot.manifest.source, desk.lookup).server
    except SettingsError as error:
        if not must:
            return None
        raise SettingsError(
            f"Where to restore {snapshot.label} is not known: {error.message}",
            hint="Name the server's connection with `--connection`.",
        ) from error
