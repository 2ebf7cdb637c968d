"""Repositories of every kind, each test's own and empty."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import pytest

from lifeboat.repositories.azure import AzureBlobRepository
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.repositories.parts import MIB
from lifeboat.repositories.s3 import S3Repository
from tests.fixtures_storage import BUCKET, azure_client_of, s3_client_of

PART = 5 * MIB
"""The least S3 allows: tests need several parts, not long ones."""


@dataclass(frozen=True)
class Kind:
    """A kind of repository, and what sets it apart."""

    name: str
    make: Callable[[pytest.FixtureRequest, Path], Repository]
    honours_create_only: bool = True
    arbitrates_completes: bool = True
    """Of simultaneous uploads in several parts to one key, which is also how S3 copies, the store lets one win."""
    lists_beside_puts: bool = True
    """A listing that runs beside puts leaves out nothing that was put before it; JuiceFS's left out 7 of 3,520."""
    knows_free_bytes: bool = False
    finds_nothing_below_objects: bool = True
    """What is asked for below an object is not there. JuiceFS keeps objects as files, and asks first whether its user
    may search them like folders: it answers any user but root that access is denied. Lifeboat's keys are never so."""


def s3_repository(client, prefix: str | None = None) -> S3Repository:
    """A repository under a prefix of its own, cutting early."""
    prefix = prefix or f"test/{uuid.uuid4().hex}"
    return S3Repository(client, BUCKET, prefix, "s3", sizes=lambda: repeat(PART), copy_part=PART, page=3)


def azure_repository(client, prefix: str | None = None) -> AzureBlobRepository:
    """The same in Azure."""
    prefix = prefix or f"test/{uuid.uuid4().hex}"
    container = client.get_container_client(BUCKET)
    return AzureBlobRepository(container, prefix, "azure", sizes=lambda: repeat(PART), page=3)


def _s3(fixture: str) -> Callable[[pytest.FixtureRequest, Path], Repository]:
    return lambda request, _: s3_repository(s3_client_of(request.getfixturevalue(fixture)))


def _without_unnamed_files(request: pytest.FixtureRequest, folder: Path) -> Repository:
    """A local repository on a disk that, as NFS, has no unnamed files."""
    request.getfixturevalue("monkeypatch").setattr("lifeboat.repositories.local._UNNAMED", Path("/nowhere"))
    return LocalDiskRepository(folder / "repository", "local")


KINDS = {
    kind.name: kind
    for kind in (
        Kind("memory", lambda _, __: MemoryRepository("memory")),
        Kind("local", lambda _, folder: LocalDiskRepository(folder / "repository", "local"), knows_free_bytes=True),
        Kind("local-as-nfs", _without_unnamed_files, knows_free_bytes=True),
        # SeaweedFS 4.48 honours the condition of a complete, but lets several through that come at once.
        Kind("seaweedfs", _s3("s3_store"), arbitrates_completes=False),
        Kind("ministack", _s3("ministack")),
        Kind(
            "limited",
            _s3("limited_s3"),
            honours_create_only=False,
            arbitrates_completes=False,
            lists_beside_puts=False,
            finds_nothing_below_objects=os.geteuid() == 0,
        ),
        Kind("azurite", lambda request, _: azure_repository(azure_client_of(request.getfixturevalue("azurite")))),
    )
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind in turn."""
    return request.param


@pytest.fixture
def repository(kind: Kind, request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    """An empty repository of each kind."""
    return kind.make(request, tmp_path)
