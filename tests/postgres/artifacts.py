"""A sink that keeps artifacts in memory, and gives them back as a restore wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import DatabaseDump
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.restore import RestoreReport, restore_database


class Kept:
    """Artifacts by name; an `ArtifactSink`. `on_chunk` is called before each chunk is taken."""

    def __init__(self, on_chunk: Callable[[str], None] | None = None) -> None:
        self.artifacts: dict[str, bytes] = {}
        self.media_types: dict[str, str] = {}
        self._on_chunk = on_chunk or (lambda _: None)

    def __call__(self, name: str, chunks: Iterable[bytes], *, media_type: str) -> None:
        self.media_types[name] = media_type
        taken = bytearray()
        for chunk in chunks:
            self._on_chunk(name)
            taken += chunk
        self.artifacts[name] = bytes(taken)

    def open(self, name: str) -> Iterator[bytes]:
        data = self.artifacts[name]
        for position in range(0, len(data), 100_000):
            yield data[position : position + 100_000]

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(name for name in self.artifacts if name.startswith("rows-"))


def restore(
    kept: Kept,
    dump: DatabaseDump,
    server: PostgresServer,
    database: str,
    installed: tuple[Programs, ...],
    *,
    all_or_nothing: bool = False,
    jobs: int | None = None,
    with_globals: bool = True,
) -> RestoreReport:
    """Restore what was kept into a new database."""
    return restore_database(
        server,
        database,
        kept.open,
        evidence=dump.evidence,
        dump_major=dump.client_major,
        row_artifacts=[*kept.tables, "dump"],
        with_globals=with_globals,
        installed=installed,
        all_or_nothing=all_or_nothing,
        jobs=jobs,
    )
