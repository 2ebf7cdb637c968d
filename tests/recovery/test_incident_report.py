"""The report of an incident tells all of it, from the journal alone, and nothing secret."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from lifeboat.errors import RepositoryError
from lifeboat.recovery.incident_report import (
    Story,
    follow_ups,
    html_report,
    markdown_report,
    store_incident_report,
    story_of,
)
from lifeboat.recovery.journal import BEGIN, END
from lifeboat.recovery.masking import mask_of
from lifeboat.recovery.model import Assessment, Entry, Mode, Outcome, Request, Restored, Verified
from lifeboat.recovery.stakeholders import NOTIFY
from lifeboat.settings import Objectives
from lifeboat.smoke import CheckResult
from lifeboat.snapshot import Kind
from tests.recovery.worlds import ASSESSMENT, BEGAN, REQUEST, World

OPENED = BEGAN + timedelta(minutes=2)
WELL = BEGAN + timedelta(minutes=50)
DATABASE = Restored(
    "receivables",
    Kind.POSTGRES,
    "receivables/daily/20261124T020000Z-0a1b2c3d",
    "local",
    "sme_platform_db",
    seconds=95,
    facts={"tables": 12, "rows": 100_000, "oid": 16_385, "kept": "sme_platform_db_replaced"},
    notes=("The role sme was created.",),
)
UPLOADS = Restored("uploads", Kind.FILES, "uploads/daily/20261124T030000Z-0a1b2c3d", "local", "/app/uploads")
VERIFIED = Verified(
    well=True,
    checks=(CheckResult("log in", True, 0.4, "status 0", "status 0"),),
    orphans={"uploads": {"missing": 2, "first_missing": ["a.pdf", "b.pdf"], "unnamed": 0}},
)


def test_the_report_tells_who_did_what_when_and_how_it_went() -> None:
    text = markdown_report(story(), WELL).replace("\\", "")

    assert "# Incident report: The server room is under water" in text
    assert "**The platform is back, 50 min after it began, with 5 h of data lost.**" in text
    assert "| time until the platform was well (RTO) | 4 h | 50 min | met |" in text
    assert "| data lost (RPO) | 1 d | 5 h | met |" in text
    assert "| opened | " in text
    assert " by maria |" in text
    assert (
        f"| receivables | {DATABASE.snapshot} | local | sme_platform_db | 0:01:35 | 12 tables, 100,000 rows |" in text
    )
    assert "| answered | approve | maria | proceed |" in text
    assert "| log in | passed | 0.4 s | status 0 | status 0 |" in text
    assert "2 files named by a row and missing (such as a.pdf, b.pdf)" in text
    assert "| 40 min | restore | receivables | done | It is restored. |" in text


def test_the_page_says_the_same_and_stands_alone() -> None:
    page = html_report(story(), WELL)

    assert page.startswith("<!DOCTYPE html>")
    assert "<title>Incident report: The server room is under water</title>" in page
    assert '<td class="good">met</td>' in page
    assert "<code>lifeboat prove uploads</code> makes sure of the next one." in page
    assert "http" not in page.replace("http-equiv", "")


def test_what_is_still_to_be_done_is_listed() -> None:
    failed = {"channel": "status page lifeboat_status", "phase": "identified"}
    todo = follow_ups(
        story(
            entry(
                20, NOTIFY, Outcome.FAILED, "NOT told through status page: it answered with status 500.", facts=failed
            ),
            entry(21, "migrate", Outcome.FAILED, "A migration failed; platform.yaml says to go on."),
        )
    )

    assert todo == (
        "NOT told through status page: it answered with status 500.",
        "The copy of receivables/daily/20261124T020000Z-0a1b2c3d in s3 is of no use: a byte is wrong. "
        "`lifeboat replicate --all`.",
        "A newer snapshot of receivables was passed over: receivables/daily/20261124T030000Z-00000000: "
        "no copy of it is whole",
        f"{UPLOADS.snapshot} was never proven: `lifeboat prove uploads` makes sure of the next one.",
        "What was live of receivables is kept as sme_platform_db_replaced: once nobody needs it, "
        "`lifeboat release sme_platform_db_replaced --drop-it sme_platform_db_replaced`.",
        "uploads: 2 files named by a row and missing (such as a.pdf, b.pdf). Decide what becomes of them.",
        "The step migrate has failed: A migration failed; platform.yaml says to go on.",
    )


def test_what_was_dropped_is_kept_no_longer() -> None:
    dropped = entry(
        51, "drop what was replaced", Outcome.DONE, "", facts={"notes": ["'sme_platform_db_replaced' was dropped."]}
    )

    assert not any("lifeboat release" in text for text in follow_ups(story(dropped)))


def test_what_waits_is_said_not_to_be_in_its_place() -> None:
    told = replace(story(), restored=(replace(DATABASE, waiting="sme_platform_db_ready_1"),))

    assert any("is not in its place" in text for text in follow_ups(told))
    assert "sme_platform_db_ready_1, beside sme_platform_db" in markdown_report(told, WELL).replace("\\", "")


def test_a_step_that_failed_and_was_done_again_is_no_follow_up() -> None:
    failed = entry(10, "restore", Outcome.FAILED, "No room.", source="receivables")

    assert not any("No room" in text for text in follow_ups(story(failed)))
    assert "No room." in markdown_report(story(failed), WELL)


def test_objectives_that_were_missed_are_said_to_be() -> None:
    told = story(objectives=Objectives(rto_hours=0.5, rpo_hours=4))

    text = markdown_report(told, WELL)
    assert "| 30 min | 50 min | MISSED |" in text
    assert "| 4 h | 5 h | MISSED |" in text
    assert "The time objective of 30 min was missed by 20 min: find out what took it." in follow_ups(told)
    assert '<td class="bad">MISSED</td>' in html_report(told, WELL)


def test_data_of_sources_that_were_left_alone_is_not_lost() -> None:
    only_files = replace(story(), restored=(UPLOADS,))

    assert only_files.lost_seconds == 4 * 3600


def test_a_platform_that_is_not_well_is_not_back() -> None:
    bad = replace(VERIFIED, well=False, checks=(CheckResult("log in", False, 0.4, "status 0", "status 1"),))
    told = story(
        entry(55, "verify", Outcome.FAILED, "It is not well.", facts={"verified": bad.record()}),
        entry(56, END, Outcome.FAILED, "Smoke tests failed; it was undone."),
        ended=False,
    )

    assert told.back is None
    text = markdown_report(told, WELL)
    assert "**The platform was NOT found well. Smoke tests failed; it was undone.**" in text
    assert "| not achieved | MISSED |" in text
    assert "A check failed. log in: expected status 0, found status 1." in follow_ups(told)


def test_an_incident_that_goes_on_is_said_to() -> None:
    told = story_of("SME", Objectives(), "20261124T101500Z-0a1b2c3d", [begin()])

    assert "**It is not over yet.**" in markdown_report(told, WELL)


def test_a_practice_is_timed_from_its_own_beginning() -> None:
    told = story(request=replace(REQUEST, mode=Mode.PRACTICE))

    assert told.taken_seconds == 48 * 60
    assert "# Practice of a recovery: " in markdown_report(told, WELL)
    assert "**The practice held, 48 min after it began" in markdown_report(told, WELL)


def test_an_assessment_has_no_objectives_to_meet() -> None:
    request = replace(REQUEST, mode=Mode.ASSESS)
    told = story_of("SME", Objectives(), "x", [begin(request), *assessed(), entry(4, END, Outcome.DONE, "Looked at.")])

    text = markdown_report(told, WELL)
    assert "Nothing was changed" in text
    assert "Objectives" not in text
    assert "The server does not answer." in text


def test_a_status_page_left_behind_is_a_follow_up() -> None:
    facts = {"channel": "status page lifeboat_status", "phase": "monitoring"}
    told = story(entry(45, NOTIFY, Outcome.DONE, "Told.", facts=facts))

    assert "The status page still says 'monitoring': correct it by hand." in follow_ups(told)


def test_a_journal_that_makes_no_sense_still_makes_a_report() -> None:
    odd = {"request": 1, "assessment": {"made": "x"}, "restored": [3, {}], "verified": "yes", "channel": None}
    told = story_of("SME", Objectives(), "x", [entry(1, "odd", Outcome.DONE, "?", facts=odd)])

    assert "| odd |" in markdown_report(told, WELL)


def test_no_journal_at_all_still_makes_a_report() -> None:
    assert "It is not over yet." in markdown_report(story_of("SME", Objectives(), "x", []), WELL)


def test_the_report_is_kept_beside_the_journal(world: World) -> None:
    text, page = store_incident_report(world.vault, story(), WELL)

    assert text.startswith(f"reports/{WELL:%Y%m%dT%H%M%SZ}-incident-20261124T101500Z-0a1b2c3d-")
    assert b"".join(world.repository.get(text)).decode() == markdown_report(story(), WELL)
    assert b"".join(world.repository.get(page)).decode() == html_report(story(), WELL)


def test_a_report_that_no_repository_takes_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RepositoryError("no room")

    monkeypatch.setattr(world.repository, "put", full)

    with pytest.raises(RepositoryError, match="no room"):
        store_incident_report(world.vault, story(), WELL)


def test_nothing_secret_is_in_the_report(world: World) -> None:
    leak = "postgres://sme:hunter2-of-database@db/x and ERROR:  invalid\nDETAIL:  Key (iban)=(DE89370400440532013000)"
    case = world.case()
    told = story(
        entry(5, "restore", Outcome.FAILED, leak),
        entry(6, "approve", Outcome.ANSWERED, leak, facts={"who": "hunter2-of-database", "answer": leak}),
        request=replace(REQUEST, title=leak, reason=leak),
        mask=mask_of(case.means.platform, case.means.lookup),
    )

    text, page = markdown_report(told, WELL), html_report(told, WELL)
    assert "hunter2" not in text + page
    assert "DE89370400440532013000" not in text.partition("What happened when")[2]


def test_what_stands_in_a_page_is_no_markup() -> None:
    told = story(
        entry(21, "migrate", Outcome.FAILED, "It said `<script>alert(2)</script>`."),
        request=replace(REQUEST, title="<script>alert(1)</script>"),
    )

    assert "<script>" not in html_report(told, WELL)


# ---- stories --------------------------------------------------------------------------------------------------------


def story(
    *more: Entry,
    request: Request = REQUEST,
    objectives: Objectives = Objectives(),  # noqa: B008 - it is frozen
    ended: bool = True,
    **others: object,
) -> Story:
    """A recovery that went well in 50 minutes, with more entries in it."""
    both = [DATABASE.record(), UPLOADS.record()]
    entries = [
        begin(request),
        *assessed(),
        entry(6, "approve", Outcome.ASKED, "Shall it go on?"),
        entry(9, "approve", Outcome.ANSWERED, "Go on.", facts={"who": "maria", "answer": "proceed"}),
        entry(40, "restore", Outcome.DONE, "It is restored.", "receivables", {"restored": DATABASE.record()}),
        entry(45, "put in place", Outcome.DONE, "All is in place.", facts={"restored": both}),
        entry(50, "verify", Outcome.DONE, "It is well.", facts={"verified": VERIFIED.record()}),
        *([entry(51, END, Outcome.DONE, "It is back.")] if ended else []),
        *more,
    ]
    made = story_of("SME", objectives, "20261124T101500Z-0a1b2c3d", sorted(entries, key=lambda e: e.at))
    return replace(made, **others)  # type: ignore[arg-type]


def begin(request: Request = REQUEST) -> Entry:
    return entry(2, BEGIN, Outcome.BEGUN, request.title, facts={"request": request.record(), "by": "maria"})


def assessed(assessment: Assessment = ASSESSMENT) -> list[Entry]:
    return [entry(3, "assess", Outcome.DONE, "All is lost.", facts={"assessment": assessment.record()})]


def entry(
    minutes: int, step: str, outcome: Outcome, words: str, source: str = "", facts: dict[str, object] | None = None
) -> Entry:
    at: datetime = BEGAN + timedelta(minutes=minutes)
    return Entry(at, step, outcome, words, source, facts or {})
