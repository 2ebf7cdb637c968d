"""`recover-platform` and `incidents`: the disaster-recovery runbook on a terminal, for the day Airflow is gone too."""

from __future__ import annotations

import getpass
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from lifeboat.cli.desk import (
    EnvFileOption,
    JsonOption,
    PlatformOption,
    installed_programs,
    installed_redis,
    moment,
    open_desk,
)
from lifeboat.cli.exit_codes import FAILED, INCOMPLETE, OK
from lifeboat.cli.output import remark, say, say_json, say_table
from lifeboat.errors import LifeboatError, NotReady, SettingsError
from lifeboat.postgres.rebuilding import listed
from lifeboat.progress import ProgressLog
from lifeboat.recovery.assessment import HEADINGS, assess, assessment_rows
from lifeboat.recovery.case import Case, open_case
from lifeboat.recovery.closing import report_incident
from lifeboat.recovery.databases import missing_of
from lifeboat.recovery.journal import Incident, Journal, find_incident, new_incident
from lifeboat.recovery.journal import incidents as all_incidents
from lifeboat.recovery.means import Means
from lifeboat.recovery.model import Assessment, Mode, Outcome, Phase, Point, Request, Restored, Verified
from lifeboat.recovery.request import check_request
from lifeboat.recovery.stakeholders import tell
from lifeboat.recovery.steps import (
    clear_practice,
    finish,
    migrate,
    prepare,
    put_in_place,
    restore,
    start,
    undo,
    verify,
)
from lifeboat.recovery.verify import WHOLE
from lifeboat.vault import Vault

PROCEED, STOP = "proceed", "stop"


def recover_platform(
    mode: Annotated[
        Mode, typer.Option("--mode", help="assess only looks; practice takes scratch targets; recover is the real one.")
    ] = Mode.ASSESS,
    title: Annotated[
        str, typer.Option("--title", metavar="TEXT", help="What happened, in one line.")
    ] = "Platform down",
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="What is known of why.")] = "",
    began: Annotated[
        datetime | None,
        typer.Option(
            "--began",
            metavar="TIME",
            parser=lambda text: moment(text),
            help="When it began: the clock runs from there. Without it, now.",
        ),
    ] = None,
    point: Annotated[
        Point | None,
        typer.Option(
            "--point", help="How the snapshots are chosen; without it, by --as-of or --snapshot, else proven."
        ),
    ] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of",
            metavar="TIME",
            parser=lambda text: moment(text),
            help="Back to this time, such as 2026-11-23T02:00; UTC where no offset is given.",
        ),
    ] = None,
    snapshot: Annotated[
        list[str] | None,
        typer.Option("--snapshot", metavar="SOURCE/TIER/ID", help="Back to this one. May be repeated."),
    ] = None,
    component: Annotated[
        list[str] | None, typer.Option("--component", metavar="SOURCE", help="Only this source. May be repeated.")
    ] = None,
    repository: Annotated[
        str | None, typer.Option("--repository", metavar="NAME", help="Only from this repository; else from any.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="SOURCE=WHERE",
            help="Another connection's id for a database or Redis, another folder for files. May be repeated.",
        ),
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option("--service", metavar="NAME", help="Start only this service. May be repeated.")
    ] = None,
    drop_replaced: Annotated[
        bool, typer.Option("--drop-replaced", help="Drop what was live once all is well, instead of keeping it.")
    ] = False,
    mail: Annotated[
        list[str] | None, typer.Option("--tell", metavar="ADDRESS", help="Tell this user too. May be repeated.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="INCIDENT", help="Go on with this one; its own request counts.")
    ] = None,
    proceed: Annotated[
        bool, typer.Option("--proceed", help="Do not ask after the assessment. Nothing alive is replaced by that.")
    ] = False,
    yes_replace_live_data: Annotated[
        bool,
        typer.Option("--yes-replace-live-data", help="Do not ask at all, not even before what is alive is replaced."),
    ] = False,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the whole platform back, step by step, as the DAG disaster_recovery does; without it, and without Airflow.

    It looks first, shows what it found, and asks. Everything is restored beside what is alive; before anything alive is
    replaced, it asks once more, for the platform's name. It may be killed at any moment: `--resume` goes on, and
    repeats nothing that is done. Begin with `--mode assess`, which changes nothing.

    JSON: `incident`, `mode`, `assessment`, `restored`, `verified`, `reports`; null for what it did not come to.
    """
    desk = open_desk(platform, env_file)
    vault, now = desk.vault(reading=True), datetime.now(UTC)
    if resume is not None:
        incident, request = resume, _request_of(vault, resume)
    else:
        incident = new_incident(now)
        request = Request(
            mode=mode,
            began=began or now,
            title=title,
            reason=reason,
            point=point or _point(as_of, snapshot),
            as_of=as_of,
            snapshots=tuple(snapshot or ()),
            components=tuple(component or ()),
            repository=repository,
            targets=_targets(target or ()),
            services=tuple(service or ()),
            drop_replaced=drop_replaced,
            tell=tuple(mail or ()),
        )
        check_request(desk.platform, request, now)
    means = Means(
        vault,
        desk.platform,
        desk.lookup,
        installed_programs,
        installed_redis,
        progress=ProgressLog(remark),
        report=_Remarks(),
    )
    run = _Run(open_case(means, request, incident), proceed or yes_replace_live_data, yes_replace_live_data)
    with _ended_by_signals(means):
        code = run.carry_out()
    if as_json:
        say_json(run.record())
    raise typer.Exit(code)


incidents = typer.Typer(help="Incidents: what was recovered, practised or only assessed, and what is still open.")


@incidents.callback(invoke_without_command=True)
def list_incidents(
    context: typer.Context,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the incidents, newest first.

    JSON: `incidents`, a list of `id`, `opened`, `mode`, `title`, `state` (`open`, `done` or `failed`) and `words`.
    """
    if context.invoked_subcommand is not None:
        return
    found = list(reversed(all_incidents(open_desk(platform, env_file).vault(reading=True))))
    if as_json:
        say_json({"incidents": [_incident_record(one) for one in found]})
        return
    say_table(
        ["incident", "opened (UTC)", "mode", "state", "title", "last words"],
        [
            [one.id, f"{one.opened:%Y-%m-%d %H:%M:%S}", str(one.mode), _state(one), one.title, _last_words(one)]
            for one in found
        ],
        nothing="There are no incidents.",
    )


@incidents.command("end")
def end_incident(
    incident: Annotated[str, typer.Argument(metavar="INCIDENT", help="One that `lifeboat incidents` lists as open.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the incident.")],
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """End an incident that nobody goes on with, so that another recovery may begin. Nothing of the platform changes."""
    desk = open_desk(platform, env_file)
    vault = desk.vault(reading=True)
    found = find_incident(vault, incident)
    if found.ended is not None:
        say(f"{incident} has ended already: {found.ended.words}")
        return
    journal = Journal(vault, incident, state=Path(desk.platform.state), report=remark)
    journal.end(f"Ended by {_who()}: {reason}", ok=False)
    say(f"{incident} has ended.")


# ---- carrying out ---------------------------------------------------------------------------------------------------


class _Run:
    """A whole recovery on a terminal: the steps in their order, and the questions between them."""

    def __init__(self, case: Case, proceed: bool, replaces_live: bool) -> None:
        self.case = case
        self._proceed = proceed
        self._replaces_live = replaces_live
        self._is_over = False
        self.assessment: Assessment | None = None
        self.restored: tuple[Restored, ...] = ()
        self.verified: Verified | None = None
        self.reports: tuple[str, ...] = ()

    def carry_out(self) -> int:
        """All of it; returns the exit code. What fails is raised, the report written before."""
        case, mode = self.case, self.case.request.mode
        goes_on = case.journal.begin(case.request, by=_who())
        remark(f"{'Going on with' if goes_on else 'Opened'} the incident {case.incident}: {case.request.title}")
        if not goes_on:
            tell(case, Phase.INVESTIGATING)
        try:
            code = self._assess_and_recover()
        except BaseException as error:
            if isinstance(error, LifeboatError):
                remark(f"To go on once that is put right: lifeboat recover-platform --resume {case.incident}")
            self._report()
            raise
        if code == OK or self._is_over:
            finish(self.case, code == OK)
        else:
            remark(f"The incident stays open. To go on: lifeboat recover-platform --resume {case.incident}")
            remark(f"To give it up: lifeboat incidents end {case.incident} --reason …")
        if mode is Mode.RECOVER and code == OK:
            tell(self.case, Phase.RESOLVED, assessment=self.assessment)
        clear_practice(self.case)
        self._report()
        remark(self.case.clock.line(datetime.now(UTC)))
        return code

    def record(self) -> dict[str, Any]:
        """What came of it, as JSON values."""
        return {
            "incident": self.case.incident,
            "mode": str(self.case.request.mode),
            "assessment": self.assessment.record() if self.assessment else None,
            "restored": [one.record() for one in self.restored],
            "verified": self.verified.record() if self.verified else None,
            "reports": list(self.reports),
        }

    def _assess_and_recover(self) -> int:
        if agreed := self._agreed_before():
            self.assessment = agreed
            remark(f"Going on with what was agreed to, as it was found at {agreed.made:%Y-%m-%d %H:%M:%S} UTC.")
            return self._recover(agreed)
        while True:
            self._assess()
            assert self.assessment is not None
            if self.case.request.mode is Mode.ASSESS:
                return OK
            if self.assessment.obstacles:
                raise NotReady("It cannot be recovered as things are.", hint="What stands in the way is named above.")
            if self._proceed or self.case.request.mode is Mode.PRACTICE:
                break
            answer = self._answer(
                "ask",
                "Bring the platform back to this? Type `proceed`; another time, such as 2026-11-23T02:00, or labels of "
                "snapshots, to choose another point; or `stop`.",
                (PROCEED, STOP),
            )
            if answer == PROCEED:
                break
            if not answer or answer == STOP or not self._another_point(answer):
                remark("Stopped. Nothing was touched.")
                self._is_over = True
                return FAILED
        return self._recover(self.assessment)

    def _recover(self, assessment: Assessment) -> int:
        case = self.case
        tell(case, Phase.IDENTIFIED, assessment=assessment, left_seconds=assessment.expected_seconds)
        prepare(case, assessment)
        self.restored = self._restore_all(assessment)
        replaces_live = self._agreed_to_replace(assessment)
        if replaces_live is None:
            remark("Stopped. Nothing that is alive was touched; what was restored waits.")
            self._is_over = True
            return FAILED
        self.restored = put_in_place(case, assessment, self.restored, replaces_live=replaces_live)
        try:
            migrate(case)
            start(case)
            self.verified = verify(case, assessment, self.restored)
        except LifeboatError as error:
            self._offer_undo(error.message)
            raise
        self._say_verified(self.verified)
        if self.verified.well:
            tell(case, Phase.MONITORING, assessment=assessment)
            return OK
        self._offer_undo("The platform is not well.")
        return (
            INCOMPLETE if all(check.passed or check.name.endswith(WHOLE) for check in self.verified.checks) else FAILED
        )

    @property
    def _incomplete(self) -> tuple[Restored, ...]:
        """The databases that lack objects, which a person must see before anything alive is replaced by them."""
        return tuple(one for one in self.restored if missing_of(one))

    def _agreed_before(self) -> Assessment | None:
        """The assessment on which this incident's steps were begun: they go on with the same snapshots."""
        last: Mapping[str, Any] | None = None
        agreed: Mapping[str, Any] | None = None
        for entry in self.case.journal.entries():
            if entry.step == "assess" and entry.facts.get("assessment"):
                last = entry.facts["assessment"]
            elif entry.step == "prepare" and entry.outcome is Outcome.BEGUN:
                agreed = last
        return Assessment.of_record(agreed) if agreed else None

    def _assess(self) -> None:
        now = datetime.now(UTC)
        found = assess(self.case.means, self.case.request, now)
        self.assessment = found
        facts = {"assessment": found.record(), "request": self.case.request.record()}
        self.case.journal.write("assess", Outcome.DONE, f"{len(found.components)} sources looked at", facts=facts)
        say_table(list(HEADINGS), assessment_rows(found))
        for title, lines in (("Worth knowing", found.remarks), ("IN THE WAY", found.obstacles)):
            for line in lines:
                remark(f"{title}: {line}")
        remark(f"{found.keys} {self.case.clock.line(now, found.expected_seconds)}")

    def _restore_all(self, assessment: Assessment) -> tuple[Restored, ...]:
        """Everything side by side; when one fails, the others are still finished, and are not repeated."""
        sources = [component.source for component in assessment.components]
        with ThreadPoolExecutor(max(1, len(sources)), thread_name_prefix="recover") as pool:
            work = [pool.submit(restore, self.case, assessment, source) for source in sources]
            try:
                failures = [error for future in work if (error := future.exception()) is not None]
            except BaseException:
                self.case.means.children.kill()
                raise
        for failure in failures[1:]:
            remark(f"Also: {failure}")
        if failures:
            raise failures[0]
        return tuple(future.result() for future in work)

    def _agreed_to_replace(self, assessment: Assessment) -> bool | None:
        """Whether what is alive may be replaced; False where nothing is, None where a person has not agreed."""
        alive = [component for component in assessment.components if component.replaces]
        if not alive or self.case.practising:
            return False
        before = self.case.journal.last("ask_to_replace", Outcome.ANSWERED)
        if (self._replaces_live and not self._incomplete) or (before and before.facts.get("agreed") is True):
            return True
        remark("This is ALIVE, and is replaced next:")
        waiting = {one.source: one.waiting or "as it is fetched" for one in self.restored}
        say_table(
            ["source", "what is alive", "goes back to", "which waits as"],
            [[c.source, f"{c.place}: {c.found}", c.snapshot, waiting[c.source]] for c in alive],
        )
        remark(
            "The application is stopped first. Databases and configuration are kept; files and keys are overwritten."
        )
        for one in self._incomplete:
            remark(f"{one.source} is INCOMPLETE: {listed(missing_of(one))}")
        name = self.case.means.platform.platform
        return True if self._answer("ask_to_replace", _REPLACE + name, (name,)) == name else None

    def _another_point(self, answer: str) -> bool:
        """Take what a person answered as another point; whether it is one."""
        request = self.case.request
        try:
            if "/" in answer:
                labels = tuple(answer.replace(",", " ").split())
                request = replace(request, point=Point.SNAPSHOTS, snapshots=labels, as_of=None)
            else:
                request = replace(request, point=Point.AS_OF, as_of=moment(answer), snapshots=())
            check_request(self.case.means.platform, request, datetime.now(UTC))
        except (SettingsError, typer.BadParameter) as error:
            remark(f"That is neither `proceed` nor another point: {error}")
            return False
        self.case = replace(self.case, request=request)
        return True

    def _offer_undo(self, why: str) -> None:
        if self._replaces_live or not any(one.facts.get("kept") for one in self.restored):
            return
        question = f"{why} Type `undo` to put back what was live before, or `keep`."
        answer = self._answer("ask_to_undo", question, ("undo", "keep"))
        if answer == "undo":
            self.restored = undo(self.case, self.restored)
            remark("What was live before is back.")
            self._is_over = True

    def _answer(self, step: str, question: str, usual: Sequence[str]) -> str:
        """What a person answers; empty for nothing. Whoever closes the input has agreed to nothing."""
        journal, by = self.case.journal, _who()
        journal.write(step, Outcome.ASKED, question, facts={"options": list(usual)})
        remark(question)
        sys.stderr.write("> ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip()
        facts = {"by": by, "answer": answer[:200] or "nothing", "agreed": answer == usual[0]}
        journal.write(step, Outcome.ANSWERED, f"{by}: {facts['answer']}", facts=facts)
        return answer

    def _say_verified(self, verified: Verified) -> None:
        say_table(
            ["check", "result", "expected", "found"],
            [[c.name, "right" if c.passed else "WRONG", c.expected, c.found] for c in verified.checks],
        )
        for note in verified.notes:
            remark(f"Note: {note}")
        say("The platform is well." if verified.well else "The platform is NOT well.")

    def _report(self) -> None:
        """Write the report; that it cannot be kept is no reason to fail."""
        try:
            self.reports = report_incident(self.case, datetime.now(UTC))
        except LifeboatError as error:
            remark(f"WARNING: the report could not be kept: {error.message}")
        for key in self.reports:
            remark(f"Report: {key}")


_REPLACE = "Type the platform's name to replace it: "


class _Remarks:
    """Says lines of several threads, each whole."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, line: str) -> None:
        with self._lock:
            remark(f"{datetime.now(UTC):%H:%M:%S} {line}")


@contextmanager
def _ended_by_signals(means: Means) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        means.children.kill()
        raise


# ---- what is asked for ----------------------------------------------------------------------------------------------


def _request_of(vault: Vault, incident: str) -> Request:
    """The request of an incident as it was last changed. Raises `SettingsError`, `SnapshotNotFound`."""
    found = find_incident(vault, incident)
    records = [entry.facts["request"] for entry in Journal(vault, incident).entries() if entry.facts.get("request")]
    if records:
        return Request.of_record(records[-1])
    if found.request is None:
        raise SettingsError(f"What the incident {incident} was to do cannot be read.", hint="Begin a new one.")
    return found.request


def _point(as_of: datetime | None, snapshots: Sequence[str] | None) -> Point:
    if snapshots:
        return Point.SNAPSHOTS
    return Point.AS_OF if as_of else Point.LATEST_PROVEN


def _targets(texts: Sequence[str]) -> Mapping[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (source, sign, where) in zip(texts, pairs, strict=True):
        if not (source and sign and where):
            raise typer.BadParameter(f"{text!r} is no target; write it as orders=other_db or uploads=/srv/uploads.")
    return {source: where for source, _, where in pairs}


def _incident_record(one: Incident) -> dict[str, Any]:
    return {
        "id": one.id,
        "opened": one.opened.isoformat(),
        "mode": str(one.mode),
        "title": one.title,
        "state": _state(one),
        "words": _last_words(one),
    }


def _state(one: Incident) -> str:
    return "open" if one.ended is None else str(one.ended.outcome)


def _last_words(one: Incident) -> str:
    return "" if one.ended is None else one.ended.words


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
