"""The receivables database of an SME platform: customers, invoices, payments, and one of all a database can hold."""

from __future__ import annotations

from pathlib import Path

from psycopg import sql

from lifeboat.postgres.connection import Connection, PostgresServer
from lifeboat.postgres.evidence import count_tables, tables_to_read

OWNER = "sme_platform"
"""The role, no superuser, that owns the database and all that is in it."""

SMOKE_CHECKS = Path(__file__).parent / "smoke_checks.yaml"
"""Questions to a restored database, each with the one value that is the right answer."""


def load_receivables(
    server: PostgresServer,
    database: str,
    *,
    invoices: int = 100_000,
    seed: int = 1,
    owner_password: str | None = None,
) -> dict[str, int]:
    """Make a new database with this many invoices and all that belongs to them, and return the rows of each table.

    The same seed gives the same rows on every version of PostgreSQL. The role `sme_platform` is made if it is missing,
    and can log in only if a password is given. A load that fails leaves the database empty.
    """
    with server.visit("postgres") as admin:
        _make_owner(admin, owner_password)
        admin.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'").format(
                sql.Identifier(database), sql.Identifier(OWNER)
            )
        )
    with server.visit(database, autocommit=False) as connection:
        connection.execute(_SESSION.format(owner=sql.Identifier(OWNER)))
        connection.execute(_DRAWING.format(seed=sql.Literal(seed), invoices=sql.Literal(invoices)))
        for script in ("tables.sql", "rows.sql", "behaviour.sql"):
            connection.execute((Path(__file__).parent / script).read_bytes())
        connection.commit()
        connection.execute("ANALYZE")
        return {table.label: table.rows for table in count_tables(connection, tables_to_read(connection))}


def _make_owner(admin: Connection, password: str | None) -> None:
    owner = sql.Identifier(OWNER)
    if admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone() is None:
        admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(owner))
    if password is not None:
        admin.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(owner, sql.Literal(password)))


_SESSION = sql.SQL(
    """
    SET ROLE {owner};
    SET timezone = 'UTC'; SET datestyle = 'ISO, YMD';
    SET jit = off; SET synchronous_commit = off; SET work_mem = '256MB'; SET maintenance_work_mem = '256MB';
    """
)

# The functions of hash-partitioned tables: PostgreSQL cannot change them without losing rows of its users.
_DRAWING = sql.SQL(
    """
    CREATE FUNCTION pg_temp.invoices() RETURNS int LANGUAGE sql IMMUTABLE RETURN {invoices};
    CREATE FUNCTION pg_temp.draw(n bigint, what int, below int) RETURNS int LANGUAGE sql IMMUTABLE
    RETURN ((hashint8extended(n, {seed}::bigint * 1000 + what) & 9223372036854775807) % below)::int;
    """
)
