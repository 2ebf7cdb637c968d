"""Whatever runs at the same time as a sweep, and wherever it is cut short: no snapshot that is there lacks a pack."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some

from lifeboat.errors import LifeboatError
from lifeboat.files.source import TreeSource
from lifeboat.files.sync import back_up_tree
from lifeboat.healing import heal
from lifeboat.pack_sweep import LONGEST_SYNC
from lifeboat.promotion import promote
from lifeboat.prune import GRACE, prune, sweep
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.retention import Policy
from lifeboat.snapshot import Tier
from lifeboat.vault import Member, Snapshot, Vault
from tests.core.storage_faults import FailingRepository
from tests.keeping.worlds import DAY, KEYRING, SMALL, START, keys

COUNTS = {"far": SMALL, "near": {Tier.DAILY: 2, Tier.WEEKLY: 1, Tier.MONTHLY: 0}}
HOUR = timedelta(hours=1)
CONTENTS = 5

Place = tuple[str, str, int]
"""A storage call: what is asked, a part of the key or prefix, and which of several such."""

Calls = Callable[[str, str, str], bool]
"""Hears of a storage call, by repository, method and key, and says whether it fails."""


@dataclass
class Held:
    """Something that waits at one of its storage calls, and until when it may."""

    what: str
    until: datetime | None
    thread: threading.Thread
    goes_on: threading.Event


class Trees:
    """One tree that two hosts back up, each with what it remembers, in repositories whose clock is turned by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = START
        self.policy = Policy(COUNTS, brake=1.0)
        self.stores = {name: MemoryRepository(name, clock=lambda: self.now) for name in COUNTS}
        self.down: frozenset[str] = frozenset()
        self.held: list[Held] = []
        self.faults: list[BaseException] = []
        self.root = folder / "tree"
        self.root.mkdir(parents=True, exist_ok=True)
        self.hosts = [TreeSource("uploads", str(self.root), folder / host) for host in ("one", "other")]

    @classmethod
    def with_old_packs(cls, folder: Path) -> Trees:
        made = cls(folder)
        Vault.create([Member(store) for store in made.stores.values()])
        made.old_packs()
        return made

    def again_in(self, folder: Path) -> Trees:
        """The same at the same moment, in a folder and repositories of its own."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        copied = Trees(folder)
        for name, store in self.stores.items():
            for info in store.list(""):
                copied.now = info.modified
                copied.stores[name].put(info.key, store.get(info.key))
        copied.now = self.now
        return copied

    def old_packs(self) -> None:
        """Every content has a pack, which both hosts know; all but one are unneeded, old, and not marked yet."""
        for number in (*range(0, 4 * CONTENTS, 4), 0, 0, 0):
            self.do("write", number)
            self.do("sync", 0)
            self.do("sync", 1)
            self.pass_time(DAY)
        self.pass_time(LONGEST_SYNC)
        for what in ("promote", "prune"):
            self.do(what, 0)

    # ---- what happens -----------------------------------------------------------------------------------------------

    def do(self, what: str, number: int = 0, calls: Calls = lambda *_: False) -> None:
        """Do one thing, which may fail as things do."""
        if what == "write":  # one of few contents under one of few names, so that what was in an old pack is needed
            (self.root / f"{number % 4}").write_bytes(b"contents %d " % (number // 4 % CONTENTS) * 100)
        elif what == "remove":
            (self.root / f"{number % 4}").unlink(missing_ok=True)
        elif what == "days":
            self.pass_time((1, 1, 2, 2, 3, 4, 15)[number % 7] * DAY)
        elif what == "hours":
            self.pass_time((1 + number) * HOUR)
        elif what == "down":
            self.down = (frozenset(), frozenset({"far"}), frozenset({"near"}))[number % 3]
        elif what == "go on":
            if self.held:
                self.go_on(self.held[number % len(self.held)])
        else:
            with suppress(LifeboatError), self.vault(calls) as vault:
                self.keep(vault, what, number)

    def keep(self, vault: Vault, what: str, number: int) -> None:
        match what:
            case "sync":
                back_up_tree(vault, self.hosts[number % 2], began=self.now, allow_vanished=True)
            case "prune":
                prune(vault, self.policy, "uploads", clock=lambda: self.now)
            case "sweep":
                sweep(vault, self.policy, clock=lambda: self.now)
            case "heal":
                heal(vault, self.policy, now=self.now, at_once=1)
            case "promote":
                good: Callable[[Snapshot], bool] = lambda _: True  # noqa: E731
                promote(vault, self.policy, "uploads", Tier.WEEKLY, now=self.now, prove=None, verify=good)

    @contextmanager
    def vault(self, calls: Calls) -> Iterator[Vault]:
        """The vault of one process, whose storage calls are heard."""
        members = [Member(self.calling(name, calls), tiers=tiers_of(name)) for name in COUNTS]
        vault = Vault.open(members, KEYRING, ["operations", "escrow"])
        try:
            yield vault
        finally:
            vault.pool.shutdown()

    def calling(self, name: str, calls: Calls) -> FailingRepository:
        return FailingRepository(
            self.stores[name], lambda _, method, key: name in self.down or calls(name, method, key)
        )

    def begin(self, what: str, number: int, place: Place) -> None:
        """Begin something that waits at one of its storage calls, if it comes to it, until it goes on."""
        held, goes_on, lock, seen = threading.Event(), threading.Event(), threading.Lock(), iter(range(100_000))
        one = Held(what, None, threading.Thread(), goes_on)

        def calls(_name: str, method: str, key: str) -> bool:
            with lock:
                here = method == place[0] and place[1] in key and next(seen) == place[2]
            if here:
                one.until = self.now + longest_wait(what, method, key)
                held.set()
                goes_on.wait()
            return False

        def run() -> None:
            try:
                self.do(what, number, calls)
            except BaseException as fault:  # noqa: BLE001 - raised by the test
                self.faults.append(fault)
            finally:
                held.set()

        one.thread = threading.Thread(target=run)
        one.thread.start()
        held.wait()
        if one.until is not None:
            self.held.append(one)
        else:
            one.thread.join()

    def go_on(self, one: Held) -> None:
        """Let something go on to its end."""
        self.held.remove(one)
        one.goes_on.set()
        one.thread.join()

    def pass_time(self, span: timedelta) -> None:
        """Turn the clock; what may not wait so long goes on before."""
        for one in [one for one in self.held if one.until and one.until < self.now + span]:
            self.go_on(one)
        self.now += span

    def cut_short(self, what: str, call: int) -> None:
        """Do something whose storage calls all fail from one on, as those of a killed process are never made."""
        seen = iter(range(100_000))
        self.do(what, call, lambda *_: next(seen) >= call)

    # ---- what must hold ---------------------------------------------------------------------------------------------

    def check(self, step: object) -> None:
        """Every pack that a manifest names is beside it, by the stores' own word."""
        assert self.faults == []
        for snapshot in self.snapshots():
            for name in snapshot.repositories:
                there = {info.key: info.size for info in self.stores[name].list("packs/uploads/")}
                for pack in snapshot.manifest.packs:
                    size = there.get(f"packs/uploads/{pack.id[:2]}/{pack.id}")
                    assert size == pack.sealed_size, (step, snapshot.label, name, pack.id)

    def snapshots(self) -> tuple[Snapshot, ...]:
        vault = Vault.open([Member(store) for store in self.stores.values()], KEYRING, ["operations", "escrow"])
        with vault.pool:
            return vault.list("uploads").snapshots

    def ends_well(self) -> None:
        """Once all is well again, everything can be read, and nothing is left that no snapshot needs."""
        self.down = frozenset()
        for one in list(self.held):
            self.go_on(one)
        self.check("at the end")
        for span in (*[DAY] * 4, LONGEST_SYNC, *[GRACE + HOUR] * 3):
            self.pass_time(span)
            for step in ("sync", "heal", "prune", "sweep"):
                self.do(step)
        self.check("after the end")
        snapshots = self.snapshots()
        for name, store in self.stores.items():
            needed = {p.id for s in snapshots if name in s.repositories for p in s.manifest.packs}
            assert {key.split("/")[3] for key in keys(store) if key.startswith("packs/")} == needed
            assert not [key for key in keys(store) if key.startswith("unreferenced/")]
        with self.vault(lambda *_: False) as vault:
            for name in snapshots[-1].repositories:
                vault.verify(snapshots[-1], name).raise_faults()


def tiers_of(name: str) -> frozenset[Tier]:
    return frozenset(tier for tier, count in COUNTS[name].items() if count)


def longest_wait(what: str, method: str, key: str) -> timedelta:
    """How long something may be held up: a sweep without end; who puts a manifest, once it has looked at marks, for
    less than half a grace; a backup altogether less than the longest."""
    if what in ("sweep", "prune"):
        return 1000 * DAY
    if method == "put" and (key.startswith("packs/") or key.endswith(".sealed")):
        return LONGEST_SYNC - DAY
    return GRACE / 2 - 2 * HOUR


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """What every history begins with."""
    return Trees.with_old_packs(tmp_path_factory.mktemp("beginning"))


@pytest.fixture
def trees(beginning: Trees, tmp_path: Path) -> Iterator[Trees]:
    made = beginning.again_in(tmp_path)
    yield made
    for one in list(made.held):
        made.go_on(one)


def test_a_backup_that_has_used_a_pack_before_it_was_marked_is_refused_at_its_end(trees: Trees) -> None:
    """It ends while a sweep that has listed all manifests is about to delete that pack."""
    trees.do("write", 4)
    trees.begin("sync", 0, ("put", ".sealed", 0))
    trees.do("sweep")
    trees.pass_time(GRACE + HOUR)
    trees.begin("sweep", 0, ("describe", "packs/", 0))
    assert [one.what for one in trees.held] == ["sync", "sweep"]
    before = len(trees.snapshots())

    trees.do("go on", 0)
    trees.do("go on", 0)

    trees.check("both have ended")
    assert len(trees.snapshots()) == before
    trees.do("sync", 0)
    assert len(trees.snapshots()) == before + 1
    trees.ends_well()


def test_a_backup_that_ends_before_a_sweep_looks_again_keeps_its_pack(trees: Trees) -> None:
    """It put its manifest while the sweep that marked the pack was still at work, so it saw no mark."""
    trees.do("write", 4)
    trees.begin("sync", 0, ("put", "manifest.json", 0))
    trees.do("sweep")
    trees.do("go on", 0)
    trees.pass_time(GRACE + HOUR)

    trees.do("sweep")

    trees.check("swept")
    trees.ends_well()


WHAT = ["sync"] * 4 + ["sweep"] * 3 + ["prune", "heal", "promote"]
ANY = some.integers(0, 19)
SIMPLE = some.tuples(
    some.sampled_from([*WHAT, *["write", "days", "go on"] * 3, "remove", "hours", "hours", "down"]), ANY
)
PLACES = some.tuples(
    some.sampled_from(
        [
            ("list", "unreferenced/"),
            ("list", "packs/"),
            ("list", "snapshots/"),
            ("put", ".sealed"),
            ("put", "manifest.json"),
            ("copy", "manifest.json"),
            ("put", "packs/"),
            ("put", "unreferenced/"),
            ("describe", "packs/"),
            ("delete", ""),
        ]
    ),
    some.integers(0, 4),
).map(lambda place: (*place[0], place[1]))
BEGIN = some.tuples(some.sampled_from(WHAT), ANY, PLACES)
CUT = some.tuples(some.just("cut"), some.sampled_from(WHAT), some.integers(0, 45))


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # making a history shorter takes many minutes
)
@given(history=some.lists(some.one_of(SIMPLE, SIMPLE, BEGIN, BEGIN, CUT), min_size=8, max_size=40))
def test_whatever_runs_beside_a_sweep_no_snapshot_lacks_a_pack_and_what_is_unneeded_goes(
    beginning: Trees, history: list[tuple[object, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trees = beginning.again_in(Path(folder))
        try:
            for step in history:
                match step:
                    case ("cut", str(what), int(call)):
                        trees.cut_short(what, call)
                    case (str(what), int(number)):
                        trees.do(what, number)
                    case (str(what), int(number), tuple(place)):
                        trees.begin(what, number, place)
                trees.check(step)
            trees.ends_well()
        finally:
            for one in list(trees.held):
                trees.go_on(one)
