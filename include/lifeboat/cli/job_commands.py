"""`preflight`, `backup` and `restore`: the work itself.

What does it is imported where it is used: whoever backs up a tree need not wait for PostgreSQL's and Redis's modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifeboat.anomaly import judge_snapshot
from lifeboat.assembly import (
    configuration_source,
    database_source,
    databases_named_twice,
    postgres_server,
    redis_source,
    tree_source,
)
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
from lifeboat.cli.incomplete import AllOrNothingOption, outcome_code, say_not_rebuilt
from lifeboat.cli.output import remark, say, say_json, showing_progress
from lifeboat.cli.records import snapshot_record
from lifeboat.connections import require_connection
from lifeboat.errors import LifeboatError, NotReady, SettingsError
from lifeboat.manifest import Manifest
from lifeboat.outcome import BackupOutcome
from lifeboat.postgres.selection import Selection
from lifeboat.progress import count_text, duration_text, size_text
from lifeboat.readiness import look_at_clocks, not_ready
from lifeboat.snapshot import Kind
from lifeboat.vault import Progress, Snapshot, Vault

if TYPE_CHECKING:
    from lifeboat.postgres.connection import PostgresServer


def preflight(platform: PlatformOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False) -> None:
    """Look for all that would stop tonight's backups: keys, repositories, room, client programs, privileges.

    JSON: `ready`, `obstacles` and `remarks`, two lists of texts.
    """
    desk = open_desk(platform, env_file)
    obstacles: list[LifeboatError] = []
    remarks: list[str] = [*desk.platform.remarks(), *databases_named_twice(desk.platform, desk.lookup)]
    vault = None
    try:
        vault = desk.vault()
    except LifeboatError as error:
        obstacles.append(error)
    for name in desk.platform.names():
        try:
            remarks += _LOOKS[desk.platform.kind(name)](desk, vault, name)
        except LifeboatError as error:
            obstacles.append(error)
    remarks = list(dict.fromkeys(remarks))
    if as_json:
        say_json({"ready": not obstacles, "obstacles": [str(error) for error in obstacles], "remarks": remarks})
    for text in () if as_json else remarks:
        remark(f"Warning: {text}")
    if obstacles:
        raise _not_ready(obstacles)
    if not as_json:
        say(f"Ready: {', '.join(desk.platform.names())} can be backed up.")
    raise typer.Exit(DEGRADED if vault and vault.absent else OK)


def backup(
    source: Annotated[str, typer.Argument(help="The source's name in platform.yaml.")],
    tables: Annotated[
        str, typer.Option("--tables", metavar="A,B", help="Only these tables, as `name` or `schema.name`.")
    ] = "",
    schema_only: Annotated[bool, typer.Option("--schema-only", help="Only definitions, no rows.")] = False,
    files_are_gone: Annotated[
        bool,
        typer.Option(
            "--i-know-these-files-are-gone", help="Back up a tree although most of its files have vanished, or all."
        ),
    ] = False,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up a source now, into every repository at once.

    JSON: `snapshot` as in `list`; `lacking`, the reason by repository that does not have it; `suspect`,
    how it differs from those before it.
    """
    desk = open_desk(platform, env_file)
    selection, kind = Selection(split_names(tables), schema_only), desk.platform.kind(source)
    if kind is not Kind.POSTGRES and not selection.complete:
        raise SettingsError(
            f"{source} is no database, and has no tables.", hint="Leave out --tables and --schema-only."
        )
    if files_are_gone and kind is not Kind.FILES:
        raise SettingsError(f"{source} is no tree of files.", hint="Leave out --i-know-these-files-are-gone.")
    act = partial(_back_up_tree, files_are_gone=True) if files_are_gone else _BACKUPS[kind]
    vault = desk.vault()
    _check_clocks(vault, source)
    with showing_progress() as progress:
        outcome = act(desk, vault, source, selection, progress)
    suspect: tuple[str, ...] = ()
    try:
        suspect = judge_snapshot(vault, outcome.snapshot)
    except LifeboatError as error:
        remark(f"Warning: it could not be compared with those before it: {error.message}")
    if as_json:
        record = {"snapshot": snapshot_record(outcome.snapshot), "lacking": dict(outcome.lacking)}
        say_json(record | {"suspect": list(suspect)})
    else:
        _say_outcome(outcome)
    if suspect:
        remark(f"Warning: it is suspect: {'; '.join(suspect)}. If all is well with its source, `lifeboat accept` it.")
    partial_tree = outcome.snapshot.manifest.facts.get("partial")
    raise typer.Exit(DEGRADED if partial_tree or desk.required(outcome.lacking) else OK)


def restore(
    wanted: Wanted,
    to_database: Annotated[
        str,
        typer.Option("--to-database", metavar="NAME", help="The database to make; there must be none of that name."),
    ] = "",
    into_schema: Annotated[
        str,
        typer.Option(
            "--into-schema",
            metavar="NAME",
            help="Instead, the schema to make in the live database for `--tables`; there must be none of that name.",
        ),
    ] = "",
    connection: ConnectionOption = None,
    database: DatabaseOption = None,
    on_another_server: OnAnotherServerOption = False,
    tables: Annotated[
        str, typer.Option("--tables", metavar="A,B", help="Only these tables, as `name` or `schema.name`.")
    ] = "",
    schema_only: Annotated[bool, typer.Option("--schema-only", help="Only definitions, no rows.")] = False,
    proven: ProvenOption = False,
    as_of: AsOfOption = None,
    repository: Annotated[
        str | None, typer.Option("--repository", metavar="NAME", help="Only what this repository has, read from there.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Streams and indexes at a time; without it, one a core.")
    ] = None,
    all_or_nothing: AllOrNothingOption = False,
    statistics: Annotated[
        bool, typer.Option(help="Gather statistics for the planner; otherwise autovacuum does, in its time.")
    ] = True,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a snapshot into a new database, or some tables into a new schema, and compare with what the source held.

    Nothing that exists is touched. Objects that cannot be rebuilt are listed, everything else is kept, and the exit
    code is 7; when anything else fails or differs, what is new is removed again. Chosen tables come with their
    partitions, indexes, and whatever they need; `lifeboat replace` puts into place.

    With `--into-schema`, rows, columns, sequences, indexes, constraints and foreign keys among them come along;
    triggers, rules, policies, owners and grants do not.

    Without `--repository`, a copy that is damaged is told of, and the next repository's is restored.

    JSON: `snapshot` as in `list`; `server`, `database`, `tables`, `rows`, `notes`, `not_rebuilt` (`kind`, `name`,
    `statement`, `answer`), `damaged` (reason by repository), and `seconds` by phase. With `--into-schema`: `snapshot`,
    `server`, `database`, `schema`, `tables` (rows by table), `notes`, `not_rebuilt`, `damaged`.
    """
    from lifeboat.backup import restore_snapshot

    _refuse_unclear(to_database, into_schema, tables, database, on_another_server, schema_only)
    desk = open_desk(platform, env_file)
    vault = desk.vault(reading=True)
    snapshot, _ = choose(vault, wanted, complete=True, proven=proven, as_of=as_of, repository=repository)
    if into_schema:
        live = live_database(desk, snapshot.manifest.source, connection, database)
        how = {
            "other_server": on_another_server,
            "repository": repository,
            "jobs": jobs,
            "all_or_nothing": all_or_nothing,
        }
        _restore_into_schema(vault, snapshot, live, into_schema, split_names(tables), how, as_json=as_json)
        return
    server, selection = _target(desk, snapshot, connection), Selection(split_names(tables), schema_only)
    totals = {artifact.name: artifact.plain_size for artifact in snapshot.manifest.artifacts}
    remark(f"Restoring {snapshot.label} into the new database {to_database!r} on {server}")
    with showing_progress(totals) as progress:
        report = restore_snapshot(
            vault,
            snapshot,
            server,
            to_database,
            installed=installed_programs(),
            selection=selection,
            repository=repository,
            jobs=jobs,
            statistics=statistics,
            all_or_nothing=all_or_nothing,
            progress=progress,
            report=remark,
        )
    table_count, rows = len(report.evidence.tables), report.evidence.rows
    if as_json:
        say_json(
            {
                "snapshot": snapshot_record(snapshot),
                "server": str(server),
                "database": report.database,
                "tables": table_count,
                "rows": rows,
                "notes": list(report.notes),
                "not_rebuilt": [one.record() for one in report.not_rebuilt],
                "damaged": dict(report.damaged),
                "seconds": report.seconds,
            }
        )
        raise typer.Exit(outcome_code(report))
    for note in report.notes:
        remark(f"Note: {note}")
    took = duration_text(sum(report.seconds.values()))
    held = f"{count_text(table_count, 'table')} with {count_text(rows, 'row')}"
    if report.not_rebuilt:
        say(f"{snapshot.label} is restored INCOMPLETELY as {report.database!r} on {server}, in {took}.")
        say_not_rebuilt(report.not_rebuilt)
        say(f"{held} are there; all but what is listed was compared with what the source held.")
    else:
        say(f"{snapshot.label} is restored as {report.database!r} on {server}, in {took}.")
        others = ", sequences and all other objects" if selection.complete else ""
        but = ", but for what no dump holds (see the notes)" if report.left_out else ""
        say(f"{held}{others} are as the source had them{but}.")
    raise typer.Exit(outcome_code(report))


def _refuse_unclear(
    to_database: str, into_schema: str, tables: str, database: str | None, on_another_server: bool, schema_only: bool
) -> None:
    if bool(to_database) == bool(into_schema):
        raise typer.BadParameter("Say where to: --to-database NEW, or --into-schema NEW with --tables A,B.")
    if into_schema and (schema_only or not split_names(tables)):
        raise typer.BadParameter("--into-schema takes some tables with their rows. Name them with --tables A,B.")
    if to_database and (database or on_another_server):
        raise typer.BadParameter("--database and --on-another-server are about the database of --into-schema.")


def _restore_into_schema(
    vault: Vault,
    snapshot: Snapshot,
    live: LiveDatabase,
    schema: str,
    tables: tuple[str, ...],
    how: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from lifeboat.into_schema import restore_into_schema

    remark(f"Restoring {', '.join(tables)} of {snapshot.label} into the new schema {schema!r} of {live.database!r}")
    with showing_progress() as progress:
        made = restore_into_schema(
            vault,
            snapshot,
            live.server,
            live.database,
            schema,
            tables,
            installed=installed_programs(),
            now=datetime.now(UTC),
            progress=progress,
            report=remark,
            **how,
        )
    if as_json:
        record = {"server": str(live.server), "database": made.database, "schema": made.schema}
        notes = {"tables": dict(made.rows), "notes": list(made.notes), "damaged": dict(made.damaged)}
        missing = {"not_rebuilt": [one.record() for one in made.not_rebuilt]}
        say_json({"snapshot": snapshot_record(snapshot)} | record | notes | missing)
        raise typer.Exit(outcome_code(made))
    for note in made.notes:
        remark(f"Note: {note}")
    for table, rows in made.rows.items():
        say(f"{table} has the {count_text(rows, 'row')} of {snapshot.label}.")
    if made.not_rebuilt:
        say_not_rebuilt(made.not_rebuilt)
    raise typer.Exit(outcome_code(made))


def split_names(text: str) -> tuple[str, ...]:
    """Names written as `a,b`, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _back_up_database(
    desk: Desk, vault: Vault, name: str, selection: Selection, progress: Progress | None
) -> BackupOutcome:
    from lifeboat.backup import back_up_database

    return back_up_database(
        vault,
        database_source(desk.platform, name, desk.lookup),
        installed=installed_programs(),
        began=datetime.now(UTC),
        selection=selection,
        progress=progress,
        report=remark,
    )


def _look_at_database(desk: Desk, vault: Vault | None, name: str) -> Sequence[str]:
    """What will make a backup degraded. Raises what will stop it; without a vault, what lies with the database."""
    from lifeboat.backup import check_ready
    from lifeboat.postgres.dump import check_database

    source = database_source(desk.platform, name, desk.lookup)
    if vault is not None:
        return check_ready(vault, source, installed_programs())
    check_database(source.server, source.database, installed_programs())
    return ()


def _back_up_tree(
    desk: Desk,
    vault: Vault,
    name: str,
    _selection: Selection,
    progress: Progress | None,
    *,
    files_are_gone: bool = False,
) -> BackupOutcome:
    from lifeboat.files.sync import back_up_tree

    return back_up_tree(
        vault,
        tree_source(desk.platform, name, desk.lookup),
        began=datetime.now(UTC),
        allow_vanished=files_are_gone,
        progress=progress,
        report=lambda text: remark(f"Warning: {text}"),
    )


def _look_at_tree(desk: Desk, vault: Vault | None, name: str) -> Sequence[str]:
    from lifeboat.files.ready import check_tree, check_tree_ready

    source = tree_source(desk.platform, name, desk.lookup)
    if vault is not None:
        return check_tree_ready(vault, source)
    check_tree(source)
    return ()


def _archive_configuration(
    desk: Desk, vault: Vault, name: str, _: Selection, progress: Progress | None
) -> BackupOutcome:
    from lifeboat.configuration.archiving import archive_configuration

    source = configuration_source(desk.platform, name, desk.lookup)
    archived = archive_configuration(vault, source, began=datetime.now(UTC), progress=progress)
    for text in archived.listed.remarks:
        remark(f"Warning: {text}")
    return BackupOutcome(archived.snapshot, not archived.changed, archived.lacking)


def _look_at_configuration(desk: Desk, vault: Vault | None, name: str) -> Sequence[str]:
    from lifeboat.configuration.archiving import check_configuration
    from lifeboat.configuration.files import list_files

    source = configuration_source(desk.platform, name, desk.lookup)
    return list_files(source).remarks if vault is None else check_configuration(vault, source)


def _back_up_redis(desk: Desk, vault: Vault, name: str, _: Selection, progress: Progress | None) -> BackupOutcome:
    from lifeboat.redis_source.backup import back_up_redis

    source = redis_source(desk.platform, name, desk.lookup)
    return back_up_redis(vault, source, began=datetime.now(UTC), progress=progress)


def _look_at_redis(desk: Desk, vault: Vault | None, name: str) -> Sequence[str]:
    from lifeboat.redis_source.backup import check_redis_ready, look_at_server

    source = redis_source(desk.platform, name, desk.lookup)
    return look_at_server(source) if vault is None else check_redis_ready(vault, source)


def _check_clocks(vault: Vault, source: str) -> None:
    """Tell how far this host's clock is from the stores'. Raises `NotReady` where it must be wrong."""
    told, refused = look_at_clocks(vault, datetime.now(UTC))
    for text in told:
        remark(f"Warning: {text}")
    if refused:
        raise not_ready(source, refused)


def _not_ready(obstacles: Sequence[LifeboatError]) -> NotReady:
    lines = "".join(f"\n- {error}" for error in obstacles).replace("\n", "\n  ")
    error = NotReady(f"These obstacles stop the next backup:{lines}", hint="Remove them and look again.")
    error.transient = all(obstacle.transient for obstacle in obstacles)
    return error


def _say_outcome(outcome: BackupOutcome) -> None:
    manifest = outcome.snapshot.manifest
    took = duration_text((manifest.finished - manifest.began).total_seconds())
    where = ", ".join(outcome.snapshot.repositories)
    if outcome.reused:
        say(f"Nothing has changed since {outcome.snapshot.label}, in {where}.")
    else:
        say(f"{outcome.snapshot.label} is in {where}.")
    say(f"{_HELD[manifest.kind](manifest)}, in {took}.")
    if manifest.facts.get("partial"):
        remark("Warning: it is partial; `lifeboat show` says how many files could not be read as they are.")
    for name, reason in outcome.lacking.items():
        remark(f"Warning: {name} does not have it: {reason} `lifeboat replicate` copies it there.")


def _target(desk: Desk, snapshot: Snapshot, conn_id: str | None) -> PostgresServer:
    if conn_id is not None:
        return postgres_server(require_connection(desk.lookup, conn_id, "--connection"))
    try:
        return database_source(desk.platform, snapshot.manifest.source, desk.lookup).server
    except SettingsError as error:
        raise SettingsError(
            f"Where to restore {snapshot.label} is not known: {error.message}",
            hint="Name the server's connection with `--connection`.",
        ) from error


def _held_in_database(manifest: Manifest) -> str:
    facts = manifest.facts
    held = f"{count_text(facts['tables'], 'table')} with {count_text(facts['rows'], 'row')}"
    return f"{held}: {size_text(manifest.plain_size)} dumped, {size_text(manifest.sealed_size)} stored"


def _held_in_tree(manifest: Manifest) -> str:
    facts = manifest.facts
    read = f"{count_text(facts['read_files'], 'file')} read, {size_text(facts['stored_size'])} stored"
    return f"{count_text(facts['files'], 'file')} of {size_text(facts['size'])}: {read}"


def _held_in_configuration(manifest: Manifest) -> str:
    size, stored = size_text(manifest.plain_size), size_text(manifest.sealed_size)
    return f"{count_text(manifest.facts['files'], 'file')}: {size} dumped, {stored} stored"


def _held_in_redis(manifest: Manifest) -> str:
    facts = manifest.facts
    held = f"{count_text(facts['databases'], 'database')} with {count_text(facts['keys'] or 0, 'key')}"
    return f"{held}: {size_text(manifest.plain_size)} dumped, {size_text(manifest.sealed_size)} stored"


_HELD: Mapping[Kind, Callable[[Manifest], str]] = {
    Kind.POSTGRES: _held_in_database,
    Kind.FILES: _held_in_tree,
    Kind.CONFIG: _held_in_configuration,
    Kind.REDIS: _held_in_redis,
}
"""What a finished snapshot holds, for people."""

_BACKUPS: Mapping[Kind, Callable[[Desk, Vault, str, Selection, Progress | None], BackupOutcome]] = {
    Kind.POSTGRES: _back_up_database,
    Kind.FILES: _back_up_tree,
    Kind.CONFIG: _archive_configuration,
    Kind.REDIS: _back_up_redis,
}

_LOOKS: Mapping[Kind, Callable[[Desk, Vault | None, str], Sequence[str]]] = {
    Kind.POSTGRES: _look_at_database,
    Kind.FILES: _look_at_tree,
    Kind.CONFIG: _look_at_configuration,
    Kind.REDIS: _look_at_redis,
}
