"""The monthly restore test, run by Airflow against real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lifeboat.attestation import Verdict, attestations_of, is_proven
from lifeboat.postgres.cluster import BASE
from lifeboat.postgres.kept_server import KeptServer, kept_servers, stop_kept
from lifeboat.vault import Vault
from tests.dags.conftest import Place, RunDag, result_of

DAG = "monthly_restore_test"

pytestmark = pytest.mark.slow


@pytest.fixture
def backed_up(place: Place, run_dag: RunDag) -> Vault:
    """The vault with two snapshots of one database."""
    for _ in range(2):
        assert run_dag("nightly_database_backup", databases=["odd"]).state == "success"
    return place.vault()


def test_the_newest_and_an_older_snapshot_are_proven(backed_up: Vault, run_dag: RunDag, web: Any) -> None:
    run = run_dag(DAG, sources=["odd"])

    assert run.state == "success"
    snapshots = backed_up.list("odd").snapshots
    assert len(snapshots) == 2
    assert all(is_proven(attestations_of(backed_up, snapshot)) for snapshot in snapshots)
    result = result_of(run, "prove", 0)
    assert (result["proven"], result["repository"]) == (True, "s3")
    path = f"/api/v2/dags/{DAG}/dagRuns/{run.run_id}/taskInstances/prove/links"
    links = web.get(path, params={"map_index": 0}).json()["extra_links"]
    page = web.get(links["Report"])
    assert page.status_code == 200
    assert result["snapshot"] in page.text
    assert "sandbox" in page.headers["content-security-policy"]


def test_a_failed_proof_fails_the_run_is_attested_and_has_a_report(
    place: Place, backed_up: Vault, run_dag: RunDag
) -> None:
    checks = "- name: the world is flat\n  sql: SELECT false\n  expected: true\n"
    (place.folder / "smoke_checks.yaml").write_text(checks)
    file = place.folder / "platform.yaml"
    checked = "- name: odd\n      smoke_checks: smoke_checks.yaml\n"
    file.write_text(file.read_text().replace("- name: odd\n", checked))

    run = run_dag(DAG, sources=["odd"], older_too=False)

    assert run.state == "failed"
    assert {t.task_id for t in run.get_task_instances() if t.state == "failed"} == {"prove"}
    newest = backed_up.list("odd").snapshots[-1]
    assert [a.verdict for a in attestations_of(backed_up, newest)] == [Verdict.VERIFIED, Verdict.FAILED]
    result = result_of(run, "prove", 0)
    assert "the world is flat" in result["reason"]
    assert result["reports"]


def test_one_snapshot_can_be_chosen_from_one_repository(backed_up: Vault, run_dag: RunDag) -> None:
    older, newest = backed_up.list("odd").snapshots

    run = run_dag(DAG, sources=["odd"], snapshot=older.label, repository="local")

    assert run.state == "success"
    [read_back, attestation] = attestations_of(backed_up, older)
    assert (read_back.verdict, read_back.details["repositories"]) == (Verdict.VERIFIED, ["s3", "local"])
    assert (attestation.verdict, attestation.repository) == (Verdict.PROVEN, "local")
    assert [a.verdict for a in attestations_of(backed_up, newest)] == [Verdict.VERIFIED]


@pytest.fixture
def new_kept(backed_up: Vault) -> Iterator[Any]:
    """The servers that are kept with a snapshot of this vault; they go at the test's end."""
    ours = {snapshot.label for snapshot in backed_up.list("odd").snapshots}

    def new() -> list[KeptServer]:
        return [kept for kept in kept_servers(BASE) if kept.snapshot in ours]

    yield new
    for kept in new():
        stop_kept(BASE, kept.name)


def test_a_scratch_server_is_kept_and_later_runs_leave_it_alone(
    backed_up: Vault, run_dag: RunDag, new_kept: Any, web: Any
) -> None:
    run = run_dag(DAG, sources=["odd"], older_too=False, keep_hours=1)

    assert run.state == "success"
    (kept,) = new_kept()
    result = result_of(run, "prove", 0)
    assert result["kept"] == kept.record()
    assert str(kept) in result["notes"]
    links = web.get(
        f"/api/v2/dags/{DAG}/dagRuns/{run.run_id}/taskInstances/prove/links", params={"map_index": 0}
    ).json()["extra_links"]
    assert str(kept.password_file) in web.get(links["Report"]).text

    again = run_dag(DAG, sources=["odd"], older_too=False)

    assert again.state == "success"
    assert result_of(again, "prove", 0)["kept"] is None
    assert new_kept() == [kept]
    assert kept.running
