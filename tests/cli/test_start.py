"""A command starts fast: it imports what it needs, and not what others need."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lifeboat.cli.app import COMMANDS, Command, load

INCLUDE = str(Path(__file__).parents[2] / "include")

HEAVY = ("boto3", "botocore", "azure", "psycopg", "redis", "jinja2", "requests")
"""What takes long to import, and is needed by commands that use it."""

IMPORTED = """
import runpy, sys
sys.argv = ["lifeboat", *sys.argv[1:]]
try:
    runpy.run_module("lifeboat", run_name="__main__")
except SystemExit as end:
    print("ended", end.code, *sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["--help"], (*HEAVY, "pydantic", "cryptography", "sqlite3")),
        (["backup", "--help"], HEAVY),
        (["files", "restore", "--help"], HEAVY),
        (["list", "--help"], HEAVY),
        (["prune", "--help"], HEAVY),
        (["config", "restore", "--help"], HEAVY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_nothing_heavy_to_begin_with(arguments: list[str], unneeded: tuple[str, ...]) -> None:
    imported = modules_after(arguments)

    assert "typer" in imported
    assert not [name for name in unneeded if name in imported]


def test_backing_a_tree_up_to_a_disk_imports_no_database_and_no_provider(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "note").write_text("hello")
    (tmp_path / "platform.yaml").write_text(
        f"platform: small\nrecipients: [operations, escrow]\nstate: {tmp_path}/state\n"
        f"repositories:\n  - name: local\n    url: file://{tmp_path}/repository\n"
        f"sources:\n  files:\n    - name: tree\n      path: {tmp_path}/tree\n"
    )
    keys = f'AIRFLOW_CONN_LIFEBOAT_KEYS={{"conn_type": "generic", "extra": {{"keyring": "{tmp_path}/keys"}}}}\n'
    (tmp_path / ".env").write_text(keys)
    options = ["--platform", f"{tmp_path}/platform.yaml", "--env-file", f"{tmp_path}/.env"]
    modules_after(["init", *options])

    for command in (["backup", "tree"], ["files", "restore", "tree", "--to", f"{tmp_path}/restored"]):
        imported = modules_after([*command, *options])

        assert not [name for name in (*HEAVY, "rich") if name in imported], command
    assert (tmp_path / "restored" / "note").read_text() == "hello"


@pytest.mark.parametrize(("name", "command"), COMMANDS.items(), ids=COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name: str, command: Command) -> None:
    loaded = load(command)

    own = loaded.info.help if isinstance(loaded, typer.Typer) else inspect.getdoc(loaded)
    assert " ".join(str(own).split("\n\n")[0].split()) == command.help, name


def modules_after(arguments: list[str]) -> set[str]:
    """The modules that a command has imported when it ends well."""
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTED, *arguments],
        env={"PYTHONPATH": INCLUDE},
        capture_output=True,
        text=True,
        check=False,
    )
    said = ended.stderr.splitlines()[-1].split()
    assert said[:2] in (["ended", "0"], ["ended", "None"]), ended.stderr
    return set(said[2:])
