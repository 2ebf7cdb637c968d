"""`prune`, `promote`, `hold` and `accept`: how long snapshots stay, and what a person says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from lifeboat.assembly import policy_of
from lifeboat.cli.desk import (
    Desk,
    EnvFileOption,
    JsonOption,
    PlatformOption,
    Wanted,
    choose,
    installed_programs,
    installed_redis,
    moment,
    open_desk,
)
from lifeboat.cli.exit_codes import DEGRADED, OK
from lifeboat.cli.output import remark, say, say_json, say_table, showing_progress
from lifeboat.cli.records import snapshot_record
from lifeboat.doctor import examine
from lifeboat.health import Health, vault_health
from lifeboat.holding import Said, end_holds, hold, reasons
from lifeboat.holding import accept as accept_snapshot
from lifeboat.progress import size_text
from lifeboat.promotion import Promotion
from lifeboat.promotion import promote as promote_source
from lifeboat.prune import BRAKE_HINT, Pruned, newest_first, plan_prune, summary, sweep
from lifeboat.prune import prune as prune_vault
from lifeboat.repositories.findings import Finding, Level
from lifeboat.retention import RetentionPlan
from lifeboat.snapshot import Tier
from lifeboat.vault import Snapshot, Vault

SourceArgument = Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="Only this source; without it, all.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the snapshot.")]


def prune(
    source: SourceArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would stay and go, and why.")] = False,
    leftovers: Annotated[
        bool, typer.Option("--leftovers", help="Also sweep unfinished attempts and uploads, and unused packs.")
    ] = False,
    despite_brake: Annotated[
        bool,
        typer.Option(
            "--remove-much-at-once-although-it-cannot-be-undone",
            help="Remove even what the brake refuses. What is protected stays all the same.",
        ),
    ] = False,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the snapshots that platform.yaml keeps no longer. Never the newest, the newest proven, or a held one.

    JSON: `removed` (`what`, `repository`, `tier`, `bytes`, `reasons`), `postponed` and `failed` (`what`, `repository`,
    `reason`), `refused` (reason by source), `problems`, `bytes_freed` by repository and tier. With `--dry-run`: `plan`,
    a list of `snapshot`, `repository`, `stays`, `bytes`, `reasons`; `owed` (`snapshot`, `repository`); `refused`;
    `problems`.
    """
    desk = open_desk(platform, env_file)
    vault, policy = desk.vault(reading=True), policy_of(desk.platform)
    if dry_run:
        plan, inventory = plan_prune(vault, policy, source, datetime.now(UTC))
        _say_plan(plan, (*inventory.silent.items(), *inventory.problems), as_json=as_json)
        raise typer.Exit(DEGRADED if inventory.silent or inventory.problems else OK)
    pruned = prune_vault(vault, policy, source, clock=lambda: datetime.now(UTC), despite_brake=despite_brake)
    if leftovers:
        grace = timedelta(days=desk.platform.retention.grace_days)
        swept = sweep(vault, policy, clock=lambda: datetime.now(UTC), grace=grace)
        pruned = Pruned(
            (*pruned.removed, *swept.removed),
            pruned.postponed,
            (*pruned.failed, *swept.failed),
            tuple(dict.fromkeys((*pruned.problems, *swept.problems))),
            pruned.refusals,
            " ".join(filter(None, (pruned.idle, swept.idle))),
        )
    if as_json:
        say_json(summary(pruned))
    else:
        _say_pruned(pruned)
    pruned.raise_failures()
    raise typer.Exit(DEGRADED if pruned.problems else OK)


def promote(
    tier: Annotated[str, typer.Argument(metavar="TIER", help="weekly or monthly.")],
    source: SourceArgument = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Promote the best snapshot of every week (month) that has ended, as the DAGs do. May be repeated.

    JSON: `promotions`, a list of `source`, `tier`, `promoted` (label by period), `without` (reason by period),
    `warnings` and `lacking` (reason by snapshot and repository).
    """
    if tier not in (Tier.WEEKLY, Tier.MONTHLY):
        raise typer.BadParameter(f"{tier!r} is no tier to promote into: weekly, monthly.")
    desk = open_desk(platform, env_file)
    vault = desk.vault()
    done = [_promote(desk, vault, one, Tier(tier)) for one in ([source] if source else desk.platform.names())]
    if as_json:
        say_json({"promotions": [_promotion_record(one) for one in done]})
    for one in () if as_json else done:
        _say_promotion(one)
    for one in done:
        one.raise_failures()
    raise typer.Exit(DEGRADED if any(one.lacking for one in done) else OK)


def hold_snapshot(
    wanted: Wanted,
    reason: ReasonOption,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="When the hold ends by itself; without it, never.")
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End every hold on the snapshot instead.")] = False,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold a snapshot, so that nothing ever prunes it, until a time or until the hold is ended with `--end`.

    JSON: `snapshot` as in `list`, `said` (`held` or `hold-ended`), `reason`, `until`, `lacking` (reason by repository).
    """
    vault = open_desk(platform, env_file).vault()
    snapshot, _ = choose(vault, wanted)
    now, ends = datetime.now(UTC), moment(until) if until else None
    if end:
        said = end_holds(vault, snapshot, reason=reason, now=now)
    else:
        said = hold(vault, snapshot, reason=reason, until=ends, now=now)
    words = "is held no longer" if end else f"is held {f'until {ends:%Y-%m-%d %H:%M} UTC' if ends else 'without end'}"
    _say_said(snapshot, said, words, as_json=as_json)


def accept(
    wanted: Wanted,
    reason: ReasonOption,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a suspect snapshot is good: it may be promoted, and lets older ones go again.

    JSON: as of `hold`.
    """
    vault = open_desk(platform, env_file).vault()
    snapshot, _ = choose(vault, wanted)
    _say_said(snapshot, accept_snapshot(vault, snapshot, reason=reason), "is accepted", as_json=as_json)


def health(
    source: SourceArgument = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show of every snapshot and repository what is there, when it was last read back, and what is owed.

    Ends with 6 when anything is owed, damaged or unseen, or 3-2-1 does not hold. JSON: `sound`; `copies`, a list of
    `label`, `repository`, `present`, `whole`, `size`, `digest`, `storage_class`, `locked_until`, `read_back`, `owed`;
    `lacking`, texts by source; `problems`.
    """
    desk = open_desk(platform, env_file)
    found = vault_health(desk.vault(reading=True), policy_of(desk.platform), source, now=datetime.now(UTC))
    if as_json:
        say_json(
            {
                "sound": found.sound,
                "copies": [
                    {name: v.isoformat() if isinstance(v, datetime) else v for name, v in asdict(copy).items()}
                    for copy in found.copies
                ],
                "lacking": {name: list(texts) for name, texts in found.lacking.items()},
                "problems": [{"place": place, "reason": reason} for place, reason in found.problems],
            }
        )
    else:
        _say_health(found)
    raise typer.Exit(OK if found.sound else DEGRADED)


def doctor(platform: PlatformOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False) -> None:
    """Look whether buckets, containers and disks are set up as what is promised needs it, with remedies.

    Ends with 6 when anything is bad. JSON: `repositories`, by name a list of `what`, `level` (good, advice, bad,
    unknown), `found`, `remedy`.
    """
    found = examine(open_desk(platform, env_file).vault(reading=True), clock=lambda: datetime.now(UTC))
    if as_json:
        say_json({"repositories": {name: [asdict(one) for one in findings] for name, findings in found.items()}})
    else:
        rows = [
            [n, f.what, f.level.upper() if f.level is Level.BAD else f.level, f.found, f.remedy] for n, f in _all(found)
        ]
        say_table(["repository", "what", "", "found", "remedy"], rows)
    raise typer.Exit(DEGRADED if any(f.level is Level.BAD for _, f in _all(found)) else OK)


def _all(found: Mapping[str, Sequence[Finding]]) -> Sequence[tuple[str, Finding]]:
    return [(name, finding) for name, findings in found.items() for finding in findings]


def _say_health(found: Health) -> None:
    def day(moment: datetime | None) -> str:
        return f"{moment:%Y-%m-%d %H:%M}" if moment else ""

    say_table(
        ["snapshot", "repository", "", "stored", "class", "read back (UTC)", "locked until (UTC)", "digest"],
        [
            [
                copy.label,
                copy.repository,
                "OWED" if copy.owed else "whole" if copy.whole else "NOT WHOLE",
                size_text(copy.size),
                copy.storage_class or "",
                day(copy.read_back),
                day(copy.locked_until),
                copy.digest or "",
            ]
            for copy in found.copies
        ],
        right=["stored"],
        nothing="There are no snapshots.",
    )
    for source, texts in found.lacking.items():
        for text in texts:
            remark(f"Warning: {source}: {text}")
    for place, reason in found.problems:
        remark(f"Warning: {place}: {reason}")


def _say_plan(plan: RetentionPlan, problems: Sequence[tuple[str, str]], *, as_json: bool) -> None:
    lines = newest_first(plan)
    if as_json:
        say_json(
            {
                "plan": [
                    {
                        "snapshot": copy.label,
                        "repository": copy.repository,
                        "stays": stays,
                        "bytes": copy.size,
                        "reasons": list(why),
                    }
                    for stays, copy, why in lines
                ],
                "owed": [{"snapshot": _label(one.place), "repository": one.repository} for one in plan.owed],
                "refused": dict(plan.refusals),
                "problems": [{"place": place, "reason": reason} for place, reason in problems],
            }
        )
        return
    say_table(
        ["", "source", "tier", "snapshot", "repository", "stored", "why"],
        [
            [
                "stays" if stays else "GOES",
                copy.source,
                str(copy.tier),
                str(copy.id),
                copy.repository,
                size_text(copy.size),
                "; ".join(why),
            ]
            for stays, copy, why in lines
        ],
        right=["stored"],
        nothing="There are no snapshots.",
    )
    freed = sum(decision.copy.size for decision in plan.remove)
    word = "copy" if len(plan.remove) == 1 else "copies"
    say(f"\n{len(plan.remove)} {word} would go, {size_text(freed)}; nothing was removed.")
    for one in plan.owed:
        remark(f"Note: {one.repository} lacks {_label(one.place)}; `lifeboat replicate --all` copies it.")
    for reason in plan.refusals.values():
        remark(f"Warning: {reason} {BRAKE_HINT}")
    for place, reason in problems:
        remark(f"Warning: {place}: {reason}")


def _label(place: tuple[str, Tier, object]) -> str:
    return "/".join(map(str, place))


def _say_pruned(pruned: Pruned) -> None:
    if pruned.removed:
        say_table(
            ["removed", "repository", "freed", "why"],
            [[one.what, one.repository, size_text(one.size), "; ".join(one.reasons)] for one in pruned.removed],
            right=["freed"],
        )
    for repository, tiers in pruned.freed().items():
        say(f"{repository}: " + ", ".join(f"{size_text(size)} {tier}" for tier, size in tiers.items()) + " freed")
    if not pruned.removed:
        say(pruned.idle or "Nothing was removed.")
    for what, repository, reason in pruned.postponed:
        remark(f"Note: {what} stays in {repository} for now: {reason}")
    for place, reason in pruned.problems:
        remark(f"Warning: {place}: {reason}")


def _promote(desk: Desk, vault: Vault, source: str, tier: Tier) -> Promotion:
    from lifeboat.candidates import checks_for  # with all that proving needs

    with showing_progress() as progress:
        prove, verify = checks_for(
            vault,
            desk.platform,
            source,
            tier,
            installed=installed_programs(),
            redis=installed_redis(),
            progress=progress,
            report=remark,
        )
        policy = policy_of(desk.platform)
        return promote_source(vault, policy, source, tier, now=datetime.now(UTC), prove=prove, verify=verify)


def _promotion_record(done: Promotion) -> dict[str, object]:
    return {
        "source": done.source,
        "tier": str(done.tier),
        "promoted": {one.period: one.snapshot.label for one in done.promoted},
        "without": dict(done.without),
        "warnings": list(done.warnings),
        "lacking": dict(done.lacking),
    }


def _say_promotion(done: Promotion) -> None:
    for one in done.promoted:
        say(f"{one.snapshot.label} stands for {one.period}, in {', '.join(one.copied)}.")
    if done.idle:
        say(done.idle)
    for text in done.warnings:
        remark(f"Warning: {text}")
    for period, why in done.without.items():
        remark(f"Warning: nothing of {period} can be promoted: {why}")
    for where, why in done.lacking.items():
        remark(f"Warning: {where}: {why}")


def _say_said(snapshot: Snapshot, said: Said, words: str, *, as_json: bool) -> None:
    one = next(iter(said.attestations.values()))
    if as_json:
        say_json(
            {
                "snapshot": snapshot_record(snapshot),
                "said": str(one.verdict),
                "reason": one.details.get("reason"),
                "until": one.details.get("until"),
                "lacking": dict(said.lacking),
            }
        )
    else:
        say(f"{snapshot.label} {words}: {reasons([one])}")
        for name, reason in said.lacking.items():
            remark(f"Warning: {name} was not told: {reason}")
    raise typer.Exit(DEGRADED if said.lacking else OK)
