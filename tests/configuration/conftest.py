"""A platform's configuration files, and a vault of two repositories on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lifeboat.configuration.archiving import Archived, archive_configuration
from lifeboat.configuration.files import ConfigurationSource
from lifeboat.keys import CLASSIC, Identity, Keyring, SigningKey
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.snapshot import Tier
from lifeboat.vault import Member, Snapshot, Vault

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
OPERATIONS, ESCROW = Identity.generate("operations", CLASSIC), Identity.generate("escrow", CLASSIC)
SIGNING = SigningKey.generate("host")
KEYRING = Keyring(
    recipients={"operations": OPERATIONS.recipient, "escrow": ESCROW.recipient},
    identities=(OPERATIONS,),
    signers=(SIGNING.signer,),
    signing_key=SIGNING,
)
SEALING_ONLY = Keyring(KEYRING.recipients, (), KEYRING.signers, SIGNING)
PATHS = (".env", "docker-compose.yml", "monitoring/prometheus.yml", "k8s/*.yaml")
FILES = {
    ".env": "DB_PASSWORD=hunter2\nWORKERS=4\n",
    "docker-compose.yml": "services:\n  web:\n    image: sme/web:1.4\n    environment:\n      - LOG_LEVEL=info\n",
    "monitoring/prometheus.yml": "global:\n  scrape_interval: 15s\n",
    "k8s/web.yaml": "kind: Deployment\nspec:\n  replicas: 2\n",
    "k8s/secret.yaml": "kind: Secret\ndata:\n  dsn: aHVudGVyMg==\n",
}


@dataclass(frozen=True)
class Place:
    """The files below `root`, the source they are, and the vault."""

    folder: Path
    source: ConfigurationSource

    @property
    def root(self) -> Path:
        return self.source.root

    def vault(self, keyring: Keyring = KEYRING) -> Vault:
        return Vault.open(self.members(), keyring, ["operations", "escrow"])

    def members(self) -> list[Member]:
        return [Member(LocalDiskRepository(self.folder / name, name)) for name in ("near", "far")]

    def archive(self, **options: Any) -> Archived:
        return archive_configuration(self.vault(), self.source, **{"began": NOW} | options)

    def snapshots(self) -> tuple[Snapshot, ...]:
        return self.vault().list(self.source.name, Tier.DAILY).snapshots

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file


@pytest.fixture
def place(tmp_path: Path) -> Place:
    root = tmp_path / "platform"
    made = Place(tmp_path, ConfigurationSource("configuration", root, PATHS))
    for path, text in FILES.items():
        made.write(path, text)
    (root / ".env").chmod(0o600)
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
    Vault.create(made.members())
    return made


@contextmanager
def somebody_else(*folders: Path) -> Iterator[None]:
    """As a user whom file modes bind, who can enter the folders; the superuser would read everything."""
    if os.geteuid() != 0:
        yield
        return
    for folder in folders:
        for part in (folder, *folder.parents):
            if part.owner() == "root" and str(part) != "/":
                part.chmod(part.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file and symlink below a folder: what it holds, and its mode."""
    return {
        str(path.relative_to(folder)): (
            f"-> {path.readlink()}" if path.is_symlink() else path.read_text(),
            path.lstat().st_mode & 0o7777,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
