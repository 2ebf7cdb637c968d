"""Signed records: a payload in a DSSE envelope (Dead Simple Signing Envelope 1.0), signed with Ed25519.

The payload stays the exact bytes that were signed, so nothing depends on how JSON is written.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence

from lifeboat.errors import SignatureInvalid
from lifeboat.keys import Signer, SigningKey


def sign_record(payload: bytes, payload_type: str, key: SigningKey) -> bytes:
    """The envelope, as JSON, of a payload signed with `key`."""
    signature = key.sign(_pre_authentication(payload, payload_type))
    envelope = {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key.signer.key_id, "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope, indent=1).encode() + b"\n"


def open_record(envelope: bytes, payload_type: str, signers: Sequence[Signer], *, place: str) -> bytes:
    """The payload, once a trusted signer's signature over it has been checked.

    Raises `SignatureInvalid`, naming `place`, when it is not an envelope, has another type, or no trusted signature.
    """
    try:
        record = json.loads(envelope)
        payload = base64.b64decode(record["payload"], validate=True)
        signatures = [(str(s["keyid"]), base64.b64decode(s["sig"], validate=True)) for s in record["signatures"]]
        found_type = str(record["payloadType"])
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise SignatureInvalid(f"{place} is not a signed record.", hint="It was damaged or replaced.") from None
    if found_type != payload_type:
        raise SignatureInvalid(
            f"{place} is a record of type {found_type[:80]!r} where {payload_type!r} belongs.",
            hint="It was put there by mistake, or to deceive.",
        )
    message = _pre_authentication(payload, payload_type)
    by_id = {signer.key_id: signer for signer in signers}
    known = [(by_id[key_id], signature) for key_id, signature in signatures if key_id in by_id]
    if not known:
        raise SignatureInvalid(
            f"{place} is not signed by anybody this keyring trusts.",
            hint="Add the <name>.signer of the host that wrote it, if you trust that host.",
        )
    if not any(signer.accepts(signature, message) for signer, signature in known):
        raise SignatureInvalid(
            f"{place} was altered after it was signed.", hint="Do not use it; look in another repository."
        )
    return payload


def _pre_authentication(payload: bytes, payload_type: str) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
