"""Rows that are restored into other partitions than they came from are still the same rows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lifeboat.break_glass.restore import count_rows
from lifeboat.postgres.comparison import look_into
from lifeboat.postgres.dump import DatabaseDump, dump_database
from lifeboat.postgres.evidence import Evidence, differences
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import MAJORS, Clusters, new_name
from tests.postgres.artifacts import Kept, restore

# What a value of an enumeration hashes to is its oid, which is another in every database.
BY_MOOD = """
    CREATE SCHEMA "Odd One";
    CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l');
    CREATE TABLE visits (day int, mood mood) PARTITION BY RANGE (day);
    CREATE TABLE "Odd One".early PARTITION OF visits FOR VALUES FROM (0) TO (5000) PARTITION BY HASH (mood);
    CREATE TABLE early_0 PARTITION OF "Odd One".early FOR VALUES WITH (MODULUS 3, REMAINDER 0);
    CREATE TABLE early_1 PARTITION OF "Odd One".early FOR VALUES WITH (MODULUS 3, REMAINDER 1);
    CREATE TABLE early_2 PARTITION OF "Odd One".early FOR VALUES WITH (MODULUS 3, REMAINDER 2)
                                   PARTITION BY HASH (mood);
    CREATE TABLE early_2a PARTITION OF early_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE early_2b PARTITION OF early_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE late PARTITION OF visits FOR VALUES FROM (5000) TO (9000) PARTITION BY HASH (day);
    CREATE TABLE late_0 PARTITION OF late FOR VALUES WITH (MODULUS 1, REMAINDER 0);
    INSERT INTO visits SELECT n, (enum_range(NULL::mood))[1 + n % 12] FROM generate_series(1, 6000) n
                        WHERE n % 12 < 7 OR n % 5 = 0;
"""


@pytest.fixture(params=MAJORS)
def major(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[1 << 60, 8192], ids=["one stream", "every table a stream"])
def dumped(
    clusters: Clusters, installed: tuple[Programs, ...], major: int, request: pytest.FixtureRequest
) -> tuple[Kept, DatabaseDump]:
    server, source, kept = clusters.get(major).server, new_name("source"), Kept()
    with server.visit("postgres") as admin:
        admin.execute(f'CREATE DATABASE "{source}"'.encode())
    with server.visit(source) as connection:
        connection.execute(BY_MOOD.encode())
    return kept, dump_database(server, source, kept, installed=installed, content_hash=True, stream_size=request.param)


def test_partitions_by_the_hash_of_an_enumeration_are_restored_and_what_they_lack_is_found(
    clusters: Clusters, installed: tuple[Programs, ...], major: int, dumped: tuple[Kept, DatabaseDump]
) -> None:
    kept, dump = dumped
    server, target = clusters.get(major).server, new_name("target")

    report = restore(kept, dump, server, target, installed)

    rows = {table.name: table.rows for table in dump.evidence.tables}
    assert {table.name: table.rows for table in report.evidence.tables} != rows
    with server.visit(target) as connection:
        assert [connection.execute(query.encode()).fetchall() for query in count_rows(stored(dump))] == [[], []]
    early = sum(count for name, count in rows.items() if name.startswith("early_"))
    with server.visit(target) as connection:
        connection.execute("UPDATE visits SET day = 4999 WHERE day = 1")
        changed = differences(dump.evidence, look_into(server, target, dump.evidence))
        connection.execute("DELETE FROM visits WHERE day = 4999 OR day = 5500")
        lost = differences(dump.evidence, look_into(server, target, dump.evidence))
        connection.execute("DROP TABLE early_1")
        dropped = differences(dump.evidence, look_into(server, target, dump.evidence))

    assert changed == (f"The table Odd One.early has as many rows as it had, {early}, but not the same ones.",)
    assert lost[0].startswith("The table Odd One.early has ")
    assert lost[1:] == (f"The table public.late_0 has {rows['late_0'] - 1} rows, and had {rows['late_0']}.",)
    assert "The table public.early_1 is missing." in dropped


def test_evidence_tells_between_which_partitions_rows_move_and_nothing_new_of_other_tables(
    dumped: tuple[Kept, DatabaseDump],
) -> None:
    evidence = dumped[1].evidence

    tables = stored(dumped[1])

    assert Evidence.from_json(evidence.to_json()) == evidence
    assert [t.moves_in for t in Evidence.from_json(evidence.to_json()).tables] == [t.moves_in for t in evidence.tables]
    assert {table["name"]: table.get("moves_in") for table in tables} == {
        "early_0": ["Odd One", "early"],
        "early_1": ["Odd One", "early"],
        "early_2a": ["Odd One", "early"],
        "early_2b": ["Odd One", "early"],
        "late_0": None,
    }
    assert {key for table in tables for key in table} - {"moves_in"} == {
        "schema", "name", "rows", "content", "artifact",
    }  # fmt: skip


def test_evidence_taken_before_is_compared_as_the_restored_database_says(
    clusters: Clusters, installed: tuple[Programs, ...], major: int, dumped: tuple[Kept, DatabaseDump]
) -> None:
    kept, dump = dumped
    before = replace(dump.evidence, tables=tuple(replace(table, moves_in=None) for table in dump.evidence.tables))

    report = restore(kept, replace(dump, evidence=before), clusters.get(major).server, new_name("target"), installed)

    assert report.evidence.rows == dump.evidence.rows


def stored(dump: DatabaseDump) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = json.loads(dump.evidence.to_json())["tables"]
    return tables
