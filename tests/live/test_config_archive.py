"""A change of one byte becomes a sealed archive within a minute, once: with all of Airflow's processes running."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lifeboat.configuration.archive import ARTIFACT, read_archive
from tests.live.stand import LIVE, PATIENCE, Live, until

DAG = "config_archive"
QUIET = 20.0
"""Seconds in which a run that should not be would have come: a look, its settling, and a margin."""

pytestmark = LIVE


@dataclass(frozen=True)
class Watched:
    """The platform's configuration, which the live Airflow watches."""

    live: Live

    @property
    def env(self) -> Path:
        return self.live.platform.folder / "sme-platform" / ".env"

    def edit(self, workers: int) -> None:
        self.env.write_text("".join(_with_workers(self.env.read_text(), workers)))

    def archives(self) -> list[str]:
        """The `.env` of every archive, oldest first."""
        vault, found = self.live.vault(), []
        for snapshot in vault.list("configuration").snapshots:
            files = read_archive(vault.read(snapshot, ARTIFACT))
            found += [b"".join(data).decode() for entry, data in files if entry.path == ".env"]
        return found

    def archived(self) -> list[str]:
        """How many workers each archive says, oldest first."""
        return [text.partition("WORKERS=")[2].splitlines()[0] for text in self.archives()]

    def runs(self) -> int:
        return len(self.live.runs(DAG))

    def remembered(self) -> list[str]:
        """What the watch remembers of the files as it last told of them, or found them in the vault."""
        found = self.live.airflow.request("GET", "/assets", params={"uri_pattern": "lifeboat://configuration/"})
        [asset] = found["assets"]
        kept = self.live.airflow.request("GET", f"/assets/{asset['id']}/state-store")["asset_state_store"]
        return [entry["value"] for entry in kept]

    def rest(self, seconds: float = QUIET) -> None:
        """Wait until no run is under way, and none has begun for a while."""
        quiet_since, count = time.monotonic(), -1
        while time.monotonic() - quiet_since < seconds:
            runs = self.live.runs(DAG)
            if len(runs) != count or any(run["state"] in ("queued", "running") for run in runs):
                quiet_since, count = time.monotonic(), len(runs)
            time.sleep(1)


def _with_workers(text: str, workers: int) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        yield f"WORKERS={workers}\n" if line.startswith("WORKERS=") else line


@pytest.fixture
def watched(live: Live) -> Watched:
    return Watched(live)


def test_a_change_becomes_one_archive_within_a_minute_and_a_restart_neither_loses_nor_repeats_it(
    live: Live, watched: Watched
) -> None:
    until(lambda: len(watched.archives()) == 1 and bool(watched.remembered()), PATIENCE)
    watched.rest(5)  # what it has told makes a run within seconds
    runs = watched.runs()

    # One byte. How many archives and runs there are is counted on from step to step.
    watched.edit(5)
    took = until(lambda: len(watched.archives()) == 2, PATIENCE)
    print(f"archived {took:.1f} s after the change")
    assert "WORKERS=5" in watched.archives()[-1]
    newest = live.runs(DAG)[-1]
    live.ended(DAG, newest["dag_run_id"])
    assert (newest["run_type"], live.state(DAG, newest["dag_run_id"])) == ("asset_triggered", "success")
    log = live.log(DAG, newest["dag_run_id"], "configuration.archive", 0)
    assert "~ WORKERS: 4 → 5" in log
    assert not [line for line in watched.env.read_text().splitlines() if "SECRET" in line and line.split("=")[1] in log]

    # Several edits in a row.
    for workers in (6, 7, 8, 9):
        watched.edit(workers)
        time.sleep(1.5)
    until(lambda: len(watched.archives()) == 3, PATIENCE)
    assert "WORKERS=9" in watched.archives()[-1]

    # A change while no triggerer runs, and a restart without any but a touch.
    live.end_triggerer(signal.SIGTERM)
    watched.edit(10)
    live.begin_triggerer()
    until(lambda: len(watched.archives()) == 4, PATIENCE)
    watched.env.touch()
    live.end_triggerer(signal.SIGTERM)
    live.begin_triggerer()
    watched.rest()
    assert watched.archived() == ["4", "5", "9", "10"]
    assert watched.runs() == runs + 3

    # Killed as soon as it has told, so that it does not know that it has. The next one takes over when Airflow believes
    # that it is dead, and finds in the vault what it would tell.
    before = watched.remembered()
    watched.edit(11)
    until(lambda: watched.runs() == runs + 4, PATIENCE)
    live.end_triggerer(signal.SIGKILL)
    live.begin_triggerer()
    until(lambda: len(watched.archives()) == 5 and watched.remembered() != before, PATIENCE)
    watched.rest(5)
    assert watched.archived() == ["4", "5", "9", "10", "11"]
