"""Statistics for the planner, gathered beside the building of indexes, and completed after it.

A restore without them is answered slowly at first; `ANALYZE` at the end of one leaves cores idle. PostgreSQL manual,
ANALYZE: a partitioned table's own statistics are nobody's but ours to gather, autovacuum does not.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from psycopg import errors, sql

from lifeboat.postgres.connection import Connection, PostgresServer

PATIENCE = "300ms"
"""How long to wait for a table that is being changed: less than the second after which PostgreSQL looks for deadlocks,
so that it is always us who step back and never `pg_restore` that fails."""


@dataclass(frozen=True)
class _Table:
    oid: int
    schema: str
    name: str
    tree: bool
    shaped_by_indexes: bool


class Analysis:
    """Gathers statistics of a database's tables, the longest work first, each table once."""

    def __init__(self, server: PostgresServer, database: str, jobs: int) -> None:
        self._server = server
        self._database = database
        self._jobs = jobs
        self._done: set[int] = set()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Analyse on one connection while the block builds indexes; what is in use just then is left for `complete`."""
        over = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="analyse") as pool:
            working = pool.submit(self._beside, over)
            try:
                yield
            finally:
                over.set()
            working.result()

    def complete(self) -> None:
        """Analyse what is not analysed yet, or got more to be analysed with its indexes, on several connections."""
        with self._server.connect(self._database) as connection:
            tables = _tables(connection)
        waiting = deque(table for table in tables if table.shaped_by_indexes or table.oid not in self._done)

        def work() -> None:
            with self._server.connect(self._database) as connection, suppress(IndexError):
                while True:
                    _analyse(connection, waiting.popleft())

        with ThreadPoolExecutor(self._jobs, thread_name_prefix="analyse") as pool:
            for worker in [pool.submit(work) for _ in range(min(self._jobs, len(waiting)))]:
                worker.result()

    def _beside(self, over: threading.Event) -> None:
        with self._server.connect(self._database) as connection:
            connection.execute(f"SET lock_timeout = '{PATIENCE}'".encode())
            waiting = deque(_tables(connection))
            while waiting and not over.is_set():
                table = waiting.popleft()
                try:
                    _analyse(connection, table)
                    self._done.add(table.oid)
                except errors.LockNotAvailable:
                    waiting.append(table)


def _tables(connection: Connection) -> Sequence[_Table]:
    """Tables, trees of partitions and materialized views, trees and then the largest first."""
    whole_trees = connection.info.server_version < 180000
    return [_Table(*row) for row in connection.execute(_TABLES, {"whole_trees": whole_trees}).fetchall()]


def _analyse(connection: Connection, table: _Table) -> None:
    # Before version 18, a partitioned table is analysed together with all its partitions or not at all.
    only = sql.SQL("ONLY " if table.tree and connection.info.server_version >= 180000 else "")
    connection.execute(sql.SQL("ANALYZE {}{}").format(only, sql.Identifier(table.schema, table.name)))


# Expressions in indexes and extended statistics, which come with the indexes, are analysed like columns. Nothing here
# waits for a table's lock, as functions that give sizes or trees of partitions do: rows inserted stand for size.
_TABLES = b"""
    WITH RECURSIVE shaped AS (
        SELECT indrelid AS oid FROM pg_index WHERE indexprs IS NOT NULL
        UNION SELECT stxrelid FROM pg_statistic_ext
        UNION SELECT i.inhparent FROM pg_inherits i JOIN shaped s ON s.oid = i.inhrelid)
    SELECT c.oid::bigint, n.nspname, c.relname, c.relkind = 'p', c.relkind = 'm' OR c.oid IN (SELECT oid FROM shaped)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't'
       AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
       AND NOT (%(whole_trees)s AND c.relispartition)
     ORDER BY c.relkind <> 'p', pg_stat_get_tuples_inserted(c.oid) DESC
"""
