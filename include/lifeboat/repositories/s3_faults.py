"""What went wrong at an S3 store, in Lifeboat's own errors. Credentials never enter a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from lifeboat.certificates import distrust
from lifeboat.errors import (
    ObjectArchived,
    ObjectExists,
    ObjectNotFound,
    RepositoryError,
    RepositoryFull,
    RepositoryRefused,
    RepositoryUnavailable,
)
from lifeboat.repositories.s3_requests import CHECKSUMS_OFF
from lifeboat.repositories.web_pages import HINT, PageFromS3, page_in

if TYPE_CHECKING:
    from collections.abc import Mapping


def from_s3(error: Exception, tried: str, host: str) -> RepositoryError:
    """The error to raise for what boto3 or its connection raised; `tried` is a clause: "Cannot read it"."""
    if isinstance(error, ClientError):
        return _from_answer(error, tried)
    if isinstance(error, FlexibleChecksumError):
        return RepositoryUnavailable(f"{tried}: the bytes arrived damaged.", hint=_AGAIN)
    if isinstance(error, _WITHOUT_CREDENTIALS):
        return RepositoryRefused(f"{tried}: there are no credentials ({type(error).__name__}).", hint=_CREDENTIALS)
    if isinstance(error, ParamValidationError):
        return RepositoryError(f"{tried}: the request is not valid.", hint="Look at the repository's url and settings.")
    if isinstance(error, PageFromS3):
        return RepositoryError(f"{tried}: {error}.", hint=HINT)
    at = urlsplit(f"//{host}")
    if why := distrust(error, at.hostname or host, at.port or 443):
        return RepositoryRefused(f"{tried}: {why}.", hint=_TRUST)
    reason = f"no answer from {host}, or a dropped one ({type(error).__name__})"
    return RepositoryUnavailable(f"{tried}: {reason}.", hint=_AGAIN)


def refuse_pages(response_dict: dict[str, Any], **_: object) -> None:
    """Raise `PageFromS3` for a web page in place of an answer: called by botocore before it reads any answer."""
    body = response_dict["body"]
    begins = body if isinstance(body, bytes) else b""
    status = response_dict["status_code"]
    page = page_in(status, response_dict["headers"], begins, "x-amz-")
    if page and not begins and hasattr(body, "read"):
        page = page_in(status, response_dict["headers"], body.read(65_536), "x-amz-")
    if page:
        raise PageFromS3(page=page)


def status_of(error: ClientError) -> int:
    """The HTTP status of an answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """The store's own word for what went wrong; for a HEAD request, which has no body, the status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _from_answer(error: ClientError, tried: str) -> RepositoryError:
    code, status = code_of(error), status_of(error)
    fault = _BY_CODE.get(code) or _BY_STATUS.get(status) or (_UNAVAILABLE if status > 501 else _UNKNOWN)
    if "quota" in code.lower() or code.endswith("Full"):
        fault = _FULL
    if code.startswith("KMS."):
        fault = _KMS
    kind, reason, hint = fault
    answered = str(error.response.get("Error", {}).get("Message", "")).lower()
    if any(word in answered for word in _CHECKSUM_HEADERS) or (fault is _UNKNOWN and code == "400"):
        # An answer to HEAD has no text; of ours, only a header that the store does not know makes it so.
        hint = f"If the store does not know the headers of checksums, set {CHECKSUMS_OFF}."
    # A refusal's text says which permission is missing; those about signatures are not quoted, but explained.
    text = str(error.response.get("Error", {}).get("Message", ""))[:300] if fault in {_FORBIDDEN, _UNKNOWN} else ""
    answer = f"{code}, status {status}" if code and code != str(status) else f"status {status}"
    return kind(f"{tried}: {reason} ({answer}).{' ' + text if text else ''}", hint=hint)


_WITHOUT_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, TokenRetrievalError, UnauthorizedSSOTokenError)

_Fault = tuple[type[RepositoryError], str, str]

_AGAIN = "Try again; if it stays so, look at the store and at the network between."
_CREDENTIALS = "Look at the access key, the secret key and the clock of this host."
_PERMISSIONS = "Allow these credentials to list the bucket, and to get, put and delete objects in it."

_TRUST = (
    "Name the file of the authority's certificate as `verify` in the connection's extra, or in AWS_CA_BUNDLE; "
    "have one that has ended, or is of another host, replaced."
)
_PAGE: _Fault = (RepositoryError, "it is sent elsewhere", HINT)

_UNKNOWN: _Fault = (RepositoryError, "the store refused", "")
_MISSING: _Fault = (ObjectNotFound, "it is not there", "`lifeboat list` shows what is there.")
_UNAVAILABLE: _Fault = (RepositoryUnavailable, "the store could not do it now", _AGAIN)
_DAMAGED: _Fault = (RepositoryUnavailable, "the bytes arrived damaged", _AGAIN)
_STRANGER: _Fault = (RepositoryRefused, "the credentials were refused", _CREDENTIALS)
_FORBIDDEN: _Fault = (RepositoryRefused, "permission was refused", f"{_CREDENTIALS} {_PERMISSIONS}")
_KMS: _Fault = (
    RepositoryRefused,
    "the key that it is to be encrypted with cannot be used",
    "Correct `encryption_key` in platform.yaml; allow these credentials kms:GenerateDataKey and kms:Decrypt with it.",
)
_CHECKSUM_HEADERS = ("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer", "unsigned-payload-trailer")
_FULL: _Fault = (RepositoryFull, "there is no room left", "Make room, or raise the quota.")
_NO_BUCKET: _Fault = (
    RepositoryRefused,
    "there is no such bucket",
    "Create it, or correct the repository's url or the connection's endpoint.",
)
_REGION: _Fault = (
    RepositoryRefused,
    "the bucket is in another region",
    "Set the bucket's own region in the connection's extra: `region_name`.",
)

_BY_CODE: Mapping[str, _Fault] = {
    "NoSuchBucket": _NO_BUCKET,
    "InvalidBucketName": _NO_BUCKET,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "AccessDenied": _FORBIDDEN,
    "SignatureDoesNotMatch": _STRANGER,
    "InvalidAccessKeyId": _STRANGER,
    "ExpiredToken": _STRANGER,
    "InvalidToken": _STRANGER,
    "RequestTimeTooSkewed": _STRANGER,
    "InvalidObjectState": (
        ObjectArchived,
        "it is archived",
        "Thaw it first, which may take hours: `lifeboat thaw SNAPSHOT`.",
    ),
    "InvalidStorageClass": (
        RepositoryError,
        "the store does not know this storage class",
        "Correct `storage_class` in platform.yaml.",
    ),
    "NotImplemented": (RepositoryError, "the store is not able to", ""),
    "MethodNotAllowed": (RepositoryError, "the store is not able to", ""),
    "BadDigest": _DAMAGED,
    "XAmzContentSHA256Mismatch": _DAMAGED,
    "XAmzContentChecksumMismatch": _DAMAGED,
    "IncompleteBody": _DAMAGED,
    "RequestTimeout": _UNAVAILABLE,
    "NoSuchUpload": _UNAVAILABLE,
}

_BY_STATUS: Mapping[int, _Fault] = {
    301: _REGION,
    302: _PAGE,
    303: _PAGE,
    307: _PAGE,
    401: _STRANGER,
    403: _FORBIDDEN,
    404: _MISSING,
    408: _UNAVAILABLE,
    409: _UNAVAILABLE,
    412: (ObjectExists, "it exists already", "Objects are never overwritten."),
    429: _UNAVAILABLE,
    500: _UNAVAILABLE,
    507: _FULL,
}
