"""Signed records: accepted from those the keyring trusts, and from nobody else."""

from __future__ import annotations

import base64
import json

import pytest

from lifeboat.errors import SignatureInvalid
from lifeboat.keys import SigningKey
from lifeboat.signing import open_record, sign_record

HOST = SigningKey.generate("host-1")
STRANGER = SigningKey.generate("stranger")
TYPE = "application/vnd.example+json"


def test_a_signed_record_gives_back_the_very_bytes() -> None:
    envelope = sign_record(b'{"a": 1}', TYPE, HOST)

    assert open_record(envelope, TYPE, [STRANGER.signer, HOST.signer], place="here") == b'{"a": 1}'


def test_a_record_signed_by_a_stranger_is_refused() -> None:
    envelope = sign_record(b"{}", TYPE, STRANGER)

    with pytest.raises(SignatureInvalid, match=r"primary:x is not signed by anybody this keyring trusts"):
        open_record(envelope, TYPE, [HOST.signer], place="primary:x")


def test_a_stranger_using_a_trusted_key_id_is_refused() -> None:
    record = json.loads(sign_record(b"{}", TYPE, STRANGER))
    record["signatures"][0]["keyid"] = HOST.signer.key_id

    with pytest.raises(SignatureInvalid, match="altered after it was signed"):
        open_record(json.dumps(record).encode(), TYPE, [HOST.signer], place="here")


def test_an_altered_payload_is_refused() -> None:
    record = json.loads(sign_record(b'{"rows": 10}', TYPE, HOST))
    record["payload"] = base64.b64encode(b'{"rows": 11}').decode()

    with pytest.raises(SignatureInvalid, match="altered after it was signed"):
        open_record(json.dumps(record).encode(), TYPE, [HOST.signer], place="here")


def test_a_record_of_another_type_is_refused() -> None:
    envelope = sign_record(b"{}", "application/vnd.example.attestation+json", HOST)

    with pytest.raises(SignatureInvalid, match="record of type"):
        open_record(envelope, TYPE, [HOST.signer], place="here")


@pytest.mark.parametrize(
    "envelope",
    [b"", b"{}", b"[]", b"\xff\xfe", b'{"payload": "!", "payloadType": "x", "signatures": []}', b'{"payload": 1}'],
    ids=["empty", "no fields", "a list", "not text", "not base64", "a number"],
)
def test_what_is_not_a_record_is_refused(envelope: bytes) -> None:
    with pytest.raises(SignatureInvalid):
        open_record(envelope, TYPE, [HOST.signer], place="here")
