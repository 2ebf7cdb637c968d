"""Pages in Airflow's UI, for who is logged in there: snapshots, their health and incidents as storage has them now."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI
from fastapi import Path as PathParameter
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lifeboat.assembly import policy_of
from lifeboat.errors import LifeboatError, SettingsError, SnapshotNotFound
from lifeboat.health import vault_health
from lifeboat.progress import count_text, duration_text, size_text
from lifeboat.recovery.assessment_text import HEADINGS, assessment_rows
from lifeboat.recovery.clock import Clock, span_text
from lifeboat.recovery.incident_report import follow_ups, holds_text, story_of, who_of
from lifeboat.recovery.journal import Journal, find_incident, incidents
from lifeboat.recovery.masking import mask_of
from lifeboat.recovery.stakeholders import NOTIFY
from lifeboat_airflow.hooks import VaultHook
from lifeboat_airflow.records import find_snapshot, read_report

app = FastAPI(title="Lifeboat", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(get_user)])


@app.get("/snapshots", response_class=HTMLResponse)
def snapshots() -> str:
    """Every snapshot, newest first, and what could not be read."""
    vault = VaultHook().open(reading=True)
    listing = vault.list()
    newest_first = sorted(listing.snapshots, key=lambda snapshot: snapshot.age, reverse=True)
    repositories = [member.name for member in vault.members]
    return _page("snapshots.html", snapshots=newest_first, problems=listing.problems, repositories=repositories)


@app.get("/snapshots/{source}/{tier}/{snapshot_id}", response_class=HTMLResponse)
def snapshot(source: str, tier: str, snapshot_id: str) -> str:
    """One snapshot: its artifacts, and what its source said of itself."""
    vault = VaultHook().open(reading=True)
    found = find_snapshot(vault, f"{source}/{tier}/{snapshot_id}")
    lacking = [member.name for member in vault.members if member.name not in found.repositories]
    facts = json.dumps(found.manifest.facts, indent=2, ensure_ascii=False)
    return _page("snapshot.html", snapshot=found, manifest=found.manifest, lacking=lacking, facts=facts)


@app.get("/health", response_class=HTMLResponse)
def health() -> str:
    """Every copy of every snapshot, and whether what is promised holds."""
    hook = VaultHook()
    found = vault_health(hook.open(reading=True), policy_of(hook.platform), now=datetime.now(UTC))
    lacking = [(source, texts) for source, texts in found.lacking.items() if texts]
    return _page("health.html", health=found, lacking=lacking)


@app.get("/incidents", response_class=HTMLResponse)
def all_incidents() -> str:
    """Every incident and practice, newest first."""
    hook = VaultHook()
    mask = mask_of(hook.platform, hook.lookup)
    return _page("incidents.html", incidents=incidents(hook.open(reading=True))[::-1], mask=mask)


@app.get("/incidents/{incident}", response_class=HTMLResponse)
def one_incident(incident: str) -> str:
    """One incident as its journal tells it: clock, damage, approvals, what is back, and what happened when."""
    hook = VaultHook()
    vault = hook.open(reading=True)
    found = find_incident(vault, incident)
    mask = mask_of(hook.platform, hook.lookup, found.request)
    entries = Journal(vault, incident).entries()
    story = story_of(hook.platform.platform, hook.platform.objectives, incident, entries, mask=mask)
    clock = Clock(story.began or found.opened, hook.platform.objectives.rto_hours)
    return _page(
        "incident.html",
        story=story,
        clock=clock.line(datetime.now(UTC)),
        headings=HEADINGS,
        rows=assessment_rows(story.assessment) if story.assessment else (),
        notices=[e for e in entries if e.step == NOTIFY and e.facts.get("channel")],
        follow_ups=follow_ups(story),
    )


@app.get("/reports/{name}", response_class=HTMLResponse)
def report(name: Annotated[str, PathParameter(pattern=r"^[A-Za-z0-9-]+\.html$")]) -> HTMLResponse:
    """A report that is kept in the vault. Nobody signed it, so the browser is told to let it do nothing but be read."""
    page = read_report(VaultHook().open(reading=True), f"reports/{name}")
    return HTMLResponse(
        page, headers={"Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'"}
    )


@app.exception_handler(LifeboatError)
def _explain(_: object, error: LifeboatError) -> HTMLResponse:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, SnapshotNotFound | SettingsError):
        status = HTTPStatus.NOT_FOUND
    return HTMLResponse(_page("error.html", error=error), status)


def _page(template: str, **values: Any) -> str:
    return _templates.get_template(template).render(**values)


_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)
_templates.filters |= {
    "size": size_text,
    "duration": duration_text,
    "span": span_text,
    "holds": holds_text,
    "who": who_of,
}
_templates.globals |= {"count": count_text}
