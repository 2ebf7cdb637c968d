"""Every error has its exit code, and every exit code its meaning."""

import pytest

from lifeboat import errors
from lifeboat.cli.exit_codes import MEANINGS, exit_code
from lifeboat.errors import LifeboatError

EXPECTED = {
    "LifeboatError": 1,
    "EndedFromOutside": 75,
    "SettingsError": 3,
    "KeyringError": 3,
    "RepositoryError": 1,
    "ObjectNotFound": 4,
    "ObjectExists": 1,
    "ObjectArchived": 1,
    "RepositoryFull": 1,
    "RepositoryRefused": 1,
    "RepositoryUnavailable": 75,
    "IntegrityError": 5,
    "SealBroken": 5,
    "WrongIdentity": 3,
    "ArtifactMismatch": 5,
    "SignatureInvalid": 5,
    "UnknownFormat": 5,
    "SnapshotNotFound": 4,
    "SourceError": 1,
    "SourceUnavailable": 75,
    "SourceRefused": 1,
    "ClientMissing": 1,
    "DumpFailed": 75,
    "RestoreFailed": 1,
    "TargetUnavailable": 75,
    "RestoreIncomplete": 7,
    "EvidenceMismatch": 5,
    "NotProven": 5,
    "NotReady": 1,
    "NotTaken": 75,
    "PruneRefused": 1,
    "PromotionFailed": 1,
    "SnapshotSuspect": 1,
}


def all_kinds() -> list[type[LifeboatError]]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LifeboatError)]
    return sorted(kinds, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.__name__)
def test_every_error_ends_a_command_with_a_documented_code(kind: type[LifeboatError]) -> None:
    code = exit_code(kind("something was tried", hint="do this"))

    assert code == EXPECTED[kind.__name__]
    assert code in MEANINGS
