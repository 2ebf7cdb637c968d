"""Thawing a snapshot out of real archive storage, from whichever repository it is least missing."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import pytest

from demo.storage import AzuriteServer, S3Server
from lifeboat.errors import ObjectArchived, RepositoryError, RepositoryUnavailable
from lifeboat.repositories.azure import AzureBlobRepository
from lifeboat.repositories.contract import ObjectInfo, ThawState
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.repositories.s3 import S3Repository
from lifeboat.snapshot import Tier
from lifeboat.thawing import Thaw, thaw_snapshot, thaw_state
from lifeboat.vault import Member, Snapshot, Vault
from tests.core.storage_faults import FailingRepository
from tests.custody.vaults import DUMP, NOW, OPERATIONS, back_up, keyring, read
from tests.fixtures_storage import BUCKET, azure_client_of, s3_client_of

Archive = Callable[[str, str], Member]


@pytest.fixture
def in_s3(ministack: S3Server) -> Archive:
    """Makes an empty repository in ministack, with a storage class for monthly snapshots."""

    def make(name: str, storage_class: str) -> Member:
        repository = S3Repository(s3_client_of(ministack), BUCKET, f"test/{uuid.uuid4().hex}", name)
        return Member(repository, storage_classes={Tier.MONTHLY: storage_class})

    return make


@pytest.fixture
def in_azure(azurite: AzuriteServer) -> Archive:
    """The same in Azurite, which thaws at once."""

    def make(name: str, storage_class: str) -> Member:
        container = azure_client_of(azurite).get_container_client(BUCKET)
        repository = AzureBlobRepository(container, f"test/{uuid.uuid4().hex}", name)
        return Member(repository, storage_classes={Tier.MONTHLY: storage_class})

    return make


def vault_of(*members: Member) -> Vault:
    Vault.create(members)
    return Vault.open(members, keyring(OPERATIONS), ("operations", "escrow"))


def test_an_archived_snapshot_is_thawed_and_then_reads_as_before(in_s3: Archive) -> None:
    vault = vault_of(in_s3("glacier", "GLACIER"))
    snapshot = back_up(vault, tier=Tier.MONTHLY)
    with pytest.raises(ObjectArchived, match="it is archived") as refused:
        read(vault, snapshot)
    assert "lifeboat thaw" in refused.value.hint
    assert thaw_state(vault, snapshot).state is ThawState.ARCHIVED

    asked = thaw_snapshot(vault, snapshot)

    assert (asked.repository, asked.state, asked.expected) == ("glacier", ThawState.THAWING, "3 to 5 hours")
    assert asked.in_state(ThawState.THAWING) == ("dump", "globals")
    until_readable(vault, snapshot)
    assert read(vault, snapshot) == DUMP


def test_asking_again_asks_only_for_what_is_still_archived(in_s3: Archive) -> None:
    member = in_s3("glacier", "GLACIER")
    vault = vault_of(member)
    snapshot = back_up(vault, tier=Tier.MONTHLY)
    key = thaw_state(vault, snapshot).artifacts["globals"].key
    member.repository.thaw(key, days=1)

    assert thaw_state(vault, snapshot).in_state(ThawState.ARCHIVED) == ("dump",)
    first, second = thaw_snapshot(vault, snapshot), thaw_snapshot(vault, snapshot)

    assert first.state is second.state is ThawState.THAWING
    until_readable(vault, snapshot)
    assert thaw_snapshot(vault, snapshot).state is ThawState.READABLE


def test_azure_moves_an_archived_snapshot_to_hot(in_azure: Archive) -> None:
    vault = vault_of(in_azure("azure", "Archive"))
    snapshot = back_up(vault, tier=Tier.MONTHLY)
    before = thaw_state(vault, snapshot)
    assert (before.state, before.expected) == (ThawState.ARCHIVED, "up to 15 hours")

    assert thaw_snapshot(vault, snapshot).state is ThawState.READABLE

    assert read(vault, snapshot) == DUMP
    assert {info.storage_class for info in thaw_state(vault, snapshot).artifacts.values()} == {"Hot"}


@pytest.mark.parametrize("storage_class", ["STANDARD_IA", "ONEZONE_IA", "GLACIER_IR"])
def test_classes_of_s3_that_cost_more_to_read_need_no_thawing(in_s3: Archive, storage_class: str) -> None:
    vault = vault_of(in_s3("s3", storage_class))
    snapshot = back_up(vault, tier=Tier.MONTHLY)

    asked = thaw_snapshot(vault, snapshot)

    assert (asked.state, asked.expected) == (ThawState.READABLE, "")
    assert read(vault, snapshot) == DUMP


@pytest.mark.parametrize("storage_class", ["Cool", "Cold"])
def test_cool_tiers_of_azure_need_no_thawing(in_azure: Archive, storage_class: str) -> None:
    vault = vault_of(in_azure("azure", storage_class))
    snapshot = back_up(vault, tier=Tier.MONTHLY)

    assert thaw_snapshot(vault, snapshot).state is ThawState.READABLE
    assert read(vault, snapshot) == DUMP


def test_nothing_is_thawed_where_another_repository_can_be_read(in_s3: Archive) -> None:
    vault = vault_of(in_s3("glacier", "GLACIER"), Member(MemoryRepository("local")))
    snapshot = back_up(vault, tier=Tier.MONTHLY)

    asked = thaw_snapshot(vault, snapshot)

    assert (asked.repository, asked.state) == ("local", ThawState.READABLE)
    assert thaw_state(vault, snapshot, repository="glacier").state is ThawState.ARCHIVED


def test_of_two_archives_the_faster_is_asked(in_s3: Archive) -> None:
    vault = vault_of(in_s3("deep", "DEEP_ARCHIVE"), in_s3("glacier", "GLACIER"))
    snapshot = back_up(vault, tier=Tier.MONTHLY)

    assert thaw_state(vault, snapshot, repository="deep").expected == "up to 12 hours"
    assert thaw_snapshot(vault, snapshot).repository == "glacier"
    assert thaw_state(vault, snapshot, repository="deep").state is ThawState.ARCHIVED


def test_an_archive_that_is_thawing_already_is_not_left_for_a_faster_one(in_s3: Archive) -> None:
    vault = vault_of(in_s3("glacier", "GLACIER"), in_s3("deep", "DEEP_ARCHIVE"))
    snapshot = back_up(vault, tier=Tier.MONTHLY)
    thaw_snapshot(vault, snapshot, repository="deep")

    assert thaw_snapshot(vault, snapshot).repository == "deep"
    assert thaw_state(vault, snapshot, repository="glacier").state is ThawState.ARCHIVED


def test_a_repository_that_lacks_an_artifact_or_is_away_is_passed_over(in_s3: Archive) -> None:
    glacier, local = in_s3("glacier", "GLACIER"), MemoryRepository("local")
    vault = vault_of(glacier, Member(local), Member(MemoryRepository("away")))
    snapshot = back_up(vault, tier=Tier.MONTHLY)
    local.delete(thaw_state(vault, snapshot).artifacts["dump"].key)
    away = FailingRepository(vault.members[2].repository, lambda _, method, __: method == "describe")
    vault = Vault.open([glacier, Member(local), Member(away)], vault.keyring, ())

    assert thaw_state(vault, snapshot).repository == "glacier"
    with pytest.raises(RepositoryError, match="dump"):
        thaw_state(vault, snapshot, repository="local")
    with pytest.raises(RepositoryUnavailable, match="can be used now \\(elsewhere\\)"):
        thaw_state(vault, snapshot, repository="elsewhere")


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (["READABLE", "READABLE"], ThawState.READABLE),
        (["READABLE", "THAWING"], ThawState.THAWING),
        (["THAWING", "ARCHIVED", "READABLE"], ThawState.ARCHIVED),
    ],
    ids=str,
)
def test_a_snapshot_is_as_far_as_its_slowest_artifact(states: list[str], whole: ThawState) -> None:
    artifacts = {
        str(n): ObjectInfo(str(n), 1, NOW, thaw_state=ThawState[state], storage_class="NEW_ARCHIVE")
        for n, state in enumerate(states)
    }

    thaw = Thaw(back_up(vault_of(Member(MemoryRepository("m")))), "m", artifacts)

    assert thaw.state is whole
    assert thaw.expected == ("" if whole is ThawState.READABLE else "hours, perhaps a day")


def until_readable(vault: Vault, snapshot: Snapshot) -> None:
    deadline = time.monotonic() + 20
    while thaw_state(vault, snapshot).state is not ThawState.READABLE:
        assert time.monotonic() < deadline
        time.sleep(0.2)
