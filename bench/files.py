"""`make bench`, second half: trees of files, beside restic, rclone and rsync. Written to docs/benchmark-files.md.

Every round syncs a tree into new repositories, syncs it again unchanged, and restores it, with every tool in turn.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from shlex import quote

from bench.measure import Run, middle, run
from demo.storage import S3Server, seaweedfs
from lifeboat.connections import Connection
from lifeboat.progress import size_text
from lifeboat.provider_clients import s3_client

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "bench"
STEPS = ("first sync", "unchanged", "restore")
LIFEBOAT = "**Lifeboat**"


@dataclass
class Bench:
    """A folder for everything, an S3 store, and the figures by tree, tool and step."""

    folder: Path
    s3: S3Server
    runs: dict[tuple[str, str, str], list[Run]] = field(default_factory=dict)
    objects: dict[tuple[str, str], int] = field(default_factory=dict)
    number: int = 0

    def new(self, name: str) -> Path:
        """A folder's path not used before."""
        self.number += 1
        return self.folder / f"{name}-{self.number}"

    def timed(self, tree: str, tool: str, step: str, command: str | list[str], env: dict[str, str]) -> None:
        """Run one step and keep its figures."""
        os.sync()  # what an earlier tool wrote shall not slow this one down
        done = run(command, env=env)
        self.runs.setdefault((tree, tool, step), []).append(done)
        print(f"  {tree}, {tool}, {step}: {done.wall:.2f} s", file=sys.stderr, flush=True)


def main() -> None:
    """Make the trees, run the rounds, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=200_000)
    chosen = parser.parse_args()
    compileall.compile_dir(ROOT / "include", quiet=2)  # as after the first command of an installation
    with _bench() as bench:
        trees = {
            "20,000 small files": _small_files(bench.folder / "small", 20_000),
            "4 large files": _large_files(bench.folder / "large", 4),
        }
        for number in range(chosen.rounds):
            print(f"Round {number + 1} of {chosen.rounds}", file=sys.stderr)
            for name, tree in trees.items():
                for measure in (
                    partial(_lifeboat, place="local"),
                    partial(_restic, place="local"),
                    _rsync,
                    partial(_lifeboat, place="S3"),
                    partial(_restic, place="S3"),
                    _rclone,
                ):
                    _read(tree)
                    measure(bench, name, tree)
        many = f"{chosen.many:,} tiny files"
        _lifeboat(bench, many, _small_files(bench.folder / "many", chosen.many, least=20, most=200), "local")
        text = _report(bench, [*trees, many], chosen.rounds)
    (ROOT / "docs" / "benchmark-files.md").write_text(text, "utf-8")
    print(text)


def _read(tree: Path) -> None:
    """Have the machine hold a tree in memory, so that the tool that comes first does not read it for the others."""
    for path in tree.rglob("*"):
        if path.is_file():
            path.read_bytes()


def _lifeboat(bench: Bench, name: str, tree: Path, place: str) -> None:
    folder, tool = bench.new("lifeboat"), f"{LIFEBOAT}, {place}"
    folder.mkdir()
    url = f"file://{folder}/repository"
    if place == "S3":
        url = f"s3://{BUCKET}/{folder.name}\n    connection: lifeboat_s3"
    (folder / "platform.yaml").write_text(
        f"platform: bench\nrecipients: [operations, escrow]\nstate: {folder}/state\n"
        f"repositories:\n  - name: kept\n    url: {url}\nsources:\n  files:\n    - name: tree\n      path: {tree}\n",
        "utf-8",
    )
    keys = {"conn_type": "generic", "extra": {"keyring": str(folder / "keys")}}
    env = {"AIRFLOW_CONN_LIFEBOAT_KEYS": json.dumps(keys), "AIRFLOW_CONN_LIFEBOAT_S3": json.dumps(bench.s3.connection)}
    env |= {"LIFEBOAT_PLATFORM": str(folder / "platform.yaml"), "PYTHONDONTWRITEBYTECODE": ""}
    lifeboat = [sys.executable, "-m", "lifeboat"]
    run([*lifeboat, "init"], env=env)
    bench.timed(name, tool, STEPS[0], [*lifeboat, "backup", "tree"], env)
    bench.timed(name, tool, STEPS[1], [*lifeboat, "backup", "tree"], env)
    bench.timed(name, tool, STEPS[2], [*lifeboat, "files", "restore", "tree", "--to", str(folder / "restored")], env)
    client = s3_client(Connection("bench", **bench.s3.connection))
    bench.objects[name, tool] = (
        sum(1 for path in (folder / "repository").rglob("packs/**/*") if path.is_file())
        if place == "local"
        else client.list_objects_v2(Bucket=BUCKET, Prefix=f"{folder.name}/packs/")["KeyCount"]
    )
    shutil.rmtree(folder)


def _restic(bench: Bench, name: str, tree: Path, place: str) -> None:
    if not shutil.which("restic"):
        return
    folder, tool = bench.new("restic"), f"restic, {place}"
    repository = str(folder / "repository") if place == "local" else f"s3:{bench.s3.endpoint}/{BUCKET}/{folder.name}"
    env = {"RESTIC_REPOSITORY": repository, "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(folder / "cache")}
    env |= {"AWS_ACCESS_KEY_ID": bench.s3.access_key, "AWS_SECRET_ACCESS_KEY": bench.s3.secret_key}
    run("restic init", env=env)
    bench.timed(name, tool, STEPS[0], f"restic backup --quiet {quote(str(tree))}", env)
    bench.timed(name, tool, STEPS[1], f"restic backup --quiet {quote(str(tree))}", env)
    bench.timed(name, tool, STEPS[2], f"restic restore --quiet latest --target {quote(str(folder / 'restored'))}", env)
    shutil.rmtree(folder)


def _rsync(bench: Bench, name: str, tree: Path) -> None:
    if not shutil.which("rsync"):
        return
    folder = bench.new("rsync")
    line = f"rsync -a {quote(str(tree))}/ {quote(str(folder / 'kept'))}/"
    folder.mkdir()
    for step in STEPS[:2]:
        bench.timed(name, "`rsync -a`, local, not sealed", step, line, {})
    back = f"rsync -a {quote(str(folder / 'kept'))}/ {quote(str(folder / 'restored'))}/"
    bench.timed(name, "`rsync -a`, local, not sealed", STEPS[2], back, {})
    shutil.rmtree(folder)


def _rclone(bench: Bench, name: str, tree: Path) -> None:
    if not shutil.which("rclone"):
        return
    folder = bench.new("rclone")
    folder.mkdir()
    env = {"RCLONE_CONFIG": str(folder / "none"), "RCLONE_CONFIG_S_TYPE": "s3", "RCLONE_CONFIG_S_PROVIDER": "Other"}
    env |= {"RCLONE_CONFIG_S_ACCESS_KEY_ID": bench.s3.access_key, "RCLONE_CONFIG_S_ENDPOINT": bench.s3.endpoint}
    env |= {"RCLONE_CONFIG_S_SECRET_ACCESS_KEY": bench.s3.secret_key}
    sync = "env -u AWS_CA_BUNDLE rclone sync --transfers 16"  # with a bundle of its own, rclone 1.60 does not start
    there, tool = f"s:{BUCKET}/{folder.name}", "`rclone sync`, S3, not sealed"
    for step in STEPS[:2]:
        bench.timed(name, tool, step, f"{sync} {quote(str(tree))} {there}", env)
    bench.timed(name, tool, STEPS[2], f"{sync} {there} {quote(str(folder / 'restored'))}", env)
    shutil.rmtree(folder)


@contextmanager
def _bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lifeboat-bench-", dir="/var/tmp")))
        s3 = stack.enter_context(seaweedfs(folder / "seaweedfs"))
        s3_client(Connection("bench", **s3.connection)).create_bucket(Bucket=BUCKET)
        yield Bench(folder, s3)


def _small_files(root: Path, count: int, *, least: int = 500, most: int = 14_000) -> Path:
    """Files as people upload them: text and what does not compress, half and half."""
    chance = random.Random(count)
    words = [chance.randbytes(3).hex() for _ in range(500)]
    for number in range(count):
        folder = root / f"{number // 500:04}"
        if number % 500 == 0:
            folder.mkdir(parents=True)
        size = chance.randrange(least, most)
        text = " ".join(chance.choices(words, k=size // 7 + 1)).encode()[:size]
        (folder / f"{number:06}.bin").write_bytes(text if number % 2 else chance.randbytes(size))
    return root


def _large_files(root: Path, count: int) -> Path:
    root.mkdir()
    for number in range(count):
        with (root / f"scan-{number}.tiff").open("wb") as file:
            chance = random.Random(number)
            for _ in range(128):
                file.write(chance.randbytes(1024 * 1024))
    return root


def _report(bench: Bench, names: list[str], rounds: int) -> str:
    parts = []
    for name in names:
        tools = list(dict.fromkeys(tool for tree, tool, _ in bench.runs if tree == name))
        head = ["", *(f"{step}, s" for step in STEPS), "processor s of the first", "peak MiB", "packs"]
        lines = [head, ["---", *["---:"] * (len(head) - 1)]]
        for tool in tools:
            done = [middle(bench.runs[name, tool, step]) for step in STEPS]
            packs = bench.objects.get((name, tool))
            peak = max(one.peak_mib for one in done)
            figures = [*(f"{one.wall:.2f}" for one in done), f"{done[0].processor:.1f}", f"{peak:.0f}"]
            lines.append([tool, *figures, "" if packs is None else str(packs)])
        parts.append(f"## {name}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    memory = size_text(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return (
        f"""\
# Benchmark of trees of files

What `make bench` measured on {datetime.now(UTC):%Y-%m-%d}: whole commands, from their start to their end, medians of
{rounds} rounds, each with new repositories ({os.cpu_count()} cores, {memory} of memory; the largest tree once). Clients
and stores share the machine; before each tool's turn the tree is read into memory.
Lifeboat and restic seal what they keep and can tell one day from another; rclone and rsync keep a plain copy.

"""
        + "\n\n".join(parts)
        + "\n"
    )


if __name__ == "__main__":
    main()
