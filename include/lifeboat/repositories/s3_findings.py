"""Looking at a bucket: versions, locks, who can read it, what it forgets by itself, how it is encrypted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from lifeboat.repositories.findings import Finding, Level
from lifeboat.repositories.s3_faults import code_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ABORT = (
    "Add a lifecycle rule with AbortIncompleteMultipartUpload after 7 days: what is left of uploads costs as much as "
    "objects. `lifeboat prune --leftovers` gives them up too."
)
NONCURRENT = (
    "Add a lifecycle rule with NoncurrentVersionExpiration, as many days as you want to be able to undo a deletion: "
    "what is pruned stays as an old version until then, and is paid for."
)


def examine_bucket(client: S3Client, bucket: str, lock_mode: str | None) -> Iterator[Finding]:
    """Yield a finding for every setting that matters. What may not be seen is `unknown`."""
    yield _ask("versions of objects", lambda: _versioning(client, bucket, lock_mode))
    yield _ask("object lock", lambda: _lock(client, bucket, lock_mode))
    yield _ask("public access", lambda: _public(client, bucket))
    yield _ask("unfinished uploads", lambda: _lifecycle(client, bucket, "AbortIncompleteMultipartUpload", ABORT))
    yield _ask("old versions", lambda: _old_versions(client, bucket))
    yield _ask("encryption by the store", lambda: _encryption(client, bucket))


def _ask(what: str, look: Callable[[], tuple[Level, str, str]]) -> Finding:
    try:
        return Finding(what, *look())
    except ClientError as error:
        code = code_of(error)
        remedy = "Allow this to whoever runs `doctor` (docs/storage-rights.md), or look with the provider's own tool."
        return Finding(what, Level.UNKNOWN, f"the store does not say ({code})", remedy)
    except BotoCoreError as error:
        return Finding(what, Level.UNKNOWN, f"no answer ({type(error).__name__})", "`lifeboat preflight` looks closer.")


def _versioning(client: S3Client, bucket: str, lock_mode: str | None) -> tuple[Level, str, str]:
    if client.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled":
        return Level.GOOD, "kept", ""
    level = Level.BAD if lock_mode else Level.ADVICE
    return level, "not kept", "Turn versioning on: what somebody deletes or overwrites can then be had back."


def _lock(client: S3Client, bucket: str, lock_mode: str | None) -> tuple[Level, str, str]:
    on = _unless({"ObjectLockConfigurationNotFoundError"}, lambda: client.get_object_lock_configuration(Bucket=bucket))
    enabled = (on or {}).get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"
    if enabled and lock_mode:
        return Level.GOOD, f"on; objects are locked in mode {lock_mode.lower()}", ""
    if enabled:
        remedy = "Add `object_lock: governance` to this repository in platform.yaml."
        return Level.ADVICE, "on, but platform.yaml locks nothing", remedy
    if lock_mode:
        remedy = "Make a bucket with object lock, or ask the provider to turn it on; until then every put is refused."
        return Level.BAD, "off, and platform.yaml wants it", remedy
    return Level.ADVICE, "off", "With object lock, nobody with stolen credentials can delete what is promised."


def _public(client: S3Client, bucket: str) -> tuple[Level, str, str]:
    remedy = "Block all public access (PublicAccessBlock, all four settings)."
    missing = {"NoSuchPublicAccessBlockConfiguration"}
    block = _unless(missing, lambda: client.get_public_access_block(Bucket=bucket))
    if block is None:
        return Level.BAD, "not blocked", remedy
    settings = block["PublicAccessBlockConfiguration"]
    off = [name for name, on in settings.items() if not on]
    return (Level.BAD, f"partly blocked: not {', '.join(off)}", remedy) if off else (Level.GOOD, "blocked", "")


def _lifecycle(client: S3Client, bucket: str, action: str, remedy: str) -> tuple[Level, str, str]:
    found = _unless({"NoSuchLifecycleConfiguration"}, lambda: client.get_bucket_lifecycle_configuration(Bucket=bucket))
    rules = [r for r in (found or {}).get("Rules", []) if r.get("Status") == "Enabled"]
    expiring = [r for r in rules if "Expiration" in r and "ExpiredObjectDeleteMarker" not in r["Expiration"]]
    if expiring:
        told = "a lifecycle rule deletes objects by age"
        return Level.BAD, told, "Remove it: it knows nothing of what is held, proven or needed. Let Lifeboat prune."
    if any(action in rule for rule in rules):
        return Level.GOOD, "a lifecycle rule takes care", ""
    return Level.ADVICE, "no lifecycle rule", remedy


def _old_versions(client: S3Client, bucket: str) -> tuple[Level, str, str]:
    if client.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        return Level.GOOD, "there are none", ""
    return _lifecycle(client, bucket, "NoncurrentVersionExpiration", NONCURRENT)


def _encryption(client: S3Client, bucket: str) -> tuple[Level, str, str]:
    missing = {"ServerSideEncryptionConfigurationNotFoundError"}
    found = _unless(missing, lambda: client.get_bucket_encryption(Bucket=bucket))
    if found is not None:
        return Level.GOOD, "on", ""
    remedy = "Everything is sealed before it leaves this host. Turn it on where a rule asks for it."
    return Level.ADVICE, "off", remedy


def _unless(missing: set[str], ask: Callable[[], Any]) -> Any:
    """The answer; None where the store says that there is no such setting."""
    try:
        return ask()
    except ClientError as error:
        if code_of(error) in missing:
            return None
        raise
