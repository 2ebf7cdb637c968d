"""Whether a restored database holds what its source held, as the evidence tells it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

from lifeboat.errors import EvidenceMismatch
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.contents import Part
from lifeboat.postgres.evidence import (
    Evidence,
    TableEvidence,
    count_tables,
    describe_database,
    differences,
    read_sequences,
    tables_to_read,
)
from lifeboat.postgres.rebuilding import NotRebuilt, comparable
from lifeboat.postgres.selection import Selection


def expected(evidence: Evidence, part: Part | None, selection: Selection) -> Evidence:
    """What of the evidence must be found again."""
    if part is not None:
        evidence = replace(
            evidence,
            tables=tuple(t for t in evidence.tables if (t.schema, t.name) in part.tables),
            sequences=tuple(s for s in evidence.sequences if (s.schema, s.name) in part.sequences),
            extension_contents=(),
        )
    if selection.schema_only:
        tables = tuple(replace(table, rows=0, content=None) for table in evidence.tables)
        evidence = replace(evidence, tables=tables, sequences=(), large_objects=0, extension_contents=())
    return evidence


def look_into(server: PostgresServer, database: str, source: Evidence, *, jobs: int | None = None) -> Evidence:
    """What a database holds now, as exactly as the source's evidence tells it. Every row is read, by `jobs` at a time,
    as many as there are cores by default."""
    hashed, jobs = any(table.content is not None for table in source.tables), jobs or os.cpu_count() or 1
    with server.connect(database, read_only=True) as connection:
        tables = tables_to_read(connection)
        waiting = iter(tables)

        def count() -> tuple[TableEvidence, ...]:
            with server.connect(database, read_only=True) as counter:
                return count_tables(counter, waiting, content_hash=hashed)

        with ThreadPoolExecutor(jobs, thread_name_prefix="count") as pool:
            shares = [pool.submit(count) for _ in range(min(jobs, len(tables)))]
        counted = sorted(chain.from_iterable(share.result() for share in shares), key=lambda t: (t.schema, t.name))
        return describe_database(connection, tables=counted, sequences=read_sequences(connection))


def compare(
    server: PostgresServer,
    database: str,
    source: Evidence,
    *,
    partly: bool,
    jobs: int,
    missing: Sequence[NotRebuilt] = (),
) -> Evidence:
    """What a restored database holds; of the source's evidence, what is known to be missing is left out.

    Raises `EvidenceMismatch` when anything else differs. `partly` compares rows and sequences alone.
    """
    restored = look_into(server, database, source, jobs=jobs)
    if partly:
        chosen = {(table.schema, table.name) for table in source.tables}
        restored = replace(
            restored,
            tables=tuple(t for t in restored.tables if (t.schema, t.name) in chosen),
            objects=source.objects,
            extensions=source.extensions,
            large_objects=source.large_objects,
        )
    found = differences(*comparable(source, restored, missing))
    if found:
        raise EvidenceMismatch(
            f"The restored database {database!r} differs from the source: {' '.join(found[:20])}"
            + (f" And {len(found) - 20} more differences." if len(found) > 20 else ""),
            hint="Restore another snapshot or from another repository, and find out why this one is not whole.",
        )
    return restored
