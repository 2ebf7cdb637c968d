"""`make bench`: Lifeboat beside the guide's scripts, PostgreSQL's own tools, pgBackRest and restic, on one database.

Every round runs every tool once, so that what else the machine does meets them all. Written to docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from bench.measure import Run, middle, run
from demo.receivables import load_receivables
from demo.storage import S3Server, seaweedfs
from lifeboat.connections import Connection
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.programs import Programs, find_programs
from lifeboat.progress import size_text
from lifeboat.provider_clients import s3_client

ROOT = Path(__file__).resolve().parents[1]
DATABASE = "receivables"
RESTORED = "restored"
BUCKET = "bench"
JOBS = os.cpu_count() or 1

RAW, GUIDE, SCRIPT, LOCAL, S3, PGBACKREST, RESTIC = (
    "`pg_dump -Fc -Z0` to nowhere",
    "the guide's command, `pg_dump \\| gzip`",
    "the guide's script as it stands: `pg_dump > file`, then `gzip file`",
    "**Lifeboat** to the local repository",
    "**Lifeboat** to S3",
    "pgBackRest, full, zstd, AES-256",
    "`pg_dump -Fc -Z0 \\| restic`",
)
R_RAW, R_ANALYSED, R_GUIDE, R_LOCAL, R_PLAIN, R_PROVEN, R_S3, R_PGBACKREST, R_RESTIC = (
    f"`pg_restore -j {JOBS}` from a raw local file",
    f"the same, then `vacuumdb --analyze-only -j {JOBS}`",
    "the guide's, `gunzip \\| psql`",
    "**Lifeboat** from the local repository",
    "the same, `--no-statistics`",
    "**Lifeboat** `prove`: until it is proven, scratch server and `pg_amcheck` included",
    "**Lifeboat** from S3",
    "pgBackRest, files only, not started",
    "`restic dump \\| pg_restore`",
)


@dataclass
class Bench:
    """The servers and folders of one benchmark, and its figures by row."""

    cluster: TemporaryCluster
    programs: Programs
    folder: Path
    s3: S3Server
    backups: dict[str, list[Run]] = field(default_factory=dict)
    restores: dict[str, list[Run]] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """How client programs reach the server, and which come first."""
        path = f"{self.programs.folder}:{os.environ['PATH']}"
        return self.cluster.server.application_environment() | {"PATH": path}

    def program(self, name: str) -> str:
        return quote(str(self.programs.path(name)))


def main() -> None:
    """Load the database, run the rounds, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--invoices", type=int, default=1_050_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with _bench() as bench:
        _say(f"Loading {chosen.invoices:,} invoices")
        load_receivables(bench.cluster.server, DATABASE, invoices=chosen.invoices)
        tools = [RawTools(bench), Lifeboat(bench, "local"), Lifeboat(bench, "s3"), *_others(bench)]
        for number in range(chosen.rounds):
            _say(f"Round {number + 1} of {chosen.rounds}")
            for tool in tools:
                tool.round()
        text = _report(bench, chosen.invoices, chosen.rounds)
    (ROOT / "docs" / "benchmark.md").write_text(text, "utf-8")
    print(text)


class RawTools:
    """PostgreSQL's own tools, and the guide's scripts made of them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.raw, self.plain = bench.folder / "raw.dump", bench.folder / "guide.sql.gz"

    def round(self) -> None:
        """Dump to nowhere, dump and restore as the guide does, restore a raw file in parallel."""
        bench = self.bench
        dump, psql, restore = (bench.program(name) for name in ("pg_dump", "psql", "pg_restore"))
        _timed(bench, bench.backups, RAW, f"{dump} -Fc -Z0 {DATABASE} > /dev/null")
        _timed(bench, bench.backups, GUIDE, f"{dump} {DATABASE} | gzip > {self.plain}")
        bench.stored[GUIDE] = self.plain.stat().st_size
        script = bench.folder / "script.sql"
        _timed(bench, bench.backups, SCRIPT, f"{dump} {DATABASE} > {script} && gzip --force {script}")
        bench.stored[SCRIPT] = Path(f"{script}.gz").stat().st_size
        if not self.raw.exists():
            run(f"{dump} -Fc -Z0 {DATABASE} > {self.raw}", env=bench.environment)
            bench.stored[RAW] = self.raw.stat().st_size
        with _empty_database(bench):
            _timed(bench, bench.restores, R_RAW, f"{restore} -j {JOBS} -d {RESTORED} {self.raw}")
        with _empty_database(bench):
            line = f"{restore} -j {JOBS} -d {RESTORED} {self.raw}"
            line += f" && {bench.program('vacuumdb')} --quiet --analyze-only -j {JOBS} -d {RESTORED}"
            _timed(bench, bench.restores, R_ANALYSED, line)
        with _empty_database(bench):
            line = f"gunzip -c {self.plain} | {psql} -q -v ON_ERROR_STOP=1 -d {RESTORED}"
            _timed(bench, bench.restores, R_GUIDE, line)


class Lifeboat:
    """This project's command line, evidence and comparison included."""

    def __init__(self, bench: Bench, repository: str) -> None:
        self.bench, self.folder = bench, bench.folder / f"lifeboat-{repository}"
        self.rows = (LOCAL, R_LOCAL) if repository == "local" else (S3, R_S3)
        self.folder.mkdir()
        server = bench.cluster.server
        database = {"conn_type": "postgres", "host": server.host, "port": server.port, "login": server.user}
        connections = {
            "PLATFORM_DB": database | {"password": server.password},
            "LIFEBOAT_KEYS": {"conn_type": "generic", "extra": {"keyring": str(self.folder / "keys")}},
            "LIFEBOAT_S3": bench.s3.connection,
        }
        self.environment = {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in connections.items()}
        self.environment |= {"LIFEBOAT_PLATFORM": str(self.folder / "platform.yaml")}
        self.environment |= {"LIFEBOAT_PG_BIN": str(bench.programs.folder)}
        place = (
            f"file://{self.folder}/repository"
            if repository == "local"
            else f"s3://{BUCKET}/x\n    connection: lifeboat_s3"
        )
        (self.folder / "platform.yaml").write_text(
            f"platform: bench\nrecipients: [operations, escrow]\n"
            f"repositories:\n  - name: {repository}\n    url: {place}\n"
            f"sources:\n  databases:\n    - name: receivables\n      connection: platform_db\n"
            f"      database: {DATABASE}\n",
            "utf-8",
        )
        run([*_LIFEBOAT, "init"], env=self.environment)

    def round(self) -> None:
        """Back up, then restore into a new database."""
        bench, (backup, restore) = self.bench, self.rows
        _timed(bench, bench.backups, backup, [*_LIFEBOAT, "backup", "receivables"], self.environment)
        listing = subprocess.run(
            [*_LIFEBOAT, "list", "--json"], env=os.environ | self.environment, capture_output=True, check=True
        )
        bench.stored[backup] = json.loads(listing.stdout)["snapshots"][-1]["sealed_size"]
        command = [*_LIFEBOAT, "restore", "receivables", "--to-database", RESTORED]
        _timed(bench, bench.restores, restore, command, self.environment)
        _drop(bench)
        if restore == R_LOCAL:
            _timed(bench, bench.restores, R_PLAIN, [*command, "--no-statistics"], self.environment)
            _drop(bench)
            _timed(bench, bench.restores, R_PROVEN, [*_LIFEBOAT, "prove", "receivables"], self.environment)


class Restic:
    """restic, with the dump on its standard input."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.repository = bench, bench.folder / "restic"
        settings = {"RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD": "bench"}
        self.environment = settings | {"RESTIC_CACHE_DIR": str(bench.folder / "restic-cache")}

    def round(self) -> None:
        """A repository of its own each round, since restic stores what it has seen before only once."""
        bench = self.bench
        shutil.rmtree(self.repository, ignore_errors=True)
        run("restic init", env=self.environment)
        dump, restore = bench.program("pg_dump"), bench.program("pg_restore")
        line = f"{dump} -Fc -Z0 {DATABASE} | restic backup --quiet --stdin --stdin-filename dump"
        _timed(bench, bench.backups, RESTIC, line, self.environment)
        bench.stored[RESTIC] = _size(self.repository)
        with _empty_database(bench):
            line = f"restic dump latest dump | {restore} -d {RESTORED}"
            _timed(bench, bench.restores, R_RESTIC, line, self.environment)


class PgBackRest:
    """pgBackRest, as the user the server runs as, with WAL archived while it copies."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.folder = bench, bench.folder / "pgbackrest"
        self.folder.mkdir()
        self.config = self.folder / "pgbackrest.conf"
        self.config.write_text(
            f"[global]\nrepo1-path={self.folder}/repository\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=bench\n"
            f"compress-type=zst\nprocess-max={JOBS}\nlog-path={self.folder}\nlock-path={self.folder}/lock\n"
            f"spool-path={self.folder}\nlog-level-file=off\nlog-level-stderr=info\nlog-level-console=off\nstart-fast=y\nrepo1-retention-full=1\n"
            f"[bench]\npg1-path={bench.cluster.data}\npg1-port={bench.cluster.server.port}\npg1-user=postgres\n"
        )
        for path in (self.folder, self.config):
            shutil.chown(path, _owner(bench))
        self._run("stanza-create")

    def round(self) -> None:
        """A full backup, and its files copied back."""
        bench = self.bench
        _archive_with(bench.cluster, " ".join([*self._command("archive-push"), "%p"]))
        runs = bench.backups.setdefault(PGBACKREST, [])
        runs.append(self._run("backup", "--type=full"))
        _archive_with(bench.cluster, "true")
        _say(f"  {PGBACKREST}: {runs[-1].wall:.1f} s")
        bench.stored[PGBACKREST] = _size(self.folder / "repository" / "backup")
        target = self.folder / "restored"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700)
        shutil.chown(target, _owner(bench))
        runs = bench.restores.setdefault(R_PGBACKREST, [])
        runs.append(self._run("restore", f"--pg1-path={target}"))
        _say(f"  {R_PGBACKREST}: {runs[-1].wall:.1f} s")

    def _run(self, *arguments: str) -> Run:
        prefix = [] if _owner(self.bench) == getpass.getuser() else ["runuser", "-u", _owner(self.bench), "--"]
        return run([*prefix, *self._command(*arguments)], env=self.bench.environment)

    def _command(self, *arguments: str) -> list[str]:
        return ["pgbackrest", f"--config={self.config}", "--stanza=bench", *arguments]


def _others(bench: Bench) -> Iterator[Restic | PgBackRest]:
    if shutil.which("pgbackrest"):
        yield PgBackRest(bench)
    if shutil.which("restic"):
        yield Restic(bench)


@contextmanager
def _bench() -> Iterator[Bench]:
    programs = _server_programs()
    settings = {"shared_buffers": "512MB", "maintenance_work_mem": "256MB", "max_wal_size": "8GB"}
    settings |= {"archive_mode": "on"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lifeboat-bench-", dir="/var/tmp")))
        folder.chmod(0o755)
        cluster = stack.enter_context(TemporaryCluster(programs, settings=settings))
        _archive_with(cluster, "true")
        s3 = stack.enter_context(seaweedfs(folder / "seaweedfs"))
        s3_client(Connection("bench", **s3.connection)).create_bucket(Bucket=BUCKET)
        yield Bench(cluster, programs, folder, s3)


def _archive_with(cluster: TemporaryCluster, command: str) -> None:
    """Archive WAL by this command; by `true`, which throws it away, while other tools are measured."""
    with cluster.server.visit("postgres") as admin:
        admin.execute(f"ALTER SYSTEM SET archive_command = '{command}'".encode())
        admin.execute("SELECT pg_reload_conf()")


def _server_programs() -> Programs:
    """PostgreSQL 17; where pgBackRest is installed, the newest version it knows."""
    able = [programs for programs in find_programs() if programs.has("initdb", "postgres", "pg_dump", "psql")]
    if shutil.which("pgbackrest"):
        version = subprocess.run(["pgbackrest", "version"], capture_output=True, text=True, check=True).stdout
        minor = int(re.findall(r"\d+", version)[1])
        known = next((major for major, since in ((18, 56), (17, 53), (16, 48), (15, 41)) if minor >= since), 14)
        able = [programs for programs in able if programs.major <= known] or able
        return max(able)
    return next(programs for programs in able if programs.major == 17)


def _timed(
    bench: Bench,
    runs: dict[str, list[Run]],
    row: str,
    command: str | list[str],
    environment: dict[str, str] | None = None,
) -> None:
    os.sync()  # what an earlier tool wrote shall not slow this one down
    done = run(command, env=bench.environment | (environment or {}))
    runs.setdefault(row, []).append(done)
    _say(f"  {row}: {done.wall:.1f} s")


@contextmanager
def _empty_database(bench: Bench) -> Iterator[None]:
    with bench.cluster.server.visit("postgres") as admin:
        admin.execute(f"CREATE DATABASE {RESTORED}".encode())
    yield
    _drop(bench)


def _drop(bench: Bench) -> None:
    with bench.cluster.server.visit("postgres") as admin:
        admin.execute(f"DROP DATABASE {RESTORED}".encode())
        admin.execute("CHECKPOINT")


def _report(bench: Bench, invoices: int, rounds: int) -> str:
    versions = [f"PostgreSQL {bench.programs.version}", f"Python {platform.python_version()}"]
    versions += [_version(["pgbackrest", "version"]), _version(["restic", "version"])]
    memory = int(re.findall(r"\d+", Path("/proc/meminfo").read_text())[0]) * 1024
    raw = middle(bench.backups[RAW]).wall, middle(bench.restores[R_RAW]).wall
    guide = middle(bench.backups[GUIDE]).wall, middle(bench.restores[R_GUIDE]).wall
    return f"""\
# Benchmark

What `make bench` measured on {datetime.now(UTC):%Y-%m-%d}: {invoices:,} invoices and all that belongs to them,
{size_text(bench.stored[RAW])} as `pg_dump -Fc -Z0` writes them; {JOBS} cores, {size_text(memory)} of memory;
{", ".join(v for v in versions if v)}. Medians of {rounds} rounds, in each of which every tool ran once, on the same
server; the highest peak memory of a tool's largest process. Server, client and stores share the machine.

## Backups

Lifeboat's include sealing, digests, the count of every table's rows, and a signed manifest.

{_table(bench.backups, ("the raw dump", raw[0]), ("the guide's command", guide[0]), bench.stored)}

## Restores

Lifeboat's include making the database and comparing every table with the evidence, and but for `--no-statistics` an
`ANALYZE`. pgBackRest copies the files of the whole server back, and neither starts it nor replays its WAL.

{_table(bench.restores, ("`pg_restore -j`", raw[1]), ("the guide's", guide[1]), {})}
"""


def _table(
    runs: dict[str, list[Run]], first: tuple[str, float], second: tuple[str, float], stored: dict[str, int]
) -> str:
    head = [
        "",
        "seconds",
        f"times {first[0]}",
        f"times {second[0]}",
        "processor s",
        "peak MiB",
        *(["stored"] if stored else []),
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row, all_runs in runs.items():
        found = middle(all_runs)
        cells = [row, f"{found.wall:.1f}", f"{found.wall / first[1]:.2f}", f"{found.wall / second[1]:.2f}"]
        cells += [f"{found.processor:.1f}", f"{found.peak_mib:.0f}"]
        lines.append([*cells, *([size_text(stored[row])] if stored else [])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _version(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return " ".join(said.split()[:2])


def _owner(bench: Bench) -> str:
    return pwd.getpwuid(bench.cluster.data.stat().st_uid).pw_name


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _say(text: str) -> None:
    print(text.replace("\\|", "|"), file=sys.stderr, flush=True)


_LIFEBOAT = [sys.executable, "-m", "lifeboat"]


if __name__ == "__main__":
    main()
