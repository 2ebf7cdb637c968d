"""What the command line's exit codes mean, and which error leads to which. Scripts rely on them: they never change."""

from __future__ import annotations

from collections.abc import Mapping

from lifeboat import errors
from lifeboat.errors import LifeboatError

OK = 0
FAILED = 1
USAGE = 2
WRONG_SETTINGS = 3
NOT_FOUND = 4
BROKEN = 5
DEGRADED = 6
INCOMPLETE = 7
PASSING = 75
INTERRUPTED = 130

MEANINGS: Mapping[int, str] = {
    OK: "It is done.",
    FAILED: "The job failed.",
    USAGE: "The command was not understood.",
    WRONG_SETTINGS: "Settings, connections or keys are wrong or missing.",
    NOT_FOUND: "There is no such snapshot or object.",
    BROKEN: "Something is not what was written: damaged, forged, or restored differently.",
    DEGRADED: "It is done, but not everywhere or not in full: a repository lacks it or could not be read, or things of "
    "a tree, or properties of them, could not be read or put back.",
    INCOMPLETE: "A database is restored with its rows, but not all of its objects could be rebuilt; each is listed.",
    PASSING: "A passing fault: the same command may succeed later.",
    INTERRUPTED: "It was interrupted, by Ctrl-C or SIGTERM; a backup or restore begun then is not kept.",
}

_BY_ERROR: tuple[tuple[type[LifeboatError], int], ...] = (
    (errors.SettingsError, WRONG_SETTINGS),
    (errors.KeyringError, WRONG_SETTINGS),
    (errors.WrongIdentity, WRONG_SETTINGS),  # the snapshot may be whole: another key opens it
    (errors.IntegrityError, BROKEN),
    (errors.EvidenceMismatch, BROKEN),
    (errors.NotProven, BROKEN),
    (errors.RestoreIncomplete, INCOMPLETE),
    (errors.SnapshotNotFound, NOT_FOUND),
    (errors.ObjectNotFound, NOT_FOUND),
    (errors.LifeboatError, FAILED),
)


def exit_code(error: LifeboatError) -> int:
    """The code a command ends with on this error."""
    if error.transient:
        return PASSING
    return next(code for kind, code in _BY_ERROR if isinstance(error, kind))
