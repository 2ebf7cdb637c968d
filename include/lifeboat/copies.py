"""A snapshot's copies, one repository after the other, until one is whole; the damaged ones are told and attested."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from lifeboat.attestation import Verdict, attest
from lifeboat.choosing import check_repository
from lifeboat.discretion import without_rows
from lifeboat.errors import (
    IntegrityError,
    LifeboatError,
    ObjectNotFound,
    RepositoryError,
    RepositoryUnavailable,
    SnapshotNotFound,
    UnknownFormat,
    WrongIdentity,
)
from lifeboat.progress import Report
from lifeboat.vault import Snapshot, Vault, Verification

Made = TypeVar("Made")

DAMAGE = (IntegrityError, ObjectNotFound)
"""Errors that say that what is stored is not right. Others say that it cannot be read now."""


class Copies:
    """The copies of a snapshot, and what became known of them while something was made of one.

    `damaged` says why a copy is not whole, `unreadable` why it could not be read now; `seconds` is what each damaged
    copy has cost. `left` are the others, in the order to read them.
    """

    def __init__(self, vault: Vault, snapshot: Snapshot, repository: str | None = None) -> None:
        """Only the copy in `repository`, where that is given. Raises when no copy answers."""
        self.left = list(copies_to_try(vault, snapshot, repository))
        self.damaged: dict[str, str] = {}
        self.unreadable: dict[str, RepositoryError] = {}
        self.seconds: dict[str, float] = {}
        self._vault = vault
        self._snapshot = snapshot
        self._suspected: dict[str, LifeboatError] = {}
        self._failure: LifeboatError | None = None
        self._lock = threading.Lock()

    def first_whole(
        self, make: Callable[[str], Made], on_damage: Callable[[str, LifeboatError], None] | None = None
    ) -> Made | None:
        """What `make` makes of the first copy that is whole, by its repository; None when there is none.

        `on_damage` hears of each damaged one. Raises `WrongIdentity` or `UnknownFormat` when that is why: then a copy
        may be whole.
        """
        unopened: LifeboatError | None = None
        while self.left:
            name, since = self.left[0], time.monotonic()
            try:
                made = make(name)
                self._settle(since, on_damage)
                return made
            except (WrongIdentity, UnknownFormat) as error:
                # It may lie with the keys or with a damaged header; another copy tells.
                unopened = unopened or error
                self.left.remove(name)
                self._suspected.pop(name, None)
            except DAMAGE as error:
                self._failure = error
                if not self._suspected:
                    self._suspected[name] = error
                self._settle(since, on_damage)
            except RepositoryError as error:
                self._failure = error
                self._settle(since, on_damage)
                if name in self.left:
                    self.left.remove(name)
                    self.unreadable[name] = error
        if unopened is not None:
            raise unopened
        return None

    def read(self, artifact: str) -> Iterator[bytes]:
        """Yield an artifact's plaintext from the first copy that is left, going on from the next when one fails.

        Within `first_whole` it finds out whose bytes were wrong. Raises as `Vault.read`.
        """
        given: set[str] = set()

        def heard(name: str, failure: RepositoryError | None) -> None:
            with self._lock:
                if failure is None:
                    given.add(name)
                elif isinstance(failure, ObjectNotFound):
                    self._suspected.setdefault(name, failure)
                elif len(self.left) > 1:
                    self.unreadable.setdefault(name, failure)

        try:
            yield from self._vault.read(self._snapshot, artifact, repository=tuple(self.left), heard=heard)
        except (WrongIdentity, UnknownFormat):
            raise
        except IntegrityError as error:
            for name in given:
                fault = error if len(given) == 1 else self._fault(artifact, name)
                if fault is not None:
                    with self._lock:
                        self._suspected.setdefault(name, fault)
            raise

    def failure(self) -> LifeboatError:
        """Why nothing could be made of any copy."""
        known = {**self.damaged, **{name: error.message for name, error in self.unreadable.items()}}
        if len(known) < 2 and self._failure is not None:
            return self._failure
        reasons = "; ".join(f"{name}: {reason}" for name, reason in known.items())
        if not self.unreadable:
            return IntegrityError(
                f"No repository has a whole copy of {self._snapshot.label}. {reasons}",
                hint=f"`lifeboat replicate {self._snapshot.label}` mends them from each other where they are damaged "
                "in different places; then repeat. Else use another snapshot: `lifeboat verify` shows which are whole.",
            )
        return no_whole_copy(self._snapshot, self.damaged, self.unreadable)

    def _settle(self, since: float, on_damage: Callable[[str, LifeboatError], None] | None) -> None:
        suspected, self._suspected = self._suspected, {}
        self.left = [name for name in self.left if name not in suspected]
        for name, error in suspected.items():
            self.damaged[name] = error.message
            self.unreadable.pop(name, None)
            self.seconds[f"damaged copy in {name}"] = round(time.monotonic() - since, 3)
            if on_damage is not None:
                on_damage(name, error)

    def _fault(self, artifact: str, name: str) -> LifeboatError | None:
        """What is wrong with one repository's copy of an artifact that was read from several."""
        try:
            for _ in self._vault.read_sealed(
                self._snapshot, self._snapshot.manifest.artifact(artifact), repository=name
            ):
                pass
        except DAMAGE as error:
            return error
        except RepositoryError:
            return None
        return None


def attest_read_back(vault: Vault, snapshot: Snapshot, verifications: Sequence[Verification]) -> bool:
    """Attest what reading a snapshot back has shown: where it is whole, and which copies are damaged.

    Returns whether any is whole. When none is, a fault that says nothing of what is stored is raised, such as that it
    is archived or cannot be read now.
    """
    whole = [v for v in verifications if not v.faults]
    passing = [fault for v in verifications for fault in v.faults.values() if not isinstance(fault, DAMAGE)]
    if not whole and passing:
        raise passing[0]
    for verification in verifications:
        lasting = [fault for fault in verification.faults.values() if isinstance(fault, DAMAGE)]
        if lasting:
            attest_damage(vault, snapshot, verification.repository, lasting[0])
    if whole:
        details = {
            "repositories": [v.repository for v in whole],
            "unsealed": all(v.unsealed for v in whole),
            "bytes_read": sum(v.bytes_read for v in whole),
        }
        attest(vault, snapshot, Verdict.VERIFIED, details=details)
    return bool(whole)


def attest_damage(vault: Vault, snapshot: Snapshot, repository: str, error: LifeboatError) -> None:
    """Add to a snapshot that its copy in `repository` is damaged. Raises as `attest`."""
    attest(vault, snapshot, Verdict.FAILED, repository=repository, details={"reason": without_rows(error.message)})


def tell_of_damage(
    vault: Vault, snapshot: Snapshot, repository: str, error: LifeboatError, report: Report | None
) -> None:
    """Say that a copy is damaged, and attest it where a signing key is at hand."""
    tell = report or (lambda _: None)
    tell(f"the copy in {repository} is damaged: {error.message}")
    if vault.keyring.signing_key is not None:
        try:
            attest_damage(vault, snapshot, repository, error)
        except RepositoryError as refusal:
            tell(f"that could not be attested: {refusal.message}")


def damage_notes(damaged: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence on each damaged copy."""
    return tuple(f"The copy in {name} is damaged: {reason}" for name, reason in damaged.items())


def passed_over(unreadable: Mapping[str, LifeboatError]) -> tuple[str, ...]:
    """A sentence on each repository that could not be read."""
    return tuple(f"The repository {name} was passed over: {error.message}" for name, error in unreadable.items())


def copies_to_try(vault: Vault, snapshot: Snapshot, only: str | None) -> Sequence[str]:
    """The repositories whose copies of a snapshot are tried, in this order. Raises where there is none."""
    if only is None:
        present = [member.name for member in vault.present if member.name in snapshot.repositories]
        if not present:
            raise RepositoryUnavailable(f"No repository that has {snapshot.label} answers.", hint="Try again later.")
        return present
    check_repository(vault, only)
    if only not in snapshot.repositories:
        raise SnapshotNotFound(
            f"{only} does not have {snapshot.label}.", hint=f"{', '.join(snapshot.repositories)} has it."
        )
    return [only]


def no_whole_copy(
    snapshot: Snapshot, damaged: Mapping[str, str], unreadable: Mapping[str, RepositoryError]
) -> RepositoryError:
    """The error when every copy was damaged or could not be read, and one may yet be whole."""
    reasons = {**damaged, **{name: error.message for name, error in unreadable.items()}}
    kind = RepositoryUnavailable if any(error.transient for error in unreadable.values()) else RepositoryError
    hints = dict.fromkeys(error.hint for error in unreadable.values() if error.hint)
    return kind(
        f"{snapshot.label} cannot be read whole from any repository now. "
        + "; ".join(f"{name}: {reason}" for name, reason in reasons.items()),
        hint=" ".join(hints),
    )
