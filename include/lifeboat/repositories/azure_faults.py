"""What went wrong at Azure Blob, in Lifeboat's own errors. Credentials never enter a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

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
from lifeboat.repositories.web_pages import HINT, PageFromAzure, page_in

if TYPE_CHECKING:
    from collections.abc import Mapping


def from_azure(error: AzureError | OSError, tried: str, host: str) -> RepositoryError:
    """The error to raise for what the SDK raised; `tried` is a clause: "Cannot read it".

    The service's own text is never repeated: it quotes what was signed.
    """
    if isinstance(error, HttpResponseError) and status_of(error):
        code, status = code_of(error), status_of(error)
        fault = _BY_CODE.get(code) or _BY_STATUS.get(status) or (_UNAVAILABLE if status > 501 else _UNKNOWN)
        kind, reason, hint = fault
        return kind(f"{tried}: {reason} ({f'{code}, ' if code else ''}status {status}).", hint=hint)
    if isinstance(error, PageFromAzure):
        return RepositoryError(f"{tried}: {error}.", hint=HINT)
    if isinstance(error, ClientAuthenticationError):
        return RepositoryRefused(f"{tried}: the credentials cannot be used.", hint=_CREDENTIALS)
    at = urlsplit(f"//{host}")
    if why := distrust(error, at.hostname or host, at.port or 443):
        return RepositoryRefused(f"{tried}: {why}.", hint=_TRUST)
    reason = f"no answer from {host}, or a dropped one ({type(error).__name__})"
    return RepositoryUnavailable(f"{tried}: {reason}.", hint=_AGAIN)


def refuse_pages(response: Any) -> None:
    """Raise `PageFromAzure` for a web page in place of an answer: called by the SDK with every answer."""
    answer = response.http_response
    if page_in(answer.status_code, answer.headers, b"", "x-ms-"):
        try:
            body = answer.internal_response.content[:65_536]
        except (AttributeError, TypeError, OSError):
            body = b""
        raise PageFromAzure(page_in(answer.status_code, answer.headers, body, "x-ms-"))


def status_of(error: BaseException | None) -> int:
    """The HTTP status of an answer, 0 where there was none."""
    return (error.status_code or 0) if isinstance(error, HttpResponseError) else 0


def code_of(error: BaseException | None) -> str:
    """Azure's own word for what went wrong."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


_Fault = tuple[type[RepositoryError], str, str]

_AGAIN = "Try again; if it stays so, look at the store and at the network between."
_CREDENTIALS = "Look at the account's name, its key or token, and the clock of this host."

_TRUST = (
    "Name the file of the authority's certificate in REQUESTS_CA_BUNDLE; have one that has ended, or is of another "
    "host, replaced."
)
_PAGE: _Fault = (RepositoryError, "it is sent elsewhere", HINT)

_UNKNOWN: _Fault = (
    RepositoryError,
    "Azure refused",
    'Azure\'s documentation, "Blob Storage error codes", explains it.',
)
_MISSING: _Fault = (ObjectNotFound, "it is not there", "`lifeboat list` shows what is there.")
_EXISTS: _Fault = (ObjectExists, "it exists already", "Objects are never overwritten.")
_ARCHIVED: _Fault = (ObjectArchived, "it is archived", "Thaw it first, which may take hours: `lifeboat thaw SNAPSHOT`.")
_UNAVAILABLE: _Fault = (RepositoryUnavailable, "Azure could not do it now", _AGAIN)
_DAMAGED: _Fault = (RepositoryUnavailable, "the bytes arrived damaged", _AGAIN)
_FULL: _Fault = (RepositoryFull, "there is no room left", "Make room, or raise the quota.")
_STRANGER: _Fault = (RepositoryRefused, "the credentials were refused", _CREDENTIALS)
_FORBIDDEN: _Fault = (
    RepositoryRefused,
    "permission was refused",
    f"{_CREDENTIALS} Allow them to read, add, create, write, delete and list blobs.",
)
_LOCKED: _Fault = (RepositoryRefused, "it is locked against change", "It can be removed once its lock has ended.")
_NO_CONTAINER: _Fault = (
    RepositoryRefused,
    "there is no such container",
    "Create it, or correct the repository's url or the connection's account.",
)
_TIER: _Fault = (RepositoryError, "Azure does not know this tier here", "Correct `storage_class` in platform.yaml.")

_BY_CODE: Mapping[str, _Fault] = {
    "ContainerNotFound": _NO_CONTAINER,
    "ContainerBeingDeleted": _NO_CONTAINER,
    "AuthenticationFailed": _STRANGER,
    "InvalidAuthenticationInfo": _STRANGER,
    "NoAuthenticationInformation": _STRANGER,
    "BlobImmutableDueToPolicy": _LOCKED,
    "LeaseIdMissing": _LOCKED,
    "SnapshotsPresent": _LOCKED,
    "BlobAlreadyExists": _EXISTS,
    "BlobArchived": _ARCHIVED,
    "BlobBeingRehydrated": _ARCHIVED,
    "InvalidBlobTier": _TIER,
    "BlobTierInadequateForContentLength": _TIER,
    "AccessTierNotSupportedForBlobType": _TIER,
    "Md5Mismatch": _DAMAGED,
    "InvalidBlockList": _UNAVAILABLE,
    "OperationTimedOut": _UNAVAILABLE,
    "ServerBusy": _UNAVAILABLE,
}

_BY_STATUS: Mapping[int, _Fault] = {
    302: _PAGE,
    303: _PAGE,
    307: _PAGE,
    401: _STRANGER,
    403: _FORBIDDEN,
    404: _MISSING,
    408: _UNAVAILABLE,
    412: _EXISTS,
    429: _UNAVAILABLE,
    500: _UNAVAILABLE,
    507: _FULL,
}
