"""A vault in memory with a clock of its own, to live through years in seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lifeboat.attestation import Verdict, attest
from lifeboat.errors import RepositoryUnavailable
from lifeboat.inventory import Copy, Inventory, Standing, take_inventory
from lifeboat.keys import CLASSIC, Identity, Keyring, SigningKey
from lifeboat.manifest import Pack
from lifeboat.promotion import Promotion, promote
from lifeboat.prune import Pruned, prune, sweep
from lifeboat.repositories.contract import ObjectInfo, Repository
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.retention import Decision, Policy, RetentionPlan, plan_retention
from lifeboat.snapshot import Kind, SnapshotId, Tier
from lifeboat.vault import Member, Snapshot, Vault
from tests.core.storage_faults import FailingRepository

START = datetime(2026, 11, 2, 2, 0, tzinfo=UTC)
"""A Monday."""

DAY = timedelta(days=1)
OPERATIONS, ESCROW = Identity.generate("operations", CLASSIC), Identity.generate("escrow", CLASSIC)
SIGNING = SigningKey.generate("host-1")
KEYRING = Keyring(
    recipients={"operations": OPERATIONS.recipient, "escrow": ESCROW.recipient},
    identities=(OPERATIONS,),
    signers=(SIGNING.signer,),
    signing_key=SIGNING,
)
SMALL = {Tier.DAILY: 3, Tier.WEEKLY: 2, Tier.MONTHLY: 2}
FULL = {Tier.DAILY: 30, Tier.WEEKLY: 12, Tier.MONTHLY: 12}
LOCAL = {Tier.DAILY: 7, Tier.WEEKLY: 0, Tier.MONTHLY: 0}


class InTurn(ThreadPoolExecutor):
    """Does at once what it is given: requests to a store in memory take no time that threads could save."""

    def submit(self, act: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(act(*arguments, **options))
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)
        return future


class World:
    """Repositories `far`, `near` and so on with their counts, the vault they form, and what time it is there.

    `down` are the repositories that do not answer; `fails` is asked before every storage call.
    """

    def __init__(
        self, counts: Mapping[str, Mapping[Tier, int]] | None = None, *, brake: float = 1.0, start: datetime = START
    ) -> None:
        self.now = start
        self.store_now: Callable[[], datetime] = lambda: self.now
        self.policy = Policy(counts or {"far": SMALL, "near": SMALL}, brake)
        self.down: set[str] = set()
        self.fails: Callable[[str, str, str], bool] = lambda _name, _method, _key: False
        self.stores = {name: MemoryRepository(name, clock=lambda: self.store_now()) for name in self.policy.counts}
        Vault.create([Member(store) for store in self.stores.values()])
        self._vault: Vault | None = None
        self._made_with: frozenset[str] = frozenset()

    @property
    def vault(self) -> Vault:
        """The vault, opened with what answers now."""
        if self._vault is None or self._made_with != self.down:
            cache = self._vault.cache if self._vault else None
            members = [
                Member(self._wrapped(name), tiers=frozenset(t for t, n in self.policy.counts[name].items() if n))
                for name in self.stores
            ]
            self._vault = Vault.open(members, KEYRING, ["operations", "escrow"])
            self._vault.cache = cache or self._vault.cache
            self._vault.pool = InTurn()
            self._made_with = frozenset(self.down)
        return self._vault

    def _wrapped(self, name: str) -> Repository:
        return FailingRepository(
            self.stores[name], lambda _, method, key: name in self.down or self.fails(name, method, key)
        )

    # ---- what happens -----------------------------------------------------------------------------------------------

    def back_up(
        self,
        *,
        source: str = "orders",
        began: datetime | None = None,
        size: int = 40,
        kind: Kind = Kind.POSTGRES,
        packs: Sequence[Pack] = (),
        **facts: object,
    ) -> Snapshot:
        began = began or self.now
        writer = self.vault.begin(source, kind, began=began, scheduled_for=began)
        writer("dump", [b"r" * size], media_type="application/octet-stream")
        return writer.commit(facts, packs)

    def put_pack(self, pack_id: str, *, source: str = "orders") -> Pack:
        """A pack that is in every repository and in no manifest yet."""
        made: list[Pack] = []
        writer = self.vault.begin(source, Kind.FILES, began=self.now)
        writer.put_pack(pack_id, [b"files"], lambda size, sha256: made.append(Pack(pack_id, 5, size, sha256)))
        return made[0]

    def nights(self, count: int, **options: object) -> list[Snapshot]:
        """A backup each night, without prune; the clock then stands at the next night."""
        made = []
        for _ in range(count):
            made.append(self.back_up(**options))
            self.now += DAY
        return made

    def attest(self, snapshot: Snapshot, verdict: Verdict, **details: object) -> None:
        attest(self.vault, snapshot, verdict, details=details)

    def prove(self, snapshot: Snapshot) -> bool:
        """A restore test that passes."""
        self.attest(snapshot, Verdict.PROVEN)
        return True

    def prune(self, source: str | None = "orders", **options: object) -> Pruned:
        return prune(self.vault, self.policy, source, clock=lambda: self.now, **options)

    def sweep(self, **options: object) -> Pruned:
        return sweep(self.vault, self.policy, clock=lambda: self.now, **options)

    def promote(
        self,
        tier: Tier = Tier.WEEKLY,
        *,
        source: str = "orders",
        prove: Callable[[Snapshot], bool] | None = None,
        proving: bool = True,
    ) -> Promotion:
        check = prove or self.prove
        return promote(
            self.vault, self.policy, source, tier, now=self.now, prove=check if proving else None, verify=check
        )

    # ---- what there is ----------------------------------------------------------------------------------------------

    @property
    def inventory(self) -> Inventory:
        return take_inventory(self.vault, now=self.now)

    @property
    def plan(self) -> RetentionPlan:
        return plan_retention(self.inventory.copies, self.policy, self.now)

    def there(self, repository: str = "far", tier: Tier = Tier.DAILY) -> list[SnapshotId]:
        """The snapshots a repository has in a tier, oldest first."""
        found = [c.id for c in self.inventory.copies if (c.repository, c.tier) == (repository, tier)]
        return sorted(found)

    def reasons(self, snapshot: Snapshot, repository: str = "far") -> str:
        """Why the plan keeps or removes a copy."""
        return next(
            "; ".join(d.reasons)
            for d in (*self.plan.keep, *self.plan.remove)
            if (d.copy.id, d.copy.tier, d.copy.repository) == (snapshot.id, snapshot.tier, repository)
        )


def copy_of(
    days: float, *, repository: str = "far", tier: Tier = Tier.DAILY, suffix: str = "00000000", **fields: object
) -> Copy:
    """A copy of a snapshot that began so many days after the start, and was put at once."""
    standing = Standing(**{k: fields.pop(k) for k in list(fields) if k in Standing.__dataclass_fields__})
    began = START + days * DAY
    made = Copy("orders", tier, SnapshotId(began, suffix), repository, 100, modified=began, standing=standing)
    return replace(made, **fields)


def decided(decisions: Sequence[Decision]) -> list[float]:
    """The copies of decisions, as days after the start."""
    return [(d.copy.id.began - START) / DAY for d in decisions]


def unavailable(*_: object) -> bool:
    raise RepositoryUnavailable("It cannot be done now.")


def keys(store: MemoryRepository) -> list[str]:
    return [info.key for info in store.list("")]


def overwrite(store: MemoryRepository, info: ObjectInfo, data: bytes) -> None:
    """What somebody who can write to the storage might do."""
    store.delete(info.key)
    store.put(info.key, [data])


def flip_a_bit(store: Repository, key: str) -> None:
    """What a bad sector does, which no listing shows."""
    data = bytearray(b"".join(store.get(key)))
    data[len(data) // 2] ^= 1
    store.delete(key)
    store.put(key, [bytes(data)])
