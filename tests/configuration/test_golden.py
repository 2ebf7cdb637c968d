"""What docs/format.md says of configuration, held to bytes that were written once and are never made again."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lifeboat.configuration.archive import read_archive, write_archive
from lifeboat.configuration.archiving import marks_of
from lifeboat.configuration.files import Entry, FileList
from lifeboat.keys import Keyring, SigningKey

TAR = Path(__file__).parents[1] / "golden" / "v1" / "configuration.tar"
DATA = b"WORKERS=4\n"
STRANGE = "caf\udce9.yaml"
ENTRIES = (
    Entry(".env", "file", 0o600, 1000, 1000, len(DATA), hashlib.sha256(DATA).hexdigest()),
    Entry("k8s", "folder", 0o755, 0, 0),
    Entry(f"k8s/{STRANGE}", "file", 0o644, 0, 0, 0, hashlib.sha256(b"").hexdigest()),
    Entry("k8s/now.yaml", "link", 0o777, 0, 0, link=STRANGE),
)
KEY = bytes(range(32))
PAD = "4ade474809723c547ace4820987b30f9f82b5445fe9865e964abac58b56764fd"
FINGERPRINT = "e1fa8dc336897e5b978fe6b94e5bbf8c750d38ba9fa19eb77cf64e54b96f56e4"


def test_an_archive_of_the_first_format_is_read() -> None:
    read = {entry: b"".join(data) for entry, data in read_archive([TAR.read_bytes()])}

    assert tuple(read) == ENTRIES
    assert read[ENTRIES[0]] == DATA


def test_an_archive_is_written_exactly_so() -> None:
    chunks = write_archive(ENTRIES, lambda entry: iter([DATA] if entry.size else []), bytes.fromhex(PAD))

    assert b"".join(chunks) == TAR.read_bytes()


def test_fingerprint_marks_and_pad_are_made_as_the_format_says() -> None:
    marks = marks_of(Keyring(signing_key=SigningKey("golden", KEY)), "configuration", FileList(ENTRIES))

    def key(purpose: bytes) -> bytes:
        info = b"lifeboat/1 configuration " + purpose + b"\0configuration"
        return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(KEY)

    records = [[e.path, e.what, e.mode, e.uid, e.gid, e.size, e.sha256, e.link] for e in ENTRIES]
    everything = b"all\0" + json.dumps(records).encode()
    assert hmac.digest(key(b"pad"), everything, "sha256").hex() == PAD
    assert hmac.digest(key(b"marks"), everything, "sha256").hex() == FINGERPRINT == marks.fingerprint
    name = hmac.digest(key(b"marks"), b'name\0".env"', "sha256")[:8].hex()
    assert (
        marks.files[name]
        == hmac.digest(key(b"marks"), b"entry\0" + json.dumps(records[0]).encode(), "sha256")[:8].hex()
    )
