"""Packs: sealed objects with contents of files. All snapshots of a tree share them; a manifest names those it needs.

They stand apart from snapshots, at `packs/<source>/<two digits>/<id>`, and each is sealed as an artifact is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from lifeboat.errors import IntegrityError, ObjectNotFound, RepositoryError
from lifeboat.keys import Identity
from lifeboat.manifest import Pack
from lifeboat.repositories.contract import Repository
from lifeboat.rewrapped import LONGEST, RewrappedKeys, artifact_of, read_rewrapped
from lifeboat.sealing import HEADER_ROOM, OpenedSeal, header_of, open_data_key, unseal
from lifeboat.stored import RANGE, read_range, read_stored

LIKELY_HEADER = 8 * 1024
"""Bytes that hold the header of a pack with a few recipients, fetched at first."""

PackCheck = Callable[[Pack, Iterator[bytes]], None]
"""Reads a pack's plaintext, and raises `IntegrityError` when it does not hold what its snapshot's index says."""


def pack_prefix(source: str) -> str:
    """Where a source's packs stand in every repository; ends with a slash."""
    return f"packs/{source}/"


def pack_key(source: str, pack_id: str) -> str:
    """The key of one pack."""
    return f"{pack_prefix(source)}{pack_id[:2]}/{pack_id}"


def pack_object_id(vault_id: str, source: str, pack_id: str) -> str:
    """What a pack is sealed as. It names no snapshot: several share it."""
    return f"{vault_id}/{source}/pack/{pack_id}"


def rewrapped_packs_prefix(source: str) -> str:
    """Where the rewrapped keys of a source's packs stand; ends with a slash."""
    return f"{pack_prefix(source)}rewrapped/"


def packs_in(repository: Repository, source: str) -> dict[str, int]:
    """The sealed size of every pack of a source that a repository has, by id."""
    prefix, found = pack_prefix(source), {}
    for info in repository.list(prefix):
        folder, _, pack_id = info.key.removeprefix(prefix).partition("/")
        if folder == pack_id[:2]:
            found[pack_id] = info.size
    return found


def lacking_packs(repository: Repository, source: str, packs: Iterable[Pack]) -> tuple[Pack, ...]:
    """Those of these packs that a repository does not have, or not in their size."""
    there = packs_in(repository, source)
    return tuple(pack for pack in packs if there.get(pack.id) != pack.sealed_size)


class PackReader:
    """Reads packs of one source from some repositories, each range from the first that gives it."""

    def __init__(
        self, repositories: Sequence[Repository], vault_id: str, source: str, identities: Sequence[Identity]
    ) -> None:
        self._repositories = repositories
        self._vault_id = vault_id
        self._source = source
        self._identities = identities

    def whole(self, pack: Pack) -> Iterator[bytes]:
        """Yield a pack's plaintext, held against its digest. Raises `IntegrityError` kinds and `RepositoryError`."""
        identity = pack_object_id(self._vault_id, self._source, pack.id)
        rewrapped = self.rewrapped_keys(pack.id)
        return unseal(self.sealed(pack), object_id=identity, identities=self._identities, rewrapped=rewrapped)

    def sealed(self, pack: Pack) -> Iterator[bytes]:
        """Yield a pack as it is stored, held against its digest."""
        key = pack_key(self._source, pack.id)
        return read_stored(self._repositories, key, pack.sealed_size, pack.sealed_sha256)

    def open(self, pack: Pack) -> Callable[[int, int], Iterator[bytes]]:
        """What gives any part of a pack's plaintext, by start and length, reading no more than it must."""
        key = pack_key(self._source, pack.id)
        identity = pack_object_id(self._vault_id, self._source, pack.id)

        def fetch(start: int, length: int) -> Iterator[bytes]:
            for position in range(start, start + length, RANGE):
                yield from read_range(self._repositories, key, position, min(RANGE, start + length - position))

        try:
            header = header_of(b"".join(fetch(0, min(LIKELY_HEADER, pack.sealed_size))))
        except IntegrityError:
            header = header_of(b"".join(fetch(0, min(HEADER_ROOM, pack.sealed_size))))
        data_key = open_data_key(header, identity, self._identities, self.rewrapped_keys(pack.id))
        opened = OpenedSeal(header, data_key, identity, pack.sealed_size)
        return lambda start, length: opened.read(fetch, start, length)

    def rewrapped_keys(self, pack_id: str | None = None) -> Iterator[RewrappedKeys]:
        """Yield the rewrapped keys of a pack, or of all, from every repository that answers."""
        prefix = rewrapped_packs_prefix(self._source)
        for repository in self._repositories:
            with suppress(RepositoryError):
                for info in repository.list(prefix + (f"{pack_id}-" if pack_id else "")):
                    found = artifact_of(info.key.removeprefix(prefix))
                    if found is None or info.size > LONGEST:
                        continue
                    with suppress(RepositoryError, IntegrityError):
                        data = b"".join(repository.get(info.key))
                        yield read_rewrapped(data, found, place=f"{repository.name}:{info.key}")


def not_there(repository: Repository, source: str, packs: Sequence[Pack]) -> ObjectNotFound:
    """What is wrong with a repository that does not have these packs."""
    size = sum(pack.sealed_size for pack in packs)
    return ObjectNotFound(
        f"{repository.name} lacks {len(packs)} packs of {source} ({size} bytes), such as "
        f"{pack_key(source, packs[0].id)}.",
        hint="`lifeboat replicate` copies them from another repository.",
    )
