"""A database and its snapshots: looking whether a backup can be made, making it, checking it, restoring it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TypedDict

from lifeboat.children import Children, feed, how_it_ended
from lifeboat.configuration import archive
from lifeboat.copies import Copies, damage_notes, passed_over, tell_of_damage
from lifeboat.errors import (
    IntegrityError,
    LifeboatError,
    SettingsError,
)
from lifeboat.outcome import BackupOutcome, lacking
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import (
    DUMP_MEDIA_TYPE,
    DatabaseDump,
    check_database,
    dump_database,
)
from lifeboat.postgres.evidence import Evidence
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.restore import RestoreReport, restore_database
from lifeboat.postgres.selection import Selection
from lifeboat.progress import Report
from lifeboat.readiness import look
from lifeboat.snapshot import Kind
from lifeboat.vault import Inspector, Progress, Snapshot, Vault

EVIDENCE_MEDIA_TYPE = "application/vnd.lifeboat.evidence+json"


@dataclass(frozen=True)
class DatabaseSource:
    """A database that is backed up under the name `name`."""

    name: str
    server: PostgresServer
    database: str
    content_hash: bool = False
    stream_size: int | None = None
    connections: int | None = None


def check_ready(
    vault: Vault, source: DatabaseSource, installed: Sequence[Programs], selection: Selection | None = None
) -> tuple[str, ...]:
    """Look for whatever would stop a backup, before it is begun. Returns remarks: what will make it degraded, what
    the dump will leave out, and what a restore may not be able to build.

    Raises `NotReady` with every obstacle at once: keys, client programs, the database and its privileges, room.
    """
    remarks: list[str] = []

    def check() -> None:
        remarks.extend(check_database(source.server, source.database, installed, selection or Selection()).remarks)

    return (*look(vault, source.name, (check,)), *remarks)


def back_up_database(
    vault: Vault,
    source: DatabaseSource,
    *,
    installed: Sequence[Programs],
    began: datetime,
    scheduled_for: datetime | None = None,
    selection: Selection | None = None,
    progress: Progress | None = None,
    children: Children | None = None,
    report: Report | None = None,
) -> BackupOutcome:
    """Dump a database once into every repository of the vault, with its evidence, and write the manifest last.

    A run that has already finished, by its `scheduled_for` and selection, is found again and not repeated. Succeeds
    when at least one repository has all. `report` hears for whom it waits. May be repeated. Raises `SourceError`,
    `RepositoryError`, `KeyringError`.
    """
    selection = selection or Selection()
    if scheduled_for is not None:
        made = vault.finished_run(source.name, scheduled_for, lambda m: m.facts.get("selection") == _shown(selection))
        if made is not None:
            return BackupOutcome(made, True, lacking(vault, made, {}))
    writer = vault.begin(source.name, Kind.POSTGRES, began=began, scheduled_for=scheduled_for, progress=progress)
    dump = dump_database(
        source.server,
        source.database,
        writer,
        installed=installed,
        selection=selection,
        content_hash=source.content_hash,
        stream_size=source.stream_size,
        connections=source.connections,
        children=children,
        report=report,
    )
    writer("evidence", [dump.evidence.to_json()], media_type=EVIDENCE_MEDIA_TYPE)
    snapshot = writer.commit(_facts(source, selection, dump))
    return BackupOutcome(snapshot, False, lacking(vault, snapshot, writer.failures))


class RestoreOptions(TypedDict, total=False):
    """How `restore_snapshot` is to go about it, as whatever restores by it hands on."""

    all_or_nothing: bool
    repository: str | None
    jobs: int | None
    progress: Progress | None
    children: Children | None
    report: Report | None


def restore_snapshot(
    vault: Vault,
    snapshot: Snapshot,
    server: PostgresServer,
    database: str,
    *,
    installed: Sequence[Programs],
    selection: Selection | None = None,
    repository: str | None = None,
    jobs: int | None = None,
    statistics: bool = True,
    all_or_nothing: bool = False,
    progress: Progress | None = None,
    children: Children | None = None,
    report: Report | None = None,
) -> RestoreReport:
    """Restore a complete snapshot of a database into the new `database` on `server`, and compare it with its evidence.

    From `repository` alone, or else from the first that has it, going on from the next when one fails. A copy that
    turns out damaged is told of, attested where a signing key is at hand, and the restore begun again without it. A
    `selection` restores only some of its tables with their partitions, indexes and what they need, or only definitions.
    Raises as `restore_database`, `SettingsError` for a snapshot that is not of a whole database, and `IntegrityError`
    kinds when no copy is whole.
    """
    manifest = snapshot.manifest
    if manifest.kind is not Kind.POSTGRES or manifest.facts.get("selection") != _shown(Selection()):
        raise SettingsError(
            f"{snapshot.label} is not a snapshot of a whole PostgreSQL database.",
            hint="`lifeboat list` shows the others; of a partial one, restore the dump by hand (docs/format.md).",
        )
    children = children or Children()
    dumps = [artifact for artifact in manifest.artifacts if artifact.media_type == DUMP_MEDIA_TYPE]

    def restore(read: Callable[[str], Iterator[bytes]]) -> RestoreReport:
        return restore_database(
            server,
            database,
            read if progress is None else lambda name: _heard(read(name), name, progress),
            evidence=Evidence.from_json(b"".join(read("evidence"))),
            dump_major=int(str(manifest.facts["client_version"]).split(".")[0]),
            row_artifacts=[artifact.name for artifact in sorted(dumps, key=lambda a: a.plain_size, reverse=True)],
            with_globals=any(a.name == "globals" for a in manifest.artifacts),
            installed=installed,
            selection=selection,
            jobs=jobs,
            statistics=statistics,
            all_or_nothing=all_or_nothing,
            children=Children(within=children),  # a damaged copy ends its restore's processes, not the next one's
            report=report,
        )

    if repository is not None:
        return restore(lambda name: vault.read(snapshot, name, repository=repository))

    def told(name: str, error: LifeboatError) -> None:
        children.refuse_killed()
        tell_of_damage(vault, snapshot, name, error, report)

    copies = Copies(vault, snapshot)
    restored = copies.first_whole(lambda _: restore(copies.read), told)
    if restored is None:
        raise copies.failure()
    return replace(
        restored,
        seconds=copies.seconds | restored.seconds,
        notes=restored.notes + damage_notes(copies.damaged) + passed_over(copies.unreadable),
        damaged=copies.damaged,
    )


def read_evidence(vault: Vault, snapshot: Snapshot, *, repository: str | None = None) -> Evidence:
    """What the source held when the snapshot was made, from `repository` or the first copy that is whole."""
    if repository is not None:
        return Evidence.from_json(b"".join(vault.read(snapshot, "evidence", repository=repository)))
    copies = Copies(vault, snapshot)
    evidence = copies.first_whole(lambda _: Evidence.from_json(b"".join(copies.read("evidence"))))
    if evidence is None:
        raise copies.failure()
    return evidence


def inspectors(installed: Sequence[Programs], children: Children | None = None) -> Mapping[str, Inspector]:
    """By media type, what reads an artifact's inside: `pg_restore` parses dumps, the others are parsed as such."""
    return {
        DUMP_MEDIA_TYPE: lambda chunks: _parse_dump(chunks, installed, children or Children()),
        EVIDENCE_MEDIA_TYPE: _parse_evidence,
        archive.MEDIA_TYPE: archive.inspect,
    }


def _parse_dump(chunks: Iterator[bytes], installed: Sequence[Programs], children: Children) -> None:
    if not installed:
        raise SettingsError("No pg_restore is installed to parse dumps with.", hint="Install postgresql-client.")

    def failure(status: int, said: str) -> LifeboatError:
        words = f"pg_restore cannot parse it, and {how_it_ended(status)}: {said}"
        return IntegrityError(words, hint="Use another snapshot.")

    # --list reads no further than the table of contents at the start.
    newest = max(installed)
    environment = PostgresServer("").child_environment()
    feed(children, [newest.path("pg_restore"), "--list"], chunks, env=environment, failure=failure)


def _parse_evidence(chunks: Iterator[bytes]) -> None:
    try:
        Evidence.from_json(b"".join(chunks))
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"It is no evidence: {error!r}.", hint="Use another snapshot.") from error


def _facts(source: DatabaseSource, selection: Selection, dump: DatabaseDump) -> Mapping[str, object]:
    evidence = dump.evidence
    return {
        "database": source.database,
        "selection": _shown(selection),
        "server_version": evidence.server_version,
        "client_version": dump.client_version,
        "database_size": evidence.size,
        "tables": len(evidence.tables),
        "rows": evidence.rows,
        "content_hashed": source.content_hash,
        "role_passwords": dump.role_passwords,
        **({"remarks": list(evidence.remarks)} if evidence.remarks else {}),
    }


def _shown(selection: Selection) -> Mapping[str, object]:
    record = asdict(selection)
    return record | {"tables": sorted(record["tables"])}


def _heard(chunks: Iterator[bytes], name: str, progress: Progress) -> Iterator[bytes]:
    count = 0
    for chunk in chunks:
        count += len(chunk)
        progress(name, count)
        yield chunk
