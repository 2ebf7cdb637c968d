"""`init` and `keys`: what is done once, and again when a person or a host joins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifeboat import break_glass
from lifeboat.assembly import keyring_place, open_keyring, open_member
from lifeboat.cli.desk import Desk, EnvFileOption, JsonOption, PlatformOption, open_desk
from lifeboat.cli.output import remark, say, say_json, say_table
from lifeboat.connections import require_connection, variable_of
from lifeboat.errors import KeyringError, SettingsError
from lifeboat.keys import Identity, Keyring, SigningKey, write_key
from lifeboat.settings import Platform
from lifeboat.snapshot import check_name
from lifeboat.vault import Vault

SIGNER = "backup-host"
"""What the signing key that `init` makes is called."""

KeyringOption = Annotated[
    Path | None,
    typer.Option("--keyring", metavar="FOLDER", help="The folder of keys; without it, the one the connection names."),
]

keys = typer.Typer(no_args_is_help=True, help="Make, list and show keys. Private halves are never printed.")


def init(platform: PlatformOption = None, env_file: EnvFileOption = None, keyring: KeyringOption = None) -> None:
    """Make the keys that are missing, and mark every repository as part of one vault.

    Puts a program and a page into each that open its snapshots when nothing else is left. May be repeated: nothing that
    exists is changed, and a repository that was added to platform.yaml joins the vault.
    """
    desk = open_desk(platform, env_file)
    folder = _keyring_folder(desk, keyring)
    made = [] if folder is None else make_keys(folder, desk.platform.recipients)
    for path in made:
        say(f"Made {path}")
    members = [open_member(desk.platform, index, desk.lookup) for index in range(len(desk.platform.repositories))]
    vault_id = Vault.create(members)
    at_hand = Keyring.from_folder(folder) if folder is not None else open_keyring(desk.platform, desk.lookup)
    recipients = at_hand.recipients_named(desk.platform.recipients)
    for repository, key in break_glass.install(members, vault_id, recipients, at_hand.signers):
        say(f"Put {key} into {repository}")
    say(f"The repositories {', '.join(member.name for member in members)} form the vault {vault_id}.")
    if folder is not None:
        _say_next_steps(desk, folder, made)


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, such as escrow-2027.")],
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    keyring: KeyringOption = None,
) -> None:
    """Make an identity and its recipient. Nothing is sealed for it before `recipients` in platform.yaml names it."""
    desk = open_desk(platform, env_file)
    folder = _keyring_folder(desk, keyring)
    if folder is None:
        raise SettingsError(
            "The keyring is inside its connection, where no key can be added.", hint="Name a folder with `--keyring`."
        )
    for path in _make_identity(folder, check_name(name, "a recipient")):
        say(f"Made {path}")


@keys.command("list")
def list_keys(
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    keyring: KeyringOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys at hand. JSON: `keys`, a list of `name`, `role`, `algorithm`, `key_id`, `used`."""
    desk = open_desk(platform, env_file)
    records = _key_records(_keyring(desk, keyring), desk.platform)
    if as_json:
        say_json({"keys": records})
        return
    rows = [[str(r["name"]), str(r["role"]), str(r["algorithm"]), str(r["key_id"]), str(r["used"])] for r in records]
    say_table(["name", "role", "algorithm", "key id", "used for"], rows, nothing="The keyring has no keys.")


@keys.command("show")
def show_key(
    name: Annotated[str, typer.Argument(help="The recipient's name.")],
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    keyring: KeyringOption = None,
) -> None:
    """Print a recipient: the public half, which may be given to anybody."""
    recipients = _keyring(open_desk(platform, env_file), keyring).recipients
    if name not in recipients:
        raise KeyringError(
            f"The keyring has no recipient {name!r}.", hint=f"It has: {', '.join(sorted(recipients)) or 'none'}."
        )
    say(recipients[name].text)


def make_keys(folder: Path, recipient_names: tuple[str, ...]) -> list[Path]:
    """Make what a keyring folder lacks: identities and recipients of these names, and a signing key.

    Returns the files made. A recipient whose identity was taken away, and a signer whose signing key was, stay so.
    """
    made: list[Path] = []
    for name in recipient_names:
        if not (folder / f"{name}.recipient").exists():
            made += _make_identity(folder, name)
    if not any(folder.glob("*.signer")):
        key = _existing_signing_key(folder) or SigningKey.generate(SIGNER)
        made += [write_key(folder, key)] if not (folder / f"{key.name}.signing").exists() else []
        made.append(write_key(folder, key.signer))
    return made


def _make_identity(folder: Path, name: str) -> list[Path]:
    """An identity first and its recipient then, so that what is cut short between the two can be completed."""
    if (folder / f"{name}.recipient").exists():
        raise KeyringError(
            f"{folder} already has a recipient {name!r}.", hint="Keys are never overwritten. Choose another name."
        )
    if (folder / f"{name}.identity").exists():
        identity = next(i for i in Keyring.from_folder(folder).identities if i.name == name)
        return [write_key(folder, identity.recipient)]
    identity = Identity.generate(name)
    return [write_key(folder, identity), write_key(folder, identity.recipient)]


def _existing_signing_key(folder: Path) -> SigningKey | None:
    return Keyring.from_folder(folder).signing_key if any(folder.glob("*.signing")) else None


def _keyring_folder(desk: Desk, option: Path | None) -> Path | None:
    """The keyring's folder: as the option says, else as the connection does; None when its keys are inside it."""
    if option is not None:
        return option.absolute()
    conn_id = desk.platform.keyring
    if desk.lookup(conn_id) is None:
        raise SettingsError(
            f"{desk.platform.place('keyring')}: the connection {conn_id!r}, which leads to the keys, does not exist.",
            hint="Choose a folder that only this user can read and run `lifeboat init --keyring FOLDER`; "
            f"it then says what to set {variable_of(conn_id)} to.",
        )
    return keyring_place(require_connection(desk.lookup, conn_id, desk.platform.place("keyring")))[0]


def _keyring(desk: Desk, option: Path | None) -> Keyring:
    return open_keyring(desk.platform, desk.lookup) if option is None else Keyring.from_folder(option)


def _say_next_steps(desk: Desk, folder: Path, made: list[Path]) -> None:
    conn_id = desk.platform.keyring
    connection = desk.lookup(conn_id)
    steps = []
    if connection is None or keyring_place(connection)[0] != folder:
        value = f'{{"conn_type": "generic", "extra": {{"keyring": "{folder}"}}}}'
        steps.append(f"Set {variable_of(conn_id)}='{value}' in the .env file, or add this connection to Airflow.")
    for name in desk.platform.recipients[1:]:
        if folder / f"{name}.identity" in made:
            steps.append(
                f"Move {folder / name}.identity to two offline places and remove it from this host: it opens every "
                "backup when all else is lost."
            )
    if made:
        steps.append("Run `lifeboat preflight`.")
    for number, step in enumerate(steps, start=1):
        remark(f"Next step {number}: {step}")


def _key_records(keyring: Keyring, platform: Platform) -> list[dict[str, object]]:
    """Public facts of every key at hand."""
    records: list[dict[str, object]] = []
    for recipient in keyring.recipients.values():
        sealing = "every backup is sealed for it" if recipient.name in platform.recipients else ""
        records.append(_record(recipient.name, "recipient", recipient.algorithm, recipient.key_id.hex(), sealing))
    for identity in keyring.identities:
        key_id = identity.recipient.key_id.hex()
        records.append(_record(identity.name, "identity", identity.algorithm, key_id, "unseals on this host"))
    for signer in keyring.signers:
        records.append(_record(signer.name, "signer", "ed25519", signer.key_id, "its manifests are trusted"))
    if keyring.signing_key is not None:
        key = keyring.signing_key
        records.append(_record(key.name, "signing", "ed25519", key.signer.key_id, "signs manifests on this host"))
    return records


def _record(name: str, role: str, algorithm: str, key_id: str, used: str) -> dict[str, object]:
    return {"name": name, "role": role, "algorithm": algorithm, "key_id": key_id, "used": used}
