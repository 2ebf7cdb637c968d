"""What is wrong with settings, connections, keys or the command itself is said in words, with its exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lifeboat.cli.app import main
from lifeboat.cli.exit_codes import MEANINGS

PLATFORM = """\
platform: SME
recipients: [operations, escrow]
repositories:
  - name: local
    url: file://{folder}/repository
sources:
  databases:
    - name: receivables
      connection: platform_db
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good platform.yaml and a local repository, made the working folder, with nothing set."""
    (tmp_path / "platform.yaml").write_text(PLATFORM.format(folder=tmp_path))
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFEBOAT_PLATFORM", "platform.yaml")
    return tmp_path


def ends(*arguments: str) -> int:
    """Run a command in this process and return its exit code."""
    before = sys.argv
    sys.argv = ["lifeboat", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends("--help") == 0

    said = capsys.readouterr().out
    for command in ("init", "keys", "preflight", "backup", "list", "show", "verify", "replicate", "restore"):
        assert command in said
    for code, meaning in MEANINGS.items():
        assert f"{code}  {meaning.split()[0]}" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("backup",),
        ("restore", "x"),
        ("list", "--nonsense"),
        ("restore", "x", "--to-database", "y", "--jobs", "0"),
    ],
    ids=["unknown command", "argument left out", "option left out", "unknown option", "no jobs"],
)
def test_a_command_that_is_not_understood_ends_with_2(folder: Path, arguments: tuple[str, ...]) -> None:
    assert ends(*arguments) == 2


def test_every_problem_of_the_platform_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "platform.yaml").write_text("platfrom: SME\nrecipients: [operations]\n")

    assert ends("list") == 3

    said = capsys.readouterr().err
    assert "platform.yaml:1  platfrom: there is no such key" in said
    assert "platform.yaml:2  recipients = ['operations']" in said
    assert "Hint:" in said
    assert "Traceback" not in said


def test_the_option_comes_before_the_variable(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends("list", "--platform", "other.yaml") == 3

    assert "There is no file other.yaml" in capsys.readouterr().err


def test_a_missing_connection_is_named_with_its_line_and_variable(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends("list") == 3

    said = capsys.readouterr().err
    assert "platform.yaml:1 names the connection 'lifeboat_keys', which does not exist" in said
    assert "AIRFLOW_CONN_LIFEBOAT_KEYS" in said


def test_init_without_a_keyring_asks_for_one_and_makes_it_where_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends("init") == 3
    assert "--keyring" in capsys.readouterr().err

    assert ends("init", "--keyring", "keys") == 0
    said = capsys.readouterr()
    value = json.dumps({"conn_type": "generic", "extra": {"keyring": str(folder / "keys")}})
    assert f"AIRFLOW_CONN_LIFEBOAT_KEYS='{value}'" in said.err

    (folder / ".env").write_text(f"AIRFLOW_CONN_LIFEBOAT_KEYS='{value}'\n")
    assert ends("list") == 0


def test_the_environment_comes_before_the_env_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends("init", "--keyring", "keys")
    (folder / "some.env").write_text(f"AIRFLOW_CONN_LIFEBOAT_KEYS=generic://?keyring={folder}/keys\n")
    assert ends("list", "--env-file", "some.env") == 0

    monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_KEYS", f"generic://?keyring={folder}/none")

    assert ends("list", "--env-file", "some.env") == 3
    assert "There is no keyring at" in capsys.readouterr().err


def test_a_malformed_env_file_is_named_by_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / ".env").write_text("GOOD=1\nAIRFLOW_CONN_A='hunter2\n")

    assert ends("list") == 3

    said = capsys.readouterr().err
    assert ".env:2 is not of the form KEY=value" in said
    assert "hunter2" not in said


KEYRINGS = {
    "relative": ('{"extra": {"keyring": "keys"}}', "not an absolute path"),
    "neither": ('{"conn_type": "generic"}', "either `keyring` or `keys`"),
    "both": ('{"extra": {"keyring": "/k", "keys": {"a.recipient": "hunter2"}}}', "either `keyring` or `keys`"),
    "no text": ('{"extra": {"keys": {"a.recipient": ["hunter2"]}}}', "either `keyring` or `keys`"),
    "no key": ('{"extra": {"keys": {"a.recipient": "hunter2"}}}', "a.recipient is no recipient"),
    "no role": ('{"extra": {"keys": {"a": "hunter2"}}}', "is not a key's name"),
}


@pytest.mark.parametrize(("connection", "reason"), KEYRINGS.values(), ids=KEYRINGS.keys())
def test_a_connection_that_leads_to_no_keys_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, connection: str, reason: str
) -> None:
    ends("init", "--keyring", "keys")
    monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_KEYS", connection)

    assert ends("list") == 3

    said = capsys.readouterr().err
    assert reason in said
    assert "hunter2" not in said


def test_keys_may_stand_in_the_connection_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends("init", "--keyring", "keys")
    keys = {path.name: path.read_text() for path in (folder / "keys").iterdir()}
    monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_KEYS", json.dumps({"conn_type": "generic", "extra": {"keys": keys}}))

    assert ends("list") == 0
    assert ends("init") == 0
    assert ends("keys", "new", "other") == 3


def test_a_private_key_that_others_can_read_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends("init", "--keyring", "keys")
    (folder / ".env").write_text(f"AIRFLOW_CONN_LIFEBOAT_KEYS=generic://?keyring={folder}/keys\n")
    (folder / "keys" / "escrow.identity").chmod(0o644)

    assert ends("list") == 3

    assert "can be read by others" in capsys.readouterr().err


def test_init_completes_keys_that_were_cut_short(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends("init", "--keyring", "keys")
    keys = folder / "keys"
    before = {path.name: path.read_text() for path in keys.iterdir()}
    for name in ("operations.recipient", "backup-host.signer"):
        (keys / name).unlink()

    assert ends("init", "--keyring", "keys") == 0

    assert {path.name: path.read_text() for path in keys.iterdir()} == before


def test_with_debug_the_place_in_the_code_is_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lifeboat.errors import SettingsError

    monkeypatch.setenv("LIFEBOAT_DEBUG", "1")

    with pytest.raises(SettingsError):
        ends("list")
