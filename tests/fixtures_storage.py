"""Real storage servers, started once for all suites that ask for them; and what storage a run leaves, which is none."""

from __future__ import annotations

import contextlib
import getpass
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import boto3
import pytest
from azure.storage.blob import BlobServiceClient
from botocore.config import Config
from botocore.loaders import JSONFileLoader
from mypy_boto3_s3 import S3Client

from demo import storage

BUCKET = "vault"


def pytest_unconfigure() -> None:
    """Nothing stays of a run in which all have passed: pytest leaves an empty folder (`tmp_path_retention_policy`)."""
    with contextlib.suppress(OSError, KeyError):
        Path(tempfile.gettempdir(), f"pytest-of-{getpass.getuser()}").rmdir()


@pytest.fixture(scope="session", autouse=True)
def _definitions_read_once() -> Iterator[None]:
    """Every new session of boto3 parses megabytes of definitions, half a second: here all share what one has read."""
    read = cache(JSONFileLoader().load_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _self, path: read(path))
        yield


@pytest.fixture(scope="session")
def s3_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[storage.S3Server]:
    """SeaweedFS, with an empty bucket `vault`: it honours conditions, checksums and locks, and checks signatures."""
    with storage.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        s3_client_of(server).create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[storage.S3Server]:
    """ministack, with an empty bucket `vault`: it has archive storage, thawed in two seconds, and checks no keys."""
    with storage.ministack(tmp_path_factory.mktemp("ministack")) as server:
        s3_client_of(server).create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="session")
def limited_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[storage.S3Server]:
    """JuiceFS's gateway, with an empty bucket `vault`: it ignores `If-None-Match` and knows no storage classes."""
    with storage.juicefs(tmp_path_factory.mktemp("juicefs")) as server:
        s3_client_of(server).create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[storage.AzuriteServer]:
    """Azurite, with an empty container `vault`."""
    with storage.azurite(tmp_path_factory.mktemp("azurite")) as server:
        azure_client_of(server).create_container(BUCKET)
        yield server


@cache
def s3_client_of(server: storage.S3Server, *, secret: str | None = None, attempts: int = 1) -> S3Client:
    """A client that loses no time: few attempts, short time-outs."""
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=secret or server.secret_key,
        config=Config(
            connect_timeout=2,
            read_timeout=5,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=32,
        ),
    )


@cache
def azure_client_of(server: storage.AzuriteServer, *, key: str | None = None, attempts: int = 1) -> BlobServiceClient:
    """The same for Azure."""
    quick = {"initial_backoff": 0, "increment_base": 0, "random_jitter_range": 0, "retry_total": attempts - 1}
    credential = {"account_name": server.account, "account_key": key or server.key}
    return BlobServiceClient(server.endpoint, credential, connection_timeout=2, read_timeout=5, **quick)
