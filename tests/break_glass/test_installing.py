"""Every repository carries what opens it when nothing else is left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from lifeboat import __version__, break_glass
from lifeboat.keys import Identity, Keyring, SigningKey
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.vault import Member, Vault
from tests.break_glass.alone import RESTORE, Stranger
from tests.cli.conftest import Place, odd_database, place, ready, s3_server

__all__ = ["odd_database", "place", "ready", "s3_server"]

OPERATIONS, ESCROW = Identity.generate("operations"), Identity.generate("escrow")
SIGNING = SigningKey.generate("host-1")


@dataclass(frozen=True)
class Members:
    """Two repositories of a vault."""

    members: tuple[Member, ...]
    vault_id: str

    def install(self, *identities: Identity) -> tuple[tuple[str, str], ...]:
        recipients = [identity.recipient for identity in identities]
        return break_glass.install(self.members, self.vault_id, recipients, [SIGNING.signer])

    def objects(self, index: int = 0) -> list[str]:
        return [info.key for info in self.members[index].repository.list("")]


@pytest.fixture
def two() -> Members:
    members = tuple(Member(MemoryRepository(name)) for name in ("s3", "local"))
    return Members(members, Vault.create(members))


def test_every_repository_gets_the_program_the_page_and_public_facts(two: Members) -> None:
    made = two.install(OPERATIONS, ESCROW)

    assert two.objects() == two.objects(1)
    program, page = f"break-glass/restore-{__version__}.py", f"break-glass/README-{__version__}.md"
    assert {page, program} < set(two.objects())
    assert len(made) == 6
    assert b"".join(two.members[0].repository.get(program)) == RESTORE.read_bytes()


def test_the_facts_name_vault_and_keys_and_hold_no_secrets(two: Members) -> None:
    two.install(OPERATIONS, ESCROW)
    [key] = [key for key in two.objects() if key.startswith("break-glass/facts-")]

    text = b"".join(two.members[0].repository.get(key)).decode()

    facts = json.loads(text)
    assert facts["vault_id"] == two.vault_id
    assert {r["name"]: r["key_id"] for r in facts["recipients"]} == {
        identity.name: identity.recipient.key_id.hex() for identity in (OPERATIONS, ESCROW)
    }
    assert facts["signers"] == [{"name": "host-1", "key_id": SIGNING.signer.key_id}]
    assert not [key.text for key in (OPERATIONS, ESCROW, SIGNING) if key.text.split(":")[3] in text]


def test_repeating_it_changes_nothing_and_other_recipients_are_noted_beside_the_old(two: Members) -> None:
    two.install(OPERATIONS, ESCROW)
    before = two.objects()

    assert two.install(ESCROW, OPERATIONS) == ()
    assert two.objects() == before
    added = two.install(OPERATIONS, ESCROW, Identity.generate("escrow-2027"))
    assert [key.rpartition("-")[0] for _, key in added] == ["break-glass/facts", "break-glass/facts"]


def test_a_vault_lists_no_such_object(two: Members) -> None:
    two.install(OPERATIONS, ESCROW)
    vault = Vault.open(two.members, Keyring(signers=(SIGNING.signer,)), [])

    assert vault.list() == Vault.open(two.members, Keyring(), []).list()
    assert (vault.list().snapshots, vault.list().problems) == ((), ())


def test_what_init_has_put_into_a_repository_opens_its_snapshots(ready: Place, stranger: Stranger) -> None:
    ready.run("backup", "odd")
    [program] = (ready.local / "break-glass").glob("restore-*.py")
    program.rename(stranger.folder / "restore.py")

    verified = stranger.run("verify", ready.local, "odd", "--keys", ready.keyring)

    assert b"dump  whole" in verified.out


def test_init_puts_back_what_was_taken_away(ready: Place) -> None:
    folder: Path = ready.local / "break-glass"
    [page] = folder.glob("README-*.md")
    page.unlink()

    again = ready.run("init")

    assert f"Put break-glass/{page.name} into local" in again.out
    assert page.exists()
