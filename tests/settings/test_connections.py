"""Connections are read exactly as Airflow reads them, and never repeated in a message."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lifeboat.connections import (
    connections_in,
    parse_connection,
    require_connection,
)
from lifeboat.env_file import read_env_file
from lifeboat.errors import SettingsError

INCLUDE = str(Path(__file__).parents[2] / "include")

URIS = {
    "all parts": "postgres://user:secret@db.example.com:5432/orders",
    "type is renamed": "postgresql://user:secret@host/orders",
    "dashes in the type": "google-cloud-platform://?project=x",
    "capitals in the type": "POSTGRES://user:secret@host/orders",
    "capitals in the host": "postgres://user:secret@DB.Example.COM/orders",
    "percent-encoded": "postgres://us%40er:p%40ss%2Fw%3Ard%25@host:5432/odd%20name%2F1",
    "plus is not a space": "postgres://user:a+b@host/a+b",
    "socket folder": "postgres://user@%2FVar%2Frun%2FPG:5433/orders",
    "no host": "postgres://user:secret@/orders",
    "no user": "postgres://host/orders",
    "empty user": "aws://:secret@/",
    "only a type": "aws://",
    "type and slash": "aws:///",
    "port alone": "postgres://@:5432",
    "IPv6": "postgres://user:secret@[2001:db8::1]:5432/orders",
    "protocol inside": "wasb://https://user:secret@account.blob.core.windows.net:443/container",
    "http inside http": "http://https://host/path",
    "parameters": "postgres://user@host/orders?sslmode=require&sslrootcert=%2Fetc%2Fca.pem",
    "parameters that are JSON": "aws://key:secret@/?verify=false&retries=7&config_kwargs=%7B%22a%22%3A+1%7D&region_name=eu",
    "blank parameter": "aws://key:secret@/?region_name=",
    "parameter given twice": "aws://key:secret@/?region_name=a&region_name=b",
    "extra as JSON": "aws://key:secret@/?__extra__=%7B%22endpoint_url%22%3A+%22http%3A%2F%2F127.0.0.1%3A9000%22%7D",
    "extra beside others": "aws://key:secret@/?region_name=eu&__extra__=%7B%22a%22%3A+%7B%22b%22%3A+1%7D%7D",
    "white space around": "  postgres://user:secret@host/orders \n",
    "fragment": "postgres://user:secret@host/orders#part",
}

JSONS = {
    "all keys": {
        "conn_type": "postgres",
        "description": "orders",
        "host": "h",
        "login": "user",
        "password": "p@ss:w/rd",
        "schema": "orders",
        "port": 5432,
        "extra": {"sslmode": "require", "nested": {"a": [1, True, None]}},
    },
    "port as text": {"conn_type": "postgres", "host": "h", "port": "5432"},
    "extra as text": {"conn_type": "aws", "extra": '{"region_name": "eu-central-1"}'},
    "type is renamed": {"conn_type": "postgresql", "host": "h"},
    "dashes in the type": {"conn_type": "google-cloud-platform"},
    "nothing but a type": {"conn_type": "wasb"},
    "empty values": {"conn_type": "wasb", "host": "", "login": None, "port": None, "extra": {}},
}


TEXTS = {f"uri {name}": uri for name, uri in URIS.items()} | {
    f"json {name}": json.dumps(record) for name, record in JSONS.items()
}


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How Airflow reads each text: as `model`, as `sdk` (within a task), and the `uri` it would write."""
    home = tmp_path_factory.mktemp("airflow")
    answer = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("as_airflow_reads.py"))],
        input=json.dumps(list(TEXTS.values())),
        env={**os.environ, "AIRFLOW_HOME": str(home), "PYTHONPATH": INCLUDE},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    # Airflow logs to standard output too; the answer is the last line.
    return dict(zip(TEXTS, json.loads(answer.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", TEXTS)
def test_a_connection_is_read_as_airflow_reads_it(name: str, airflow: dict[str, dict[str, Any]]) -> None:
    assert vars(parse_connection("some_id", TEXTS[name])) == airflow[name]["model"]


@pytest.mark.parametrize("name", TEXTS)
def test_a_connection_is_read_as_a_task_reads_it_but_for_json_in_parameters(
    name: str, airflow: dict[str, dict[str, Any]]
) -> None:
    ours, theirs = vars(parse_connection("some_id", TEXTS[name])), airflow[name]["sdk"]

    # Within a task Airflow leaves each parameter of a URI a text, so whoever reads `extra` must take both.
    if name.startswith("uri") and "__extra__" not in TEXTS[name]:
        theirs["extra"] = {key: json_or_text(value) for key, value in theirs["extra"].items()}
    assert ours == theirs


@pytest.mark.parametrize("name", TEXTS)
def test_what_airflow_writes_is_read_back(name: str, airflow: dict[str, dict[str, Any]]) -> None:
    assert vars(parse_connection("some_id", airflow[name]["uri"])) == airflow[name]["model"]


def json_or_text(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value


MALFORMED = {
    "no type": ("hunter2", "no connection type"),
    "type with underscore": ("my_type://u:hunter2@h", "no connection type"),
    "password with ://": ("postgres://u:hunter2://x@h/d", "percent-encode"),
    "three times ://": ("a://b://c://hunter2", "percent-encode"),
    "port no number": ("postgres://u:hunter2@h:x/d", "cannot be parsed"),
    "port no number in JSON": ('{"conn_type": "x", "port": "hunter2"}', "port is not a number"),
    "broken IPv6": ("postgres://u:hunter2@[::1/d", "cannot be parsed"),
    "broken JSON": ('{"conn_type": "x", "password": "hunter2"', "cannot be parsed"),
    "unknown key": ('{"conn_type": "x", "passwort": "hunter2"}', "passwort"),
    "extra a list": ('{"conn_type": "x", "extra": ["hunter2"]}', "not a JSON object"),
    "extra no JSON": ('{"conn_type": "x", "extra": "hunter2"}', "cannot be parsed"),
    "extra in a uri no JSON": ("aws://?__extra__=hunter2", "cannot be parsed"),
}


@pytest.mark.parametrize(("text", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_connection_is_refused_by_variable_without_its_text(text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_connection("orders_db", text)

    assert "AIRFLOW_CONN_ORDERS_DB" in caught.value.message
    assert reason in caught.value.message
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_secrets_are_not_in_the_repr() -> None:
    connection = parse_connection("some_id", "aws://key:hunter2@/?token=hunter3")

    assert "hunter" not in repr(connection)


def test_a_missing_connection_is_named_with_its_place_and_variable() -> None:
    lookup = connections_in({"AIRFLOW_CONN_OTHER": "aws://", "AIRFLOW_CONN_EMPTY": " "})

    for conn_id in ("lifeboat_s3", "empty"):
        with pytest.raises(SettingsError) as caught:
            require_connection(lookup, conn_id, "include/platform.yaml:25")

        assert caught.value.message == (
            f"include/platform.yaml:25 names the connection {conn_id!r}, which does not exist."
        )
        assert f"AIRFLOW_CONN_{conn_id.upper()}" in caught.value.hint


def test_an_env_file_is_read_like_a_shell_would(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "# connections\n"
        "\n"
        "PLAIN=one two\n"
        "export EXPORTED=x\r\n"
        "  INDENTED = spaced  # comment\n"
        "URI=postgres://u:p#w@h/d?a=b\n"
        "EMPTY=\n"
        "EMPTY_COMMENTED= # nothing\n"
        "SINGLE='lit$eral \\n # no comment' # comment\n"
        'DOUBLE="a\\"b\\\\c\\td\\$e\\x"\n'
        'JSON={"conn_type": "postgres", "extra": {"a": "it\'s"}}\n'
        "TWICE=1\n"
        "TWICE=2\n"
        "Ünïcode_value=ok\n".replace("Ünïcode", "UNI")
        + "UNICODE=pässwörd",
        encoding="utf-8",
    )

    assert read_env_file(file) == {
        "PLAIN": "one two",
        "EXPORTED": "x",
        "INDENTED": "spaced",
        "URI": "postgres://u:p#w@h/d?a=b",
        "EMPTY": "",
        "EMPTY_COMMENTED": "",
        "SINGLE": "lit$eral \\n # no comment",
        "DOUBLE": 'a"b\\c\td$e\\x',
        "JSON": '{"conn_type": "postgres", "extra": {"a": "it\'s"}}',
        "TWICE": "2",
        "UNI_value": "ok",
        "UNICODE": "pässwörd",
    }


@pytest.mark.parametrize(
    "line",
    ["A='hunter2", 'A="hunter2', "A='x' hunter2", "A B=hunter2", "A=${B:?hunter2}"],
    ids=["open single", "open double", "text behind quotes", "space in key", "what must be set"],
)
@pytest.mark.parametrize("name", ["AIRFLOW_CONN_A", "LIFEBOAT_A"])
def test_a_bad_line_of_ours_in_an_env_file_is_refused_by_number_without_its_text(
    name: str, tmp_path: Path, line: str
) -> None:
    file = tmp_path / ".env"
    file.write_text(f"GOOD=1\n\n{name}{line[1:]}\n")

    with pytest.raises(SettingsError) as caught:
        read_env_file(file)

    assert f"{file}:3 " in caught.value.message
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    ["hunter2", "A='it", 'A="it', "A='x' y", "A B=c", "=x", "export", "export B", "A=${B", "<<<<<<< HEAD", "- a: b"],
)
def test_a_line_that_is_not_ours_never_keeps_a_connection_from_being_read(tmp_path: Path, line: str) -> None:
    file = tmp_path / ".env"
    file.write_text(f"{line}\nAIRFLOW_CONN_A='x'\n{line}\nAIRFLOW_CONN_B=\"y\"\n{line}")

    found = read_env_file(file, {})

    assert (found["AIRFLOW_CONN_A"], found["AIRFLOW_CONN_B"]) == ("x", "y")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\ufeffA=1", "1"),
        ('A="one\n# two\nB=3"', "one\n# two\nB=3"),
        ('A=\'{"a": 1,\r\n "b": "$X"}\'\r\n', '{"a": 1,\n "b": "$X"}'),
        ("A: yes", "yes"),
        ("A='it\\'s'", "it's"),
        ("A='C:\\'", "C:\\"),
        ("A=${X}-${Y}", "x-"),
        ("A=$X", "x"),
        ("A=pa$w0rd$", "pa$w0rd$"),
        ("A=pa$$word", "pa$$word"),
        ('A="${Y:-d e}"', "d e"),
        ("A=${Y-${X}}", "x"),
        ("A=${X:+set}${Y+not}", "set"),
        ("A=${EMPTY-kept}${EMPTY:-filled}", "filled"),
        ('A="\\${X}"', "${X}"),
        ("A='${X}'", "${X}"),
        ('A={"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("Z=z\nA=${Z}", "z"),
        ("X=file\nA=${X}", "x"),
    ],
)
def test_an_env_file_means_what_it_means_to_docker_compose(tmp_path: Path, text: str, value: str) -> None:
    file = tmp_path / ".env"
    file.write_bytes(text.encode())

    assert read_env_file(file, {"X": "x", "EMPTY": ""})["A"] == value


def test_bytes_that_are_no_text_are_refused_in_lines_of_ours_alone(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"OTHER=\xe9\nAIRFLOW_CONN_A=fine\n")
    assert read_env_file(file, {})["AIRFLOW_CONN_A"] == "fine"

    for line in (b"AIRFLOW_CONN_B=\xe9hunter2\n", b"OTHER=\xe9hunter2\nAIRFLOW_CONN_B=${OTHER}\n"):
        file.write_bytes(line)
        with pytest.raises(SettingsError, match="is not UTF-8 text") as refused:
            read_env_file(file, {})
        assert "hunter2" not in str(refused.value)


def test_an_env_file_in_utf_16_is_refused_since_nothing_in_it_would_be_found(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("AIRFLOW_CONN_A=x\n", "utf-16")

    with pytest.raises(SettingsError, match="UTF-16"):
        read_env_file(file, {})


def test_a_reference_that_must_be_set_is_told_as_such(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("LIFEBOAT_A=${B:?set me}\n")

    with pytest.raises(SettingsError, match=":1 refers to a variable that is not set"):
        read_env_file(file, {})


def test_an_env_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.env cannot be read: No such file"):
        read_env_file(tmp_path / "absent.env")
