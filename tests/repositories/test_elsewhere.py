"""What answers is not the store, or cannot be trusted to be: that is told as what it is, and never taken for damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifeboat import provider_clients
from lifeboat.connections import Connection
from lifeboat.copies import DAMAGE
from lifeboat.errors import NotTaken, RepositoryError, RepositoryRefused
from lifeboat.notify.channels import ping
from lifeboat.provider_clients import azure_client, s3_client
from lifeboat.repositories.azure import AzureBlobRepository
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.repositories.s3 import S3Repository
from lifeboat.snapshot import VAULT_KEY
from lifeboat.vault import Member, Vault
from tests.core.test_vault import vault_of
from tests.repositories.elsewhere import PAGE, certificate, login_page

ONCE = {"retries": {"total_max_attempts": 1}}


def repository_at(kind: str, address: str, **extra: Any) -> Repository:
    if kind == "s3":
        connection = {"endpoint_url": address, "region_name": "us-east-1", "config_kwargs": ONCE, **extra}
        client = s3_client(Connection("store", "aws", login="key", password="secret", extra=connection))
        return S3Repository(client, "vault", "p", "store")
    account = Connection("store", "wasb", host=f"{address}/account", login="account", password="c2VjcmV0")
    return AzureBlobRepository(azure_client(account).get_container_client("vault"), "p", "store")


@pytest.fixture(autouse=True)
def _tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_clients, "AZURE_OPTIONS", {**provider_clients.AZURE_OPTIONS, "retry_total": 0})


KINDS = pytest.mark.parametrize("kind", ["s3", "azure"])


@pytest.fixture(scope="module", params=["s3-200", "s3-404", "azure-200", "azure-404"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Repository]:
    """A repository at whose address a login page is shown."""
    kind, status = request.param.split("-")
    with login_page(int(status)) as port:
        yield repository_at(kind, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "ask",
    [
        lambda r: list(r.get(VAULT_KEY)),
        lambda r: list(r.get(VAULT_KEY, start=3, length=5)),
        lambda r: list(r.list("snapshots/")),
        lambda r: r.describe("snapshots/a/manifest.json"),
        lambda r: r.put("snapshots/a", [b"a"]),
        lambda r: r.copy("snapshots/a", "snapshots/b"),
        lambda r: r.delete("snapshots/a"),
    ],
    ids=["get", "range", "list", "describe", "put", "copy", "delete"],
)
def test_a_login_page_is_told_as_one_whatever_is_asked(
    elsewhere: Repository, ask: Callable[[Repository], object]
) -> None:
    with pytest.raises(RepositoryError, match="a web page came, no answer of a store") as told:
        ask(elsewhere)

    assert not told.value.transient
    assert not isinstance(told.value, DAMAGE)
    assert "login page" in told.value.hint
    assert "\x1b" not in str(told.value)


@KINDS
def test_its_first_words_are_told(kind: str) -> None:
    with login_page() as port:
        store = repository_at(kind, f"http://127.0.0.1:{port}")
        with pytest.raises(RepositoryError, match=r"Sign in \[31m to the hotel"):
            list(store.get(VAULT_KEY))


@KINDS
def test_a_repository_that_shows_a_login_page_is_left_out_and_not_called_damaged(kind: str) -> None:
    good = MemoryRepository("good")
    vault_of(good)
    with login_page() as port:
        store = repository_at(kind, f"http://127.0.0.1:{port}")
        vault = Vault.open([Member(good), Member(store)], vault_of(good).keyring, ("operations", "escrow"))

    assert "a web page came" in vault.absent["store"].message
    assert "damaged" not in vault.absent["store"].message


def test_a_page_that_was_put_for_the_mark_of_a_vault_is_told_as_one() -> None:
    good, page = MemoryRepository("good"), MemoryRepository("page")
    page.put(VAULT_KEY, [PAGE])
    vault = vault_of(good)

    opened = Vault.open([Member(good), Member(page)], vault.keyring, ("operations", "escrow"))

    assert "is a web page, which begins: 'Sign in" in opened.absent["page"].message


@KINDS
def test_a_gateway_whose_store_is_down_is_tried_again(kind: str) -> None:
    with login_page(502) as port, pytest.raises(RepositoryError) as told:
        list(repository_at(kind, f"http://127.0.0.1:{port}").get(VAULT_KEY))

    assert told.value.transient


@pytest.mark.parametrize(
    ("name", "days", "trusted", "why"),
    [
        ("localhost", 30, False, "self.signed certificate"),
        ("localhost", -1, True, "certificate has expired"),
        ("elsewhere.example", 30, True, "(Hostname mismatch|IP address mismatch)"),
    ],
    ids=["an unknown authority", "expired", "another host"],
)
@KINDS
def test_a_certificate_that_is_not_trusted_is_named_and_not_tried_again(
    kind: str, name: str, days: int, trusted: bool, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, context = certificate(tmp_path, name=name, days=days)
    if trusted:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    with login_page(context=context) as port:
        verify = {"verify": str(file)} if trusted else {}
        store = repository_at(kind, f"https://localhost:{port}", **verify)
        with pytest.raises(RepositoryRefused, match=f"the certificate of localhost is not trusted: {why}") as told:
            list(store.get(VAULT_KEY))

    assert not told.value.transient
    assert "CN=Our own authority, issued by CN=Our own authority, valid until" in told.value.message
    assert ("`verify`" if kind == "s3" else "REQUESTS_CA_BUNDLE") in told.value.hint


@KINDS
def test_a_server_without_tls_is_told_as_one(kind: str) -> None:
    with login_page() as port, pytest.raises(RepositoryRefused, match="does not speak TLS"):
        list(repository_at(kind, f"https://localhost:{port}").get(VAULT_KEY))


def test_a_channel_whose_certificate_is_not_trusted_says_so_and_is_not_tried_again(tmp_path: Path) -> None:
    _, context = certificate(tmp_path)
    with login_page(context=context) as port, pytest.raises(NotTaken, match="its certificate is not trusted") as told:
        ping(Connection("dead_man", "http", host=f"https://localhost:{port}"))

    assert not told.value.transient
    assert "SSL_CERT_FILE" in told.value.message
