"""What every command works with: the platform, its connections, and the options that choose them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifeboat.assembly import database_source, open_vault, postgres_server
from lifeboat.choosing import about_dates, choose_snapshot
from lifeboat.cli.output import remark
from lifeboat.connections import Lookup, connections_in, require_connection
from lifeboat.env_file import read_env_file
from lifeboat.errors import SettingsError
from lifeboat.moment import read_moment
from lifeboat.postgres.programs import Programs, extra_folders, find_programs
from lifeboat.redis_source.programs import RedisProgram, find_redis
from lifeboat.settings import Platform, load_platform, platform_path
from lifeboat.snapshot import SnapshotId, Tier
from lifeboat.vault import Listing, Snapshot, Vault

if TYPE_CHECKING:
    from lifeboat.postgres.connection import PostgresServer

PlatformOption = Annotated[
    Path | None,
    typer.Option("--platform", metavar="FILE", help="Another platform.yaml; LIFEBOAT_PLATFORM does the same."),
]
EnvFileOption = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        metavar="FILE",
        help="A file of AIRFLOW_CONN_… variables; without it, `.env` in this folder where there is one. "
        "The environment itself comes first.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Wanted = Annotated[
    str,
    typer.Argument(
        metavar="SNAPSHOT|SOURCE", help="A snapshot's id, its source/tier/id, or a source for its newest snapshot."
    ),
]

ProvenOption = Annotated[bool, typer.Option("--proven", help="Only a snapshot whose last restore test has proven it.")]
AsOfOption = Annotated[
    datetime | None,
    typer.Option(
        "--as-of",
        metavar="TIME",
        parser=lambda text: moment(text),
        help="Only a snapshot that began then or earlier, such as 2026-11-23T02:00; UTC where no offset is given.",
    ),
]

ConnectionOption = Annotated[
    str | None,
    typer.Option("--connection", metavar="ID", help="The connection of the server; without it, the source's own."),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", metavar="NAME", help="The live database's name where it is not the source's own."),
]
OnAnotherServerOption = Annotated[
    bool,
    typer.Option("--on-another-server", help="The live database is meant though it is not the one of the snapshot."),
]


@dataclass(frozen=True)
class Desk:
    """The platform, and where its connections are found."""

    platform: Platform
    lookup: Lookup

    def vault(self, *, reading: bool = False) -> Vault:
        """The platform's vault; with `reading`, without the repositories that cannot be used now."""
        return open_vault(self.platform, self.lookup, reading=reading)

    def required(self, repositories: Iterable[str]) -> list[str]:
        """Those of these repositories that must have every snapshot."""
        return [r.name for r in self.platform.repositories if r.required and r.name in set(repositories)]


@dataclass(frozen=True)
class LiveDatabase:
    """The live database of a source, or another that is meant in its place."""

    source: str
    server: PostgresServer
    database: str


def open_desk(platform: Path | None, env_file: Path | None) -> Desk:
    """The desk for the options given. Raises `SettingsError`."""
    return Desk(load_platform(platform or platform_path(os.environ)), connections_in(_variables(env_file)))


def installed_programs() -> tuple[Programs, ...]:
    """PostgreSQL's client programs on this host; LIFEBOAT_PG_BIN names folders to look into first."""
    return find_programs(extra_folders(os.environ.get("LIFEBOAT_PG_BIN")))


def installed_redis() -> tuple[RedisProgram, ...]:
    """Redis's and Valkey's server programs on this host; LIFEBOAT_REDIS_BIN names folders to look into first."""
    return find_redis(extra_folders(os.environ.get("LIFEBOAT_REDIS_BIN")))


def choose(
    vault: Vault,
    wanted: str,
    *,
    complete: bool = False,
    proven: bool = False,
    as_of: datetime | None = None,
    repository: str | None = None,
) -> tuple[Snapshot, Listing]:
    """The snapshot that is meant by `source`, `snapshot id` or `source/tier/id`, and the listing it was found in.

    A source means its newest snapshot that fits the rest. Raises as `choose_snapshot`.
    """
    source, tier, snapshot_id = _parse(wanted)
    listing = vault.list(source, tier)
    snapshot = choose_snapshot(
        vault,
        source,
        snapshot_id=snapshot_id,
        tier=tier,
        before=as_of,
        proven=proven,
        repository=repository,
        complete=complete,
        listing=listing,
    )
    for text in about_dates(snapshot, listing) if snapshot_id is None or snapshot.misdated else ():
        remark(f"Warning: {text}")
    return snapshot, listing


def live_database(desk: Desk, source: str, connection: str | None, database: str | None) -> LiveDatabase:
    """The live database of a source; on another server, or of another name, where that is asked for."""
    if connection is not None:
        other = require_connection(desk.lookup, connection, "--connection")
        name = database or other.schema
        if not name:
            raise SettingsError(f"The connection {connection!r} names no database.", hint="Name it with `--database`.")
        return LiveDatabase(source, postgres_server(other), name)
    settings = database_source(desk.platform, source, desk.lookup)
    return LiveDatabase(source, settings.server, database or settings.database)


def _parse(wanted: str) -> tuple[str | None, Tier | None, SnapshotId | None]:
    parts = wanted.split("/")
    if len(parts) == 3 and parts[1] in list(Tier):
        return parts[0], Tier(parts[1]), SnapshotId.parse(parts[2])
    if re.match(r"\d{8}T", wanted):
        return None, None, SnapshotId.parse(wanted)
    return wanted, None, None


def moment(text: str) -> datetime:
    """A moment as people write it on the command line; UTC where no offset is given."""
    try:
        return read_moment(text, "The time")
    except SettingsError as error:
        raise typer.BadParameter(f"{error.message} {error.hint}") from None


def _variables(env_file: Path | None) -> Mapping[str, str]:
    if env_file is None:
        env_file = Path(".env")
        if not env_file.is_file():
            return os.environ
    return {**read_env_file(env_file), **os.environ}
