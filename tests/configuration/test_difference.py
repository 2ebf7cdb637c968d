"""The difference: what changed is told, and no secret ever."""

from __future__ import annotations

import base64
import configparser
import io
import json
from datetime import timedelta
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lifeboat.configuration import contents as contents_module
from lifeboat.configuration.contents import Content, Contents, contents_of_snapshot, contents_on_disk
from lifeboat.configuration.difference import HIDDEN, changes_of, difference, is_secret_key
from lifeboat.configuration.files import Entry
from lifeboat.errors import WrongIdentity
from tests.configuration.conftest import FILES, NOW, SEALING_ONLY, Place


def one(path: str, text: str | bytes | None, **changes: Any) -> Contents:
    """A single file."""
    data = text.encode() if isinstance(text, str) else text or b""
    entry = Entry(path, "file", 0o644, 0, 0, len(data), f"digest of {data!r}")
    return {path: Content(Entry(**(entry.__dict__ | changes)), None if text is None else data)}


def between(path: str, old: str, new: str) -> str:
    return "\n".join(difference(one(path, old), one(path, new)))


# ---- what is told ---------------------------------------------------------------------------------------------------


def test_the_same_is_no_difference() -> None:
    assert difference(one("a", "x"), one("a", "x")) == ()


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        (".env", "A=1\nB=2\n", "A=1\nB=3\nC=on\n", ["~ .env: 2 values", "    ~ B: 2 → 3", "    + C = on"]),
        (".env", "KEY='a\nb=c'\n", "KEY='a\nd=e'\n", ["~ .env: 1 value", "    ~ KEY: (hidden) changed"]),
        (
            ".env",
            "KEY='a\\'\nNAME=walrus\nB=z'\nC=1\n",
            "KEY='a\\'\nNAME=badger\nB=z'\nC=2\n",
            ["~ .env: 2 values", "    ~ C: 1 → 2", "    ~ KEY: (hidden) changed"],
        ),
        (
            ".env",
            'KEY="a\\"\nNAME=walrus"\r\nC=1\r\n',
            'KEY="a\\"\nNAME=badger"\r\nC=1\r\n',
            ["~ .env: 1 value", "    ~ KEY: (hidden) changed"],
        ),
        (".env", "\ufeffA=1\n", "\ufeffA=2\n", ["~ .env: 1 value", "    ~ A: 1 → 2"]),
        ("x/prod.env", "A=1\n", "", ["~ x/prod.env: 1 value", "    - A = 1"]),
        (".env", "DB_PASSWORD=a\n", "DB_PASSWORD=b\n", ["~ .env: 1 value", "    ~ DB_PASSWORD: (hidden) changed"]),
        (
            "a.yaml",
            "spec:\n  replicas: 2\n",
            "spec:\n  replicas: 3\n",
            ["~ a.yaml: 1 value", "    ~ spec.replicas: 2 → 3"],
        ),
        (
            "docker-compose.yml",
            "services: {web: {image: 'nginx:1.26', environment: [A=1, DB_PASSWORD=x]}}",
            "services: {web: {image: 'nginx:1.27', environment: [A=2, DB_PASSWORD=y]}}",
            [
                "~ docker-compose.yml: 3 values",
                "    ~ services.web.environment.A: 1 → 2",
                "    ~ services.web.environment.DB_PASSWORD: (hidden) changed",
                "    ~ services.web.image: nginx:1.26 → nginx:1.27",
            ],
        ),
        ("a.json", '{"a": [1, 2]}', '{"a": [2, 3]}', ["~ a.json: 1 value", "    ~ a.[]: 1 → 3"]),
        ("a.ini", "[x]\na = 1\n", "[x]\na = 2\n", ["~ a.ini: 1 value", "    ~ x.a: 1 → 2"]),
        ("a.toml", "[x]\na = 1\n", "[x]\na = true\n", ["~ a.toml: 1 value", "    ~ x.a: 1 → true"]),
        ("a.yaml", "a: 1\n", "# why\na: 1\n", ["~ a.yaml: only its comments, order or layout"]),
        (
            "nginx.conf",
            "a;\nb;\n",
            "a;\nc;\nd;\n",
            ["~ nginx.conf: 2 lines added, 1 line removed; its form is not known, so its lines are not shown"],
        ),
        (
            "a.yaml",
            "a: [\n",
            "a: {\n",
            ["~ a.yaml: 1 line added, 1 line removed; it cannot be taken apart, so its lines are not shown"],
        ),
        (
            ".env",
            "URL=postgres://me:hunter2@db:5432/app\n",
            "URL=postgres://me:hunter3@other:5432/app\n",
            ["~ .env: 1 value", "    ~ URL: postgres://…@db:5432/app → postgres://…@other:5432/app"],
        ),
    ],
)
def test_changes_are_told_by_key(path: str, old: str, new: str, expected: list[str]) -> None:
    assert list(difference(one(path, old), one(path, new))) == expected


def test_files_that_came_went_or_became_something_else_are_told() -> None:
    before = one("gone", "x") | one("mode", "x") | one("kind", "x") | one("big", None, sha256="1")
    link = Content(Entry("kind", "link", 0o777, 0, 0, link="mode"), None)
    now = one("come", "xy") | one("mode", "x", mode=0o600, uid=5) | {"kind": link} | one("big", None, sha256="2")

    assert difference(before, now) == (
        "~ big: 0 B → 0 B, too large to be compared",
        "+ come: a file of 2 B",
        "- gone: a file of 1 B",
        "~ kind: was a file of 1 B, is a symlink to mode",
        "~ mode: mode 0644 → 0600, owner 0:0 → 5:0",
    )


def test_snapshots_and_the_files_as_they_are_now_are_compared(place: Place) -> None:
    snapshot = place.archive().snapshot
    assert difference(contents_of_snapshot(place.vault(), snapshot), contents_on_disk(place.source)) == ()

    place.write(".env", FILES[".env"].replace("4", "5").replace("hunter2", "hunter3"))

    assert difference(contents_of_snapshot(place.vault(), snapshot), contents_on_disk(place.source)) == (
        "~ .env: 2 values",
        "    ~ DB_PASSWORD: (hidden) changed",
        "    ~ WORKERS: 4 → 5",
    )


def test_without_an_identity_an_archive_cannot_be_looked_into(place: Place) -> None:
    snapshot = place.archive().snapshot

    with pytest.raises(WrongIdentity):
        contents_of_snapshot(place.vault(SEALING_ONLY), snapshot)


def test_an_archiving_run_tells_what_has_changed_as_far_as_it_can_look(place: Place) -> None:
    first = place.archive()
    place.write(".env", FILES[".env"].replace("4", "5"))
    second = place.archive(began=NOW + timedelta(hours=1))

    assert changes_of(place.vault(), first) == ("+ 5 files: the first archive",)
    assert changes_of(place.vault(), second) == ("~ .env: 1 value", "    ~ WORKERS: 4 → 5")
    assert changes_of(place.vault(SEALING_ONLY), second) == ("changed: .env",)
    for stored in place.folder.glob("*/snapshots/**/*.sealed"):
        stored.unlink()
    [said] = changes_of(place.vault(), second)
    assert said.startswith("What has changed cannot be told: ")


def test_large_texts_are_not_held(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents_module, "LONGEST_TEXT", 32)

    held = contents_on_disk(place.source)

    assert held[".env"].text == FILES[".env"].encode()
    assert held["docker-compose.yml"].text is None


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.yaml", BOMB),
        ("a.yaml", "a: &a [*a]\n"),
        ("a.yaml", "? {a: 1}\n: 2\n"),
        ("a.yaml", "a: !vault x\n"),
        ("a.json", "[" * 100_000),
        ("a.json", "\udcff"),
        (".env", "-----BEGIN KEY-----\nabcd=\n"),
        (".env", 'KEY="begun\nabcd=never ended\n'),
        (".env", "KEY='begun\\'\nabcd=never ended\n"),
        ("a.ini", "a line\n"),
        ("a.toml", "a = \n"),
        ("a.properties", "\x00"),
    ],
    ids=lambda text: text[:20],
)
def test_what_cannot_be_taken_apart_is_told_as_such(path: str, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")

    lines = difference(one(path, "A=1" if path == ".env" else ""), one(path, data))

    assert len(lines) == 1 or path == "a.properties"


# ---- what is not ----------------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# Long enough that nothing else in the output holds it by chance, and as guessable as people's passwords are.
secrets = st.text(LETTERS + "-_.!$%&/()=?+*#:;,<>@ \\\"'", min_size=6, max_size=30).map(lambda s: f"Zq{s}qZ")
secret_keys = st.sampled_from(
    ["PASSWORD", "db_password", "API_KEY", "token", "SECRET", "SENTRY_DSN", "clientSecret", "REDIS_PASS", "authToken",
     "private_key", "AWS_SECRET_ACCESS_KEY", "passphrase", "webhook_url", "Credentials"]
)  # fmt: skip
plain_keys = st.text("abcdefghijklmnopqrstuvw_", min_size=1, max_size=10).filter(lambda key: not is_secret_key(key))
plain_values = st.one_of(st.integers(0, 99), st.booleans(), st.sampled_from(["info", "nginx:1.27", "db:5432", ""]))


def embedded(secret: str) -> st.SearchStrategy[Any]:
    """A document's part in which a secret stands in a way that people really write."""
    encoded = base64.b64encode(secret.encode()).decode()
    return st.one_of(
        st.builds(lambda key: {key: secret}, secret_keys),
        st.builds(lambda key: {key: [secret, secret]}, secret_keys),
        st.builds(lambda key, inner: {key: {inner: secret}}, secret_keys, plain_keys),
        st.builds(lambda key: {"env": [{"name": key, "value": secret}]}, secret_keys),
        st.builds(lambda key: {"environment": [f"{key}={secret}", "A=1"]}, secret_keys),
        st.builds(lambda key: {"url": f"postgres://me:{secret}@db:5432/app?{key}=x"}, secret_keys),
        st.builds(lambda key: {"url": f"https://example.org/x?{key}={secret}"}, secret_keys),
        st.builds(lambda key: {"dsn_like": f"host=db {key}={secret} port=5432"}, secret_keys),
        st.builds(lambda key: {"command": ["server", f"--{key}", secret]}, secret_keys),
        st.builds(lambda key: {"command": f"server --{key} {secret}"}, secret_keys),
        st.just({"command": ["server", "-p", f"A={secret}"]}),
        st.builds(lambda key: {"config": f"line\n{key}: {secret}\nline\n"}, secret_keys),
        st.builds(lambda name: {"kind": "Secret", "data": {name: encoded}, "stringData": {name: secret}}, plain_keys),
        st.just({"kind": "List", "items": [{"kind": "Secret", "data": {"a": encoded}, "stringData": {"a": secret}}]}),
        st.just({"pem": f"-----BEGIN PRIVATE KEY-----\n{encoded}\n-----END PRIVATE KEY-----\n"}),
    )


def documents(secret: str) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda plain, hidden, wrap: {**plain, **hidden, **({wrap: hidden} if wrap else {})},
        st.dictionaries(plain_keys, plain_values, max_size=4),
        embedded(secret),
        st.one_of(st.none(), plain_keys),
    )


def as_env(document: dict[str, Any]) -> str:
    lines = []
    for key, value in document.items():
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"{key}='{text}'" if "'" not in text else f"{key}={text}")
    return "\n".join(lines)


def as_ini(document: dict[str, Any]) -> str:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # its documented use
    parser.read_dict({"main": {key: json.dumps(value).strip('"') for key, value in document.items()}})
    with io.StringIO() as out:
        parser.write(out)
        return out.getvalue()


FORMS = {
    "a.yaml": yaml.safe_dump,
    "b.yml": lambda document: yaml.safe_dump(document, default_flow_style=True, width=20),
    "c.json": json.dumps,
    "d.json": lambda document: json.dumps(document, indent=1),
    "e.env": as_env,
    "f.ini": as_ini,
    "g.conf": yaml.safe_dump,
    "h": as_env,
}


@settings(max_examples=300, deadline=None)
@given(data=st.data(), path=st.sampled_from(sorted(FORMS)), old=secrets, new=secrets)
def test_no_secret_value_ever_appears(data: st.DataObject, path: str, old: str, new: str) -> None:
    assume(old != new)
    before = FORMS[path](data.draw(documents(old)))
    now = FORMS[path](data.draw(documents(new)))

    for lines in (difference(one(path, before), one(path, now)), difference(one(path, before), one(path, ""))):
        shown = "\n".join(lines)
        for secret in (old, new):
            encoded = base64.b64encode(secret.encode()).decode()
            for leak in (secret, encoded, *parts(secret)):
                assert leak not in shown


def parts(secret: str) -> list[str]:
    """Its beginning and its end: a value cut in two must not leak half of it."""
    return [secret[:6], secret[-6:]]


@pytest.mark.parametrize(
    "line",
    [
        "URL=postgres://me:hun@ter/2?x@db/app", "URL=redis://:hunter2@cache", "A=a1B2c3D4e5F6", "TOKEN=x y",
        "A=https://hooks.example.org/services/T0AB12/B0CD34/aB3dE5fG7hI9jK1l", "A=0123456789abcdef01234567",
        "A='multi\nline hunter2'", "A=-phunter2", 'A="user=me password=hunter2"', "A=hunter2 # password",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_hidden_whatever_it_is_called(line: str) -> None:
    shown = between(".env", "B=1\n", f"B=1\n{line}\n")

    assert shown.startswith("~ .env: 1 value\n    + ")
    value = line.partition("=")[2]
    assert not any(part in shown for part in ("hunter2", "ter/2", "a1B2", "aB3dE", "0123456789abcdef", value))
    assert HIDDEN in shown or "://…@" in shown
