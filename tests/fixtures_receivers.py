"""Receivers of what people are told, new for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.receivers import MailServer, StatusPageServer, WebServer, mail_server, status_page_server, web_server


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def status() -> Iterator[StatusPageServer]:
    with status_page_server() as server:
        yield server
