"""Names and rows come back whatever the encoding of their database, and bytes that are no text as they were."""

from __future__ import annotations

import pytest
from psycopg import sql

from lifeboat.errors import SourceRefused
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import check_database, dump_database
from lifeboat.postgres.evidence import Evidence
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.restore import restore_database
from lifeboat.postgres.selection import Selection
from lifeboat.postgres.side_schema import copy_into_schema
from lifeboat.postgres.tables import replace_rows
from tests.fixtures_postgres import new_name
from tests.postgres.artifacts import Kept, restore

pytestmark = pytest.mark.slow

SCRIPT = """
CREATE TABLE "Kündigung" (id int PRIMARY KEY, "Straße" text DEFAULT 'Öl', CHECK ("Straße" <> 'ß'));
CREATE INDEX "nach Straße" ON "Kündigung" ("Straße");
INSERT INTO "Kündigung" SELECT n, 'Grüße ' || n FROM generate_series(1, 500) n;
CREATE TABLE "größere" (id int REFERENCES "Kündigung");
INSERT INTO "größere" SELECT 1 + n % 500 FROM generate_series(1, 2000) n;
CREATE SEQUENCE "Zähler"; SELECT setval('"Zähler"', 7);
CREATE VIEW "Übersicht" AS SELECT "Straße" FROM "Kündigung";
COMMENT ON TABLE "Kündigung" IS 'für später';
"""

ENCODINGS = {"SQL_ASCII": "latin-1", "LATIN1": "latin-1", "WIN1252": "cp1252", "EUC_JP": "euc_jp", "UTF8": "utf-8"}


def make(server: PostgresServer, encoding: str, script: str = SCRIPT, *, codec: str | None = None) -> str:
    """A database in an encoding, made by a client that speaks it."""
    name = new_name(encoding.lower())
    with server.visit("postgres") as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0").format(
                sql.Identifier(name), sql.Literal(encoding)
            )
        )
    with server.visit(name) as connection:
        connection.execute(sql.SQL("SET client_encoding = {}").format(sql.Literal(encoding)))
        connection.execute(script.encode(codec or ENCODINGS[encoding]))
    return name


def whole(server: PostgresServer, database: str) -> dict[str, bytes]:
    """Names and rows as bytes."""
    with server.visit(database) as connection:
        connection.execute("SET client_encoding = 'SQL_ASCII'")
        with connection.cursor().copy(
            "COPY (SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1) TO STDOUT"
        ) as rows:
            found = {"names": b"".join(bytes(row) for row in rows)}
        names = [n for n in found["names"].split(b"\n") if n.lower().startswith((b"k", b"gr")) and b"pkey" not in n]
        for name in names:
            with connection.cursor().copy(b'COPY "' + name + b'" TO STDOUT') as rows:
                found[name.hex()] = b"".join(bytes(row) for row in rows)
    return found


@pytest.mark.parametrize("stream_size", [1, None], ids=["every table a stream", "one stream"])
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "WIN1252", "UTF8"])
def test_a_database_comes_back_in_its_own_encoding(
    postgres: PostgresServer, installed: tuple[Programs, ...], encoding: str, stream_size: int | None
) -> None:
    source, target, kept = make(postgres, encoding), new_name("back"), Kept()

    check_database(postgres, source, installed)
    dump = dump_database(
        postgres, source, kept, installed=installed, content_hash=True, stream_size=stream_size, parallel=2
    )
    report = restore(kept, dump, postgres, target, installed)

    assert (len(kept.tables) > 1) is (stream_size == 1)
    assert Evidence.from_json(dump.evidence.to_json()) == dump.evidence
    assert report.evidence.rows == dump.evidence.rows == 2500
    assert whole(postgres, target) == whole(postgres, source)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_some_tables_come_back_by_name_and_into_a_schema(
    postgres: PostgresServer, installed: tuple[Programs, ...], encoding: str
) -> None:
    # A database of bytes is asked for by names that are UTF-8 there.
    source = make(postgres, encoding, codec="utf-8" if encoding == "SQL_ASCII" else None)
    side, kept = new_name("side"), Kept()
    dump = dump_database(postgres, source, kept, installed=installed, stream_size=1)

    restore_database(
        postgres, side, kept.open, evidence=dump.evidence, dump_major=dump.client_major,
        row_artifacts=[*kept.tables, "dump"], with_globals=True, installed=installed,
        selection=Selection(("Kündigung", "größere")),
    )  # fmt: skip
    replace_rows(postgres, source, side, [("public", "Kündigung"), ("public", "größere")], replace_live_rows=True)
    made = copy_into_schema(postgres, source, side, "früher", installed=installed)

    assert made.rows == {"früher.Kündigung": 500, "früher.größere": 2000}


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_tables_that_were_chosen_are_dumped_by_name(
    postgres: PostgresServer, installed: tuple[Programs, ...], encoding: str
) -> None:
    source = make(postgres, encoding, codec="utf-8" if encoding == "SQL_ASCII" else None)

    dump = dump_database(
        postgres, source, Kept(), installed=installed, selection=Selection(("Kündigung",)), stream_size=1
    )

    assert [(table.name, table.rows) for table in dump.evidence.tables] == [("Kündigung", 500)]


def test_a_role_and_a_default_of_the_client_s_encoding_do_not_bend_a_dump(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    source = make(postgres, "UTF8", SCRIPT + "INSERT INTO \"Kündigung\" VALUES (0, '日本')")
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} SET client_encoding = 'LATIN1'").format(sql.Identifier(source)))
    kept = Kept()

    dump = dump_database(postgres, source, kept, installed=installed, content_hash=True)
    restore(kept, dump, postgres, new_name("back"), installed)


def test_a_name_of_bytes_that_are_no_text_is_told_as_what_it_is(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    source = make(postgres, "SQL_ASCII", SCRIPT + 'ALTER TABLE "Kündigung" ENABLE ROW LEVEL SECURITY;')
    with postgres.visit("postgres") as admin:
        admin.execute("CREATE ROLE bytes_reader LOGIN PASSWORD 'x' IN ROLE pg_read_all_data")
    reader = PostgresServer(postgres.host, postgres.port, "bytes_reader", "x")

    with pytest.raises(SourceRefused) as refused:
        check_database(reader, source, installed)

    assert r"K\xfcndigung" in refused.value.message
    refused.value.message.encode()
