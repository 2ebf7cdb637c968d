"""What a person should know of a database before it is dumped: what its dump leaves out, what a restore may not be able
to build, and whether the server's table of locks is large enough. Only the catalogue is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from lifeboat.errors import SourceRefused
from lifeboat.postgres.connection import Connection

SURELY_TOO_MANY = 2.0
"""A table of locks takes more than it is made for, from shared memory nothing else uses; never this many times as many
(10 % and some 100 kB, PostgreSQL's lock.c and ipci.c)."""

SPARE_LOCKS = 500
"""What fits into that memory besides, however small the table is."""


def unlogged_tables(connection: Connection) -> tuple[tuple[str, str], ...]:
    """Tables of which a standby has no rows (PostgreSQL manual, CREATE TABLE, UNLOGGED); none elsewhere."""
    rows = connection.execute(
        b"""
        SELECT n.nspname, c.relname
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery()
           AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
         ORDER BY 1, 2
        """
    )
    return tuple((schema, name) for schema, name in rows)


def unlogged_note(label: str) -> str:
    """That rows are missing, in a remark of a backup and a note of a restore."""
    return f"The unlogged table {label} is without rows: the source is a standby, which holds none of them."


def lock_remarks(connection: Connection) -> tuple[str, ...]:
    """A remark when a dump may need more locks than the server has room for; `pg_dump` holds one for each table and
    sequence until its end. Raises `SourceRefused` when it surely does."""
    needed, per_transaction, room = connection.execute(_LOCKS).fetchone() or (0, 64, 6400)
    enough = -(-needed * per_transaction // max(room, 1))
    said = (
        f"The dump needs {needed} locks, one for each table and sequence; the server has room for about {room} "
        f"(max_locks_per_transaction = {per_transaction})."
    )
    if needed > room * SURELY_TOO_MANY + SPARE_LOCKS:
        raise SourceRefused(
            said, hint=f"Set max_locks_per_transaction to {enough * 5 // 4} or more, and start the server anew."
        )
    if needed <= room * 0.8:
        return ()
    return (f"{said} With less than {enough * 5 // 4} it may run out of shared memory, if others hold many.",)


# MaxBackends in PostgreSQL's postinit.c: all that may have locks. A setting that a version has not got is null.
_LOCKS = b"""
    SELECT (SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
               AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'),
           s.each, s.each * (s.others + coalesce(pg_catalog.current_setting('autovacuum_worker_slots', true),
                                                 pg_catalog.current_setting('autovacuum_max_workers'))::int)
      FROM (SELECT pg_catalog.current_setting('max_locks_per_transaction')::int AS each,
                   1 + pg_catalog.current_setting('max_connections')::int
                     + pg_catalog.current_setting('max_prepared_transactions')::int
                     + pg_catalog.current_setting('max_worker_processes')::int
                     + pg_catalog.current_setting('max_wal_senders')::int AS others) s
"""


def build_remarks(connection: Connection) -> tuple[str, ...]:
    """What a restore may not be able to build as it stands: indexes, checks, generated columns and materialized views
    over functions in whose text other functions or tables are named without a schema.

    A restore runs without a search path, as `pg_restore` does. Only names that exist in a schema of the database's own,
    and not among PostgreSQL's, are told of.
    """
    functions = connection.execute(_FUNCTIONS).fetchall()
    if not functions:
        return ()
    callables = {name for (name,) in connection.execute(_OWN_FUNCTIONS)}
    relations = {name for (name,) in connection.execute(_OWN_RELATIONS)}
    remarks = []
    for used_by, function, body in functions:
        named = sorted(set(_named_bare(body, callables, relations)))
        if named:
            remarks.append(
                f"{used_by} uses {function}, which names {', '.join(named)} without a schema: a restore may not be "
                f"able to build it. Write the schema in the function, or ALTER FUNCTION {function} SET search_path."
            )
    return tuple(remarks)


def _named_bare(body: str, callables: Collection[str], relations: Collection[str]) -> Iterator[str]:
    text = _SILENT.sub(" ", body)
    for match in re.finditer(r"(?<![\w.\"$])([a-z_][\w$]*)\s*\(", text, re.IGNORECASE):
        if match[1].lower() in callables:
            yield match[1].lower()
    for match in re.finditer(r"\b(?:from|join)\s+(?:only\s+)?([a-z_][\w$]*)(?![\w.$]|\s*[.(])", text, re.IGNORECASE):
        if match[1].lower() in relations:
            yield match[1].lower()


_SILENT = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
"""Comments and strings, in which nothing is named."""

# Functions with a search path of their own, or whose body was parsed when they were made, know what they mean.
_FUNCTIONS = b"""
    WITH user_of AS (
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS classid, i.indexrelid AS objid,
               'The index ' || n.nspname || '.' || c.relname AS used_by
          FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
        UNION ALL
        SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid,
               'The check ' || k.conname || ' of ' || n.nspname || '.' || coalesce(c.relname, t.typname)
          FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
          LEFT JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
          LEFT JOIN pg_catalog.pg_type t ON t.oid = k.contypid
         WHERE k.contype = 'c'
        UNION ALL
        SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid,
               'The generated column ' || n.nspname || '.' || c.relname || '.' || a.attname
          FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
          JOIN pg_catalog.pg_class c ON c.oid = d.adrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE a.attgenerated = 's'
        UNION ALL
        SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, r.oid,
               'The materialized view ' || n.nspname || '.' || c.relname
          FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'm' AND c.relispopulated)
    SELECT DISTINCT u.used_by, pn.nspname || '.' || p.proname, p.prosrc
      FROM user_of u JOIN pg_catalog.pg_depend d ON d.classid = u.classid AND d.objid = u.objid
       AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
      JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace
      JOIN pg_catalog.pg_language l ON l.oid = p.prolang
     WHERE l.lanname IN ('sql', 'plpgsql') AND pg_catalog.to_jsonb(p) ->> 'prosqlbody' IS NULL
       AND NOT EXISTS (SELECT FROM unnest(p.proconfig) setting WHERE setting LIKE 'search\\_path=%')
     ORDER BY 1, 2
"""

_OWN_FUNCTIONS = b"""
    SELECT DISTINCT p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc own
                        WHERE own.proname = p.proname AND own.pronamespace = 'pg_catalog'::pg_catalog.regnamespace)
"""

_OWN_RELATIONS = b"""
    SELECT DISTINCT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_class own
                        WHERE own.relname = c.relname AND own.relnamespace = 'pg_catalog'::pg_catalog.regnamespace)
"""
