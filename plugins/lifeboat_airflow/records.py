"""What tasks hand on as XComs and asset events: plain, small, and nothing secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lifeboat.errors import LifeboatError, RepositoryError, SnapshotNotFound
from lifeboat.recovery.request import parse_label
from lifeboat.vault import Snapshot, Vault

if TYPE_CHECKING:
    from airflow.sdk import Context


def snapshot_record(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot: its label and place, sizes in bytes, digests of what is stored, and facts of its source."""
    manifest = snapshot.manifest
    return {
        "snapshot": snapshot.label,
        "source": manifest.source,
        "tier": str(snapshot.tier),
        "id": str(snapshot.id),
        "repositories": list(snapshot.repositories),
        "began": manifest.began.isoformat(),
        "finished": manifest.finished.isoformat(),
        "plain_size": manifest.plain_size,
        "sealed_size": manifest.sealed_size,
        "sealed_sha256": {artifact.name: artifact.sealed_sha256 for artifact in manifest.artifacts},
        "facts": dict(manifest.facts),
    }


def handed_on(context: Context, task: str) -> Any:
    """What an earlier task of this run has handed on. Raises where that is missing."""
    found = context["ti"].xcom_pull(task_ids=task)
    if found is None:
        raise missing_record(task)
    return found


def handed_on_if_done(context: Context, task: str) -> Any:
    """The same of a task that need not have run; None where it was not done."""
    found = context["ti"].xcom_pull(task_ids=task)
    if found is None and states_of(context).get(task) == "success":
        raise missing_record(task)
    return found


def states_of(context: Context) -> Mapping[str, str]:
    """How the tasks of this run stand."""
    run = context["dag_run"]
    states: Mapping[str, Mapping[str, str]] = context["ti"].get_task_states(dag_id=run.dag_id, run_ids=[run.run_id])
    return states.get(run.run_id, {})


def missing_record(*tasks: str) -> LifeboatError:
    """The error of a task that needs what these have handed on, and does not find it."""
    names = ", ".join(f"`{task}`" for task in tasks)
    return LifeboatError(
        f"What {names} hands on is missing: its record was removed, or it was marked as successful by hand.",
        hint=f"Clear {names} together with what follows.",
    )


def find_snapshot(vault: Vault, label: str) -> Snapshot:
    """The snapshot that a record's `snapshot` names. Raises `SettingsError`, `SnapshotNotFound`."""
    source, tier, snapshot_id = parse_label(label)
    return vault.find(source, snapshot_id, tier)


def read_report(vault: Vault, key: str) -> bytes:
    """A report kept in the vault, from the first repository that has it. Raises `SnapshotNotFound`."""
    for member in vault.present:
        try:
            return b"".join(member.repository.get(key))
        except RepositoryError:
            continue
    raise SnapshotNotFound(f"No repository that answers has {key}.", hint="Look at the attestations of the snapshot.")
