"""A repository in a bucket of S3, or of a store that speaks its protocol."""

from __future__ import annotations

import re
import time
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from lifeboat.errors import (
    ObjectArchived,
    ObjectExists,
    ObjectNotFound,
    RepositoryError,
    RepositoryRefused,
    RepositoryUnavailable,
)
from lifeboat.repositories.contract import (
    ObjectInfo,
    ThawState,
    cannot_lock,
    check_key,
    is_key,
    is_prefix,
    read_http_date,
)
from lifeboat.repositories.findings import Finding
from lifeboat.repositories.parts import MIB, Part, cut, in_parallel, part_sizes
from lifeboat.repositories.s3_faults import code_of, from_s3, refuse_pages, status_of
from lifeboat.repositories.s3_findings import examine_bucket
from lifeboat.repositories.s3_requests import Checksums, Encryption, part_record, ranges_of
from lifeboat.streams import CHUNK

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

COPY_PART = 256 * MIB
"""Larger objects are copied in parts of this size, several at once: one request for all would outlast its time-out."""

MOST_PARTS = 10_000
"""Parts of one upload (S3, "Multipart upload limits")."""

PROBE_LIMIT = MIB
"""Objects the create-only probe may be tried on are at most this long."""

RESUME_AFTER = (0.1, 0.3, 1.0, 3.0)
"""Seconds to wait each time before one `get` takes up a transfer again that was dropped."""

CONFLICT_AFTER = (0.1, 0.3, 1.0, 3.0)
"""Seconds to wait before a conditional request that met another one is repeated, as S3 asks for."""

# What a gateway over a file system answers to a put whose folder another thread has just emptied and so removed; S3
# itself, which has no folders, says this only of reads.
_FOLDER_GONE = "NoSuchKey"

_PUT_ID = "lifeboat-put"
_DEFAULT_CLASS = "STANDARD"
_DROPPED = (BotoCoreError, HTTPError, OSError)


class S3Repository:
    """Objects under a prefix of one bucket, put and copied only where the store finds nothing of that name.

    `lock_mode` is GOVERNANCE or COMPLIANCE in a bucket that locks objects, `encryption` is how the store encrypts.
    `page`, `sizes` and `copy_part` are for tests: keys asked for at a time, sizes of the parts of a put and of a copy.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        prefix: str,
        name: str,
        *,
        sizes: Callable[[], Iterator[int]] = part_sizes,
        copy_part: int = COPY_PART,
        page: int = 1000,
        lock_mode: str | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        self._client = client
        client.meta.events.register("before-parse.s3", refuse_pages, unique_id="lifeboat-pages")
        self._checksums = Checksums.of(client)
        self._encryption = encryption
        self._lock_mode = lock_mode
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/".lstrip("/")
        self._name = name
        self._sizes = sizes
        self._copy_part = copy_part
        self._page = page

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    # ---- writing ----------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        storage_class: str | None = None,
        locked_until: datetime | None = None,
    ) -> ObjectInfo:
        """As the contract says. A process that is killed leaves at most an unfinished upload, which no listing shows.

        The server checks the SHA-256 of every part, or its MD5. Looked for first: some stores ignore conditions.
        """
        attributes = self._attributes(storage_class) | self._locking(locked_until)
        self._refuse_existing(check_key(key))
        parts = cut(chunks, self._sizes())
        first = next(parts)
        if first.last:
            digest = self._put_whole(key, first, attributes)
            return _info(key, first.size, digest, storage_class)
        with self._upload(key, attributes) as upload_id:
            sent = in_parallel(chain([first], parts), lambda part: self._send(key, upload_id, part))
            digest = self._complete(key, upload_id, [record for _, record in sent], attributes)
        return _info(key, sum(size for size, _ in sent), digest, storage_class)

    def copy(
        self, source: str, target: str, *, storage_class: str | None = None, locked_until: datetime | None = None
    ) -> ObjectInfo:
        locking = self._locking(locked_until)
        found = self._existing(check_key(source))
        self._refuse_existing(check_key(target))
        if _thaw_state(found) is not ThawState.READABLE:
            raise ObjectArchived(f"{self._cannot('copy', source)}: it is archived.", hint="Thaw it first.")
        attributes, size = self._attributes(storage_class) | locking, int(found["ContentLength"])
        if size == 0:
            return self.put(target, [], storage_class=storage_class, locked_until=locked_until)
        # One part or many: not every store that makes an upload's end conditional does so for its copy request.
        ranges = enumerate(ranges_of(size, max(self._copy_part, -(-size // MOST_PARTS))), start=1)
        with self._upload(target, attributes) as upload_id:
            sent = in_parallel(ranges, lambda part: self._send_copy(source, target, upload_id, *part))
            digest = self._complete(target, upload_id, sent, attributes)
        return _info(target, size, digest, storage_class)

    def delete(self, key: str) -> None:
        """As the contract says. Where objects are locked, and so have versions, the version itself goes.

        A plain request would only hide the object behind a marker, whether it is locked or not, and free nothing.
        """
        version: Any = {}
        if self._lock_mode is not None:
            try:
                found = self._head(check_key(key))
            except ObjectNotFound:
                return
            if (until := _locked_until(found)) is not None and until > datetime.now(UTC):
                raise RepositoryRefused(
                    f"{self._cannot('delete', key)}: it is locked until {until:%Y-%m-%d %H:%M} UTC."
                )
            version = {"VersionId": found["VersionId"]} if found.get("VersionId") else {}
        with self._faults("delete", check_key(key)), suppress(ObjectNotFound):
            self._client.delete_object(**self._at(key), **version)

    def lock(self, key: str, until: datetime) -> None:
        mode: Any = self._locking(until)["ObjectLockMode"]
        there = _locked_until(self._existing(check_key(key)))
        if there is None or there < until:
            with self._faults("lock", key):
                retention: Any = {"Mode": mode, "RetainUntilDate": until}
                self._client.put_object_retention(**self._at(key), Retention=retention)

    def drop_unfinished(self, before: datetime) -> int:
        """As the contract says: uploads in several parts whose process was killed. They cost as much as objects do."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._prefix)
        with self._faults("look for unfinished uploads below", self._prefix or "everything"):
            found = [upload for page in pages for upload in page.get("Uploads", []) if upload["Initiated"] < before]
        for upload in found:
            key = upload["Key"].removeprefix(self._prefix)
            with self._faults("give up the upload of", key), suppress(ObjectNotFound):
                self._client.abort_multipart_upload(**self._at(key), UploadId=upload["UploadId"])
        return len(found)

    def thaw(self, key: str, *, days: int) -> ThawState:
        found = self._existing(check_key(key))
        state = _thaw_state(found)
        if state is ThawState.THAWING or (state is ThawState.READABLE and "Restore" not in found):
            return state
        request: Any = {"Days": days, "GlacierJobParameters": {"Tier": "Standard"}}
        try:
            with self._faults("thaw", key):
                self._client.restore_object(**self._at(key), RestoreRequest=request)
        except RepositoryError as error:
            if _code_behind(error) != "RestoreAlreadyInProgress":
                raise
        return _thaw_state(self._existing(key))

    def honours_create_only(self, key: str) -> bool:
        found = self._existing(check_key(key))
        if found["ContentLength"] > PROBE_LIMIT:
            raise RepositoryError(f"{self._cannot('probe with', key)}: it is too large.", hint="Use a small object.")
        kept = {name: found[name] for name in ("Metadata", "StorageClass") if name in found} | self._encrypting()
        body = b"".join(self.get(key))
        try:
            with self._faults("probe", key):
                self._client.put_object(**self._at(key), Body=body, IfNoneMatch="*", **kept)
        except RepositoryError as error:
            if _status_behind(error) not in {409, 412}:
                raise
            return True
        return False

    # ---- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """As the contract says; a dropped transfer is taken up again where it stopped, of the very same object."""
        if length == 0:
            self._existing(check_key(key))
            return
        position, end, etag = start, None if length is None else start + length, None
        for pause in (*RESUME_AFTER, None):
            opened = self._open(check_key(key), position, end, etag)
            if opened is None:
                return
            body, end, etag = opened
            try:
                with closing(body):
                    while chunk := body.read(min(CHUNK, end - position)):
                        position += len(chunk)
                        yield chunk
            except _DROPPED as error:
                if pause is None:
                    raise self._fault(error, "read", key) from error
            if position == end:
                return
            time.sleep(pause or 0)
        raise RepositoryUnavailable(f"{self._cannot('read', key)}: the store gives less than it announces.")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the contract says. The digest of a listed object is the store's entity tag.

        Stores other than S3 itself list a thawed object as archived; `describe` knows better.
        All of it is sorted here: some stores list folder by folder, `a/b` before `a-b`, and some in no order.
        """
        if not is_prefix(prefix):
            return
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket,
            Prefix=self._prefix + prefix,
            OptionalObjectAttributes=["RestoreStatus"],
            PaginationConfig={"PageSize": self._page},
        )
        with self._faults("list", prefix or "everything"):
            listed = [self._listed(entry) for page in pages for entry in page.get("Contents", [])]
        yield from sorted((info for info in listed if info is not None), key=lambda info: info.key)

    def describe(self, key: str) -> ObjectInfo:
        found = self._existing(check_key(key))
        return ObjectInfo(
            key=key,
            size=found["ContentLength"],
            modified=found["LastModified"].astimezone(UTC),
            digest=_digest(found),
            storage_class=found.get("StorageClass", _DEFAULT_CLASS),
            locked_until=_locked_until(found),
            thaw_state=_thaw_state(found),
        )

    def time(self) -> datetime | None:
        with self._faults("ask for the time of", self._bucket):
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + "probes/", MaxKeys=1)
        return read_http_date(answer["ResponseMetadata"]["HTTPHeaders"].get("date"))

    def free_bytes(self) -> int | None:
        return None

    def examine(self) -> Iterator[Finding]:
        """Look at the bucket's own settings."""
        yield self._checksums.finding()
        yield from examine_bucket(self._client, self._bucket, self._lock_mode)

    # ---- requests ---------------------------------------------------------------------------------------------------

    def _locking(self, until: datetime | None) -> dict[str, Any]:
        """What a new object is locked with."""
        if until is None:
            return {}
        if self._lock_mode is None:
            raise cannot_lock(self._name)
        return {"ObjectLockMode": self._lock_mode, "ObjectLockRetainUntilDate": until}

    def _put_whole(self, key: str, part: Part, attributes: dict[str, Any]) -> str | None:
        request = {**self._at(key), **attributes, **self._checksums.of_a_part(part), "IfNoneMatch": "*"}
        return _digest(self._create(key, attributes, lambda: self._client.put_object(**request, Body=part.body)))

    @contextmanager
    def _upload(self, key: str, attributes: dict[str, Any]) -> Iterator[str]:
        """An unfinished upload, which is given up when anything is raised."""
        with self._faults("put", key):
            request = {**self._at(key), **attributes, **self._checksums.of_an_object()}
            upload_id = self._client.create_multipart_upload(**request)["UploadId"]
        try:
            yield upload_id
        except BaseException as error:
            try:
                with self._faults("give up the upload of", key):
                    self._client.abort_multipart_upload(**self._at(key), UploadId=upload_id)
            except ObjectNotFound:
                pass  # it is gone already
            except RepositoryError as fault:
                error.add_note(f"An unfinished upload remains: {fault.message}")
            raise

    def _send(self, key: str, upload_id: str, part: Part) -> tuple[int, dict[str, Any]]:
        try:
            with self._faults("put", key):
                answer = self._client.upload_part(
                    **self._at(key),
                    UploadId=upload_id,
                    PartNumber=part.number,
                    Body=part.body,
                    ContentLength=part.size,
                    **self._checksums.of_a_part(part),
                )
        finally:
            part.close()
        return part.size, part_record(part.number, answer)

    def _send_copy(self, source: str, target: str, upload_id: str, number: int, span: str) -> dict[str, Any]:
        request: Any = {"CopySource": self._at(source), "CopySourceRange": span, "PartNumber": number}
        with self._faults("copy to", target):
            answer = self._client.upload_part_copy(**self._at(target), UploadId=upload_id, **request)
        return part_record(number, answer["CopyPartResult"])

    def _complete(
        self, key: str, upload_id: str, records: Sequence[dict[str, Any]], attributes: dict[str, Any]
    ) -> str | None:
        request = {**self._at(key), "UploadId": upload_id, "MultipartUpload": {"Parts": records}, "IfNoneMatch": "*"}
        return _digest(self._create(key, attributes, lambda: self._client.complete_multipart_upload(**request)))

    def _create(self, key: str, attributes: dict[str, Any], request: Callable[[], Any]) -> dict[str, Any]:
        """Send a request that creates an object where there is none."""
        for pause in (*CONFLICT_AFTER, None):
            try:
                with self._faults("put", key):
                    answer: dict[str, Any] = request()
                return answer
            except RepositoryError as error:
                if pause is not None and (_status_behind(error) == 409 or _code_behind(error) == _FOLDER_GONE):
                    time.sleep(pause)
                # boto3 repeats a request whose answer was lost, and then meets the object that the first one made.
                elif _status_behind(error) in {404, 412} and self._is_ours(key, attributes):
                    return {}
                else:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _is_ours(self, key: str, attributes: dict[str, Any]) -> bool:
        try:
            return bool(self._head(key).get("Metadata") == attributes["Metadata"])
        except ObjectNotFound:
            return False

    def _refuse_existing(self, key: str) -> None:
        """Refuse a key in use, before anything is sent: for stores that ignore conditions, and to save the transfer."""
        try:
            self._head(key)
        except ObjectNotFound:
            return
        raise ObjectExists(f"{key} already exists in {self._name}.", hint="Objects are never overwritten.")

    def _head(self, key: str) -> dict[str, Any]:
        with self._faults("look at", key):
            return dict(self._client.head_object(**self._at(key), **self._checksums.of_a_look()))

    def _existing(self, key: str) -> dict[str, Any]:
        try:
            return self._head(key)
        except ObjectNotFound:
            # An answer to HEAD has no body that could tell a missing object from a missing bucket.
            with self._faults("look at", key):
                self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + key, MaxKeys=1)
            raise

    def _open(self, key: str, start: int, end: int | None, etag: str | None) -> tuple[StreamingBody, int, str] | None:
        """The object's bytes from `start`, where they end, and its tag; None when it has none there."""
        request: dict[str, Any] = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        if etag is not None:
            request["IfMatch"] = etag
        try:
            with self._faults("read", key):
                answer = self._client.get_object(**self._at(key), **request)
        except RepositoryError as error:
            if _status_behind(error) == 416:
                return None
            if _status_behind(error) == 412:
                raise RepositoryError(f"{self._cannot('read', key)}: it was replaced while it was read.") from error
            raise
        given = re.fullmatch(r"bytes (\d+)-(\d+)/.*", answer.get("ContentRange", ""))
        first, last = (int(given[1]), int(given[2])) if given else (0, answer["ContentLength"] - 1)
        if first != start:
            raise RepositoryError(f"{self._cannot('read', key)}: the store does not give ranges of objects.")
        return answer["Body"], last + 1 if end is None else min(end, last + 1), answer["ETag"]

    def _listed(self, entry: Any) -> ObjectInfo | None:
        key = entry["Key"].removeprefix(self._prefix)
        if not is_key(key):
            return None  # somebody else's object, or a folder's marker
        return ObjectInfo(
            key=key,
            size=entry["Size"],
            modified=entry["LastModified"].astimezone(UTC),
            digest=_digest(entry),
            storage_class=entry.get("StorageClass", _DEFAULT_CLASS),
            thaw_state=_thaw_state(entry),
        )

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _cannot(self, verb: str, key: str) -> str:
        return f"Cannot {verb} {key} in {self._name} ({self.url})"

    @contextmanager
    def _faults(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, *_DROPPED) as error:
            raise self._fault(error, verb, key) from error

    def _fault(self, error: Exception, verb: str, key: str) -> RepositoryError:
        # Without a user and a password, should the endpoint hold some.
        host = urlsplit(self._client.meta.endpoint_url).netloc.rpartition("@")[2]
        fault = from_s3(error, self._cannot(verb, key), host)
        if verb in ("put", "probe") and isinstance(fault, RepositoryRefused) and self._encryption is None:
            fault.hint += " Where a policy demands that the store encrypts, add `encryption` in platform.yaml."
        return fault

    def _attributes(self, storage_class: str | None) -> dict[str, Any]:
        """What a new object is created with; the mark tells a put's own object from another's."""
        attributes: dict[str, Any] = {"Metadata": {_PUT_ID: uuid.uuid4().hex}, **self._encrypting()}
        return attributes if storage_class is None else {**attributes, "StorageClass": storage_class}

    def _encrypting(self) -> dict[str, Any]:
        return {} if self._encryption is None else self._encryption.attributes()


def _info(key: str, size: int, digest: str | None, storage_class: str | None) -> ObjectInfo:
    """What an object just made looks like."""
    state = _thaw_state({"StorageClass": storage_class})
    return ObjectInfo(key, size, datetime.now(UTC), digest, storage_class or _DEFAULT_CLASS, thaw_state=state)


def _digest(found: Mapping[str, Any]) -> str | None:
    """The store's digest of the whole object, else its entity tag."""
    checksum = found.get("ChecksumSHA256", "")
    # That of an object of several parts is a digest of digests, and ends with their number: `…=-3`.
    if checksum and found.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT" and "-" not in checksum:
        return f"sha256:{b64decode(checksum).hex()}"
    return f"etag:{found['ETag'].strip(chr(34))}" if "ETag" in found else None


def _thaw_state(found: Mapping[str, Any]) -> ThawState:
    """From a HEAD answer or an entry of a listing, which say the same in different ways."""
    listed = found.get("RestoreStatus", {})
    restore = found.get("Restore", "")
    if listed.get("IsRestoreInProgress") or 'ongoing-request="true"' in restore:
        return ThawState.THAWING
    if "RestoreExpiryDate" in listed or 'ongoing-request="false"' in restore:
        return ThawState.READABLE
    archived = found.get("StorageClass") in {"GLACIER", "DEEP_ARCHIVE"} or "ArchiveStatus" in found
    return ThawState.ARCHIVED if archived else ThawState.READABLE


def _locked_until(found: Mapping[str, Any]) -> datetime | None:
    """When the object may be deleted; a legal hold has no end."""
    if found.get("ObjectLockLegalHoldStatus") == "ON":
        return datetime.max.replace(tzinfo=UTC)
    until: datetime | None = found.get("ObjectLockRetainUntilDate")
    return until


def _code_behind(error: RepositoryError) -> str:
    return code_of(error.__cause__) if isinstance(error.__cause__, ClientError) else ""


def _status_behind(error: RepositoryError) -> int:
    return status_of(error.__cause__) if isinstance(error.__cause__, ClientError) else 0
