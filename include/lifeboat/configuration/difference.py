"""What has changed between two states of configuration files, told without any secret.

Lines of files are never shown: a secret may stand in any of them, in forms that nobody has foreseen. Files whose form
is known (.env, YAML, JSON, INI, TOML) are taken apart, and their keys compared. A value is shown only when neither its
key nor its looks suggest a secret; of every other it is said that it changed. Of all other files, how many lines.
"""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from lifeboat.configuration.archiving import Archived, changed_names
from lifeboat.configuration.contents import Content, Contents, contents_of_snapshot
from lifeboat.configuration.files import shown
from lifeboat.env_file import assignments
from lifeboat.errors import LifeboatError, WrongIdentity
from lifeboat.progress import count_text, size_text
from lifeboat.vault import Vault

HIDDEN = "(hidden)"

SECRET_WORDS = (
    "pass", "pwd", "secret", "token", "key", "credential", "auth", "dsn", "private", "cert", "salt", "sign",
    "cookie", "session", "webhook", "hook", "login", "pin", "jwt", "seed", "hash", "connection", "encrypt",
)  # fmt: skip
"""What a key contains, in any case, whose value is never shown, nor any value below it."""

MOST_VALUES = 20_000
"""Values of a document that are compared; a larger one may be one that unfolds itself (YAML's anchors)."""

DEEPEST = 40
"""Levels of a document that are compared."""


def difference(before: Contents, now: Contents) -> tuple[str, ...]:
    """What has changed, a line each; nothing when nothing has. Never shows a secret."""
    lines: list[str] = []
    for path in sorted(before.keys() | now.keys()):
        old, new = before.get(path), now.get(path)
        if old is None and new is not None:
            lines.append(f"+ {shown(path)}: {_described(new)}")
        elif new is None and old is not None:
            lines.append(f"- {shown(path)}: {_described(old)}")
        elif old is not None and new is not None and old.entry != new.entry:
            lines += _changed(path, old, new)
    return tuple(lines)


def changes_of(vault: Vault, archived: Archived) -> tuple[str, ...]:
    """What an archiving run has found changed; without an identity that opens the previous archive, by name alone."""
    if archived.previous is None:
        return (f"+ {count_text(len(archived.listed.files), 'file')}: the first archive",)
    try:
        return difference(
            contents_of_snapshot(vault, archived.previous), contents_of_snapshot(vault, archived.snapshot)
        )
    except WrongIdentity:
        return tuple(changed_names(vault.keyring, archived.previous, archived.listed))
    except LifeboatError as error:
        return (f"What has changed cannot be told: {error.message}",)


def _described(content: Content) -> str:
    entry = content.entry
    if entry.what == "link":
        return f"a symlink to {shown(entry.link)}"
    return f"a {entry.what}" if entry.what == "folder" else f"a file of {size_text(entry.size)}"


def _changed(path: str, old: Content, new: Content) -> Iterator[str]:
    was, is_now = old.entry, new.entry
    if was.what != is_now.what:
        yield f"~ {shown(path)}: was {_described(old)}, is {_described(new)}"
        return
    about = []
    if was.mode != is_now.mode:
        about.append(f"mode {was.mode:04o} → {is_now.mode:04o}")
    if (was.uid, was.gid) != (is_now.uid, is_now.gid):
        about.append(f"owner {was.uid}:{was.gid} → {is_now.uid}:{is_now.gid}")
    if was.link != is_now.link:
        about.append(f"leads to {shown(was.link)} → {shown(is_now.link)}")
    details: list[str] = []
    if was.sha256 != is_now.sha256:
        summary, details = _contents(path, old, new)
        about.append(summary)
    yield f"~ {shown(path)}: {', '.join(about)}"
    yield from (f"    {line}" for line in details)


def _contents(path: str, old: Content, new: Content) -> tuple[str, list[str]]:
    """What changed inside a file: in short, and a line for each key."""
    if old.text is None or new.text is None:
        return f"{size_text(old.entry.size)} → {size_text(new.entry.size)}, too large to be compared", []
    parse = _parser_of(path)
    if parse is None:
        return f"{_lines_changed(old.text, new.text)}; its form is not known, so its lines are not shown", []
    try:
        was, is_now = _flat(parse(old.text)), _flat(parse(new.text))
    except _UNREADABLE:  # whose messages quote the file
        return f"{_lines_changed(old.text, new.text)}; it cannot be taken apart, so its lines are not shown", []
    keys = list(_keys_changed(was, is_now))
    return (count_text(len(keys), "value") if keys else "only its comments, order or layout"), keys


def _keys_changed(was: _Flat, is_now: _Flat) -> Iterator[str]:
    for key in sorted(was.keys() | is_now.keys()):
        old_values, new_values = was.get(key, Counter[str]()), is_now.get(key, Counter[str]())
        gone, come = old_values - new_values, new_values - old_values
        name, secret = key
        if gone.total() == come.total() == 1:
            [old], [new] = gone, come
            yield f"~ {name}: {HIDDEN + ' changed' if secret else _pair(old, new)}"
            continue
        yield from (f"- {name} = {_value(text, secret=secret)}" for text in sorted(gone.elements()))
        yield from (f"+ {name} = {_value(text, secret=secret)}" for text in sorted(come.elements()))


def _pair(old: str, new: str) -> str:
    first, second = _value(old, secret=False), _value(new, secret=False)
    return f"{HIDDEN} changed" if first == second == HIDDEN else f"{first} → {second}"


def _lines_changed(old: bytes, new: bytes) -> str:
    was, is_now = Counter(old.splitlines()), Counter(new.splitlines())
    come, gone = (is_now - was).total(), (was - is_now).total()
    return f"{count_text(come, 'line')} added, {count_text(gone, 'line')} removed"


# ---- what may be shown ----------------------------------------------------------------------------------------------

_SECRET_KEY = re.compile("|".join(SECRET_WORDS), re.IGNORECASE)
_HARMLESS = re.compile(r"[A-Za-z0-9_.:/,*+][A-Za-z0-9_.:/,*+-]{0,79}")
_HARMLESS_KEY = re.compile(r"[A-Za-z0-9_.:/ -]{1,64}")
_PART = re.compile(r"[A-Za-z0-9+_-]+")


def is_secret_key(key: str) -> bool:
    """Whether a key is one whose value is not shown."""
    return _SECRET_KEY.search(key) is not None


def _value(text: str, *, secret: bool) -> str:
    """A value as it may be shown: letters, digits and little else, and nothing that looks drawn by lot."""
    if secret:
        return HIDDEN
    if not text:
        return "(empty)"
    if "://" in text:
        return _address(text)
    return text if _HARMLESS.fullmatch(text) and not _looks_random(text) else HIDDEN


def _address(text: str) -> str:
    """An address without credentials and parameters; nothing of one where they could be told apart in two ways."""
    scheme, _, rest = text.partition("://")
    login, at, rest = rest.rpartition("@")
    rest = re.split(r"[?#;]", rest)[0]
    ambiguous = "://" in rest or any(sign in login for sign in "/?#;")
    if ambiguous or not re.fullmatch(r"[a-z][a-z0-9+]{1,20}", scheme) or _value(rest, secret=False) != rest:
        return HIDDEN
    return f"{scheme}://{'…@' if at else ''}{rest}"


def _looks_random(text: str) -> bool:
    """Whether a part of a value is long, and mixed as keys and tokens are."""
    for part in _PART.findall(text):
        classes = sum(bool(re.search(kind, part)) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
        if (len(part) >= 12 and classes >= 2 and "-" not in part and "_" not in part) or len(part) >= 24:
            return True
        if len(part) >= 8 and classes == 3:
            return True
    return False


# ---- taking apart ---------------------------------------------------------------------------------------------------

_Flat = Mapping[tuple[str, bool], Counter[str]]
"""By key, as it may be shown, and whether its values are secret: the values that stand there, in lists several."""

_UNREADABLE = (ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError, configparser.Error)


def _parser_of(path: str) -> Callable[[bytes], Any] | None:
    name = path.rpartition("/")[2].lower()
    if name == ".env" or name.startswith(".env.") or name.endswith(".env"):
        return _read_env
    return _PARSERS.get(name.rpartition(".")[2]) if "." in name else None


def _read_env(data: bytes) -> dict[str, str]:
    return dict(assignments(data.decode("utf-8-sig")))


def _read_ini(data: bytes) -> dict[str, Any]:
    parser = configparser.RawConfigParser(strict=False, default_section="\0")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # its documented use
    text = data.decode()
    parser.read_string(text if text.lstrip().startswith(("[", "#", ";")) else f"[-]\n{text}")
    return {section: dict(parser.items(section)) for section in parser.sections()}


def _read_yaml(data: bytes) -> Any:
    documents = list(yaml.safe_load_all(data))
    return documents[0] if len(documents) == 1 else documents


_PARSERS: Mapping[str, Callable[[bytes], Any]] = {
    "yaml": _read_yaml,
    "yml": _read_yaml,
    "json": json.loads,
    "ini": _read_ini,
    "cfg": _read_ini,
    "properties": _read_ini,
    "toml": lambda data: tomllib.loads(data.decode()),
}


def _flat(document: Any) -> _Flat:
    """Every value of a document under its key. Raises `ValueError` when there are too many, or too deep."""
    found: dict[tuple[str, bool], Counter[str]] = {}
    for count, (names, secret, value) in enumerate(_walk(document, (), secret=False)):
        if count >= MOST_VALUES:
            raise ValueError("too many values")
        found.setdefault((".".join(names) or "(the whole)", secret), Counter())[value] += 1
    return found


def _walk(node: Any, names: tuple[str, ...], *, secret: bool) -> Iterator[tuple[tuple[str, ...], bool, str]]:
    if len(names) > DEEPEST:
        raise ValueError("too deep")
    if isinstance(node, dict) and node:
        # A Kubernetes Secret, and a pair such as `name: DB_PASSWORD`, `value: …`.
        hides = secret or any(
            is_secret_key(str(node.get(k, ""))) for k in ("kind", "name", "key", "id", "type", "Kind")
        )
        for key, value in node.items():
            name = str(key) if _HARMLESS_KEY.fullmatch(str(key)) and not _looks_random(str(key)) else HIDDEN
            yield from _walk(value, (*names, name), secret=hides or is_secret_key(str(key)))
    elif isinstance(node, list) and node:
        # Arguments stand in lists: what follows `--password` is one.
        hides = secret or any(isinstance(item, str) and _may_name_a_secret(item) for item in node)
        for item in node:
            pair = None if hides else _assignment(item)
            if pair is not None:
                name = pair[0] if not _looks_random(pair[0]) else HIDDEN
                yield (*names, name), is_secret_key(pair[0]), pair[1]
            else:
                yield from _walk(item, (*names, _label(item)), secret=hides)
    else:
        if not names and not node:
            return  # an empty document
        plain = node is None or isinstance(node, bool | list | dict)
        yield names, secret, json.dumps(node) if plain else str(node)


def _assignment(item: Any) -> tuple[str, str] | None:
    """`NAME=value`, as Docker Compose has its environment; Base64 ends in such signs and is none."""
    found = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_.]{0,63})=([^=].*)", item, re.DOTALL) if isinstance(item, str) else None
    return (found[1], found[2]) if found else None


def _may_name_a_secret(item: str) -> bool:
    """Whether another item of the same list may be its value: an option, or a word such as `password` alone."""
    return item.startswith("-") or (_assignment(item) is None and is_secret_key(item))


def _label(item: Any) -> str:
    """What an item of a list is called: by its name where it has one."""
    name = item.get("name") if isinstance(item, dict) else None
    if isinstance(name, str) and _HARMLESS_KEY.fullmatch(name) and not _looks_random(name):
        return f"[{name}]"
    return "[]"
