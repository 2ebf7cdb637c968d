"""Smoke checks: each has a result, whatever it meets, and none can write or hide another."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from lifeboat import smoke
from lifeboat.children import Children
from lifeboat.errors import EndedFromOutside, SettingsError
from lifeboat.postgres.connection import PostgresServer
from lifeboat.settings import load_platform
from lifeboat.smoke import CheckResult, SmokeChecks, SqlCheck, read_sql_checks, run_checks
from tests.settings.test_settings import GOOD


def ask(server: PostgresServer, database: str, sql: str, expected: Any, seconds: float = 10) -> CheckResult:
    (result,) = run_checks(server, database, SmokeChecks(sql=(SqlCheck("it", sql, expected, seconds),)))
    return result


def execute(server: PostgresServer, database: str, *command: str) -> CheckResult:
    (result,) = run_checks(server, database, SmokeChecks(command=command))
    return result


@pytest.mark.parametrize(
    ("sql", "expected", "passes", "found"),
    [
        ("SELECT count(*) FROM orders", 2000, True, "2000"),
        ("SELECT count(*) FROM orders", 1999, False, "2000"),
        ("SELECT true", True, True, "true"),
        ("SELECT true", 1, False, "true"),
        ("SELECT 1", True, False, "1"),
        ("SELECT 0.1", 0.1, True, "0.1"),
        ("SELECT 12.50", 12.5, True, "12.50"),
        ("SELECT 'x'", "x", True, "x"),
        ("SELECT date '2026-11-23'", "2026-11-23", True, "2026-11-23"),
        ("SELECT NULL", None, True, "null"),
        ("SELECT NULL", 0, False, "null"),
        ("SELECT 100 WHERE '50%' LIKE '%\\%'", 100, True, "100"),
        ("SELECT 1 WHERE false", 1, False, "no row"),
        ("SELECT 1, 2", 1, False, "more than one value"),
        ("SELECT generate_series(1, 100000000)", 1, False, "more than one value"),
        ("SELECT 1; SELECT 1", 1, False, "multiple commands"),
        ("SELECT nothing", 1, False, 'column "nothing" does not exist'),
        ("SELECT 1 FROM", 1, False, "syntax error"),
        ("DO $$ BEGIN END $$", 1, False, "didn't produce"),
        ("SELECT repeat('x', 1000)", 1, False, "x" * 200 + "…"),
        ("DELETE FROM orders RETURNING 1", 1, False, "read-only transaction"),
        ("CREATE TABLE t ()", 1, False, "read-only transaction"),
    ],
)
def test_a_question_passes_only_with_the_one_right_value(
    postgres: PostgresServer, orders: str, sql: str, expected: Any, passes: bool, found: str
) -> None:
    result = ask(postgres, orders, sql, expected)

    assert result.passed is passes
    assert found in result.found


def test_a_question_that_hangs_has_failed_and_the_others_are_asked(postgres: PostgresServer, orders: str) -> None:
    hanging, next_one = SqlCheck("hangs", "SELECT pg_sleep(3600)", "", 0.3), SqlCheck("is", "SELECT 1", 1)

    first, second = run_checks(postgres, orders, SmokeChecks(sql=(hanging, next_one)))

    assert (first.passed, first.found) == (False, "no answer within 0.3 s")
    assert first.seconds >= 0.3
    assert second.passed


def test_a_database_that_is_not_there_fails_every_check(postgres: PostgresServer) -> None:
    result = ask(postgres, "nowhere", "SELECT 1", 1)

    assert not result.passed
    assert "no database 'nowhere'" in result.found


SHOW = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"


def test_the_command_finds_the_scratch_database_and_no_way_to_the_real_one(
    postgres: PostgresServer, orders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://live")
    monkeypatch.setenv("AIRFLOW_CONN_PLATFORM_DB", "postgres://live")
    monkeypatch.setenv("LIFEBOAT_PLATFORM", "live.yaml")
    monkeypatch.setenv("PGDATABASE", "live")

    result = execute(postgres, orders, sys.executable, "-c", SHOW, str(tmp_path / "seen"))

    assert result.passed, result.found
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["DATABASE_URL"].endswith(f"@127.0.0.1:{postgres.port}/{orders}")
    assert (seen["PGHOST"], seen["PGPORT"], seen["PGDATABASE"]) == (postgres.host, str(postgres.port), orders)
    assert not [name for name, value in seen.items() if "live" in value]


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["sh", "-c", "echo all is lost >&2; exit 3"], "exit status 3: all is lost"),
        (["sh", "-c", "echo on standard output; exit 1"], "exit status 1: on standard output"),
        (["no-such-program"], "no-such-program"),
        (["sh", "-c", 'echo "$DATABASE_URL $PGPASSWORD"; exit 1'], "postgresql://postgres:…@"),
    ],
    ids=["fails", "fails on stdout", "is not there", "shows the password"],
)
def test_a_command_that_fails_is_a_failed_result(
    postgres: PostgresServer, orders: str, command: list[str], found: str
) -> None:
    result = execute(postgres, orders, *command)

    assert not result.passed
    assert found in result.found
    assert postgres.password not in result.found


def test_a_command_that_hangs_is_ended(postgres: PostgresServer, orders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "COMMAND_SECONDS", 0.3)

    result = execute(postgres, orders, "sleep", "3600")

    assert (result.passed, result.found) == (False, "no end within 0.3 s")


def test_a_command_is_ended_with_its_job_and_is_then_no_failed_check(postgres: PostgresServer, orders: str) -> None:
    children = Children()
    threading.Timer(0.5, children.kill).start()

    with pytest.raises(EndedFromOutside):
        run_checks(postgres, orders, SmokeChecks(command=("sleep", "3600")), children=children)


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        wanted = self.path.strip("/").partition("?")[0]
        if wanted == "hangs":
            time.sleep(1)
        self.send_response(200 if wanted == "hangs" else int(wanted))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "passes", "found"),
    [
        ("/200", True, "status 200"),
        ("/204", True, "status 204"),
        ("/404", False, "status 404"),
        ("/500", False, "status 500"),
        ("/hangs", False, "timed out"),
    ],
)
def test_an_address_passes_when_it_answers_with_success(
    postgres: PostgresServer, web: str, path: str, passes: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "URL_SECONDS", 0.5)

    (result,) = run_checks(postgres, "any", SmokeChecks(url=f"{web}{path}?token=secret"))

    assert (result.passed, result.name) == (passes, f"GET {web}{path}")
    assert found in result.found


def test_an_address_where_nobody_listens_is_a_failed_result(postgres: PostgresServer, web: str) -> None:
    (result,) = run_checks(postgres, "any", SmokeChecks(url="http://127.0.0.1:1/health"))

    assert not result.passed
    assert "refused" in result.found


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ":1 must be a list"),
        ("a: 1", ":1 must be a list"),
        ("- x", ":1  is not a check."),
        ("- name: a\n  sql: SELECT 1\n", ":1  `expected` is missing."),
        ("- name: a\n  expected: 1\n", ":1  `sql` is missing."),
        ("- sql: SELECT 1\n  expected: 1\n", ":1  `name` is missing."),
        ("- name: a\n  sql: [1]\n  expected: 1\n", ":2  `sql` is wrong."),
        ("- name: a\n  sql: SELECT 1\n  expected: [1]\n", ":3  `expected` is wrong."),
        ("- name: a\n  sql: SELECT 1\n  expected: 1\n  seconds: 0\n", ":4  `seconds` is wrong."),
        ("- name: a\n  sql: SELECT 1\n  expected: 1\n  limit: 3\n", ":4  There is no key `limit`."),
        ("- name: a\n  name: b\n  sql: SELECT 1\n  expected: 1\n", ":2  `name` is given twice."),
        ("- {name: a, sql: SELECT 1, expected: 1}\n" * 2, ":2  `name` is another check's too."),
        ("- name: [", ":1 is not YAML"),
    ],
)
def test_what_is_wrong_in_a_file_of_checks_is_named_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "checks.yaml"
    file.write_text(text)

    with pytest.raises(SettingsError) as caught:
        read_sql_checks(file)

    assert f"{file}{told}" in caught.value.message


def platform(folder: Path, smoke_settings: str) -> Path:
    file = folder / "platform.yaml"
    file.write_text(GOOD + dedent(smoke_settings).replace("\n", "\n      ").join(["      ", "\n"]))
    return file


def test_a_database_names_its_checks_beside_platform_yaml(tmp_path: Path) -> None:
    (tmp_path / "checks.yaml").write_text("- name: a\n  sql: SELECT 1\n  expected: 1\n")
    file = platform(
        tmp_path,
        "smoke_checks: checks.yaml\nsmoke_command: [./smoke.sh, --quick]\nsmoke_url: https://platform/health?deep=1",
    )

    assert load_platform(file).smoke_checks("receivables") == SmokeChecks(
        (SqlCheck("a", "SELECT 1", 1),), (str(tmp_path / "smoke.sh"), "--quick"), "https://platform/health?deep=1"
    )


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (
            "smoke_checks: checks.yaml",
            "platform.yaml:11  sources.databases[0].smoke_checks = 'checks.yaml': there is no",
        ),
        ("smoke_checks: wrong.yaml", "wrong.yaml:1 must be a list"),
        ("smoke_command: ./smoke.sh", "platform.yaml:11  sources.databases[0].smoke_command"),
        ("smoke_command: []", "platform.yaml:11  sources.databases[0].smoke_command"),
        ("smoke_command: [smoke, 7]", "platform.yaml:11  sources.databases[0].smoke_command"),
        ("smoke_url: ftp://platform", "platform.yaml:11  sources.databases[0].smoke_url"),
        ("smoke_url: http://me:secret@platform", "An address has no credentials."),
    ],
)
def test_wrong_smoke_settings_are_found_when_platform_yaml_is_read(tmp_path: Path, setting: str, told: str) -> None:
    (tmp_path / "wrong.yaml").write_text("")

    with pytest.raises(SettingsError) as caught:
        load_platform(platform(tmp_path, setting))

    assert told in caught.value.message
    assert "secret" not in str(caught.value)
