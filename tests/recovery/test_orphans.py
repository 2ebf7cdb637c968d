"""Rows and files are held against each other, on a real server and a real tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg import sql

from lifeboat.errors import LifeboatError, SettingsError, SourceError, SourceUnavailable
from lifeboat.postgres.connection import PostgresServer
from lifeboat.recovery.orphans import Orphans, find_orphans
from tests.fixtures_postgres import new_name

INCLUDE = str(Path(__file__).parents[2] / "include")
QUERY = "SELECT path FROM documents"


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    name = new_name("orphans")
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def name(postgres: PostgresServer, database: str, *paths: object) -> None:
    with postgres.visit(database) as connection:
        connection.execute("DROP TABLE IF EXISTS documents; CREATE TABLE documents (path text)")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO documents VALUES (%s)", [[path] for path in paths])


def test_what_fits_has_no_orphans(postgres: PostgresServer, database: str, root: Path) -> None:
    write(root, "a.pdf", "2026/b ä.pdf", "2026/c")
    name(postgres, database, "a.pdf", "./2026//b ä.pdf", f"{root}/2026/c", "a.pdf", None, "")

    assert find_orphans(postgres, database, QUERY + " ; ", root) == Orphans(3, 3, 0, 0)


def test_rows_that_name_the_folder_the_tree_had_before_are_understood(
    postgres: PostgresServer, database: str, root: Path
) -> None:
    write(root, "a", "b")
    name(postgres, database, "/app/uploads/a", f"{root}/b", "/app/other/c")

    found = find_orphans(postgres, database, QUERY, root, also="/app/uploads")

    assert (found.missing, found.first_missing, found.unnamed) == (1, ("/app/other/c",), 0)


def test_rows_without_files_and_files_without_rows_are_counted_and_named(
    postgres: PostgresServer, database: str, root: Path
) -> None:
    write(root, "there", "unnamed/1", "unnamed/2", "unnamed/3")
    (root / "folder").mkdir()
    name(postgres, database, "there", "gone/1", "gone/2", "gone/3", "../outside", "/etc/passwd")

    found = find_orphans(postgres, database, QUERY, root, limit=2)

    assert (found.named, found.files, found.missing, found.unnamed) == (6, 4, 5, 3)
    assert found.first_missing == ("../outside", "/etc/passwd")
    assert found.first_unnamed == ("unnamed/1", "unnamed/2")
    assert found.record()["missing"] == 5


def test_bytes_links_and_names_that_are_no_text_are_held_against_each_other(
    postgres: PostgresServer, database: str, root: Path
) -> None:
    odd = os.fsencode(root) + b"/odd \xff"
    with open(odd, "wb"):  # noqa: PTH123 - bytes
        pass
    (root / "link").symlink_to("nowhere")

    found = find_orphans(postgres, database, r"SELECT * FROM (VALUES ('\x6f646420ff'::bytea), ('link')) v", root)

    assert found == Orphans(2, 2, 0, 0)


def test_files_that_snapshots_leave_out_are_not_missed_in_rows(
    postgres: PostgresServer, database: str, root: Path
) -> None:
    write(root, "a", "cache/1", "b.tmp")
    name(postgres, database, "a")

    assert find_orphans(postgres, database, QUERY, root, leave_out=("cache/", "*.tmp")).unnamed == 0


def test_the_query_can_change_nothing(postgres: PostgresServer, database: str, root: Path) -> None:
    name(postgres, database, "a")
    with postgres.visit(database) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION greedy() RETURNS text LANGUAGE sql AS"
            " $$ DELETE FROM documents; SELECT 'a'::text $$"
        )

    with pytest.raises(SourceError, match="read-only transaction"):
        find_orphans(postgres, database, "SELECT greedy()", root)

    with postgres.visit(database) as connection:
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (1,)


@pytest.mark.parametrize(
    "query",
    ["SELECT path, 1 AS one FROM documents", "SELECT pg_sleep(60)::text",
     "SELECT n::text FROM generate_series(1, 100000000) n"],
    ids=["two columns", "sleeps", "never ends"],
)  # fmt: skip
def test_a_query_of_another_form_or_length_is_refused(
    postgres: PostgresServer, database: str, root: Path, query: str
) -> None:
    name(postgres, database, "a")

    with pytest.raises(SettingsError, match=r"2 columns, path, one|taken more than 1 s") as refused:
        find_orphans(postgres, database, query, root, seconds=1)

    assert "named_by" in refused.value.hint


def test_what_is_not_there_is_said(postgres: PostgresServer, database: str, root: Path, tmp_path: Path) -> None:
    name(postgres, database, "a")

    with pytest.raises(LifeboatError, match="no_such_table"):
        find_orphans(postgres, database, "SELECT path FROM no_such_table", root)
    with pytest.raises(SourceUnavailable, match="cannot be read: No such file"):
        find_orphans(postgres, database, QUERY, tmp_path / "nowhere")


@pytest.mark.slow
def test_memory_is_constant(postgres: PostgresServer, database: str, root: Path) -> None:
    def peak(rows: int) -> int:
        """The most memory, in KiB, that a process of its own takes for so many rows."""
        code = (
            "import sys; from pathlib import Path; from lifeboat.postgres.connection import PostgresServer;"
            "from lifeboat.recovery.orphans import find_orphans; import resource;"
            "server = PostgresServer(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.stdin.read());"
            "name = \"'a folder with a name/a file with a long name ' || n\";"
            "query = f'SELECT {name} FROM generate_series(1, {sys.argv[6]}) n';"
            "found = find_orphans(server, sys.argv[4], query, Path(sys.argv[5]));"
            "assert found.missing == int(sys.argv[6]), found;"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        arguments = [postgres.host, str(postgres.port), postgres.user, database, str(root), str(rows)]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            input=postgres.password,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": INCLUDE},
        )
        return int(done.stdout)

    assert peak(600_000) < peak(20_000) + 16_000
