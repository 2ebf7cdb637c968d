"""An incident's journal is in every repository, is never in the way, and lets one recovery go on at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lifeboat.errors import NotReady, RepositoryUnavailable, SettingsError, SnapshotNotFound
from lifeboat.recovery.journal import (
    Journal,
    find_incident,
    incident_of_run,
    incidents,
    new_incident,
    open_incidents,
)
from lifeboat.recovery.model import Mode, Outcome, Request
from lifeboat.repositories.contract import ObjectInfo
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.vault import Vault
from tests.files.vaults import vault_of

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
FIRST, SECOND = "20261124T080000Z-00000001", "20261124T080500Z-00000002"
REQUEST = Request(Mode.RECOVER, NOW, "The server is gone")


class Full(MemoryRepository):
    """Takes nothing while it is `full`."""

    full = False

    def put(self, key: str, chunks: Iterable[bytes], **options: Any) -> ObjectInfo:
        if self.full:
            raise RepositoryUnavailable(f"{self.name} does not answer.")
        return super().put(key, chunks, **options)


@pytest.fixture
def repositories() -> tuple[Full, Full]:
    return Full("near"), Full("far")


@pytest.fixture
def vault(repositories: tuple[Full, Full]) -> Vault:
    return vault_of(*repositories)


def test_what_is_written_is_read_by_whoever_comes_next_in_its_order(vault: Vault) -> None:
    journal = Journal(vault, FIRST)
    journal.write("restore", Outcome.BEGUN, "restore orders began", "orders", {"snapshot": "a"})
    journal.write("restore", Outcome.DONE, "restored", "orders", {"rows": 3})

    entries = Journal(vault, FIRST).entries()

    assert [(e.step, e.outcome, e.source, e.words) for e in entries] == [
        ("restore", Outcome.BEGUN, "orders", "restore orders began"),
        ("restore", Outcome.DONE, "orders", "restored"),
    ]
    assert entries[1].facts == {"rows": 3}
    assert entries[0].at <= entries[1].at
    last = Journal(vault, FIRST).last("restore", Outcome.DONE, "orders")
    assert last == entries[1]
    assert Journal(vault, FIRST).last("restore", Outcome.DONE, "uploads") is None


def test_entries_that_only_some_repositories_took_are_merged(vault: Vault, repositories: tuple[Full, Full]) -> None:
    near, far = repositories
    journal, said = Journal(vault, FIRST), list[str]()
    far.full = True
    Journal(vault, FIRST, report=said.append).write("prepare", Outcome.BEGUN, "one")
    far.full, near.full = False, True
    journal.write("prepare", Outcome.DONE, "two")

    assert [e.words for e in Journal(vault, FIRST).entries()] == ["one", "two"]
    assert said == ["WARNING: far has not taken an entry of the journal: far does not answer."]


def test_a_journal_that_no_repository_takes_is_kept_on_the_host_and_put_there_later(
    vault: Vault, repositories: tuple[Full, Full], tmp_path: Path
) -> None:
    said: list[str] = []
    journal = Journal(vault, FIRST, state=tmp_path, report=said.append)
    for repository in repositories:
        repository.full = True
    journal.write("prepare", Outcome.BEGUN, "one")
    assert [e.words for e in Journal(vault, FIRST, state=tmp_path).entries()] == ["one"]
    assert any("it is kept in" in line for line in said)

    for repository in repositories:
        repository.full = False
    journal.write("prepare", Outcome.DONE, "two")

    assert [e.words for e in Journal(vault, FIRST).entries()] == ["one", "two"]
    assert not list(tmp_path.rglob("*.json"))


def test_a_journal_that_nothing_takes_stops_nobody(vault: Vault, repositories: tuple[Full, Full]) -> None:
    said: list[str] = []
    for repository in repositories:
        repository.full = True

    Journal(vault, FIRST, state=Path("/proc/nowhere"), report=said.append).write("prepare", Outcome.DONE, "one")

    assert said[-1] == f"WARNING: nothing takes the journal of {FIRST}: prepare done: one"


def test_a_damaged_entry_is_left_out(vault: Vault, repositories: tuple[Full, Full]) -> None:
    repositories[0].put(f"reports/incidents/{FIRST}/20261124T080000.000000Z-x-1.json", [b"{not json"])
    Journal(vault, FIRST).write("prepare", Outcome.DONE, "one")

    assert [e.words for e in Journal(vault, FIRST).entries()] == ["one"]


def test_an_incident_is_open_until_it_ends(vault: Vault) -> None:
    journal = Journal(vault, FIRST)
    assert journal.begin(REQUEST, by="somebody") is False
    journal.write("begin again", Outcome.DONE, "no beginning of an incident")
    (one,) = open_incidents(vault)
    assert (one.id, one.title, one.mode, one.request, one.ended) == (FIRST, REQUEST.title, Mode.RECOVER, REQUEST, None)
    assert Journal(vault, FIRST).begin(REQUEST) is True
    assert journal.request() == REQUEST

    journal.end("It is well.")
    journal.end("It is well again.")

    assert open_incidents(vault) == ()
    (ended,) = incidents(vault)
    assert ended.ended is not None
    assert ended.ended.words == "It is well."
    with pytest.raises(NotReady, match="has ended: It is well"):
        Journal(vault, FIRST).begin(REQUEST)


def test_a_second_recovery_is_refused_while_the_first_goes_on(vault: Vault) -> None:
    Journal(vault, SECOND).begin(REQUEST)

    with pytest.raises(NotReady, match=f"in the incident {SECOND}: The server is gone") as refused:
        Journal(vault, FIRST).begin(REQUEST)
    assert f"lifeboat incidents end {SECOND}" in refused.value.hint
    assert [one.id for one in open_incidents(vault)] == [SECOND]

    Journal(vault, SECOND).end("done")
    third = new_incident(NOW)
    Journal(vault, third).begin(REQUEST)
    assert [one.id for one in open_incidents(vault)] == [third]


def test_practices_and_assessments_go_on_beside_a_recovery(vault: Vault) -> None:
    Journal(vault, FIRST).begin(REQUEST)

    Journal(vault, SECOND).begin(Request(Mode.PRACTICE, NOW, "Practice"))

    assert [one.id for one in open_incidents(vault)] == [FIRST]


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_that_begin_at_once_exactly_one_goes_on(vault: Vault, attempt: int) -> None:
    names = [f"20261124T08000{attempt}Z-0000000{n}" for n in range(8)]
    ready, going, refused = threading.Barrier(len(names)), list[str](), list[str]()

    def begin(name: str) -> None:
        ready.wait()
        try:
            Journal(vault, name).begin(REQUEST)
            going.append(name)
        except NotReady:
            refused.append(name)

    threads = [threading.Thread(target=begin, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(going) == 1
    assert len(refused) == 7
    assert [one.id for one in open_incidents(vault)] == going


def test_of_two_that_were_let_in_by_different_repositories_none_goes_on_unseen(
    vault: Vault, repositories: tuple[Full, Full]
) -> None:
    near, _far = repositories
    near.full = True
    Journal(vault, FIRST).begin(REQUEST)
    near.full = False

    with pytest.raises(NotReady, match=FIRST):
        Journal(vault, SECOND).begin(REQUEST)


def test_the_incident_of_a_run_is_always_the_same() -> None:
    one = incident_of_run(NOW, "manual__2026-11-24T08:00:00+00:00", {})

    assert one == incident_of_run(NOW, "manual__2026-11-24T08:00:00+00:00", {})
    assert one.startswith("20261124T080000Z-")
    assert one != incident_of_run(NOW, "another", {})
    assert new_incident(NOW) != new_incident(NOW)


@pytest.mark.parametrize("name", ["", "../up", "20261124T080000Z", f"{FIRST}/x"])
def test_what_is_no_incident_is_refused(vault: Vault, name: str) -> None:
    with pytest.raises(SettingsError, match="is no incident's id"):
        find_incident(vault, name)


def test_an_unknown_incident_is_not_found(vault: Vault) -> None:
    with pytest.raises(SnapshotNotFound, match=FIRST):
        find_incident(vault, FIRST)
