"""The doctor: whether repositories are set up so that what is promised can be kept, with a remedy for what is not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from lifeboat.dates import BELIEVED_SKEW
from lifeboat.errors import RepositoryError
from lifeboat.prune import Clock
from lifeboat.repositories.findings import Examinable, Finding, Level
from lifeboat.snapshot import VAULT_KEY
from lifeboat.vault import Member, Vault

SHORT_LOCK = timedelta(seconds=90)
"""For how long a probe is locked to see whether locks hold."""

LOOK = "`lifeboat preflight` looks closer."


def examine(vault: Vault, *, clock: Clock) -> Mapping[str, Sequence[Finding]]:
    """Findings by repository. Each is given small objects under `probes/`, and relieved of them where it lets go."""
    found: dict[str, Sequence[Finding]] = {
        name: [Finding("an answer", Level.BAD, error.message, error.hint)] for name, error in vault.absent.items()
    }
    for member in vault.present:
        found[member.name] = list(_examine(member, clock))
    return found


def _examine(member: Member, clock: Clock) -> Iterator[Finding]:
    yield _create_only(member)
    yield _clock(member, clock)
    if member.locks:
        yield _holds_locks(member, clock())
    if isinstance(member.repository, Examinable):
        yield from member.repository.examine()


def _create_only(member: Member) -> Finding:
    what = "create-only puts"
    try:
        if member.repository.honours_create_only(VAULT_KEY):
            return Finding(what, Level.GOOD, "honoured")
    except RepositoryError as error:
        return Finding(what, Level.UNKNOWN, error.message, error.hint or LOOK)
    return Finding(what, Level.ADVICE, "ignored", "Lifeboat looks before it writes; versions keep what is overwritten.")


def _clock(member: Member, clock: Clock) -> Finding:
    what, key = "clock", f"probes/{os.urandom(8).hex()}"
    try:
        member.repository.put(key, [b"What is the time?\n"])
        host = clock()
        skew = host - member.repository.describe(key).modified
    except RepositoryError as error:
        return Finding(what, Level.UNKNOWN, error.message, error.hint or LOOK)
    finally:
        with suppress(RepositoryError):
            member.repository.delete(key)
    seconds = round(skew.total_seconds())
    if abs(skew) <= BELIEVED_SKEW:
        return Finding(what, Level.GOOD, f"this host's is {seconds} s ahead")
    return Finding(what, Level.BAD, f"this host's is {seconds} s ahead", "Set this host's clock by NTP.")


def _holds_locks(member: Member, now: datetime) -> Finding:
    """Whether an object that is put locked is: stores that do not know locks may drop the wish in silence."""
    what, key = "locked objects", f"probes/{os.urandom(8).hex()}"
    until = now.replace(microsecond=0) + SHORT_LOCK
    try:
        member.repository.put(key, [b"locked for a moment\n"], locked_until=until)
        locked = member.repository.describe(key).locked_until
        if locked is None or locked < until:
            with suppress(RepositoryError):
                member.repository.delete(key)
            remedy = "The store ignores locks. Turn them on for the bucket or container, or remove `object_lock`."
            return Finding(what, Level.BAD, "a put that asked for a lock was not locked", remedy)
        member.repository.delete(key)
    except RepositoryError as error:
        if "locked until" in error.message:
            return Finding(what, Level.GOOD, "are kept")
        remedy = error.hint or "Turn object lock on for the bucket or container, or remove `object_lock`."
        return Finding(what, Level.BAD, error.message, remedy)
    return Finding(what, Level.BAD, "a locked object could be deleted", "Ask the provider; do not rely on the lock.")
