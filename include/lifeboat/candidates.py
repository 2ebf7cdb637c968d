"""Finding out whether a candidate for promotion is good: by a restore test, or by reading it back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from lifeboat.backup import inspectors
from lifeboat.children import Children
from lifeboat.copies import attest_read_back
from lifeboat.postgres.programs import Programs
from lifeboat.progress import Report
from lifeboat.promotion import Check
from lifeboat.proving import PROVERS, Means, prove
from lifeboat.redis_source.programs import RedisProgram
from lifeboat.report import store_report
from lifeboat.settings import Platform
from lifeboat.snapshot import Kind, Tier
from lifeboat.vault import Progress, Snapshot, Vault


def checks_for(
    vault: Vault,
    platform: Platform,
    source: str,
    tier: Tier,
    *,
    installed: Sequence[Programs],
    redis: Sequence[RedisProgram] = (),
    children: Children | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> tuple[Check | None, Check]:
    """What proves and what reads back the candidates of a source for a tier.

    There is no proof where `prove` in platform.yaml says so, and of sources it no longer names. Without programs
    of Redis here, its snapshots are read back.
    """

    def proven(snapshot: Snapshot) -> bool:
        means = Means(
            platform,
            lambda: installed,
            lambda: redis,
            children=children or Children(),
            progress=progress,
            report=report,
        )
        proof = prove(vault, snapshot, means)
        rto = platform.objectives.rto_hours
        store_report(vault, [proof], platform=platform.platform, made=datetime.now(UTC), rto_hours=rto)
        if report is not None:
            report(f"{snapshot.label} is {'proven' if proof.proven else f'not proven: {proof.reason}'}")
        return proof.proven

    def verify(snapshot: Snapshot) -> bool:
        parsers = inspectors(installed, children)
        found = [vault.verify(snapshot, name, inspectors=parsers, progress=progress) for name in snapshot.repositories]
        return attest_read_back(vault, snapshot, found)

    kind = _kind(platform, source)
    provable = platform.prove.cover(tier) and kind in PROVERS and (kind is not Kind.REDIS or bool(redis))
    return (proven if provable else None), verify


def _kind(platform: Platform, source: str) -> Kind | None:
    return platform.kind(source) if source in platform.names() else None
