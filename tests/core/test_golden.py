"""Whatever a released Lifeboat has written opens for ever."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from lifeboat import sealing
from lifeboat.files.check import pack_check
from lifeboat.files.restore import restore_tree
from lifeboat.keys import Identity, Keyring
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.vault import Member, Vault
from tests.golden.make import fill_tree, pattern

GOLDEN = Path(__file__).parents[1] / "golden"
TREES = sorted(path.name for path in GOLDEN.glob("files*"))
VERSIONS = sorted(path.name for path in GOLDEN.glob("v*"))


def keyring_of(version: str, tmp_path: Path) -> Keyring:
    """The version's keys, copied, since a checkout does not keep that private files are for their owner only."""
    keys = Path(shutil.copytree(GOLDEN / version / "keys", tmp_path / "keys"))
    for path in keys.iterdir():
        path.chmod(0o600)
    return Keyring.from_folder(keys)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["operations", "escrow", "classic", "later"])
def test_a_vault_of_every_released_format_opens_for_every_recipient(version: str, name: str, tmp_path: Path) -> None:
    keyring = keyring_of(version, tmp_path)
    alone = tuple(identity for identity in keyring.identities if identity.name == name)
    repository = LocalDiskRepository(GOLDEN / version / "vault", "golden")
    vault = Vault.open([Member(repository)], Keyring(identities=alone, signers=keyring.signers), [])

    snapshot = vault.find("orders")

    assert vault.verify(snapshot, "golden").faults == {}
    assert vault.verify(snapshot, "golden").unsealed
    assert b"".join(vault.read(snapshot, "empty")) == b""
    assert b"".join(vault.read(snapshot, "short")) == b"one row\n"
    assert b"".join(vault.read(snapshot, "long")) == b"".join(b"%d\n" % n for n in range(100_000))
    assert snapshot.manifest.facts["server_version"] == "17.10"


@pytest.mark.parametrize("version", VERSIONS)
def test_segments_of_every_released_format_are_made_exactly_so(version: str, tmp_path: Path) -> None:
    vector = json.loads((GOLDEN / version / "segments.json").read_text())
    keyring = keyring_of(version, tmp_path)
    operations: list[Identity] = [identity for identity in keyring.identities if identity.name == "operations"]
    header = sealing.read_header(sealing._Reader([bytes.fromhex(vector["header"])]).take)
    data_key = sealing.open_data_key(header, vector["object_id"], operations)
    cipher = sealing._payload_cipher(data_key, header, vector["object_id"])

    segments = sealing._seal_segments([pattern(vector["plain_size"])], cipher, header.nonce_prefix, vector["object_id"])

    assert data_key.hex() == vector["data_key"]
    assert [hashlib.sha256(segment).hexdigest() for segment in segments] == vector["segments_sha256"]


@pytest.mark.parametrize("version", TREES)
@pytest.mark.parametrize("name", ["operations", "escrow"])
def test_a_tree_of_every_released_format_comes_back(version: str, name: str, tmp_path: Path) -> None:
    keyring = keyring_of(version, tmp_path)
    alone = tuple(identity for identity in keyring.identities if identity.name == name)
    repository = LocalDiskRepository(GOLDEN / version / "vault", "golden")
    vault = Vault.open([Member(repository)], Keyring(identities=alone, signers=keyring.signers), [])
    fill_tree(tmp_path / "tree")
    older, newer = vault.list("uploads").snapshots

    for snapshot in (older, newer):
        verified = vault.verify(snapshot, "golden", check_pack=pack_check(vault, snapshot, "golden"))
        assert (verified.faults, verified.unsealed) == ({}, True)
        restore_tree(vault, snapshot, tmp_path / str(snapshot.id)).raise_faults()

    first, second = (contents(tmp_path / str(snapshot.id)) for snapshot in (older, newer))
    assert first == contents(tmp_path / "tree")
    assert second == first | {"invoices/later.txt": (b"later\n", 0o644)}
    assert (tmp_path / str(older.id) / "empty").stat().st_nlink == 2
    assert (tmp_path / str(older.id) / "random").stat().st_mtime_ns == 10**18
    assert {pack.id for pack in older.manifest.packs} < {pack.id for pack in newer.manifest.packs}


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and modes of the files in a tree, and where its links lead."""
    return {
        str(path.relative_to(root)): (os.fsencode(path.readlink()), 0)
        if path.is_symlink()
        else (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in root.rglob("*")
        if not path.is_dir()
    }


def test_there_are_golden_objects() -> None:
    assert VERSIONS
    assert TREES
