"""The receivables database is the same for the same seed, adds up, and comes back whole from a dump."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from demo.receivables import OWNER, SMOKE_CHECKS, load_receivables
from lifeboat.errors import SourceError
from lifeboat.postgres.connection import Connection, PostgresServer
from lifeboat.postgres.dump import dump_database
from lifeboat.postgres.evidence import count_tables, tables_to_read
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import MAJORS, Clusters, new_name
from tests.postgres.artifacts import Kept, restore

pytestmark = pytest.mark.slow

INVOICES = 2000
CHECKS = yaml.safe_load(SMOKE_CHECKS.read_text())


@pytest.fixture(scope="module")
def receivables(postgres: PostgresServer) -> str:
    return loaded(postgres)


def loaded(server: PostgresServer, *, seed: int = 1) -> str:
    database = new_name("receivables")
    load_receivables(server, database, invoices=INVOICES, seed=seed)
    return database


def content(server: PostgresServer, database: str) -> dict[str, str | None]:
    """A digest of every table's rows, and of the large objects."""
    with server.visit(database) as connection:
        tables = count_tables(connection, tables_to_read(connection), content_hash=True)
        scans = one(connection, "SELECT md5(string_agg(lo_get(oid), '' ORDER BY oid)) FROM pg_largeobject_metadata")
    return {table.label: table.content for table in tables} | {"scans": scans}


def one(connection: Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("major", MAJORS)
def test_the_same_seed_gives_the_same_rows_on_every_version(
    clusters: Clusters, postgres: PostgresServer, receivables: str, major: int
) -> None:
    server = clusters.get(major).server

    again = loaded(server)

    assert content(server, again) == content(postgres, receivables)


def test_another_seed_gives_other_rows(postgres: PostgresServer, receivables: str) -> None:
    other = content(postgres, loaded(postgres, seed=2))

    same = {name for name, digest in content(postgres, receivables).items() if other[name] == digest}

    assert same == {"receivables.countries", "receivables.settings", "receivables.audit_log_later"}


def test_the_rows_are_counted_and_as_many_as_asked_for(postgres: PostgresServer) -> None:
    rows = load_receivables(postgres, new_name("receivables"), invoices=500)

    assert rows["receivables.invoices"] == 500
    assert 300 < rows["receivables.payments"] <= rows["receivables.allocations"] < 600
    assert rows["receivables.audit_log_2025_11"] > 10


@pytest.mark.parametrize("check", CHECKS, ids=[check["name"] for check in CHECKS])
def test_smoke_checks_hold(postgres: PostgresServer, receivables: str, check: dict[str, Any]) -> None:
    assert set(check) == {"name", "sql", "expected"}

    with postgres.visit(receivables) as connection:
        assert one(connection, check["sql"]) == check["expected"]


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        ("TRUNCATE invoices CASCADE", "there are invoices"),
        ("DELETE FROM allocations WHERE invoice_id % 5 = 0", "every invoice is paid by as much as is allocated to it"),
        ("UPDATE payments SET amount = amount / 2", "allocations do not exceed payments"),
        ("UPDATE payments SET currency = 'USD'", "payments go to invoices of the same customer in the same currency"),
        ("UPDATE settings SET value = '\"2030-01-01\"'", "statuses agree with dates and payments"),
        ("UPDATE invoices SET paid = net + vat", "drafts and written-off invoices are not paid in full"),
        ("DELETE FROM audit_log WHERE id % 9 = 0", "every invoice and payment is in the audit log"),
        ("SELECT lo_unlink(900003)", "every contract has its scan"),
        ("SELECT lo_put(900003, 0, 'JFIF')", "every scan is a PDF to its end"),
        ("ALTER SEQUENCE invoice_number RESTART 1", "the next invoice number is a new one"),
        ("UPDATE invoices SET net = 0, vat = 0, paid = 0", "the monthly turnover agrees with the invoices"),
        ('UPDATE "Dunning Letters" SET "Sent On" = \'2020-01-01\'', "nobody was reminded before the invoice was due"),
        ("DROP TRIGGER settle_invoice ON allocations", "the triggers are in force"),
    ],
)
def test_smoke_checks_notice_damage(postgres: PostgresServer, receivables: str, damage: str, broken: str) -> None:
    check = next(check for check in CHECKS if check["name"] == broken)

    with postgres.visit(receivables, autocommit=False) as connection:
        connection.execute("SET LOCAL search_path = receivables; SET LOCAL session_replication_role = replica")
        connection.execute(damage.encode())
        found = one(connection, check["sql"])
        connection.rollback()

    assert found != check["expected"]


def test_everything_belongs_to_an_owner_who_is_no_superuser(postgres: PostgresServer, receivables: str) -> None:
    with postgres.visit(receivables) as connection:
        owners = connection.execute(
            """
            WITH mine AS (SELECT oid FROM pg_namespace WHERE nspname = 'receivables')
            SELECT datdba FROM pg_database WHERE datname = current_database()
            UNION SELECT nspowner FROM pg_namespace WHERE nspname = 'receivables'
            UNION SELECT relowner FROM pg_class WHERE relnamespace IN (SELECT oid FROM mine)
            UNION SELECT proowner FROM pg_proc WHERE pronamespace IN (SELECT oid FROM mine)
            UNION SELECT typowner FROM pg_type WHERE typnamespace IN (SELECT oid FROM mine)
            UNION SELECT stxowner FROM pg_statistic_ext WHERE stxnamespace IN (SELECT oid FROM mine)
            UNION SELECT lomowner FROM pg_largeobject_metadata
            """
        ).fetchall()
        role = connection.execute(
            "SELECT oid, rolsuper, rolcanlogin FROM pg_roles WHERE rolname = %s", [OWNER]
        ).fetchone()

    assert role is not None
    assert owners == [(role[0],)]
    assert role[1:] == (False, False)


@pytest.mark.parametrize(
    ("kind", "query"),
    [
        ("enumeration", "SELECT FROM pg_type WHERE typtype = 'e' AND typnamespace = 'receivables'::regnamespace"),
        ("domain", "SELECT FROM pg_type WHERE typtype = 'd' AND typnamespace = 'receivables'::regnamespace"),
        ("identity column", "SELECT FROM pg_attribute WHERE attidentity <> ''"),
        ("generated column", "SELECT FROM pg_attribute WHERE attgenerated = 's'"),
        (
            "sequence of no table",
            "SELECT FROM pg_class c WHERE relkind = 'S' AND NOT EXISTS (SELECT FROM pg_depend d"
            " WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i'))",
        ),
        ("view", "SELECT FROM pg_views WHERE schemaname = 'receivables'"),
        ("materialized view", "SELECT FROM pg_matviews WHERE ispopulated"),
        ("function", "SELECT FROM pg_proc WHERE prokind = 'f' AND pronamespace = 'receivables'::regnamespace"),
        ("procedure", "SELECT FROM pg_proc WHERE prokind = 'p' AND pronamespace = 'receivables'::regnamespace"),
        ("trigger", "SELECT FROM pg_trigger WHERE NOT tgisinternal"),
        ("partitioned table", "SELECT FROM pg_partitioned_table"),
        ("partition", "SELECT FROM pg_class WHERE relispartition AND relname = 'audit_log_2026_06'"),
        ("JSONB", "SELECT FROM receivables.audit_log WHERE jsonb_typeof(payload -> 'request') = 'object'"),
        ("large object", "SELECT FROM pg_largeobject_metadata WHERE length(lo_get(oid)) > 10000"),
        ("extension", "SELECT FROM pg_extension"),
        ("foreign key", "SELECT FROM pg_constraint WHERE contype = 'f'"),
        ("check", "SELECT FROM pg_constraint WHERE contype = 'c' AND connamespace = 'receivables'::regnamespace"),
        ("partial index", "SELECT FROM pg_index WHERE indpred IS NOT NULL"),
        ("index on an expression", "SELECT FROM pg_index WHERE indexprs IS NOT NULL"),
        ("statistics object", "SELECT FROM pg_statistic_ext"),
        ("comment on a table", "SELECT WHERE obj_description('receivables.invoices'::regclass) ~ 'paid'"),
        ("space in a name", "SELECT FROM pg_class WHERE relname = 'Dunning Letters'"),
        ("double quote in a name", "SELECT FROM pg_attribute WHERE attname LIKE '%\"%'"),
        ("apostrophe in a name", "SELECT FROM pg_attribute WHERE attname LIKE '%''%'"),
    ],
)
def test_there_is_one_of_every_kind(postgres: PostgresServer, receivables: str, kind: str, query: str) -> None:
    with postgres.visit(receivables) as connection:
        assert connection.execute(query.encode()).fetchone() is not None


def test_every_table_is_commented(postgres: PostgresServer, receivables: str) -> None:
    with postgres.visit(receivables) as connection:
        silent = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'receivables'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relispartition AND obj_description(oid, 'pg_class') IS NULL"
        ).fetchall()

    assert silent == []


def test_a_payment_settles_its_invoice_and_is_audited(postgres: PostgresServer, receivables: str) -> None:
    with postgres.visit(receivables, autocommit=False) as connection:
        invoice, customer, rest = connection.execute(
            "SELECT id, customer_id, gross - paid FROM receivables.invoices WHERE status = 'overdue' LIMIT 1"
        ).fetchone() or (0, 0, 0)
        payment = connection.execute(
            "INSERT INTO receivables.payments (customer_id, received_on, amount, currency, method, reference)"
            " VALUES (%s, '2026-07-01', %s, 'EUR', 'card', 'late') RETURNING id",
            [customer, rest],
        ).fetchone()
        assert payment is not None
        allocate = "INSERT INTO receivables.allocations VALUES (%s, %s, %s)"
        connection.execute(allocate, [payment[0], invoice, rest])
        settled = one(
            connection, f"SELECT status = 'paid' AND paid = gross FROM receivables.invoices WHERE id = {invoice}"
        )
        audited = one(connection, "SELECT count(*) FROM receivables.audit_log_later")
        connection.rollback()

    assert (settled, audited) == (True, 2)


def test_a_payment_cannot_be_allocated_twice_over(postgres: PostgresServer, receivables: str) -> None:
    with (
        pytest.raises(SourceError, match=r"SQLSTATE 23514, in PL.pgSQL function receivables\.settle_invoice"),
        postgres.visit(receivables) as connection,
    ):
        connection.execute("UPDATE receivables.allocations SET amount = amount + 30 WHERE payment_id = 1")


@pytest.mark.parametrize("stream_size", [1 << 60, 200_000], ids=["one stream", "large tables in their own"])
@pytest.mark.parametrize("major", MAJORS)
def test_a_dump_brings_everything_back(
    clusters: Clusters, installed: tuple[Programs, ...], major: int, stream_size: int
) -> None:
    server = clusters.get(major).server
    source, target = loaded(server), new_name("restored")
    kept = Kept()

    dump = dump_database(server, source, kept, installed=installed, content_hash=True, stream_size=stream_size)
    report = restore(kept, dump, server, target, installed)

    assert report.evidence.tables == dump.evidence.tables
    assert report.evidence.objects == dump.evidence.objects
    assert report.notes == ()
    assert content(server, target) == content(server, source)
    with server.visit(target) as connection:
        assert [check["name"] for check in CHECKS if one(connection, check["sql"]) != check["expected"]] == []


def test_the_owner_can_log_in_with_a_password_the_caller_gives(clusters: Clusters) -> None:
    server = clusters.get(18).server
    database = new_name("receivables")

    load_receivables(server, database, invoices=100, owner_password="of the caller")

    owner = PostgresServer(server.host, server.port, OWNER, "of the caller")
    with owner.visit(database) as connection:
        assert one(connection, "SELECT count(*) FROM receivables.invoices") == 100
        connection.execute("CALL receivables.close_day('2026-07-01')")
    with server.visit("postgres") as admin:
        admin.execute(f"ALTER ROLE {OWNER} NOLOGIN")


def test_a_load_that_fails_leaves_no_rows(postgres: PostgresServer) -> None:
    database = new_name("receivables")

    with pytest.raises(SourceError):
        load_receivables(postgres, database, invoices=-1)

    with postgres.visit(database) as connection:
        assert one(connection, "SELECT to_regnamespace('receivables')") is None
