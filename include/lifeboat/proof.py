"""Proving a snapshot: it is really restored into a scratch server, compared with its evidence, and asked questions.

What was found out is attested. The scratch server, or the scratch database on a server that is given, goes again,
unless it is asked to stay for a while.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import sql

from lifeboat.attestation import Verdict, attest, require_signing_key
from lifeboat.backup import read_evidence, restore_snapshot
from lifeboat.children import Children, run
from lifeboat.choosing import partial
from lifeboat.copies import Copies, attest_damage, passed_over
from lifeboat.discretion import discreet, without_rows
from lifeboat.errors import (
    ClientMissing,
    LifeboatError,
    NotProven,
    NotReady,
    RestoreFailed,
    SettingsError,
    SourceError,
    SourceUnavailable,
)
from lifeboat.postgres.cluster import BASE, TemporaryCluster, remove_leftovers
from lifeboat.postgres.connection import PostgresServer, identifier
from lifeboat.postgres.evidence import Evidence
from lifeboat.postgres.kept_server import KeptServer
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.rebuilding import listed
from lifeboat.postgres.restore import RestoreReport
from lifeboat.progress import PhaseClock, Report, count_text, size_text
from lifeboat.smoke import CheckResult, SmokeChecks, run_checks
from lifeboat.snapshot import Kind
from lifeboat.vault import Progress, Snapshot, Vault

AMCHECK = "pages and indexes (pg_amcheck)"
"""What the check of every page and index is called among the others."""

AMCHECK_SECONDS = 6 * 3600.0
"""How long it may take."""

WAL_ROOM = 4 * 1024**3
"""Bytes of write-ahead log that a scratch server keeps at most beside its data."""

KEEP_HOURS = 72
"""How long a scratch server may be kept at most: it holds the source's rows in the clear."""


@dataclass(frozen=True)
class Proof:
    """What restoring a snapshot showed.

    `repository` is the one it was restored from, None when none has a whole copy; `damaged` says why others were not.
    `seconds` are by phase, `total` is from the first byte to the last check: the recovery time that was achieved.
    `left_out` is what the source of a database held and no dump holds; the notes have it too.
    `reason` says why it is not proven; `kept` is the scratch server, where it stays for a while. Of what is no
    database, `held` says in words what was restored, and `counts` are numbers of it.
    """

    snapshot: Snapshot
    repository: str | None
    began: datetime
    seconds: Mapping[str, float] = field(default_factory=dict)
    total: float = 0.0
    server_version: str = ""
    tables: int = 0
    rows: int = 0
    checks: tuple[CheckResult, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    kept: KeptServer | None = None
    held: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def restored(self) -> str:
        """What was restored, in words."""
        what = ("database", "key") if self.snapshot.manifest.kind is Kind.REDIS else ("table", "row")
        return self.held or f"{count_text(self.tables, what[0])} with {count_text(self.rows, what[1])}"

    @property
    def proven(self) -> bool:
        """Whether it held what its evidence says, and every check passed."""
        return not self.reason

    def raise_failure(self) -> None:
        """Raise `NotProven` with the reason, if there is one."""
        if self.reason:
            raise NotProven(
                f"{self.snapshot.label} is not proven: {self.reason}",
                hint="Prove another snapshot with `lifeboat prove`, and find out what is wrong with this one.",
            )

    def record(self) -> dict[str, Any]:
        """All of it as JSON values, without what errors and checks quote of rows."""
        facts = self.snapshot.manifest.facts
        return dict(self.counts) | {
            "snapshot": self.snapshot.label,
            "proven": self.proven,
            "reason": without_rows(self.reason),
            "repository": self.repository,
            "began": self.began.isoformat(),
            "seconds": dict(self.seconds),
            "seconds_in_all": self.total,
            "tables": self.tables,
            "rows": self.rows,
            "plain_size": self.snapshot.manifest.plain_size,
            "sealed_size": self.snapshot.manifest.sealed_size,
            "database_size": facts.get("database_size"),
            "source_version": facts.get("server_version"),
            "server_version": self.server_version,
            "checks": [{"name": c.name, "passed": c.passed, "seconds": c.seconds} for c in self.checks],
            "notes": [without_rows(note) for note in self.notes],
            "damaged": {name: without_rows(reason) for name, reason in self.damaged.items()},
            "kept": self.kept.record() if self.kept else None,
        }


def _incomplete(proof: Proof, restored: RestoreReport) -> Proof:
    """The same, failed when objects could not be rebuilt: whoever restores it in a disaster lacks them too."""
    if not restored.not_rebuilt:
        return proof
    return replace(proof, reason=f"{listed(restored.not_rebuilt)}\n{proof.reason}".strip())


def prove_snapshot(
    vault: Vault,
    snapshot: Snapshot,
    *,
    installed: Sequence[Programs],
    checks: SmokeChecks | None = None,
    server: PostgresServer | None = None,
    repository: str | None = None,
    jobs: int | None = None,
    statistics: bool = False,
    keep: bool = False,
    keep_for: timedelta | None = None,
    base: Path | None = None,
    children: Children | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> Proof:
    """Restore a snapshot, compare it with its evidence, check its pages and indexes, run the smoke checks, and attest.

    From `repository`, or from the first that has a whole copy; a damaged copy is attested as such. Into a scratch
    server whose data is put below `base`, which goes on for as long as `keep_for` afterwards, or into `server`, where
    `keep` leaves the database. What is found wrong with the snapshot is in the proof. What merely prevents proving it
    is raised, and nothing attested: `KeyringError`, `SettingsError`, `ClientMissing`, `NotReady`, `SourceError`,
    `TargetUnavailable`, `RepositoryError`. May be repeated.
    """
    require_signing_key(vault)
    _refuse_misuse(snapshot, server, keep, keep_for)
    children = children or Children()
    clock, started = PhaseClock(report), time.monotonic()
    trial = _Trial(
        vault, snapshot, tuple(installed), checks or SmokeChecks(), server, jobs or os.cpu_count() or 1, statistics,
        keep, keep_for, base or BASE, children, progress, clock, datetime.now(UTC), started,
    )  # fmt: skip
    return prove_copies(vault, snapshot, trial.of_copy_in, repository, clock, trial.began, started, children)


def prove_copies(
    vault: Vault,
    snapshot: Snapshot,
    of_copy_in: Callable[[str], Proof],
    repository: str | None,
    clock: PhaseClock,
    began: datetime,
    started: float,
    children: Children,
) -> Proof:
    """Prove the first whole copy of a snapshot of any kind, and attest what was found of it and of those before.

    `of_copy_in` proves the copy of one repository, and raises `IntegrityError` or `RepositoryError` when it is not
    whole. `started` is of `time.monotonic`.
    """

    def attest_damaged(name: str, error: LifeboatError) -> None:
        children.refuse_killed()
        clock.seconds.update(copies.seconds)
        attest_damage(vault, snapshot, name, error)

    copies = Copies(vault, snapshot, repository)
    proof = copies.first_whole(of_copy_in, attest_damaged)
    children.refuse_killed()
    if proof is None and copies.unreadable:
        raise copies.failure()
    if proof is None:
        whole = "; ".join(f"{name}: {reason}" for name, reason in copies.damaged.items())
        proof = Proof(snapshot, None, began, clock.seconds, reason=f"No repository has a whole copy: {whole}")
    total = proof.total or round(time.monotonic() - started, 3)
    notes = proof.notes + passed_over(copies.unreadable)
    proof = replace(proof, total=total, damaged=copies.damaged, notes=notes)
    if proof.repository is not None:
        verdict = Verdict.PROVEN if proof.proven else Verdict.FAILED
        attest(vault, snapshot, verdict, repository=proof.repository, details=proof.record())
    return proof


@dataclass(frozen=True)
class _Trial:
    vault: Vault
    snapshot: Snapshot
    installed: tuple[Programs, ...]
    checks: SmokeChecks
    server: PostgresServer | None
    jobs: int
    statistics: bool
    keep: bool
    keep_for: timedelta | None
    base: Path
    children: Children
    progress: Progress | None
    clock: PhaseClock
    began: datetime
    started: float

    def of_copy_in(self, repository: str) -> Proof:
        """Restore one repository's copy. Raises `IntegrityError` or `RepositoryError` when it is not whole."""
        evidence = read_evidence(self.vault, self.snapshot, repository=repository)
        proof = Proof(self.snapshot, repository, self.began, self.clock.seconds)
        with self._target(evidence) as (target, scratch):
            proof = replace(proof, server_version=_version(target))
            database = f"lifeboat_proof_{secrets.token_hex(6)}"
            try:
                restored = self._restore(target, database, repository)
            except RestoreFailed as error:
                self._require_alive(target)
                if error.transient:
                    raise
                nothing = ("No scratch server was kept: what cannot be restored is removed.",) if self.keep_for else ()
                return replace(proof, reason=error.message, notes=nothing)
            try:
                proof = replace(
                    proof,
                    tables=len(restored.evidence.tables),
                    rows=restored.evidence.rows,
                    notes=self._notes(restored, target, database),
                    left_out=restored.left_out,
                )
                proof = _incomplete(self._checked(proof, target, database), restored)
                self._require_alive(target)
                return self._kept(proof, scratch, database)
            finally:
                if self.server is not None and not self.keep:
                    _drop(self.server, database)

    def _restore(self, target: PostgresServer, database: str, repository: str) -> RestoreReport:
        restored = restore_snapshot(
            self.vault,
            self.snapshot,
            target,
            database,
            installed=self.installed,
            repository=repository,
            jobs=self.jobs,
            statistics=self.statistics,
            progress=self.progress,
            children=Children(within=self.children),  # a damaged copy ends its restore's processes, not the next one's
            report=self.clock.report,
        )
        self.clock.seconds.update(restored.seconds)
        return restored

    def _checked(self, proof: Proof, target: PostgresServer, database: str) -> Proof:
        with self.clock.phase("pages and indexes"):
            checked, note = self._amcheck(target, database)
        with self.clock.phase("smoke checks"):
            checked += run_checks(target, database, self.checks, children=self.children)
        failed = [f"{c.name}: expected {c.expected}, found {c.found}" for c in checked if not c.passed]
        reason = f"{len(failed)} of {len(checked)} checks failed. {'; '.join(failed)}" if failed else ""
        total = round(time.monotonic() - self.started, 3)
        return replace(proof, total=total, checks=checked, notes=proof.notes + note, reason=reason)

    def _require_alive(self, target: PostgresServer) -> None:
        """Raise `SourceUnavailable` when the server has ended: that says nothing of the snapshot."""
        try:
            with target.administer():
                return
        except SourceError as error:
            what = "scratch server" if self.server is None else f"server {target}"
            raise SourceUnavailable(
                f"The {what} ended before the restore test of {self.snapshot.label} did: {error.message}",
                hint="Nothing was attested. If its host ran out of memory, its kernel's log says so. Start it again.",
            ) from error

    def _kept(self, proof: Proof, scratch: TemporaryCluster | None, database: str) -> Proof:
        """Let the scratch server go on, if that was asked for. That it cannot says nothing of the snapshot."""
        if scratch is None or self.keep_for is None or self.children.killed:
            return proof
        try:
            kept = scratch.keep(datetime.now(UTC) + self.keep_for, database=database, snapshot=self.snapshot.label)
        except (LifeboatError, OSError) as error:
            return replace(proof, notes=(*proof.notes, f"The scratch server could not be kept: {error}"))
        self.clock.report(f"scratch server: {kept.name} stays")
        return replace(proof, notes=(*proof.notes, str(kept)), kept=kept)

    def _amcheck(self, target: PostgresServer, database: str) -> tuple[tuple[CheckResult, ...], tuple[str, ...]]:
        """Read every page of every table and index, where the programs and the server can; else a note why not."""
        try:
            with target.connect(database) as connection:
                major = connection.info.server_version // 10000
                able = [programs for programs in self.installed if programs.has("pg_amcheck")]
                if not able:
                    return (), ("Pages and indexes were not checked: no pg_amcheck is installed.",)
                there = "SELECT FROM pg_available_extensions WHERE name = 'amcheck'"
                if connection.execute(there).fetchone() is None:
                    return (), ("Pages and indexes were not checked: the server has no extension amcheck.",)
                connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA pg_catalog")
        except SourceError as error:
            return (), (f"Pages and indexes were not checked: {error.message}",)
        began = time.monotonic()
        status, said = run(
            self.children,
            [
                min(able, key=lambda programs: abs(programs.major - major)).path("pg_amcheck"),
                "--no-password",
                f"--jobs={self.jobs}",
                target.database_argument(database),
            ],
            env=target.child_environment(statement_timeout="0"),
            seconds=AMCHECK_SECONDS,
        )
        ended = f"status {status}" if status is not None else f"no end within {AMCHECK_SECONDS:g} s"
        found = "nothing wrong" if status == 0 else f"{ended}: {' '.join(discreet(said).split())[:1000]}"
        seconds = round(time.monotonic() - began, 3)
        return (CheckResult(AMCHECK, status == 0, seconds, "nothing wrong", found),), ()

    def _notes(self, restored: RestoreReport, target: PostgresServer, database: str) -> tuple[str, ...]:
        notes = restored.notes
        if self.server is None:  # a new server has no roles
            notes = tuple(note for note in notes if not note.startswith("The role "))
        return (*notes, f"The database {database!r} was kept on {target}.") if self.keep else notes

    @contextmanager
    def _target(self, evidence: Evidence) -> Iterator[tuple[PostgresServer, TemporaryCluster | None]]:
        """The server that was given, or a scratch one; in either case one that has what the source needs."""
        if self.server is not None:
            _check_fits(self.server, evidence)
            yield self.server, None
            return
        with ExitStack() as stack:
            with self.clock.phase("scratch server"):
                scratch = self._start(stack, evidence)
            yield scratch.server, scratch

    def _start(self, stack: ExitStack, evidence: Evidence) -> TemporaryCluster:
        """A scratch server of the source's own version, or the next newer that has all its extensions."""
        able = [p for p in self.installed if p.major >= evidence.server_major and p.has("initdb", "postgres")]
        if not able:
            raise ClientMissing(
                f"No server programs of PostgreSQL {evidence.server_major} or newer are installed to prove "
                f"{self.snapshot.label} with.",
                hint=f"Install postgresql-{evidence.server_major}, or name a server to prove it on.",
            )
        _check_room(self.base, evidence.size)
        refusals = []
        for programs in sorted(able):
            # As durable as a real one, so that the time it takes is what a real recovery takes.
            durable = TemporaryCluster(programs, settings={"fsync": "on"}, base=self.base)
            cluster = stack.enter_context(durable)
            try:
                _check_fits(cluster.server, evidence)
            except NotReady as refusal:
                refusals.append(refusal)
                stack.close()
            else:
                return cluster
        raise refusals[0]


def _refuse_misuse(snapshot: Snapshot, server: PostgresServer | None, keep: bool, keep_for: timedelta | None) -> None:
    if keep and server is None:
        raise SettingsError(
            "A scratch server ends with its restore test, so its database cannot be kept.",
            hint="Keep the whole server for some hours with `--keep-hours`, or name a server to prove the snapshot on.",
        )
    if keep_for is not None and server is not None:
        raise SettingsError(
            f"Only a scratch server can be kept for some hours, and {server} is none.",
            hint="There, `--keep` leaves the database.",
        )
    if keep_for is not None and not timedelta(0) < keep_for <= timedelta(hours=KEEP_HOURS):
        raise SettingsError(
            f"A scratch server cannot be kept for {keep_for.total_seconds() / 3600:g} hours.",
            hint=f"It holds rows in the clear: at most {KEEP_HOURS} hours.",
        )
    if snapshot.manifest.kind is not Kind.POSTGRES or partial(snapshot):
        raise SettingsError(
            f"{snapshot.label} is not a snapshot of a whole PostgreSQL database, and only these are proven.",
            hint="`lifeboat list` shows the others.",
        )


def _check_fits(server: PostgresServer, evidence: Evidence) -> None:
    """Raise `NotReady` when a server is too old for a database, or has not got its extensions."""
    with server.administer() as connection:
        major = connection.info.server_version // 10000
        there = {name for (name,) in connection.execute("SELECT name FROM pg_available_extensions")}
        icu = connection.execute("SELECT FROM pg_collation WHERE collprovider = 'i'").fetchone() is not None
    if major < evidence.server_major:
        raise NotReady(
            f"The snapshot is of PostgreSQL {evidence.server_major}, and {server} is {major}: older.",
            hint="Prove it on a server of the same version or a newer one.",
        )
    missing = [f"the extension {name}" for name in sorted(set(evidence.extensions) - there)]
    missing += ["ICU locales"] if evidence.database.locale_provider == "i" and not icu else []
    if missing:
        raise NotReady(
            f"PostgreSQL {major} on {server} lacks {', '.join(missing)}, which the source has.",
            hint=f"Install what it lacks for PostgreSQL {major}, or name a server that has it to prove it on.",
        )


def _check_room(base: Path, size: int) -> None:
    remove_leftovers(base)
    needed = size + min(size, WAL_ROOM)
    free = shutil.disk_usage(base).free if base.is_dir() else needed
    if free < needed:
        raise NotReady(
            f"{base} has room for {size_text(free)}, and the restored database needs about {size_text(needed)}.",
            hint="Name another folder for the scratch server's data, or a server to prove the snapshot on.",
        )


def _version(server: PostgresServer) -> str:
    with server.administer() as connection:
        return str(connection.info.parameter_status("server_version"))


def _drop(server: PostgresServer, database: str) -> None:
    with server.administer() as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier(database)))
