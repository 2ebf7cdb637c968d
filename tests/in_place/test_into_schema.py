"""Some tables of a snapshot in a new schema of the live database, and nothing else changed there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lifeboat.errors import EvidenceMismatch, LifeboatError, NotReady, RestoreFailed, SettingsError
from lifeboat.into_schema import restore_into_schema
from lifeboat.postgres import side_schema
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.side_schema import SideSchema
from lifeboat.postgres.swap import Standing, kept_databases
from tests.fixtures_postgres import NEEDED, Clusters, make_odd_database, new_name, psql
from tests.in_place.conftest import (
    INSTALLED,
    NOW,
    Place,
    ask,
    databases,
    evidence_of,
    make_place,
)

pytestmark = [pytest.mark.slow, pytest.mark.ordinary]

QUOTED = 'Table with "quotes", dots. and ünïcode'
EVERYTHING = (
    "customers", "invoices", "payments", "parent", "child", QUOTED, "no_columns", "unlogged", "secrets"
)  # fmt: skip
SCHEMA = 'As "it" was; 2025'


class Odd:
    """A live database with one of everything, and a snapshot of it, of which much has been lost since."""

    def __init__(self, place: Place, server: PostgresServer) -> None:
        self.place, self.server, self.live = place, server, new_name("odd live")
        make_odd_database(server, self.live)
        self.then = {table.label: (table.rows, table.content) for table in evidence_of(server, self.live).tables}
        self.snapshot = place.back_up(server, self.live)
        psql(server, self.live, "-c", "DELETE FROM app.invoices; UPDATE app.customers SET name = 'lost ' || id")

    def restore(self, schema: str, *tables: str, **options: Any) -> SideSchema:
        return restore_into_schema(
            self.place.vault, self.snapshot, self.server, self.live, schema, tables,
            installed=INSTALLED, now=NOW, **options,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """All that a person could find changed in the live database, without the rows of the new schemas."""
        query = (
            "SELECT array_agg(concat_ws(' ', c.oid, n.nspname, relname, relkind, relfilenode, relacl)"
            " ORDER BY c.oid) FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname IN ('app', 'Odd Schema', 'public')"
        )
        # Not `relhastriggers`, which a vacuum puts right whenever it comes by: the triggers themselves.
        triggers = (
            "SELECT array_agg(t::text ORDER BY t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('app', 'Odd Schema', 'public')"
        )
        tables = {t.label: (t.rows, t.content) for t in evidence_of(self.server, self.live).tables}
        return {
            "relations": ask(self.server, self.live, query),
            "triggers": ask(self.server, self.live, triggers),
            "rows": {label: told for label, told in tables.items() if label.startswith(("app.", "Odd Schema."))},
            "sequences": ask(self.server, self.live, "SELECT array_agg(s::text ORDER BY 1) FROM pg_sequences s"
                             " WHERE schemaname = 'app'"),
        }  # fmt: skip


@pytest.fixture(scope="module", params=NEEDED)
def odd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> Odd:
    return Odd(make_place(tmp_path_factory.mktemp("odd")), clusters.get(request.param).server)


@pytest.fixture
def one(place: Place, postgres: PostgresServer) -> Odd:
    """The same on one version, for a test of its own."""
    return Odd(place, postgres)


def test_every_kind_of_table_comes_with_its_rows_and_nothing_live_is_touched(odd: Odd) -> None:
    before = odd.state()

    made = odd.restore(SCHEMA, *EVERYTHING)

    now = {table.label: (table.rows, table.content) for table in evidence_of(odd.server, odd.live).tables}
    copied = {label.removeprefix(f"{SCHEMA}."): told for label, told in now.items() if label.startswith(SCHEMA)}
    assert copied == {label.removeprefix("app.").removeprefix("Odd Schema."): told for label, told in odd.then.items()}
    assert dict(made.rows) == {f"{SCHEMA}.{name}": rows for name, (rows, _) in copied.items()}
    assert odd.state() == before
    assert databases(odd.server, odd.live) == {odd.live}
    assert "The TRIGGER 'invoices touch' does not come along." in made.notes
    assert "The POLICY 'secrets own_rows' does not come along." in made.notes
    assert "The RULE 'parent quiet' does not come along." in made.notes
    assert made.notes[-1] == "All of it belongs to postgres alone."


def test_definitions_come_along_and_lead_to_nothing_live(odd: Odd) -> None:
    schema = new_name("definitions")
    odd.restore(schema, "customers", "invoices", "payments")

    def rows(query: str) -> set[str]:
        return set(ask(odd.server, odd.live, f"SELECT coalesce(array_agg(x), '{{}}') FROM ({query}) AS q (x)"))

    in_schema = f"= (SELECT oid FROM pg_namespace WHERE nspname = '{schema}')"
    assert rows(f"SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace {in_schema}"
                "  AND contype IN ('p', 'f', 'u', 'c')") == {
        "customers_pkey PRIMARY KEY (id)",
        "customers_name_key UNIQUE (name)",
        "customers_name_check CHECK ((name <> ''::text))",
        "invoices_pkey PRIMARY KEY (id)",
        f"invoices_customer_fkey FOREIGN KEY (customer) REFERENCES {schema}.customers(id)"
        " DEFERRABLE INITIALLY DEFERRED",
    }  # fmt: skip
    assert rows(f"SELECT indexname::text FROM pg_indexes WHERE schemaname = '{schema}'") >= {
        "invoices_due", "invoices_lower", "payments_paid_at_idx", "payments_2025_paid_at_idx"
    }  # fmt: skip
    not_null = f"SELECT relname || '.' || attname FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid" \
               f" WHERE attnotnull AND attnum > 0 AND relnamespace {in_schema} AND relkind = 'r'"  # fmt: skip
    assert rows(not_null) >= {"customers.name", "invoices.amount", "invoices.due", "payments_2025.paid_at"}
    assert rows(f"SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class c ON c.oid = inhparent"
                f" WHERE relnamespace {in_schema} AND relkind = 'p'") == {
        f"{schema}.payments_2025", f'{schema}."payments 2026"', f"{schema}.payments_rest"
    }  # fmt: skip
    assert rows("SELECT attname::text FROM pg_attribute WHERE atttypid = 'app.status'::regtype"
                f" AND attrelid = '{schema}.invoices'::regclass") == {"status"}  # fmt: skip
    assert f"nextval('{schema}.numbers'" in ask(
        odd.server, odd.live, f"SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = '{schema}.invoices'"
        "::regclass AND adnum = 1"
    )  # fmt: skip
    assert ask(odd.server, odd.live, f"SELECT obj_description('{schema}.invoices'::regclass)").startswith("Money")
    assert rows(f"SELECT tgname::text FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid"
                f" WHERE relnamespace {in_schema} AND NOT tgisinternal") == set()  # fmt: skip
    # What is done there moves no live sequence and fires nothing live.
    before = odd.state()
    psql(odd.server, odd.live, "-c", f"INSERT INTO {schema}.invoices (customer, amount, due) VALUES (1, 1, now())",
         "-c", f"INSERT INTO {schema}.customers (name) VALUES ('new')")  # fmt: skip
    assert ask(odd.server, odd.live, f"SELECT max(id) FROM {schema}.customers") == 301
    assert odd.state() == before


def test_rows_of_then_are_taken_back_with_plain_sql(one: Odd) -> None:
    one.restore("then", "invoices")

    psql(one.server, one.live, "-c", "INSERT INTO app.invoices SELECT t.* FROM \"then\".invoices t"
         " LEFT JOIN app.invoices n USING (id, status) WHERE n.id IS NULL")  # fmt: skip

    assert ask(one.server, one.live, "SELECT count(*) FROM app.invoices") == 5000


def test_a_foreign_key_to_a_table_that_was_not_chosen_is_left_out_and_told(one: Odd) -> None:
    made = one.restore("alone", "invoices")

    assert any("invoices_customer_fkey" in note and "left out" in note for note in made.notes)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("app", "There already is a schema 'app'"),
        ("pg_mine", "No schema can be called 'pg_mine'"),
        ("x" * 64, "No schema can be called"),
    ],
    ids=["taken", "PostgreSQL's own", "too long"],
)
def test_a_schema_that_cannot_be_made_is_refused_before_anything(one: Odd, schema: str, told: str) -> None:
    before = one.state()

    with pytest.raises(RestoreFailed, match=told):
        one.restore(schema, "invoices", report=lambda line: pytest.fail(f"it was begun: {line}"))

    assert one.state() == before
    assert databases(one.server, one.live) == {one.live}


def test_a_schema_made_meanwhile_is_not_touched(one: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    gather = side_schema._gather

    def late(source: Any, schema: str) -> None:
        gather(source, schema)
        psql(one.server, one.live, "-c", "CREATE SCHEMA late")

    monkeypatch.setattr(side_schema, "_gather", late)

    with pytest.raises(RestoreFailed, match="There already is a schema 'late'"):
        one.restore("late", "invoices")
    assert databases(one.server, one.live) == {one.live}


def lost_rows(source: Any, target: Any, schema: str, name: str) -> None:
    """Copies nothing."""


@pytest.mark.parametrize(
    ("change", "patched", "kind", "told"),
    [
        ("DROP TABLE app.invoices CASCADE; DROP TYPE app.status", None, RestoreFailed, 'type "app.status" does not ex'),
        ("SELECT 1", "_copy", EvidenceMismatch, "invoices has 0, not 5000"),
    ],
    ids=["a type is gone", "rows are lost"],
)
def test_what_fails_leaves_no_schema_and_no_database(
    one: Odd, monkeypatch: pytest.MonkeyPatch, change: str, patched: str | None, kind: type[LifeboatError], told: str
) -> None:
    psql(one.server, one.live, "-c", "DROP VIEW app.open_invoices; DROP MATERIALIZED VIEW app.totals", "-c", change)
    if patched:
        monkeypatch.setattr(side_schema, patched, lost_rows)
    before = one.state()

    with pytest.raises(kind, match=told):
        one.restore("failed", "invoices")

    assert one.state() == before
    assert ask(one.server, one.live, "SELECT count(*) FROM pg_namespace WHERE nspname = 'failed'") == 0
    assert databases(one.server, one.live) == {one.live}


def test_two_tables_of_one_name_are_refused(place: Place, postgres: PostgresServer) -> None:
    live = new_name("twice")
    psql(postgres, "postgres", "-c", f"CREATE DATABASE {live}")
    psql(postgres, live, "-c", "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (); CREATE TABLE b.t ()")
    snapshot = place.back_up(postgres, live)

    with pytest.raises(RestoreFailed, match="Several of these tables are called t"):
        restore_into_schema(place.vault, snapshot, postgres, live, "both", ("a.t", "b.t"), installed=INSTALLED, now=NOW)

    assert databases(postgres, live) == {live}


def test_the_wrong_database_is_refused_unless_it_is_meant(one: Odd, clusters: Clusters) -> None:
    elsewhere = clusters.get(18).server
    make_odd_database(elsewhere, one.live)

    with pytest.raises(NotReady, match=r"cannot be added to:(?s:.)*system identifier"):
        restore_into_schema(
            one.place.vault, one.snapshot, elsewhere, one.live, "x", ("invoices",), installed=INSTALLED, now=NOW
        )
    made = restore_into_schema(
        one.place.vault, one.snapshot, elsewhere, one.live, "x", ("invoices",), installed=INSTALLED, now=NOW,
        other_server=True,
    )  # fmt: skip

    assert dict(made.rows) == {"x.invoices": 5000}


def test_nothing_is_begun_without_tables_or_for_a_user_who_may_not(one: Odd) -> None:
    with pytest.raises(SettingsError, match="Which tables"):
        one.restore("x")
    psql(one.server, "postgres", "-c", "CREATE ROLE may_not LOGIN PASSWORD 'x'")
    one.server = PostgresServer(one.server.host, one.server.port, "may_not", "x")
    with pytest.raises(NotReady, match="may not make a schema there"):
        one.restore("x", "invoices")


@pytest.mark.parametrize("step", ["_gather", "_copy", "_set_sequences"])
def test_killed_at_any_step_the_live_database_is_as_it_was_and_a_repeated_run_works(one: Odd, step: str) -> None:
    before = one.state()
    command = [sys.executable, "-m", "tests.in_place.test_into_schema", step, str(one.place.folder), one.live]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path), "PASSWORD": one.server.password, "PORT": str(one.server.port)
    }  # fmt: skip
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL

    assert one.state() == before
    assert ask(one.server, one.live, "SELECT count(*) FROM pg_namespace WHERE nspname = 'killed'") == 0
    (left,) = kept_databases(one.server, one.live)
    assert left.standing is Standing.BESIDE
    made = restore_into_schema(
        one.place.vault, one.snapshot, one.server, one.live, "killed", ("invoices",), installed=INSTALLED,
        now=NOW.replace(minute=31),
    )  # fmt: skip
    assert dict(made.rows) == {"killed.invoices": 5000}


def restore_and_die(step: str, folder: str, live: str) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(side_schema, step, die)
    server = PostgresServer("127.0.0.1", int(os.environ["PORT"]), "postgres", os.environ["PASSWORD"])
    place = Place(Path(folder))
    restore_into_schema(
        place.vault, place.vault.find("orders"), server, live, "killed", ("invoices",), installed=INSTALLED, now=NOW
    )


if __name__ == "__main__":
    restore_and_die(*sys.argv[1:])
