"""The anomaly gate: a snapshot that differs much from those before it is kept, but marked suspect until a person looks.

A backup of an emptied database is a good backup of the wrong thing. It must not push out those that are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from lifeboat.attestation import (
    Attestation,
    Verdict,
    attest,
    last_judgement,
    open_suspicions,
)
from lifeboat.choosing import partial
from lifeboat.errors import LifeboatError, RepositoryUnavailable
from lifeboat.inventory import Inventory, take_inventory
from lifeboat.progress import duration_text, size_text
from lifeboat.snapshot import Kind, Tier
from lifeboat.vault import Snapshot, Vault

HISTORY = 7
"""So many of the newest good snapshots are what a new one is compared with."""

LEAST_HISTORY = 3
"""With fewer, sizes and times say nothing yet."""

SMALLER = 0.5
"""Less than this share of the usual bytes or rows is suspect."""

SLOWER = 3.0
SLOWER_BY = 300.0
"""So many times as long as usual, and so many seconds longer, is suspect."""

LEAST_BYTES = 1024 * 1024
"""A source that is usually smaller is not judged by its size."""

LEAST_ROWS = 100
"""A table, or all of them, that usually have fewer rows may become empty."""


SHOWN = 5
"""So many lost tables are named."""


@dataclass(frozen=True)
class Figures:
    """What is compared of a snapshot. `tables` are rows by table, None where the evidence cannot be read here.

    `rows`, `table_count` and `keys` are what the manifest says, None of sources that have none.
    """

    size: int
    seconds: float
    rows: int | None = None
    table_count: int | None = None
    tables: Mapping[str, int] | None = None
    keys: int | None = None


def judge(new: Figures, history: Sequence[Figures]) -> tuple[str, ...]:
    """Why a snapshot is suspect, given those before it, oldest first; nothing when it is like them."""
    if not history:
        return ()
    return (*_smaller(new, history), *_slower(new, history), *_lost_tables(new, history), *_emptied(new, history))


def figures_of(vault: Vault, snapshot: Snapshot, *, with_tables: bool = True) -> Figures:
    """What is compared of a snapshot: from its manifest, and from its evidence where an identity opens it."""
    manifest, facts = snapshot.manifest, snapshot.manifest.facts
    tables = None
    if with_tables and manifest.kind is Kind.POSTGRES and any(a.name == "evidence" for a in manifest.artifacts):
        from lifeboat.backup import read_evidence  # with all of PostgreSQL, which trees do not need

        with suppress(LifeboatError, ValueError, KeyError, TypeError):
            tables = {table.label: table.rows for table in read_evidence(vault, snapshot).tables}
    return Figures(
        size=manifest.plain_size,
        seconds=(manifest.finished - manifest.began).total_seconds(),
        rows=_number(facts.get("rows")),
        table_count=_number(facts.get("tables")),
        keys=_number(facts.get("keys")),
        tables=tables,
    )


def judge_snapshot(vault: Vault, snapshot: Snapshot) -> tuple[str, ...]:
    """Compare a snapshot with those before it, and attest that it is suspect when it differs much. Returns why.

    One that was accepted is not judged again. May be repeated: what is said already is not said twice. Raises as
    `attest`, and `RepositoryUnavailable` when no repository lists the snapshot now.
    """
    source = snapshot.manifest.source
    inventory = take_inventory(vault, source, now=datetime.now(UTC))
    said = inventory.attestations.get((source, snapshot.tier, snapshot.id))
    if said is None:
        raise RepositoryUnavailable(
            f"No repository that has {snapshot.label} can be listed now.", hint="`lifeboat preflight` shows why."
        )
    if any(a.verdict is Verdict.ACCEPTED for a in said) or partial(snapshot):
        return tuple(_reasons(open_suspicions(said)))
    if suspicions := open_suspicions(said):
        return tuple(_reasons(suspicions))
    before = _history(inventory, snapshot)
    # Only the last one's tables are looked at; reading evidence costs more than all the rest.
    history = [figures_of(vault, one, with_tables=one is before[-1]) for one in before]
    reasons = judge(figures_of(vault, snapshot), history)
    if reasons:
        details = {"reason": "; ".join(reasons), "compared_with": len(history)}
        attest(vault, snapshot, Verdict.SUSPECT, details=details)
    return reasons


def _history(inventory: Inventory, snapshot: Snapshot) -> Sequence[Snapshot]:
    """The newest good daily snapshots before this one, oldest first; none from before one that a person accepted."""
    found: list[Snapshot] = []
    listed = inventory.snapshots.get((snapshot.manifest.source, snapshot.tier, snapshot.id), snapshot)
    earlier = (s for s in inventory.snapshots.values() if s.tier is Tier.DAILY and s.age < listed.age)
    # One with a wrong date is no measure: it may be of any time.
    daily = [s for s in earlier if listed.misdated or not s.misdated]
    for one in sorted(daily, key=lambda s: s.age, reverse=True):
        said = inventory.attestations[one.manifest.source, one.tier, one.id]
        failed = last_judgement(said)
        if partial(one) or open_suspicions(said) or (failed is not None and failed.verdict is Verdict.FAILED):
            continue
        found.append(one)
        accepted = any(a.verdict is Verdict.ACCEPTED for a in said)
        if len(found) == HISTORY or accepted:
            break
    return found[::-1]


def _smaller(new: Figures, history: Sequence[Figures]) -> Sequence[str]:
    if len(history) < LEAST_HISTORY:
        return ()
    found: list[str] = []
    usual = median(one.size for one in history)
    if usual >= LEAST_BYTES and new.size < SMALLER * usual:
        found.append(f"it has {size_text(new.size)}, and those before it about {size_text(int(usual))}")
    rows = [one.rows for one in history if one.rows is not None]
    usual = median(rows) if len(rows) >= LEAST_HISTORY else 0
    if new.rows is not None and usual >= LEAST_ROWS and new.rows < SMALLER * usual:
        found.append(f"it has {new.rows:,} rows, and those before it about {int(usual):,}")
    return found


def _slower(new: Figures, history: Sequence[Figures]) -> Sequence[str]:
    if len(history) < LEAST_HISTORY:
        return ()
    usual = median(one.seconds for one in history)
    if new.seconds > max(SLOWER * usual, usual + SLOWER_BY):
        return (f"it took {duration_text(new.seconds)}, and those before it about {duration_text(usual)}",)
    return ()


def _emptied(new: Figures, history: Sequence[Figures]) -> Sequence[str]:
    """Keys that are gone altogether, as from a server that was started with nothing."""
    before = history[-1].keys
    return (f"it has no keys, and the one before it had {before:,}",) if before and new.keys == 0 else ()


def _lost_tables(new: Figures, history: Sequence[Figures]) -> Sequence[str]:
    """Tables that were emptied or are gone, by name where the evidence can be read, else by their number."""
    last = history[-1]
    if new.tables is None or last.tables is None:
        if new.table_count is not None and last.table_count is not None and new.table_count < last.table_count:
            return (f"it has {new.table_count} tables, and the one before it {last.table_count}",)
        return ()
    found = []
    for name, rows in sorted(last.tables.items()):
        if rows >= LEAST_ROWS and not new.tables.get(name):
            what = "is empty" if name in new.tables else "is gone"
            found.append(f"the table {name} {what}, and had {rows:,} rows")
    more = (f"and {len(found) - SHOWN} more tables",) if len(found) > SHOWN else ()
    return (*found[:SHOWN], *more)


def _reasons(suspicions: Sequence[Attestation]) -> Sequence[str]:
    return [str(one.details.get("reason", "")) for one in suspicions]


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
