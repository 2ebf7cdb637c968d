"""Keys: written once, read back exactly, refused when careless."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifeboat.errors import KeyringError
from lifeboat.keys import CLASSIC, HYBRID, Identity, Keyring, Recipient, SigningKey, write_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keyring = tmp_path / "keys"
    for name in ("operations", "escrow"):
        identity = Identity.generate(name)
        write_key(keyring, identity)
        write_key(keyring, identity.recipient)
    signing_key = SigningKey.generate("host-1")
    write_key(keyring, signing_key)
    write_key(keyring, signing_key.signer)
    return keyring


def test_a_keyring_folder_reads_back_what_was_written(folder: Path) -> None:
    keyring = Keyring.from_folder(folder)

    assert sorted(keyring.recipients) == ["escrow", "operations"]
    assert {identity.recipient for identity in keyring.identities} == set(keyring.recipients.values())
    assert keyring.signing_key is not None
    assert keyring.signers == (keyring.signing_key.signer,)


@pytest.mark.parametrize("algorithm", [HYBRID, CLASSIC])
def test_a_wrapped_data_key_opens_only_for_its_identity_and_its_purpose(algorithm: str) -> None:
    mine, other = Identity.generate("mine", algorithm), Identity.generate("other", algorithm)

    wrapped = mine.recipient.wrap(b"k" * 32, info=b"this object")

    assert mine.unwrap(wrapped, info=b"this object") == b"k" * 32
    assert mine.unwrap(wrapped, info=b"that object") is None
    assert other.unwrap(wrapped, info=b"this object") is None
    assert mine.unwrap(wrapped[:-1], info=b"this object") is None
    assert mine.unwrap(b"", info=b"this object") is None


def test_private_keys_are_written_for_their_owner_only(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}

    assert modes["operations.identity"] == modes["host-1.signing"] == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644], ids=oct)
def test_a_private_key_readable_by_others_is_refused(folder: Path, mode: int) -> None:
    (folder / "operations.identity").chmod(mode)

    with pytest.raises(KeyringError, match=r"operations\.identity can be read by others") as refused:
        Keyring.from_folder(folder)

    assert "chmod 600" in refused.value.hint


def test_a_public_key_others_can_change_is_refused(folder: Path) -> None:
    (folder / "escrow.recipient").chmod(0o664)

    with pytest.raises(KeyringError, match="can be changed by others"):
        Keyring.from_folder(folder)


def test_a_key_is_never_overwritten(folder: Path) -> None:
    before = (folder / "operations.identity").read_text()

    with pytest.raises(KeyringError, match="already exists"):
        write_key(folder, Identity.generate("operations"))

    assert (folder / "operations.identity").read_text() == before


def test_a_mistyped_key_is_refused_and_not_repeated_in_the_message(folder: Path) -> None:
    path = folder / "operations.identity"
    text = path.read_text()
    wrong = "A" if text[60] != "A" else "B"
    path.write_text(text[:60] + wrong + text[61:])

    with pytest.raises(KeyringError, match=r"operations\.identity is mistyped") as refused:
        Keyring.from_folder(folder)

    assert text[30:60] not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no identity"),
        ("lifeboat:recipient:x25519:AAAA", "is no identity"),
        ("lifeboat:identity:rot13:AAAA", "unknown algorithm 'rot13'"),
        ("lifeboat:identity:x25519:!!!", "mistyped"),
    ],
    ids=["empty", "a public key", "unknown algorithm", "not base64"],
)
def test_a_file_that_is_not_a_key_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "operations.identity").write_text(text)

    with pytest.raises(KeyringError, match=message):
        Keyring.from_folder(folder)


def test_a_missing_folder_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match="no keyring") as refused:
        Keyring.from_folder(tmp_path / "nowhere")

    assert "lifeboat init" in refused.value.hint


def test_a_single_recipient_is_refused_even_under_two_names() -> None:
    recipient = Identity.generate("operations").recipient
    twin = Recipient("twin", recipient.algorithm, recipient.raw)

    with pytest.raises(KeyringError, match="at least two"):
        Keyring(recipients={"operations": recipient, "twin": twin}).recipients_named(["operations", "twin"])


def test_a_missing_recipient_is_named(folder: Path) -> None:
    with pytest.raises(KeyringError, match="no recipient named auditors"):
        Keyring.from_folder(folder).recipients_named(["operations", "auditors"])


def test_private_halves_never_show_in_a_representation() -> None:
    identity, signing_key = Identity.generate("operations"), SigningKey.generate("host-1")

    assert identity.raw.hex() not in repr(identity)
    assert repr(identity.raw) not in repr(Keyring(identities=(identity,), signing_key=signing_key))
    assert repr(signing_key.raw) not in repr(signing_key)


def test_two_keyrings_made_in_one_folder_do_not_mix(folder: Path) -> None:
    write_key(folder, SigningKey.generate("host-2"))

    with pytest.raises(KeyringError, match="several signing keys: host-1, host-2"):
        Keyring.from_folder(folder)
