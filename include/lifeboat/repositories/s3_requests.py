"""What requests to S3 carry beside their bytes: checksums, where the store knows them, and how it is to encrypt."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lifeboat.repositories.findings import Finding, Level
from lifeboat.repositories.parts import MIB, Part

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHECKSUMS_OFF = (
    '`"config_kwargs": {"request_checksum_calculation": "when_required", "response_checksum_validation": '
    '"when_required"}` in the connection\'s extra'
)
"""What a store needs that does not know the headers of checksums."""


@dataclass(frozen=True)
class Encryption:
    """How the store is to encrypt what is put: AES256, or aws:kms with a key of one's own or the bucket's."""

    method: str
    key: str | None = None

    def attributes(self) -> dict[str, Any]:
        """What a new object is asked for with."""
        key = {"SSEKMSKeyId": self.key} if self.key else {}
        return {"ServerSideEncryption": self.method, **key}


@dataclass(frozen=True)
class Checksums:
    """Whether checksums are `sent` with what is put and `asked` for with what is looked at, as the connection says."""

    sent: bool
    asked: bool

    @classmethod
    def of(cls, client: S3Client) -> Checksums:
        """As a client was set up: botocore itself obeys this only where it chooses by itself."""
        config: Any = client.meta.config
        return cls(
            config.request_checksum_calculation != "when_required",
            config.response_checksum_validation != "when_required",
        )

    def of_an_object(self) -> dict[str, Any]:
        """What a new object is announced with."""
        return {"ChecksumAlgorithm": "SHA256"} if self.sent else {}

    def of_a_part(self, part: Part) -> dict[str, Any]:
        """What the store holds bytes that arrive against: SHA-256, else MD5, which every store has known for ever."""
        return {"ChecksumAlgorithm": "SHA256"} if self.sent else {"ContentMD5": _md5(part)}

    def of_a_look(self) -> dict[str, Any]:
        """What an object is looked at with."""
        return {"ChecksumMode": "ENABLED"} if self.asked else {}

    def finding(self) -> Finding:
        """What `doctor` tells of them."""
        if self.sent and self.asked:
            return Finding("checksums", Level.GOOD, "the store checks the SHA-256 of every part")
        off = "not sent: the store checks the MD5 of every part" if not self.sent else "not asked for"
        remedy = (
            "The store cannot say the SHA-256 of what it has; that shows only when it is read, as `verify` does. Where "
            "the store knows checksums, remove `when_required` from the connection's extra."
        )
        return Finding("checksums", Level.ADVICE, off, remedy)


def part_record(number: int, answer: Any) -> dict[str, Any]:
    """A part as the request that completes an upload names it."""
    checksum = {"ChecksumSHA256": answer["ChecksumSHA256"]} if "ChecksumSHA256" in answer else {}
    return {"PartNumber": number, "ETag": answer["ETag"], **checksum}


def ranges_of(size: int, part: int) -> Iterator[str]:
    """The ranges that an object is copied in."""
    return (f"bytes={start}-{min(start + part, size) - 1}" for start in range(0, size, part))


def _md5(part: Part) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(part.body, bytes):
        digest.update(part.body)
    else:
        while chunk := part.body.read(MIB):
            digest.update(chunk)
        part.body.seek(0)
    return b64encode(digest.digest()).decode()
