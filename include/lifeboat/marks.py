"""Marks: records in a repository of packs that no snapshot referred to, each of which is swept a grace later.

A marked pack is never used by a new manifest. That, and a grace far longer than a manifest takes to be put once its
packs were looked at, is why no snapshot loses a pack (docs/adr/0018).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from lifeboat.errors import ObjectNotFound, RepositoryUnavailable, UnknownFormat
from lifeboat.manifest import Pack
from lifeboat.packs import lacking_packs, not_there, pack_key
from lifeboat.repositories.contract import Repository

FORMAT = 1


@dataclass(frozen=True)
class Mark:
    """Packs of one source that were found unreferenced in one repository; `made` is by the store's own clock."""

    key: str
    made: datetime
    packs: frozenset[str]


def marks_in(repository: Repository, source: str) -> Iterator[Mark]:
    """Yield the marks of a source. What is no record of packs marks nothing.

    Raises `UnknownFormat` for one that a newer Lifeboat has made: whoever cannot read it must not go on.
    """
    for info in repository.list(_prefix(source)):
        try:
            record = json.loads(b"".join(repository.get(info.key)))
            found, packs = record["format"], frozenset(map(str, record["packs"]))
        except ObjectNotFound:
            continue  # another sweep has just ended it
        except (ValueError, KeyError, TypeError):
            continue
        if found != FORMAT:
            raise UnknownFormat(
                f"{repository.name}:{info.key} has format {found}; this Lifeboat reads format {FORMAT}.",
                hint="Use a newer Lifeboat.",
            )
        yield Mark(info.key, info.modified, packs)


def mark(repository: Repository, source: str, packs: Iterable[str], now: datetime) -> None:
    """Mark packs; of none, nothing is put."""
    if found := sorted(packs):
        record = json.dumps({"format": FORMAT, "packs": found}).encode()
        repository.put(f"{_prefix(source)}{now:%Y%m%dT%H%M%SZ}-{os.urandom(4).hex()}.json", [record])


def marked_packs(repository: Repository, source: str) -> set[str]:
    """The ids of the packs that are marked in a repository."""
    return {pack for one in marks_in(repository, source) for pack in one.packs}


def require_usable(repository: Repository, source: str, packs: Sequence[Pack]) -> None:
    """Raise unless a manifest that names these packs may be put: `ObjectNotFound` when one lacks, and when one is
    marked `RepositoryUnavailable`."""
    if not packs:
        return
    # Marks first: a pack is deleted before its mark is, so one of the two shows it.
    marked = marked_packs(repository, source)
    if lacking := lacking_packs(repository, source, packs):
        raise not_there(repository, source, lacking)
    if found := [pack for pack in packs if pack.id in marked]:
        raise RepositoryUnavailable(
            f"{repository.name} is about to sweep {len(found)} packs of {source}, such as "
            f"{pack_key(source, found[0].id)}: no snapshot has referred to them for long.",
            hint="Repeat it: a backup stores their contents anew, a copy is made once they are swept or free again.",
        )


def _prefix(source: str) -> str:
    return f"unreferenced/{source}/"
