"""Statistics for the planner, gathered as soon as all rows are there, and completed at the end of a restore.

A restore without them is answered slowly at first; a single `ANALYZE` at the end of one leaves cores idle. PostgreSQL
manual, ANALYZE: a partitioned table's own statistics are nobody's but ours to gather, autovacuum does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import psycopg
from psycopg import sql

from lifeboat.children import Children
from lifeboat.postgres.connection import Connection, PostgresServer, identifier
from lifeboat.postgres.faults import words_of


@dataclass(frozen=True)
class _Table:
    """`shapes` is how many indexes over expressions and extended statistics are analysed with it."""

    oid: int
    schema: str
    name: str
    tree: bool
    shapes: int


@dataclass
class Analysis:
    """Gathers statistics of a database's tables, the longest work first, on `jobs` connections with these settings.

    It ends before the next table when the restore has ended.
    """

    server: PostgresServer
    database: str
    jobs: int
    settings: Mapping[str, str]
    children: Children

    def __post_init__(self) -> None:
        self._done: set[_Table] = set()
        self._failed: dict[str, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """The tables that cannot be analysed, as over an index whose function finds its tables no more."""
        return tuple(f"{name} has no statistics for the planner: {why}" for name, why in self._failed.items())

    def shares(self) -> Sequence[Callable[[], None]]:
        """The work there is now, to be run side by side: tables that were not analysed as they are now."""
        with self.server.connect(self.database) as connection:
            waiting = deque(table for table in _tables(connection) if table not in self._done)
        return [partial(self._work, waiting)] * min(self.jobs, len(waiting))

    def complete(self) -> None:
        """Analyse what is not analysed yet, or has got more to be analysed."""
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="analyse") as pool:
            for working in [pool.submit(share) for share in self.shares()]:
                working.result()

    def _work(self, waiting: deque[_Table]) -> None:
        with self.server.connect(self.database) as connection:
            for setting in self.settings.items():
                connection.execute("SELECT set_config(%s, %s, false)", setting)
            while not self.children.ended:
                try:
                    table = waiting.popleft()
                except IndexError:
                    return
                try:
                    _analyse(connection, table)
                except (psycopg.ProgrammingError, psycopg.DataError, psycopg.errors.RaiseException) as error:
                    self._failed[f"{table.schema}.{table.name}"] = words_of(error)
                self._done.add(table)


def _tables(connection: Connection) -> Sequence[_Table]:
    """Tables, trees of partitions and materialized views, trees and then the largest first."""
    whole_trees = connection.info.server_version < 180000
    return [_Table(*row) for row in connection.execute(_TABLES, {"whole_trees": whole_trees}).fetchall()]


def _analyse(connection: Connection, table: _Table) -> None:
    # Before version 18, a partitioned table is analysed together with all its partitions or not at all.
    only = sql.SQL("ONLY " if table.tree and connection.info.server_version >= 180000 else "")
    connection.execute(sql.SQL("ANALYZE {}{}").format(only, identifier(table.schema, table.name)))


# Expressions in indexes and extended statistics are analysed like columns. Nothing here waits for a table's lock, as
# functions that give sizes or trees of partitions do: rows inserted stand for size.
_TABLES = b"""
    WITH RECURSIVE shape AS (
        SELECT indrelid AS oid, indexrelid AS by FROM pg_index WHERE indexprs IS NOT NULL
        UNION SELECT stxrelid, oid FROM pg_statistic_ext
        UNION SELECT i.inhparent, s.by FROM pg_inherits i JOIN shape s ON s.oid = i.inhrelid),
    shapes AS (SELECT oid, count(*) AS number FROM shape GROUP BY oid)
    SELECT c.oid::bigint, n.nspname, c.relname, c.relkind = 'p', coalesce(s.number, 0)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN shapes s ON s.oid = c.oid
     WHERE c.relkind IN ('r', 'p', 'm') AND c.relispopulated AND c.relpersistence <> 't'
       AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
       AND NOT (%(whole_trees)s AND c.relispartition)
     ORDER BY c.relkind <> 'p', pg_stat_get_tuples_inserted(c.oid) DESC
"""
