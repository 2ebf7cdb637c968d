"""The recovery point: of every source the snapshot to go back to, and how far apart in time they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lifeboat.recovery.clock import span_text
from lifeboat.recovery.model import Point

SHOWN = 5
"""How many newer snapshots that were passed over are named."""

WORTH_TELLING = timedelta(hours=1)
"""By how much nearer together another set must be to be told of."""


@dataclass(frozen=True)
class Candidate:
    """A snapshot that a source may go back to.

    `against` says why it should not; it is taken only when it is named. `lasting`: it stands until its source changes,
    as archives of configuration do, so that its beginning says nothing of how old it is.
    """

    source: str
    label: str
    began: datetime
    proven: bool = False
    against: str = ""
    lasting: bool = False


@dataclass(frozen=True)
class RecoveryPoint:
    """The chosen snapshot by source; a source that has none is not in it.

    `passed_over` are the newer snapshots of each source, newest first, each with the reason. `nearer` is another set,
    of the same sources, whose snapshots are markedly nearer together; empty where there is none. `remarks` are worth
    knowing.
    """

    chosen: Mapping[str, Candidate]
    passed_over: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nearer: Mapping[str, Candidate] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def skew(self) -> timedelta:
        """How far apart the snapshots began, those that stand until their source changes left out."""
        return skew_of(self.chosen.values())


def choose_point(
    candidates: Iterable[Candidate],
    point: Point,
    *,
    incident: datetime | None = None,
    as_of: datetime | None = None,
    named: Collection[str] = (),
) -> RecoveryPoint:
    """Choose as `point` says, each source's newest first; what is left open goes to the least skew.

    What began after the `incident` may hold what it has done, such as an empty server that was backed up: it is taken
    only where nothing before it can be, where a time after it is asked for, or by its name.
    `as_of` is for `Point.AS_OF`, `named` are the labels for `Point.SNAPSHOTS`. A label that no candidate has is passed
    over in silence: whoever gives it looks whether it was taken.
    """
    candidates = tuple(candidates)
    by_source: dict[str, list[Candidate]] = {candidate.source: [] for candidate in candidates}
    for candidate in sorted(candidates, key=lambda c: (c.began, c.label), reverse=True):
        by_source[candidate.source].append(candidate)
    remarks: list[str] = []
    open_to = {source: _open(theirs, point, incident, as_of, remarks) for source, theirs in by_source.items()}
    if point is Point.SNAPSHOTS:
        fixed = {c.source: c for theirs in by_source.values() for c in theirs if c.label in named}
        chosen = nearest_together(
            {source: [fixed[source]] if source in fixed else open_to[source] for source in open_to}
        )
        remarks += [f"{c.label} was asked for, although {c.against}." for c in fixed.values() if c.against]
    else:
        chosen = {source: theirs[0] for source, theirs in open_to.items() if theirs}
    passed_over = {
        source: _passed_over(by_source[source], one, open_to[source], point, incident, as_of)
        for source, one in chosen.items()
    }
    nearer = {} if point is Point.SNAPSHOTS else _nearer(chosen, open_to)
    return RecoveryPoint(chosen, passed_over, nearer, tuple(remarks))


def nearest_together(candidates: Mapping[str, Sequence[Candidate]]) -> dict[str, Candidate]:
    """Of every source that has any the candidate of a set with the least skew; among equal sets of the newest one.

    Of a lasting source it is the newest that began before the last of the set, or the first after it.
    """
    moving = [c for theirs in candidates.values() for c in theirs if not c.lasting]
    wanted = {c.source for c in moving}
    best = _tightest(sorted(moving, key=lambda c: (c.began, c.label)), wanted)
    end = max((c.began for c in best.values()), default=None)
    for source, theirs in candidates.items():
        lasting = sorted((c for c in theirs if c.lasting), key=lambda c: (c.began, c.label))
        if lasting:
            before = [c for c in lasting if end is None or c.began <= end]
            best[source] = before[-1] if before else lasting[0]
    return {source: best[source] for source in candidates if source in best}


def skew_of(chosen: Iterable[Candidate]) -> timedelta:
    """How far apart snapshots began; lasting ones are left out."""
    moments = [candidate.began for candidate in chosen if not candidate.lasting]
    return max(moments) - min(moments) if moments else timedelta()


def _tightest(ordered: Sequence[Candidate], wanted: Collection[str]) -> dict[str, Candidate]:
    """One candidate of every source within the shortest time; `ordered` are all, oldest first."""
    best: dict[str, Candidate] = {}
    last: dict[str, Candidate] = {}
    for candidate in ordered:
        last[candidate.source] = candidate  # the newest so far of each source is the nearest to this one
        if len(last) == len(wanted) and (not best or skew_of(last.values()) <= skew_of(best.values())):
            best = dict(last)
    return best


def _open(
    theirs: Sequence[Candidate],
    point: Point,
    incident: datetime | None,
    as_of: datetime | None,
    remarks: list[str],
) -> Sequence[Candidate]:
    """Those of a source that may be chosen, newest first."""
    sound = [c for c in theirs if not c.against]
    if point is Point.AS_OF and as_of is not None:
        return [c for c in sound if c.began <= as_of]
    if incident is not None:
        sound = [c for c in sound if c.began <= incident] or sound
    if point is Point.LATEST_PROVEN and sound:
        if proven := [c for c in sound if c.proven]:
            return proven
        remarks.append(f"None of the snapshots of {sound[0].source} is proven; the newest whole one is taken.")
    return sound


def _passed_over(
    theirs: Sequence[Candidate],
    chosen: Candidate,
    open_to: Sequence[Candidate],
    point: Point,
    incident: datetime | None,
    as_of: datetime | None,
) -> tuple[str, ...]:
    newer = [c for c in theirs if (c.began, c.label) > (chosen.began, chosen.label)]
    said = []
    for candidate in newer:
        why = candidate.against
        if not why and point is Point.AS_OF and as_of is not None and candidate.began > as_of:
            continue  # there may be years of them, and nobody has asked for those
        if not why and incident is not None and candidate.began > incident:
            why = "it began after the incident and may hold what it has done"
        if not why:
            why = "it fits the others less" if candidate in open_to else "it is not proven"
        said.append(f"{candidate.label}: {why}")
    more = len(said) - SHOWN
    return (*said[:SHOWN], *([f"and {more} more"] if more > 0 else []))


def _nearer(chosen: Mapping[str, Candidate], open_to: Mapping[str, Sequence[Candidate]]) -> Mapping[str, Candidate]:
    """A set that is markedly nearer together than the chosen one, the newest of those; empty where there is none."""
    found = nearest_together(open_to)
    least = skew_of(found.values())
    if skew_of(chosen.values()) - least < WORTH_TELLING:
        return {}
    # Nights differ by seconds; the newest set that is about as near is worth more than the nearest of all.
    for end in sorted({c.began for theirs in open_to.values() for c in theirs if not c.lasting}, reverse=True):
        until = {s: [c for c in theirs if c.lasting or c.began <= end] for s, theirs in open_to.items()}
        newest = {s: theirs[0] for s, theirs in until.items() if theirs}
        if newest.keys() == found.keys() and skew_of(newest.values()) < least + WORTH_TELLING:
            return nearest_together({s: [newest[s]] if not newest[s].lasting else open_to[s] for s in newest})
    return found


def price_text(chosen: Mapping[str, Candidate], nearer: Mapping[str, Candidate]) -> str:
    """What another set gives and costs, in words: how near together it is, and what it loses more of which source."""
    labels = ", ".join(candidate.label for candidate in nearer.values())
    lost = [
        f"{span_text((chosen[s].began - c.began).total_seconds())} more of {s}"
        for s, c in nearer.items()
        if c.began < chosen[s].began and not c.lasting
    ]
    apart = f"{span_text(skew_of(nearer.values()).total_seconds())} apart"
    instead = f"instead of {span_text(skew_of(chosen.values()).total_seconds())}"
    return f"Nearer together, {apart} {instead}: {labels}. It loses {' and '.join(lost) or 'nothing more'}."
