"""Status pages: telling users how the platform is, through Statuspage's API or to whatever takes a document by POST."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from lifeboat.connections import Connection
from lifeboat.notify.asking import ask, headers_of, not_taken, url_of
from lifeboat.recovery.model import Phase

SEARCHED = 5
"""How many pages of incidents, a hundred each and the newest first, are searched for one of ours."""


@dataclass(frozen=True)
class StatusPage:
    """A page, through a connection of type `http`: its host, and the token as its password.

    Of kind `statuspage`, the host is what comes before `/v1/pages/`, such as https://api.statuspage.io, and `page` the
    page's id. Of kind `webhook`, it is where the document goes.
    """

    connection: Connection
    kind: Literal["statuspage", "webhook"]
    page: str = ""

    @property
    def name(self) -> str:
        """What it is called in messages and records."""
        return self.connection.conn_id


@dataclass(frozen=True)
class Update:
    """What a status page is to say of an incident from now on. `incident` finds it again, and is not shown."""

    incident: str
    title: str
    phase: Phase
    text: str
    at: datetime


def update(page: StatusPage, update: Update) -> None:
    """Say it there; may be repeated, and says it once. Raises `NotTaken`, `SettingsError`."""
    _KINDS[page.kind](page, update)


def check(page: StatusPage) -> bool:
    """Ask whether it would take an update, and change nothing; False where that cannot be asked, as of a webhook.

    Raises `NotTaken`, `SettingsError`.
    """
    if page.kind == "webhook":
        url_of(page.connection)
        return False
    next(_incidents(page), None)
    return True


# ---- Atlassian Statuspage, and what speaks its API (https://developer.statuspage.io) --------------------------------


def _update_statuspage(page: StatusPage, update: Update) -> None:
    known = _known(page, update)
    said = {"status": str(update.phase), "body": update.text}
    if known is None:
        new = said | {"name": update.title, "metadata": {"lifeboat": {"incident": update.incident}}}
        _ask(page, "POST", "incidents", new)
        return
    # What was said and whose answer was lost is not said again; a phase that comes back is.
    before = [{key: entry.get(key) for key in said} for entry in known.get("incident_updates") or ()]
    if known.get("status") != str(update.phase) or said not in before:
        _ask(page, "PATCH", f"incidents/{known['id']}", said)


def _known(page: StatusPage, update: Update) -> Mapping[str, Any] | None:
    """The incident that carries our mark; else one still open that a person has made, with the very same title."""
    by_hand = None
    for incident in _incidents(page):
        mark = (incident.get("metadata") or {}).get("lifeboat") or {}
        if mark.get("incident") == update.incident:
            return incident
        if not mark and incident.get("name") == update.title and incident.get("status") in _OPEN:
            by_hand = by_hand or incident
    return by_hand


def _incidents(page: StatusPage) -> Iterator[Mapping[str, Any]]:
    for number in range(1, SEARCHED + 1):
        found = _ask(page, "GET", f"incidents?limit=100&page={number}")
        if not isinstance(found, list) or not all(
            isinstance(incident, dict) and "id" in incident for incident in found
        ):
            raise not_taken(page.name, page.connection, "its answer is not Statuspage's", permanent=True)
        yield from found
        if len(found) < 100:
            return


def _ask(page: StatusPage, method: str, path: str, incident: Mapping[str, Any] | None = None) -> Any:
    url = f"{url_of(page.connection).rstrip('/').removesuffix('/v1')}/v1/pages/{page.page}/{path}"
    headers = {"Content-Type": "application/json", **headers_of(page.connection, "OAuth")}
    body = None if incident is None else json.dumps({"incident": incident}, ensure_ascii=False).encode()
    answer = ask(page.name, page.connection, url, method=method, headers=headers, body=body, whole=True)
    if method != "GET":
        return None
    try:
        return json.loads(answer)
    except ValueError:
        raise not_taken(page.name, page.connection, "its answer is not Statuspage's", permanent=True) from None


# ---- whatever takes a document --------------------------------------------------------------------------------------


def _update_webhook(page: StatusPage, update: Update) -> None:
    document = {
        "incident": update.incident,
        "title": update.title,
        "phase": str(update.phase),
        "text": update.text,
        "at": update.at.isoformat(),
    }
    key = hashlib.sha256(repr((update.incident, str(update.phase), update.text)).encode()).hexdigest()[:32]
    headers = {"Content-Type": "application/json", "Idempotency-Key": key, **headers_of(page.connection)}
    body = json.dumps(document, ensure_ascii=False).encode()
    ask(page.name, page.connection, url_of(page.connection), headers=headers, body=body)


_KINDS = {"statuspage": _update_statuspage, "webhook": _update_webhook}
_OPEN = frozenset(str(phase) for phase in Phase if phase is not Phase.RESOLVED)
