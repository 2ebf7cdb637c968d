"""Keys: recipients that seal, identities that unseal, and the keyring that holds them with the signing key.

Every key is one line of text, `lifeboat:<role>:<algorithm>:<base64url>`, which ends in a four-byte checksum so that a
key typed in from paper is refused rather than misused. A keyring folder holds

    <name>.recipient    public    seals for <name>
    <name>.identity     private   unseals what was sealed for <name>
    <name>.signer       public    checks signatures made by <name>
    <name>.signing      private   signs manifests and attestations as <name>
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lifeboat.errors import KeyringError

HYBRID = "mlkem768-x25519"
"""The default: post-quantum and classic together; both must fall before a data key is exposed."""

CLASSIC = "x25519"
SIGNING = "ed25519"

_MLKEM_PUBLIC = 1184
_MLKEM_SEED = 64

_PublicKey = hpke.MLKEM768X25519PublicKey | X25519PublicKey
_PrivateKey = hpke.MLKEM768X25519PrivateKey | X25519PrivateKey


@dataclass(frozen=True)
class Recipient:
    """The public half that seals. `raw` is the ML-KEM-768 key followed by the X25519 key, or the latter alone."""

    name: str
    algorithm: str
    raw: bytes

    @property
    def key_id(self) -> bytes:
        """What names this key inside a sealed artifact: the first 16 bytes of the SHA-256 of algorithm and key."""
        return hashlib.sha256(self.algorithm.encode() + b"\0" + self.raw).digest()[:16]

    @property
    def text(self) -> str:
        """The line that stands in a `.recipient` file."""
        return _encode("recipient", self.algorithm, self.raw)

    def wrap(self, data_key: bytes, *, info: bytes) -> bytes:
        """Encrypt a data key to this recipient with HPKE in base mode (RFC 9180), bound to `info`."""
        return _SUITES[self.algorithm].encrypt(data_key, _public_key(self), info)


@dataclass(frozen=True)
class Identity:
    """The private half that unseals. `raw` is the ML-KEM-768 seed followed by the X25519 key, or the latter alone."""

    name: str
    algorithm: str
    raw: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str, algorithm: str = HYBRID) -> Identity:
        """A fresh key from the operating system's randomness."""
        length = {HYBRID: _MLKEM_SEED + 32, CLASSIC: 32}[algorithm]
        return cls(name, algorithm, os.urandom(length))

    @property
    def recipient(self) -> Recipient:
        """The public half of the same name."""
        key = _private_key(self)
        if isinstance(key, X25519PrivateKey):
            return Recipient(self.name, self.algorithm, key.public_key().public_bytes_raw())
        seed, scalar = self.raw[:_MLKEM_SEED], self.raw[_MLKEM_SEED:]
        mlkem = MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
        return Recipient(self.name, self.algorithm, mlkem + _x25519(scalar).public_key().public_bytes_raw())

    @property
    def text(self) -> str:
        """The line that stands in an `.identity` file. Secret."""
        return _encode("identity", self.algorithm, self.raw)

    def unwrap(self, wrapped: bytes, *, info: bytes) -> bytes | None:
        """Decrypt a data key that was wrapped for this identity; None when it was not, or was altered."""
        try:
            return _SUITES[self.algorithm].decrypt(wrapped, _private_key(self), info)
        except (InvalidTag, ValueError):
            return None


@dataclass(frozen=True)
class Signer:
    """The public half of a signing key (Ed25519, RFC 8032)."""

    name: str
    raw: bytes

    @property
    def key_id(self) -> str:
        """What names this key beside a signature, in hexadecimal."""
        return hashlib.sha256(self.raw).hexdigest()[:32]

    @property
    def text(self) -> str:
        """The line that stands in a `.signer` file."""
        return _encode("signer", SIGNING, self.raw)

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Whether this signer made `signature` over `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """The private half that signs manifests and attestations."""

    name: str
    raw: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> SigningKey:
        """A fresh key from the operating system's randomness."""
        return cls(name, os.urandom(32))

    @property
    def signer(self) -> Signer:
        """The public half of the same name."""
        return Signer(self.name, Ed25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw())

    @property
    def text(self) -> str:
        """The line that stands in a `.signing` file. Secret."""
        return _encode("signing", SIGNING, self.raw)

    def derive(self, purpose: bytes) -> bytes:
        """A secret of 32 bytes for one purpose, always the same, which tells nothing of this key."""
        return HKDF(hashes.SHA256(), 32, salt=None, info=b"lifeboat/1 " + purpose).derive(self.raw)

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`."""
        return Ed25519PrivateKey.from_private_bytes(self.raw).sign(message)


@dataclass(frozen=True)
class Keyring:
    """The keys at hand. A host that only backs up has no identities; one that only restores has no signing key."""

    recipients: Mapping[str, Recipient] = field(default_factory=dict)
    identities: tuple[Identity, ...] = ()
    signers: tuple[Signer, ...] = ()
    signing_key: SigningKey | None = None

    @classmethod
    def from_texts(cls, texts: Iterable[tuple[str, str]]) -> Keyring:
        """The keyring made of (file name, text) pairs such as `("operations.recipient", "lifeboat:recipient:…")`."""
        recipients: dict[str, Recipient] = {}
        identities: list[Identity] = []
        signers: list[Signer] = []
        signing_keys: list[SigningKey] = []
        for file_name, text in sorted(texts):
            name, _, role = file_name.rpartition(".")
            algorithm, raw = _decode(text, role, file_name)
            match role:
                case "recipient":
                    recipients[name] = Recipient(name, algorithm, raw)
                case "identity":
                    identities.append(Identity(name, algorithm, raw))
                case "signer":
                    signers.append(Signer(name, raw))
                case "signing":
                    signing_keys.append(SigningKey(name, raw))
        if len(signing_keys) > 1:
            names = ", ".join(key.name for key in signing_keys)
            raise KeyringError(
                f"The keyring holds several signing keys: {names}.", hint="Keep the one this host signs with."
            )
        return cls(recipients, tuple(identities), tuple(signers), signing_keys[0] if signing_keys else None)

    @classmethod
    def from_folder(cls, folder: Path) -> Keyring:
        """The keyring in a folder. Raises `KeyringError` when a private key can be read by others."""
        if not folder.is_dir():
            raise KeyringError(f"There is no keyring at {folder}.", hint="`lifeboat init` makes one.")
        files = [path for path in folder.iterdir() if path.suffix[1:] in _ROLES]
        if not files:
            raise KeyringError(f"The keyring {folder} holds no keys.", hint="`lifeboat init` makes them.")
        for path in files:
            _refuse_careless_mode(path)
        return cls.from_texts((path.name, path.read_text("utf-8")) for path in files)

    def recipients_named(self, names: Iterable[str]) -> tuple[Recipient, ...]:
        """The recipients of these names, at least two. Raises `KeyringError` naming those that are missing."""
        wanted = list(dict.fromkeys(names))
        missing = [name for name in wanted if name not in self.recipients]
        if missing:
            raise KeyringError(
                f"The keyring has no recipient named {', '.join(missing)}.",
                hint=f"It has: {', '.join(sorted(self.recipients)) or 'none'}. "
                "Add <name>.recipient to it, or correct `recipients` in platform.yaml.",
            )
        if len({self.recipients[name].key_id for name in wanted}) < 2:
            raise KeyringError(
                "Backups must be sealed for at least two different recipients.",
                hint="With a single one, losing its private key loses every backup. Add an escrow recipient.",
            )
        return tuple(self.recipients[name] for name in wanted)


def write_key(folder: Path, key: Recipient | Identity | Signer | SigningKey) -> Path:
    """Write one key as a new file, private ones with mode 0600. Never overwrites: raises `KeyringError`."""
    role = _ROLE_OF[type(key)]
    path = folder / f"{key.name}.{role}"
    mode = 0o600 if role in PRIVATE_ROLES else 0o644
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise KeyringError(f"{path} already exists.", hint="Keys are never overwritten. Choose another name.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(key.text + "\n")
        file.flush()
        os.fsync(file.fileno())
    return path


_ROLES = ("recipient", "identity", "signer", "signing")
PRIVATE_ROLES = ("identity", "signing")
_ROLE_OF: Mapping[type, str] = {Recipient: "recipient", Identity: "identity", Signer: "signer", SigningKey: "signing"}

_SUITES: Mapping[str, hpke.Suite] = {
    HYBRID: hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
    CLASSIC: hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
}

_LENGTHS: Mapping[tuple[str, str], int] = {
    ("recipient", HYBRID): _MLKEM_PUBLIC + 32,
    ("recipient", CLASSIC): 32,
    ("identity", HYBRID): _MLKEM_SEED + 32,
    ("identity", CLASSIC): 32,
    ("signer", SIGNING): 32,
    ("signing", SIGNING): 32,
}


def _encode(role: str, algorithm: str, raw: bytes) -> str:
    checked = raw + _checksum(role, algorithm, raw)
    return f"lifeboat:{role}:{algorithm}:{base64.urlsafe_b64encode(checked).decode().rstrip('=')}"


def _decode(text: str, role: str, place: str) -> tuple[str, bytes]:
    """Algorithm and key from a line of text. The text may be secret: no message repeats it."""
    if role not in _ROLES:
        raise KeyringError(f"{place} is not a key's name.", hint=f"Keys are named <name>.<{'|'.join(_ROLES)}>.")
    parts = text.strip().split(":")
    if len(parts) != 4 or parts[:2] != ["lifeboat", role]:
        raise KeyringError(f"{place} is no {role}.", hint=f"It must be one line that begins `lifeboat:{role}:`.")
    algorithm = parts[2]
    length = _LENGTHS.get((role, algorithm))
    if length is None:
        raise KeyringError(
            f"{place} uses the unknown algorithm {algorithm[:40]!r}.", hint="A newer Lifeboat may know it."
        )
    try:
        checked = base64.b64decode(parts[3] + "=" * (-len(parts[3]) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        checked = b""
    raw, checksum = checked[:-4], checked[-4:]
    if len(raw) != length or checksum != _checksum(role, algorithm, raw):
        raise KeyringError(f"The key in {place} is mistyped or cut short.", hint="Copy the whole line again.")
    return algorithm, raw


def _checksum(role: str, algorithm: str, raw: bytes) -> bytes:
    return hashlib.sha256(f"lifeboat:{role}:{algorithm}:".encode() + raw).digest()[:4]


def _refuse_careless_mode(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    private = path.suffix[1:] in PRIVATE_ROLES
    if private and mode & 0o077:
        raise KeyringError(f"The private key {path} can be read by others (mode {mode:04o}).", hint=f"chmod 600 {path}")
    if mode & 0o022:
        raise KeyringError(f"The key {path} can be changed by others (mode {mode:04o}).", hint=f"chmod go-w {path}")


def _x25519(scalar: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(scalar)


def _private_key(identity: Identity) -> _PrivateKey:
    if identity.algorithm == CLASSIC:
        return _x25519(identity.raw)
    seed, scalar = identity.raw[:_MLKEM_SEED], identity.raw[_MLKEM_SEED:]
    return hpke.MLKEM768X25519PrivateKey(MLKEM768PrivateKey.from_seed_bytes(seed), _x25519(scalar))


def _public_key(recipient: Recipient) -> _PublicKey:
    if recipient.algorithm == CLASSIC:
        return X25519PublicKey.from_public_bytes(recipient.raw)
    mlkem, point = recipient.raw[:_MLKEM_PUBLIC], recipient.raw[_MLKEM_PUBLIC:]
    return hpke.MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(mlkem), X25519PublicKey.from_public_bytes(point)
    )
