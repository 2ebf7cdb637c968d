"""Clients of S3 and Azure are built from the same connections that Airflow's hooks take."""

import base64
import json

import pytest

from lifeboat.connections import Connection, parse_connection
from lifeboat.errors import SettingsError
from lifeboat.provider_clients import azure_client, s3_client

KEY = base64.b64encode(b"hunter2 hunter2 ").decode()


def aws(**extra: object) -> Connection:
    return Connection("lifeboat_s3", "aws", login="access", password="hunter2", extra=extra)


def wasb(**fields: object) -> Connection:
    return parse_connection("lifeboat_azure", json.dumps({"conn_type": "wasb", **fields}))


def test_an_s3_client_has_the_connections_credentials_endpoint_and_region() -> None:
    client = s3_client(aws(endpoint_url="http://127.0.0.1:9000", region_name="eu-central-1"))

    assert client.meta.endpoint_url == "http://127.0.0.1:9000"
    assert client.meta.region_name == "eu-central-1"
    credentials = client._get_credentials()
    assert (credentials.access_key, credentials.secret_key) == ("access", "hunter2")


def test_an_s3_client_takes_credentials_and_token_from_the_extra() -> None:
    extra = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "aws_session_token": "token"}

    credentials = s3_client(Connection("lifeboat_s3", "aws", extra=extra))._get_credentials()

    assert (credentials.access_key, credentials.secret_key, credentials.token) == ("key", "secret", "token")


def test_the_endpoint_of_the_service_comes_before_that_of_the_account() -> None:
    extra = {"endpoint_url": "http://general", "service_config": {"s3": {"endpoint_url": "http://special"}}}

    assert s3_client(aws(**extra)).meta.endpoint_url == "http://special"


def test_an_s3_client_has_timeouts_and_few_retries_unless_the_connection_says_otherwise() -> None:
    client = s3_client(aws(region_name="eu", config_kwargs={"read_timeout": 5, "s3": {"addressing_style": "path"}}))

    config = client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (10, 5)
    assert config.retries["total_max_attempts"] == 4
    assert config.s3 == {"addressing_style": "path"}


def test_a_role_is_refused_with_the_way_to_have_one() -> None:
    with pytest.raises(SettingsError, match=r"profile_name"):
        s3_client(aws(role_arn="arn:aws:iam::1:role/backup"))


ACCOUNTS = {
    "account key as password": ({"login": "account", "password": KEY}, "https://account.blob.core.windows.net/"),
    "host with scheme": (
        {"host": "http://127.0.0.1:10000/account", "login": "account", "password": KEY},
        "http://127.0.0.1:10000/account",
    ),
    "host without scheme": (
        {"host": "account.blob.example.com", "login": "account", "password": KEY},
        "https://account.blob.example.com/",
    ),
    "account key in the extra": (
        {"login": "account", "extra": {"account_key": KEY}},
        "https://account.blob.core.windows.net/",
    ),
    "shared access key": (
        {"login": "account", "extra": {"shared_access_key": KEY}},
        "https://account.blob.core.windows.net/",
    ),
    "names as older versions wrote them": (
        {"login": "account", "extra": {"extra__wasb__shared_access_key": KEY}},
        "https://account.blob.core.windows.net/",
    ),
    "sas token": (
        {"login": "account", "extra": {"sas_token": "sv=2026&sig=hunter2"}},
        "https://account.blob.core.windows.net/",
    ),
    "sas url": (
        {"extra": {"sas_token": "https://account.blob.example.com/?sv=2026&sig=hunter2"}},
        "https://account.blob.example.com/?sv=2026&sig=hunter2",
    ),
    "connection string": (
        {
            "extra": {
                "connection_string": f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey={KEY};"
                "BlobEndpoint=http://127.0.0.1:10000/a;"
            }
        },
        "http://127.0.0.1:10000/a",
    ),
    "service principal": (
        {"login": "app", "password": "hunter2", "host": "account.blob.example.com", "extra": {"tenant_id": "tenant"}},
        "https://account.blob.example.com/",
    ),
    "identity of the machine": ({"login": "account"}, "https://account.blob.core.windows.net/"),
}


@pytest.mark.parametrize(("fields", "url"), ACCOUNTS.values(), ids=ACCOUNTS.keys())
def test_an_azure_client_is_made_with_whichever_credentials_there_are(fields: dict[str, object], url: str) -> None:
    client = azure_client(wasb(**fields))

    assert client.url.rstrip("/") == url.rstrip("/")


UNUSABLE = {
    "s3 of another type": (s3_client, Connection("c", "postgres", password="hunter2")),
    "s3 endpoint that is no url": (s3_client, aws(endpoint_url="hunter2 not a url")),
    "s3 profile that does not exist": (s3_client, aws(profile_name="hunter2")),
    "s3 option that does not exist": (s3_client, aws(config_kwargs={"hunter2": 1})),
    "s3 service that is no mapping": (s3_client, aws(service_config="hunter2")),
    "azure of another type": (azure_client, Connection("c", "aws", password="hunter2")),
    "azure without an account": (azure_client, Connection("c", "wasb", password="hunter2")),
    "azure with half a connection string": (
        azure_client,
        Connection("c", "wasb", extra={"connection_string": "AccountKey=hunter2"}),
    ),
}


@pytest.mark.parametrize(("build", "connection"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_connection_that_cannot_be_used_is_refused_without_its_secrets(build, connection: Connection) -> None:
    with pytest.raises(SettingsError) as caught:
        build(connection)

    assert connection.conn_id.upper() in str(caught.value).upper()
    assert "hunter2" not in str(caught.value)
