"""What an inventory takes over from the one before it is what it would read anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from lifeboat.attestation import Verdict
from lifeboat.holding import end_holds, hold
from lifeboat.inventory import Inventory, take_inventory
from lifeboat.keys import SigningKey
from lifeboat.packs import pack_key
from lifeboat.record_cache import RecordCache
from lifeboat.snapshot import Kind, Tier, artifact_key, manifest_key
from tests.keeping.worlds import DAY, World, overwrite


@pytest.fixture
def world() -> World:
    return World()


def read_anew(world: World) -> Inventory:
    """The inventory that a process makes which has read nothing before."""
    before, world.vault.cache = world.vault.cache, RecordCache()
    try:
        return world.inventory
    finally:
        world.vault.cache = before


CHANGES: dict[str, Callable[[World], object]] = {
    "a night": lambda world: world.nights(1),
    "a proof": lambda world: world.prove(world.vault.find("orders")),
    "a proof that fails": lambda world: world.attest(world.vault.find("orders"), Verdict.FAILED, repository="far"),
    "a hold": lambda world: hold(world.vault, world.vault.find("orders"), reason="x", until=None, now=world.now),
    "the end of it": lambda world: end_holds(world.vault, world.vault.find("orders"), reason="x", now=world.now),
    "a suspicion": lambda world: world.attest(world.vault.find("orders"), Verdict.SUSPECT, reason="x"),
    "a pack that is lost": lambda world: world.stores["far"].delete(pack_key("orders", "aa1")),
    "packs that are not listed": lambda world: fail(
        world, lambda name, _, key: (name, key) == ("far", "packs/orders/")
    ),
    "and are listed again": lambda world: fail(world, lambda *_: False),
    "weeks": lambda world: [world.nights(8), world.promote(Tier.WEEKLY)],
    "a prune": lambda world: world.prune(despite_brake=True),
    "an artifact that is lost": lambda world: world.stores["far"].delete(dump_key(world)),
    "an artifact that is cut short": lambda world: overwrite(
        world.stores["near"], world.stores["near"].describe(dump_key(world)), b"cut"
    ),
    "a lock": lambda world: world.stores["near"].lock(dump_key(world), world.now + 30 * DAY),
    "another source": lambda world: world.back_up(source="other"),
    "a repository that does not answer": lambda world: world.down.add("far"),
    "and answers again": lambda world: world.down.clear(),
}


def fail(world: World, fails: Callable[[str, str, str], bool]) -> None:
    world.fails = fails


def dump_key(world: World) -> str:
    newest = world.vault.find("orders")
    return artifact_key("orders", newest.tier, newest.id, "dump")


def test_after_every_change_it_is_what_would_be_read_anew(world: World) -> None:
    packs = [world.put_pack(f"aa{number}") for number in range(3)]
    for pack in packs:
        world.back_up(packs=[pack, packs[0]], kind=Kind.FILES)
        world.now += DAY

    for what, change in CHANGES.items():
        before = world.inventory
        change(world)
        after = world.inventory

        assert after == read_anew(world), what
        assert after != before, what
        assert world.inventory == after, what


def test_a_hold_ends_when_its_time_has_come_though_nothing_new_is_listed(world: World) -> None:
    made = world.nights(1)[0]
    hold(world.vault, made, reason="for the auditors", until=world.now + DAY, now=world.now)
    assert all(copy.standing.held for copy in world.inventory.copies)

    world.now += DAY + timedelta(seconds=1)

    assert not any(copy.standing.held for copy in world.inventory.copies)
    world.now -= DAY
    assert all(copy.standing.held for copy in world.inventory.copies)


@pytest.mark.parametrize("what", ["manifest.json", "attestations/"])
def test_what_could_not_be_read_is_read_the_next_time(world: World, what: str) -> None:
    made = world.nights(1)[0]
    world.prove(made)
    world.fails = lambda _, method, key: method == "get" and what in key
    faulty = world.inventory
    assert faulty.problems or all(copy.standing.unreadable for copy in faulty.copies)

    world.fails = lambda *_: False

    assert world.inventory.problems == ()
    assert all(copy.standing.proven for copy in world.inventory.copies)


def test_nothing_is_read_twice_and_everything_is_listed_every_time(world: World) -> None:
    world.nights(5)
    asked: list[str] = []
    world.fails = lambda _, method, key: bool(asked.append(f"{method} {key}"))
    take_inventory(world.vault, now=world.now)
    first = len(asked)

    take_inventory(world.vault, now=world.now)

    assert asked[first:] == ["list snapshots/"] * 2


def test_a_manifest_that_was_altered_is_refused_though_another_repository_has_the_right_one(world: World) -> None:
    made = world.nights(1)[0]
    key = manifest_key("orders", made.tier, made.id)
    forged = replace(made.manifest, facts={"x": 1}).sign(SigningKey.generate("stranger"))
    overwrite(world.stores["near"], world.stores["near"].describe(key), forged)

    found = world.inventory

    assert [copy.repository for copy in found.copies] == ["far"]
    assert [place for place, _ in found.problems] == [f"near:{key}"]
