"""Object lock: what is locked stays, whoever asks, and goes when its time has come."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from demo.storage import AzuriteServer, S3Server
from lifeboat.errors import ObjectNotFound, RepositoryError, RepositoryRefused
from lifeboat.manifest import Pack
from lifeboat.packs import pack_key
from lifeboat.promotion import copy_into
from lifeboat.prune import prune
from lifeboat.repositories.azure import AzureBlobRepository
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.repositories.parts import MIB
from lifeboat.repositories.s3 import S3Repository
from lifeboat.retention import Policy
from lifeboat.snapshot import Kind, Tier, artifact_key, manifest_key
from lifeboat.vault import Member, Snapshot, Vault
from tests.core.storage_faults import FailingRepository
from tests.fixtures_storage import BUCKET, azure_client_of, s3_client_of
from tests.keeping.worlds import DAY, KEYRING

pytestmark = pytest.mark.slow

LOCKING = "locking"
LATER = timedelta(days=10)
PART = 5 * MIB


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def client(s3_store: S3Server) -> Any:
    made = s3_client_of(s3_store)
    made.create_bucket(Bucket=LOCKING, ObjectLockEnabledForBucket=True)
    return made


@pytest.fixture(params=["GOVERNANCE", "COMPLIANCE"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(client: Any, mode: str) -> S3Repository:
    prefix = uuid.uuid4().hex
    return S3Repository(client, LOCKING, prefix, "s3", sizes=lambda: repeat(PART), copy_part=PART, lock_mode=mode)


@pytest.mark.parametrize("size", [100, 2 * PART], ids=["in one part", "in several"])
def test_what_is_put_or_copied_locked_is_deleted_by_nobody(
    store: S3Repository, client: Any, mode: str, size: int
) -> None:
    until = now() + LATER
    store.put("a", [b"x" * size], locked_until=until)
    store.copy("a", "b", locked_until=until)

    for key in ("a", "b"):
        assert store.describe(key).locked_until == until
        with pytest.raises(RepositoryRefused, match="locked until"):
            store.delete(key)
        head = client.head_object(Bucket=LOCKING, Key=f"{store._prefix}{key}")
        with pytest.raises(ClientError):
            client.delete_object(Bucket=LOCKING, Key=f"{store._prefix}{key}", VersionId=head["VersionId"])
        assert sum(map(len, store.get(key))) == size


def test_a_lock_is_extended_and_never_shortened(store: S3Repository) -> None:
    until = now() + LATER
    store.put("a", [b"x"], locked_until=until)

    store.lock("a", until + LATER)
    store.lock("a", until - DAY)

    assert store.describe("a").locked_until == until + LATER


def test_what_was_not_locked_can_be_and_what_was_not_there_cannot(store: S3Repository) -> None:
    store.put("a", [b"x"])
    store.lock("a", now() + LATER)

    with pytest.raises(RepositoryRefused):
        store.delete("a")
    with pytest.raises(ObjectNotFound):
        store.lock("b", now() + LATER)


def test_when_its_time_has_come_it_goes_and_nothing_of_it_stays(store: S3Repository, client: Any) -> None:
    store.put("a", [b"x"], locked_until=now() + timedelta(seconds=3))
    with pytest.raises(RepositoryRefused):
        store.delete("a")

    time.sleep(4)
    store.delete("a")
    store.delete("a")

    versions = client.list_object_versions(Bucket=LOCKING, Prefix=store._prefix)
    assert "Versions" not in versions
    assert "DeleteMarkers" not in versions


def test_a_snapshot_is_locked_with_its_manifest_prune_postpones_it_and_then_removes_it(client: Any) -> None:
    store = S3Repository(client, LOCKING, uuid.uuid4().hex, "s3", lock_mode="GOVERNANCE")
    member = Member(store, locks={Tier.DAILY: timedelta(seconds=20)})
    Vault.create([member])
    vault = Vault.open([member], KEYRING, ["operations", "escrow"])
    made = []
    for days in (9, 8, 7):
        writer = vault.begin("orders", Kind.POSTGRES, began=now() - days * DAY)
        writer("dump", [b"rows"], media_type="application/octet-stream")
        made.append(writer.commit({}))
    policy = Policy({"s3": {Tier.DAILY: 1}}, brake=1.0)

    for key in (artifact_key("orders", Tier.DAILY, made[0].id, "dump"), manifest_key("orders", Tier.DAILY, made[0].id)):
        assert store.describe(key).locked_until is not None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lifeboat.retention.RECENT", timedelta(0))
        first = prune(vault, policy, "orders", clock=lambda: datetime.now(UTC))
        time.sleep(max(0.0, 21 - (now() - made[-1].manifest.finished).total_seconds()))
        second = prune(vault, policy, "orders", clock=lambda: datetime.now(UTC))

    assert {what for what, _, _ in first.postponed} == {s.label for s in made[:2]}
    assert all("locked until" in why for _, _, why in first.postponed)
    first.raise_failures()
    assert {one.what for one in second.removed} == {s.label for s in made[:2]}
    assert [s.id for s in vault.list().snapshots] == [made[2].id]


def locking_vault(store: S3Repository, **days: int) -> Vault:
    members = [Member(store, locks={Tier(tier): timedelta(days=count) for tier, count in days.items()})]
    Vault.create(members)
    return Vault.open(members, KEYRING, ["operations", "escrow"])


def snapshot_of(vault: Vault, *packs: Pack, began: datetime | None = None) -> Snapshot:
    writer = vault.begin("uploads", Kind.FILES, began=began or now())
    writer("index", [b"index"], media_type="application/octet-stream")
    return writer.commit({}, packs)


def pack_in(vault: Vault) -> Pack:
    made: list[Pack] = []
    pack_id = uuid.uuid4().hex
    writer = vault.begin("uploads", Kind.FILES, began=now())
    writer.put_pack(pack_id, [b"files"], lambda size, sha256: made.append(Pack(pack_id, 5, size, sha256)))
    return made[0]


def test_a_pack_that_a_newer_snapshot_uses_stays_locked_as_long_as_that_one(store: S3Repository) -> None:
    vault = locking_vault(store, daily=10)
    pack = pack_in(vault)
    key = pack_key("uploads", pack.id)
    snapshot_of(vault, pack)
    first = store.describe(key).locked_until
    assert first is not None
    assert first >= now() + timedelta(days=12)

    snapshot_of(vault, pack)
    assert store.describe(key).locked_until == first  # long enough as it is

    newest = snapshot_of(locking_vault(store, daily=20), pack)
    locked = store.describe(key).locked_until
    manifest = store.describe(manifest_key("uploads", Tier.DAILY, newest.id)).locked_until
    assert locked is not None
    assert manifest is not None
    assert locked >= manifest > first
    with pytest.raises(RepositoryRefused, match="locked until"):
        store.delete(key)


def test_a_pack_stays_locked_as_long_as_the_tier_its_snapshot_is_promoted_into(store: S3Repository) -> None:
    vault = locking_vault(store, daily=10, weekly=80)
    pack = pack_in(vault)
    key = pack_key("uploads", pack.id)
    made = snapshot_of(vault, pack)

    copy_into(vault, made, Tier.WEEKLY)

    manifest = store.describe(manifest_key("uploads", Tier.WEEKLY, made.id)).locked_until
    locked = store.describe(key).locked_until
    assert manifest is not None
    assert locked is not None
    assert manifest - timedelta(minutes=1) <= locked
    assert locked > now() + timedelta(days=79)


def test_a_snapshot_whose_packs_cannot_be_locked_is_no_snapshot_there(store: S3Repository) -> None:
    vault = locking_vault(store, daily=10)
    pack = pack_in(vault)
    far = FailingRepository(store, lambda _, method, key: method == "lock" and key.startswith("packs/"))
    longer = Vault.open([Member(far, locks={Tier.DAILY: timedelta(days=20)})], KEYRING, ["operations", "escrow"])

    with pytest.raises(RepositoryError, match="lock of packs/uploads/"):
        snapshot_of(longer, pack)

    assert vault.list().snapshots == ()


def test_a_repository_that_cannot_lock_says_so_before_anything_is_sent(tmp_path: Path, s3_store: S3Server) -> None:
    plain = S3Repository(s3_client_of(s3_store), BUCKET, uuid.uuid4().hex, "s3")
    local = LocalDiskRepository(tmp_path / "local", "local")

    for store in (plain, local):
        with pytest.raises(RepositoryError, match="cannot lock objects"):
            store.put("a", [b"x"], locked_until=now() + LATER)
        with pytest.raises(ObjectNotFound):
            store.describe("a")
        store.put("a", [b"x"])
        with pytest.raises(RepositoryError, match="cannot lock objects"):
            store.lock("a", now() + LATER)


def test_azure_refuses_what_it_cannot_lock(azurite: AzuriteServer) -> None:
    """Azurite knows no immutability: it refuses to lock, and drops what a put wants in silence. `doctor` sees."""
    container = azure_client_of(azurite).get_container_client(BUCKET)
    store = AzureBlobRepository(container, uuid.uuid4().hex, "azure", lock_mode="Unlocked")
    store.put("a", [b"x"])

    with pytest.raises(RepositoryError):
        store.lock("a", now() + LATER)
