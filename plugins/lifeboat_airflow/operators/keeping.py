"""What is kept: promoting snapshots into the next tier, pruning what is promised no longer, sweeping leftovers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Context, task, task_group

from lifeboat.anomaly import judge_snapshot
from lifeboat.assembly import policy_of
from lifeboat.candidates import checks_for
from lifeboat.errors import RepositoryUnavailable, SnapshotSuspect
from lifeboat.healing import heal
from lifeboat.progress import size_text
from lifeboat.promotion import promote
from lifeboat.prune import Pruned, prune, summary, sweep
from lifeboat.recovery.means import Means
from lifeboat.recovery.runbook import store_runbook
from lifeboat.snapshot import Tier
from lifeboat_airflow.hooks import PostgresSourceHook, RedisSourceHook, VaultHook
from lifeboat_airflow.operators.base import LifeboatOperator, SourceOperator
from lifeboat_airflow.operators.snapshots import SnapshotOperator
from lifeboat_airflow.records import find_snapshot


class JudgeSnapshotOperator(SnapshotOperator):
    """Compares a snapshot, given by its record, with those before it, and attests it as suspect if it differs much.

    Fails then, so that a person hears of it; once the snapshot is accepted, the task can be cleared. May be repeated.
    """

    def work(self, context: Context) -> dict[str, Any]:
        """Judge."""
        vault = VaultHook().open(reading=True)
        snapshot = find_snapshot(vault, self.snapshot["snapshot"])
        if reasons := judge_snapshot(vault, snapshot):
            raise SnapshotSuspect(
                f"{snapshot.label} is suspect: {'; '.join(reasons)}.",
                hint="Look at the source. If all is well, `lifeboat accept <snapshot>`, then clear this task.",
            )
        self.log.info("%s is like those before it.", snapshot.label)
        return {"snapshot": snapshot.label, "suspect": False}


class PromoteSnapshotOperator(SourceOperator):
    """Copies the best snapshot of every week (month) of a source that has ended into the tier `weekly` (`monthly`).

    Candidates are proven first, newest first, as `prove` in platform.yaml says. Missed ones are caught up. May be
    repeated. Fails when the week or month that ended last has no good snapshot, after all others were promoted.
    """

    def __init__(self, *, tier: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tier = tier

    def work(self, context: Context) -> dict[str, Any]:
        """Promote, and say what was promoted where."""
        hook = VaultHook()
        vault, tier = hook.open(), Tier(self.tier)
        prove, verify = checks_for(
            vault,
            hook.platform,
            self.source,
            tier,
            installed=PostgresSourceHook().programs(),
            redis=RedisSourceHook().programs(),
            children=self.children,
            progress=self.progress,
            report=self.log.info,
        )
        done = promote(
            vault, policy_of(hook.platform), self.source, tier, now=datetime.now(UTC), prove=prove, verify=verify
        )
        for one in done.promoted:
            self.log.info("%s stands for %s, in %s", one.snapshot.label, one.period, ", ".join(one.copied))
        if done.idle:
            self.log.info("%s", done.idle)
        for text in done.warnings:
            self.log.warning("%s", text)
        for period, why in done.without.items():
            self.log.warning("Nothing of %s can be promoted: %s", period, why)
        for where, why in done.lacking.items():
            self.log.warning("%s: %s", where, why)
        done.raise_failures()
        return {
            "source": self.source,
            "tier": self.tier,
            "promoted": {one.period: one.snapshot.label for one in done.promoted},
            "without": dict(done.without),
            "warnings": list(done.warnings),
            "lacking": dict(done.lacking),
        }


@task(task_id="choose")
def chosen_sources(params: dict[str, Any]) -> list[str]:
    """The sources that the form's field `sources` names."""
    names: list[str] = params["sources"]
    return names


@task_group
def promotion(source: str, tier: str) -> None:
    """Promote a source's snapshots into a tier, one source at a time, then prune what is promised no longer."""
    promote = PromoteSnapshotOperator(task_id="promote", source=source, tier=tier, max_active_tis_per_dagrun=1)
    prune = PruneOperator(task_id="prune", source=source)
    promote >> prune


class PruneOperator(SourceOperator):
    """Removes the snapshots of a source that platform.yaml keeps no longer. May be repeated.

    Fails when much would go at once, and then removes nothing; and when a repository refused to remove something.
    """

    def work(self, context: Context) -> Mapping[str, Any]:
        """Prune, and say what went and why."""
        hook = VaultHook()
        pruned = prune(hook.open(reading=True), policy_of(hook.platform), self.source, clock=lambda: datetime.now(UTC))
        return told(self, pruned)


class HealVaultOperator(LifeboatOperator):
    """Copies to every repository the snapshots it ought to have and has not, from whichever has them. May be repeated.

    Damaged copies are mended. Fails, to be retried, as long as a required repository lacks any of them.
    """

    def work(self, context: Context) -> Mapping[str, Any]:
        """Copy, and say what was copied where."""
        hook = VaultHook()
        vault = hook.open()
        done = heal(vault, policy_of(hook.platform), now=datetime.now(UTC), progress=self.progress)
        if not done:
            names = ", ".join(member.name for member in vault.present)
            self.log.info("Nothing was to be copied: %s lack nothing they ought to have.", names)
        required = {repository.name for repository in hook.platform.repositories if repository.required}
        lacking: dict[str, str] = {}
        for one in done:
            for name, artifacts in one.copied.items():
                what = ", ".join(artifacts) or "its manifest"
                self.log.info("%s was copied to %s: %s", one.snapshot.label, name, what)
            for name, reason in one.lacking.items():
                self.log.warning("%s still lacks %s: %s", name, one.snapshot.label, reason)
                if name in required:
                    lacking[f"{one.snapshot.label} in {name}"] = reason
        if lacking:
            raise RepositoryUnavailable(
                f"{len(lacking)} copies are still lacking: " + " ".join(f"{k}: {v}" for k, v in lacking.items()),
                hint="Once the repository answers again, clear this task.",
            )
        return {"copied": {one.snapshot.label: {n: list(a) for n, a in one.copied.items()} for one in done}}


class SweepVaultOperator(LifeboatOperator):
    """Removes what belongs to no snapshot any more: unfinished attempts and uploads, what prunes left, unused packs."""

    def work(self, context: Context) -> Mapping[str, Any]:
        """Sweep, and say what went."""
        hook = VaultHook()
        grace = timedelta(days=hook.platform.retention.grace_days)
        vault, policy = hook.open(reading=True), policy_of(hook.platform)
        return told(self, sweep(vault, policy, clock=lambda: datetime.now(UTC), grace=grace))


class StoreRunbookOperator(LifeboatOperator):
    """Puts the runbook, with today's names and snapshots, into `break-glass/` of every repository. May be repeated."""

    def work(self, context: Context) -> Mapping[str, Any]:
        """Write and store it."""
        hook = VaultHook()
        means = Means(
            hook.open(reading=True),
            hook.platform,
            hook.lookup,
            PostgresSourceHook().programs,
            RedisSourceHook().programs,
        )
        stored = store_runbook(means, datetime.now(UTC))
        for name, why in stored.lacking.items():
            self.log.warning("%s: %s", name, why)
        self.log.info("The runbook is %s", ", ".join(stored.keys))
        return {"keys": list(stored.keys), "removed": list(stored.removed), "lacking": dict(stored.lacking)}


def told(task: LifeboatOperator, pruned: Pruned) -> Mapping[str, Any]:
    """What was removed, logged line by line; raises what must reach a person."""
    for one in pruned.removed:
        why = f": {'; '.join(one.reasons)}" if one.reasons else ""
        task.log.info("%s went from %s, %s%s", one.what, one.repository, size_text(one.size), why)
    for what, name, why in pruned.postponed:
        task.log.info("%s stays in %s for now: %s", what, name, why)
    for place, why in pruned.problems:
        task.log.warning("%s: %s", place, why)
    if pruned.idle:
        task.log.info("%s", pruned.idle)
    for repository, tiers in pruned.freed().items():
        freed = ", ".join(f"{size_text(size)} {tier}" for tier, size in tiers.items())
        task.log.info("%s: %s freed", repository, freed)
    pruned.raise_failures()
    return summary(pruned)
