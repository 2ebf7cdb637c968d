"""People are told of an incident, each phase once; what is not taken blocks nothing, and is told later."""

from __future__ import annotations

import re
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from demo.storage import LOOPBACK, free_ports
from lifeboat.errors import SettingsError
from lifeboat.recovery import stakeholders
from lifeboat.recovery.model import Mode, Outcome, Phase
from lifeboat.recovery.stakeholders import (
    NOTIFY,
    TEMPLATES,
    check_notices,
    deliver_report,
    tell,
    undelivered,
)
from lifeboat.recovery.steps import Case
from tests.receivers import MailServer, StatusPageServer, WebServer
from tests.recovery.worlds import ASSESSMENT, SNAPSHOT_BEGAN, World

USED = r"[1-3] h( \d+ min)? of 4 h used"
"""70 minutes and what the tests before have taken: the incident began that long before they did."""

EVERYBODY = {"status page lifeboat_status", "mail to users", "email", "lifeboat_chat", "lifeboat_webhook"}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stakeholders, "PAUSE", 0.05)


def test_everybody_is_told_in_words_of_their_own(
    world: World, mail: MailServer, web: WebServer, status: StatusPageServer
) -> None:
    missing = tell(
        world.case(),
        Phase.IDENTIFIED,
        assessment=ASSESSMENT,
        left_seconds=1800,
        notes=["Maria has approved it."],
        page="https://airflow.example/lifeboat/incidents/x",
    )

    assert missing == ()
    operations, users = sorted(mail.mails, key=lambda m: "ops" not in m["X-To"])
    assert operations["Subject"] == "Incident: The server room is under water: identified"
    text = operations.get_body(("plain",)).get_content()
    assert "Maria has approved it." in text
    assert re.search(rf"{USED}, \d h( \d+ min)? left, done at about", text)
    assert "Data lost: at most 5 h." in text
    assert "https://airflow.example/lifeboat/incidents/x" in text
    assert users["Subject"].strip() == "SME Receivable Platform is not available: The server room is under water"
    assert f"{SNAPSHOT_BEGAN:%d %B %Y, %H:%M} UTC will be there" in users.get_body(("plain",)).get_content()
    assert "not been available" in users.get_body(("html",)).get_content()
    [incident] = status.incidents
    assert incident["status"] == "identified"
    assert "restoring SME Receivable Platform from its backups" in incident["incident_updates"][0]["body"]
    assert sorted(web.paths()) == ["/chat-secret-token", "/hook-secret-token"]


def test_users_do_not_see_each_other(world: World, mail: MailServer) -> None:
    tell(world.case(), Phase.RESOLVED)

    [users] = [m for m in mail.mails if "ada" in m["X-To"]]
    assert users["X-To"] == "ada@sme.example, bo@sme.example, cy@sme.example"
    assert "ada" not in users.as_string().replace(f"X-To: {users['X-To']}", "")


def test_many_users_get_their_mail_in_parts(world: World, mail: MailServer) -> None:
    many = tuple(f"user{n}@sme.example" for n in range(119))

    assert tell(world.case(tell=many), Phase.RESOLVED) == ()

    got = [m["X-To"].split(", ") for m in mail.mails if "ops" not in m["X-To"]]
    assert sorted(map(len, got)) == [21, 50, 50]
    assert len({address for some in got for address in some}) == 121


def test_users_get_mail_in_the_phases_they_are_to(world: World, mail: MailServer) -> None:
    for phase in Phase:
        tell(world.case(), phase)

    users = [m["Subject"] for m in mail.mails if "ops" not in m["X-To"]]
    assert len(users) == 2
    assert users[1] == "SME Receivable Platform is available again"
    assert len([m for m in mail.mails if "ops" in m["X-To"]]) == 4


def test_nobody_is_told_twice_when_a_task_is_cleared(
    world: World, mail: MailServer, web: WebServer, status: StatusPageServer
) -> None:
    tell(world.case(), Phase.IDENTIFIED)
    tell(world.case(), Phase.IDENTIFIED)

    assert (len(mail.mails), len(web.requests), len(status.incidents)) == (2, 2, 1)
    assert told(world.case()) == {(channel, "identified") for channel in EVERYBODY}


def test_in_practice_operations_alone_are_told(
    world: World, mail: MailServer, web: WebServer, status: StatusPageServer
) -> None:
    for phase in Phase:
        tell(world.case(mode=Mode.PRACTICE), phase)

    assert status.requests == []
    assert {m["X-To"] for m in mail.mails} == {"ops@sme.example"}
    assert mail.mails[0]["Subject"] == "Practice: The server room is under water: investigating"
    assert "nothing live is touched" in mail.mails[0].get_body(("plain",)).get_content()


def test_of_a_mere_assessment_nobody_is_told(world: World, mail: MailServer, status: StatusPageServer) -> None:
    assert tell(world.case(mode=Mode.ASSESS), Phase.INVESTIGATING) == ()

    assert (mail.mails, status.requests) == ([], [])


def test_a_platform_that_tells_nobody_is_no_trouble(world: World) -> None:
    assert tell(world.case(notify=""), Phase.RESOLVED) == ()


# ---- what is down ---------------------------------------------------------------------------------------------------


def test_with_every_channel_down_a_recovery_goes_on_and_the_journal_says_it(world: World) -> None:
    closed = free_ports(1)[0]
    for name in ("lifeboat_smtp", "lifeboat_webhook", "lifeboat_status"):
        host = LOOPBACK if name == "lifeboat_smtp" else f"http://{LOOPBACK}:{closed}/hook-secret-token"
        world.connections[name] = replace(world.connections[name], host=host, port=closed)
    chat = {"config": [{"path": f"json://{LOOPBACK}:{closed}/chat-secret-token"}]}
    world.connections["lifeboat_chat"] = replace(world.connections["lifeboat_chat"], extra=chat)
    began = time.monotonic()

    missing = tell(world.case(), Phase.IDENTIFIED)

    assert time.monotonic() - began < 10
    assert len(missing) == 5
    assert {channel for channel, _ in undelivered(world.case().journal.entries())} == EVERYBODY
    assert "secret" not in "".join([*missing, *world.said])
    assert sum("WARNING: NOT told through" in line for line in world.said) == 5


def test_what_was_not_taken_is_tried_again_with_the_next_phase(
    world: World, mail: MailServer, status: StatusPageServer
) -> None:
    mail.answer, status.status = "451 later", 500
    tell(world.case(), Phase.IDENTIFIED, assessment=ASSESSMENT)
    mail.answer, status.status = "250 OK", 200

    missing = tell(world.case(), Phase.MONITORING, assessment=ASSESSMENT)

    assert missing == ()
    # Users get no mail of this phase, and so the one they have missed.
    [users] = [m for m in mail.mails if "ada" in m["X-To"]]
    assert "is not available" in users["Subject"]
    # The others are told where things stand now, and operations what was missed.
    assert [incident["status"] for incident in status.incidents] == ["monitoring"]
    [operations] = [m for m in mail.mails if "ops" in m["X-To"]]
    assert operations["Subject"].endswith("monitoring")
    text = operations.get_body(("plain",)).get_content()
    assert "Not delivered so far: NOT told through status page lifeboat_status: identified." in text
    assert undelivered(world.case().journal.entries()) == {}


def test_what_is_never_taken_stays_in_the_journal(world: World, status: StatusPageServer) -> None:
    status.status = 401
    for phase in Phase:
        tell(world.case(), phase)

    left = undelivered(world.case().journal.entries())

    assert left.keys() == {("status page lifeboat_status", phase) for phase in Phase}
    assert all("it answered with status 401" in words for words in left.values())
    assert len(status.requests) == 4  # a refusal for good is asked once a phase


def test_a_channel_that_fails_once_is_tried_again_at_once(world: World, web: WebServer) -> None:
    web.statuses = [503]

    assert tell(world.case(), Phase.IDENTIFIED) == ()
    assert len(web.requests) == 3


def test_a_server_that_hangs_keeps_nobody_waiting(world: World, mail: MailServer) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        host = f"http://{LOOPBACK}:{silent.getsockname()[1]}"
        world.connections["lifeboat_status"] = replace(world.connections["lifeboat_status"], host=host)
        began = time.monotonic()
        missing = tell(world.case(), Phase.IDENTIFIED, within=1)

    assert time.monotonic() - began < 4
    assert missing == ("NOT told through status page lifeboat_status: identified. It was not done within 1 s.",)
    assert len(mail.mails) == 2


def test_a_slow_status_page_is_told_in_its_time(world: World, status: StatusPageServer) -> None:
    status.seconds = 0.5

    assert tell(world.case(), Phase.IDENTIFIED) == ()
    assert len(status.incidents) == 1


def test_connections_that_are_missing_are_told_and_block_nothing(world: World, mail: MailServer) -> None:
    del world.connections["lifeboat_status"]
    del world.connections["lifeboat_chat"]

    missing = tell(world.case(), Phase.IDENTIFIED)

    assert len(missing) == 2
    assert all("which does not exist" in words for words in missing)
    assert len(mail.mails) == 2


def test_whatever_goes_wrong_is_never_raised(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(stakeholders, "channels_of", broken)

    [words] = tell(world.case(), Phase.IDENTIFIED)

    assert words == "Nobody could be told of the phase identified: RuntimeError."
    assert undelivered(world.case().journal.entries()) != {}


def test_a_journal_that_cannot_be_written_keeps_nobody_from_being_told(
    world: World, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = world.case()
    monkeypatch.setattr(world.repository, "put", _full)

    assert tell(case, Phase.IDENTIFIED) == ()
    assert len(mail.mails) == 2


def _full(*_: object, **__: object) -> None:
    from lifeboat.errors import RepositoryFull

    raise RepositoryFull("no room")


# ---- templates ------------------------------------------------------------------------------------------------------

BAD = {
    "a wrong name": "{{ incident.titel }}",
    "a wrong sum": "{{ incident.title - 1 }}",
    "an open block": "{% if incident.title %}",
    "nothing said": "{# later #}",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_template_that_was_edited_badly_is_replaced_by_plain_words(
    world: World, mail: MailServer, status: StatusPageServer, tmp_path: Path, text: str
) -> None:
    folder = Path(shutil.copytree(TEMPLATES, tmp_path / "templates"))
    for template in folder.glob("*"):
        template.write_text(text, "utf-8")

    missing = tell(world.case(), Phase.IDENTIFIED, assessment=ASSESSMENT, templates=folder)

    assert missing == ()
    assert status.incidents[0]["incident_updates"][0]["body"] == "SME Receivable Platform: identified"
    operations, users = sorted(mail.mails, key=lambda m: "ops" not in m["X-To"])
    assert re.search(f"The server room is under water. {USED}", operations.get_body(("plain",)).get_content())
    assert users.get_content().strip() == "SME Receivable Platform: The server room is under water (identified)"
    # Users are not told of our troubles; whoever reads the journal is.
    faults = [e for e in world.case().journal.entries() if "template" in e.facts]
    assert len(faults) == 5
    assert all(e.outcome is Outcome.FAILED and "cannot be used, plain words went out" in e.words for e in faults)


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_templates_can_be_tried_before_the_day(tmp_path: Path, text: str) -> None:
    check_notices()
    folder = Path(shutil.copytree(TEMPLATES, tmp_path / "templates"))
    (folder / "users.txt.jinja").write_text(text, "utf-8")

    with pytest.raises(SettingsError, match=r"users\.txt\.jinja: "):
        check_notices(folder)


def test_templates_that_are_missing_keep_nobody_from_being_told(world: World, tmp_path: Path) -> None:
    assert tell(world.case(), Phase.RESOLVED, templates=tmp_path / "nowhere") == ()


@pytest.mark.parametrize("phase", Phase)
def test_every_template_says_something_without_an_assessment(world: World, phase: Phase) -> None:
    tell(world.case(), phase)

    assert [e.words for e in world.case().journal.entries() if e.outcome is Outcome.FAILED] == []


# ---- secrets --------------------------------------------------------------------------------------------------------


def test_secrets_that_people_wrote_into_the_form_reach_nobody(
    world: World, mail: MailServer, web: WebServer, status: StatusPageServer
) -> None:
    leak = "psql postgres://sme:hunter2-of-database@db/x status-token-secret"
    tell(world.case(title=f"Lost {leak}", reason=leak), Phase.IDENTIFIED, notes=[leak])

    everything = "".join(
        [*(m.as_string() for m in mail.mails), *(r.body.decode() for r in web.requests), str(status.incidents)]
    )
    assert "***" in everything
    assert not re.search("hunter2|token-secret", everything)


# ---- the report -----------------------------------------------------------------------------------------------------


def test_a_report_is_mailed_to_operations(world: World, mail: MailServer, web: WebServer) -> None:
    assert deliver_report(world.case(), "Incident report: water", "# It is back\n", "<h1>It is back</h1>") == ()

    [got] = mail.mails
    assert (got["Subject"], got["X-To"]) == ("Incident report: water", "ops@sme.example")
    assert "It is back" in got.get_body(("html",)).get_content()
    assert web.requests == []


def test_a_report_that_is_not_taken_is_said(world: World, mail: MailServer) -> None:
    mail.answer = "554 never"

    [words] = deliver_report(world.case(), "Incident report: water", "text", "")

    assert "NOT told through email: report." in words
    assert undelivered(world.case().journal.entries()).keys() == {("email", "report")}


def told(case: Case) -> set[tuple[str, str]]:
    done = [e for e in case.journal.entries() if e.step == NOTIFY and e.outcome is Outcome.DONE]
    assert len(done) == len({(e.facts["channel"], e.facts["phase"]) for e in done})
    return {(e.facts["channel"], e.facts["phase"]) for e in done}
