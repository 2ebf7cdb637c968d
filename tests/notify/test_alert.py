"""What people are told."""

from __future__ import annotations

import ast
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lifeboat.notify.alert import Alert, Event, Trouble, if_this_fails, mask_all, mask_urls
from lifeboat.notify.rendering import TEMPLATES, render

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAGS = Path(__file__).resolve().parents[2] / "dags"

DOC = """
### A DAG

* `back_up`: what it does.

**If this fails**

* `preflight`: nothing was begun. Remove
  the obstacles: they are in the log.
* `back_up`, `verify`: look `here`.

As long as it is so, all is well.
"""


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("database.preflight", "nothing was begun. Remove the obstacles: they are in the log."),
        ("back_up", "look `here`."),
        ("verify", "look `here`."),
        ("here", ""),
        ("unheard_of", ""),
    ],
)
def test_the_runbook_of_a_task_is_found_in_the_documentation_of_its_dag(task: str, text: str) -> None:
    assert if_this_fails(DOC, task) == text


def test_documentation_without_such_a_section_says_nothing() -> None:
    assert if_this_fails("* `back_up`: does it", "back_up") == ""
    assert if_this_fails(None, "back_up") == ""


@pytest.mark.parametrize("file", sorted(DAGS.glob("*.py")), ids=lambda file: file.stem)
def test_every_dag_of_the_project_has_a_text_that_can_be_found(file: Path) -> None:
    keywords = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.keyword)]
    [written] = [keyword.value for keyword in keywords if keyword.arg == "doc_md"]
    doc = "".join(part.value for part in ast.walk(written) if isinstance(part, ast.Constant))

    named = [
        part for line in doc.splitlines() if line.startswith("* `") for part in line.split(":")[0].split("`")[1::2]
    ]
    assert named
    assert all(if_this_fails(doc, task) for task in named)


def test_the_same_event_has_the_same_key_whoever_tells_it_and_whenever(alert: Alert) -> None:
    again = replace(alert, at=alert.at.replace(minute=50), notes=(), page="elsewhere")

    assert again.key == alert.key


@pytest.mark.parametrize("other", ["event", "run", "attempt", "map_index"])
def test_another_event_has_another_key(alert: Alert, other: str) -> None:
    [trouble] = alert.troubles
    changed = {
        "event": replace(alert, event=Event.LATE),
        "run": replace(alert, run="manual"),
        "attempt": replace(alert, troubles=(replace(trouble, attempt=5),)),
        "map_index": replace(alert, troubles=(replace(trouble, map_index=1),)),
    }

    assert changed[other].key != alert.key


def test_secrets_are_masked_in_every_text(alert: Alert) -> None:
    [trouble] = alert.troubles
    leaky = replace(
        alert,
        notes=("hunter22 it is",),
        troubles=(replace(trouble, cause="postgres://sme:p%40ss@db/x", hint="not hunter22, abc"),),
    )

    message = render(leaky.masked(mask_all(["hunter22", "abc", ""])))

    for text in (message.text, message.html, message.chat, str(message.alert.record())):
        assert "hunter22" not in text
        assert "p%40ss" not in text
        assert "postgres://***@db/x" in text
    assert "abc" in message.text
    assert mask_urls("see https://host/a@b") == "see https://host/a@b"


def test_a_message_says_all_that_is_needed_at_night(alert: Alert) -> None:
    message = render(alert)

    assert message.subject == "FAILED: nightly_database_backup: database.back_up of receivables"
    for text in (message.text, message.html.replace("&lt;", "<").replace("&gt;", ">"), message.chat):
        for part in ("receivables does not answer: <connection refused>.", "Look whether it runs.", alert.notes[0]):
            assert part in text
        assert "If this fails" in text
        assert "https://airflow.example/log" in text
    assert "<connection" not in message.html
    assert "scheduled__2026-11-24T02:00:00+00:00" in message.text


@pytest.mark.parametrize("event", Event)
def test_every_event_has_a_subject_and_can_be_rendered_without_details(alert: Alert, event: Event) -> None:
    message = render(Alert(event, alert.platform, alert.at))

    assert "SME Receivable Platform" in message.subject
    assert message.html


def test_what_never_began_names_its_dag_and_no_run() -> None:
    message = render(Alert(Event.LATE, "small", NOON, dag="nightly", notes=("No run was made.\nIt is paused.",)))

    assert message.subject == "LATE: nightly has not run"
    assert message.text.endswith("No run was made.\nIt is paused.\n\nDAG: nightly\n")
    assert "<code>nightly</code></p>" in message.html


def test_many_failed_tasks_make_a_short_subject(alert: Alert) -> None:
    troubles = tuple(Trouble("database.back_up", "down", source=name) for name in ("a", "b", "c"))

    subject = replace(alert, troubles=troubles).subject

    assert subject == "FAILED: nightly_database_backup: database.back_up of a and 2 more tasks"


@pytest.mark.parametrize("text", ["{{ alert.nonsense }}", "{% if", None], ids=["unknown", "unclosed", "missing"])
def test_a_template_edited_badly_does_not_keep_an_alert_back(alert: Alert, tmp_path: Path, text: str | None) -> None:
    for template in TEMPLATES.iterdir():
        (tmp_path / template.name).write_text(template.read_text())
    if text is None:
        (tmp_path / "chat.txt.jinja").unlink()
    else:
        (tmp_path / "chat.txt.jinja").write_text(text)

    message = render(alert, tmp_path)

    assert "receivables does not answer" in message.text
    assert "receivables does not answer" in message.chat
    assert str(tmp_path) in message.text
