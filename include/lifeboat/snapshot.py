"""What a snapshot is called and where it stands: kinds, tiers, identifiers, keys in a repository."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from lifeboat.errors import SettingsError


class Kind(StrEnum):
    """What a source is."""

    POSTGRES = "postgres"
    REDIS = "redis"
    FILES = "files"
    CONFIG = "config"


class Tier(StrEnum):
    """How long a snapshot is meant to stay."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"

    __hash__ = str.__hash__  # an enum's own is slow, and tiers are looked up all the time


class SnapshotId(NamedTuple):
    """A snapshot's name: when its attempt began (UTC, to the second), and eight random hexadecimal digits.

    A tuple, since thousands of ids are compared and looked up for every plan.
    """

    began: datetime
    suffix: str

    @classmethod
    def make(cls, began: datetime, randomness: bytes) -> SnapshotId:
        """The id of an attempt that begins at `began`; `randomness` gives at least four bytes."""
        return cls(began.astimezone(UTC).replace(microsecond=0), randomness[:4].hex())

    @classmethod
    def parse(cls, text: str) -> SnapshotId:
        """The id written as `text`. Raises `SettingsError`."""
        found = _ID.fullmatch(text)
        if found is None:
            raise SettingsError(
                f"{text!r} is not a snapshot id.",
                hint="One looks like 20261123T020000Z-6f3a9c21; `lifeboat list` shows them.",
            )
        return cls(datetime.strptime(found[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC), found[2])

    def __str__(self) -> str:
        return f"{self.began:%Y%m%dT%H%M%SZ}-{self.suffix}"


VAULT_KEY = "lifeboat.json"
"""The object that says which vault a repository belongs to."""


def check_name(name: str, what: str) -> str:
    """The name, when it is fit to stand in a key; raises `SettingsError` naming `what` otherwise."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot name {what}.",
            hint="Use 1 to 63 lower-case letters, digits, `-` and `_`, a letter or digit first.",
        )
    return name


@lru_cache(maxsize=65536)
def snapshot_prefix(source: str, tier: Tier, snapshot_id: SnapshotId) -> str:
    """Where a snapshot's objects stand in every repository; ends with a slash."""
    return f"snapshots/{source}/{tier}/{snapshot_id}/"


def artifact_key(source: str, tier: Tier, snapshot_id: SnapshotId, artifact: str) -> str:
    """The key of one artifact."""
    return f"{snapshot_prefix(source, tier, snapshot_id)}{artifact}.sealed"


def manifest_key(source: str, tier: Tier, snapshot_id: SnapshotId) -> str:
    """The key of the manifest."""
    return f"{snapshot_prefix(source, tier, snapshot_id)}manifest.json"


def parse_manifest_key(key: str) -> tuple[str, Tier, SnapshotId] | None:
    """Source, tier and id of the snapshot whose manifest has this key; None for any other object."""
    return parse_snapshot_key(key) if key.endswith("/manifest.json") and key.count("/") == 4 else None


def parse_snapshot_key(key: str) -> tuple[str, Tier, SnapshotId] | None:
    """Source, tier and id of the snapshot whose prefix an object's key has; None for any other object."""
    return _parse_place("/".join(parts[:4])) if len(parts := key.split("/", 4)) == 5 else None


@lru_cache(maxsize=65536)
def _parse_place(prefix: str) -> tuple[str, Tier, SnapshotId] | None:
    top, source, tier, snapshot_id = prefix.split("/")
    if top != "snapshots":
        return None
    try:
        return check_name(source, "a source"), Tier(tier), SnapshotId.parse(snapshot_id)
    except (SettingsError, ValueError):
        return None


def object_id(vault_id: str, source: str, snapshot_id: SnapshotId, artifact: str) -> str:
    """What an artifact is sealed as. It names no tier: promotion copies an artifact without sealing it anew."""
    return f"{vault_id}/{source}/{snapshot_id}/{artifact}"


_ID = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{8})")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
