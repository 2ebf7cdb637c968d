"""Assessing the damage: what is left of every source, what it can be brought back to, and what stands in the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from lifeboat.archive_classes import DURATIONS
from lifeboat.attestation import Verdict
from lifeboat.choosing import partial
from lifeboat.inventory import Copy, Inventory, Place, take_inventory
from lifeboat.progress import count_text
from lifeboat.recovery.assessment_text import HEADINGS, assessment_markdown, assessment_parts, assessment_rows
from lifeboat.recovery.clock import span_text
from lifeboat.recovery.expected import Measured, expected_seconds, measured_in, size_of
from lifeboat.recovery.holdings import Holdings, holdings_of
from lifeboat.recovery.left import Left, identity_of, look_at
from lifeboat.recovery.means import Means
from lifeboat.recovery.model import Assessment, Component, Request, State
from lifeboat.recovery.point import Candidate, RecoveryPoint, choose_point, price_text
from lifeboat.recovery.request import parse_label, sources_of
from lifeboat.retention import good
from lifeboat.snapshot import Kind, SnapshotId, Tier
from lifeboat.vault import Snapshot

__all__ = ["HEADINGS", "assess", "assessment_markdown", "assessment_parts", "assessment_rows", "identity_of"]

AT_ONCE = 8
"""Sources and copies that are looked at at the same time."""

HARDLY_ANY = 0.5
"""The share of a snapshot's files below which what is left of a tree is told of."""


def assess(means: Means, request: Request, now: datetime) -> Assessment:
    """Look at every source and every repository, and choose what to go back to. Changes nothing; may be repeated.

    What a person must remove first is among the obstacles, not raised: a missing snapshot, key, repository or target.
    """
    vault, sources = means.vault, sources_of(means.platform, request)
    inventory = take_inventory(vault, now=now)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="assess") as pool:
        left = dict(zip(sources, pool.map(lambda source: look_at(means, source, request), sources), strict=True))
        found = _Search(means, request, inventory, sources, now).settle(pool)
    components = tuple(_component(source, left[source], found) for source in sources)
    known = [c.expected_seconds for c in components if c.expected_seconds is not None]
    return Assessment(
        made=now,
        components=components,
        skew_seconds=found.point.skew.total_seconds(),
        expected_seconds=sum(known) if known else None,
        keys=_keys(found),
        remarks=tuple(dict.fromkeys(_remarks(found, components, left))),
        obstacles=tuple(dict.fromkeys(_obstacles(found, components, left))),
    )


# ---- finding the recovery point -------------------------------------------------------------------------------------


@dataclass
class _Search:
    """The way to a recovery point: what is chosen is looked at, and chosen anew without what proves to be of no use."""

    means: Means
    request: Request
    inventory: Inventory
    sources: Sequence[str]
    now: datetime

    def settle(self, pool: ThreadPoolExecutor) -> _Found:
        holdings: dict[str, Holdings] = {}
        useless: dict[str, str] = {}
        places = self._places()
        while True:
            candidates = [self._candidate(place, useless) for place in places]
            point = choose_point(
                self._without_missing(candidates),
                self.request.point,
                incident=self.request.began,
                as_of=self.request.as_of,
                named=self.request.snapshots,
            )
            new = [c.label for c in point.chosen.values() if c.label not in holdings]
            holdings |= zip(new, pool.map(self._look, new), strict=True)
            broken = [label for label in new if not holdings[label].whole and label not in self.request.snapshots]
            if not broken:
                return _Found(self.means, self.request, self.inventory, point, candidates, holdings)
            useless |= {label: f"it is whole nowhere: {holdings[label].why_not}" for label in broken}

    def _look(self, label: str) -> Holdings:
        snapshot = self.inventory.snapshots[parse_label(label)]
        return holdings_of(self.means.vault, snapshot, self.inventory, only=self.request.repository)

    def _places(self) -> list[Place]:
        """One place of each snapshot: the one that is named, else where it can be read best and stays longest."""
        best: dict[tuple[str, str], tuple[tuple[bool, bool, bool, int], Place]] = {}
        for place in self.inventory.snapshots:
            if place[0] not in self.sources:
                continue
            copies = self._copies(place)
            sound = [copy for copy in copies if good(copy, self.now)]
            rank = (
                _label(place) in self.request.snapshots,
                bool(sound),
                any(not _is_archived(copy) for copy in sound),
                list(Tier).index(place[1]),
            )
            key = place[0], str(place[2])
            if key not in best or rank > best[key][0]:
                best[key] = rank, place
        return sorted((place for _, place in best.values()), key=lambda place: self.sources.index(place[0]))

    def _copies(self, place: Place) -> list[Copy]:
        only = self.request.repository
        return [copy for copy in self._by_place.get(place, ()) if only in (None, copy.repository)]

    @cached_property
    def _by_place(self) -> Mapping[Place, Sequence[Copy]]:
        found: dict[Place, list[Copy]] = {}
        for copy in self.inventory.copies:
            found.setdefault(copy.place, []).append(copy)
        return found

    @cached_property
    def _proven(self) -> frozenset[tuple[str, SnapshotId]]:
        """The snapshots that are proven, in whatever tier."""
        return frozenset((copy.source, copy.id) for copy in self.inventory.copies if copy.standing.proven)

    def _candidate(self, place: Place, useless: Mapping[str, str]) -> Candidate:
        source, _, snapshot_id = place
        snapshot, label = self.inventory.snapshots[place], _label(place)
        proven = (source, snapshot_id) in self._proven
        against = useless.get(label) or self._against(snapshot, self._copies(place))
        lasting = snapshot.manifest.kind is Kind.CONFIG
        return Candidate(source, label, snapshot.manifest.began, proven, against, lasting)

    def _against(self, snapshot: Snapshot, copies: Sequence[Copy]) -> str:
        """Why a snapshot is not to be gone back to unasked; empty when it may be."""
        kind = self.means.platform.kind(snapshot.manifest.source)
        if snapshot.manifest.kind is not kind:
            return f"it is of another kind, {snapshot.manifest.kind.value}"
        if not copies:
            return f"it is not in {self.request.repository}" if self.request.repository else "it is in no repository"
        if snapshot.misdated:
            return snapshot.misdated
        # What the stores' clocks confirm is not of the future, even where this host's has fallen behind.
        if any(good(copy, max(self.now, snapshot.manifest.began)) for copy in copies):
            return ""
        standing = copies[0].standing
        if alone := partial(snapshot):
            return f"it has only {alone}"
        if standing.failed:
            return "its restore test has failed"
        if standing.suspect:
            return f"it is suspect: {standing.suspect}"
        if standing.unreadable:
            return f"what is attested of it cannot be read: {standing.unreadable}"
        return f"it is whole nowhere: {self._look(_label(copies[0].place)).why_not}"

    def _without_missing(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Without the sources of which a snapshot was named that is not there: another one is not what was meant."""
        missing = {parse_label(label)[0] for label in set(self.request.snapshots) - {c.label for c in candidates}}
        return [candidate for candidate in candidates if candidate.source not in missing]


@dataclass(frozen=True)
class _Found:
    means: Means
    request: Request
    inventory: Inventory
    point: RecoveryPoint
    candidates: Sequence[Candidate]
    holdings: Mapping[str, Holdings]

    def of(self, source: str) -> tuple[Candidate, Snapshot, Holdings] | None:
        """What a source goes back to; None where there is nothing."""
        chosen = self.point.chosen.get(source)
        if chosen is None:
            return None
        return chosen, self.inventory.snapshots[parse_label(chosen.label)], self.holdings[chosen.label]

    @cached_property
    def proofs(self) -> frozenset[Measured]:
        """What every proof there is has measured."""
        return measured_in(self.inventory)

    def proven_on(self, snapshot: Snapshot) -> datetime | None:
        """When a snapshot was last proven, in whatever tier it stood then."""
        source, snapshot_id = snapshot.manifest.source, snapshot.id
        made = [
            attestation.made
            for place, attested in self.inventory.attestations.items()
            if (place[0], place[2]) == (source, snapshot_id)
            for attestation in attested
            if attestation.verdict is Verdict.PROVEN
        ]
        return max(made, default=None)

    def problem(self, source: str) -> str:
        """Why a source has nothing to go back to."""
        named = [label for label in self.request.snapshots if parse_label(label)[0] == source]
        theirs = sorted((c for c in self.candidates if c.source == source), key=lambda c: c.began, reverse=True)
        if named and named[0] not in {c.label for c in theirs}:
            return f"{named[0]} is in no repository that answers."
        if not theirs:
            return f"There is no snapshot of {source} in any repository that answers."
        of_time = [c for c in theirs if not c.against]
        if of_time:
            return f"Every snapshot of {source} began later; the first is {of_time[-1].label}."
        shown = "; ".join(f"{c.label}: {c.against}" for c in theirs[:3])
        more = f"; and {len(theirs) - 3} more" if len(theirs) > 3 else ""
        return f"None of the snapshots of {source} can be used: {shown}{more}."


# ---- what is said of it ---------------------------------------------------------------------------------------------


def _component(source: str, left: Left, found: _Found) -> Component:
    kind = found.means.platform.kind(source)
    chosen = found.of(source)
    if chosen is None:
        problem = found.problem(source)
        return Component(source, kind, left.place, left.state, left.found, left.identity, problem=problem)
    candidate, snapshot, holdings = chosen
    size = size_of(snapshot.manifest)
    expected = expected_seconds(source, kind, size, found.proofs)
    if expected is not None:
        expected += holdings.thaw_seconds
    return Component(
        source=source,
        kind=kind,
        place=left.place,
        state=left.state,
        found=left.found,
        identity=left.identity,
        snapshot=candidate.label,
        began=candidate.began,
        proven=found.proven_on(snapshot) if candidate.proven else None,
        copies=holdings.copies,
        lost_seconds=_lost(candidate, found.candidates, found.request.began),
        expected_seconds=expected,
        size=size,
        newer=found.point.passed_over.get(source, ()),
    )


def _lost(chosen: Candidate, candidates: Sequence[Candidate], began: datetime) -> float | None:
    """Seconds in which what was written is lost. Configuration loses nothing until it was archived anew."""
    since = chosen.began
    if chosen.lasting:
        later = [c.began for c in candidates if c.source == chosen.source and c.began > since]
        if not later:
            return None
        since = min(later)
    return max(0.0, (began - since).total_seconds())


def _keys(found: _Found) -> str:
    names = ", ".join(identity.name for identity in found.means.vault.keyring.identities)
    if not names:
        return "There is no private key at hand, so that nothing can be unsealed."
    locked = [label for label, holdings in found.holdings.items() if holdings.locked and label in _labels(found)]
    if locked:
        return f"The keys at hand ({names}) do not open {', '.join(locked)}."
    tried = [c for c in found.point.chosen.values() if found.holdings[c.label].whole]
    opened = [c for c in tried if any(not copy.thawing for copy in found.holdings[c.label].copies if copy.whole)]
    if len(opened) < len(found.point.chosen):
        of_all = f"{len(opened)} of {len(found.point.chosen)} chosen snapshots"
        return f"The keys at hand ({names}) open {of_all}; of the others, nothing can be read yet."
    return f"The keys at hand ({names}) open every chosen snapshot."


def _remarks(found: _Found, components: Sequence[Component], left: Mapping[str, Left]) -> Iterator[str]:
    request, objectives = found.request, found.means.platform.objectives
    yield from (f"The repository {name} does not answer: {why}" for name, why in found.inventory.silent.items())
    yield from found.point.remarks
    if found.point.nearer:
        yield price_text(found.point.chosen, found.point.nearer)
    for component in components:
        chosen = found.point.chosen.get(component.source)
        if chosen is None:
            continue
        if chosen.began > request.began:
            yield f"{chosen.label} began after the incident and may hold what it has done."
        lost = component.lost_seconds
        if lost is not None and lost > objectives.rpo_hours * 3600:
            yield (
                f"{component.source} loses {span_text(lost)}, more than the {span_text(objectives.rpo_hours * 3600)} "
                "that may be lost."
            )
        if component.expected_seconds is None:
            yield f"How long {component.source} takes is not known: no proof has measured it."
        yield from _on_files(component, left[component.source], found)
        for copy in component.copies:
            if not copy.whole and "does not answer" not in copy.remark:
                yield f"{component.snapshot} in {copy.repository}: {copy.remark}."
    of_these = tuple(f"snapshots/{component.source}/" for component in components)
    for place, why in found.inventory.problems:
        if place.partition(":")[2].startswith(of_these):
            yield f"{place} is of no use: {why}"


def _on_files(component: Component, left: Left, found: _Found) -> Iterator[str]:
    chosen = found.of(component.source)
    if component.kind is not Kind.FILES or left.files is None or chosen is None or left.state is not State.ALIVE:
        return
    before = int(chosen[1].manifest.facts.get("files", 0))
    if left.files < before * HARDLY_ANY:
        yield f"Of {component.source}, {count_text(left.files, 'file')} are left of {before:,}."


def _obstacles(found: _Found, components: Sequence[Component], left: Mapping[str, Left]) -> Iterator[str]:
    asked = found.request.repository
    if asked is not None and asked in found.inventory.silent:
        yield f"The repository {asked} was asked for, and does not answer: {found.inventory.silent[asked]}"
    for component in components:
        if component.problem:
            yield f"{component.problem} Choose another recovery point, or leave {component.source} out."
        if obstacle := left[component.source].obstacle:
            yield f"{component.source}: {obstacle}"
        chosen = found.of(component.source)
        if chosen is None:
            continue
        _, snapshot, holdings = chosen
        if snapshot.manifest.kind is not component.kind:
            yield f"{snapshot.label} is of the kind {snapshot.manifest.kind.value}. Choose another snapshot."
        elif not holdings.whole:
            yield f"{snapshot.label} is whole in no repository: {holdings.why_not}. Choose another snapshot."
        elif holdings.locked:
            yield f"{snapshot.label}: {holdings.locked}"
        elif holdings.thaw_seconds:
            words = next(copy.thawing for copy in holdings.copies if copy.whole)
            yield (
                f"{snapshot.label} must be thawed first, which takes {words}: `lifeboat thaw {snapshot.label}`. Then "
                "assess anew, or choose a snapshot that can be read now."
            )


def _labels(found: _Found) -> set[str]:
    return {candidate.label for candidate in found.point.chosen.values()}


def _label(place: Place) -> str:
    return "/".join(map(str, place))


def _is_archived(copy: Copy) -> bool:
    return any((info.storage_class or "") in DURATIONS for info in copy.objects)
