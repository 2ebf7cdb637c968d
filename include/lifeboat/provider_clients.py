"""Clients of S3 and Azure Blob, built from connections the way Airflow's own hooks build them.

Timeouts are short and retries few: a repository that does not answer is left to `replicate`, and must not hold up a
backup that the others could take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lifeboat.connections import Connection, variable_of
from lifeboat.errors import SettingsError

# boto3 and the Azure SDK take most of a second to import, and few commands need both: they are imported when used.
if TYPE_CHECKING:
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential, TokenCredential
    from azure.storage.blob import BlobServiceClient
    from mypy_boto3_s3 import S3Client

    AzureCredential = AzureNamedKeyCredential | AzureSasCredential | TokenCredential | str

S3_CONFIG: Mapping[str, Any] = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "retries": {"mode": "standard", "total_max_attempts": 4},
    "max_pool_connections": 32,
}
"""botocore's settings, unless the connection's `config_kwargs` say otherwise. Meant for Airflow's S3 hook too."""

AZURE_OPTIONS: Mapping[str, Any] = {
    "connection_timeout": 10,
    "read_timeout": 60,
    "retry_total": 3,
    # Waits of about 2, 4 and 8 seconds; the SDK's own add up to almost a minute and a half.
    "initial_backoff": 0,
    "increment_base": 2,
    "random_jitter_range": 1,
}
"""The Azure SDK's settings."""


def s3_client(connection: Connection) -> S3Client:
    """A client of S3, or of a store that speaks it, for a connection of type `aws`. Raises `SettingsError`."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    _check_type(connection, "aws")
    extra = connection.extra
    if extra.get("role_arn"):
        raise SettingsError(
            f"{variable_of(connection.conn_id)} assumes a role, which only Airflow does by itself.",
            hint="Name a profile with `profile_name`; ~/.aws/config can say which role it assumes.",
        )
    try:
        service = extra.get("service_config", {}).get("s3", {})
        session = boto3.session.Session(
            aws_access_key_id=connection.login or extra.get("aws_access_key_id"),
            aws_secret_access_key=connection.password or extra.get("aws_secret_access_key"),
            aws_session_token=extra.get("aws_session_token"),
            region_name=extra.get("region_name"),
            profile_name=extra.get("profile_name"),
        )
        return session.client(
            "s3",
            endpoint_url=service.get("endpoint_url", extra.get("endpoint_url")),
            verify=extra.get("verify"),
            config=Config(**{**S3_CONFIG, **extra.get("config_kwargs", {})}),
        )
    except (BotoCoreError, ValueError, TypeError, AttributeError) as error:
        raise _unusable(connection, error) from None


def azure_client(connection: Connection) -> BlobServiceClient:
    """A client of Azure Blob for a connection of type `wasb`, with whichever credentials it has.

    Looked for in the order of Airflow's hook: connection string, service principal, shared access key, SAS token,
    account key, and last the identity of the machine. Raises `SettingsError`.
    """
    from azure.storage.blob import BlobServiceClient

    from lifeboat.repositories.azure_faults import refuse_pages

    _check_type(connection, "wasb")
    options = {
        **AZURE_OPTIONS,
        "raw_response_hook": refuse_pages,
        **({"api_version": version} if (version := _extra(connection, "api_version")) else {}),
    }
    try:
        if text := _extra(connection, "connection_string"):
            return BlobServiceClient.from_connection_string(text, **options)
        token = _extra(connection, "sas_token")
        if token and token.startswith("https"):
            return BlobServiceClient(token, **options)
        return BlobServiceClient(_account_url(connection), _credential(connection, token), **options)
    except (ValueError, TypeError) as error:
        raise _unusable(connection, error) from None


def _credential(connection: Connection, sas_token: str | None) -> AzureCredential:
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

    if tenant := _extra(connection, "tenant_id"):
        return _principal(connection, tenant)
    shared_key = _extra(connection, "shared_access_key")
    if sas_token and not shared_key:
        return AzureSasCredential(sas_token)
    if key := shared_key or connection.password or _extra(connection, "account_key"):
        # Named, since behind a host of one's own the SDK cannot tell the account from the url.
        return AzureNamedKeyCredential(connection.login, key) if connection.login else key
    return _machine_identity(connection)


def _check_type(connection: Connection, wanted: str) -> None:
    if connection.conn_type != wanted:
        raise SettingsError(
            f"The connection {connection.conn_id!r} is of type {connection.conn_type!r}; "
            f"this repository needs one of type {wanted!r}.",
            hint=f"Correct {variable_of(connection.conn_id)}, or name another connection in platform.yaml.",
        )


def _unusable(connection: Connection, error: Exception) -> SettingsError:
    # The SDKs' own messages quote urls, keys and connection strings.
    return SettingsError(
        f"{variable_of(connection.conn_id)} cannot be used as it is ({type(error).__name__}).",
        hint="Look at its host, credentials and extra; Airflow's documentation of this type of connection lists them.",
    )


def _extra(connection: Connection, name: str) -> str | None:
    """A value of the extra, under its name or under the longer one that older Airflow versions wrote."""
    value = connection.extra.get(name) or connection.extra.get(f"extra__wasb__{name}")
    return str(value) if value else None


def _account_url(connection: Connection) -> str:
    """The url of the storage account: the host, else the account that the login names."""
    if connection.host:
        return connection.host if "://" in connection.host else f"https://{connection.host}"
    if connection.login:
        return f"https://{connection.login}.blob.core.windows.net/"
    raise ValueError("neither host nor login")


def _principal(connection: Connection, tenant: str) -> TokenCredential:
    try:
        from azure.identity import ClientSecretCredential
    except ImportError:
        raise _needs_azure_identity(connection) from None
    return ClientSecretCredential(tenant, connection.login or "", connection.password or "")


def _machine_identity(connection: Connection) -> TokenCredential:
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError:
        raise _needs_azure_identity(connection) from None
    return DefaultAzureCredential(managed_identity_client_id=_extra(connection, "managed_identity_client_id"))


def _needs_azure_identity(connection: Connection) -> SettingsError:
    return SettingsError(
        f"{variable_of(connection.conn_id)} has neither an account key, a SAS token nor a connection string.",
        hint="Add one of them; or install the package azure-identity, for service principals and managed identities.",
    )
