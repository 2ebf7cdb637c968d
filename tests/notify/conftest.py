"""An alert."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lifeboat.notify.alert import Alert, Event, Trouble


@pytest.fixture
def alert() -> Alert:
    return Alert(
        Event.FAILED,
        "SME Receivable Platform",
        datetime(2026, 11, 24, 2, 14, 7, tzinfo=UTC),
        dag="nightly_database_backup",
        run="scheduled__2026-11-24T02:00:00+00:00",
        page="https://airflow.example/dags/nightly_database_backup",
        troubles=(
            Trouble(
                "database.back_up",
                "receivables does not answer: <connection refused>.",
                source="receivables",
                hint="Look whether it runs.",
                remedy="there is no new snapshot.",
                log_url="https://airflow.example/log",
                map_index=0,
                attempt=4,
            ),
        ),
        notes=("It failed 3 times in a row.",),
    )
