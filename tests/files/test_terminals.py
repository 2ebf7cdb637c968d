"""Names of files are whatever somebody made them: commands show them in any encoding, and none acts on a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lifeboat.cli.output import harmless, remark, say, say_error, say_json, say_table
from lifeboat.errors import SettingsError
from tests.cli.conftest import Place

NAMES = (
    "umlaut ä",
    "smile 😀",
    "red \x1b[31m",
    "title \x1b]0;gone\x07",
    "csi \x9b31m",
    "turned \u202egpj",
    "two\nlines\r",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("terminals")
    made = Place(folder, "", ("lifeboat:identity", "lifeboat:signing"))
    for name in ("tree", "first"):
        (folder / name).mkdir()
    for name in NAMES:
        (folder / "tree" / name).touch()
    Path(os.fsdecode(os.fsencode(folder) + b"/tree/not utf-8 \xff")).touch()
    (folder / "tree" / "link").symlink_to("there \x1b[2J\x9b")
    (folder / "platform.yaml").write_text(
        f"""\
platform: files
recipients: [operations, escrow]
state: {folder}/state
repositories: [{{name: first, url: file://{folder}/first}}]
sources:
  files: [{{name: uploads, path: {folder}/tree}}]
"""
    )
    keys = {"conn_type": "generic", "extra": {"keyring": str(made.keyring)}}
    (folder / ".env").write_text(f"AIRFLOW_CONN_LIFEBOAT_KEYS={json.dumps(keys)}\n")
    made.run("init")
    made.run("backup", "uploads")
    return made


TERMINALS: dict[str, dict[str, str]] = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "the C locale": {"LC_ALL": "C"},
    "the C locale as it is": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "utf-8": {"PYTHONIOENCODING": "utf-8:strict"},
}


@pytest.mark.parametrize("variables", TERMINALS.values(), ids=TERMINALS)
def test_files_of_any_name_are_shown_on_a_terminal_of_any_encoding(place: Place, variables: dict[str, str]) -> None:
    found = place.run_alone("files", "find", "uploads", "*", **variables).out
    listed: Any = json.loads(place.run_alone("files", "ls", "uploads", "--json", **variables).out)

    assert len(found.splitlines()) == len(NAMES) + 3
    assert r"\xff" in found
    assert r"title \x1b]0;gone\x07" in found
    assert r"-> there \x1b[2J\x9b" in found
    assert harmless(found) == found
    paths = [entry["path"] for entry in listed["entries"]]
    assert "umlaut ä" in paths
    assert "smile 😀" in paths


def test_help_and_errors_are_shown_on_a_terminal_that_knows_ascii_alone(place: Place) -> None:
    assert "Exit codes" in place.run_alone("--help", PYTHONIOENCODING="ascii").out
    said = place.run_alone("files", "find", "ünknown", "*", expect=3, PYTHONIOENCODING="ascii").err

    assert "Error: " in said


def test_what_a_terminal_acts_on_is_escaped_in_every_text_that_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    say("a table \x1b[2J")
    remark("a note \x1b[2J")
    say_error(SettingsError("a fault \x1b[2J", hint="a remedy \x1b[2J"))
    say_table(["name"], [["a cell \x1b[2J"]])
    say_json({"name": "a field \x9b2J"})

    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert shown.count(r"\x1b[2J") == 5
    assert r"a field \u009b2J" in shown
    assert harmless("a\x1b[31m\tb\nc\x07 \x9b \u202e ä") == "a\\x1b[31m\tb\nc\\x07 \\x9b \\u202e ä"
