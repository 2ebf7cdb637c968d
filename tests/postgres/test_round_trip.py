"""Everything a database holds survives a dump and a restore, on every version."""

from __future__ import annotations

import re
import subprocess

import pytest

from lifeboat.errors import RestoreFailed
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import dump_database
from lifeboat.postgres.evidence import Evidence, count_tables, tables_to_read
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.selection import Selection
from tests.fixtures_postgres import MAJORS, PROGRAMS, Clusters, make_odd_database, new_name
from tests.postgres.artifacts import Kept, restore


def definitions(server: PostgresServer, database: str, major: int) -> list[str]:
    """Every definition as `pg_dump` writes it, without what differs between two runs."""
    command = [str(PROGRAMS[major].path("pg_dump")), "--schema-only", "-d", database]
    done = subprocess.run(command, env=server.application_environment(), capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if not re.match(r"--|\\(un)?restrict|$", line)]


@pytest.mark.parametrize("stream_size", [1 << 60, 8192], ids=["one stream", "every table a stream"])
@pytest.mark.parametrize("major", MAJORS)
def test_everything_survives(clusters: Clusters, installed: tuple[Programs, ...], major: int, stream_size: int) -> None:
    server = clusters.get(major).server
    source, target = new_name("odd source"), new_name('odd "target"')
    make_odd_database(server, source)
    kept = Kept()

    dump = dump_database(server, source, kept, installed=installed, content_hash=True, stream_size=stream_size)
    report = restore(kept, dump, server, target, installed)

    assert dump.client_major == major
    assert bool(kept.tables) == (stream_size == 8192)
    assert {table.artifact for table in dump.evidence.tables} <= {*kept.tables, "dump"}
    assert definitions(server, target, major) == definitions(server, source, major)
    assert report.evidence.tables == dump.evidence.tables
    assert report.evidence.database.settings == dump.evidence.database.settings
    assert report.evidence.database.grants == dump.evidence.database.grants
    assert report.evidence.database.comment == "It's odd"
    assert report.notes == ()


def test_a_restore_on_an_empty_server_makes_owners_grants_and_memberships(
    clusters: Clusters, installed: tuple[Programs, ...]
) -> None:
    server = clusters.get(16).server
    source, target = new_name("odd"), new_name("moved")
    make_odd_database(server, source)
    kept = Kept()
    dump = dump_database(server, source, kept, installed=installed, content_hash=True)

    with TemporaryCluster(PROGRAMS[18]) as empty:
        restore(kept, dump, empty.server, target, installed)
        with empty.server.visit(target) as connection:
            found = connection.execute(
                "SELECT pg_has_role('Odd \"Quoted\" Role', 'odd reader', 'MEMBER'),"
                " has_table_privilege('odd reader', 'app.invoices', 'SELECT'), pg_get_userbyid(datdba)"
                " FROM pg_database WHERE datname = current_database()"
            ).fetchone()

    assert found == (True, True, "odd_owner")


def test_a_newer_server_takes_the_dump_of_an_older_one(clusters: Clusters, installed: tuple[Programs, ...]) -> None:
    source, target = new_name("odd"), new_name("newer")
    make_odd_database(clusters.get(16).server, source)
    kept = Kept()

    dump = dump_database(clusters.get(16).server, source, kept, installed=installed, content_hash=True)
    report = restore(kept, dump, clusters.get(17).server, target, installed)

    assert report.evidence.tables == dump.evidence.tables


def test_a_server_is_restored_with_newer_programs_when_its_own_are_not_here(
    clusters: Clusters, installed: tuple[Programs, ...]
) -> None:
    server = clusters.get(16).server
    source, target = new_name("odd"), new_name("newer programs")
    make_odd_database(server, source)
    newer = tuple(programs for programs in installed if programs.major > 16)
    kept = Kept()

    dump = dump_database(server, source, kept, installed=newer, content_hash=True)
    report = restore(kept, dump, server, target, newer)

    assert dump.client_major == 17
    assert report.evidence.tables == dump.evidence.tables


def test_an_older_server_is_refused_before_anything_is_touched(
    clusters: Clusters, installed: tuple[Programs, ...]
) -> None:
    source, target = new_name("odd"), new_name("older")
    make_odd_database(clusters.get(17).server, source)
    kept = Kept()
    dump = dump_database(clusters.get(17).server, source, kept, installed=installed)

    with pytest.raises(RestoreFailed, match="older"):
        restore(kept, dump, clusters.get(16).server, target, installed)


def test_the_evidence_reads_back_from_what_is_stored(postgres: PostgresServer, installed: tuple[Programs, ...]) -> None:
    source = new_name("odd")
    make_odd_database(postgres, source)

    evidence = dump_database(postgres, source, Kept(), installed=installed, content_hash=True).evidence

    assert Evidence.from_json(evidence.to_json()) == evidence


def test_the_content_digest_is_the_same_on_every_version(clusters: Clusters, installed: tuple[Programs, ...]) -> None:
    source = new_name("odd")
    make_odd_database(clusters.get(16).server, source)
    kept = Kept()
    dump = dump_database(clusters.get(16).server, source, kept, installed=installed, content_hash=True)
    digests = {table.label: table.content for table in dump.evidence.tables}

    for major in (17, 18):
        target = new_name("digest")
        restore(kept, dump, clusters.get(major).server, target, installed)
        with clusters.get(major).server.visit(target) as connection:
            counted = count_tables(connection, tables_to_read(connection), content_hash=True)
        assert {table.label: table.content for table in counted} == digests


def test_rows_written_during_the_dump_are_in_no_stream(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    source, target = new_name("busy"), new_name("quiet")
    make_odd_database(postgres, source)
    written: list[str] = []

    def write(artifact: str) -> None:
        if artifact not in written:
            written.append(artifact)
            with postgres.visit(source) as connection:
                connection.execute("INSERT INTO app.parent VALUES (99)")
                connection.execute("DELETE FROM app.payments WHERE id % 2 = 0")

    kept = Kept(write)
    dump = dump_database(postgres, source, kept, installed=installed, content_hash=True, stream_size=8192, parallel=1)
    report = restore(kept, dump, postgres, target, installed)

    assert len(written) > 3
    assert report.evidence.tables == dump.evidence.tables
    assert sum(t.rows for t in dump.evidence.tables if t.name.startswith("payments")) == 6000


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (("invoices",), {"app.invoices"}),
        (("app.payments",), {"app.payments_2025", "app.payments 2026", "app.payments_rest"}),
        (('Table with "quotes", dots. and ünïcode',), {'Odd Schema.Table with "quotes", dots. and ünïcode'}),
        (("invoices", "customers"), {"app.invoices", "app.customers"}),
        (("invoices", "app.invoices", "invoices"), {"app.invoices"}),
    ],
    ids=["one", "a partitioned one", "an odd name", "two", "the same in other spelling"],
)
def test_selected_tables_are_dumped_alone(
    postgres: PostgresServer, installed: tuple[Programs, ...], tables: tuple[str, ...], expected: set[str]
) -> None:
    source = new_name("odd")
    make_odd_database(postgres, source)
    kept = Kept()

    dump = dump_database(postgres, source, kept, installed=installed, selection=Selection(tables=tables))

    assert {table.label for table in dump.evidence.tables} == expected
    assert set(kept.artifacts) == {"dump"}
    listed = subprocess.run(
        [PROGRAMS[17].path("pg_restore"), "--list"], input=kept.artifacts["dump"], capture_output=True, check=True
    ).stdout.decode()
    assert listed.count("TABLE DATA") == len(expected)


def test_definitions_alone_have_no_rows(postgres: PostgresServer, installed: tuple[Programs, ...]) -> None:
    source = new_name("odd")
    make_odd_database(postgres, source)
    kept = Kept()

    dump = dump_database(postgres, source, kept, installed=installed, selection=Selection(schema_only=True))

    assert b"Customer 1" not in kept.artifacts["dump"]
    assert dump.evidence.tables == ()
