"""The form of the disaster-recovery DAG: its fields, what they ask for, and why one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Param

from lifeboat.errors import LifeboatError, SettingsError
from lifeboat.moment import read_moment
from lifeboat.presets import services_of
from lifeboat.progress import Report
from lifeboat.recovery.model import Mode, Point, Request
from lifeboat.recovery.request import check_request
from lifeboat.settings import Platform
from lifeboat_airflow.defaults import each_once, each_once_or_none, moment_field, repository_field
from lifeboat_airflow.last_good import load

DAG_ID = "disaster_recovery"


def recovery_fields(platform: Platform) -> dict[str, Param]:
    """The form's fields, in the order in which a tired person fills them."""
    sources = list(platform.names())
    later: dict[str, Any] = {"section": "Usually left as it is"}
    services = list(services_of(platform.application)) if platform.application else []
    return {
        "mode": Param(
            str(Mode.ASSESS),
            type="string",
            enum=[str(mode) for mode in Mode],
            title="How far to go",
            description="`assess` looks and changes nothing. `practice` does every step on scratch targets and touches "
            "nothing live. `recover` brings the platform back, and asks before it begins and before it replaces "
            "anything that is alive.",
        ),
        "title": Param(
            "Platform down",
            type="string",
            minLength=1,
            maxLength=200,
            title="What happened",
            description="The incident's title, as the status page and the report show it.",
        ),
        "began": moment_field("When it began", "The clock runs from here. None means now."),
        "point": Param(
            str(Point.LATEST_PROVEN),
            type="string",
            enum=[str(point) for point in Point],
            title="Back to which point",
            description="A single moment within archived WAL is not to be had here yet.",
        ),
        "as_of": moment_field(
            "As of", "For `as of a time`: of every source the newest snapshot that began then or earlier."
        ),
        "snapshots": Param(
            None,
            **each_once_or_none(pattern=r"^[a-z0-9_-]+/(daily|weekly|monthly)/\d{8}T\d{6}Z-[0-9a-f]{8}$"),
            title="These snapshots",
            description="For `these snapshots`: one a line, as `source/tier/id`; other sources get what fits best.",
        ),
        "components": Param(
            sources,
            **each_once(sources),
            minItems=1,
            examples=sources,
            title="What to bring back",
        ),
        "repository": repository_field(platform, **later),
        "targets": Param(
            None,
            type=["null", "object"],
            additionalProperties={"type": "string", "minLength": 1},
            title="Other targets",
            description="By source: a connection's id for databases and Redis, an absolute folder for files, such as "
            '{"receivables": "spare_db", "uploads": "/mnt/new/uploads"}. None means the sources\' own places.',
            **later,
        ),
        "services": Param(
            None,
            **each_once(services) | {"type": ["null", "array"]},
            examples=services,
            title="Only start these services",
            description="None means all of them.",
            **later,
        ),
        "drop_replaced": Param(
            False,
            type="boolean",
            title="Drop what was replaced",
            description="Once the platform is found well. Otherwise a replaced database stays under a dated name, and "
            "`lifeboat undo` goes back to it.",
            **later,
        ),
        "reason": Param(
            None, type=["null", "string"], maxLength=2000, title="Why", description="For the report.", **later
        ),
        "tell": Param(
            None,
            **each_once_or_none(format="email"),
            title="Whom to tell as well",
            description="Mail addresses, one a line, beside those of platform.yaml.",
            **later,
        ),
        "incident": Param(
            None,
            type=["null", "string"],
            minLength=1,
            title="Go on with this incident",
            description="The id of one that was begun and not ended, here or on a terminal. What is done is not "
            "repeated; all other fields are taken from it.",
            **later,
        ),
    }


def other_point_fields() -> dict[str, Param]:
    """What a person who is asked to approve may choose instead: one of the two."""
    return {
        # Airflow refuses an answer only after it was given: `assess_again` says better what is wrong with it.
        "as_of": Param(
            None, type=["null", "string"], format="date-time", title="As of", description="For *Choose another point*."
        ),
        "snapshots": Param(
            None,
            **each_once_or_none(),
            title="These snapshots",
            description="For *Choose another point*: one a line, as `source/tier/id`.",
        ),
    }


def request_of(params: Mapping[str, Any], now: datetime, report: Report | None = None) -> Request:
    """What the form's values ask for. Raises `SettingsError`."""

    def moment(name: str) -> datetime | None:
        return read_moment(params[name], name, report) if params.get(name) else None

    try:
        return Request(
            mode=Mode(params["mode"]),
            began=moment("began") or now,
            title=params.get("title") or "",
            reason=params.get("reason") or "",
            point=Point(params["point"]),
            as_of=moment("as_of"),
            snapshots=tuple(params.get("snapshots") or ()),
            components=tuple(params.get("components") or ()),
            repository=params.get("repository"),
            targets=dict(params.get("targets") or {}),
            services=tuple(params.get("services") or ()),
            drop_replaced=bool(params.get("drop_replaced")),
            tell=tuple(params.get("tell") or ()),
        )
    except (TypeError, ValueError) as error:
        raise SettingsError(f"The form cannot be read: {error}.", hint="Trigger it again.") from None


def refusal(conf: Mapping[str, Any]) -> str | None:
    """Why a form is refused; None where nothing is wrong with its fields together."""
    now = datetime.now(UTC)
    try:
        platform = load().platform
        values = {name: field.value for name, field in recovery_fields(platform).items()} | dict(conf)
        if not values["incident"]:
            check_request(platform, request_of(values, now), now)
    except LifeboatError as error:
        return str(error)
    return None
