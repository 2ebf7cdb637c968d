"""The doctor: what is set up wrongly is found, and each finding has a remedy."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.storage import AzuriteServer, S3Server
from lifeboat.doctor import examine
from lifeboat.repositories.azure import AzureBlobRepository
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.findings import Finding, Level
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.repositories.s3 import S3Repository
from lifeboat.snapshot import Tier
from lifeboat.vault import Member, Vault
from tests.fixtures_storage import BUCKET, azure_client_of, s3_client_of
from tests.keeping.worlds import KEYRING

pytestmark = pytest.mark.slow


def looked_at(repository: Repository, *, hours: float = 0, locks: Any = None) -> Mapping[str, Finding]:
    """Findings of a repository, on a host whose clock is so many hours ahead."""
    member = Member(repository, locks=locks or {})
    Vault.create([member])
    vault = Vault.open([member], KEYRING, ["operations", "escrow"])
    found = examine(vault, clock=lambda: datetime.now(UTC) + timedelta(hours=hours))
    assert all(one.remedy or one.level is Level.GOOD for one in found[repository.name]), found
    return {one.what: one for one in found[repository.name]}


def bucket_of(server: S3Server, *, locking: bool) -> tuple[Any, str]:
    client, bucket = s3_client_of(server), f"doctor-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=locking)
    return client, bucket


def test_a_bare_bucket_gets_a_remedy_for_everything_it_lacks(s3_store: S3Server) -> None:
    client, bucket = bucket_of(s3_store, locking=False)

    found = looked_at(S3Repository(client, bucket, "v", "s3"))

    assert found["create-only puts"].level is Level.GOOD
    assert found["clock"].level is Level.GOOD
    assert found["versions of objects"].level is Level.ADVICE
    assert found["object lock"].level is Level.ADVICE
    assert "AbortIncompleteMultipartUpload" in found["unfinished uploads"].remedy
    assert not list(S3Repository(client, bucket, "v", "s3").list("probes/"))


def test_a_bucket_without_locks_is_bad_where_platform_yaml_wants_them(s3_store: S3Server) -> None:
    client, bucket = bucket_of(s3_store, locking=False)
    repository = S3Repository(client, bucket, "v", "s3", lock_mode="GOVERNANCE")

    found = looked_at(repository, locks={Tier.DAILY: timedelta(days=29)})

    assert found["object lock"].level is Level.BAD
    assert found["versions of objects"].level is Level.BAD
    assert found["locked objects"].level is Level.BAD


def test_a_bucket_with_locks_and_rules_is_good(s3_store: S3Server) -> None:
    client, bucket = bucket_of(s3_store, locking=True)
    repository = S3Repository(client, bucket, "v", "s3", lock_mode="GOVERNANCE")

    found = looked_at(repository, locks={Tier.DAILY: timedelta(days=29)})

    assert found["versions of objects"].level is Level.GOOD
    assert found["object lock"].found == "on; objects are locked in mode governance"
    assert (found["locked objects"].level, found["locked objects"].found) == (Level.GOOD, "are kept")


def test_a_rule_that_deletes_by_age_is_bad(s3_store: S3Server) -> None:
    client, bucket = bucket_of(s3_store, locking=False)
    rule = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})

    found = looked_at(S3Repository(client, bucket, "v", "s3"))

    assert found["unfinished uploads"].level is Level.BAD
    assert "it knows nothing of what is held" in found["unfinished uploads"].remedy


def test_a_store_that_drops_the_wish_for_a_lock_is_found_out(azurite: AzuriteServer) -> None:
    container = azure_client_of(azurite).get_container_client(BUCKET)
    repository = AzureBlobRepository(container, uuid.uuid4().hex, "azure", lock_mode="Unlocked")

    found = looked_at(repository, locks={Tier.DAILY: timedelta(days=29)})

    assert found["locked objects"].level is Level.BAD
    assert found["immutability by version"].level is Level.BAD
    assert found["public access"].level is Level.GOOD


@pytest.mark.parametrize("hours", [2, -2])
def test_a_clock_that_is_wrong_is_bad(hours: float) -> None:
    found = looked_at(MemoryRepository("memory"), hours=hours)

    assert found["clock"].level is Level.BAD
    assert f"{round(hours * 3600)} s ahead" in found["clock"].found


def test_a_folder_that_others_may_enter_gets_a_remedy(tmp_path: Path) -> None:
    root = tmp_path / "local"
    root.mkdir(mode=0o755)

    found = looked_at(LocalDiskRepository(root, "local"))

    assert found["others' access"].remedy == f"chmod 700 {root}"
