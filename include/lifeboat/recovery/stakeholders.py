"""Telling people of an incident while it lasts: the status page, the users, and operations.

It keeps nobody waiting and fails nothing: what is not taken is a line of the journal, tried again with the next phase,
and told in the incident's report. What was taken is not sent again, so that a task may be cleared.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from lifeboat.assembly import channels_of, status_page_of, users_mail
from lifeboat.errors import LifeboatError, SettingsError
from lifeboat.notify.alert import Alert, Event
from lifeboat.notify.rendering import Message, render
from lifeboat.recovery.clock import moment_text, span_text
from lifeboat.recovery.masking import Mask, mask_of
from lifeboat.recovery.model import Assessment, Entry, Mode, Outcome, Phase
from lifeboat.recovery.status_page import Update, update
from lifeboat.recovery.steps import Case
from lifeboat.snapshot import Kind

TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "recovery"

NOTIFY = "notify"
"""The step under which the journal says who was told; its facts are `channel` and `phase`."""

REPORT = "report"
"""What stands in place of a phase where the report is what was sent."""

WITHIN = 40.0
"""Seconds after which a recovery goes on, whoever has not been told by then."""

PAUSE = 2.0
"""Seconds before a channel that does not take a message is tried a second time."""

AT_ONCE = 50
"""How many users get mail at once."""


@dataclass(frozen=True)
class Notice:
    """What the templates see, as `incident`. What is not known is empty; moments and spans of time are words.

    `kept_until` is the moment up to which all that users entered is there again; `expected` when the platform should
    be. `notes` and `undelivered` are sentences for operations.
    """

    platform: str
    id: str
    title: str
    phase: str
    mode: str
    began: str
    at: str
    clock: str
    reason: str = ""
    lost: str = ""
    kept_until: str = ""
    expected: str = ""
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    undelivered: tuple[str, ...] = ()
    page: str = ""


def tell(
    case: Case,
    phase: Phase,
    *,
    assessment: Assessment | None = None,
    left_seconds: float | None = None,
    notes: Sequence[str] = (),
    page: str = "",
    templates: Path = TEMPLATES,
    within: float = WITHIN,
) -> tuple[str, ...]:
    """Tell everybody of a phase of the incident; returns a sentence on each who was not told. Never raises.

    Users and the status page are told of real recoveries alone; operations of practices too, and of mere assessments
    nobody is. `left_seconds` is what is left to do, `page` where to look. May be repeated: nobody is told twice.
    """
    if case.request.mode is Mode.ASSESS or case.means.platform.notify is None:
        return ()
    try:
        mask = mask_of(case.means.platform, case.means.lookup, case.request)
        before = case.journal.entries()
        missed = undelivered(before)
        known = replace(
            _notice(case, phase, assessment, left_seconds),
            notes=tuple(notes),
            page=page,
            undelivered=tuple(missed.values()),
        )
        writer = _Writer(templates, mask)
        jobs = [job for job in _jobs(case, known, writer, missed) if not _is_told(before, job)]
        results = _do(jobs, within)
    except Exception as error:  # noqa: BLE001 - people who are not told must never be the reason a recovery fails
        words = f"Nobody could be told of the phase {phase}: {type(error).__name__}."
        case.means.report(words)
        case.journal.write(NOTIFY, Outcome.FAILED, words, facts={"channel": "everybody", "phase": str(phase)})
        return (words,)
    for template, problem in writer.problems.items():
        words = f"The template {template} cannot be used, plain words went out instead: {mask(problem)}"
        case.means.report(f"WARNING: {words}")
        case.journal.write(NOTIFY, Outcome.FAILED, words, facts={"template": template, "phase": str(phase)})
    return tuple(words for job in jobs if (words := _note(case, job, results[job.channel, job.phase], mask)))


def deliver_report(case: Case, title: str, text: str, html: str, *, within: float = WITHIN) -> tuple[str, ...]:
    """Mail an incident's report to operations; returns a sentence when it was not taken. Never raises.

    A report is written anew whenever an incident stands otherwise, so each is sent.
    """
    if case.means.platform.notify is None or case.means.platform.notify.email is None:
        return ()
    platform = case.means.platform
    alert = Alert(Event.INCIDENT, platform.platform, datetime.now(UTC), run=case.incident, title=title)
    message = Message(alert, text=text, html=html, chat=text)
    jobs = [
        _Job(channel.name, REPORT, partial(channel.send, message))
        for channel in channels_of(platform, case.means.lookup)
        if channel.name == "email"
    ]
    results = _do(jobs, within)
    mask = mask_of(platform, case.means.lookup, case.request)
    return tuple(words for job in jobs if (words := _note(case, job, results[job.channel, job.phase], mask)))


def undelivered(entries: Sequence[Entry]) -> Mapping[tuple[str, str], str]:
    """By channel and phase, what the journal says was not delivered, and has not been since, nor a newer notice."""
    missed: dict[tuple[str, str], str] = {}
    for entry in entries:
        channel, phase = str(entry.facts.get("channel", "")), str(entry.facts.get("phase", ""))
        if entry.step != NOTIFY or not channel:
            continue
        if entry.outcome is Outcome.FAILED:
            missed[channel, phase] = entry.words
        elif entry.outcome is Outcome.DONE:
            # A notice makes up for those before it; a report does not, nor is it made up for.
            missed = {key: words for key, words in missed.items() if key[0] != channel or _differ(key[1], phase)}
    return missed


def _differ(one: str, other: str) -> bool:
    return (one == REPORT) != (other == REPORT)


def check_notices(folder: Path = TEMPLATES) -> None:
    """Raise `SettingsError` naming every template that cannot be used."""
    writer = _Writer(folder, str)
    for phase in Phase:
        notice = Notice("platform", "incident", "title", str(phase), str(Mode.RECOVER), "then", "now", "clock")
        full = replace(notice, reason="why", lost="1 h", kept_until="then", expected="soon", sources=("a",),
                       notes=("note",), undelivered=("mail",), page="https://airflow.example")  # fmt: skip
        for each, template in itertools.product((notice, full), _TEMPLATES):
            writer(template, each, "")
    if writer.problems:
        wrong = "\n".join(f"{template}: {problem}" for template, problem in writer.problems.items())
        raise SettingsError(f"Templates cannot be used:\n{wrong}", hint="Correct them, or take them back.")


_TEMPLATES = (
    "status_page.txt.jinja", "users_subject.txt.jinja", "users.txt.jinja", "users.html.jinja", "operations.txt.jinja",
)  # fmt: skip


# ---- what is said ---------------------------------------------------------------------------------------------------


def _notice(case: Case, phase: Phase, assessment: Assessment | None, left_seconds: float | None) -> Notice:
    request, now = case.request, datetime.now(UTC)
    # Of what users enter: sessions are only to be begun anew, and configuration is not theirs.
    entered = [c for c in assessment.components if c.kind in (Kind.POSTGRES, Kind.FILES)] if assessment else []
    lost = [c.lost_seconds for c in entered if c.lost_seconds is not None]
    expected = "" if left_seconds is None else moment_text(now + timedelta(seconds=left_seconds), now)
    return Notice(
        platform=case.means.platform.platform,
        id=case.incident,
        title=" ".join(request.title.split()),
        phase=str(phase),
        mode=str(request.mode),
        began=_moment(request.began),
        at=_moment(now),
        clock=case.clock.line(now, left_seconds),
        reason=" ".join(request.reason.split()),
        lost=span_text(assessment.lost_seconds) if assessment and assessment.lost_seconds is not None else "",
        kept_until=_moment(request.began - timedelta(seconds=max(lost))) if lost else "",
        expected=expected,
        sources=tuple(c.source for c in assessment.components) if assessment else request.components,
    )


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%d %B %Y, %H:%M} UTC"


class _Writer:
    """Fills templates in. One that cannot be used is replaced by plain words, and is among the problems."""

    def __init__(self, folder: Path, mask: Mask) -> None:
        self.problems: dict[str, str] = {}
        self.mask = mask
        self._folder = folder
        self._environment = Environment(
            loader=FileSystemLoader(folder),
            autoescape=select_autoescape(["html", "html.jinja"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def __call__(self, template: str, notice: Notice, plain: str) -> str:
        try:
            text = self._environment.get_template(template).render(incident=notice).strip()
            if not text:
                raise ValueError("it says nothing")
        except Exception as error:  # noqa: BLE001 - a template can do anything, and must not keep people from being told
            self.problems[str(self._folder / template)] = f"{type(error).__name__}: {error}"
            text = plain
        return self.mask(text)


# ---- to whom --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One notice through one channel."""

    channel: str
    phase: str
    send: Callable[[], None]


def _jobs(case: Case, notice: Notice, writer: _Writer, missed: Mapping[tuple[str, str], str]) -> Iterator[_Job]:
    """What is to be said now, and what was not taken before where nothing newer is said instead."""
    now = list(_jobs_of_phase(case, notice, writer))
    yield from now
    silent = {key for key in missed if key[0] not in {job.channel for job in now}}
    for phase in Phase:
        if phase != notice.phase and any(key[1] == phase for key in silent):
            again = _jobs_of_phase(case, replace(notice, phase=str(phase)), writer)
            yield from (job for job in again if (job.channel, job.phase) in silent)


def _jobs_of_phase(case: Case, notice: Notice, writer: _Writer) -> Iterator[_Job]:
    if case.request.mode is Mode.RECOVER:
        yield from _to_status_page(case, notice, writer)
        yield from _to_users(case, notice, writer)
    yield from _to_operations(case, notice, writer)


def _to_status_page(case: Case, notice: Notice, writer: _Writer) -> Iterator[_Job]:
    notify = case.means.platform.notify
    if notify is None or notify.status_page is None:
        return
    text = writer("status_page.txt.jinja", notice, f"{notice.platform}: {notice.phase}")
    said = Update(
        case.incident, writer.mask(notice.title), Phase(notice.phase), " ".join(text.split()), datetime.now(UTC)
    )

    def send() -> None:
        page = status_page_of(case.means.platform, case.means.lookup)
        assert page is not None  # as above
        update(page, said)

    yield _Job(f"status page {notify.status_page.connection}", notice.phase, send)


def _to_users(case: Case, notice: Notice, writer: _Writer) -> Iterator[_Job]:
    notify = case.means.platform.notify
    users = notify.users if notify else None
    to = tuple(dict.fromkeys((*(users.to if users else ()), *case.request.tell)))
    if not to or notice.phase not in (users.phases if users else (Phase.IDENTIFIED, Phase.RESOLVED)):
        return
    plain = f"{notice.platform}: {notice.title} ({notice.phase})"
    subject = " ".join(writer("users_subject.txt.jinja", notice, plain).split())
    text = writer("users.txt.jinja", notice, plain) + "\n"
    html = writer("users.html.jinja", notice, "")
    alert = Alert(Event.INCIDENT, notice.platform, datetime.now(UTC), run=case.incident, title=subject)
    message = Message(alert, text=text, html=html, chat=text)
    for first in range(0, len(to), AT_ONCE):
        some = to[first : first + AT_ONCE]
        name = "mail to users" + (f" {first + 1}-{first + len(some)}" if len(to) > AT_ONCE else "")
        yield _Job(name, notice.phase, partial(_mail, case, some, message))


def _mail(case: Case, to: Sequence[str], message: Message) -> None:
    users_mail(case.means.platform, case.means.lookup, to).send(message)


def _to_operations(case: Case, notice: Notice, writer: _Writer) -> Iterator[_Job]:
    kind = "Practice" if case.request.mode is Mode.PRACTICE else "Incident"
    title = writer.mask(f"{kind}: {notice.title}: {notice.phase}")
    text = writer("operations.txt.jinja", notice, f"{notice.title}. {notice.clock}")
    alert = Alert(
        Event.INCIDENT,
        notice.platform,
        datetime.now(UTC),
        run=case.incident,
        page=notice.page,
        notes=tuple(line.strip() for line in text.splitlines() if line.strip()),
        title=title,
    )
    message = render(alert)
    for channel in channels_of(case.means.platform, case.means.lookup):
        yield _Job(channel.name, notice.phase, partial(channel.send, message))


# ---- doing it -------------------------------------------------------------------------------------------------------


def _is_told(entries: Sequence[Entry], job: _Job) -> bool:
    wanted = {"channel": job.channel, "phase": job.phase}
    return any(e.step == NOTIFY and e.outcome is Outcome.DONE and dict(e.facts) == wanted for e in entries)


def _do(jobs: Sequence[_Job], within: float) -> dict[tuple[str, str], LifeboatError | None]:
    """Do all at the same time; the error of each that was not done, also of those that hang."""
    late = LifeboatError(f"It was not done within {within:g} s.", hint="Look whether that service answers.")
    results: dict[tuple[str, str], LifeboatError | None] = dict.fromkeys([(j.channel, j.phase) for j in jobs], late)
    deadline = time.monotonic() + within
    # Not a pool, which would wait for threads that hang when the process ends.
    threads = [threading.Thread(target=_try, args=(job, results, deadline), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(results)


def _try(job: _Job, results: dict[tuple[str, str], LifeboatError | None], deadline: float) -> None:
    for last in (False, True):
        try:
            job.send()
        except LifeboatError as error:
            results[job.channel, job.phase] = error
            if last or not error.transient or time.monotonic() + PAUSE > deadline:
                return
            time.sleep(PAUSE)
        except Exception as error:  # noqa: BLE001 - whatever a library raises is a failure of this channel alone
            results[job.channel, job.phase] = LifeboatError(f"It failed with {type(error).__name__}.")
            return
        else:
            results[job.channel, job.phase] = None
            return


def _note(case: Case, job: _Job, error: LifeboatError | None, mask: Mask) -> str:
    """Write down how it went; a sentence when it went wrong."""
    facts = {"channel": job.channel, "phase": job.phase}
    if error is None:
        words = f"Told through {job.channel}: {job.phase}."
        case.means.report(words)
        case.journal.write(NOTIFY, Outcome.DONE, words, facts=facts)
        return ""
    words = mask(f"NOT told through {job.channel}: {job.phase}. {error.message}")
    case.means.report(f"WARNING: {words}")
    case.journal.write(NOTIFY, Outcome.FAILED, words, facts=facts)
    return words
