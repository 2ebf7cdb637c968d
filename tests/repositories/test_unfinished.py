"""What killed puts leave is dropped when it is old enough, and nothing else is."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from demo.storage import S3Server
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.repositories.s3 import S3Repository
from tests.fixtures_storage import BUCKET, s3_client_of

HOUR = timedelta(hours=1)


def test_finished_objects_are_never_dropped(repository: Repository) -> None:
    repository.put("a/b", [b"whole"])

    repository.drop_unfinished(datetime.now(UTC) + HOUR)

    assert b"".join(repository.get("a/b")) == b"whole"


def test_an_upload_that_was_cut_short_is_given_up_when_it_is_old_enough(s3_store: S3Server) -> None:
    client, prefix = s3_client_of(s3_store), uuid.uuid4().hex
    repository = S3Repository(client, BUCKET, prefix, "s3")
    client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/a")
    client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}-another/a")
    now = datetime.now(UTC)

    assert repository.drop_unfinished(now - HOUR) == 0
    assert repository.drop_unfinished(now + HOUR) == 1
    assert repository.drop_unfinished(now + HOUR) == 0

    assert S3Repository(client, BUCKET, f"{prefix}-another", "s3").drop_unfinished(now + HOUR) == 1


def test_a_file_that_a_killed_put_left_is_removed_and_others_are_not(tmp_path: Path) -> None:
    repository = LocalDiskRepository(tmp_path, "local")
    repository.put("a/b", [b"whole"])
    old, new, other = (tmp_path / "a" / name for name in (f"~{'0' * 32}", f"~{'1' * 32}", "~notes"))
    for file in (old, new, other):
        file.write_bytes(b"half")
    past = (datetime.now(UTC) - 5 * HOUR).timestamp()
    os.utime(old, (past, past))
    os.utime(other, (past, past))

    assert repository.drop_unfinished(datetime.now(UTC) - HOUR) == 1

    assert not old.exists()
    assert new.exists()
    assert other.exists()
