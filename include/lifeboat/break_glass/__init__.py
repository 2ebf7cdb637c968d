"""What a person needs when nothing of Lifeboat is left, put beside the backups themselves; none of it is secret.

    break-glass/README-<version>.md     what to do
    break-glass/restore-<version>.py    opens every snapshot with Python and the keys alone
    break-glass/facts-<digest>.json     which vault this is, and which keys open it

Objects are never overwritten, so each name carries what may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lifeboat import __version__
from lifeboat.errors import ObjectExists
from lifeboat.keys import Recipient, Signer
from lifeboat.vault import Member

PREFIX = "break-glass/"


def install(
    members: Sequence[Member], vault_id: str, recipients: Sequence[Recipient], signers: Sequence[Signer]
) -> tuple[tuple[str, str], ...]:
    """Put into every repository what it lacks of this; returns the new objects, (repository, key). May be repeated."""
    facts = _facts(vault_id, recipients, signers)
    objects = {
        f"{PREFIX}README-{__version__}.md": _HERE.joinpath("README.md").read_bytes(),
        f"{PREFIX}restore-{__version__}.py": _HERE.joinpath("restore.py").read_bytes(),
        f"{PREFIX}facts-{hashlib.sha256(facts).hexdigest()[:8]}.json": facts,
    }
    made = []
    for member in members:
        for key, data in objects.items():
            with suppress(ObjectExists):
                member.repository.put(key, [data])
                made.append((member.name, key))
    return tuple(made)


def _facts(vault_id: str, recipients: Sequence[Recipient], signers: Sequence[Signer]) -> bytes:
    record = {
        "vault_id": vault_id,
        "recipients": [
            {"name": r.name, "algorithm": r.algorithm, "key_id": r.key_id.hex()}
            for r in sorted(recipients, key=lambda recipient: recipient.name)
        ],
        "signers": [{"name": s.name, "key_id": s.key_id} for s in sorted(signers, key=lambda signer: signer.name)],
    }
    return json.dumps(record, indent=1).encode() + b"\n"


_HERE = Path(__file__).parent
