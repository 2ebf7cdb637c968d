"""Every error Lifeboat raises on purpose.

    LifeboatError                     something was tried, on something, and there is a next step
    ├── SettingsError                 platform.yaml, a connection or a parameter is wrong
    ├── KeyringError                  a key is missing, unreadable, readable by others, or not the right one
    ├── RepositoryError               a repository did not do what was asked
    │   ├── ObjectNotFound            the object is not there
    │   ├── ObjectExists              a create-only put found an object of that name
    │   ├── ObjectArchived            the object must be thawed before it can be read
    │   ├── RepositoryFull            no room left
    │   ├── RepositoryRefused         credentials or permissions were refused
    │   └── RepositoryUnavailable     refused connections, time-outs, dropped transfers
    ├── IntegrityError                bytes are not what was written
    │   ├── SealBroken                a sealed stream was altered, cut short, spliced or belongs elsewhere
    │   ├── WrongIdentity             no identity at hand opens this artifact
    │   ├── ArtifactMismatch          size or digest differ from the manifest
    │   ├── SignatureInvalid          a manifest or attestation is forged, altered or signed by a stranger
    │   └── UnknownFormat             written by a newer Lifeboat
    ├── SnapshotNotFound              no such snapshot, or none of that source
    ├── SourceError                   the source cannot be read as asked
    │   ├── SourceUnavailable         it does not answer
    │   ├── SourceRefused             wrong password, missing privilege, no such database
    │   ├── ClientMissing             no client program of a fitting version
    │   └── DumpFailed                a dump program ended badly
    ├── RestoreFailed                 a restore did not complete
    │   ├── RestoreIncomplete         its rows are there, objects that could not be rebuilt are not
    │   └── TargetUnavailable         the server that it was to be on failed meanwhile, for a reason that passes
    ├── EvidenceMismatch              what was restored differs from what the source held
    ├── NotProven                     a restore test did not prove the snapshot
    ├── NotTaken                      a channel did not take a message for people
    ├── PruneRefused                  a removal that is too large, or that a repository did not carry out
    ├── SnapshotSuspect               a snapshot differs much from those before it, and nobody has accepted it
    ├── PromotionFailed               a week or month has no snapshot that may be promoted
    ├── NotReady                      preflight found obstacles; all of them are listed
    └── EndedFromOutside              a job, or a program of it, was ended before it was done; it has found out nothing

`transient` says whether the same call may succeed later: Airflow retries those and fails the others at once.
"""

from __future__ import annotations

import re


class LifeboatError(Exception):
    """What was tried and on what (`message`), and what to do next (`hint`)."""

    transient = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        message = writable(message)
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments are lost by Exception's own pickling, and Airflow moves errors between processes.
        return _rebuild, (type(self), self.message, self.hint)


def writable(text: str) -> str:
    """The same, where bytes that were no text, in the name of a table or a file, are shown as what they are."""
    return re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", text)


def _rebuild(kind: type[LifeboatError], message: str, hint: str) -> LifeboatError:
    return kind(message, hint=hint)


class SettingsError(LifeboatError):
    """A setting is wrong; the message names the value and the place."""


class KeyringError(LifeboatError):
    """A key is missing, unreadable, readable by others, or not the right one."""


class RepositoryError(LifeboatError):
    """A repository did not do what was asked."""


class ObjectNotFound(RepositoryError):
    """The object is not in the repository."""


class ObjectExists(RepositoryError):
    """A create-only put found an object of that name; nothing was changed."""


class ObjectArchived(RepositoryError):
    """The object is in archive storage and must be thawed before it can be read."""


class RepositoryFull(RepositoryError):
    """The repository has no room left; nothing of the object remains."""


class RepositoryRefused(RepositoryError):
    """The repository refused the credentials, or what they may do."""


class RepositoryUnavailable(RepositoryError):
    """The repository does not answer, or dropped the transfer."""

    transient = True


class IntegrityError(LifeboatError):
    """Bytes are not what was written."""


class SealBroken(IntegrityError):
    """A sealed stream was altered, cut short, spliced, or belongs to another object."""


class WrongIdentity(IntegrityError):
    """None of the identities at hand opens this artifact."""


class ArtifactMismatch(IntegrityError):
    """An artifact's size or digest differs from what its manifest says."""


class SignatureInvalid(IntegrityError):
    """A signed record is forged, altered, or signed by somebody who is not trusted."""


class UnknownFormat(IntegrityError):
    """Written in a format this Lifeboat does not know."""


class SnapshotNotFound(LifeboatError):
    """No snapshot fits what was asked."""


class SourceError(LifeboatError):
    """The source cannot be read as asked."""


class SourceUnavailable(SourceError):
    """The source does not answer."""

    transient = True


class SourceRefused(SourceError):
    """The source refused: wrong password, missing privilege, no such database or table."""


class ClientMissing(SourceError):
    """No client program of a fitting version is installed."""


class DumpFailed(SourceError):
    """A dump program ended badly; what it wrote is not a backup."""

    transient = True


class RestoreFailed(LifeboatError):
    """A restore did not complete; the target is not usable."""


class RestoreIncomplete(RestoreFailed):
    """Objects could not be rebuilt; what was restored is kept, and waits for a person who has seen the list of them."""


class TargetUnavailable(RestoreFailed):
    """The server that was restored to failed meanwhile, for a reason that passes; it says nothing of the snapshot."""

    transient = True


class EvidenceMismatch(RestoreFailed):
    """What was restored differs from what the source held when it was dumped."""


class NotProven(LifeboatError):
    """A restore test did not prove the snapshot: damaged copies, other contents than its source, or a failed check."""


class NotTaken(LifeboatError):
    """A channel did not take a message for people."""

    transient = True


class NotReady(LifeboatError):
    """Preflight found obstacles; the message lists all of them."""


class EndedFromOutside(LifeboatError):
    """A job, or a program of it, was ended before it was done, as by a signal; what it found says nothing."""

    transient = True


class PruneRefused(LifeboatError):
    """More would be removed at once than is believable, or a repository did not remove what it was asked to."""


class SnapshotSuspect(LifeboatError):
    """A snapshot differs much from those before it; it counts for nothing until a person accepts it."""


class PromotionFailed(LifeboatError):
    """A week or month that has ended has no snapshot good enough to be promoted."""
