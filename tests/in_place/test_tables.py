"""Some tables of a whole snapshot: alone in a new database, or their rows in the place of the live ones."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from lifeboat.backup import restore_snapshot
from lifeboat.errors import NotReady, RestoreFailed, SourceError, SourceRefused
from lifeboat.in_place import restore_rows_in_place
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.evidence import differences
from lifeboat.postgres.restore import RestoreReport
from lifeboat.postgres.selection import Selection
from lifeboat.postgres.tables import ReplacedRows
from lifeboat.vault import Snapshot
from tests.fixtures_postgres import NEEDED, Clusters, make_odd_database, new_name
from tests.in_place.conftest import (
    INSTALLED,
    NOW,
    Client,
    Place,
    ask,
    databases,
    evidence_of,
    make_place,
    make_receivables,
)

pytestmark = pytest.mark.slow

QUOTED = 'Table with "quotes", dots. and ünïcode'
PAYMENTS = {"app.payments_2025", "app.payments 2026", "app.payments_rest"}


class Odd:
    """A snapshot of a database with one of everything."""

    def __init__(self, place: Place, server: PostgresServer) -> None:
        self.place, self.server, self.database = place, server, new_name("odd")
        make_odd_database(server, self.database)
        self.evidence = evidence_of(server, self.database)
        self.snapshot = place.back_up(server, self.database)

    def restore(self, selection: Selection) -> RestoreReport:
        return restore_snapshot(
            self.place.vault, self.snapshot, self.server, new_name("side"), installed=INSTALLED, selection=selection
        )


@pytest.fixture(scope="module", params=NEEDED)
def odd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> Odd:
    return Odd(make_place(tmp_path_factory.mktemp("odd")), clusters.get(request.param).server)


def relations(server: PostgresServer, database: str, kinds: str) -> set[str]:
    query = (
        "SELECT coalesce(array_agg(n.nspname || '.' || c.relname), '{}') FROM pg_class c JOIN pg_namespace n"
        f" ON n.oid = c.relnamespace WHERE c.relkind = ANY('{{{kinds}}}') AND n.nspname !~ '^(pg_|information_schema)'"
    )
    return set(ask(server, database, query))


# ---- into a new database --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "expected", "parents"),
    [
        (("invoices",), {"app.invoices"}, set()),
        (("app.customers", "app.invoices"), {"app.customers", "app.invoices"}, set()),
        (("payments",), PAYMENTS, {"app.payments"}),
        (("app.payments 2026",), {"app.payments 2026"}, set()),
        ((QUOTED, "no_columns", "secrets"), {f"Odd Schema.{QUOTED}", "app.no_columns", "app.secrets"}, set()),
    ],
    ids=["one", "two", "a partitioned one", "a partition", "odd ones"],
)
def test_chosen_tables_come_alone_with_all_their_rows(
    odd: Odd, tables: tuple[str, ...], expected: set[str], parents: set[str]
) -> None:
    report = odd.restore(Selection(tables))

    assert relations(odd.server, report.database, "r") == expected
    assert relations(odd.server, report.database, "p") == parents
    assert relations(odd.server, report.database, "v,m,f") == set()
    assert {table.label: (table.rows, table.content) for table in report.evidence.tables} == {
        table.label: (table.rows, table.content) for table in odd.evidence.tables if table.label in expected
    }


def definitions_of(odd: Odd, database: str, table: str) -> dict[str, Any]:
    """Indexes, constraints, triggers, columns, grants and comments of a table, as PostgreSQL writes them."""
    queries = {
        "indexes": "SELECT array_agg(pg_get_indexdef(indexrelid) ORDER BY indexrelid::regclass::text) FROM pg_index"
        " WHERE indrelid = {}",
        "constraints": "SELECT array_agg(conname || ' ' || pg_get_constraintdef(oid) ORDER BY conname)"
        " FROM pg_constraint WHERE conrelid = {} AND contype <> 'f'",
        "foreign keys": "SELECT array_agg(conname || ' ' || pg_get_constraintdef(oid) ORDER BY conname)"
        " FROM pg_constraint WHERE conrelid = {} AND contype = 'f'",
        "triggers": "SELECT array_agg(pg_get_triggerdef(oid) ORDER BY tgname) FROM pg_trigger"
        " WHERE tgrelid = {} AND NOT tgisinternal",
        "columns": "SELECT array_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, attidentity,"
        " attgenerated, attacl, col_description(attrelid, attnum), pg_get_expr(adbin, adrelid)) ORDER BY attnum)"
        " FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid = {} AND attnum > 0",
        "table": "SELECT concat_ws(' ', pg_get_userbyid(relowner), relacl, relrowsecurity, obj_description(oid))"
        " FROM pg_class WHERE oid = {}",
        "statistics": "SELECT array_agg(stxname) FROM pg_statistic_ext WHERE stxrelid = {}",
    }
    return {what: ask(odd.server, database, q.format(f"'{table}'::regclass")) for what, q in queries.items()}


@pytest.mark.parametrize("table", ["app.invoices", "app.customers", "app.payments", 'app."payments 2026"'])
def test_chosen_tables_have_their_indexes_constraints_triggers_and_grants(odd: Odd, table: str) -> None:
    report = odd.restore(Selection(("customers", "invoices", "payments")))

    there, here = (definitions_of(odd, name, table) for name in (odd.database, report.database))

    assert here == there
    assert report.notes == ()


def test_sequences_of_chosen_tables_stand_where_they_stood(odd: Odd) -> None:
    report = odd.restore(Selection(("customers", "invoices")))

    stood = {(s.schema, s.name): s.last_value for s in odd.evidence.sequences}
    stands = {(s.schema, s.name): s.last_value for s in report.evidence.sequences}
    assert stands == {key: stood[key] for key in (("app", "customers_id_seq"), ("app", "numbers"))}


def test_a_reference_to_a_table_that_was_not_chosen_is_left_out_and_told(odd: Odd) -> None:
    report = odd.restore(Selection(("invoices",)))

    assert definitions_of(odd, report.database, "app.invoices")["foreign keys"] is None
    (note,) = report.notes
    assert "FK CONSTRAINT" in note
    assert "app.customers" in note


def test_a_table_that_definitions_need_is_there_without_rows_and_told(odd: Odd) -> None:
    report = odd.restore(Selection(("child",)))

    assert relations(odd.server, report.database, "r") == {"app.child", "app.parent"}
    assert ask(odd.server, report.database, "SELECT count(*) FROM ONLY app.parent") == 0
    assert report.notes == ("app.parent is there too, without rows, since definitions need it.",)


@pytest.mark.parametrize("name", ["nowhere", "open_invoices", "app", ""])
def test_a_name_that_fits_no_table_is_refused_and_leaves_no_database(odd: Odd, name: str) -> None:
    before = databases(odd.server, "side")

    with pytest.raises(SourceRefused, match="has no table"):
        odd.restore(Selection(("invoices", name)))

    assert databases(odd.server, "side") == before


def test_definitions_alone_are_all_there_without_a_row(odd: Odd) -> None:
    report = odd.restore(Selection(schema_only=True))

    assert report.evidence.rows == 0
    assert dict(report.evidence.objects) == dict(odd.evidence.objects)
    assert report.evidence.database.settings == odd.evidence.database.settings
    assert report.evidence.large_objects == 0


def test_the_definitions_of_chosen_tables_alone(odd: Odd) -> None:
    report = odd.restore(Selection(("invoices",), schema_only=True))

    assert relations(odd.server, report.database, "r") == {"app.invoices"}
    assert ask(odd.server, report.database, "SELECT count(*) FROM app.invoices") == 0


# ---- in the place of live rows --------------------------------------------------------------------------------------


class Live:
    """A live receivables database, and a snapshot of it."""

    def __init__(self, place: Place, server: PostgresServer) -> None:
        self.place, self.server, self.name = place, server, make_receivables(server, new_name("live"))
        self.snapshot: Snapshot = place.back_up(server, self.name)
        self.content = self.contents()

    def contents(self) -> dict[str, str | None]:
        return {table.label: table.content for table in evidence_of(self.server, self.name).tables}

    def change(self, *statements: str) -> None:
        with self.server.visit(self.name) as connection:
            connection.execute("SET search_path = receivables")
            for statement in statements:
                connection.execute(statement.encode())

    def replace(self, *tables: str, replace_live_rows: bool = True) -> ReplacedRows:
        return restore_rows_in_place(
            self.place.vault, self.snapshot, self.server, self.name, tables,
            replace_live_rows=replace_live_rows, installed=INSTALLED, now=NOW,
        )  # fmt: skip


@pytest.fixture
def live(place: Place, postgres: PostgresServer) -> Live:
    return Live(place, postgres)


@pytest.mark.parametrize("major", NEEDED)
def test_replaced_rows_are_those_of_the_snapshot_and_all_others_stay(
    clusters: Clusters, place: Place, major: int
) -> None:
    live = Live(place, clusters.get(major).server)
    live.change(
        "UPDATE allocations SET amount = amount / 2", "DELETE FROM allocations WHERE invoice_id % 3 = 0",
        "INSERT INTO audit_log (happened_at, actor, action, subject, subject_id, payload)"
        " VALUES ('2025-03-03', NULL, 'insert', 'x', 1, '{}')",
    )  # fmt: skip
    others = {table: content for table, content in live.contents().items() if table != "receivables.allocations"}

    report = live.replace("allocations")

    assert live.contents() == others | {"receivables.allocations": live.content["receivables.allocations"]}
    assert report.before["receivables.allocations"] < report.after["receivables.allocations"]
    assert databases(live.server, live.name) == {live.name}


def test_generated_columns_identities_and_partitions_are_replaced(live: Live) -> None:
    live.change(
        "UPDATE customers SET name = name || '!'", "UPDATE invoices SET description = 'spoiled'",
        "DELETE FROM audit_log WHERE id % 2 = 0", "UPDATE audit_log SET payload = '{}'",
    )  # fmt: skip

    report = live.replace("receivables.customers", "invoices", "audit_log")

    changed = live.contents()
    assert changed == live.content
    assert set(report.after) == {"receivables.customers", "receivables.invoices", "receivables.audit_log"}


def test_a_partition_made_since_then_is_emptied_and_stays(live: Live) -> None:
    live.change(
        "CREATE TABLE audit_log_2031 PARTITION OF audit_log FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')",
        "INSERT INTO audit_log (happened_at, actor, action, subject, subject_id, payload)"
        " VALUES ('2031-03-03', NULL, 'insert', 'x', 1, '{}')",
    )

    live.replace("audit_log")

    assert ask(live.server, live.name, "SELECT count(*) FROM receivables.audit_log_2031") == 0
    assert live.contents() | live.content == live.contents()


def test_references_that_would_break_are_named_and_nothing_is_changed(live: Live) -> None:
    with live.server.visit(live.name) as connection:
        connection.execute(NEW_CUSTOMER)
    before = live.contents()

    with pytest.raises(
        RestoreFailed, match=r"1 rows of receivables.contracts refer by \S+ to rows of receivables.customers"
    ):
        live.replace("customers")

    assert live.contents() == before
    assert databases(live.server, live.name) == {live.name}
    live.replace("customers", "contracts")
    assert live.contents() == live.content


NEW_CUSTOMER = """
    INSERT INTO receivables.customers (name, country, vat_id, email, phone, street, postcode, town, account,
                                       payment_days, credit_limit)
         SELECT 'New', country, 'XX99999999', 'new@new.xx', phone, street, postcode, town, account, 30, 1
           FROM receivables.customers LIMIT 1;
    INSERT INTO receivables.contracts (customer_id, signed_on, title, scan)
         SELECT max(id), '2026-01-01', 'new', 0 FROM receivables.customers
"""


def test_columns_that_have_changed_since_are_named(live: Live) -> None:
    live.change("ALTER TABLE countries ADD changed_by text, ALTER name TYPE varchar(90)")
    before = live.contents()

    with pytest.raises(
        RestoreFailed, match=r"has name as character varying\(90\), and had it as text, has the new column changed_by"
    ):
        live.replace("countries")

    assert live.contents() == before


def test_a_table_that_is_gone_is_refused(live: Live) -> None:
    live.change('DROP TABLE "Dunning Letters" CASCADE')

    with pytest.raises(RestoreFailed, match=r"The table receivables.Dunning Letters of .* is not there"):
        live.replace("Dunning Letters")


def test_live_rows_are_not_replaced_unless_it_is_said(live: Live) -> None:
    live.change("DELETE FROM allocations")

    with pytest.raises(RestoreFailed, match="was not said"):
        live.replace("allocations", replace_live_rows=False)

    assert ask(live.server, live.name, "SELECT count(*) FROM receivables.allocations") == 0
    assert databases(live.server, live.name) == {live.name}


def test_sequences_are_set_forward_and_never_back(live: Live) -> None:
    numbers = "SELECT last_value FROM receivables.{}"
    then = ask(live.server, live.name, numbers.format("customers_id_seq"))
    live.change(
        "SELECT setval('customers_id_seq', 1)", "SELECT setval('audit_entry', 99999999)",
        "SELECT setval('invoices_id_seq', 99999999)",
    )  # fmt: skip

    report = live.replace("customers", "audit_log", "invoices")

    assert report.sequences == ("receivables.customers_id_seq",)
    assert ask(live.server, live.name, numbers.format("customers_id_seq")) == then
    assert ask(live.server, live.name, numbers.format("audit_entry")) == 99999999
    assert ask(live.server, live.name, numbers.format("invoices_id_seq")) == 99999999


def test_readers_see_the_old_rows_or_the_new_ones_and_never_none(live: Live) -> None:
    live.change("UPDATE invoices SET description = 'spoiled'")
    query = "SELECT count(*), count(*) FILTER (WHERE description = 'spoiled') FROM receivables.invoices"

    with Client(live.server, live.name, query) as client:
        live.replace("invoices")

    assert set(client.answers) == {(1000, 1000), (1000, 0)}


def test_a_table_in_use_by_a_writer_is_waited_for_only_so_long(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    from lifeboat.postgres import tables, waiting

    monkeypatch.setattr(tables, "LOCK_SECONDS", 3)
    monkeypatch.setattr(waiting, "FIRST_LOOK", 0)
    monkeypatch.setattr(waiting, "AGAIN", 0.1)
    with live.server.visit(live.name, autocommit=False) as writer:
        writer.execute("UPDATE receivables.settings SET value = '1'")
        with pytest.raises(SourceError, match=rf"receivables.settings is locked by pid {writer.info.backend_pid} "):
            live.replace("settings")
        writer.rollback()

    assert live.contents() == live.content


def test_a_user_who_may_not_switch_triggers_off_is_told(live: Live) -> None:
    owner = new_name("sme_owner")
    with live.server.visit("postgres") as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x' CREATEDB IN ROLE sme_platform").format(sql.Identifier(owner))
        )
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(live.name), sql.Identifier(owner)))
    live.server = PostgresServer(live.server.host, live.server.port, owner, "x")

    with pytest.raises((RestoreFailed, NotReady), match=r"sme_owner.* may not switch triggers off"):
        live.replace("settings")


def test_a_whole_live_database_is_as_its_snapshot_when_every_table_is_replaced(live: Live) -> None:
    before = evidence_of(live.server, live.name)
    live.change("UPDATE invoices SET description = 'spoiled'", "DELETE FROM allocations", "DELETE FROM settings")

    live.replace("countries", "settings", "users", "customers", "contracts", "invoices", "payments", "allocations",
                 "Dunning Letters", "audit_log")  # fmt: skip

    assert differences(before, evidence_of(live.server, live.name)) == ()
