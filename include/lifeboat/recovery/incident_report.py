"""The report of an incident: what happened when, who agreed to what, what is back, and what is still to be done.

It is made of the journal, so that anybody who can read the vault can make it again, and kept beside it, unsealed.
Nobody has to write it at four in the morning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lifeboat import __version__
from lifeboat.discretion import without_rows
from lifeboat.document import Heading, Items, Paragraph, Part, Table, as_html, as_markdown, as_text, store_document
from lifeboat.progress import count_text, duration_text, size_text
from lifeboat.recovery.assessment_text import HEADINGS, assessment_rows
from lifeboat.recovery.clock import span_text
from lifeboat.recovery.journal import BEGIN, END
from lifeboat.recovery.masking import Mask
from lifeboat.recovery.model import Assessment, Component, Entry, Mode, Outcome, Phase, Request, Restored, Verified
from lifeboat.recovery.stakeholders import NOTIFY, undelivered
from lifeboat.settings import Objectives
from lifeboat.vault import Vault

WORDS = 600
"""How many characters of an entry's words are shown."""


@dataclass(frozen=True)
class Story:
    """An incident as it can be told. `mask` hides secrets, should any have come into it."""

    platform: str
    objectives: Objectives
    incident: str
    entries: tuple[Entry, ...]
    mask: Mask = str
    request: Request | None = None
    assessment: Assessment | None = None
    restored: tuple[Restored, ...] = ()
    verified: Verified | None = None

    @property
    def title(self) -> str:
        """What it was about, in one line."""
        return self.mask(" ".join(self.request.title.split())) if self.request else self.incident

    @property
    def mode(self) -> Mode:
        """How far it went."""
        return self.request.mode if self.request else Mode.RECOVER

    @property
    def ended(self) -> Entry | None:
        """Its last word; None while it goes on."""
        return next((entry for entry in self.entries if entry.step == END), None)

    @property
    def began(self) -> datetime | None:
        """When the clock began: with the incident, or with a practice itself."""
        opened = next((entry.at for entry in self.entries if entry.step == BEGIN), None)
        return opened if self.request is None or self.mode is not Mode.RECOVER else self.request.began

    @property
    def back(self) -> datetime | None:
        """When the platform was found well; None when it was not, or not yet."""
        well = [e.at for e in self.entries if (found := _read(Verified, e.facts.get("verified"))) and found.well]
        return well[-1] if well and self.verified and self.verified.well else None

    @property
    def taken_seconds(self) -> float | None:
        """From when the clock began until the platform was well."""
        return (self.back - self.began).total_seconds() if self.back and self.began else None

    @property
    def lost_seconds(self) -> float | None:
        """The most that is lost of any source that was brought back."""
        names = {restored.source for restored in self.restored}
        lost = [c.lost_seconds for c in self.components if c.source in names and c.lost_seconds is not None]
        return max(lost, default=None)

    @property
    def components(self) -> tuple[Component, ...]:
        """What was found of every source."""
        return self.assessment.components if self.assessment else ()

    @property
    def approvals(self) -> tuple[Entry, ...]:
        """What a person was asked and has answered."""
        return tuple(e for e in self.entries if e.outcome in (Outcome.ASKED, Outcome.ANSWERED))

    @property
    def reports(self) -> tuple[str, ...]:
        """The keys of the newest report that was kept."""
        kept = [entry.facts["reports"] for entry in self.entries if entry.facts.get("reports")]
        return tuple(map(str, kept[-1])) if kept else ()


def story_of(
    platform: str, objectives: Objectives, incident: str, entries: Sequence[Entry], *, mask: Mask = str
) -> Story:
    """An incident, as far as its journal tells it.

    Whatever step has `request`, `assessment`, `restored` (one or a list) or `verified` among its facts is heard; of the
    same thing, the newest counts.
    """
    facts = [entry.facts for entry in entries]
    restored: dict[str, Restored] = {}
    for each in facts:
        for record in _several(each.get("restored")):
            if found := _read(Restored, record):
                restored[found.source] = found
    return Story(
        platform,
        objectives,
        incident,
        tuple(entries),
        mask,
        _newest(Request, "request", facts),
        _newest(Assessment, "assessment", facts),
        tuple(restored.values()),
        _newest(Verified, "verified", facts),
    )


def markdown_report(story: Story, made: datetime) -> str:
    """The report as Markdown."""
    return as_markdown(_parts(story, made))


def text_report(story: Story, made: datetime) -> str:
    """The report for a mail: Markdown in which nothing is escaped."""
    return as_text(_parts(story, made))


def html_report(story: Story, made: datetime) -> str:
    """The report as one page of HTML, its style within."""
    return as_html(title_of(story), _parts(story, made))


def store_incident_report(vault: Vault, story: Story, made: datetime) -> tuple[str, ...]:
    """Put the report into every repository that answers, as Markdown and as HTML; returns the two keys.

    Raises `RepositoryError` when no repository took it.
    """
    return store_document(vault, f"incident-{story.incident}", made, title_of(story), tuple(_parts(story, made)))


def follow_ups(story: Story) -> tuple[str, ...]:
    """What is still to be done, in sentences."""
    return tuple(dict.fromkeys(story.mask(" ".join(text.split())) for text in _follow_ups(story)))


def holds_text(facts: Mapping[str, Any]) -> str:
    """What was restored, in the numbers that people know, such as `12 tables, 100,000 rows`."""
    counted = [count_text(facts[f"{what}s"], what) for what in _COUNTED if isinstance(facts.get(f"{what}s"), int)]
    size = facts.get("size")
    return ", ".join([*counted, *([size_text(size)] if isinstance(size, int) else [])])


def who_of(entry: Entry) -> str:
    """Who has answered, as far as an entry says so."""
    return next((str(entry.facts[key]) for key in ("who", "by", "user") if entry.facts.get(key)), "")


def title_of(story: Story) -> str:
    """What the report is called."""
    return f"{_KINDS[story.mode]}: {story.title}"


# ---- what it says ---------------------------------------------------------------------------------------------------


_COUNTED = ("table", "row", "file", "key")
_KINDS = {Mode.RECOVER: "Incident report", Mode.PRACTICE: "Practice of a recovery", Mode.ASSESS: "Assessment"}


def _parts(story: Story, made: datetime) -> Iterator[Part]:
    yield Heading(1, title_of(story))
    yield _verdict(story)
    yield Table(("", ""), tuple(_facts(story)))
    if story.mode is not Mode.ASSESS:
        yield Heading(2, "Objectives")
        yield Table(("objective", "allowed", "achieved", "result"), tuple(_objectives(story)))
    if todo := follow_ups(story):
        yield Heading(2, "What is still to be done")
        yield Items(todo)
    yield from _found(story)
    yield from _brought_back(story)
    yield from _integrity(story)
    yield from _approvals(story)
    yield from _notices(story)
    yield Heading(2, "What happened when")
    yield Table(("time (UTC)", "since it began", "step", "source", "", ""), tuple(_timeline(story)))
    yield Paragraph(f"Written by lifeboat {__version__} on {made.astimezone(UTC):%d %B %Y, %H:%M} UTC.")


def _verdict(story: Story) -> Paragraph:
    if story.mode is Mode.ASSESS:
        obstacles = story.assessment.obstacles if story.assessment else ()
        return Paragraph("Nothing was changed; this is what was found.", not obstacles)
    what = "The platform is back" if story.mode is Mode.RECOVER else "The practice held"
    if story.back and story.taken_seconds is not None:
        lost = f", with {span_text(story.lost_seconds)} of data lost" if story.lost_seconds is not None else ""
        return Paragraph(f"{what}, {span_text(story.taken_seconds)} after it began{lost}.", good=True)
    if story.ended is None:
        return Paragraph("It is not over yet.", good=False)
    what = "The platform was NOT found well" if story.mode is Mode.RECOVER else "The practice did NOT hold"
    return Paragraph(f"{what}. {story.mask(_short(story.ended.words))}", good=False)


def _facts(story: Story) -> Iterator[tuple[str, str]]:
    request, assessment = story.request, story.assessment
    yield "platform", story.platform
    yield "incident", story.incident
    yield "mode", str(story.mode)
    if request:
        yield "began", _moment(request.began)
        if request.reason:
            yield "reason", story.mask(" ".join(request.reason.split()))
    opened = next((entry for entry in story.entries if entry.step == BEGIN), None)
    if opened:
        by = str(opened.facts.get("by") or "")
        yield "opened", _moment(opened.at) + (f" by {story.mask(by)}" if by else "")
    if story.ended:
        yield "ended", _moment(story.ended.at)
    if request:
        as_of = f" {_moment(request.as_of)}" if request.as_of else ""
        yield "recovery point", f"{request.point}{as_of}"
    if assessment:
        yield "snapshots apart by", span_text(assessment.skew_seconds)
        yield "keys", story.mask(assessment.keys)


def _objectives(story: Story) -> Iterator[tuple[str, ...]]:
    allowed = story.objectives
    for name, hours, seconds in (
        ("time until the platform was well (RTO)", allowed.rto_hours, story.taken_seconds),
        ("data lost (RPO)", allowed.rpo_hours, story.lost_seconds),
    ):
        if seconds is None:
            yield name, span_text(hours * 3600), "not known" if story.back else "not achieved", "MISSED"
        else:
            yield name, span_text(hours * 3600), span_text(seconds), "met" if seconds <= hours * 3600 else "MISSED"


def _found(story: Story) -> Iterator[Part]:
    if story.assessment is None:
        return
    yield Heading(2, "What was found")
    yield _masked(Table(HEADINGS, assessment_rows(story.assessment)), story.mask)
    for text in (*story.assessment.obstacles, *story.assessment.remarks):
        yield Paragraph(f"Note: {story.mask(text)}")


def _brought_back(story: Story) -> Iterator[Part]:
    if not story.restored:
        return
    yield Heading(2, "What was brought back")
    rows = tuple(
        (r.source, r.snapshot, r.repository, _where(r), duration_text(r.seconds), holds_text(r.facts))
        for r in story.restored
    )
    headings = ("source", "snapshot", "from", "to", "took", "holds")
    yield _masked(Table(headings, rows), story.mask)
    for r in story.restored:
        yield from (Paragraph(f"{r.source}: {story.mask(note)}") for note in r.notes)


def _integrity(story: Story) -> Iterator[Part]:
    if story.verified is None:
        return
    yield Heading(2, "Whether it is whole")
    if story.verified.checks:
        rows = tuple(
            (c.name, "passed" if c.passed else "FAILED", f"{c.seconds:.1f} s", c.expected, c.found)
            for c in story.verified.checks
        )
        yield _masked(Table(("check", "result", "took", "expected", "found"), rows), story.mask)
    for tree, found in story.verified.orphans.items():
        yield Paragraph(f"{tree}: {story.mask(_orphans(found))}", good=not _count(found, "missing"))
    for note in story.verified.notes:
        yield Paragraph(f"Note: {story.mask(note)}")


def _approvals(story: Story) -> Iterator[Part]:
    if not story.approvals:
        return
    yield Heading(2, "Who agreed to what")
    rows = tuple(
        (_clock_time(e.at), str(e.outcome), e.step, who_of(e), str(e.facts.get("answer", "")), _short(e.words))
        for e in story.approvals
    )
    yield _masked(Table(("time (UTC)", "", "question", "who", "answer", ""), rows), story.mask)


def _notices(story: Story) -> Iterator[Part]:
    notices = [e for e in story.entries if e.step == NOTIFY and e.facts.get("channel")]
    if not notices:
        return
    yield Heading(2, "Who was told")
    rows = tuple(
        (
            _clock_time(e.at),
            str(e.facts["channel"]),
            str(e.facts.get("phase", "")),
            "done" if e.outcome is Outcome.DONE else "FAILED",
            "" if e.outcome is Outcome.DONE else _short(e.words),
        )
        for e in notices
    )
    yield _masked(Table(("time (UTC)", "through", "of", "result", ""), rows), story.mask)


def _timeline(story: Story) -> Iterator[tuple[str, ...]]:
    began = story.began
    for e in story.entries:
        if e.step == NOTIFY and e.outcome is Outcome.DONE:
            continue  # told above
        since = span_text((e.at - began).total_seconds()) if began and e.at >= began else ""
        yield _clock_time(e.at), since, e.step, e.source, str(e.outcome), story.mask(_short(e.words))


def _follow_ups(story: Story) -> Iterator[str]:
    yield from undelivered(story.entries).values()
    yield from (e.words for e in story.entries if e.step == NOTIFY and "template" in e.facts)
    if story.ended and (said := _status_page(story)):
        yield f"The status page still says {said!r}: correct it by hand."
    if story.mode is not Mode.ASSESS and story.ended:
        for name, hours, seconds in (
            ("time objective", story.objectives.rto_hours, story.taken_seconds),
            ("data objective", story.objectives.rpo_hours, story.lost_seconds),
        ):
            if seconds is not None and seconds > hours * 3600:
                too_much = span_text(seconds - hours * 3600)
                yield f"The {name} of {span_text(hours * 3600)} was missed by {too_much}: find out what took it."
    for c in story.components:
        yield from _about(c)
    yield from _kept(story)
    if story.verified:
        yield from (f"A check failed. {text}" for text in story.verified.failed)
        for tree, found in story.verified.orphans.items():
            if _count(found, "missing") or _count(found, "unnamed"):
                yield f"{tree}: {_orphans(found)} Decide what becomes of them."
    failed = {(e.step, e.source): e for e in story.entries if e.outcome in (Outcome.FAILED, Outcome.DONE)}
    for e in failed.values():
        if e.outcome is Outcome.FAILED and e.step not in (NOTIFY, END):
            yield f"The step {e.step}{f' of {e.source}' if e.source else ''} has failed: {_short(e.words)}"


def _kept(story: Story) -> Iterator[str]:
    """What was live before, and takes room until somebody lets it go."""
    if story.mode is not Mode.RECOVER:
        return
    said = [str(note) for e in story.entries for note in _several(e.facts.get("notes"))]
    for r in story.restored:
        kept = r.facts.get("kept")
        if r.waiting:
            yield f"{r.source} was restored as {r.waiting}, and is not in its place: decide what becomes of it."
        elif isinstance(kept, str) and kept and f"{kept!r} was dropped." not in said:
            let_go = f"`lifeboat release {kept} --drop-it {kept}`"
            yield f"What was live of {r.source} is kept as {kept}: once nobody needs it, {let_go}."
        elif isinstance(kept, Mapping) and kept:
            yield f"What {count_text(len(kept), 'file')} of {r.source} were before is kept beside them."


def _about(c: Component) -> Iterator[str]:
    if not c.snapshot:
        yield f"{c.source} could not be brought back: {c.problem or 'it has no snapshot'}."
        return
    for copy in c.copies:
        if not copy.whole:
            remark = copy.remark or "it is not whole"
            yield f"The copy of {c.snapshot} in {copy.repository} is of no use: {remark}. `lifeboat replicate --all`."
    yield from (f"A newer snapshot of {c.source} was passed over: {text}" for text in c.newer)
    if c.proven is None:
        yield f"{c.snapshot} was never proven: `lifeboat prove {c.source}` makes sure of the next one."


def _status_page(story: Story) -> str:
    """The phase that the status page says, where that is not the last; empty where it is, or there is none."""
    said = [
        str(e.facts.get("phase"))
        for e in story.entries
        if e.step == NOTIFY and e.outcome is Outcome.DONE and str(e.facts.get("channel", "")).startswith("status page")
    ]
    return said[-1] if said and said[-1] != Phase.RESOLVED else ""


# ---- helpers --------------------------------------------------------------------------------------------------------


def _where(restored: Restored) -> str:
    return f"{restored.waiting}, beside {restored.place}" if restored.waiting else restored.place


def _orphans(found: Mapping[str, Any]) -> str:
    """Files that rows name and are missing, and files no row names, in a sentence."""
    missing, unnamed = _count(found, "missing"), _count(found, "unnamed")
    if not missing and not unnamed:
        return "every file that a row names is there, and no others."
    parts = []
    for name, number, words in (
        ("missing", missing, "named by a row and missing"),
        ("unnamed", unnamed, "that no row names"),
    ):
        if number:
            first = found.get(f"first_{name}") or found.get(name) or ()
            shown = ", ".join(map(str, first[:10])) if isinstance(first, list | tuple) else ""
            parts.append(f"{count_text(number, 'file')} {words}{f' (such as {shown})' if shown else ''}")
    return f"{'; '.join(parts)}."


def _count(found: Mapping[str, Any], name: str) -> int:
    value = found.get(f"{name}_count", found.get(name, 0))
    return len(value) if isinstance(value, list | tuple) else int(value) if isinstance(value, int | float) else 0


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _clock_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _short(text: str) -> str:
    text = " ".join(without_rows(text).split())
    return text if len(text) <= WORDS else f"{text[: WORDS - 1]}…"


def _masked(table: Table, mask: Mask) -> Table:
    return Table(table.headings, tuple(tuple(mask(cell) for cell in row) for row in table.rows))


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [] if value is None else [value]


def _newest(kind: Any, name: str, facts: Sequence[Mapping[str, Any]]) -> Any:
    found = [read for each in facts if (read := _read(kind, each.get(name)))]
    return found[-1] if found else None


def _read(kind: Any, record: Any) -> Any:
    """The value in a record; None where it is none."""
    with suppress(ValueError, TypeError, KeyError):
        return kind.of_record(record) if isinstance(record, Mapping) else None
    return None
