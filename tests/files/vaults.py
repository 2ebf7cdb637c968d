"""Vaults and trees for the tests of files."""

from __future__ import annotations

import os
import socket
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lifeboat.files.restore import restore_tree
from lifeboat.files.source import TreeSource
from lifeboat.files.sync import back_up_tree
from lifeboat.keys import CLASSIC, Identity, Keyring, SigningKey
from lifeboat.outcome import BackupOutcome
from lifeboat.repositories.contract import Repository
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.vault import Member, Snapshot, Vault

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
OPERATIONS, ESCROW = Identity.generate("operations", CLASSIC), Identity.generate("escrow", CLASSIC)
SIGNING = SigningKey.generate("host-1")
KEYRING = Keyring(
    recipients={"operations": OPERATIONS.recipient, "escrow": ESCROW.recipient},
    identities=(OPERATIONS,),
    signers=(SIGNING.signer,),
    signing_key=SIGNING,
)
BLIND = Keyring(recipients=KEYRING.recipients, signers=KEYRING.signers, signing_key=SIGNING)
"""The same without an identity, as on a host that only backs up."""


def vault_of(*repositories: Repository, keyring: Keyring = KEYRING) -> Vault:
    members = [Member(repository) for repository in repositories]
    Vault.create(members)
    return Vault.open(members, keyring, ["operations", "escrow"])


class Tree:
    """A tree, what remembers it, and a vault in memory; every backup is a minute later than the one before."""

    def __init__(self, folder: Path, *repositories: Repository, keyring: Keyring = KEYRING) -> None:
        self.root = folder / "tree"
        self.root.mkdir(exist_ok=True)
        self.repositories = repositories or (MemoryRepository("primary"),)
        self.vault = vault_of(*self.repositories, keyring=keyring)
        self.source = TreeSource("uploads", str(self.root), folder / "state")
        self.folder = folder
        self.count = 0
        self.said: list[str] = []

    def write(self, path: str, data: bytes = b"contents") -> Path:
        """A file that was last changed an hour ago, as files usually are."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def back_up(self, **options: Any) -> BackupOutcome:
        self.count += 1
        began = NOW + timedelta(minutes=self.count)
        return back_up_tree(self.vault, self.source, began=began, report=self.said.append, **options)

    def snapshot(self, **options: Any) -> Snapshot:
        return self.back_up(**options).snapshot

    def restore(self, snapshot: Snapshot | None = None, name: str = "restored", **options: Any) -> Path:
        target = self.folder / name
        snapshot = snapshot or self.vault.find("uploads")
        restore_tree(self.vault, snapshot, target, **options).raise_faults()
        return target


def fill(root: Path) -> None:
    """A tree with one of everything."""
    (root / "invoices" / "2026").mkdir(parents=True)
    (root / "empty folder").mkdir(mode=0o751)
    for number in range(300):
        (root / "invoices" / "2026" / f"{number:04}.txt").write_bytes(b"invoice %d\n" % number * (number % 50 + 1))
    (root / "empty").write_bytes(b"")
    (root / "photo.jpg").write_bytes(os.urandom(300_000))
    (root / "middling.bin").write_bytes(os.urandom(2_500_000) + bytes(1_000_000))
    (root / "large.bin").write_bytes(os.urandom(9_000_000) + b"row of the receivables\n" * 200_000)
    (root / "script.sh").write_bytes(b"#!/bin/sh\n")
    (root / "script.sh").chmod(0o4750)
    (root / "secret").write_bytes(b"for the owner")
    (root / "secret").chmod(0o600)
    (root / "link").symlink_to("invoices/2026/0001.txt")
    (root / "dangling").symlink_to("/nowhere/at all")
    (root / "loop").symlink_to(".")
    (root / "one name").write_bytes(b"a file of two names")
    os.link(root / "one name", root / "another name")
    os.mkfifo(root / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(root)
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
    (Path(os.fsdecode(os.fsencode(root) + b"/not utf-8 \xff\xfe.txt"))).write_bytes(b"odd name")
    (root / "umlaut ä\n new line").write_bytes(b"odd name too")
    with (root / "sparse").open("wb") as file:
        file.truncate(50_000_000)
        file.seek(20_000_000)
        file.write(b"in the middle" * 1000)
    for path in (*root.rglob("*"), root):
        if not path.is_symlink():
            os.utime(path, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789), follow_symlinks=False)


def picture(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """All that matters of a tree, by path; sockets, which nobody restores, are left out."""
    found: dict[bytes, tuple[Any, ...]] = {}
    linked: dict[int, bytes] = {}
    base = os.fsencode(root)
    for folder, folders, files in os.walk(base):
        for name in (*folders, *files, b"."):
            path = os.path.normpath(os.path.join(folder, name))  # noqa: PTH118 - bytes
            info = os.lstat(path)
            if stat.S_ISSOCK(info.st_mode):
                continue
            contents: Any = b""
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:  # noqa: PTH123 - bytes
                    contents = file.read()
            elif stat.S_ISLNK(info.st_mode):
                contents = os.readlink(path)  # noqa: PTH115 - bytes
            links = linked.setdefault(info.st_ino, path[len(base) :]) if info.st_nlink > 1 else b""
            links = b"" if stat.S_ISDIR(info.st_mode) else links
            times = info.st_mtime_ns
            found[path[len(base) :]] = (info.st_mode, info.st_uid, info.st_gid, times, contents, bool(links))
    return found
