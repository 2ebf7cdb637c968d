"""Who tells of what, decided in one process; tests/live has all of it in a running Airflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.sdk.exceptions import AirflowTaskTimeout

from lifeboat.errors import SourceUnavailable
from lifeboat.notify.alert import Trouble
from lifeboat_airflow import audit, listener, notifier, run_events
from lifeboat_airflow.notifier import Failure, to_tell
from tests.receivers import MailServer, mail_server

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
PLATFORM = """\
platform: small
recipients: [operations, escrow]
repositories:
  - {name: local, url: "file:///tmp/nothing"}
sources:
  files:
    - {name: uploads, path: /tmp/nothing}
notify:
  email: {connection: lifeboat_smtp, to: [ops@sme.example]}
"""


def failure(index: int, after: float = 0, told: tuple[str, ...] = (), message: str = "") -> Failure:
    return Failure(Trouble("prove", "down", map_index=index), NOON + timedelta(seconds=after), told, message)


def test_the_first_of_those_that_fail_together_tells_of_all_and_the_others_are_quiet() -> None:
    together = [failure(2, 0.5), failure(0, 1), failure(1, 0.25)]

    tellers = {mine.place: to_tell(mine, together) for mine in together}

    assert [f.trouble.map_index for f in tellers["prove", 1, 1]] == [0, 1, 2]
    assert tellers["prove", 0, 1] == tellers["prove", 2, 1] == []


def test_the_order_is_decided_even_at_the_same_moment() -> None:
    together = [failure(1), failure(0)]

    assert to_tell(failure(1), together) == []
    assert len(to_tell(failure(0), together)) == 2


def test_what_was_told_is_not_told_again_by_one_that_fails_later() -> None:
    mine = failure(1, 30)

    assert to_tell(mine, [failure(0, told=("email",)), mine]) == [mine]


def test_one_that_should_have_told_and_did_not_is_told_by_the_next() -> None:
    killed, mine = failure(0), failure(1, 600)

    assert to_tell(mine, [killed, mine]) == [killed, mine]


def test_after_two_messages_about_a_run_the_others_are_gathered() -> None:
    mine = failure(5, 60)
    told = [failure(0, told=("email",), message="first"), failure(1, told=("email",), message="first")]

    assert to_tell(mine, [*told, mine]) == [mine]
    assert to_tell(mine, [*told, failure(2, 30, ("email",), "second"), mine]) == []


def test_a_failure_is_the_same_after_it_was_an_xcom() -> None:
    told = replace(failure(3), told=("email", "hook"), message="key")

    assert Failure.of_xcom(json.loads(json.dumps(told.as_xcom()))) == told


def test_the_words_are_those_of_the_core_where_it_was_the_core_that_failed() -> None:
    core = SourceUnavailable("orders does not answer.", hint="Wait.")
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = core

    assert notifier._words(wrapped, None) == ("orders does not answer.", "Wait.")
    assert notifier._words(ValueError("odd"), None) == ("ValueError: odd", "")
    assert "longer than the 6:00:00" in notifier._words(AirflowTaskTimeout(), timedelta(hours=6))[0]


@pytest.fixture
def mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, airflow_db: None) -> Iterator[MailServer]:
    (tmp_path / "platform.yaml").write_text(PLATFORM)
    monkeypatch.setenv("LIFEBOAT_PLATFORM", str(tmp_path / "platform.yaml"))
    monkeypatch.setattr(notifier, "GATHER", 0.0)
    monkeypatch.setattr(listener, "_write", lambda _: None)  # nobody is beside a scheduler that is not there
    with mail_server() as server:
        monkeypatch.setenv("AIRFLOW_CONN_LIFEBOAT_SMTP", json.dumps(server.connection))
        yield server


def failed_run(folder: Path) -> Any:
    """A run whose only task has failed and told."""
    file = folder / "failing.py"
    file.write_text(
        """\
from airflow.sdk import DAG, task
from lifeboat_airflow.defaults import DAG_ARGS

with DAG("failing", schedule=None, tags=["lifeboat"], doc_md="**If this fails**\\n\\n* `fail`: breathe.", **DAG_ARGS):

    @task(retries=0)
    def fail():
        raise ValueError("broken by the test")

    fail()
"""
    )
    bag = DagBag(dag_folder=str(file), bundle_path=folder, bundle_name="testing")
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, "testing", None)
    run = bag.dags["failing"].test()
    assert run.state == "failed"
    return run


@pytest.mark.slow
def test_a_run_that_made_many_messages_makes_no_more_for_a_while(
    mail: MailServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail.answer = "554 never"
    monkeypatch.setattr(run_events, "MANY", 1)
    run = failed_run(tmp_path)
    assert not run_events._gathering(run.dag_id, run.run_id)

    assert len(entered(run)) == 1

    assert run_events._gathering(run.dag_id, run.run_id)
    monkeypatch.setattr(run_events, "PAUSE", timedelta(0))
    assert not run_events._gathering(run.dag_id, run.run_id)


def entered(run: Any) -> list[run_events.Telling]:
    return [telling for telling, _ in run_events.enter_run("small", run.dag_id, run.run_id, ["email"])]


def test_what_a_task_has_told_is_not_told_again_at_the_end_of_its_run(mail: MailServer, tmp_path: Path) -> None:
    run = failed_run(tmp_path)

    [got] = mail.mails
    assert got["Subject"] == "FAILED: failing: fail"
    assert "If this fails: breathe." in got.get_body(("plain",)).get_content()
    assert entered(run) == []


def test_what_a_task_could_not_tell_is_told_at_the_end_of_its_run_once(
    mail: MailServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail.answer = "554 never"
    run = failed_run(tmp_path)

    [telling] = entered(run)
    again = entered(run)

    assert mail.mails == []
    assert telling.channels == ("email",)
    assert telling.alert.troubles[0].cause == "ValueError: broken by the test"
    assert again == []
    monkeypatch.setattr(audit, "STALE", timedelta(0))
    assert len(entered(run)) == 1  # whoever was to tell it was killed: twice is better than never


def test_what_cannot_be_told_now_is_told_at_the_next_look(
    mail: MailServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail.answer = "554 never"
    run = failed_run(tmp_path)
    mail.answer = "250 OK"
    for name, value in (("TAKING", timedelta(0)), ("POLL", 0.0)):
        monkeypatch.setattr(run_events, name, value)
    teller, file = run_events.Teller(), tmp_path / "platform.yaml"

    file.write_text("platform: [broken")
    teller.look()
    teller.finish()
    assert mail.mails == []
    file.write_text(PLATFORM)
    teller.look()
    teller.look()
    teller.finish()

    told = [got for got in mail.mails if run.run_id in got.get_body(("plain",)).get_content()]
    assert [got["Subject"] for got in told] == ["FAILED: failing: fail"]


def test_what_was_heard_of_is_waited_for_no_longer_than_it_may_take_also_without_a_database(
    mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise OSError("the database is away")

    monkeypatch.setattr(run_events, "create_session", away)
    monkeypatch.setattr(run_events, "COMMITTED", 0.0)
    teller = run_events.Teller()
    teller.hear(b'{"state": "failed", "dag": "failing", "run": "of the test", "reason": ""}')

    with pytest.raises(OSError, match="away"):
        teller.look()

    assert teller.heard == {}


def test_a_failure_that_is_being_told_is_left_to_who_tells_it(
    mail: MailServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail.answer = "554 never"
    run = failed_run(tmp_path)

    assert not run_events._all_said(run.dag_id, run.run_id)
    monkeypatch.setattr(run_events, "TAKING", timedelta(0))
    assert run_events._all_said(run.dag_id, run.run_id)
