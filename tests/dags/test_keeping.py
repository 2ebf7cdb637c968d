"""Promotion, pruning and the daily sweep, run by Airflow against real servers."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lifeboat.attestation import Verdict, attest, attestations_of, is_proven
from lifeboat.backup import DatabaseSource, back_up_database
from lifeboat.holding import accept
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.programs import Programs
from lifeboat.snapshot import Kind, Tier
from lifeboat.vault import Snapshot
from lifeboat_airflow.operators.base import LifeboatOperator
from lifeboat_airflow.operators.keeping import (
    HealVaultOperator,
    JudgeSnapshotOperator,
    PromoteSnapshotOperator,
    PruneOperator,
    SweepVaultOperator,
)
from tests.dags.conftest import Place, RunDag, result_of, task_context

pytestmark = pytest.mark.slow

LAST_WEEK = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0) - timedelta(
    days=datetime.now(UTC).weekday() + 1
)


@pytest.fixture
def sunday(
    place: Place, postgres: PostgresServer, installed: tuple[Programs, ...], databases: tuple[str, str]
) -> Snapshot:
    """A real snapshot of last Sunday."""
    source = DatabaseSource("odd", postgres, databases[1])
    return back_up_database(place.vault(), source, installed=installed, began=LAST_WEEK).snapshot


def test_the_best_of_the_week_is_proven_and_promoted_in_every_repository_and_once(
    place: Place, sunday: Snapshot, run_dag: RunDag
) -> None:
    first = run_dag("weekly_promotion", sources=["odd"])
    again = run_dag("weekly_promotion", sources=["odd"])

    assert (first.state, again.state) == ("success", "success")
    assert list(result_of(first, "promotion.promote")["promoted"].values()) == [f"odd/weekly/{sunday.id}"]
    assert result_of(again, "promotion.promote")["promoted"] == {}
    [weekly] = place.vault().list("odd", Tier.WEEKLY).snapshots
    assert (weekly.id, weekly.repositories) == (sunday.id, ("s3", "local"))
    assert is_proven(attestations_of(place.vault(), weekly))
    assert result_of(first, "promotion.prune")["removed"] == []


def test_a_week_without_a_good_snapshot_fails_the_run(place: Place, sunday: Snapshot, run_dag: RunDag) -> None:
    attest(place.vault(), sunday, Verdict.SUSPECT, details={"reason": "half as large"})

    run = run_dag("weekly_promotion", sources=["odd"])

    assert run.state == "failed"
    assert place.vault().list("odd", Tier.WEEKLY).snapshots == ()


def test_the_daily_run_gives_a_repository_what_it_lacks_and_reports_what_it_freed(
    place: Place, sunday: Snapshot, run_dag: RunDag
) -> None:
    local = next(m.repository for m in place.vault().members if m.name == "local")
    for info in list(local.list("snapshots/")):
        local.delete(info.key)

    run = run_dag("prune_vault")

    assert run.state == "success"
    assert place.vault().find("odd").repositories == ("s3", "local")
    assert result_of(run, "sweep", -1)["bytes_freed"] == {}


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (HealVaultOperator(task_id="heal"), "Nothing was to be copied: s3, local lack nothing they ought to have."),
        (SweepVaultOperator(task_id="sweep"), "Nothing is left over in s3, local that is older than 3 days."),
        (PruneOperator(task_id="prune", source="odd"), "Nothing is due: there are no snapshots of odd."),
        (PromoteSnapshotOperator(task_id="promote", source="odd", tier="weekly"), "nothing was to be promoted"),
    ],
    ids=lambda value: getattr(value, "task_id", ""),
)
def test_a_task_with_nothing_to_do_says_so(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    task: LifeboatOperator,
    said: str,
) -> None:
    monkeypatch.setattr(LifeboatOperator, "log", logging.getLogger("task"), raising=False)

    with caplog.at_level(logging.INFO, logger="task"):
        task.execute(task_context())

    assert said in caplog.text


def test_the_daily_run_puts_the_runbook_beside_the_backups(place: Place, sunday: Snapshot, run_dag: RunDag) -> None:
    run = run_dag("prune_vault")

    [page, _] = result_of(run, "runbook", -1)["keys"]
    for member in place.vault().members:
        text = b"".join(member.repository.get(page)).decode()
        assert f"lifeboat restore odd/daily/{sunday.id} " in text
        assert "AIRFLOW_CONN_" in text.replace("\\", "")


def test_a_snapshot_that_is_suspect_fails_the_nightly_run_until_it_is_accepted(
    place: Place, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = place.vault()
    for ago in (4, 3, 2, 1):
        writer = vault.begin("odd", Kind.POSTGRES, began=datetime.now(UTC) - timedelta(days=ago))
        writer("dump", [b"rows"], media_type="application/octet-stream")
        writer.commit({"rows": 9_000_000, "tables": 3})

    run = run_dag("nightly_database_backup", databases=["odd"])

    states = {task.task_id.removeprefix("database."): task.state for task in run.get_task_instances()}
    assert (states["verify"], states["judge"], states["prune"]) == ("success", "failed", "upstream_failed")
    made = place.vault().find("odd")
    said: list[Any] = [a.verdict for a in attestations_of(place.vault(), made)]
    assert said == [Verdict.VERIFIED, Verdict.SUSPECT]
    accept(place.vault(), made, reason="we archived last year")
    cleared = JudgeSnapshotOperator(task_id="judge", source="odd", snapshot={"snapshot": made.label})
    assert cleared.execute({}) == {"snapshot": made.label, "suspect": False}
