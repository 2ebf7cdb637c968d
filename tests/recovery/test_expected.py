"""Expected times, from what proofs have measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lifeboat.attestation import Attestation, Verdict
from lifeboat.recovery.expected import Measured, expected_seconds, measured
from lifeboat.snapshot import Kind, SnapshotId

NOW = datetime(2026, 11, 23, tzinfo=UTC)
GIB = 1024**3


def attestation(verdict: Verdict = Verdict.PROVEN, **details: object) -> Attestation:
    return Attestation("v", "orders", SnapshotId(NOW, "00000000"), verdict, NOW, "near", details)


def proof(seconds: float, size: int = GIB, *, source: str = "orders", day: int = 0) -> Measured:
    return Measured(source, Kind.POSTGRES, NOW + timedelta(days=day), size, seconds)


def test_what_only_a_restore_test_does_is_not_counted() -> None:
    phases = {"scratch server": 3, "rows": 60, "pages and indexes": 20, "damaged copy in near": 7, "comparison": 10}

    found = measured(attestation(seconds_in_all=100, plain_size=GIB, seconds=phases), Kind.POSTGRES)

    assert found is not None
    assert (found.size, found.seconds) == (GIB, 70)


def test_of_a_sample_of_files_the_restored_bytes_count() -> None:
    found = measured(attestation(seconds_in_all=10, plain_size=9 * GIB, size=GIB, seconds={}), Kind.FILES)

    assert found == Measured("orders", Kind.FILES, NOW, GIB, 10)


@pytest.mark.parametrize(
    "about",
    [
        attestation(Verdict.FAILED, seconds_in_all=1, plain_size=1),
        attestation(),
        attestation(seconds_in_all="long", plain_size=1),
        attestation(seconds_in_all=1, plain_size=0),
        attestation(seconds_in_all=True, plain_size=1),
    ],
    ids=["failed", "empty", "no number", "nothing restored", "no number either"],
)
def test_what_says_nothing_is_passed_over(about: Attestation) -> None:
    assert measured(about, Kind.POSTGRES) is None


def test_the_middle_of_the_last_five_proofs_counts() -> None:
    proofs = [proof(9999, day=0), *(proof(n, day=n) for n in (10, 11, 12, 13)), proof(500, day=20)]

    assert expected_seconds("orders", Kind.POSTGRES, GIB, proofs) == 12


def test_what_has_grown_takes_longer_and_what_has_shrunk_no_shorter() -> None:
    assert expected_seconds("orders", Kind.POSTGRES, 3 * GIB, [proof(100)]) == 300
    assert expected_seconds("orders", Kind.POSTGRES, GIB // 2, [proof(100)]) == 100


def test_a_source_that_was_never_proven_is_reckoned_by_its_kind() -> None:
    assert expected_seconds("ledger", Kind.POSTGRES, GIB // 2, [proof(100)]) == 50
    assert expected_seconds("uploads", Kind.FILES, GIB, [proof(100)]) is None
    assert expected_seconds("orders", Kind.POSTGRES, GIB, []) is None
