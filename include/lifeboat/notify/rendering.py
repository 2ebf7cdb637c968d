"""Alerts as text, from the templates in `include/templates/alerts`, which are there to be edited."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError, select_autoescape

from lifeboat.errors import SettingsError
from lifeboat.notify.alert import Alert

TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "alerts"


@dataclass(frozen=True)
class Message:
    """An alert, and what the templates make of it: for mail as text and HTML, and short for chat."""

    alert: Alert
    text: str
    html: str
    chat: str

    @property
    def subject(self) -> str:
        """One line."""
        return " ".join(self.alert.subject.split())


def render(alert: Alert, folder: Path = TEMPLATES) -> Message:
    """The alert as messages. A template that was edited badly is replaced by plain words, and the reason is in them."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(["html", "html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def of(name: str) -> str:
        return environment.get_template(name).render(alert=alert).strip() + "\n"

    try:
        return Message(alert, text=of("email.txt.jinja"), html=of("email.html.jinja"), chat=of("chat.txt.jinja"))
    except (TemplateError, OSError) as error:
        # An alert that is ugly is worth more than one that is not sent.
        plain = f"{_plain(alert)}\n\n(A template in {folder} cannot be used: {type(error).__name__}: {error})\n"
        return Message(alert, text=plain, html="", chat=plain)


def check_templates(alert: Alert, folder: Path = TEMPLATES) -> None:
    """Raise `SettingsError` when a template cannot be used."""
    message = render(alert, folder)
    if not message.html:
        raise SettingsError(message.text.strip().rpartition("\n")[2].strip("()"), hint="Correct it, or take it back.")


def _plain(alert: Alert) -> str:
    lines = [alert.subject, *alert.notes]
    for trouble in alert.troubles:
        lines += [f"{trouble.task} {trouble.source}: {trouble.cause}", trouble.hint, trouble.remedy, trouble.log_url]
    return "\n".join(line for line in lines if line)
