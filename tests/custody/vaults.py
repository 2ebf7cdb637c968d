"""Small vaults in memory, and identities to open them with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from lifeboat.keys import CLASSIC, Identity, Keyring, SigningKey
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.rewrapped import rewrapped_prefix
from lifeboat.snapshot import Kind, Tier
from lifeboat.vault import Member, Snapshot, Vault

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)
OPERATIONS, ESCROW, LATER, STRANGER = (
    Identity.generate(name, CLASSIC) for name in ("operations", "escrow", "later", "stranger")
)
SIGNING = SigningKey.generate("host-1")
DUMP = b"row of the receivables\n" * 5000


def keyring(*identities: Identity, names: Sequence[Identity] = (OPERATIONS, ESCROW, LATER)) -> Keyring:
    """A keyring with these identities at hand, and the recipients of `names`."""
    recipients = {identity.name: identity.recipient for identity in names}
    return Keyring(recipients, identities, (SIGNING.signer,), SIGNING)


def vault_of(
    *repositories: Repository, identities: Sequence[Identity] = (), names: Sequence[str] = ("operations", "escrow")
) -> Vault:
    """The vault these repositories form, with these identities at hand and these recipients in platform.yaml."""
    members = [Member(repository) for repository in repositories]
    Vault.create(members)
    return Vault.open(members, keyring(*identities), names)


def back_up(vault: Vault, *, days: int = 0, source: str = "orders", tier: Tier = Tier.DAILY) -> Snapshot:
    """A snapshot of two artifacts, the smaller one not the first."""
    writer = vault.begin(source, Kind.POSTGRES, began=NOW + days * DAY, tier=tier)
    writer("dump", [DUMP], media_type="application/octet-stream")
    writer("globals", [b"CREATE ROLE sme_user;"], media_type="application/sql")
    return writer.commit({})


def read(vault: Vault, snapshot: Snapshot, repository: str | None = None) -> bytes:
    """The dump."""
    return b"".join(vault.read(snapshot, "dump", repository=repository))


def content(repository: Repository, key: str) -> bytes:
    return b"".join(repository.get(key))


def contents(repository: MemoryRepository) -> dict[str, bytes]:
    """Every object."""
    return {info.key: content(repository, info.key) for info in repository.list("")}


def rewrapped_in(repository: Repository, snapshot: Snapshot) -> list[str]:
    """The keys of the objects with rewrapped keys."""
    prefix = rewrapped_prefix(snapshot.manifest.source, snapshot.tier, snapshot.id)
    return [info.key for info in repository.list(prefix)]
