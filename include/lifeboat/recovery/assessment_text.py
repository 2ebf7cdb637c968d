"""An assessment for people: rows for a table on a terminal or a page, and a document that a person approves by."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from lifeboat.document import Heading, Items, Paragraph, Part, Table, as_markdown
from lifeboat.progress import size_text
from lifeboat.recovery.clock import Clock, moment_text, span_text
from lifeboat.recovery.model import Assessment, Component, Mode, Point, Request, State
from lifeboat.settings import Platform

HEADINGS = ("source", "now", "goes back to", "of", "proven", "loses", "takes about", "whole in")
"""What the cells of `assessment_rows` are."""


def assessment_rows(assessment: Assessment) -> tuple[tuple[str, ...], ...]:
    """A row of texts for each source, under `HEADINGS`."""
    return tuple(
        (
            component.source,
            f"{component.state.value}: {component.found}",
            component.snapshot or "nothing",
            _moment(component.began, assessment.made),
            _moment(component.proven, assessment.made, "not proven" if component.snapshot else ""),
            _lost(component),
            "not known" if component.expected_seconds is None else span_text(component.expected_seconds),
            ", ".join(copy.repository for copy in component.copies if copy.whole) or "no repository",
        )
        for component in assessment.components
    )


def assessment_markdown(assessment: Assessment, request: Request, platform: Platform) -> str:
    """All of it as Markdown, the most important first."""
    return as_markdown(assessment_parts(assessment, request, platform))


def assessment_parts(assessment: Assessment, request: Request, platform: Platform) -> Iterator[Part]:
    """The same as parts of a document."""
    yield Heading(1, f"Assessment: {request.title}")
    yield Paragraph(_about(assessment, request, platform))
    if assessment.obstacles:
        yield Paragraph("A recovery cannot go on like this. What stands in the way:", good=False)
        yield Items(assessment.obstacles)
    else:
        yield Paragraph("Nothing stands in the way.", good=True)
    if request.mode is Mode.RECOVER and (replaced := [c for c in assessment.components if c.replaces]):
        names = ", ".join(component.source for component in replaced)
        yield Paragraph(f"ALIVE, and would be replaced after a second approval: {names}.", good=False)
    yield Heading(2, "What is left")
    yield Table(
        ("source", "kind", "place", "state", "found"),
        tuple((c.source, c.kind.value, c.place, _STATES[c.state], c.found) for c in assessment.components),
    )
    yield Heading(2, "What it goes back to")
    yield Table(
        ("source", "snapshot", "of", "proven", "loses", "takes about", "size"),
        tuple(_goes_back(component, assessment) for component in assessment.components),
    )
    yield Paragraph(_chosen(assessment, request, platform))
    yield Heading(2, "Where it is kept")
    yield Table(
        ("snapshot", "repository", "copy", "remark"),
        tuple(
            (component.snapshot, copy.repository, _copy_text(copy.whole, copy.thawing), copy.remark)
            for component in assessment.components
            for copy in component.copies
        ),
    )
    yield Paragraph(assessment.keys)
    if passed_over := [text for component in assessment.components for text in component.newer]:
        yield Heading(2, "Newer snapshots that were passed over")
        yield Table(("snapshot", "why"), tuple(_two(text) for text in passed_over))
    if assessment.remarks:
        yield Heading(2, "Worth knowing")
        yield Items(assessment.remarks)


def _about(assessment: Assessment, request: Request, platform: Platform) -> str:
    clock = Clock(request.began, platform.objectives.rto_hours)
    used = clock.line(assessment.made, assessment.expected_seconds)
    reason = f": {request.reason}" if request.reason else ""
    began = f"{request.began:%Y-%m-%d %H:%M %Z}"
    looked = moment_text(assessment.made, request.began)
    what = f"{platform.platform}, {_MODES[request.mode]}{reason}."
    return f"{what} The incident began on {began}. Looked at {looked}: {used}."


def _chosen(assessment: Assessment, request: Request, platform: Platform) -> str:
    how = {
        Point.AS_OF: f"as of {request.as_of:%Y-%m-%d %H:%M %Z}" if request.as_of else Point.AS_OF.value,
        Point.SNAPSHOTS: f"{', '.join(request.snapshots)}, and what fits best",
    }.get(request.point, request.point.value)
    parts = [f"Recovery point: {how}. The snapshots began {span_text(assessment.skew_seconds)} apart."]
    if assessment.lost_seconds is not None:
        may = span_text(platform.objectives.rpo_hours * 3600)
        parts.append(f"At most {span_text(assessment.lost_seconds)} of data are lost, of {may} that may be.")
    if assessment.expected_seconds is not None:
        took = span_text(assessment.expected_seconds)
        parts.append(f"One after the other, the restores take about {took} by what earlier proofs have measured.")
    return " ".join(parts)


def _goes_back(component: Component, assessment: Assessment) -> tuple[str, ...]:
    if not component.snapshot:
        return component.source, "none", "", "", "everything", "", ""
    return (
        component.source,
        component.snapshot,
        _moment(component.began, assessment.made),
        _moment(component.proven, assessment.made, "not proven"),
        _lost(component),
        "not known" if component.expected_seconds is None else span_text(component.expected_seconds),
        size_text(component.size),
    )


def _lost(component: Component) -> str:
    if not component.snapshot:
        return "everything"
    if component.lost_seconds is None:
        return "changes not archived"
    return f"the last {span_text(component.lost_seconds)}" if component.lost_seconds else "nothing"


def _copy_text(whole: bool, thawing: str) -> str:
    if not whole:
        return "FAILED: of no use"
    return f"whole, to be thawed: {thawing}" if thawing else "passed: whole"


def _two(text: str) -> tuple[str, str]:
    label, _, why = text.partition(": ")
    return label, why


def _moment(moment: datetime | None, now: datetime, otherwise: str = "") -> str:
    return otherwise if moment is None else moment_text(moment, now)


_STATES = {State.ALIVE: "alive", State.EMPTY: "empty", State.GONE: "gone"}

_MODES = {
    Mode.ASSESS: "looked at only",
    Mode.PRACTICE: "a practice on scratch targets",
    Mode.RECOVER: "to be recovered",
}
