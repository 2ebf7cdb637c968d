#!/usr/bin/env python3
"""Opens backups made by Lifeboat with nothing but Python and the keys.

    python3 restore.py list     PLACE          --keys KEYS     what there is
    python3 restore.py show     PLACE SNAPSHOT --keys KEYS     what is in a snapshot
    python3 restore.py verify   PLACE SNAPSHOT --keys KEYS     whether every byte of it is as it was written
    python3 restore.py unseal   PLACE SNAPSHOT [ARTIFACT …] --keys KEYS --to FOLDER
    python3 restore.py unseal   PLACE SNAPSHOT  ARTIFACT    --keys KEYS --to - | pg_restore …
    python3 restore.py commands PLACE SNAPSHOT --keys KEYS --from FOLDER > restore.sh
    python3 restore.py files    PLACE SNAPSHOT [PATH …] --keys KEYS                what is in a snapshot of files
    python3 restore.py extract  PLACE SNAPSHOT [PATH …] --keys KEYS --to FOLDER    those files, or all

PLACE is a folder that holds a copy of a repository, s3://bucket/prefix or azure://container/prefix. SNAPSHOT is as
`list` shows it, its id alone, or a source's name for its newest. KEYS is a folder of <name>.identity and <name>.signer.

Needs Python 3.11 or newer, `cryptography` and, before Python 3.14, `backports.zstd`; boto3 or azure-storage-blob only
where the copy is in S3 or Azure. Shares no code with Lifeboat: it is a second reader of docs/format.md.
Exit status: 0 when all is well, 1 on any doubt, 2 when the command was not understood.
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import struct
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

try:
    from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, hpke
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError as missing:
    sys.exit(f"restore.py lacks a package ({missing}). Remedy: pip install 'cryptography>=48' backports.zstd")

SEGMENT = 1024 * 1024
RANGE = 8 * SEGMENT
SMALL = 64 * SEGMENT
ATTEMPTS = 5

TRUST_FLAG = "--trust-manifests-that-anybody-may-have-forged"


class Refused(Exception):
    """Something is not as it must be; the message is for a person."""


class Unreachable(Refused):
    """The storage did not answer; the same may succeed a moment later."""


class NoKey(Refused):
    """None of the identities at hand opens an artifact."""


# ---- commands -------------------------------------------------------------------------------------------------------


def list_snapshots(options: argparse.Namespace) -> None:
    """Print every snapshot whose manifest is in order, oldest first, and why others are not."""
    place, keys = open_place(options.place, options.endpoint_url), read_keys(options.keys)
    refused = 0
    for label in sorted(labels(place), key=lambda label: (label.source, label.id)):
        try:
            snapshot = read_snapshot(place, label, keys)
        except Refused as refusal:
            refused += 1
            complain(refusal)
            continue
        print(f"{label}  {size_of(snapshot)} bytes  {signed(snapshot)}")
    demand_signers(keys, options)
    if refused:
        raise Refused(f"{refused} snapshots cannot be used as they are here.")


def show(options: argparse.Namespace) -> None:
    """Print what a snapshot's manifest says."""
    place, keys = open_place(options.place, options.endpoint_url), read_keys(options.keys)
    snapshot = choose(place, options.snapshot, keys)
    manifest = snapshot.manifest
    print(f"{snapshot.label}  {signed(snapshot)}")
    for name in SHOWN:
        print(f"  {name}: {json.dumps(manifest[name])}")
    for artifact in snapshot.artifacts:
        print(f"  {artifact.name}  {artifact.plain_size} bytes  {json.dumps(artifact.media_type)}")
    if is_database(snapshot):
        print(f"\nTo restore it:\n  {next_command('unseal', options)} --to FOLDER")
        print(f"  {next_command('commands', options)} --from FOLDER > restore.sh")
    if is_tree(snapshot):
        print(f"  {len(snapshot.packs)} packs with contents of files")
        print(f"\nTo restore it:\n  {next_command('extract', options)} --to FOLDER")
    if is_configuration(snapshot):
        print(f"\nTo get its files:\n  {next_command('extract', options)} --to FOLDER")
    demand_signers(keys, options)


def verify(options: argparse.Namespace) -> None:
    """Read every byte of a snapshot: signature, digests, seals."""
    place, keys = open_place(options.place, options.endpoint_url), read_keys(options.keys)
    snapshot = choose(place, options.snapshot, keys)
    broken = 0
    look = unseal_artifact if keys.identities else check_stored
    for artifact in snapshot.artifacts:
        try:
            for _ in look(place, snapshot, artifact, keys):
                pass
            print(f"{artifact.name}  whole")
        except Refused as refusal:
            broken += 1
            complain(refusal)
    broken += verify_packs(place, snapshot, keys)
    demand_signers(keys, options)
    if broken:
        count = len(snapshot.artifacts) + len(snapshot.packs)
        raise Refused(f"{broken} of {count} artifacts and packs are not whole. Try another repository.")
    if not keys.identities:
        raise Refused("The stored bytes are right, but no seal was opened: the keys folder has no .identity file.")


def unseal(options: argparse.Namespace) -> None:
    """Write artifacts into a folder, each only when all of it is right, or one of them to standard output."""
    place, keys = open_place(options.place, options.endpoint_url), read_keys(options.keys)
    snapshot = choose(place, options.snapshot, keys)
    demand_signers(keys, options)
    wanted = [find_artifact(snapshot, name) for name in options.artifact] or list(snapshot.artifacts)
    if options.to == "-":
        pour(place, snapshot, wanted, keys)
        return
    folder = Path(options.to)
    for artifact in wanted:
        if os.path.lexists(folder / artifact.name):
            raise Refused(f"{folder / artifact.name} exists already. Nothing is overwritten: choose another folder.")
    refused = []
    for artifact in wanted:
        try:
            write_aside(folder / artifact.name, unseal_artifact(place, snapshot, artifact, keys))
            remark(f"{folder / artifact.name}  {artifact.plain_size} bytes")
        except NoKey:
            raise
        except Refused as refusal:
            refused.append(artifact.name)
            complain(refusal)
    if refused:
        raise Refused(f"Not written: {', '.join(refused)}. Try another repository.")
    if is_database(snapshot) and not options.artifact:
        remark(f"Next: {next_command('commands', options)} --from {shlex.quote(options.to)} > restore.sh")


def commands(options: argparse.Namespace) -> None:
    """Print a script for bash that restores an unsealed PostgreSQL snapshot with psql and pg_restore."""
    place, keys = open_place(options.place, options.endpoint_url), read_keys(options.keys)
    snapshot = choose(place, options.snapshot, keys)
    demand_signers(keys, options)
    if not is_database(snapshot):
        raise Refused(f"{snapshot.label} is no PostgreSQL snapshot with a dump and evidence.")
    evidence = b"".join(unseal_artifact(place, snapshot, find_artifact(snapshot, "evidence"), keys))
    try:
        print(restore_script(snapshot, json.loads(evidence), str(Path(options.folder).absolute()), options.database))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused("The evidence is not in the form that this program knows. Use a newer one.") from None


def list_files(options: argparse.Namespace) -> None:
    """Print what a snapshot of files has, or what of it stands at or below some paths."""
    place, keys = open_place(options.place, options.endpoint_url), read_keys(options.keys)
    snapshot = choose(place, options.snapshot, keys)
    demand_signers(keys, options)
    for entry in read_index(place, snapshot, keys).entries:
        if is_wanted(path_of(entry), options.path):
            mode, size, name = entry["mode"], entry.get("size", 0), shown(path_of(entry))
            print(f"{entry['type']:<10} {mode:04o} {size:>12}  {name}{'  NOT READ' if 'fault' in entry else ''}")


def extract(options: argparse.Namespace) -> None:
    """Put files of a snapshot into a new folder, all of them or those whose paths are given."""
    place, keys = open_place(options.place, options.endpoint_url), read_keys(options.keys)
    snapshot = choose(place, options.snapshot, keys)
    demand_signers(keys, options)
    if not is_configuration(snapshot) and not is_tree(snapshot):
        raise Refused(f"{snapshot.label} is no snapshot of configuration files or of a tree.")
    folder = Path(options.to)
    if os.path.lexists(folder):
        raise Refused(f"{folder} exists already. Nothing is overwritten: choose another folder.")
    if is_configuration(snapshot):
        extract_configuration(place, snapshot, keys, folder, options.path)
    else:
        extract_tree(place, snapshot, keys, folder, options.path)


def extract_tree(place: Place, snapshot: Snapshot, keys: Keys, folder: Path, paths: Sequence[str]) -> None:
    """Write entries of a tree into a new folder, each only when all of it is right."""
    index = read_index(place, snapshot, keys)
    wanted = [entry for entry in index.entries if is_wanted(path_of(entry), paths)]
    if not wanted:
        raise Refused("Nothing in this snapshot has such a path. `files` shows what there is.")
    folder.mkdir(mode=0o700, parents=True)
    refused = extract_entries(place, snapshot, keys, index, wanted, folder)
    remark(f"{folder}  {len(wanted) - refused} of {len(wanted)} things")
    if refused:
        raise Refused(f"{refused} could not be written. Try another repository or snapshot for these.")


def extract_configuration(place: Place, snapshot: Snapshot, keys: Keys, folder: Path, paths: Sequence[str]) -> None:
    """Put configuration files into a new folder."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.unfinished")
    aside.mkdir(mode=0o700)
    try:
        chunks = unseal_artifact(place, snapshot, find_artifact(snapshot, CONFIGURATION), keys)
        files = unpack(chunks, aside, paths)
        if paths and not files:
            raise Refused(f"{snapshot.label} has nothing at {', '.join(map(ascii, paths))}.")
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    remark(f"{folder}  {files} files. They belong to whoever ran this; modes are as they were, without risky bits.")


# ---- snapshots ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Label:
    """Where a snapshot stands: source, tier and id."""

    source: str
    tier: str
    id: str

    def __str__(self) -> str:
        return f"{self.source}/{self.tier}/{self.id}"


@dataclass(frozen=True)
class Artifact:
    """What the manifest says of one sealed object."""

    name: str
    media_type: str
    plain_size: int
    plain_sha256: str
    sealed_size: int
    sealed_sha256: str


@dataclass(frozen=True)
class Pack:
    """What the manifest says of one object with contents of files."""

    id: str
    plain_size: int
    sealed_size: int
    sealed_sha256: str


@dataclass(frozen=True)
class Snapshot:
    """A snapshot whose manifest is in order. `signer` is the name of the key that signed it; None: nobody looked."""

    label: Label
    manifest: dict[str, Any]
    artifacts: tuple[Artifact, ...]
    signer: str | None
    packs: tuple[Pack, ...] = ()


NAME = r"[a-z0-9][a-z0-9_-]{0,62}"
MANIFEST_KEY = re.compile(rf"snapshots/({NAME})/(daily|weekly|monthly)/(\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}})/manifest\.json")
MANIFEST_TYPE = "application/vnd.lifeboat.manifest+json"
SHOWN = ("kind", "began", "finished", "written_by", "facts")
CONFIGURATION = "configuration"
DUMP_TYPE = "application/vnd.postgresql.dump"


def labels(place: Place) -> list[Label]:
    """Every place where a manifest stands."""
    found = (MANIFEST_KEY.fullmatch(key) for key in place.keys("snapshots/"))
    return [Label(*match.groups()) for match in found if match]


def choose(place: Place, text: str, keys: Keys) -> Snapshot:
    """The snapshot that a person named: in full, by its id, or the newest of a source."""
    full = MANIFEST_KEY.fullmatch(f"snapshots/{text}/manifest.json")
    if full:
        return read_snapshot(place, Label(*full.groups()), keys)
    fitting = [label for label in labels(place) if text in (label.source, label.id)]
    if not fitting:
        raise Refused(f"There is no snapshot {text!a} in {place.name}. `list` shows what there is.")
    # A host whose clock ran ahead once has made one that would be the newest until that day has come.
    limit = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + 3600))
    newest = max((label.id for label in fitting), key=lambda one: (one[: len(limit)] <= limit, one))
    for late in sorted({label.id for label in fitting if label.id > newest}):
        remark(f"{late} is passed over: by this host's clock its date is in the future. Its id chooses it.")
    return read_snapshot(place, next(label for label in sorted(fitting, key=str) if label.id == newest), keys)


def read_snapshot(place: Place, label: Label, keys: Keys) -> Snapshot:
    """The snapshot at a place, once its manifest is signed by a signer at hand and stands where it belongs."""
    key = f"snapshots/{label}/manifest.json"
    payload, signer = open_envelope(read_small(place, key), keys, key)
    try:
        manifest = json.loads(payload)
        if manifest["format"] not in (1, 2):
            raise Refused(f"{key} has a format that this program does not know. Use a newer one.")
        artifacts = tuple(Artifact(**artifact) for artifact in manifest["artifacts"])
        packs = tuple(Pack(**pack) for pack in manifest["packs"]) if manifest["format"] == 2 else ()
        stands_for = (manifest["vault_id"], manifest["source"], manifest["snapshot_id"])
        complete = set(SHOWN) <= manifest.keys() and isinstance(manifest["facts"], dict)
        sizes = [size for artifact in artifacts for size in (artifact.plain_size, artifact.sealed_size)]
        sizes += [size for pack in packs for size in (pack.plain_size, pack.sealed_size)]
        if not complete or not all(isinstance(size, int) for size in sizes):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{key} is damaged: it is not a manifest.") from None
    names = [artifact.name for artifact in artifacts]
    if len(set(names)) < len(names) or not all(re.fullmatch(NAME, name) for name in names):
        raise Refused(f"{key} is damaged: it names artifacts twice, or by names that cannot be.")
    vault = read_vault_id(place)
    if stands_for != (vault, label.source, label.id):
        raise Refused(f"{key} belongs to another place or vault: somebody moved it here, by mistake or to deceive.")
    if not all(re.fullmatch("[0-9a-f]{32}", pack.id) for pack in packs):
        raise Refused(f"{key} is damaged: it names packs by names that cannot be.")
    return Snapshot(label, manifest, artifacts, signer, packs)


@functools.cache
def read_vault_id(place: Place) -> str:
    try:
        record = json.loads(read_small(place, "lifeboat.json"))
        if record["format"] != 1:
            raise Refused("lifeboat.json has a format that this program does not know. Use a newer one.")
        return str(record["vault_id"])
    except (ValueError, KeyError, TypeError):
        raise Refused("lifeboat.json is damaged. Every repository of the vault has the same one; copy it.") from None


def open_envelope(envelope: bytes, keys: Keys, key: str) -> tuple[bytes, str | None]:
    """The payload of a DSSE envelope and who signed it; None when there is no signer at hand."""
    try:
        record = json.loads(envelope)
        payload = base64.b64decode(record["payload"], validate=True)
        kind = record["payloadType"]
        signatures = [(s["keyid"], base64.b64decode(s["sig"], validate=True)) for s in record["signatures"]]
        message = b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused(f"{key} is damaged: it is not a signed record.") from None
    if kind != MANIFEST_TYPE:
        raise Refused(f"{key} is a record of another type, put there by mistake or to deceive.")
    if not keys.signers:
        return payload, None
    for key_id, signature in signatures:
        if key_id in keys.signers:
            name, signer = keys.signers[key_id]
            try:
                signer.verify(signature, message)
                return payload, name
            except InvalidSignature:
                continue
    raise Refused(f"{key} is not signed by any signer in the keys folder: forged, altered, or of another host.")


def find_artifact(snapshot: Snapshot, name: str) -> Artifact:
    for artifact in snapshot.artifacts:
        if artifact.name == name:
            return artifact
    names = ", ".join(artifact.name for artifact in snapshot.artifacts)
    raise Refused(f"{snapshot.label} has no artifact {name!a}. It has: {names}.")


def is_database(snapshot: Snapshot) -> bool:
    return {"dump", "evidence"} <= {artifact.name for artifact in snapshot.artifacts}


def is_tree(snapshot: Snapshot) -> bool:
    return bool(snapshot.manifest["kind"] == "files")


def is_configuration(snapshot: Snapshot) -> bool:
    return snapshot.manifest["kind"] == "config" and CONFIGURATION in {a.name for a in snapshot.artifacts}


def size_of(snapshot: Snapshot) -> int:
    return sum(a.plain_size for a in snapshot.artifacts) + sum(p.plain_size for p in snapshot.packs)


def signed(snapshot: Snapshot) -> str:
    return f"signed by {snapshot.signer}" if snapshot.signer else "SIGNATURE NOT CHECKED"


def demand_signers(keys: Keys, options: argparse.Namespace) -> None:
    """Nothing is certain about a manifest whose signature nobody could check."""
    if keys.signers:
        return
    remark(
        "WARNING: SIGNATURES WERE NOT CHECKED. Whoever can write to this storage may have forged what is shown here."
    )
    if not options.trust:
        raise Refused(f"No .signer file is at hand. Put one into the keys folder; or, knowing the risk: {TRUST_FLAG}")


# ---- sealed artifacts -----------------------------------------------------------------------------------------------


def unseal_artifact(place: Place, snapshot: Snapshot, artifact: Artifact, keys: Keys) -> Iterator[bytes]:
    """Yield an artifact's plaintext; refuses at the latest where it ends, unless sizes and digests are as they were."""
    label = snapshot.label
    object_id = f"{snapshot.manifest['vault_id']}/{label.source}/{label.id}/{artifact.name}"
    digest, size = hashlib.sha256(), 0

    def others() -> WrappedKeys:
        return rewrapped_keys(place, label, artifact.name)

    stored = sealed(place, snapshot, artifact)
    for chunk in decompress(unseal_stream(stored, object_id, keys.identities, others)):
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    if (size, digest.hexdigest()) != (artifact.plain_size, artifact.plain_sha256):
        raise Refused(f"{label}/{artifact.name} holds other bytes than its manifest says. Use another snapshot.")


def check_stored(place: Place, snapshot: Snapshot, artifact: Artifact, _: Keys) -> Iterator[bytes]:
    """The same as `sealed`, for want of an identity."""
    return sealed(place, snapshot, artifact)


def sealed(place: Place, snapshot: Snapshot, artifact: Artifact) -> Iterator[bytes]:
    """Yield an artifact as it is stored; refuses unless size and digest are those of the manifest."""
    return stored(place, f"snapshots/{snapshot.label}/{artifact.name}.sealed", artifact)


def stored(place: Place, key: str, what: Artifact | Pack) -> Iterator[bytes]:
    size = place.size(key)
    if size != what.sealed_size:
        raise Refused(f"{key} has {size} bytes and must have {what.sealed_size}: cut short, or replaced.")
    digest = hashlib.sha256()
    for start in range(0, size, RANGE):
        chunk = read_range(place, key, start, min(RANGE, size - start))
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != what.sealed_sha256:
        raise Refused(f"{key} is not what was stored: its digest differs from the manifest's.")


WrappedKeys = Sequence[tuple[bytes, bytes]]


def unseal_stream(
    chunks: Iterable[bytes],
    object_id: str,
    identities: dict[bytes, Identity],
    others: Callable[[], WrappedKeys] = tuple,
) -> Iterator[bytes]:
    """Yield the inside of a sealed stream, every segment only after it has been authenticated.

    `others` gives what the data key was wrapped for later.
    """
    reader = Reader(chunks)
    fixed = reader.take(83)
    if fixed[:8] != b"LIFEBOAT":
        raise Refused(f"{object_id} is not a sealed artifact: it does not begin with LIFEBOAT.")
    version, suite, count, salt, nonce_prefix, commitment = struct.unpack(">BBH32s7s32s", fixed[8:])
    if (version, suite) != (1, 1):
        raise Refused(f"{object_id} has format {version}, suite {suite}, which this program does not know.")
    if not 1 <= count <= 64:
        raise Refused(f"{object_id} is damaged: its header names {count} recipients.")
    recipients = b""
    wrapped_keys = []
    for _ in range(count):
        stanza = reader.take(18)
        key_id, length = struct.unpack(">16sH", stanza)
        wrapped = reader.take(length)
        wrapped_keys.append((key_id, wrapped))
        recipients += stanza + wrapped
    bound = hashlib.sha256(fixed[:51] + recipients).digest()

    def is_committed(data_key: bytes) -> bool:
        return hmac.compare_digest(hkdf(data_key, salt, b"lifeboat/1 commitment\0" + bound), commitment)

    data_key = open_data_key(wrapped_keys, others, object_id, identities, is_committed)
    cipher = AESGCM(hkdf(data_key, salt, b"lifeboat/1 payload\0" + bound + object_id.encode()))
    index, last = 0, False
    while not last:
        segment = reader.take_up_to(SEGMENT)
        last = reader.at_end()
        try:
            plain = cipher.decrypt(nonce_prefix + struct.pack(">IB", index, last), segment, object_id.encode())
        except (InvalidTag, ValueError):
            raise Refused(f"{object_id} was altered, cut short or extended at segment {index}.") from None
        yield plain
        index += 1


def open_data_key(
    wrapped_keys: WrappedKeys,
    others: Callable[[], WrappedKeys],
    object_id: str,
    identities: dict[bytes, Identity],
    is_committed: Callable[[bytes], bool],
) -> bytes:
    """The data key, unwrapped by whichever identity can, from the header or from what was wrapped later."""
    tried = False
    for later in (False, True):
        for key_id, wrapped in others() if later else wrapped_keys:
            if key_id in identities:
                tried = True
                data_key = identities[key_id].unwrap(wrapped, b"lifeboat/1 data key\0" + object_id.encode())
                if data_key is not None and is_committed(data_key):
                    return data_key
    if tried:
        raise Refused(f"The header of {object_id} was altered, or belongs to another artifact.")
    at_hand = ", ".join(f"{identity.name} ({key_id.hex()})" for key_id, identity in identities.items())
    raise NoKey(
        f"No identity at hand opens {object_id}. It is sealed for {', '.join(k.hex() for k, _ in wrapped_keys)}; "
        f"at hand: {at_hand or 'none'}. Fetch the identity of one of those keys."
    )


def rewrapped_keys(place: Place, label: Label, artifact: str) -> WrappedKeys:
    """The same data key for recipients that came later. Not signed: the commitment in the header judges them."""
    return wrapped_under(place, f"snapshots/{label}/rewrapped/{artifact}-")


def wrapped_under(place: Place, prefix: str) -> WrappedKeys:
    """The wrapped keys in objects of this prefix and eight digits."""
    name = re.compile(rf"{re.escape(prefix)}[0-9a-f]{{8}}\.json")
    found = []
    for key in place.keys(prefix):
        if name.fullmatch(key):
            try:
                record = json.loads(read_small(place, key, SEGMENT))
                if record["format"] == 1:
                    found += [
                        (bytes.fromhex(r["key_id"]), base64.b64decode(r["wrapped"], validate=True))
                        for r in record["recipients"]
                    ]
            except (Refused, ValueError, KeyError, TypeError):
                remark(f"WARNING: {key} is damaged and was left out.")
    return found


def decompress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the inside of one whole zstd frame with nothing after it, in pieces of at most 1 MiB."""
    frame = zstd.ZstdDecompressor()
    try:
        for chunk in chunks:
            if frame.eof:
                raise Refused("Bytes follow the end of a compressed stream.")
            yield frame.decompress(chunk, max_length=SEGMENT)
            while not frame.eof and not frame.needs_input:
                yield frame.decompress(b"", max_length=SEGMENT)
    except zstd.ZstdError:
        raise Refused("A compressed stream is damaged.") from None
    if not frame.eof or frame.unused_data:
        raise Refused("A compressed stream is cut short, or bytes follow it.")


class Reader:
    """Takes exact counts of bytes out of a stream of chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._waiting = bytearray()

    def take(self, count: int) -> bytes:
        data = self.take_up_to(count)
        if len(data) < count:
            raise Refused("A sealed artifact ends inside its header: it was cut short.")
        return data

    def take_up_to(self, count: int) -> bytes:
        self._wait_for(count)
        data = bytes(self._waiting[:count])
        del self._waiting[:count]
        return data

    def at_end(self) -> bool:
        self._wait_for(1)
        return not self._waiting

    def _wait_for(self, count: int) -> None:
        while len(self._waiting) < count and (chunk := next(self._chunks, None)) is not None:
            self._waiting += chunk


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(key)


# ---- keys -----------------------------------------------------------------------------------------------------------


class Identity:
    """A private key that unseals."""

    def __init__(self, name: str, algorithm: str, raw: bytes) -> None:
        self.name = name
        scalar = X25519PrivateKey.from_private_bytes(raw[-32:])
        public = scalar.public_key().public_bytes_raw()
        self._private: X25519PrivateKey | hpke.MLKEM768X25519PrivateKey = scalar
        kem = hpke.KEM.X25519
        if algorithm == "mlkem768-x25519":
            try:
                seed = MLKEM768PrivateKey.from_seed_bytes(raw[:-32])
            except UnsupportedAlgorithm:
                raise Refused("This build of `cryptography` has no ML-KEM. Install its wheel with pip.") from None
            public = seed.public_key().public_bytes_raw() + public
            self._private = hpke.MLKEM768X25519PrivateKey(seed, scalar)
            kem = hpke.KEM.MLKEM768_X25519
        self._suite = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
        self.key_id = hashlib.sha256(algorithm.encode() + b"\0" + public).digest()[:16]

    def unwrap(self, wrapped: bytes, info: bytes) -> bytes | None:
        try:
            return self._suite.decrypt(wrapped, self._private, info)
        except (InvalidTag, ValueError):
            return None


@dataclass(frozen=True)
class Keys:
    """The keys at hand, by key id."""

    identities: dict[bytes, Identity]
    signers: dict[str, tuple[str, Ed25519PublicKey]]


LENGTHS = {
    ("identity", "mlkem768-x25519"): 96,
    ("identity", "x25519"): 32,
    ("signer", "ed25519"): 32,
}


def read_keys(folder: str | None) -> Keys:
    """The identities and signers in a folder; none without a folder."""
    keys = Keys({}, {})
    if folder is None:
        return keys
    if not Path(folder).is_dir():
        raise Refused(f"There is no keys folder {folder}.")
    for path in sorted(Path(folder).iterdir()):
        role = path.suffix[1:]
        if role == "identity":
            identity = Identity(path.stem, *read_key(path, role))
            keys.identities[identity.key_id] = identity
        elif role == "signer":
            raw = read_key(path, role)[1]
            keys.signers[hashlib.sha256(raw).hexdigest()[:32]] = path.stem, Ed25519PublicKey.from_public_bytes(raw)
    return keys


def read_key(path: Path, role: str) -> tuple[str, bytes]:
    """Algorithm and bytes of a key. The text may be secret: no message repeats it."""
    try:
        program, found_role, algorithm, text = path.read_text("ascii").strip().split(":")
        checked = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise Refused(f"{path} is not a key: one line that begins with lifeboat:{role}: belongs there.") from None
    raw, checksum = checked[:-4], checked[-4:]
    if (program, found_role) != ("lifeboat", role) or (role, algorithm) not in LENGTHS:
        raise Refused(f"{path} is not a key that this program knows.")
    right = hashlib.sha256(f"lifeboat:{role}:{algorithm}:".encode() + raw).digest()[:4]
    if len(raw) != LENGTHS[role, algorithm] or checksum != right:
        raise Refused(f"The key in {path} is mistyped or cut short. Copy the whole line again.")
    return algorithm, raw


# ---- storage --------------------------------------------------------------------------------------------------------


class Place(Protocol):
    """Where a copy of a repository is. Every fault is raised as `Refused`."""

    name: str

    def keys(self, prefix: str) -> Iterator[str]:
        """Every object whose key begins with `prefix`."""

    def size(self, key: str) -> int:
        """An object's bytes."""

    def read(self, key: str, start: int, length: int) -> bytes:
        """Bytes of an object."""

    def __hash__(self) -> int:
        """As of every object."""


def open_place(text: str, endpoint_url: str | None) -> Place:
    """The place that a person named."""
    scheme, _, rest = text.partition("://")
    bucket, _, prefix = rest.partition("/")
    root = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
    try:
        if rest and scheme == "s3":
            return S3(text, bucket, root, endpoint_url)
        if rest and scheme == "azure":
            return Azure(text, bucket, root)
    except ImportError as missing:
        remedy = "Install it, or copy the repository to a folder."
        raise Refused(f"{scheme}:// needs a package ({missing}). {remedy}") from None
    return Folder(rest if scheme == "file" else text)


def read_small(place: Place, key: str, limit: int = SMALL) -> bytes:
    """The whole of an object that is small."""
    size = place.size(key)
    if size > limit:
        raise Refused(f"{key} has {size} bytes: it is not what belongs there.")
    return read_range(place, key, 0, size)


def read_range(place: Place, key: str, start: int, length: int) -> bytes:
    """Bytes of an object, asked for again when the storage fails in passing."""
    for attempt in range(ATTEMPTS):
        try:
            data = place.read(key, start, length) if length else b""
            break
        except Unreachable:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(2**attempt)
    if len(data) != length:
        raise Refused(f"{key} was cut short while it was read.")
    return data


class Folder:
    """A copy of a repository in a folder."""

    def __init__(self, root: str) -> None:
        self.name = root
        self._root = Path(root)
        if not self._root.is_dir():
            raise Refused(f"There is no folder {root}. It may also be s3://bucket/prefix or azure://container/prefix.")

    def keys(self, prefix: str) -> Iterator[str]:
        folder = self._root / prefix.rpartition("/")[0]
        for path in sorted(folder.rglob("*")):
            key = path.relative_to(self._root).as_posix()
            if key.startswith(prefix) and path.is_file():
                yield key

    def size(self, key: str) -> int:
        try:
            return (self._root / key).stat().st_size
        except OSError as error:
            raise Refused(f"{key} cannot be read in {self.name}: {error.strerror}.") from None

    def read(self, key: str, start: int, length: int) -> bytes:
        try:
            with (self._root / key).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise Refused(f"{key} cannot be read in {self.name}: {error.strerror}.") from None


class S3:
    """A repository in S3 or a store that speaks it; credentials from the AWS SDK's own default chain."""

    def __init__(self, name: str, bucket: str, root: str, endpoint_url: str | None) -> None:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        self.name, self._bucket, self._root = name, bucket, root
        self._refusal, self._fault = ClientError, BotoCoreError
        try:
            self._client = boto3.client("s3", endpoint_url=endpoint_url)
        except (BotoCoreError, ValueError) as error:
            raise Refused(f"{name}: {error}") from None

    def keys(self, prefix: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
        for page in self._asked(lambda: list(pages), prefix):
            yield from (item["Key"][len(self._root) :] for item in page.get("Contents", []))

    def size(self, key: str) -> int:
        head = self._asked(lambda: self._client.head_object(Bucket=self._bucket, Key=self._root + key), key)
        return int(head["ContentLength"])

    def read(self, key: str, start: int, length: int) -> bytes:
        where, part = self._root + key, f"bytes={start}-{start + length - 1}"
        ask = self._client.get_object
        return bytes(self._asked(lambda: ask(Bucket=self._bucket, Key=where, Range=part)["Body"].read(), key))

    def _asked(self, ask: Callable[[], Any], what: str) -> Any:
        try:
            return ask()
        except self._refusal as error:
            raise Refused(f"{what} cannot be read in {self.name}: {error}") from None
        except self._fault as error:
            raise Unreachable(f"{self.name} does not answer: {error}") from None


class Azure:
    """A repository in Azure Blob; credentials from AZURE_STORAGE_CONNECTION_STRING, or from AZURE_STORAGE_ACCOUNT
    with AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or, by azure-identity, the machine's or person's own."""

    def __init__(self, name: str, container: str, root: str) -> None:
        from azure.core.exceptions import AzureError, HttpResponseError
        from azure.storage.blob import BlobServiceClient

        self.name, self._root = name, root
        self._refusal, self._fault = HttpResponseError, AzureError
        said = os.environ.get
        try:
            if text := said("AZURE_STORAGE_CONNECTION_STRING"):
                service = BlobServiceClient.from_connection_string(text)
            else:
                url = f"https://{os.environ['AZURE_STORAGE_ACCOUNT']}.blob.core.windows.net"
                credential = said("AZURE_STORAGE_KEY") or said("AZURE_STORAGE_SAS_TOKEN")
                service = BlobServiceClient(url, credential or azure_login())
        except (ValueError, KeyError):  # whose messages may quote the string
            raise Refused(f"{name}: set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT and a key.") from None
        self._container = service.get_container_client(container)

    def keys(self, prefix: str) -> Iterator[str]:
        names = self._container.list_blob_names(name_starts_with=self._root + prefix)
        yield from (name[len(self._root) :] for name in self._asked(lambda: list(names), prefix))

    def size(self, key: str) -> int:
        blob = self._container.get_blob_client(self._root + key)
        return int(self._asked(lambda: blob.get_blob_properties().size, key))

    def read(self, key: str, start: int, length: int) -> bytes:
        blob = self._container.get_blob_client(self._root + key)
        return bytes(self._asked(lambda: blob.download_blob(start, length).readall(), key))

    def _asked(self, ask: Callable[[], Any], what: str) -> Any:
        try:
            return ask()
        except self._refusal as error:
            reason = getattr(error, "error_code", None) or error.reason
            raise Refused(f"{what} cannot be read in {self.name}: {reason}") from None
        except self._fault as error:
            raise Unreachable(f"{self.name} does not answer ({type(error).__name__}).") from None


def azure_login() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


# ---- trees of files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Index:
    """What was in a tree: the key of its hashes, its packs and their blocks by number, and the entries themselves."""

    hash_key: bytes
    packs: dict[int, tuple[Pack, list[list[int]]]]
    entries: list[dict[str, Any]]


def read_index(place: Place, snapshot: Snapshot, keys: Keys) -> Index:
    """The index of a snapshot of files."""
    if not is_tree(snapshot):
        raise Refused(f"{snapshot.label} is no snapshot of files.")
    signed_packs = {pack.id: pack for pack in snapshot.packs}
    lines = b"".join(unseal_artifact(place, snapshot, find_artifact(snapshot, "index"), keys)).splitlines()
    packs, entries = {}, []
    try:
        header, *records = map(json.loads, lines)
        if header["format"] != 1:
            raise Refused("The index has a format that this program does not know. Use a newer one.")
        for record in records:
            if "pack" in record:
                packs[record["pack"]] = signed_packs[record["id"]], record["blocks"]
            else:
                path_of(record)
                entries.append(record)
        return Index(bytes.fromhex(header["hash_key"]), packs, entries)
    except (ValueError, KeyError, TypeError):
        raise Refused("The index is not in the form that this program knows. Use a newer one.") from None


def path_of(entry: dict[str, Any], name: str = "path") -> bytes:
    """A path, or the target of a link. A path never leads out of the tree."""
    value = entry[name].encode() if name in entry else base64.b64decode(entry[name + "64"], validate=True)
    parts = value.split(b"/")
    if name == "path" and value and any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise Refused(f"The index names {value!r}, which leads out of the tree.")
    return bytes(value)


def is_wanted(path: bytes, wanted: Sequence[str]) -> bool:
    below = (os.fsencode(text.strip("/")) for text in wanted)
    return not wanted or any(path == folder or path.startswith(folder + b"/") for folder in below)


def shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii") or "."


def unseal_pack(place: Place, snapshot: Snapshot, pack: Pack, keys: Keys) -> Iterator[bytes]:
    """Yield a pack's plaintext; refuses at the latest where it ends."""
    source = snapshot.label.source
    prefix = f"packs/{source}/rewrapped/{pack.id}-"
    object_id = f"{snapshot.manifest['vault_id']}/{source}/pack/{pack.id}"
    sealed_pack = stored(place, f"packs/{source}/{pack.id[:2]}/{pack.id}", pack)
    return unseal_stream(sealed_pack, object_id, keys.identities, lambda: wrapped_under(place, prefix))


def pieces_in(
    place: Place, snapshot: Snapshot, keys: Keys, index: Index, number: int, pieces: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], bytes | None]]:
    """Yield each piece of a pack with its bytes, or None where they are not those that were read."""
    pack, blocks = index.packs[number]
    reader = Reader(unseal_pack(place, snapshot, pack, keys))
    at, plain = -1, b""
    for piece in sorted(pieces):
        _, block, offset, length, expected = piece
        data = bytearray()
        while len(data) < length:
            while at < block and at + 1 < len(blocks):
                at += 1
                stored_size, plain_size = blocks[at]
                plain = reader.take(stored_size)
                if stored_size != plain_size and at == block:
                    try:
                        plain = zstd.decompress(plain)
                    except zstd.ZstdError:
                        plain = b""
            part = plain[offset : offset + length - len(data)] if at == block else b""
            if not part:
                break
            data += part
            block, offset = block + 1, 0
        digest = hmac.digest(index.hash_key, bytes(data), "sha256")[:20].hex()
        yield piece, bytes(data) if len(data) == length and digest == expected else None
    while reader.take_up_to(SEGMENT):  # to its digest
        pass


def pieces_by_pack(entries: Iterable[dict[str, Any]]) -> dict[int, dict[tuple[Any, ...], list[tuple[int, int]]]]:
    """By pack and piece, which entries need it, and at which position of their contents."""
    wants: dict[int, dict[tuple[Any, ...], list[tuple[int, int]]]] = {}
    for number, entry in enumerate(entries):
        position = 0
        for piece in map(tuple, entry.get("pieces", ())):
            wants.setdefault(piece[0], {}).setdefault(piece, []).append((number, position))
            position += piece[3]
    return wants


def verify_packs(place: Place, snapshot: Snapshot, keys: Keys) -> int:
    """Read every pack of a snapshot; returns how many are not whole, having said which."""
    broken = 0
    index = read_index(place, snapshot, keys) if snapshot.packs and keys.identities else None
    wants = pieces_by_pack(index.entries) if index else {}
    numbers = {pack.id: number for number, (pack, _) in index.packs.items()} if index else {}
    for pack in snapshot.packs:
        try:
            if index and pack.id in numbers:
                number = numbers[pack.id]
                found = pieces_in(place, snapshot, keys, index, number, wants.get(number, {}))
                if lost := sum(data is None for _, data in found):
                    raise Refused(f"pack {pack.id}: {lost} contents are not what was read.")
            else:
                for _ in stored(place, f"packs/{snapshot.label.source}/{pack.id[:2]}/{pack.id}", pack):
                    pass
            print(f"pack {pack.id}  whole")
        except Refused as refusal:
            broken += 1
            complain(refusal)
            if index and pack.id in numbers:
                needing = {number for needed in wants.get(numbers[pack.id], {}).values() for number, _ in needed}
                for number in sorted(needing):
                    remark(f"  it costs {shown(path_of(index.entries[number]))}")
    return broken


def extract_entries(
    place: Place, snapshot: Snapshot, keys: Keys, index: Index, entries: Sequence[dict[str, Any]], target: Path
) -> int:
    """Write entries below a new folder; returns how many could not be, having said which."""
    lost: dict[int, str] = {}
    left = {number: len(entry.get("pieces", ())) for number, entry in enumerate(entries)}
    for number, entry in enumerate(entries):
        path = target / os.fsdecode(path_of(entry))
        if "fault" in entry and entry["type"] != "folder":
            lost[number] = f"it was not read: {entry['fault']}"
            continue
        if "fault" in entry or "lacking" in entry:
            remark(f"{shown(path_of(entry))}: it was not read whole: {entry.get('fault') or entry['lacking']}")
        try:
            begin_entry(entry, path)
        except OSError as error:
            lost[number] = str(error.strerror)
    for pack, pieces in sorted(pieces_by_pack(entries).items()):
        try:
            for piece, data in pieces_in(place, snapshot, keys, index, pack, pieces):
                for number, position in pieces[piece] if data is not None else ():
                    if number in lost:
                        continue
                    path = target / os.fsdecode(path_of(entries[number]))
                    write_at(path, entries[number], position, data or b"")
                    left[number] -= 1
        except NoKey:
            raise
        except Refused as refusal:
            complain(refusal)  # what came before is authentic; the rest of this pack is lost
    lost = {number: "some of its contents are lost" for number in left if left[number]} | lost  # the first cause
    links: dict[str, Path] = {}
    for number in reversed(range(len(entries))):  # what is in a folder before the folder, whose time it changes
        path = target / os.fsdecode(path_of(entries[number]))
        try:
            if number not in lost:
                finish_entry(entries[number], path, links)
            elif entries[number]["type"] == "file":
                path.unlink(missing_ok=True)
        except (OSError, OverflowError) as error:
            lost.setdefault(number, str(getattr(error, "strerror", error)))
    for number, reason in sorted(lost.items()):
        complain(Refused(f"{shown(path_of(entries[number]))}: {reason}"))
    return len(lost)


def begin_entry(entry: dict[str, Any], path: Path) -> None:
    """Make a folder, or a file of the size it had, with nothing in it yet."""
    if entry["type"] == "folder":
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif entry["type"] == "file":
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.truncate(entry["size"])


def write_at(path: Path, entry: dict[str, Any], position: int, data: bytes) -> None:
    """Write bytes of an entry's contents where they belong in its file, which may have holes."""
    with path.open("r+b") as file:
        for start, length in entry.get("extents", [[0, entry["size"]]]):
            if position < length and data:
                file.seek(start + position)
                file.write(data[: length - position])
                data, position = data[length - position :], length
            position -= length


def finish_entry(entry: dict[str, Any], path: Path, links: dict[str, Path]) -> None:
    """Make what is neither file nor folder, and give owner, mode and time back as far as this user may."""
    kind = entry["type"]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if "link" in entry and kind in ("file", "symlink", "fifo") and links.setdefault(entry["link"], path) != path:
        path.unlink(missing_ok=True)
        os.link(links[entry["link"]], path, follow_symlinks=False)
        return
    if kind == "symlink":
        path.symlink_to(os.fsdecode(path_of(entry, "target")))
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind not in ("file", "folder"):
        remark(f"{shown(path_of(entry))}: a {kind} is not made; its program does that.")
        return
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        os.chown(path, entry["uid"], entry["gid"], follow_symlinks=False)
    named = {name.encode(): value for name, value in entry.get("xattrs", {}).items()}
    named |= {base64.b64decode(name): value for name, value in entry.get("xattrs64", {}).items()}
    for name, value in named.items():
        try:
            os.setxattr(path, name, base64.b64decode(value), follow_symlinks=False)
        except (OSError, AttributeError) as error:
            remark(f"{shown(path_of(entry))}: the attribute {shown(name)} could not be set: {error}")
    if kind != "symlink":
        path.chmod(entry["mode"])
    if kind != "symlink" or os.utime in os.supports_follow_symlinks:
        os.utime(path, ns=(entry["mtime"], entry["mtime"]), follow_symlinks=False)


# ---- output ---------------------------------------------------------------------------------------------------------


def write_aside(target: Path, chunks: Iterator[bytes]) -> None:
    """Write a file under another name and rename it when all of it is right. Private to its owner; never overwrites."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.unfinished")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(aside, flags, 0o600), "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if os.path.lexists(target):
            raise Refused(f"{target} exists already. Nothing is overwritten.")
        aside.rename(target)
    finally:
        aside.unlink(missing_ok=True)


def unpack(chunks: Iterator[bytes], folder: Path, paths: Sequence[str]) -> int:
    """Unpack a tar into a folder, and say how many files it was. Whatever would lead out of the folder is refused."""
    stream, files = Reader(chunks), 0
    wanted = [path.strip("/") for path in paths]
    try:
        with tarfile.open(  # type: ignore[call-overload]  # of a file it needs only `read`
            fileobj=TarStream(stream), mode="r|", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            for member in tar:
                if wanted and not any(member.name == path or member.name.startswith(path + "/") for path in wanted):
                    continue
                make_member(tar, member, folder)
                files += not member.isdir()
    except (tarfile.TarError, FileExistsError, NotADirectoryError) as error:
        raise Refused(f"The archive is damaged, or made to deceive ({type(error).__name__}).") from None
    # Only now: a link that was harmless may lead elsewhere by one that came after it.
    if not all(leads_into(path, folder) for path in folder.rglob("*")):
        raise Refused("The archive is made to deceive: a symbolic link in it leads out of the folder.")
    while stream.take_up_to(SEGMENT):  # only its end says that all of it was right
        pass
    return files


def make_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Make one thing of a tar in a new folder. `tarfile` itself leads nowhere else only since Python 3.11.4."""
    path = folder / member.name.lstrip("/")
    if not leads_into(path, folder):
        raise Refused("The archive is made to deceive: something in it leads out of the folder.")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if member.isdir():
        path.mkdir(mode=0o700, exist_ok=True)
    elif member.issym():
        path.symlink_to(member.linkname)
    elif member.isfile() and (contents := tar.extractfile(member)) is not None:
        with path.open("xb") as file:
            shutil.copyfileobj(contents, file)
        path.chmod(member.mode & (0o755 if member.mode & 0o100 else 0o644) | 0o600)
    else:
        raise Refused("The archive is made to deceive: something in it is neither file nor folder nor symbolic link.")


def leads_into(path: Path, folder: Path) -> bool:
    """Whether a path is below a folder once all symbolic links in it are followed, even those in a circle."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


class TarStream:
    """A stream as the file that `tarfile` reads from."""

    def __init__(self, reader: Reader) -> None:
        self.read = reader.take_up_to


def pour(place: Place, snapshot: Snapshot, wanted: Sequence[Artifact], keys: Keys) -> None:
    """Write one artifact to standard output. What went out before a refusal is authentic, but not whole."""
    if len(wanted) != 1:
        raise Refused("Name one artifact to write it to standard output.")
    out = sys.stdout.buffer
    written = 0
    try:
        for chunk in unseal_artifact(place, snapshot, wanted[0], keys):
            out.write(chunk)
            written += len(chunk)
        out.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        raise Refused("The program that read the pipe ended before the end of the artifact.") from None
    except Refused as refusal:
        raise Refused(f"{refusal} {written} bytes had gone out by then: throw away what was made of them.") from None


def restore_script(snapshot: Snapshot, evidence: dict[str, Any], folder: str, database: str | None) -> str:
    """A script for bash that makes the database as it was, fills it, and compares its rows with the evidence."""
    if evidence["format"] != 1:
        raise ValueError
    database = database or f"{evidence['database']['name']}_restored"
    names = [artifact.name for artifact in snapshot.artifacts if artifact.media_type == DUMP_TYPE]
    rows = ["dump", *sorted(name for name in names if name != "dump")]
    into = shlex.quote("--dbname=dbname='" + re.sub(r"([\\'])", r"\\\1", database) + "'")
    psql, load = "psql --no-psqlrc --quiet", "load"
    major = needed_major(snapshot.manifest["facts"], evidence)
    globals_there = any(artifact.name == "globals" for artifact in snapshot.artifacts)
    lines = [
        "#!/usr/bin/env bash",
        f"# Restores {snapshot.label} into the new database {database!a} and changes no other.",
        f"# Needs psql, pg_restore and a server of PostgreSQL {major}; a newer version of all three will do as well.",
        "# PGHOST, PGPORT, PGUSER and PGPASSWORD say which server; the user must be a superuser of it.",
        "set -euo pipefail",
        "export PGCLIENTENCODING=UTF8",
        f"cd {shlex.quote(folder)}",
        "# Rows are worth more than perfection: what cannot be rebuilt is told, and the rest goes on.",
        f'missing=; load() {{ pg_restore --no-password {into} "$@" || missing=yes; }}',
        "",
    ]
    if globals_there:
        lines += [
            "# Roles, with the passwords they had, and tablespaces. That some exist already is no fault. The user of",
            "# these sessions stays as it is. Where a tablespace cannot be made, add --no-tablespaces below.",
            f"me=$({psql} --no-align --tuples-only --dbname=postgres --command='SELECT quote_ident(current_user)')",
            f'grep -vFe "ROLE $me;" -e "ROLE $me WITH" globals | {psql} --dbname=postgres --file=-',
            "",
        ]
    lines += [
        f"{psql} --set=ON_ERROR_STOP=1 --dbname=postgres <<'SQL'",
        create_database(evidence["database"], database),
        "SQL",
    ]
    if snapshot.manifest["facts"].get("selection", {}).get("tables"):
        schemas = sorted({table["schema"] for table in evidence["tables"]} - {"public"})
        made = [f"CREATE SCHEMA {identifier(schema)};" for schema in schemas]
        lines += ["# This snapshot holds only some tables.", f"{psql} {into} <<'SQL'", *made, "SQL"]
    lines += [
        f"{load} --section=pre-data dump",
        "# The next may run side by side.",
        *(f"{load} --section=data {name}" for name in rows),
        *post_data(load),
        "",
        f"{psql} --dbname=postgres <<'SQL'",
        *database_properties(evidence["database"], database),
        "SQL",
        f"{psql} {into} --command=ANALYZE",
        "",
        "# Tables that hold more or fewer rows than they did: name, rows then, rows now.",
        f"{psql} --set=ON_ERROR_STOP=1 --no-align --tuples-only {into} <<'SQL' | {{ ! grep .; }} ||",
        *count_rows(evidence["tables"]),
        "SQL",
        '{ echo "DIFFERENT: this database does not hold what the source did."; exit 1; }',
        f'echo "{len(evidence["tables"])} tables hold as many rows as they did."',
        '[ -z "$missing" ] || { echo "INCOMPLETE: objects that pg_restore names above could not be rebuilt. Remove'
        ' the cause, and run the commands that it shows."; exit 7; }',
    ]
    return "\n".join(lines)


def post_data(load: str) -> Iterator[str]:
    """Indexes, constraints and the rest, as many at a time as there are processors where that does no harm.

    Indexes that are attached side by side to those of a partitioned table can leave one of them invalid, in silence.
    Nor does `pg_restore --jobs` know what triggers wait for, and an event trigger acts on all that is made after it.
    """
    built, attached, last = "INDEX|CONSTRAINT", "INDEX ATTACH", "TRIGGER|EVENT TRIGGER|COMMENT|SECURITY LABEL"
    load = f"{load} --section=post-data"
    yield "# Indexes; one by one what attaches them; foreign keys and all else; one by one triggers and comments."
    yield "# Should it fail side by side, drop the database and begin again with JOBS=1 before the command."
    yield 'jobs="--jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN)}"'
    yield 'post_data="$(pg_restore --list --section=post-data dump)"'
    yield 'of() { LC_ALL=C grep -aE "^[0-9]+; [0-9]+ [0-9]+ ($1) " || true; }'
    yield 'not_of() { LC_ALL=C grep -avE "^[0-9]+; [0-9]+ [0-9]+ ($1) |^;" || true; }'
    yield f"{load} \"$jobs\" --use-list=<(of '{built}' <<< \"$post_data\" | not_of '{attached}') dump"
    yield f"{load} --use-list=<(of '{attached}' <<< \"$post_data\") dump"
    yield f'{load} "$jobs" --use-list=<(not_of \'{built}|{last}\' <<< "$post_data") dump'
    yield f"{load} --use-list=<(of '{last}' <<< \"$post_data\") dump"


def needed_major(facts: dict[str, Any], evidence: dict[str, Any]) -> int:
    """The major version of programs and server: the source's, or that of the `pg_dump` that was newer."""
    return max(int(evidence["server_major"]), int(str(facts.get("client_version", 0)).split(".")[0]))


def create_database(was: dict[str, Any], name: str) -> str:
    locale = {"i": "LOCALE_PROVIDER icu ICU_LOCALE ", "b": "LOCALE_PROVIDER builtin BUILTIN_LOCALE "}
    provider = was["locale_provider"]
    return (
        f"CREATE DATABASE {identifier(name)} TEMPLATE template0 OWNER {identifier(was['owner'])}"
        f" ENCODING {literal(was['encoding'])} LC_COLLATE {literal(was['collate'])} LC_CTYPE {literal(was['ctype'])}"
        + (f" {locale[provider]}{literal(was['locale'])}" if provider in locale else "")
        + ";"
    )


def database_properties(was: dict[str, Any], name: str) -> Iterator[str]:
    """Comment, settings, grants and connection limit of the database itself, which no dump of its content holds."""
    database = identifier(name)
    if was["comment"] is not None:
        yield f"COMMENT ON DATABASE {database} IS {literal(was['comment'])};"
    if int(was.get("connection_limit", -1)) >= 0:
        yield f"ALTER DATABASE {database} CONNECTION LIMIT {int(was['connection_limit'])};"
    for role, setting in was["settings"]:
        parameter, _, value = setting.partition("=")
        whose = f"ROLE {identifier(role)} IN DATABASE {database}" if role else f"DATABASE {database}"
        yield f"ALTER {whose} SET {identifier(parameter)} TO {setting_value(parameter, value)};"
    if was["grants"]:
        yield f"REVOKE ALL ON DATABASE {database} FROM PUBLIC, {identifier(was['owner'])};"
    for grantee, privilege, grantable in was["grants"]:
        if privilege in ("CONNECT", "CREATE", "TEMPORARY"):
            to = identifier(grantee) if grantee else "PUBLIC"
            yield f"GRANT {privilege} ON DATABASE {database} TO {to}{' WITH GRANT OPTION' if grantable else ''};"


def setting_value(parameter: str, value: str) -> str:
    """A setting as SQL. Some are lists of names, stored in quotes (variable_is_guc_list_quote in PostgreSQL)."""
    if parameter not in ("search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"):
        return literal(value)
    parts = re.findall(r'"(?:[^"]|"")*"|[^,\s]+', value)
    return ", ".join(literal(p[1:-1].replace('""', '"') if p[0] == '"' else p) for p in parts) or "''"


def count_rows(tables: list[dict[str, Any]]) -> Iterator[str]:
    """Queries that give the tables with other numbers of rows; partitions that a restore may mix count together."""
    rows: dict[tuple[str, str], int] = {}
    for table in tables:
        name = f"{identifier(table['schema'])}.{identifier(table['name'])}"
        one = (name, f"ONLY {name}")
        if whole := table.get("moves_in"):
            one = (".".join(map(identifier, whole)),) * 2
        rows[one] = rows.get(one, 0) + int(table["rows"])
    for (name, of), count in rows.items():
        yield f"SELECT {literal(name)}, {count}, count(*) FROM {of} HAVING count(*) <> {count};"  # noqa: S608 - quoted above


def identifier(name: str) -> str:
    """A name in SQL, on one line."""
    if name.isprintable():
        return '"' + name.replace('"', '""') + '"'
    return 'U&"' + "".join(c if c.isalnum() else f"\\+{ord(c):06x}" for c in name) + '"'


def literal(text: str) -> str:
    """A string in SQL, on one line."""
    if text.isprintable() and "\\" not in text:
        return "'" + text.replace("'", "''") + "'"
    return "E'" + "".join(c if c.isalnum() else f"\\U{ord(c):08x}" for c in text) + "'"


def next_command(name: str, options: argparse.Namespace) -> str:
    parts = ["python3", sys.argv[0], name, options.place, options.snapshot]
    parts += ["--keys", options.keys] if options.keys else []
    parts += ["--endpoint-url", options.endpoint_url] if options.endpoint_url else []
    return shlex.join(parts + ([TRUST_FLAG] if options.trust else []))


def remark(text: str) -> None:
    print(text, file=sys.stderr)


def complain(refusal: Refused) -> None:
    remark(f"REFUSED: {refusal}")


# ---- command line ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no unfinished plaintext is left
    options = parser().parse_args(arguments)
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # a real stream here
    try:
        options.run(options)
        sys.stdout.flush()
    except Refused as refusal:
        complain(refusal)
        return 1
    except OSError as error:
        remark(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        remark("Interrupted.")
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="restore.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several = whole.add_subparsers(metavar="COMMAND", required=True)
    for name, run in (
        ("list", list_snapshots), ("show", show), ("verify", verify), ("unseal", unseal), ("commands", commands),
        ("files", list_files), ("extract", extract),
    ):  # fmt: skip
        one = several.add_parser(name, help=run.__doc__, description=run.__doc__)
        one.set_defaults(run=run)
        one.add_argument("place", metavar="PLACE", help="folder, s3://bucket/prefix or azure://container/prefix")
        if name != "list":
            one.add_argument("snapshot", metavar="SNAPSHOT", help="source/tier/id, an id, or a source for its newest")
        if name == "unseal":
            one.add_argument("artifact", metavar="ARTIFACT", nargs="*", help="which; all of them without any")
            one.add_argument("--to", metavar="FOLDER", required=True, help="where to; `-` is standard output")
        if name in ("files", "extract"):
            one.add_argument("path", metavar="PATH", nargs="*", help="a file or folder in it; everything without any")
        if name == "extract":
            one.add_argument("--to", metavar="FOLDER", required=True, help="a folder that does not exist yet")
        if name == "commands":
            one.add_argument("--from", dest="folder", metavar="FOLDER", required=True, help="what `unseal` wrote to")
            one.add_argument("--database", metavar="NAME", help="the new database; <its name>_restored without")
        one.add_argument("--keys", metavar="KEYS", help="folder of .identity and .signer files")
        one.add_argument("--endpoint-url", metavar="URL", help="of an S3 store that is not Amazon's")
        one.add_argument(TRUST_FLAG, dest="trust", action="store_true", help="go on without any .signer file")
    return whole


if __name__ == "__main__":
    sys.exit(main())
