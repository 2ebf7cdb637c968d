"""What is damaged in a repository is mended, object by object, and nothing goes that no other repository has right."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from lifeboat.attestation import attestations_of, was_read_back
from lifeboat.copies import attest_damage
from lifeboat.errors import ArtifactMismatch, LifeboatError
from lifeboat.healing import heal, make_whole
from lifeboat.packs import pack_key
from lifeboat.snapshot import Kind, Tier, artifact_key
from lifeboat.vault import Replication, Snapshot
from tests.keeping.worlds import DAY, World, flip_a_bit, keys

COUNTS = {"far": {Tier.DAILY: 5}, "near": {Tier.DAILY: 5}}
DAMAGE = ArtifactMismatch("It is not what was stored.")


@pytest.fixture
def world() -> World:
    return World(COUNTS)


def back_up(world: World, *, tier: Tier = Tier.DAILY) -> Snapshot:
    """A snapshot of two artifacts and a pack."""
    pack = world.put_pack(f"aa{world.now:%d%H}")
    writer = world.vault.begin("orders", Kind.FILES, began=world.now, tier=tier)
    for name in ("dump", "globals"):
        writer(name, [b"r" * 40], media_type="application/octet-stream")
    made = writer.commit({}, [pack])
    world.now += DAY
    return made


def key_of(snapshot: Snapshot, name: str) -> str:
    return artifact_key("orders", Tier.DAILY, snapshot.id, name)


def damage(world: World, snapshot: Snapshot, repository: str, *names: str) -> None:
    """Flip a bit of each, as a read-back then finds."""
    for name in names:
        key = pack_key("orders", snapshot.manifest.packs[0].id) if name == "pack" else key_of(snapshot, name)
        flip_a_bit(world.stores[repository], key)
    attest_damage(world.vault, snapshot, repository, DAMAGE)


def contents(world: World) -> dict[tuple[str, str], bytes]:
    """Everything but what is attested."""
    return {
        (name, key): b"".join(store.get(key))
        for name, store in world.stores.items()
        for key in keys(store)
        if "/attestations/" not in key
    }


def healed(world: World) -> list[Replication]:
    return list(heal(world.vault, world.policy, now=world.now, at_once=1))


def is_whole(world: World, snapshot: Snapshot) -> bool:
    """Whether all copies are listed as whole, and every byte of them is right."""
    for name in world.stores:
        world.vault.verify(snapshot, name).raise_faults()
    return all(copy.whole for copy in world.inventory.copies)


# ---- what is mended -------------------------------------------------------------------------------------------------


def test_a_mended_copy_is_attested_as_read_back_and_owed_no_longer(world: World) -> None:
    made = back_up(world)
    before = contents(world)
    damage(world, made, "near", "dump", "pack")
    assert [one.repository for one in world.plan.owed] == ["near"]

    [done] = healed(world)

    assert (done.copied, done.lacking) == ({"near": ("dump", f"pack {made.manifest.packs[0].id}")}, {})
    assert world.plan.owed == ()
    last = attestations_of(world.vault, made)[-1]
    assert was_read_back(last, "near")
    assert not was_read_back(last, "far")
    assert last.details == {"unsealed": False, "bytes_read": made.manifest.sealed_size, "mended": 2}
    assert contents(world) == before
    assert healed(world) == []


def test_copies_damaged_in_different_objects_are_mended_from_each_other(world: World) -> None:
    made = back_up(world)
    damage(world, made, "far", "dump")
    damage(world, made, "near", "globals", "pack")
    assert not any(copy.whole for copy in world.inventory.copies)

    done = make_whole(world.vault, made)

    assert done.lacking == {}
    assert done.copied == {"far": ("dump",), "near": ("globals", f"pack {made.manifest.packs[0].id}")}
    assert is_whole(world, made)


def test_a_repository_that_lacks_a_snapshot_is_not_given_what_is_damaged() -> None:
    world = World({**COUNTS, "third": {Tier.DAILY: 5}})
    world.down = {"third"}
    made = back_up(world)
    damage(world, made, "far", "dump")
    world.down = set()
    world.fails = lambda name, method, _: (name, method) == ("far", "delete")

    done = make_whole(world.vault, made)

    assert set(done.lacking) == {"far"}
    world.vault.verify(world.vault.find("orders"), "third").raise_faults()


def test_a_copy_said_to_be_damaged_that_reads_well_is_attested_as_well(world: World) -> None:
    """As after a kill between mending and attesting, or when a shared pack was mended for another snapshot."""
    made = back_up(world)
    attest_damage(world.vault, made, "far", DAMAGE)

    [done] = healed(world)

    assert "far" not in done.lacking
    assert is_whole(world, made)


def test_a_damaged_copy_that_stays_though_it_is_not_counted_is_mended_too(world: World) -> None:
    made = back_up(world)
    world.now -= DAY / 2
    back_up(world)  # the same day's newer one, which is what counts
    damage(world, made, "far", "dump")
    assert world.plan.owed == ()

    healed(world)

    assert is_whole(world, made)


def test_a_pack_is_locked_again_as_long_as_its_snapshot_is() -> None:
    world = World({name: {Tier.DAILY: 5, Tier.WEEKLY: 5} for name in COUNTS})
    far, near = world.vault.members
    world.vault.members = (replace(far, locks={Tier.DAILY: 10 * DAY, Tier.WEEKLY: 100 * DAY}), near)
    made = back_up(world, tier=Tier.WEEKLY)
    key = pack_key("orders", made.manifest.packs[0].id)
    world.now += 365 * DAY  # by the store's clock, its lock has ended
    world.stores["far"].delete(key)

    make_whole(world.vault, made)

    locked_until = world.stores["far"].describe(key).locked_until
    assert locked_until is not None
    assert locked_until - datetime.now(UTC) > 99 * DAY


# ---- what is not ----------------------------------------------------------------------------------------------------


def test_copies_damaged_in_the_same_object_stay_as_they_are_and_all_else_is_mended(world: World) -> None:
    made = back_up(world)
    damage(world, made, "far", "dump", "globals")
    damage(world, made, "near", "dump")
    before = contents(world)

    done = make_whole(world.vault, made)

    assert set(done.lacking) == {"far", "near"}
    assert "1 objects of orders/daily/" in done.lacking["far"]
    assert "such as dump: " in done.lacking["far"]
    assert "no other repository gives it right" in done.lacking["far"]
    changed = {key for key, data in contents(world).items() if before[key] != data}
    assert changed == {("far", key_of(made, "globals"))}
    assert not any(copy.whole for copy in world.inventory.copies)


def test_the_only_copy_stays_as_it_is(world: World) -> None:
    world.down = {"near"}
    made = back_up(world)
    world.down = set()
    damage(world, made, "far", "dump")
    before = contents(world)

    done = make_whole(world.vault, made)

    assert "no other repository that answers has the snapshot" in done.lacking["far"]
    assert {k: v for k, v in contents(world).items() if k in before} == before


def test_what_is_locked_stays_owed_until_its_lock_ends(world: World) -> None:
    made = back_up(world)
    store = world.stores["far"]
    damage(world, made, "far", "dump")
    store.lock(key_of(made, "dump"), world.now + DAY)

    [refused] = healed(world)
    assert "locked until" in refused.lacking["far"]
    assert [one.repository for one in world.plan.owed] == ["far"]
    world.now += DAY
    healed(world)

    assert is_whole(world, made)


def test_without_a_signing_key_a_copy_is_mended_and_what_lacks_is_said(world: World) -> None:
    made = back_up(world)
    damage(world, made, "far", "dump")
    world.vault.keyring = replace(world.vault.keyring, signing_key=None)

    done = make_whole(world.vault, made)

    assert "no signing key" in done.lacking["far"]
    world.vault.verify(made, "far").raise_faults()


# ---- in the middle of it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2], ids=["once", "and again the next time"])
def test_whichever_storage_call_fails_the_good_copy_stays_and_the_next_time_all_is_mended(attempts: int) -> None:
    for number in range(1, 400):
        reached = False
        world = World(COUNTS)
        made = back_up(world)
        damage(world, made, "near", "dump", "pack")
        good = {place: data for place, data in contents(world).items() if place[0] == "far"}
        for _ in range(attempts):
            calls = iter(range(1, 10_000))
            world.fails = lambda *_, number=number, calls=calls: next(calls) == number
            with suppress(LifeboatError):
                healed(world)
            world.fails = lambda *_: False
            reached = reached or next(calls) > number
            assert {p: data for p, data in contents(world).items() if p[0] == "far"} == good, f"storage call {number}"
        healed(world)
        assert is_whole(world, made), f"storage call {number}"
        if not reached:
            break
    assert number > 20


def test_a_good_copy_that_goes_bad_in_between_is_never_put_and_the_third_one_is_taken() -> None:
    world = World({**COUNTS, "third": {Tier.DAILY: 5}})
    made = back_up(world)
    damage(world, made, "far", "dump")
    bad = b"".join(world.stores["far"].get(key_of(made, "dump")))

    def fails(name: str, method: str, key: str) -> bool:
        if (name, method, key) == ("far", "delete", key_of(made, "dump")):
            flip_a_bit(world.stores["near"], key)
        return False

    world.fails = fails
    healed(world)

    world.fails = lambda *_: False
    assert b"".join(world.stores["near"].get(key_of(made, "dump"))) == bad
    world.vault.verify(made, "far").raise_faults()


def test_when_the_last_good_copy_goes_bad_in_between_nothing_wrong_is_put(world: World) -> None:
    made = back_up(world)
    damage(world, made, "far", "dump")

    def fails(name: str, method: str, key: str) -> bool:
        if (name, method, key) == ("far", "delete", key_of(made, "dump")):
            flip_a_bit(world.stores["near"], key)
        return False

    world.fails = fails
    [done] = healed(world)

    assert "far lacks snapshots/orders/" in done.lacking["far"]
    assert key_of(made, "dump") not in keys(world.stores["far"])
    assert not next(copy for copy in world.inventory.copies if copy.repository == "far").whole


def test_what_another_has_put_right_meanwhile_is_not_removed(world: World) -> None:
    made = back_up(world)
    good = b"".join(world.stores["far"].get(key_of(made, "dump")))
    damage(world, made, "far", "dump")
    world.store_now = lambda: world.now + DAY

    def fails(name: str, method: str, key: str) -> bool:
        if (name, method, key) == ("near", "get", key_of(made, "dump")):
            world.fails = lambda *_: False
            world.stores["far"].delete(key)
            world.stores["far"].put(key, [good])
        return False

    world.fails = fails
    [first] = healed(world)
    assert "was replaced while it was looked at" in first.lacking["far"]
    assert b"".join(world.stores["far"].get(key_of(made, "dump"))) == good

    healed(world)
    assert is_whole(world, made)


def test_a_pack_that_two_snapshots_share_is_removed_once_though_both_are_mended_at_once(world: World) -> None:
    pack = world.put_pack("aa1")
    made = world.nights(2, packs=[pack], kind=Kind.FILES)
    for snapshot in made:
        attest_damage(world.vault, snapshot, "far", DAMAGE)
    flip_a_bit(world.stores["far"], pack_key("orders", "aa1"))
    meeting, removed = threading.Barrier(2), []

    def fails(name: str, method: str, key: str) -> bool:
        if (name, method, key) == ("near", "get", pack_key("orders", "aa1")) and not removed:
            with suppress(threading.BrokenBarrierError):
                meeting.wait(timeout=1)  # for the other one, if it comes as far
        if (name, method) == ("far", "delete"):
            removed.append(key)
        return False

    world.fails = fails
    done = heal(world.vault, world.policy, now=world.now, at_once=2)

    world.fails = lambda *_: False
    assert removed == [pack_key("orders", "aa1")]
    assert [one.lacking for one in done] == [{}, {}]
    assert all(is_whole(world, one) for one in made)
