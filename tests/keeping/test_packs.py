"""Packs that no snapshot refers to go, a grace after that was seen; one that any snapshot needs never does."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from lifeboat.errors import LifeboatError, RepositoryError, RepositoryUnavailable
from lifeboat.healing import heal
from lifeboat.inventory import take_inventory
from lifeboat.manifest import Pack
from lifeboat.marks import mark, marked_packs
from lifeboat.pack_sweep import LONGEST_SYNC
from lifeboat.packs import pack_key, rewrapped_packs_prefix
from lifeboat.prune import GRACE
from lifeboat.snapshot import Kind, Tier, manifest_key
from lifeboat.vault import Snapshot
from tests.keeping.worlds import DAY, FULL, World, keys, overwrite

DAYS = {"far": {Tier.DAILY: 3}, "near": {Tier.DAILY: 3}}


@pytest.fixture
def world() -> World:
    return World(DAYS)


def packs_in(world: World, repository: str = "far") -> set[str]:
    there = [key.split("/") for key in keys(world.stores[repository]) if key.startswith("packs/")]
    return {parts[3] for parts in there if parts[2] == parts[3][:2]}


def marks(world: World, repository: str = "far") -> list[str]:
    return [key for key in keys(world.stores[repository]) if key.startswith("unreferenced/")]


def no_longer_needed(world: World) -> tuple[Pack, Pack]:
    """A pack that only a snapshot that was pruned needed, old enough to be marked; and one that is needed."""
    old, kept = world.put_pack("aa1"), world.put_pack("bb1")
    world.back_up(packs=[old, kept])
    world.now += LONGEST_SYNC
    for _ in range(4):
        world.now += DAY
        world.back_up(packs=[kept])
    world.now += 2 * DAY
    world.prune()
    return old, kept


# ---- what goes ------------------------------------------------------------------------------------------------------


def test_packs_are_marked_when_nothing_refers_to_them_and_swept_a_grace_later(world: World) -> None:
    old, _ = no_longer_needed(world)

    world.sweep()
    assert packs_in(world) == packs_in(world, "near") == {"aa1", "bb1"}
    assert marked_packs(world.stores["far"], "orders") == {"aa1"}
    world.now += GRACE + DAY
    pruned = world.sweep()

    assert packs_in(world) == packs_in(world, "near") == {"bb1"}
    assert pruned.freed() == {"far": {"packs": old.sealed_size}, "near": {"packs": old.sealed_size}}
    assert [r.what for r in pruned.removed] == ["1 packs of orders"] * 2
    assert marks(world) == marks(world, "near") == []


def test_rewrapped_keys_go_with_their_pack_and_with_no_other(world: World) -> None:
    no_longer_needed(world)
    for pack in ("aa1", "bb1"):
        world.stores["far"].put(f"{rewrapped_packs_prefix('orders')}{pack}-00000000.json", [b"{}"])

    world.sweep()
    world.now += GRACE + DAY
    world.sweep()

    rewrapped = [key for key in keys(world.stores["far"]) if "/rewrapped/" in key]
    assert rewrapped == [f"{rewrapped_packs_prefix('orders')}bb1-00000000.json"]


def test_a_young_pack_is_not_marked_since_its_backup_may_still_be_running(world: World) -> None:
    world.nights(1)
    pack = world.put_pack("aa1")
    world.now += LONGEST_SYNC - DAY

    world.sweep()
    assert marks(world) == []
    world.back_up(packs=[pack])

    assert world.inventory.copies[-1].whole


def test_a_pack_that_cannot_be_deleted_before_its_lock_ends_is_postponed(world: World) -> None:
    old, _ = no_longer_needed(world)
    world.stores["far"].lock(pack_key("orders", old.id), world.now + 30 * DAY)
    world.sweep()
    world.now += GRACE + DAY

    pruned = world.sweep()

    assert packs_in(world) == {"aa1", "bb1"}
    assert packs_in(world, "near") == {"bb1"}
    [(what, repository, why)] = pruned.postponed
    assert (what, repository) == ("1 packs of orders", "far")
    assert why.startswith("locked until")
    pruned.raise_failures()
    world.now += 30 * DAY
    world.sweep()
    assert packs_in(world) == {"bb1"}


# ---- what stays -----------------------------------------------------------------------------------------------------


def test_a_snapshot_that_needs_a_marked_pack_is_refused_and_can_be_tried_again(world: World) -> None:
    old, _ = no_longer_needed(world)
    world.sweep()
    before = len(world.inventory.copies)

    with pytest.raises(RepositoryUnavailable, match="is about to sweep 1 packs of orders"):
        world.back_up(packs=[old])

    assert len(world.inventory.copies) == before


def test_a_copy_into_a_repository_where_a_pack_is_marked_waits_until_it_is_free(world: World) -> None:
    old, kept = world.put_pack("aa1"), world.put_pack("bb1")
    world.back_up(packs=[kept])
    world.now += LONGEST_SYNC + DAY
    mark(world.stores["near"], "orders", ["aa1"], world.now)
    made = world.back_up(packs=[old, kept])
    assert made.repositories == ("far",)

    refused = world.vault.replicate(made)
    assert "is about to sweep" in refused.lacking["near"]
    world.now += DAY
    world.sweep()

    assert marks(world, "near") == []
    assert world.vault.replicate(world.vault.find("orders")).lacking == {}
    assert all(copy.whole for copy in world.inventory.copies)


def test_an_old_mark_of_a_pack_that_is_used_is_renewed_before_it_is_forgotten(world: World) -> None:
    """A sweep that began before may be about to act on it; nothing may come to use the pack until that is over."""
    old = world.put_pack("aa1")
    world.back_up(packs=[old])
    mark(world.stores["far"], "orders", ["aa1"], world.now)
    world.now += GRACE * 0.6

    world.sweep()
    assert marked_packs(world.stores["far"], "orders") == {"aa1"}
    world.now += DAY
    world.sweep()

    assert marks(world) == []
    assert packs_in(world) == {"aa1"}


def test_nothing_is_marked_or_swept_while_a_repository_is_silent(world: World) -> None:
    no_longer_needed(world)
    world.down = {"near"}
    world.sweep()
    assert marks(world) == []
    world.down = set()
    world.sweep()
    world.now += GRACE + DAY
    world.down = {"near"}

    world.sweep()

    assert packs_in(world) == {"aa1", "bb1"}


def test_no_pack_is_swept_while_any_manifest_of_its_source_cannot_be_read(world: World) -> None:
    no_longer_needed(world)
    newest = world.vault.find("orders")
    world.sweep()
    store = world.stores["near"]
    overwrite(store, store.describe(manifest_key("orders", Tier.DAILY, newest.id)), b"damaged")
    world.now += GRACE + DAY

    world.sweep()

    assert packs_in(world) == packs_in(world, "near") == {"aa1", "bb1"}


def test_a_repository_that_keeps_fewer_snapshots_keeps_their_packs_alone() -> None:
    world = World({"far": {Tier.DAILY: 20}, "near": {Tier.DAILY: 2}})
    packs = [world.put_pack(f"{number:02x}") for number in range(6)]
    for pack in packs:
        world.back_up(packs=[pack])
        world.now += DAY
    world.now += LONGEST_SYNC
    for _ in range(2):
        world.prune()
        world.sweep()
        world.now += GRACE + DAY

    assert packs_in(world, "near") == {"04", "05"}
    assert packs_in(world, "far") == {pack.id for pack in packs}


def test_packs_of_a_source_without_any_snapshot_are_left_alone(world: World) -> None:
    no_longer_needed(world)
    world.sweep()
    for store in world.stores.values():
        for info in list(store.list("snapshots/")):
            store.delete(info.key)
    world.now += GRACE + DAY

    world.sweep()

    assert packs_in(world) == {"aa1", "bb1"}


def test_a_record_of_marks_that_was_damaged_does_no_harm(world: World) -> None:
    pack = world.put_pack("aa1")
    world.back_up(packs=[pack])
    world.stores["far"].put("unreferenced/orders/x.json", [b"{"])
    world.stores["far"].put("unreferenced/orders/y.json", [json.dumps({"format": 1, "packs": ["aa1"]}).encode()])
    world.now += GRACE + DAY

    world.sweep()

    assert packs_in(world) == {"aa1"}


def test_marks_of_a_newer_lifeboat_stop_whoever_cannot_read_them(world: World) -> None:
    _, kept = no_longer_needed(world)
    world.stores["far"].put("unreferenced/orders/x.json", [json.dumps({"format": 2, "packs": []}).encode()])

    with pytest.raises(LifeboatError, match="reads format 1"):
        world.back_up(packs=[kept])
    assert "reads format 1" in world.sweep().failed[0][2]


def test_a_pack_that_a_new_snapshot_refers_to_while_we_look_stays(world: World) -> None:
    """Against the rule that marked packs are not used; the sweep looks for itself."""
    old, _ = no_longer_needed(world)
    world.sweep()
    world.now += GRACE + DAY
    used: list[bool] = []

    def fails(_name: str, method: str, key: str) -> bool:
        if method == "list" and key == "packs/" and not used:
            used.append(True)
            for store in world.stores.values():
                for info in list(store.list("unreferenced/")):
                    store.delete(info.key)
            world.back_up(packs=[old])
            for store in world.stores.values():
                mark(store, "orders", ["aa1"], world.now)
            world.now += GRACE + DAY
        return False

    world.fails = fails
    world.sweep()

    assert used
    assert "aa1" in packs_in(world)


def test_a_sweep_that_was_asleep_deletes_nothing_that_it_listed_before(world: World) -> None:
    no_longer_needed(world)
    world.sweep()
    world.now += GRACE + DAY

    def fails(_name: str, method: str, key: str) -> bool:
        if method == "describe" and key.startswith("packs/"):
            world.now += DAY
        return False

    world.fails = fails
    assert world.sweep().removed == ()
    world.fails = lambda *_: False

    assert packs_in(world) == {"aa1", "bb1"}


def test_whichever_storage_call_of_a_sweep_fails_nothing_needed_goes_and_the_next_sweeps_end_it() -> None:
    for number in range(1, 200):
        world = World(DAYS)
        no_longer_needed(world)
        for _ in range(2):
            calls = iter(range(1, 10_000))
            world.fails = lambda *_, number=number, calls=calls: next(calls) == number
            with suppress(LifeboatError):
                world.sweep()
            world.fails = lambda *_: False
            assert all(c.whole for c in world.inventory.copies), f"storage call {number}"
            world.now += GRACE + DAY
        for _ in range(3):
            world.sweep()
            world.now += GRACE + DAY
        assert packs_in(world) == packs_in(world, "near") == {"bb1"}
        assert marks(world) == marks(world, "near") == []
        if next(calls) < number:
            break
    assert number > 15


# ---- copies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["missing", "cut short"])
@pytest.mark.parametrize(("lost", "whole"), [("far", "near"), ("near", "far")])
def test_a_copy_that_lacks_a_pack_is_not_whole_and_is_healed_from_the_other(
    world: World, lost: str, whole: str, how: str
) -> None:
    pack = world.put_pack("aa1")
    made = world.back_up(packs=[pack], kind=Kind.FILES)
    store = world.stores[lost]
    info = store.describe(pack_key("orders", "aa1"))
    if how == "missing":
        store.delete(info.key)
    else:
        overwrite(store, info, b"cut short")
    assert {c.repository: c.whole for c in world.inventory.copies} == {lost: False, whole: True}
    assert [one.repository for one in world.plan.owed] == [lost]

    [done] = heal(world.vault, world.policy, now=world.now)

    assert done.copied[lost] == ("pack aa1",)
    assert all(c.whole for c in world.inventory.copies)
    world.vault.verify(made, lost).raise_faults()


def test_a_pack_that_is_damaged_everywhere_is_not_removed_anywhere(world: World) -> None:
    pack = world.put_pack("aa1")
    world.back_up(packs=[pack])
    for store in world.stores.values():
        overwrite(store, store.describe(pack_key("orders", "aa1")), b"cut short")

    heal(world.vault, world.policy, now=world.now)

    assert packs_in(world) == packs_in(world, "near") == {"aa1"}


def test_a_repository_that_does_not_list_its_packs_is_silent(world: World) -> None:
    pack = world.put_pack("aa1")
    world.back_up(packs=[pack])
    world.fails = lambda name, method, key: (name, method) == ("far", "list") and key.startswith("packs/")

    found = take_inventory(world.vault, now=world.now)

    assert set(found.silent) == {"far"}
    assert {copy.repository for copy in found.copies} == {"near"}


def test_the_packs_of_a_promoted_snapshot_outlive_the_daily_ones() -> None:
    world = World({"far": FULL, "near": FULL}, brake=1.0)
    packs = [world.put_pack(f"{number:02x}") for number in range(40)]
    made: list[Snapshot] = []
    for pack in packs:
        made.append(world.back_up(packs=[pack], kind=Kind.FILES))
        world.now += DAY
        if world.now.weekday() == 0:
            world.promote(Tier.WEEKLY)
    world.policy = type(world.policy)({"far": {**FULL, Tier.DAILY: 1}, "near": {**FULL, Tier.DAILY: 1}}, 1.0)
    world.now += LONGEST_SYNC
    for _ in range(3):
        world.prune()
        world.sweep()
        world.now += GRACE + DAY

    inventory = world.inventory
    weekly = [copy for copy in inventory.copies if copy.tier is Tier.WEEKLY]
    assert len(weekly) == 2 * 5
    assert all(copy.whole for copy in inventory.copies)
    for copy in weekly:
        world.vault.verify(inventory.snapshots[copy.place], copy.repository).raise_faults()
    kept = {
        pack for copy in inventory.copies for pack in (p.id for p in inventory.snapshots[copy.place].manifest.packs)
    }
    assert packs_in(world) == packs_in(world, "near") == kept
    assert len(kept) < len(packs)


def test_a_snapshot_is_not_promoted_where_one_of_its_packs_lacks() -> None:
    world = World({"far": FULL}, brake=1.0)
    pack = world.put_pack("aa1")
    made = world.back_up(packs=[pack], kind=Kind.FILES)
    world.now += 7 * DAY
    world.nights(1)

    def lose(snapshot: Snapshot) -> bool:
        for store in world.stores.values():
            with suppress(LifeboatError):
                store.delete(pack_key("orders", "aa1"))
        return world.prove(snapshot)

    with pytest.raises(RepositoryError):
        world.promote(Tier.WEEKLY, prove=lose)

    assert [s for s in world.vault.list("orders", Tier.WEEKLY).snapshots if s.id == made.id] == []
