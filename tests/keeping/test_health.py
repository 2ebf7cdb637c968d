"""The vault's health: what is where, when it was read back, what is owed, and whether 3-2-1 holds."""

from __future__ import annotations

from lifeboat.attestation import Verdict, attest
from lifeboat.healing import heal
from lifeboat.health import Health, vault_health
from lifeboat.holding import hold
from lifeboat.snapshot import Tier, artifact_key, manifest_key
from lifeboat.streams import Throttle
from tests.keeping.worlds import World, overwrite

COUNTS = {"far": {Tier.DAILY: 5}, "near": {Tier.DAILY: 2}}


def health(world: World) -> Health:
    return vault_health(world.vault, world.policy, now=world.now)


def test_every_copy_is_shown_as_the_store_has_it() -> None:
    world = World(COUNTS)
    made = world.nights(2)[-1]
    attest(world.vault, made, Verdict.VERIFIED, details={"repositories": ["far"], "unsealed": True})

    found = health(world)

    far, near = (next(c for c in found.copies if (c.label, c.repository) == (made.label, n)) for n in ("far", "near"))
    assert (far.present, far.whole, far.owed) == (True, True, False)
    key = artifact_key("orders", Tier.DAILY, made.id, "dump")
    assert far.digest == world.stores["far"].describe(key).digest
    assert far.size > made.manifest.sealed_size
    assert far.read_back is not None
    assert near.read_back is None
    assert found.copies[0].label == made.label
    assert found.problems == ()


def test_what_is_owed_is_shown_and_healed_in_either_direction() -> None:
    world = World(COUNTS)
    world.down = {"far"}
    first = world.nights(1)[0]
    world.down = {"near"}
    second = world.nights(1)[0]
    world.down = set()
    owed = {(c.label, c.repository) for c in health(world).copies if c.owed}
    assert owed == {(first.label, "far"), (second.label, "near")}
    assert not health(world).sound

    heal(world.vault, world.policy, now=world.now)

    assert not any(c.owed for c in health(world).copies)
    for name in ("far", "near"):
        for snapshot in world.vault.list().snapshots:
            world.vault.verify(snapshot, name).raise_faults()


def test_a_copy_with_a_missing_or_cut_artifact_is_made_whole_again() -> None:
    world = World(COUNTS)
    made, other = world.nights(2)
    store = world.stores["far"]
    store.delete(artifact_key("orders", Tier.DAILY, made.id, "dump"))
    key = artifact_key("orders", Tier.DAILY, other.id, "dump")
    overwrite(store, store.describe(key), b"cut short")
    assert {c.label for c in health(world).copies if not c.whole} == {made.label, other.label}

    done = heal(world.vault, world.policy, now=world.now)

    assert all(one.lacking == {} for one in done)
    assert all(c.whole for c in health(world).copies)
    for snapshot in (made, other):
        world.vault.verify(snapshot, "far").raise_faults()


def test_nothing_is_removed_of_a_damaged_copy_that_is_the_only_one() -> None:
    world = World({"far": {Tier.DAILY: 5}})
    made = world.nights(1)[0]
    store = world.stores["far"]
    key = artifact_key("orders", Tier.DAILY, made.id, "dump")
    overwrite(store, store.describe(key), b"cut short")

    heal(world.vault, world.policy, now=world.now)

    assert b"".join(store.get(key)) == b"cut short"
    assert store.describe(manifest_key("orders", Tier.DAILY, made.id))


def test_a_hold_that_one_repository_missed_is_told_it() -> None:
    world = World(COUNTS)
    made = world.nights(1)[0]
    world.down = {"near"}
    hold(world.vault, made, reason="for the auditors", until=None, now=world.now)
    world.down = set()

    heal(world.vault, world.policy, now=world.now)
    world.down = {"far"}

    assert world.inventory.copies[0].standing.held == "for the auditors"


def test_copying_keeps_to_the_bytes_a_second_that_are_set() -> None:
    world = World(COUNTS)
    world.down = {"far"}
    world.nights(3)
    world.down = set()
    slept: list[float] = []
    world.vault.throttle = Throttle(128, clock=lambda: sum(slept), sleep=slept.append)  # no rounding: a power of two

    done = heal(world.vault, world.policy, now=world.now)

    size = sum(one.snapshot.manifest.sealed_size for one in done)
    assert len(done) == 3
    # The last chunk of all waits for those before it.
    last = done[-1].snapshot.manifest.sealed_size
    assert sum(slept) >= (size - last) / 128
    assert not any(copy.owed for copy in health(world).copies)


def test_a_repository_that_does_not_answer_is_a_problem() -> None:
    world = World(COUNTS)
    world.nights(1)
    world.down = {"far"}

    found = health(world)

    assert [place for place, _ in found.problems] == ["far"]
    assert not found.sound


def test_one_repository_alone_is_not_three_copies_in_two_kinds_of_places() -> None:
    world = World({"far": {Tier.DAILY: 5}})
    world.nights(1)

    lacking = health(world).lacking["orders"]

    assert "is whole in 1 repositories" in lacking[0]
    assert "is in one kind of storage only: memory" in lacking[1]
    assert "is nowhere but on disks of this host" in lacking[2]
