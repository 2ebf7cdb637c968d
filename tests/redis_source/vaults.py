"""Vaults that another process can open as well."""

from __future__ import annotations

from pathlib import Path

from lifeboat.keys import Identity, Keyring, SigningKey, write_key
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.vault import Member, Vault

RECIPIENTS = ["operations", "escrow"]


def make_vault(folder: Path, *names: str) -> Vault:
    """A vault of local repositories of these names, with new keys."""
    for recipient in RECIPIENTS:
        identity = Identity.generate(recipient)
        write_key(folder / "keys", identity)
        write_key(folder / "keys", identity.recipient)
    signing_key = SigningKey.generate("host")
    write_key(folder / "keys", signing_key)
    write_key(folder / "keys", signing_key.signer)
    for name in names:
        (folder / name).mkdir()
    Vault.create(_members(folder, *names))
    return open_vault(folder, *names)


def open_vault(folder: Path, *names: str) -> Vault:
    """The vault that was made there."""
    return Vault.open(_members(folder, *names), Keyring.from_folder(folder / "keys"), RECIPIENTS)


def _members(folder: Path, *names: str) -> list[Member]:
    return [Member(LocalDiskRepository(folder / name, name)) for name in names]
