"""The rights that the documentation gives the backup role are all it uses, and deleting is not among them.

No stand-in for S3 enforces rights by request, so the requests are written down as they are made, to a real server.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any

import pytest

from demo.storage import S3Server
from lifeboat.attestation import Verdict, attest
from lifeboat.healing import make_whole
from lifeboat.promotion import copy_into
from lifeboat.prune import prune
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.repositories.parts import MIB
from lifeboat.repositories.s3 import S3Repository
from lifeboat.retention import Policy
from lifeboat.snapshot import Kind, Tier
from lifeboat.vault import Member, Vault
from tests.dags.airflow_home import ROOT
from tests.fixtures_storage import s3_client_of
from tests.keeping.worlds import DAY, KEYRING

pytestmark = pytest.mark.slow

BUCKET = "rights"
ACTIONS = {
    "PutObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "UploadPartCopy": "PutObject",
    "CopyObject": "PutObject",
    "AbortMultipartUpload": "AbortMultipartUpload",
    "GetObject": "GetObject",
    "HeadObject": "GetObject",
    "RestoreObject": "RestoreObject",
    "PutObjectRetention": "PutObjectRetention",
    "GetObjectRetention": "GetObjectRetention",
    "ListObjectsV2": "ListBucket",
    "HeadBucket": "ListBucket",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "DeleteObject": "DeleteObject",
    "DeleteObjects": "DeleteObject",
    "ListObjectVersions": "ListBucketVersions",
}
"""Which right a request needs (Amazon S3 User Guide, "Required permissions for Amazon S3 API operations")."""


@pytest.fixture
def asked() -> set[str]:
    """The rights that were needed so far."""
    return set()


@pytest.fixture
def store(s3_store: S3Server, asked: set[str]) -> Iterator[S3Repository]:
    client: Any = s3_client_of(s3_store)
    if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    part = repeat(5 * MIB)
    made = S3Repository(client, BUCKET, uuid.uuid4().hex, "s3", sizes=lambda: part, lock_mode="GOVERNANCE")
    client.meta.events.register("before-call.s3", lambda model, **_: asked.add(f"s3:{ACTIONS[model.name]}"), "rights")
    yield made
    client.meta.events.unregister("before-call.s3", unique_id="rights")


def allowed() -> set[str]:
    """What docs/storage-rights.md gives the backup role."""
    [policy] = re.findall(r"```json\n(\{\s+\"Version\".*?)```", (ROOT / "docs/storage-rights.md").read_text(), re.S)
    statements = json.loads(policy)["Statement"]
    return {action for one in statements if one["Effect"] == "Allow" for action in one["Action"]}


def test_backing_up_replicating_reading_and_promoting_need_no_other_rights_than_the_backup_role_has(
    store: S3Repository, asked: set[str]
) -> None:
    locks = {Tier.DAILY: timedelta(days=2), Tier.WEEKLY: timedelta(days=3)}
    members = [Member(store, locks=locks), Member(MemoryRepository("near"))]
    Vault.create(members)
    vault = Vault.open(members, KEYRING, ["operations", "escrow"])
    writer = vault.begin("orders", Kind.POSTGRES, began=datetime.now(UTC))
    writer("dump", [b"x" * (11 * MIB)], media_type="application/octet-stream")
    snapshot = writer.commit({})
    vault.verify(snapshot, "s3")
    make_whole(vault, snapshot)
    attest(vault, snapshot, Verdict.PROVEN)
    copy_into(vault, snapshot, Tier.WEEKLY)
    assert [s.label for s in vault.list("orders").snapshots]

    assert asked <= allowed()
    assert asked >= {"s3:PutObject", "s3:GetObject", "s3:ListBucket"}


def test_pruning_is_what_the_other_role_is_for(store: S3Repository, asked: set[str]) -> None:
    members = [Member(store)]
    Vault.create(members)
    vault = Vault.open(members, KEYRING, ["operations", "escrow"])
    for days in (9, 8, 7):
        writer = vault.begin("orders", Kind.POSTGRES, began=datetime.now(UTC) - days * DAY)
        writer("dump", [b"rows"], media_type="application/octet-stream")
        writer.commit({})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lifeboat.retention.RECENT", timedelta(0))
        prune(vault, Policy({"s3": {Tier.DAILY: 1}}, brake=1.0), "orders", clock=lambda: datetime.now(UTC))

    assert asked - allowed() == {"s3:DeleteObject"}
