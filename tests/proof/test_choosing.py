"""Which snapshot is chosen: always one that fits all that was asked, and the newest of these."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from lifeboat.attestation import Verdict, attest
from lifeboat.choosing import choose_snapshot
from lifeboat.errors import SettingsError, SignatureInvalid, SnapshotNotFound
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.snapshot import Kind, SnapshotId, Tier, manifest_key
from lifeboat.vault import Snapshot
from tests.core.test_vault import NOW, overwrite, vault_of

NAMES = ("near", "far")


class Kept:
    """A vault with a snapshot for each of some descriptions."""

    def __init__(self, *described: dict[str, Any]) -> None:
        self.repositories = {name: MemoryRepository(name) for name in NAMES}
        self.vault = vault_of(*self.repositories.values())
        self.snapshots: list[Snapshot] = []
        self.proven: set[str] = set()
        for one in described:
            self.add(**one)

    def add(
        self,
        hour: int,
        source: str = "orders",
        tier: Tier = Tier.DAILY,
        only: str = "",
        verdict: Verdict | None = None,
        repositories: tuple[str, ...] = NAMES,
    ) -> Snapshot:
        writers = vault_of(*(self.repositories[name] for name in repositories))
        writer = writers.begin(source, Kind.POSTGRES, began=NOW + timedelta(hours=hour), tier=tier)
        writer("dump", [b"rows"], media_type="application/octet-stream")
        selection = {"tables": [only] if only else [], "schema_only": False}
        snapshot = writer.commit({"selection": selection})
        if verdict is not None:
            attest(writers, snapshot, verdict)
        if verdict is Verdict.PROVEN:
            self.proven.add(snapshot.label)
        self.snapshots.append(snapshot)
        return snapshot


DESCRIBED = some.fixed_dictionaries(
    {
        "hour": some.integers(0, 6),
        "source": some.sampled_from(["orders", "payments"]),
        "tier": some.sampled_from(list(Tier)),
        "only": some.sampled_from(["", "", "", "customers"]),
        "verdict": some.sampled_from([None, Verdict.PROVEN, Verdict.FAILED, Verdict.VERIFIED]),
        "repositories": some.sampled_from([NAMES, ("near",), ("far",)]),
    }
)
ASKED = some.fixed_dictionaries(
    {},
    optional={
        "tier": some.sampled_from(list(Tier)),
        "before": some.integers(-1, 7).map(lambda hour: NOW + timedelta(hours=hour)),
        "proven": some.booleans(),
        "repository": some.sampled_from(NAMES),
        "complete": some.booleans(),
    },
)


@settings(max_examples=60, deadline=None)
@given(some.lists(DESCRIBED, max_size=6), ASKED)
def test_the_newest_of_all_that_fit_is_chosen(described: list[dict[str, Any]], asked: dict[str, Any]) -> None:
    kept = Kept(*described)
    fitting = [
        s
        for s in kept.snapshots
        if s.manifest.source == "orders"
        and asked.get("tier") in (None, s.tier)
        and ("before" not in asked or s.manifest.began <= asked["before"])
        and (not asked.get("proven") or s.label in kept.proven)
        and ("repository" not in asked or asked["repository"] in s.repositories)
        and (not asked.get("complete", True) or not s.manifest.facts["selection"]["tables"])
    ]

    if not fitting:
        with pytest.raises(SnapshotNotFound):
            choose_snapshot(kept.vault, "orders", **asked)
        return
    chosen = choose_snapshot(kept.vault, "orders", **asked)
    assert chosen.label in {s.label for s in fitting}
    assert chosen.id == max(s.id for s in fitting)


def test_a_snapshot_in_several_tiers_is_taken_from_the_one_it_stays_in_longest() -> None:
    kept = Kept({"hour": 1})
    (daily,) = kept.snapshots
    near = kept.repositories["near"]
    for info in list(near.list(f"snapshots/orders/daily/{daily.id}/")):
        near.copy(info.key, info.key.replace("/daily/", "/monthly/"))

    assert choose_snapshot(kept.vault, "orders").tier is Tier.MONTHLY
    assert choose_snapshot(kept.vault, None, snapshot_id=daily.id).tier is Tier.MONTHLY
    assert choose_snapshot(kept.vault, "orders", tier=Tier.DAILY) == daily


def test_an_id_means_that_snapshot_though_it_is_partial() -> None:
    kept = Kept({"hour": 1}, {"hour": 2, "only": "customers"})

    assert choose_snapshot(kept.vault, "orders") == kept.snapshots[0]
    assert choose_snapshot(kept.vault, "orders", snapshot_id=kept.snapshots[1].id) == kept.snapshots[1]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"proven": True}, "no complete proven snapshot of orders"),
        ({"before": datetime(2026, 11, 22, tzinfo=UTC)}, "that began at or before 2026-11-22 00:00:00 UTC"),
        ({"tier": Tier.WEEKLY}, "in the tier weekly"),
        ({"repository": "far"}, "in the repository far"),
        ({"snapshot_id": SnapshotId(NOW, "00000000")}, "snapshot 20261123T020000Z-00000000 of orders"),
    ],
    ids=["proven", "moment", "tier", "repository", "id"],
)
def test_what_cannot_be_found_is_named_with_what_there_is(asked: dict[str, Any], told: str) -> None:
    kept = Kept({"hour": 1, "repositories": ("near",)})

    with pytest.raises(SnapshotNotFound) as caught:
        choose_snapshot(kept.vault, "orders", **asked)

    assert told in caught.value.message
    assert "tier" in asked or f"There are: {kept.snapshots[0].label} in near." in caught.value.message


def test_an_unknown_repository_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="no repository 'moon'"):
        choose_snapshot(Kept({"hour": 1}).vault, "orders", repository="moon")


def test_a_snapshot_whose_manifest_is_forged_is_not_said_to_be_missing() -> None:
    kept = Kept({"hour": 1}, {"hour": 2})
    snapshot = kept.snapshots[1]
    for repository in kept.repositories.values():
        overwrite(repository, manifest_key("orders", snapshot.tier, snapshot.id), b"forged")

    with pytest.raises(SignatureInvalid, match="no manifest that can be read and trusted"):
        choose_snapshot(kept.vault, "orders", snapshot_id=snapshot.id)
    assert choose_snapshot(kept.vault, "orders") == kept.snapshots[0]


def test_the_last_restore_test_decides_whether_a_snapshot_is_proven() -> None:
    kept = Kept({"hour": 1, "verdict": Verdict.PROVEN}, {"hour": 2, "verdict": Verdict.PROVEN})

    attest(kept.vault, kept.snapshots[1], Verdict.FAILED)

    assert choose_snapshot(kept.vault, "orders", proven=True) == kept.snapshots[0]
