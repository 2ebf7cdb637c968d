"""Stores that know no checksum headers, and policies that demand encryption: a setting each, and a hint."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any

import pytest

from demo.storage import S3Server
from lifeboat.assembly import open_repository
from lifeboat.connections import Connection
from lifeboat.errors import RepositoryError, RepositoryRefused, SettingsError
from lifeboat.provider_clients import s3_client
from lifeboat.repositories.findings import Level
from lifeboat.repositories.s3 import S3Repository
from lifeboat.repositories.s3_requests import Encryption
from lifeboat.settings import RepositorySettings
from tests.fixtures_storage import BUCKET, s3_client_of
from tests.repositories.conftest import PART
from tests.repositories.demanding_proxy import demanding_proxy

pytestmark = pytest.mark.slow

OFF = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
WISH = "x-amz-server-side-encryption"
SEVERAL = [b"a" * PART, b"b" * PART, b"c"]


def knows_no_checksums(_method: str, _path: str, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
    strange = [n for n in headers if n.startswith(("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer"))]
    return (400, "InvalidArgument", f"Unsupported header '{strange[0]}'") if strange else None


def wants(method: str, key: str = "") -> Any:
    def refuses(verb: str, path: str, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
        creates = (verb == "PUT" and "uploadId" not in path) or (verb == "POST" and "uploads" in path)
        asked = headers.get(WISH), headers.get(f"{WISH}-aws-kms-key-id", "")
        return (403, "AccessDenied", "Access Denied") if creates and asked != (method, key) else None

    return refuses


def repository_on(server: S3Server, port: int, *, encryption: Encryption | None = None, **config: Any) -> S3Repository:
    config = {"retries": {"total_max_attempts": 1}, **config}
    extra = {"endpoint_url": replace(server, port=port).endpoint, "region_name": "us-east-1", "config_kwargs": config}
    client = s3_client(Connection("s3", "aws", login=server.access_key, password=server.secret_key, extra=extra))
    prefix = f"test/{uuid.uuid4().hex}"
    return S3Repository(client, BUCKET, prefix, "s3", sizes=lambda: repeat(PART), copy_part=PART, encryption=encryption)


@pytest.fixture(scope="module")
def old_store(s3_store: S3Server) -> Iterator[int]:
    with demanding_proxy(s3_store.port, knows_no_checksums) as port:
        yield port


def does_everything(store: S3Repository) -> None:
    store.put("a", [b"small"])
    store.put("b", SEVERAL)
    store.copy("b", "c")
    assert b"".join(store.get("a")) == b"small"
    assert b"".join(store.get("c")) == b"".join(SEVERAL)
    assert [info.key for info in store.list("")] == ["a", "b", "c"]
    assert store.describe("a").size == 5
    assert store.honours_create_only("a")
    store.delete("a")


def test_a_store_without_checksum_headers_works_where_the_connection_says_so(
    s3_store: S3Server, old_store: int
) -> None:
    does_everything(repository_on(s3_store, old_store, **OFF))


def test_what_is_lost_without_checksums_is_told_by_the_doctor(s3_store: S3Server, old_store: int) -> None:
    finding = next(f for f in repository_on(s3_store, old_store, **OFF).examine() if f.what == "checksums")

    assert finding.level is Level.ADVICE
    assert "MD5" in finding.found
    assert "only when it is read" in finding.remedy
    usual = next(f for f in S3Repository(s3_client_of(s3_store), BUCKET, "x", "s3").examine() if f.what == "checksums")
    assert usual.level is Level.GOOD


def test_without_the_setting_the_error_names_it(s3_store: S3Server, old_store: int) -> None:
    store = repository_on(s3_store, old_store)

    for ask in (lambda: store.put("a", [b"a"]), lambda: list(store.get("a")), lambda: store.describe("a")):
        with pytest.raises(RepositoryError) as told:
            ask()
        assert "when_required" in told.value.hint
        assert not told.value.transient


def test_a_put_without_checksum_headers_still_carries_an_md5_of_its_bytes(
    s3_store: S3Server,
) -> None:
    store = repository_on(s3_store, s3_store.port, **OFF)
    heard: list[str] = []
    store._client.meta.events.register(
        "before-send.s3.PutObject", lambda request, **_: heard.append(request.headers["Content-MD5"])
    )

    store.put("a", [b"hello"])

    assert heard == [b"XUFAKrxLKna5cZ2REBfFkg=="]


@pytest.mark.parametrize(
    "encryption", [Encryption("AES256"), Encryption("aws:kms", "our-key")], ids=["AES256", "a key of KMS"]
)
def test_a_policy_that_demands_encryption_is_met_by_every_request(ministack: S3Server, encryption: Encryption) -> None:
    with demanding_proxy(ministack.port, wants(encryption.method, encryption.key or "")) as port:
        store = repository_on(ministack, port, encryption=encryption)
        store.put("a", [b"small"])
        store.put("b", SEVERAL)
        store.copy("b", "c")
        store.copy("a", "d")
        assert store.honours_create_only("a")
        assert b"".join(store.get("c")) == b"".join(SEVERAL)
        assert store._head("a")["ServerSideEncryption"] == encryption.method


def test_a_put_that_such_a_policy_refuses_names_the_setting(s3_store: S3Server) -> None:
    with demanding_proxy(s3_store.port, wants("AES256")) as port:
        store = repository_on(s3_store, port)
        for chunks in ([b"a"], SEVERAL):
            with pytest.raises(RepositoryRefused, match="permission was refused") as told:
                store.put("a", chunks)
            assert "add `encryption` in platform.yaml" in told.value.hint


def test_platform_yaml_says_how_each_repository_encrypts(s3_store: S3Server) -> None:
    settings = RepositorySettings(
        name="a", url="s3://vault/p", connection="c", encryption="aws:kms", encryption_key="arn:aws:kms:eu:1:key/k"
    )

    opened = open_repository(settings, None, client=s3_client_of(s3_store))

    assert isinstance(opened, S3Repository)
    assert opened._encryption == Encryption("aws:kms", "arn:aws:kms:eu:1:key/k")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"url": "file:///backup", "encryption": "AES256"}, "only S3 is told how to encrypt"),
        ({"url": "s3://vault", "connection": "c", "encryption_key": "k"}, "a key is for the encryption aws:kms"),
        ({"url": "s3://vault", "connection": "c", "encryption": "aes"}, "AES256"),
    ],
)
def test_an_encryption_that_cannot_be_is_refused(fields: dict[str, str], told: str) -> None:
    with pytest.raises((ValueError, SettingsError), match=told):
        RepositorySettings(name="a", **fields)
