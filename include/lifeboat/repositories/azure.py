"""A repository in a container of Azure Blob."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from azure.core import MatchConditions
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobBlock, ImmutabilityPolicy, StandardBlobTier

from lifeboat.errors import ObjectArchived, ObjectExists, ObjectNotFound, RepositoryError, RepositoryUnavailable
from lifeboat.repositories.azure_faults import code_of, from_azure, refuse_pages, status_of
from lifeboat.repositories.contract import (
    ObjectInfo,
    ThawState,
    cannot_lock,
    check_key,
    is_key,
    is_prefix,
    read_http_date,
)
from lifeboat.repositories.findings import Finding, Level
from lifeboat.repositories.parts import MIB, Part, cut, in_parallel, part_sizes
from lifeboat.streams import CHUNK

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, BlobProperties, ContainerClient

PIECE = 8 * MIB
"""Bytes asked for at a time by a `get`, which holds them in memory."""

PROBE_LIMIT = MIB
"""Objects the create-only probe may be tried on are at most this long."""

POLL_COPY_EVERY = 2.0
"""Seconds between two looks at a copy that Azure has not finished yet."""

_PUT_ID = "lifeboat_put"


class AzureBlobRepository:
    """Block blobs under a prefix of one container, put and copied only where Azure finds nothing of that name.

    `lock_mode` is Unlocked or Locked in a container with immutability by version.
    `sizes` and `page` are for tests: the sizes of the parts of a put, and keys asked for at a time.
    """

    def __init__(
        self,
        container: ContainerClient,
        prefix: str,
        name: str,
        *,
        sizes: Callable[[], Iterator[int]] = part_sizes,
        page: int = 1000,
        lock_mode: str | None = None,
    ) -> None:
        self._lock_mode = lock_mode
        self._container = container
        self._prefix = f"{prefix.strip('/')}/".lstrip("/")
        self._name = name
        self._sizes = sizes
        self._page = page

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        return f"azure://{self._container.container_name}/{self._prefix}".rstrip("/")

    # ---- writing ----------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        storage_class: str | None = None,
        locked_until: datetime | None = None,
    ) -> ObjectInfo:
        """As the contract says; Azure checks the MD5 of every part.

        What is left of an unfinished put is in no listing and cannot be read; Azure drops it within a week, or with the
        next put of that key (Azure documentation, "Put Block").
        """
        blob, attributes = self._blob(check_key(key)), self._attributes(storage_class, locked_until)
        self._refuse_existing(key)
        parts = cut(chunks, self._sizes())
        first = next(parts)
        if first.last:
            request = {**attributes, "overwrite": False, "validate_content": True}
            answer = self._create(key, attributes, lambda: blob.upload_blob(first.body, length=first.size, **request))
            return _info(key, first.size, storage_class, answer.get("content_md5"))
        mark = uuid.uuid4().hex
        sent = in_parallel(chain([first], parts), lambda part: self._send(blob, key, mark, part))
        blocks = [BlobBlock(block_id) for block_id, _ in sent]
        condition = {**attributes, "match_condition": MatchConditions.IfMissing}
        self._create(key, attributes, lambda: blob.commit_block_list(blocks, **condition))
        return _info(key, sum(size for _, size in sent), storage_class, None)

    def copy(
        self, source: str, target: str, *, storage_class: str | None = None, locked_until: datetime | None = None
    ) -> ObjectInfo:
        """As the contract says. While Azure is at it, which it seldom takes time for, the target is in no listing."""
        attributes = self._attributes(storage_class, locked_until)
        found = self._properties(check_key(source))
        self._refuse_existing(check_key(target))
        if _thaw_state(found) is not ThawState.READABLE:
            # Azure would begin a copy that takes hours.
            raise ObjectArchived(f"{self._cannot('copy', source)}: it is archived.", hint="Thaw it first.")
        request = {**attributes, "match_condition": MatchConditions.IfMissing}
        blob, url = self._blob(target), self._readable_url(source)
        answer = self._create(target, attributes, lambda: blob.start_copy_from_url(url, **request))
        try:
            self._wait_for_copy(target, answer.get("copy_status"))
        except BaseException:
            self._undo_copy(target, attributes)
            raise
        return _info(target, found.size, storage_class, found.content_settings.content_md5)

    def delete(self, key: str) -> None:
        with suppress(ObjectNotFound), self._faults("delete", check_key(key)):
            self._blob(key).delete_blob()

    def lock(self, key: str, until: datetime) -> None:
        policy, there = self._policy(until), _locked_until(self._properties(check_key(key)))
        if there is None or there < until:
            with self._faults("lock", key):
                self._blob(key).set_immutability_policy(policy)

    def drop_unfinished(self, before: datetime) -> int:  # noqa: ARG002 - Azure does so itself, within a week
        return 0

    def thaw(self, key: str, *, days: int) -> ThawState:  # noqa: ARG002 - Azure knows no end of it
        """As the contract says; but Azure moves the object to the tier Hot for good, whatever `days` are."""
        state = _thaw_state(self._properties(check_key(key)))
        if state is ThawState.ARCHIVED:
            with self._faults("thaw", key):
                self._blob(key).set_standard_blob_tier(StandardBlobTier.HOT)
            state = _thaw_state(self._properties(key))
        return state

    def honours_create_only(self, key: str) -> bool:
        found = self._properties(check_key(key))
        if found.size > PROBE_LIMIT:
            raise RepositoryError(f"{self._cannot('probe with', key)}: it is too large.", hint="Use a small object.")
        body = b"".join(self.get(key))
        try:
            with self._faults("probe", key):
                self._blob(key).upload_blob(body, overwrite=False, metadata=found.metadata)
        except ObjectExists:
            return True
        return False

    # ---- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """As the contract says; fetched piece by piece, each tried several times, all of the very same object."""
        if length == 0:
            self._properties(check_key(key))
            return
        position, end, etag = start, None if length is None else start + length, None
        while end is None or position < end:
            found = self._piece(check_key(key), position, min(PIECE, (end or PIECE + position) - position), etag)
            if found is None:
                return
            piece, total, etag = found
            end = total if end is None else min(end, total)
            position += len(piece)
            for offset in range(0, len(piece), CHUNK):
                yield piece[offset : offset + CHUNK]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the contract says; sorted here, because accounts with a hierarchical namespace list folder by folder."""
        if not is_prefix(prefix):
            return
        with self._faults("list", prefix or "everything"):
            found = self._container.list_blobs(
                name_starts_with=self._prefix + prefix, include=["copy"], results_per_page=self._page
            )
            infos = [self._listed(blob) for blob in found if blob.copy.status in {None, "success"}]
        yield from sorted((info for info in infos if is_key(info.key)), key=lambda info: info.key)

    def describe(self, key: str) -> ObjectInfo:
        return self._listed(self._properties(check_key(key)))

    def time(self) -> datetime | None:
        heard: list[str | None] = []
        with self._faults("ask for the time of", "the container"):
            found = self._container.list_blobs(
                name_starts_with=f"{self._prefix}probes/",
                results_per_page=1,
                raw_response_hook=lambda answer: heard.append(_date_in(answer)),
            )
            next(iter(found), None)
        return read_http_date(heard[0]) if heard else None

    def free_bytes(self) -> int | None:
        return None

    def examine(self) -> Iterator[Finding]:
        """Look at the container's own settings."""
        try:
            with self._faults("look at", "the container"):
                found = self._container.get_container_properties()
        except RepositoryError as error:
            yield Finding("container", Level.UNKNOWN, error.message, error.hint)
            return
        if found.public_access:
            yield Finding("public access", Level.BAD, f"{found.public_access}", "Make the container private.")
        else:
            yield Finding("public access", Level.GOOD, "blocked")
        if getattr(found, "immutable_storage_with_versioning_enabled", False):
            yield Finding("immutability by version", Level.GOOD, "on")
        else:
            level = Level.BAD if self._lock_mode else Level.ADVICE
            remedy = "Turn on version-level immutability for the container: nobody can then delete what is promised."
            yield Finding("immutability by version", level, "off", remedy)

    # ---- requests ---------------------------------------------------------------------------------------------------

    def _attributes(self, storage_class: str | None, locked_until: datetime | None = None) -> dict[str, Any]:
        """What a new object is created with; the mark tells a put's own object from another's."""
        attributes: dict[str, Any] = {"metadata": {_PUT_ID: uuid.uuid4().hex}}
        if locked_until is not None:
            attributes["immutability_policy"] = self._policy(locked_until)
        if storage_class is None:
            return attributes
        try:
            return {**attributes, "standard_blob_tier": StandardBlobTier(storage_class)}
        except ValueError:
            hint = f"Correct `storage_class` in platform.yaml: {', '.join(tier.value for tier in StandardBlobTier)}."
            raise RepositoryError(f"{self._name}: {storage_class!r} is no tier of Azure Blob.", hint=hint) from None

    def _policy(self, until: datetime) -> ImmutabilityPolicy:
        if self._lock_mode is None:
            raise cannot_lock(self._name)
        return ImmutabilityPolicy(expiry_time=until, policy_mode=self._lock_mode)

    def _send(self, blob: BlobClient, key: str, mark: str, part: Part) -> tuple[str, int]:
        # Ids of all blocks of a blob must be equally long. The mark keeps simultaneous puts of one key apart.
        block_id = f"{mark}-{part.number:05d}"
        try:
            with self._faults("put", key):
                blob.stage_block(block_id, part.body, length=part.size, validate_content=True)
        finally:
            part.close()
        return block_id, part.size

    def _create(self, key: str, attributes: dict[str, Any], request: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Send a request that creates an object where there is none."""
        try:
            with self._faults("put", key):
                return request()
        except RepositoryError as error:
            # The SDK repeats a request whose answer was lost, and then meets the object that the first one made.
            # Another's commit drops our blocks, and then ours is refused for lack of them.
            if isinstance(error, ObjectExists) or code_of(error.__cause__) == "InvalidBlockList":
                if self._is_ours(key, attributes):
                    return {}
                self._refuse_existing(key)
            raise

    def _is_ours(self, key: str, attributes: dict[str, Any]) -> bool:
        try:
            return bool(self._properties(key).metadata == attributes["metadata"])
        except ObjectNotFound:
            return False

    def _refuse_existing(self, key: str) -> None:
        try:
            self._properties(key)
        except ObjectNotFound:
            return
        raise ObjectExists(f"{key} already exists in {self._name}.", hint="Objects are never overwritten.")

    def _properties(self, key: str) -> BlobProperties:
        with self._faults("look at", key):
            return self._blob(key).get_blob_properties()

    def _piece(self, key: str, start: int, length: int, etag: str | None) -> tuple[bytes, int, str] | None:
        """Some bytes of the object, its size and its tag; None when it ends before `start`."""
        same: dict[str, Any] = {} if etag is None else {"etag": etag, "match_condition": MatchConditions.IfNotModified}
        try:
            with self._faults("read", key):
                download = self._blob(key).download_blob(start, length, **same)
                piece = download.readall()
        except RepositoryError as error:
            if status_of(error.__cause__) == 416:
                return None
            if status_of(error.__cause__) == 412:
                raise RepositoryError(f"{self._cannot('read', key)}: it was replaced while it was read.") from error
            raise
        total = int(str(download.properties.content_range).rpartition("/")[2])
        if len(piece) != min(length, total - start):
            raise RepositoryUnavailable(f"{self._cannot('read', key)}: Azure gave less than it announced.")
        return piece, total, str(download.properties.etag)

    def _readable_url(self, key: str) -> str:
        """Where Azure itself finds the source of a copy; a token must go along, a key need not within one account."""
        url, credential = self._blob(key).url, self._container.credential
        return f"{url}?{credential.signature.lstrip('?')}" if isinstance(credential, AzureSasCredential) else url

    def _wait_for_copy(self, key: str, status: str | None) -> None:
        while status == "pending":
            time.sleep(POLL_COPY_EVERY)
            status = self._properties(key).copy.status
        if status not in {None, "success"}:
            raise RepositoryUnavailable(f"{self._cannot('copy to', key)}: the copy ended as {status}.")

    def _undo_copy(self, key: str, attributes: dict[str, Any]) -> None:
        """Remove what an unfinished copy of ours has left."""
        with suppress(RepositoryError):
            if self._is_ours(key, attributes):
                with suppress(RepositoryError), self._faults("give up the copy to", key):
                    self._blob(key).abort_copy(self._properties(key))
                self.delete(key)

    def _listed(self, blob: BlobProperties) -> ObjectInfo:
        return ObjectInfo(
            key=blob.name.removeprefix(self._prefix),
            size=blob.size,
            modified=blob.last_modified.astimezone(UTC),
            digest=_digest(blob.content_settings.content_md5),
            storage_class=blob.blob_tier,
            locked_until=_locked_until(blob),
            thaw_state=_thaw_state(blob),
        )

    def _blob(self, key: str) -> BlobClient:
        return self._container.get_blob_client(self._prefix + key)

    def _cannot(self, verb: str, key: str) -> str:
        return f"Cannot {verb} {key} in {self._name} ({self.url})"

    @contextmanager
    def _faults(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except (AzureError, OSError) as error:
            raise from_azure(error, self._cannot(verb, key), self._container.primary_hostname) from error


def _date_in(answer: Any) -> str | None:
    refuse_pages(answer)
    date: str | None = answer.http_response.headers.get("Date")
    return date


def _info(key: str, size: int, storage_class: str | None, md5: bytes | bytearray | None) -> ObjectInfo:
    """What an object just made looks like."""
    state = ThawState.ARCHIVED if storage_class == StandardBlobTier.ARCHIVE else ThawState.READABLE
    return ObjectInfo(key, size, datetime.now(UTC), _digest(md5), storage_class, thaw_state=state)


def _digest(md5: bytes | bytearray | None) -> str | None:
    """Azure's digest of an object that was put in one piece; it makes none of several."""
    return f"md5:{md5.hex()}" if md5 else None


def _thaw_state(blob: BlobProperties) -> ThawState:
    if blob.archive_status is not None:
        return ThawState.THAWING
    return ThawState.ARCHIVED if blob.blob_tier == StandardBlobTier.ARCHIVE else ThawState.READABLE


def _locked_until(blob: BlobProperties) -> datetime | None:
    """When the object may be deleted; a legal hold has no end."""
    if blob.has_legal_hold:
        return datetime.max.replace(tzinfo=UTC)
    until: datetime | None = blob.immutability_policy.expiry_time
    return until
