"""Settings and connections become repositories, keys and servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.storage import AzuriteServer, azurite, seaweedfs
from lifeboat.assembly import (
    database_source,
    databases_named_twice,
    open_keyring,
    open_member,
    open_vault,
    postgres_server,
)
from lifeboat.connections import Connection, Lookup, connections_in, parse_connection
from lifeboat.errors import KeyringError, SettingsError
from lifeboat.keys import Identity, SigningKey, write_key
from lifeboat.postgres.connection import PostgresServer
from lifeboat.provider_clients import azure_client, s3_client
from lifeboat.settings import Platform, load_platform
from lifeboat.snapshot import Tier
from lifeboat.vault import Vault

PLATFORM = """\
platform: SME
recipients: [operations, escrow]
repositories:
  - name: azure
    url: azure://backups/lifeboat
    connection: lifeboat_azure
    required: false
    storage_class: {{weekly: Cool}}
  - name: s3
    url: s3://backups/lifeboat
    connection: lifeboat_s3
  - name: local
    url: file://{folder}/repository
sources:
  databases:
    - name: receivables
      connection: platform_db
      stream_size: 1 GiB
"""


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    file = tmp_path / "platform.yaml"
    file.write_text(PLATFORM.format(folder=tmp_path))
    (tmp_path / "repository").mkdir()
    for name in ("operations", "escrow"):
        write_key(tmp_path / "keys", Identity.generate(name).recipient)
    write_key(tmp_path / "keys", SigningKey.generate("host"))
    return load_platform(file)


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzuriteServer]:
    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


def lookup_of(tmp_path: Path, **connections: object) -> Lookup:
    texts = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()}
    keys = {"AIRFLOW_CONN_LIFEBOAT_KEYS": json.dumps({"extra": {"keyring": str(tmp_path / "keys")}})}
    return connections_in(keys | texts)


@pytest.mark.slow
def test_all_kinds_of_repositories_are_opened_from_their_connections(
    tmp_path: Path, platform: Platform, azure: AzuriteServer
) -> None:
    with seaweedfs(tmp_path / "s3") as s3:
        lookup = lookup_of(tmp_path, lifeboat_azure=azure.connection, lifeboat_s3=s3.connection)
        s3_client(lookup("lifeboat_s3")).create_bucket(Bucket="backups")
        azure_client(lookup("lifeboat_azure")).create_container("backups")
        members = [open_member(platform, index, lookup) for index in range(3)]
        Vault.create(members)

        vault = open_vault(platform, lookup)

        assert [member.name for member in vault.members] == ["azure", "s3", "local"]
        assert [member.required for member in vault.members] == [False, True, True]
        assert vault.members[0].storage_classes == {Tier.WEEKLY: "Cool"}
        assert vault.absent == {}
        for member in vault.members:
            member.repository.put("some/key", [b"a", b"b"])
            assert b"".join(member.repository.get("some/key")) == b"ab"


@pytest.mark.slow
def test_a_client_that_exists_already_is_used_and_no_connection_asked_for(
    tmp_path: Path, platform: Platform, azure: AzuriteServer
) -> None:
    made = azure_client(parse_connection("elsewhere", json.dumps(azure.connection)))
    container = made.create_container("built-by-a-hook")

    member = open_member(platform, 0, lookup_of(tmp_path), clients=lambda _: container)
    member.repository.put("key", [b"x"])

    assert [blob.name for blob in container.list_blobs()] == ["lifeboat/key"]


def test_a_missing_connection_is_named_with_its_line(tmp_path: Path, platform: Platform) -> None:
    with pytest.raises(SettingsError, match=r"platform\.yaml:6 names the connection 'lifeboat_azure'"):
        open_vault(platform, lookup_of(tmp_path))


def test_for_reading_what_cannot_be_opened_is_left_out_and_named(tmp_path: Path, platform: Platform) -> None:
    lookup = lookup_of(tmp_path, lifeboat_s3={"conn_type": "postgres"})
    Vault.create([open_member(platform, 2, lookup)])

    vault = open_vault(platform, lookup, reading=True)

    assert [member.name for member in vault.members] == ["local"]
    assert "does not exist" in vault.absent["azure"].message
    assert "is of type 'postgres'" in vault.absent["s3"].message


def test_a_keyring_is_read_from_its_folder(tmp_path: Path, platform: Platform) -> None:
    keyring = open_keyring(platform, lookup_of(tmp_path))

    assert sorted(keyring.recipients) == ["escrow", "operations"]
    assert keyring.signing_key is not None


def test_a_keyring_is_read_from_the_connection_as_a_task_is_given_it(tmp_path: Path, platform: Platform) -> None:
    recipient = Identity.generate("operations").recipient
    keys = json.dumps({"operations.recipient": recipient.text})  # within a task a parameter of a URI stays text

    keyring = open_keyring(platform, lambda conn_id: Connection(conn_id, "generic", extra={"keys": keys}))

    assert keyring.recipients == {"operations": recipient}


def test_a_keyring_that_is_not_there_is_named(tmp_path: Path, platform: Platform) -> None:
    gone = connections_in({"AIRFLOW_CONN_LIFEBOAT_KEYS": f"generic://?keyring={tmp_path}/gone"})

    with pytest.raises(KeyringError, match=r"There is no keyring at .*/gone"):
        open_keyring(platform, gone)


def test_a_database_is_found_with_its_server_and_settings(tmp_path: Path, platform: Platform) -> None:
    lookup = connections_in({"AIRFLOW_CONN_PLATFORM_DB": "postgres://user:pass@db:5433/sme?sslmode=require"})

    source = database_source(platform, "receivables", lookup)

    assert source.server == PostgresServer("db", 5433, "user", "pass", {"sslmode": "require"})
    assert (source.name, source.database, source.stream_size) == ("receivables", "sme", 1024**3)


def test_a_database_without_a_name_is_refused(platform: Platform) -> None:
    lookup = connections_in({"AIRFLOW_CONN_PLATFORM_DB": "postgres://user:pass@db"})

    with pytest.raises(SettingsError, match=r"platform\.yaml:17: neither the connection 'platform_db'") as caught:
        database_source(platform, "receivables", lookup)

    assert "database: <name>" in caught.value.hint


SERVERS = {
    "another type": ("aws://user:hunter2@host", "is of type 'aws'"),
    "no host": ("postgres://user:hunter2@/d", "lacks a host"),
    "no user": ("postgres://host/d", "lacks a user"),
    "unknown option": ("postgres://user:hunter2@host/d?sslmod=require", "does not know: sslmod"),
    "IAM token": ("postgres://user:hunter2@host/d?iam=true", "IAM token"),
}


@pytest.mark.parametrize(("uri", "reason"), SERVERS.values(), ids=SERVERS.keys())
def test_a_connection_that_leads_to_no_server_is_refused(uri: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        postgres_server(parse_connection("platform_db", uri))

    assert reason in caught.value.message
    assert "hunter2" not in str(caught.value)


def test_what_airflow_keeps_for_itself_in_a_connection_is_left_to_it() -> None:
    uri = "postgres://user@host/d?cursor=dictcursor&sslmode=require&connect_timeout=7&iam=false"

    server = postgres_server(parse_connection("platform_db", uri))

    assert server.options == {"sslmode": "require", "connect_timeout": "7"}


def test_a_connection_names_the_database_to_log_in_to_for_what_is_of_the_whole_server() -> None:
    uri = "postgres://user@host/d?sslmode=require&maintenance_database=defaultdb"

    server = postgres_server(parse_connection("platform_db", uri))

    assert server.maintenance == "defaultdb"
    assert server.options == {"sslmode": "require"}
    assert postgres_server(parse_connection("platform_db", "postgres://user@host/d")).maintenance == "postgres"


def test_one_database_by_two_connections_is_remarked(tmp_path: Path) -> None:
    file = tmp_path / "platform.yaml"
    more = "    - {name: ledger, connection: other_db}\n    - {name: odd, connection: other_db, database: odd}\n"
    file.write_text(PLATFORM.format(folder=tmp_path) + more + "    - {name: none, connection: nowhere}\n")
    server = {"conn_type": "postgres", "host": "db1", "login": "a", "schema": "sme"}

    remarks = databases_named_twice(load_platform(file), lookup_of(tmp_path, platform_db=server, other_db=server))

    assert remarks == ("ledger is the same database as receivables: it is dumped twice every night.",)
