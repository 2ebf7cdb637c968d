"""Refuses a run that is being triggered when it could not begin, or its form asks for what does not go together."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow.models.dag import DagTag
from airflow.utils.session import create_session
from sqlalchemy import select

from lifeboat_airflow import recovery_form
from lifeboat_airflow.listener import TAG

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

AHEAD = timedelta(minutes=1)
"""So far in the future a date may be: the clocks of two hosts differ."""

CHECKS: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {recovery_form.DAG_ID: recovery_form.refusal}
"""By DAG, what looks at the values of its form together."""


class FormGuard:
    """Refuses a trigger while it is being sent: Airflow takes any date, and looks at each field of a form alone.

    An ASGI middleware. What cannot be looked at here is let through: a DAG's first task looks once more at the form,
    and the process beside the scheduler at the dates.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at a trigger of one of Lifeboat's DAGs; pass everything else on."""
        is_trigger = scope["type"] == "http" and scope["method"] == "POST"
        found = re.search(r"/api/v2/dags/([^/]+)/dagRuns/?$", scope["path"]) if is_trigger else None
        if found is None:
            await self._app(scope, receive, send)
            return
        body = await _body(receive)
        # In a thread: the database is asked, and platform.yaml is read.
        why = await asyncio.to_thread(refusal, found[1], body)
        if why is not None:
            answer = json.dumps({"detail": why}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": int(HTTPStatus.BAD_REQUEST), "headers": headers})
            await send({"type": "http.response.body", "body": answer})
            return
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)


def refusal(dag_id: str, body: bytes) -> str | None:
    """Why a run of this DAG is refused; None where nothing is wrong, or Airflow's own answer says what is."""
    try:
        sent = json.loads(body)
        early = _early(sent, datetime.now(UTC))
        if early and _is_ours(dag_id):
            return early
        check = CHECKS.get(dag_id)
        return check(sent.get("conf") or {}) if check else None
    except (ValueError, AttributeError, TypeError, KeyError):
        return None  # no JSON, or no form


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _early(sent: Mapping[str, Any], now: datetime) -> str | None:
    for field, name in (("logical_date", "logical date"), ("run_after", "run date")):
        moment = datetime.fromisoformat(sent[field]) if sent.get(field) else now
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if moment > now + AHEAD:
            return (
                f"The {name} {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC is in the future: the run could not begin, "
                "and would keep all others of this DAG waiting until then. Leave the date empty to run it now."
            )
    return None


def _is_ours(dag_id: str) -> bool:
    with create_session() as session:
        query = select(DagTag.dag_id).where(DagTag.dag_id == dag_id, DagTag.name == TAG)
        return session.scalar(query) is not None
