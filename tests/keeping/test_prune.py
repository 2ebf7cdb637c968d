"""Pruning: each removal is decided anew, a crash leaves nothing half there, and nothing that matters ever goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from lifeboat.attestation import Verdict
from lifeboat.errors import LifeboatError, PruneRefused, RepositoryError
from lifeboat.holding import accept, end_holds, hold
from lifeboat.inventory import take_inventory
from lifeboat.keys import SigningKey
from lifeboat.prune import BRAKE_HINT, GRACE, plan_prune, prune
from lifeboat.repositories.contract import ObjectInfo
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.retention import Policy
from lifeboat.snapshot import Kind, Tier, artifact_key, manifest_key, snapshot_prefix
from tests.keeping.worlds import DAY, FULL, START, World, keys, overwrite

DAYS = {"far": {Tier.DAILY: 3}, "near": {Tier.DAILY: 3}}
"""Nothing is promoted, so nothing waits for it."""


@pytest.fixture
def world() -> World:
    return World(DAYS)


# ---- what goes ------------------------------------------------------------------------------------------------------


def test_what_is_promised_no_longer_goes_from_every_repository_with_all_that_belongs_to_it(world: World) -> None:
    made = world.nights(6)
    world.attest(made[0], Verdict.FAILED)

    pruned = world.prune()

    assert world.there("far") == world.there("near") == [s.id for s in made[3:]]
    assert not any(str(s.id) in key for s in made[:3] for key in keys(world.stores["far"]))
    assert len(pruned.removed) == 6
    assert set(pruned.freed()) == {"far", "near"}
    assert pruned.freed()["far"]["daily"] > sum(s.manifest.sealed_size for s in made[:3])
    assert pruned.failed == pruned.postponed == pruned.problems == ()


def test_pruning_twice_removes_nothing_more(world: World) -> None:
    world.nights(6)
    world.prune()
    before = [keys(store) for store in world.stores.values()]

    assert world.prune().removed == ()
    assert [keys(store) for store in world.stores.values()] == before


def test_a_prune_with_nothing_to_remove_says_what_it_looked_at_and_when_the_next_may_go(world: World) -> None:
    assert world.prune("orders").idle == "Nothing is due: there are no snapshots of orders."
    world.nights(2)

    assert world.prune("orders").idle == (
        "Nothing is due. Looked at: 2 snapshots of orders, in far, near; the next goes once there are newer snapshots."
    )

    for _ in range(2):  # the first of them goes when it is a day old
        world.back_up()
        world.now += timedelta(hours=1)
    idle = world.prune().idle
    world.now += DAY

    assert f"; the next may go on {world.now - timedelta(hours=2):%Y-%m-%d at %H:%M} UTC." in idle
    assert world.prune().idle == ""


def test_a_dry_run_changes_nothing(world: World) -> None:
    world.nights(6)
    before = [keys(store) for store in world.stores.values()]

    plan, _ = plan_prune(world.vault, world.policy, "orders", world.now)

    assert len(plan.remove) == 6
    assert [keys(store) for store in world.stores.values()] == before


def test_only_the_source_that_is_named_is_pruned(world: World) -> None:
    world.nights(6)
    other = World.nights(world, 6, source="invoices")

    world.prune("orders")

    assert len([c for c in world.inventory.copies if c.source == "invoices"]) == 2 * len(other)


# ---- what stays -----------------------------------------------------------------------------------------------------


def test_what_is_held_stays_until_the_hold_is_ended(world: World) -> None:
    made = world.nights(6)
    hold(world.vault, made[0], reason="for the auditors", until=None, now=world.now)

    world.prune()
    assert made[0].id in world.there()
    assert "held: for the auditors" in world.reasons(made[0])

    end_holds(world.vault, made[0], reason="they have gone", now=world.now)
    world.prune()
    assert made[0].id not in world.there()


def test_a_hold_with_an_end_ends_by_itself(world: World) -> None:
    made = world.nights(6)
    hold(world.vault, made[0], reason="for the auditors", until=world.now + 10 * DAY, now=world.now)

    world.prune()
    assert made[0].id in world.there()

    world.now += 11 * DAY
    world.prune()
    assert made[0].id not in world.there()


def test_a_host_whose_clock_is_ahead_ends_no_hold_early(world: World) -> None:
    made = world.nights(6)
    hold(world.vault, made[0], reason="for the auditors", until=world.now + 10 * DAY, now=world.now)
    rightly = world.now
    world.store_now = lambda: rightly
    world.now += 400 * DAY

    pruned = world.prune()

    assert made[0].id in [c.id for c in take_inventory(world.vault, now=rightly).copies]
    assert "clock of this host is 400 days" in dict(pruned.problems)["far"]


def test_a_hold_that_one_repository_alone_knows_of_counts_everywhere(world: World) -> None:
    made = world.nights(6)
    world.down = {"near"}
    said = hold(world.vault, made[0], reason="for the auditors", until=None, now=world.now)
    assert said.lacking.keys() == {"near"}
    world.down = set()

    world.prune()

    assert made[0].id in world.there("near")


def test_a_hold_given_between_plan_and_removal_is_heeded(world: World) -> None:
    made = world.nights(6)
    given = []

    def fails(name: str, method: str, key: str) -> bool:
        if method == "describe" and "manifest.json" in key and not given:
            given.append(True)
            for one in made[:3]:
                hold(world.vault, one, reason="wait!", until=None, now=world.now)
        return False

    world.fails = fails
    pruned = world.prune()

    assert given
    assert set(world.there()) >= {s.id for s in made}
    assert all("it was just attested" in why or "held: wait!" in why for _, _, why in pruned.postponed)


def test_an_attestation_that_cannot_be_trusted_keeps_its_snapshot_and_is_told(world: World) -> None:
    made = world.nights(6)
    world.attest(made[0], Verdict.FAILED)
    for store in world.stores.values():
        for info in store.list(f"{snapshot_prefix('orders', Tier.DAILY, made[0].id)}attestations/"):
            overwrite(store, info, b"{}")

    world.prune()

    assert made[0].id in world.there()
    assert "an attestation cannot be read" in world.reasons(made[0])


def test_a_manifest_that_cannot_be_read_is_kept_and_told(world: World) -> None:
    made = world.nights(6)
    key = manifest_key("orders", Tier.DAILY, made[0].id)
    forged = replace(made[0].manifest, facts={"x": 1}).sign(SigningKey.generate("stranger"))
    overwrite(world.stores["far"], world.stores["far"].describe(key), forged)

    pruned = world.prune()
    world.now += 30 * DAY
    world.sweep()

    assert key in keys(world.stores["far"])
    assert artifact_key("orders", Tier.DAILY, made[0].id, "dump") in keys(world.stores["far"])
    assert any(place == f"far:{key}" for place, _ in pruned.problems)


def test_a_suspect_snapshot_keeps_what_came_before_it_until_it_is_accepted(world: World) -> None:
    made = world.nights(6)
    for one in made[3:]:
        world.attest(one, Verdict.SUSPECT, reason="much smaller")

    world.prune()
    assert world.there() == [s.id for s in made]

    for one in made[3:]:
        accept(world.vault, one, reason="we archived last year")
    world.prune()
    assert world.there() == [s.id for s in made[3:]]


def test_a_locked_snapshot_is_postponed_and_not_failed(world: World) -> None:
    made = world.nights(6)

    class Locked(MemoryRepository):
        def describe(self, key: str) -> ObjectInfo:
            found = super().describe(key)
            locked = f"/{made[0].id}/dump" in key
            return replace(found, locked_until=START + 100 * DAY) if locked else found

    world.stores["far"].__class__ = Locked
    pruned = world.prune()

    assert made[0].id in world.there("far")
    assert pruned.postponed == ((made[0].label, "far", "locked until 2027-02-10 02:00 UTC"),)
    assert pruned.failed == ()
    pruned.raise_failures()


def test_the_last_copy_stays_while_the_other_repository_owes_it() -> None:
    world = World({"far": {Tier.DAILY: 20}, "near": {Tier.DAILY: 3}})
    world.down = {"far"}
    made = world.nights(6)
    world.down = set()
    made += world.nights(3)

    world.prune()
    assert world.there("near") == [s.id for s in made]

    for place in {one.place for one in world.plan.owed}:
        world.vault.replicate(world.inventory.snapshots[place])
    world.now += 2 * DAY
    world.prune()
    assert world.there("near") == [s.id for s in made[6:]]
    assert world.there("far") == [s.id for s in made]


def test_a_repository_that_comes_back_empty_is_healed_and_not_mirrored(world: World) -> None:
    made = world.nights(3)
    for info in list(world.stores["far"].list("snapshots/")):
        world.stores["far"].delete(info.key)
    made += world.nights(3)

    world.prune()
    assert len(world.there("near")) == 3
    for place in {one.place for one in world.plan.owed}:
        world.vault.replicate(world.inventory.snapshots[place])

    assert world.there("far") == world.there("near") == [s.id for s in made[3:]]


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_repository_that_does_not_answer_loses_nothing_and_is_told(world: World) -> None:
    made = world.nights(6)
    world.down = {"far"}

    pruned = world.prune()

    assert "far" in dict(pruned.problems)
    world.down = set()
    assert world.there("far") == [s.id for s in made]


def test_a_deletion_that_is_refused_is_told_and_the_rest_goes_on(world: World) -> None:
    made = world.nights(6)
    world.fails = lambda name, method, key: name == "far" and method == "delete" and "snapshots/" in key

    pruned = world.prune()

    assert world.there("far") == [s.id for s in made]
    assert world.there("near") == [s.id for s in made[3:]]
    assert {name for _, name, _ in pruned.failed} == {"far"}
    with pytest.raises(PruneRefused, match="failed on purpose"):
        pruned.raise_failures()


class Stale(MemoryRepository):
    """A store whose listings are those of an earlier moment."""

    frozen: list[ObjectInfo] | None = None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if self.frozen is None:
            yield from super().list(prefix)
        else:
            yield from [info for info in self.frozen if info.key.startswith(prefix)]


class Truncated(MemoryRepository):
    """A store whose listings leave out what `lost` says."""

    lost: str = "nothing"

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from [info for info in super().list(prefix) if self.lost not in info.key]


def test_a_listing_that_shows_what_is_gone_removes_nothing(world: World) -> None:
    made = world.nights(6)
    store = world.stores["far"]
    store.__class__ = Stale
    store.frozen = list(store.list(""))
    take_inventory(world.vault, now=world.now)
    for one in made[3:]:
        for info in list(MemoryRepository.list(store, snapshot_prefix("orders", Tier.DAILY, one.id))):
            MemoryRepository.delete(store, info.key)

    pruned = world.prune()

    left = {key.split("/")[3] for key in (i.key for i in MemoryRepository.list(store, "snapshots/"))}
    assert left == {str(s.id) for s in made[:3]}
    assert {name for _, name, _ in pruned.failed} == {"far"}


@pytest.mark.parametrize("lost", ["manifest.json", "dump.sealed", "attestations/", "20261107", "snapshots/"])
def test_a_listing_that_leaves_out_anything_removes_nothing_that_would_have_stayed(world: World, lost: str) -> None:
    made = world.nights(6)
    hold(world.vault, made[0], reason="for the auditors", until=None, now=world.now)
    world.attest(made[1], Verdict.PROVEN)
    stays = {d.copy.id for d in world.plan.keep}
    world.stores["far"].__class__ = Truncated
    world.stores["far"].lost = lost

    world.prune()
    world.now += 30 * DAY
    world.sweep()

    world.stores["far"].lost = "nothing"
    assert stays <= set(world.there("far"))
    assert stays <= set(world.there("near"))


def test_whichever_storage_call_fails_what_is_listed_is_whole_and_the_next_prune_ends_it() -> None:
    for number in range(1, 400):
        world = World(DAYS)
        made = world.nights(5)
        calls = iter(range(1, 10_000))
        world.fails = lambda *_, number=number, calls=calls: next(calls) == number
        with suppress(LifeboatError):
            world.prune()
        world.fails = lambda *_: False

        assert all(c.whole for c in world.inventory.copies), f"storage call {number}"
        assert {s.id for s in made[2:]} <= set(world.there("far")) & set(world.there("near"))
        world.prune()
        world.now += GRACE + DAY
        world.sweep()
        assert {k.split("/")[3] for k in keys(world.stores["far"]) if "snapshots/" in k} == {
            str(s.id) for s in made[2:]
        }
        if next(calls) < number:
            break
    assert number > 30


def test_two_prunes_at_once_do_what_one_does(world: World) -> None:
    made = world.nights(10)
    start = threading.Barrier(3)

    def run() -> None:
        start.wait()
        world.prune()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert world.there("far") == world.there("near") == [s.id for s in made[7:]]


def test_a_backup_under_way_is_left_alone_by_prune_and_sweep(world: World) -> None:
    world.nights(4)
    writer = world.vault.begin("orders", Kind.POSTGRES, began=world.now)
    writer("dump", [b"rows"], media_type="application/octet-stream")

    world.prune()
    world.sweep()
    made = writer.commit({})

    world.vault.verify(made, "far").raise_faults()
    assert world.there()[-1] == made.id


def test_a_restore_that_is_overtaken_by_prune_fails_and_never_ends_short(world: World) -> None:
    made = world.nights(6, size=3_000_000)
    reading = world.vault.read(made[0], "dump")
    first = next(reading)

    world.prune()

    assert first
    with pytest.raises(RepositoryError):
        b"".join(world.vault.read(made[0], "dump"))
    assert made[0].id not in world.there()


def test_what_is_held_for_a_restore_is_not_overtaken(world: World) -> None:
    made = world.nights(6)
    hold(world.vault, made[0], reason="being restored", until=world.now + DAY, now=world.now)

    world.prune()

    assert b"".join(world.vault.read(made[0], "dump")) == b"r" * 40


def test_the_brake_refuses_and_only_the_ugly_flag_overrides_it() -> None:
    world = World({"far": FULL}, brake=0.25)
    made = world.nights(20)
    world.policy = Policy({"far": {**FULL, Tier.DAILY: 1, Tier.WEEKLY: 0, Tier.MONTHLY: 0}}, brake=0.25)

    pruned = world.prune()
    assert pruned.removed == ()
    with pytest.raises(PruneRefused, match="19 of the 20 snapshots of orders would vanish at once") as refused:
        pruned.raise_failures()
    assert "--remove-much-at-once-although-it-cannot-be-undone" in refused.value.hint == BRAKE_HINT

    world.prune(despite_brake=True)
    assert world.there() == [made[-1].id]


def test_a_repository_that_platform_yaml_names_no_longer_is_left_alone(world: World) -> None:
    made = world.nights(6)
    policy = Policy({"near": {Tier.DAILY: 3}}, brake=1.0)

    prune(world.vault, policy, "orders", clock=lambda: world.now)

    assert world.there("far") == [s.id for s in made]
    assert world.there("near") == [s.id for s in made[3:]]


# ---- leftovers ------------------------------------------------------------------------------------------------------


def leftover(world: World) -> str:
    """What a killed attempt leaves."""
    writer = world.vault.begin("orders", Kind.POSTGRES, began=world.now)
    writer("dump", [b"rows"], media_type="application/octet-stream")
    return artifact_key("orders", Tier.DAILY, writer.id, "dump")


def test_a_sweep_with_nothing_to_sweep_says_what_it_looked_at_and_when_the_next_may_go(world: World) -> None:
    world.nights(1)
    assert world.sweep().idle == "Nothing is left over in far, near that is older than 3 days."

    leftover(world)
    assert world.sweep().idle == (
        "Nothing is due in far, near: 2 unfinished attempts may be at work yet; the first may go on "
        f"{world.now + GRACE:%Y-%m-%d at %H:%M} UTC."
    )


def test_a_killed_attempt_is_swept_after_the_grace_and_not_before(world: World) -> None:
    made = world.nights(2)
    key = leftover(world)

    world.now += GRACE - DAY / 24
    assert world.sweep().removed == ()
    world.now += DAY / 12
    pruned = world.sweep()

    assert key not in keys(world.stores["far"])
    assert {r.repository for r in pruned.removed} == {"far", "near"}
    assert pruned.freed()["far"]["daily"] > 0
    assert world.there() == [s.id for s in made]


def test_a_clock_that_is_ahead_sweeps_nothing_early(world: World) -> None:
    key = leftover(world)
    rightly = world.now
    world.store_now = lambda: rightly
    world.now += 100 * DAY

    world.sweep()

    assert key in keys(world.stores["far"])


def test_what_another_repository_has_whole_is_left_for_replication(world: World) -> None:
    made = world.nights(1)[0]
    world.stores["far"].delete(manifest_key("orders", Tier.DAILY, made.id))
    world.now += 10 * DAY

    world.sweep()
    world.vault.replicate(world.vault.find("orders"))

    assert world.there("far") == [made.id]
    world.vault.verify(world.vault.find("orders"), "far").raise_faults()


def test_what_a_prune_left_behind_is_swept_though_another_repository_keeps_the_snapshot() -> None:
    world = World({"far": {Tier.DAILY: 20}, "near": {Tier.DAILY: 3}})
    made = world.nights(6)
    world.fails = lambda _, method, key: method == "delete" and key.endswith("dump.sealed")
    world.prune()
    world.fails = lambda *_: False
    assert any(str(made[0].id) in key for key in keys(world.stores["near"]))

    world.now += GRACE + DAY
    world.sweep()

    assert not any(str(made[0].id) in key for key in keys(world.stores["near"]))
    assert made[0].id in world.there("far")


# ---- records -------------------------------------------------------------------------------------------------------


def test_the_records_of_a_listing_are_not_fetched_twice(world: World) -> None:
    world.nights(5)
    asked: list[str] = []
    world.fails = lambda _, method, key: asked.append(key) or False if method == "get" else False
    vault = world.vault
    vault.cache = type(vault.cache)()

    take_inventory(vault, now=world.now)
    first = len(asked)
    take_inventory(vault, now=world.now)

    assert first == 10
    assert len(asked) == first


def test_a_cached_record_that_was_altered_is_refused(world: World, tmp_path) -> None:
    from lifeboat.record_cache import RecordCache

    made = world.nights(1)[0]
    world.vault.cache = RecordCache(tmp_path)
    world.vault.list()
    altered = [path for path in tmp_path.rglob("*") if path.is_file()]
    forged = replace(made.manifest, facts={"x": 1}).sign(SigningKey.generate("stranger"))
    for path in altered:
        path.write_bytes(forged.ljust(path.stat().st_size)[: path.stat().st_size])
    world.vault.cache = RecordCache(tmp_path)

    listing = world.vault.list()

    assert altered
    assert listing.snapshots == ()
    assert len(listing.problems) == 2


# ---- what happens in between ----------------------------------------------------------------------------------------


def test_an_attempt_that_goes_on_while_we_look_is_not_swept(world: World) -> None:
    writer = world.vault.begin("orders", Kind.POSTGRES, began=world.now)
    writer("dump", [b"rows"], media_type="application/octet-stream")
    world.now += GRACE + DAY

    def fails(_name: str, method: str, key: str) -> bool:
        if method == "describe" and key == manifest_key("orders", Tier.DAILY, writer.id):
            world.fails = lambda *_: False
            writer("globals", [b"roles"], media_type="application/sql")
        return False

    world.fails = fails
    world.sweep()

    assert artifact_key("orders", Tier.DAILY, writer.id, "dump") in keys(world.stores["far"])


def test_what_a_repository_owes_is_not_swept_however_old_it_is(world: World) -> None:
    made = world.nights(1)[0]
    world.stores["far"].delete(manifest_key("orders", Tier.DAILY, made.id))
    world.now += 10 * DAY

    world.sweep()

    assert artifact_key("orders", Tier.DAILY, made.id, "dump") in keys(world.stores["far"])


def test_a_hold_on_one_tiers_copy_holds_them_all() -> None:
    world = World({"far": FULL}, brake=1.0)
    made = world.nights(8)
    world.promote()
    [weekly] = world.vault.list("orders", Tier.WEEKLY).snapshots
    world.attest(made[6], Verdict.HELD, reason="for the auditors")
    world.policy = Policy({"far": {Tier.DAILY: 1}}, brake=1.0)
    world.now += 2 * DAY

    world.prune()

    assert world.there("far", Tier.WEEKLY) == [weekly.id]
    assert world.there("far") == [made[6].id, made[7].id]
