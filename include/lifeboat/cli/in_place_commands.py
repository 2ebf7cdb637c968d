"""`replace`, `undo`, `kept` and `release`: live databases, and what is kept beside them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from lifeboat.assembly import application_of, smoke_of
from lifeboat.cli.desk import (
    AsOfOption,
    ConnectionOption,
    DatabaseOption,
    Desk,
    EnvFileOption,
    JsonOption,
    LiveDatabase,
    OnAnotherServerOption,
    PlatformOption,
    ProvenOption,
    Wanted,
    choose,
    installed_programs,
    live_database,
    open_desk,
)
from lifeboat.cli.exit_codes import DEGRADED, OK
from lifeboat.cli.incomplete import AllOrNothingOption
from lifeboat.cli.job_commands import split_names
from lifeboat.cli.output import remark, say, say_json, say_table, showing_progress
from lifeboat.cli.records import snapshot_record
from lifeboat.errors import SettingsError
from lifeboat.in_place import InPlaceReport, restore_in_place, restore_rows_in_place, undo_in_place
from lifeboat.postgres.restore import RestoreReport
from lifeboat.postgres.swap import kept_databases, read_dated_name, release
from lifeboat.postgres.tables import ReplacedRows
from lifeboat.progress import count_text, duration_text, size_text
from lifeboat.snapshot import Kind
from lifeboat.vault import Snapshot, Vault

SourceOption = Annotated[
    str | None, typer.Option("--source", metavar="NAME", help="The source, where two have databases of one name.")
]
KeptName = Annotated[str, typer.Argument(metavar="NAME", help="A database that `lifeboat kept` lists.")]


def replace(
    wanted: Wanted,
    confirmed: Annotated[
        bool,
        typer.Option(
            "--i-know-this-replaces-the-live-database",
            help="Replace all of it. What it was is kept under a dated name.",
        ),
    ] = False,
    tables: Annotated[
        str, typer.Option("--tables", metavar="A,B", help="Only the rows of these, as `name` or `schema.name`.")
    ] = "",
    replace_live_rows: Annotated[
        bool,
        typer.Option("--replace-live-rows", help="Replace all rows of `--tables`. What they were is not kept."),
    ] = False,
    connection: ConnectionOption = None,
    database: DatabaseOption = None,
    on_another_server: OnAnotherServerOption = False,
    proven: ProvenOption = False,
    as_of: AsOfOption = None,
    repository: Annotated[
        str | None, typer.Option("--repository", metavar="NAME", help="Only what this repository has, read from there.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Streams and indexes at a time; without it, one a core.")
    ] = None,
    all_or_nothing: AllOrNothingOption = False,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a snapshot in the place of the live database, or of the rows of some tables.

    It is restored beside the live database, compared with what the source held, and asked the smoke checks; until then
    the live one serves on. Then the application is stopped, the two are swapped by renaming, and it is started again.
    What was live is kept until `lifeboat release`; `lifeboat undo` brings it back.

    When objects cannot be rebuilt, they are listed, nothing is swapped, and the exit code is 7: what was restored waits
    for `lifeboat undo … --i-have-seen-what-is-missing`.

    JSON: `snapshot` as in `list`; `server`, `database`, `kept`, `ended` (connections), `swap_seconds`, `down_seconds`,
    `seconds` by phase, `notes`, `damaged` (reason by repository). With `--tables`: `snapshot`, `server`, `database`,
    `tables` (rows `before` and `after`, by table), `sequences` (set forward), `damaged`.
    """
    names = split_names(tables)
    if names and not replace_live_rows:
        raise typer.BadParameter("All rows of these tables would be replaced. Say so with --replace-live-rows.")
    if replace_live_rows and not names:
        raise typer.BadParameter("--replace-live-rows is for --tables A,B.")
    if not names and not confirmed:
        raise typer.BadParameter(
            "This replaces the live database. Say --i-know-this-replaces-the-live-database, or look first: "
            "`lifeboat restore --to-database NEW` touches nothing."
        )
    desk = open_desk(platform, env_file)
    vault = desk.vault(reading=True)
    snapshot, _ = choose(vault, wanted, complete=True, proven=proven, as_of=as_of, repository=repository)
    live = live_database(desk, snapshot.manifest.source, connection, database)
    how: dict[str, Any] = {
        "installed": installed_programs(),
        "now": datetime.now(UTC),
        "other_server": on_another_server,
        "repository": repository,
        "jobs": jobs,
        "all_or_nothing": all_or_nothing,
        "report": remark,
    }
    if names:
        _replace_rows(vault, snapshot, live, names, how, as_json=as_json)
        return
    remark(f"Restoring {snapshot.label} beside the live database {live.database!r} on {live.server}")
    totals = {artifact.name: artifact.plain_size for artifact in snapshot.manifest.artifacts}
    with showing_progress(totals) as progress:
        report = restore_in_place(
            vault,
            snapshot,
            live.server,
            live.database,
            application=application_of(desk.platform),
            smoke=smoke_of(desk.platform, live.source),
            progress=progress,
            **how,
        )
    if as_json:
        say_json({"snapshot": snapshot_record(snapshot)} | _record(live, report))
        raise typer.Exit(_code(report.restored))
    say(f"{snapshot.label} is now {live.database!r} on {live.server}.")
    _say_swap(report)
    raise typer.Exit(_code(report.restored))


def undo(
    name: KeptName,
    seen: Annotated[
        bool,
        typer.Option(
            "--i-have-seen-what-is-missing", help="Put one in place although its restore could not rebuild all objects."
        ),
    ] = False,
    source: SourceOption = None,
    connection: ConnectionOption = None,
    database: DatabaseOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a kept database back in the place of the live one, which then is kept too.

    One that is `ready`, restored and checked but never put in place, is put in place; one that is `partly` so, without
    objects that its restore has listed, only when you say that you have seen which. JSON: as `replace`.
    """
    desk = open_desk(platform, env_file)
    live = _live_of(desk, name, source, connection, database)
    report = undo_in_place(
        live.server,
        live.database,
        name,
        now=datetime.now(UTC),
        application=application_of(desk.platform),
        although_incomplete=seen,
        report=remark,
    )
    if as_json:
        say_json(_record(live, report))
        return
    say(f"{name!r} is now {live.database!r} on {live.server}.")
    _say_swap(report)


def kept(
    source: Annotated[str | None, typer.Argument(help="Only beside the database of this source.")] = None,
    connection: ConnectionOption = None,
    database: DatabaseOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the databases that replacements have left beside the live ones, newest first.

    JSON: `kept`, a list of `source`, `server`, `live`, `name`, `what` (`before`: it was live; `ready`: restored and
    checked; `partly`: the same without some objects; `beside`: a restore that was cut short, or still runs), `since`
    and `size`, which may be null.
    """
    desk = open_desk(platform, env_file)
    found = [
        (live, one)
        for live in _lives(desk, source, connection, database)
        for one in kept_databases(live.server, live.database)
    ]
    if as_json:
        records = [
            {"source": live.source, "server": str(live.server), "live": live.database, "name": one.name,
             "what": str(one.standing), "since": one.since.isoformat(), "size": one.size}
            for live, one in found
        ]  # fmt: skip
        say_json({"kept": records})
        return
    say_table(
        ["source", "name", "what", "since (UTC)", "size"],
        [
            [live.source, one.name, str(one.standing), f"{one.since:%Y-%m-%d %H:%M:%S}", _size(one.size)]
            for live, one in found
        ],
        right=["size"],
        nothing="Nothing is kept beside any of them.",
    )


def let_go(
    name: KeptName,
    drop_it: Annotated[str, typer.Option("--drop-it", metavar="NAME", help="The same name once more.")] = "",
    source: SourceOption = None,
    connection: ConnectionOption = None,
    database: DatabaseOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop a kept database. It is gone then, and `lifeboat undo` cannot bring it back. JSON: `server`, `dropped`."""
    live = _live_of(open_desk(platform, env_file), name, source, connection, database)
    for note in release(live.server, live.database, name, drop_it=drop_it):
        remark(f"Note: {note}")
    if as_json:
        say_json({"server": str(live.server), "dropped": name})
    else:
        say(f"{name!r} on {live.server} was dropped.")


def _lives(desk: Desk, source: str | None, connection: str | None, database: str | None) -> Iterator[LiveDatabase]:
    for name in [source] if source else desk.platform.names(Kind.POSTGRES):
        yield live_database(desk, name, connection, database)


def _live_of(desk: Desk, name: str, source: str | None, connection: str | None, database: str | None) -> LiveDatabase:
    """The live database that one of this name is kept beside."""
    lives = list(_lives(desk, source, connection, database))
    fitting = [live for live in lives if read_dated_name(live.database, name)]
    if not fitting:
        raise SettingsError(
            f"{name!r} is not the name of a database kept beside {' or '.join(repr(live.database) for live in lives)}.",
            hint="`lifeboat kept` lists those there are. No other is ever touched.",
        )
    if any((live.server, live.database) != (fitting[0].server, fitting[0].database) for live in fitting):
        names = ", ".join(live.source for live in fitting)
        raise SettingsError(f"{name!r} may belong to any of {names}.", hint="Say which with `--source`.")
    return fitting[0]


def _replace_rows(
    vault: Vault, snapshot: Snapshot, live: LiveDatabase, tables: tuple[str, ...], how: dict[str, Any], *, as_json: bool
) -> None:
    remark(f"Restoring {', '.join(tables)} of {snapshot.label} beside the live database {live.database!r}")
    with showing_progress() as progress:
        report = restore_rows_in_place(
            vault, snapshot, live.server, live.database, tables, replace_live_rows=True, progress=progress, **how
        )
    if as_json:
        rows = {table: {"before": before, "after": report.after[table]} for table, before in report.before.items()}
        say_json(
            {
                "snapshot": snapshot_record(snapshot),
                "server": str(live.server),
                "database": live.database,
                "tables": rows,
                "sequences": list(report.sequences),
                "damaged": dict(report.damaged),
            }
        )
        raise typer.Exit(_code(report))
    for table, before in report.before.items():
        say(f"{table} has the {count_text(report.after[table], 'row')} of {snapshot.label}, and had {before}.")
    for sequence in report.sequences:
        remark(f"Note: the sequence {sequence} was set forward.")
    raise typer.Exit(_code(report))


def _code(report: RestoreReport | ReplacedRows | None) -> int:
    return DEGRADED if report is not None and report.damaged else OK


def _record(live: LiveDatabase, report: InPlaceReport) -> dict[str, Any]:
    restored = report.restored
    return {
        "server": str(live.server),
        "database": live.database,
        "kept": report.swapped.kept,
        "ended": [str(visitor) for visitor in report.swapped.ended],
        "swap_seconds": report.swapped.seconds,
        "down_seconds": report.down_seconds,
        "seconds": dict(restored.seconds) if restored else {},
        "notes": [*report.remarks, *(restored.notes if restored else ())],
        "damaged": dict(restored.damaged) if restored else {},
    }


def _say_swap(report: InPlaceReport) -> None:
    for note in (*report.remarks, *(report.restored.notes if report.restored else ())):
        remark(f"Note: {note}")
    swapped = report.swapped
    say(
        f"The swap took {swapped.seconds:.2f} s and ended {count_text(len(swapped.ended), 'connection')}; "
        f"the application was down for {duration_text(report.down_seconds)}."
    )
    say(f"What was live is kept as {swapped.kept!r}.")
    name = shlex.quote(swapped.kept)
    remark(f"Next step: `lifeboat undo {name}` brings it back;")
    remark(f"           `lifeboat release {name} --drop-it {name}` lets it go, once nobody needs it.")


def _size(size: int | None) -> str:
    return "unknown" if size is None else size_text(size)
