"""The end of an incident: its report, kept in the vault and mailed."""

from __future__ import annotations

from datetime import datetime

from lifeboat.recovery.case import Case
from lifeboat.recovery.incident_report import (
    html_report,
    store_incident_report,
    story_of,
    text_report,
    title_of,
)
from lifeboat.recovery.masking import mask_of
from lifeboat.recovery.model import Outcome
from lifeboat.recovery.stakeholders import deliver_report


def report_incident(case: Case, now: datetime) -> tuple[str, ...]:
    """Write the report of an incident as it stands, keep it in every repository that answers, and mail it.

    Returns the keys, the HTML page's last. Raises `RepositoryError` when no repository took it.
    """
    platform = case.means.platform
    mask = mask_of(platform, case.means.lookup, case.request)
    story = story_of(platform.platform, platform.objectives, case.incident, case.journal.entries(), mask=mask)
    keys = store_incident_report(case.means.vault, story, now)
    # So that the pages lead there.
    case.journal.write("report", Outcome.DONE, f"The report is kept as {keys[-1]}.", facts={"reports": list(keys)})
    for words in deliver_report(case, title_of(story), text_report(story, now), html_report(story, now)):
        case.means.report(f"WARNING: {words}")
    return keys
