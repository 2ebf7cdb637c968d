"""Whether the date of a snapshot can be right. A host whose clock ran ahead once has made one that looks newest."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from datetime import datetime, timedelta

from lifeboat.errors import RepositoryError
from lifeboat.repositories.contract import Repository, Timed

TOLERANCE = timedelta(hours=1)
"""How far a snapshot may lie in the future before its date is not believed."""

SKEW = timedelta(days=1)
"""How far ahead of the store's clock a snapshot may have begun before its date is not believed."""

BELIEVED_SKEW = timedelta(minutes=5)
"""How far this host's clock may be from a store's before that is told, or before the store's is gone by."""


def misdated(began: datetime, stored: datetime, now: datetime) -> str:
    """Why it cannot have begun then, when a store says that it was `stored`; empty when it can."""
    if began > now + TOLERANCE:
        return "its date is in the future"
    if began > stored + SKEW:
        return "its date is later than the store's own"
    return ""


def time_of(repository: Repository) -> datetime | None:
    """What time a repository says it is; None where it does not say."""
    try:
        return repository.time() if isinstance(repository, Timed) else None
    except RepositoryError:
        return None


def latest_now(
    now: datetime, dates: Iterable[datetime], repositories: Iterable[Repository], pool: Executor
) -> datetime:
    """What to call the future by: the host's `now`; where a date lies beyond that, the stores' where that is later.

    A host whose clock has fallen behind must not take last night's snapshot for one of the future.
    """
    if max(dates, default=now) <= now + TOLERANCE:
        return now
    return max((time for time in (now, *pool.map(time_of, repositories)) if time is not None), default=now)
