"""Writes the golden objects of the present format, once, when a format is released: `python tests/golden/make.py v1`.

`make.py files1` writes those of trees of files. They are then committed and never made again: what they are for is to
be read by every later version.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lifeboat import sealing
from lifeboat.custody import rewrap
from lifeboat.files.source import TreeSource
from lifeboat.files.sync import back_up_tree
from lifeboat.keys import CLASSIC, Identity, Keyring, SigningKey, write_key
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.snapshot import Kind
from lifeboat.vault import Member, Vault

HERE = Path(__file__).parent
MOMENT = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


def main(version: str) -> None:
    if version.startswith("files"):
        make_tree(HERE / version)
        return
    folder = HERE / version
    identities = Identity.generate("operations"), Identity.generate("escrow"), Identity.generate("classic", CLASSIC)
    later = Identity.generate("later")
    signing_key = SigningKey.generate("host-1")
    for identity in (*identities, later):
        write_key(folder / "keys", identity)
        write_key(folder / "keys", identity.recipient)
    write_key(folder / "keys", signing_key)
    write_key(folder / "keys", signing_key.signer)
    make_vault(folder, Keyring.from_folder(folder / "keys"))
    (folder / "segments.json").write_text(json.dumps(make_segments(identities[0]), indent=1) + "\n")


def make_vault(folder: Path, keyring: Keyring) -> None:
    """A vault with one snapshot: an empty artifact, a short one, and one of several chunks; rewrapped for `later`."""
    members = [Member(LocalDiskRepository(folder / "vault", "golden"))]
    Vault.create(members)
    vault = Vault.open(members, keyring, ["classic", "escrow", "operations"])
    writer = vault.begin("orders", Kind.POSTGRES, began=MOMENT, scheduled_for=MOMENT)
    writer("empty", [], media_type="application/octet-stream")
    writer("short", [b"one row\n"], media_type="text/plain")
    writer("long", [b"%d\n" % n for n in range(100_000)], media_type="text/plain")
    snapshot = writer.commit({"database": "orders", "server_version": "17.10"})
    rewrap(vault, [snapshot], [keyring.recipients["later"]])


def make_tree(folder: Path) -> None:
    """A vault with two snapshots of a tree: packs that both share, compressed blocks and others, odd names, holes."""
    for identity in (Identity.generate("operations"), Identity.generate("escrow")):
        write_key(folder / "keys", identity)
        write_key(folder / "keys", identity.recipient)
    signing_key = SigningKey.generate("host-1")
    write_key(folder / "keys", signing_key)
    write_key(folder / "keys", signing_key.signer)
    members = [Member(LocalDiskRepository(folder / "vault", "golden"))]
    Vault.create(members)
    vault = Vault.open(members, Keyring.from_folder(folder / "keys"), ["escrow", "operations"])
    with tempfile.TemporaryDirectory() as temporary:
        root, state = Path(temporary) / "tree", Path(temporary) / "state"
        fill_tree(root)
        source = TreeSource("uploads", str(root), state)
        back_up_tree(vault, source, began=MOMENT)
        (root / "invoices" / "later.txt").write_bytes(b"later\n")
        back_up_tree(vault, source, began=MOMENT + timedelta(days=1))


def fill_tree(root: Path) -> None:
    """What is in the golden tree's first snapshot."""
    (root / "invoices").mkdir(parents=True)
    (root / "invoices" / "short.txt").write_bytes(b"one row\n")
    (root / "invoices" / "long.txt").write_bytes(b"".join(b"%d\n" % n for n in range(300_000)))
    (root / "random").write_bytes(b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(2000)))
    (root / "empty").write_bytes(b"")
    (root / "link").symlink_to("invoices/short.txt")
    os.link(root / "empty", root / "another name")
    Path(os.fsdecode(os.fsencode(root) + b"/not utf-8 \xff")).write_bytes(b"odd\n")
    with (root / "sparse").open("wb") as file:
        file.truncate(3_000_000)
        file.seek(1_000_000)
        file.write(b"in the middle")
    (root / "random").chmod(0o640)
    for path in root.rglob("*"):
        os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


def make_segments(identity: Identity) -> dict[str, object]:
    """An object of three full-length segments and a short one, as header, data key and digests of its segments."""
    object_id = "golden/orders/20261123T020000Z-00000000/dump"
    plain = pattern(3 * sealing.PLAIN_SEGMENT + 1000)
    sealed = b"".join(sealing.seal([plain], object_id=object_id, recipients=[identity.recipient]))
    reader = sealing._Reader([sealed])
    header = sealing.read_header(reader.take)
    segments = iter(lambda: reader.take_up_to(sealing.SEGMENT), b"")
    return {
        "object_id": object_id,
        "plain": "the bytes n % 251 for n from 0",
        "plain_size": len(plain),
        "header": header.raw.hex(),
        "data_key": sealing.open_data_key(header, object_id, [identity]).hex(),
        "segments_sha256": [hashlib.sha256(segment).hexdigest() for segment in segments],
    }


def pattern(size: int) -> bytes:
    """The bytes n % 251 for n from 0."""
    return bytes(n % 251 for n in range(size))


if __name__ == "__main__":
    main(sys.argv[1])
