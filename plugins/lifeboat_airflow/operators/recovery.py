"""The disaster-recovery runbook's steps as tasks. Each finds its incident in the vault, and writes there what it did.

What one task hands on to the next is plain values; what a recovery needs to go on elsewhere is in the incident's
journal, so that Airflow's own database may be lost too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.branch import BranchMixIn
from airflow.sdk import BaseOperatorLink, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.hitl import HITLUser
from airflow.task.trigger_rule import TriggerRule

from lifeboat.errors import SettingsError
from lifeboat.moment import read_moment
from lifeboat.progress import Report
from lifeboat.recovery.assessment import assess, assessment_markdown
from lifeboat.recovery.case import Case, open_case
from lifeboat.recovery.closing import report_incident
from lifeboat.recovery.databases import missing_of
from lifeboat.recovery.journal import find_incident, incident_of_run
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
from lifeboat.settings import RecoverySettings
from lifeboat.snapshot import Kind
from lifeboat_airflow.hooks import PostgresSourceHook, RedisSourceHook, VaultHook
from lifeboat_airflow.links import INCIDENT, IncidentLink, ReportLink
from lifeboat_airflow.markdown import markdown_of
from lifeboat_airflow.notifier import run_page
from lifeboat_airflow.operators.asking import AskingOperator
from lifeboat_airflow.operators.base import LifeboatOperator, as_airflows
from lifeboat_airflow.records import handed_on, handed_on_if_done, missing_record, states_of
from lifeboat_airflow.recovery_form import request_of

OPEN = "assess_damage.open_incident"
ASSESS, ASSESS_AGAIN = "assess_damage.assess", "assess_damage.assess_again"
ASK, ASK_AGAIN = "assess_damage.ask", "assess_damage.ask_again"
PREPARE = "prepare_environment.prepare"
PUT_IN_PLACE, VERIFY = "verify_and_start.put_in_place", "verify_and_start.verify"
UNDO = "verify_and_start.undo"
TELL = "notify_stakeholders.tell"
RESTORES: Mapping[Kind, str] = {
    Kind.POSTGRES: "restore.database",
    Kind.FILES: "restore.files",
    Kind.CONFIG: "restore.configuration",
    Kind.REDIS: "restore.redis",
}

PROCEED, ANOTHER, STOP = "Proceed", "Choose another point", "Stop"
REPLACE = "Replace what is alive"
PUT_BACK, KEEP = "Put back what was live before", "Keep it as it is"


def incident_of(context: Context) -> str:
    """The incident of a run: its own, or the one that the form asks to go on with."""
    run = context["dag_run"]
    return incident_of_run(run.run_after, run.run_id, context["params"])


def case_of(
    context: Context, report: Report, request: Request | None = None, *, operator: LifeboatOperator | None = None
) -> Case:
    """The incident as it stands: the request as it was last changed, and the journal."""
    hook, postgres = VaultHook(), PostgresSourceHook()
    vault, incident = hook.open(reading=True), incident_of(context)
    context["ti"].xcom_push(INCIDENT, incident)
    if request is None:
        request = Request.of_record(found_of(context)["request"])
    means = Means(vault, hook.platform, postgres.with_token, postgres.programs, RedisSourceHook().programs,
                  report=report)  # fmt: skip
    if operator is not None:
        means = replace(means, children=operator.children, progress=operator.progress)
    return open_case(means, request, incident)


def run_page_of(context: Context) -> str:
    """The page of this run, for what people are sent."""
    return run_page(context["dag_run"].dag_id, context["dag_run"].run_id)


class RecoveryOperator(LifeboatOperator):
    """A step of a recovery."""

    operator_extra_links: Sequence[BaseOperatorLink] = (IncidentLink(),)

    def case(self, context: Context, request: Request | None = None) -> Case:
        """The incident of this run."""
        return case_of(context, self.log.info, request, operator=self)


def found_of(context: Context) -> dict[str, Any]:
    """What the last assessment of this run handed on: `request`, `assessment` and `markdown`."""
    return dict(handed_on_if_done(context, ASSESS_AGAIN) or handed_on(context, ASSESS))


def assessment_of(context: Context) -> Assessment:
    """The last assessment of this run."""
    return Assessment.of_record(found_of(context)["assessment"])


def all_restored_of(context: Context) -> tuple[Restored, ...]:
    """What was restored in this run, as it stands now: everything that was to be. Raises where a record is missing."""
    restored = restored_of(context)
    there = {one.source for one in restored}
    missing = {RESTORES[one.kind] for one in assessment_of(context).components if one.source not in there}
    if missing:
        raise missing_record(*sorted(missing))
    return restored


def restored_of(context: Context) -> tuple[Restored, ...]:
    """What was restored in this run, as it stands now."""
    now: dict[str, Restored] = {}
    for task in (*RESTORES.values(), PUT_IN_PLACE, UNDO):
        handed_on = context["ti"].xcom_pull(task_ids=task) or []
        for record in [handed_on] if isinstance(handed_on, Mapping) else handed_on:
            for one in record["restored"] if record and "restored" in record else [record]:
                if one:
                    restored = Restored.of_record(one)
                    now[restored.source] = restored
    return tuple(now.values())


# ---- assess damage --------------------------------------------------------------------------------------------------


class OpenIncidentOperator(RecoveryOperator):
    """Opens the incident, once the form is found to fit together and nobody else recovers the platform."""

    template_fields: Sequence[str] = ()

    def work(self, context: Context) -> dict[str, Any]:
        """Check, open, tell."""
        hook, params = VaultHook(), context["params"]
        run, now = context["dag_run"], datetime.now(UTC)
        if params.get("incident"):
            request = find_incident(hook.open(reading=True), params["incident"]).request
            if request is None:
                raise SettingsError(
                    f"What the incident {params['incident']} was to do cannot be read.", hint="Begin a new one."
                )
        else:
            request = request_of(params, run.run_after, self.log.info)
            check_request(hook.platform, request, now)
        case = self.case(context, request)
        by = getattr(run, "triggering_user_name", None) or "somebody"
        goes_on = case.journal.begin(request, by=by)
        self.log.info("%s the incident %s: %s", "Going on with" if goes_on else "Opened", case.incident, request.title)
        if not goes_on:
            tell(case, Phase.INVESTIGATING, page=run_page_of(context))
        return {"incident": case.incident, "request": request.record()}


class AssessOperator(RecoveryOperator, BranchMixIn):
    """Looks at everything, writes down what was found, and goes on as the mode says.

    `again`: a person has asked for another point, with the answer of `ask`.
    """

    inherits_from_skipmixin = True

    def __init__(self, *, again: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.again = again

    def work(self, context: Context) -> dict[str, Any]:
        """Assess, and choose what follows."""
        request = Request.of_record(handed_on(context, OPEN)["request"])
        if self.again:
            request = _with_answer(request, handed_on(context, ASK)["params_input"], self.log.info)
            check_request(VaultHook().platform, request, datetime.now(UTC))
        case = self.case(context, request)
        now = datetime.now(UTC)
        found = assess(case.means, request, now)
        markdown = assessment_markdown(found, request, case.means.platform)
        for line in markdown.splitlines():
            self.log.info("%s", line)
        self.log.info("%s", case.clock.line(now, found.expected_seconds))
        words = f"{len(found.components)} sources looked at"
        facts = {"assessment": found.record(), "request": request.record()}
        case.journal.write("assess", Outcome.DONE, words, facts=facts)
        result = {**facts, "markdown": markdown}
        context["ti"].xcom_push(key="return_value", value=result)
        if found.obstacles and request.mode is not Mode.ASSESS:
            raise AirflowFailException("It cannot be recovered as things are:\n- " + "\n- ".join(found.obstacles))
        if not self.again:
            following = {Mode.ASSESS: TELL, Mode.PRACTICE: PREPARE, Mode.RECOVER: ASK}[request.mode]
            self.do_branch(context, following)
        return result


def _with_answer(request: Request, answer: Mapping[str, Any], report: Report) -> Request:
    """The request with another point."""
    as_of, snapshots = answer.get("as_of"), tuple(answer.get("snapshots") or ())
    if bool(as_of) == bool(snapshots):
        raise SettingsError(
            "Another point was asked for, and it was not said which." if not as_of else "Two points were asked for.",
            hint=f"Clear the task `{ASK}` to be asked again, and fill in either the time or the snapshots.",
        )
    if snapshots:
        return replace(request, point=Point.SNAPSHOTS, snapshots=snapshots, as_of=None)
    try:
        moment = read_moment(as_of, "as_of", report)
    except SettingsError as error:
        error.hint = f"Clear the task `{ASK}` to be asked again. {error.hint}"
        raise
    return replace(request, point=Point.AS_OF, as_of=moment, snapshots=())


class _AskingOperator(AskingOperator, BranchMixIn):
    """Asks a person, and follows the answer. Only those whom platform.yaml names may answer, where it names any.

    No answer in time is a failure, never a yes: then nothing more happens, and people are told. An answer that a try
    has written down before it was cut short is followed by the next.
    """

    inherits_from_skipmixin = True
    operator_extra_links = (IncidentLink(),)
    ui_color = "#f7e3b5"
    answers: Mapping[str, Sequence[str]] = {}
    """By option, the tasks that follow it."""

    def __init__(self, *, recovery: RecoverySettings, **kwargs: Any) -> None:
        super().__init__(
            within=timedelta(minutes=recovery.answer_within_minutes),
            options=list(self.answers),
            assigned_users=[HITLUser(id=user, name=user) for user in recovery.approvers] or None,
            **kwargs,
        )

    def execute(self, context: Context) -> Any:
        """Write down that it is asked, and wait; or pass over what needs no answer."""
        with as_airflows(self.log):
            case = case_of(context, self.log.info)
            needless = self.needless(context, case)
            if needless is not None:
                self.log.info("Nobody needs to be asked: the tasks that follow are %s.", ", ".join(needless) or "none")
                self.do_branch(context, needless)
                return None
            if answered := self._answered_before(context, case):
                return self._follow(context, answered)
            self.body = self.question(context)
            case.journal.write(self._step, Outcome.ASKED, str(self.subject), facts={"options": list(self.options)})
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Write the answer down, and follow it."""
        with as_airflows(self.log):
            case = case_of(context, self.log.info)
            try:
                answer = super().execute_complete(context, event)
            except AirflowFailException as error:
                case.journal.write(self._step, Outcome.FAILED, str(error))
                raise
            [chosen], who = answer["chosen_options"], answer["responded_by_user"] or {}
            name, given = who.get("name") or who.get("id") or "somebody", dict(answer["params_input"])
            facts = {"by": name, "answer": chosen, **{field: value for field, value in given.items() if value}}
            case.journal.write(self._step, Outcome.ANSWERED, f"{name}: {chosen}", facts=facts)
            return self._follow(context, facts)

    def _follow(self, context: Context, answered: Mapping[str, Any]) -> dict[str, Any]:
        """Go on as was answered, and hand the answer on."""
        name, chosen = answered["by"], answered["answer"]
        self.log.info("%s answered: %s", name, chosen)
        self.do_branch(context, list(self.answers[chosen]))
        given = {field: value for field, value in answered.items() if field not in ("by", "answer")}
        return {"answer": chosen, "by": name, "params_input": given}

    def _answered_before(self, context: Context, case: Case) -> Mapping[str, Any] | None:
        """What was answered in a try of this task that was cut short; a person who clears the task is asked anew."""
        ti = context["ti"]
        if ti.try_number == ti.max_tries - (self.retries or 0) + 1:
            return None
        told = [e for e in case.journal.entries() if e.step == self._step]
        return told[-1].facts if told and told[-1].outcome is Outcome.ANSWERED else None

    def question(self, context: Context) -> str:
        """What is shown to whoever is asked, as Markdown."""
        return str(found_of(context)["markdown"])

    def needless(self, context: Context, case: Case) -> Sequence[str] | None:
        """The tasks that follow where nobody needs to be asked; None where somebody does."""
        return None

    @property
    def _step(self) -> str:
        return self.task_id.rpartition(".")[2]


class AskOperator(_AskingOperator):
    """Shows the assessment, and asks whether to proceed, to another point, or not at all.

    Its `params` are those of `other_point_fields`.
    """

    answers = {PROCEED: [PREPARE], ANOTHER: [ASSESS_AGAIN], STOP: [TELL]}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(subject=_ASKING, **kwargs)


class AskAgainOperator(_AskingOperator):
    """Shows the assessment of the other point, and asks whether to proceed."""

    answers = {PROCEED: [PREPARE], STOP: [TELL]}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(subject=_ASKING, **kwargs)


_ASKING = "{{ params.title }}: bring the platform back?"


# ---- prepare environment, restore -----------------------------------------------------------------------------------


class PrepareOperator(RecoveryOperator):
    """Makes ready what is restored to."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("trigger_rule", TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
        super().__init__(**kwargs)

    def work(self, context: Context) -> None:
        """Tell that it begins, and prepare."""
        case, found = self.case(context), assessment_of(context)
        left = found.expected_seconds
        tell(case, Phase.IDENTIFIED, assessment=found, left_seconds=left, page=run_page_of(context))
        prepare(case, found)


class RestoreOperator(RecoveryOperator):
    """Brings one source back as far as that touches nothing alive; what is restored already is recognised."""

    template_fields: Sequence[str] = ("source",)

    def __init__(self, *, source: str, **kwargs: Any) -> None:
        kwargs.setdefault("map_index_template", "{{ task.source }}")
        super().__init__(**kwargs)
        self.source = source

    def work(self, context: Context) -> dict[str, Any]:
        """Restore, where this source was asked for."""
        found = assessment_of(context)
        if self.source not in {component.source for component in found.components}:
            raise AirflowSkipException(f"{self.source} is not to be brought back.")
        return restore(self.case(context), found, self.source).record()


# ---- verify and start -----------------------------------------------------------------------------------------------


class AskToReplaceOperator(_AskingOperator):
    """Asks once more before anything that is alive is replaced; nobody, where nothing is."""

    answers = {REPLACE: [PUT_IN_PLACE], STOP: [TELL]}

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("trigger_rule", TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
        super().__init__(subject="{{ params.title }}: replace what is alive?", **kwargs)

    def question(self, context: Context) -> str:
        """What is replaced by what."""
        restored = {one.source: one for one in restored_of(context)}
        lines = [
            f"| {c.source} | {c.place}: {c.found} | {c.snapshot} | {restored[c.source].waiting or 'as it is fetched'} |"
            for c in assessment_of(context).components
            if c.replaces and c.source in restored
        ]
        missing = [
            f"\n\n**{one.source} is incomplete.** {markdown_of(missing_of(one))}"
            for one in restored.values()
            if missing_of(one)
        ]
        table = ["| source | what is alive | replaced by | which waits as |", "|---|---|---|---|", *lines]
        return (
            "What could be restored without touching anything alive is restored, compared and checked. On approval the "
            "application is stopped, and this is replaced:\n\n" + "\n".join(table) + "\n\nA replaced database stays "
            "under a dated name, and so do configuration files; files of trees and keys of Redis are overwritten."
            + "".join(missing)
        )

    def needless(self, context: Context, case: Case) -> Sequence[str] | None:
        """Put in place at once where nothing is alive, and where it is only practised."""
        all_restored_of(context)  # whoever is asked agrees to all of it
        alive = any(component.replaces for component in assessment_of(context).components)
        return None if alive and case.request.mode is Mode.RECOVER else [PUT_IN_PLACE]


class PutInPlaceOperator(RecoveryOperator):
    """Stops the application and puts everything in its place; what is alive only when a person has agreed to that."""

    def work(self, context: Context) -> dict[str, Any]:
        """Put in place, and hand on how things stand."""
        answer = context["ti"].xcom_pull(task_ids="verify_and_start.ask_to_replace") or {}
        agreed = answer.get("answer") == REPLACE
        restored = all_restored_of(context)
        placed = put_in_place(self.case(context), assessment_of(context), restored, replaces_live=agreed)
        return {"restored": [one.record() for one in placed]}


class MigrateOperator(RecoveryOperator):
    """Runs the migrations that platform.yaml names."""

    def work(self, context: Context) -> None:
        """Migrate."""
        migrate(self.case(context))


class StartOperator(RecoveryOperator):
    """Starts the platform's services."""

    def work(self, context: Context) -> None:
        """Start."""
        start(self.case(context))


class VerifyOperator(RecoveryOperator):
    """Finds out whether the platform is well, and fails when it is not."""

    def work(self, context: Context) -> dict[str, Any]:
        """Verify."""
        case = self.case(context)
        found = verify(case, assessment_of(context), restored_of(context))
        context["ti"].xcom_push(key="return_value", value=found.record())  # a failed task hands on nothing by itself
        for note in found.notes:
            self.log.info("Note: %s", note)
        if not found.well:
            raise AirflowFailException("The platform is not well:\n- " + "\n- ".join(found.failed))
        tell(case, Phase.MONITORING, assessment=assessment_of(context), page=run_page_of(context))
        return found.record()


class AskToUndoOperator(_AskingOperator):
    """Asks, once something has failed after the replacing, whether what was live before is to come back."""

    answers = {PUT_BACK: [UNDO], KEEP: []}

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("trigger_rule", TriggerRule.ONE_FAILED)
        super().__init__(subject="{{ params.title }}: put back what was live before?", **kwargs)

    def question(self, context: Context) -> str:
        """What has failed, and what would come back."""
        found = context["ti"].xcom_pull(task_ids=VERIFY)
        failed = Verified.of_record(found).failed if found else ()
        lines = [f"* {sentence}" for sentence in failed] or ["* The log of the task that failed says what."]
        return (
            "The platform was put in place, and then this failed:\n\n" + "\n".join(lines) + "\n\nDatabases and "
            "configuration can go back to what was live before; files and keys cannot. Or keep it, and mend it by hand."
        )

    def needless(self, context: Context, case: Case) -> Sequence[str] | None:
        """Nothing to go back to."""
        found = context["ti"].xcom_pull(task_ids=VERIFY)
        is_kept = bool(found and found["undo_helps"]) or (found is None and bool(restored_of(context)))
        return None if case.request.mode is Mode.RECOVER and is_kept else []


class UndoOperator(RecoveryOperator):
    """Puts what was live before back in its place."""

    def work(self, context: Context) -> dict[str, Any]:
        """Undo, and hand on how things stand."""
        return {"restored": [one.record() for one in undo(self.case(context), restored_of(context))]}


# ---- notify stakeholders --------------------------------------------------------------------------------------------


class TellOperator(RecoveryOperator):
    """Tells the status page and the users how it ended. A channel that is down is written down, and blocks nothing."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("trigger_rule", TriggerRule.ALL_DONE)
        super().__init__(**kwargs)

    def work(self, context: Context) -> dict[str, Any]:
        """Tell, once the platform is well."""
        case = self.case(context)
        if not _is_well(context):
            raise AirflowSkipException("The platform is not back, so nobody is told that it is.")
        page = run_page_of(context)
        return {"undelivered": list(tell(case, Phase.RESOLVED, assessment=assessment_of(context), page=page))}


class CloseOperator(RecoveryOperator):
    """Ends the incident: writes the report, removes what a practice has made, and fails where anything has failed."""

    operator_extra_links = (IncidentLink(), ReportLink())

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("trigger_rule", TriggerRule.ALL_DONE)
        super().__init__(**kwargs)

    def work(self, context: Context) -> dict[str, Any]:
        """Clear away, report, and say how it ended."""
        case = self.case(context)
        for name in clear_practice(case):
            self.log.info("Removed: %s", name)
        failed = _failed(context)
        well = _is_well(context)
        if not failed:
            # One that failed stays open: its tasks are cleared and go on, or somebody ends it.
            finish(case, well)
        keys = report_incident(case, datetime.now(UTC))
        result = {"incident": case.incident, "well": well, "reports": list(keys)}
        context["ti"].xcom_push(key="return_value", value=result)
        self.log.info("%s", case.clock.line(datetime.now(UTC), None))
        if failed:
            raise AirflowFailException(
                f"The incident {case.incident} is not at its end; failed: {', '.join(failed)}. "
                "Clear them to go on: what is done is not repeated."
            )
        return result


def _is_well(context: Context) -> bool:
    found = handed_on_if_done(context, VERIFY)
    return bool(found and found["well"]) and not context["ti"].xcom_pull(task_ids=UNDO)


def _failed(context: Context) -> list[str]:
    """The tasks of this run that failed, or could not begin for that."""
    return sorted(task for task, state in states_of(context).items() if state in ("failed", "upstream_failed"))
