"""platform.yaml: what is right is read, and all that is wrong is listed with line, value and remedy."""

from pathlib import Path
from textwrap import dedent

import pytest

from lifeboat.errors import SettingsError
from lifeboat.settings import Location, load_platform, parse_location, platform_path
from lifeboat.snapshot import Kind, Tier

GOOD = """\
platform: SME
recipients: [operations, escrow]
repositories:
  - name: primary
    url: s3://bucket/prefix
    connection: lifeboat_s3
sources:
  databases:
    - name: receivables
      connection: platform_db
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "platform.yaml"


def problems(file: Path, text: str) -> str:
    """What is said about a platform.yaml, with its name shortened to `F`."""
    file.write_text(dedent(text), encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_platform(file)
    return caught.value.message.replace(str(file), "F")


def test_the_committed_example_is_the_platform_of_the_guide() -> None:
    platform = load_platform(platform_path({}))

    assert platform.platform == "SME Receivable Platform"
    assert (platform.objectives.rto_hours, platform.objectives.rpo_hours) == (4, 24)
    assert (platform.retention.daily, platform.retention.weekly, platform.retention.monthly) == (30, 12, 12)
    local = next(r for r in platform.repositories if r.location.scheme == "file")
    assert local.retention is not None
    assert (local.retention.daily, local.retention.weekly, local.retention.monthly) == (7, 0, 0)
    assert {r.location.scheme for r in platform.repositories} == {"s3", "azure", "file"}
    assert [d.name for d in platform.sources.databases] == ["receivables"]
    assert [(c.root, c.paths) for c in platform.sources.configuration] == [
        ("/opt/sme-platform", (".env", "docker-compose.yml", "monitoring/prometheus.yml", "k8s/*.yaml"))
    ]


def test_another_file_is_chosen_by_a_variable() -> None:
    assert platform_path({"LIFEBOAT_PLATFORM": "/etc/lifeboat/platform.yaml"}) == Path("/etc/lifeboat/platform.yaml")


def test_what_is_left_out_has_the_guides_defaults(file: Path) -> None:
    file.write_text(GOOD)

    platform = load_platform(file)

    assert (platform.objectives.rto_hours, platform.objectives.rpo_hours) == (4, 24)
    assert (platform.retention.daily, platform.retention.weekly, platform.retention.monthly) == (30, 12, 12)
    assert platform.keyring == "lifeboat_keys"
    assert platform.repositories[0].required
    assert platform.sources.databases[0].stream_size is None


def test_a_setting_knows_its_line(file: Path) -> None:
    file.write_text(GOOD)

    platform = load_platform(file)

    assert platform.place("repositories", 0, "connection") == f"{file}:6"
    assert platform.place("sources", "databases", 0, "connection") == f"{file}:10"
    assert platform.place("keyring") == f"{file}:1"  # not there: the nearest thing around it


def test_storage_classes_are_named_by_tier(file: Path) -> None:
    file.write_text(GOOD.replace("lifeboat_s3\n", "lifeboat_s3\n    storage_class: {monthly: DEEP_ARCHIVE}\n"))

    platform = load_platform(file)

    assert platform.repositories[0].storage_class.by_tier() == {Tier.MONTHLY: "DEEP_ARCHIVE"}


def test_a_database_that_is_not_named_is_refused_with_those_that_are(file: Path) -> None:
    file.write_text(GOOD)

    with pytest.raises(SettingsError) as caught:
        load_platform(file).database("recievables")

    assert "Did you mean 'receivables'?" in caught.value.hint


def test_whom_to_call_and_who_may_approve_need_not_be_said(file: Path) -> None:
    file.write_text(GOOD)
    assert load_platform(file).recovery.answer_within_minutes == 60

    file.write_text(
        f"recovery: {{contacts: ['Ada, +1 555'], approvers: [ada], answer_within_minutes: 15}}\n{dedent(GOOD)}"
    )

    recovery = load_platform(file).recovery
    assert (recovery.contacts, recovery.approvers, recovery.answer_within_minutes) == (("Ada, +1 555",), ("ada",), 15)


REPOSITORIES = GOOD[GOOD.index("repositories:") : GOOD.index("sources:")]
DATABASES = GOOD[GOOD.index("databases:") :]

SPOILED = {
    # name: (what is replaced, by what, the line it is reported at, and the beginning of what is said)
    "unknown key": (
        "platform_db",
        "platform_db\n      contents_hash: true",
        11,
        "sources.databases[0].contents_hash: there is no",
    ),
    "key left out": ("      connection: platform_db\n", "", 9, "sources.databases[0].connection: is missing"),
    "url without scheme": (
        "s3://bucket/prefix",
        "bucket/prefix",
        5,
        "repositories[0].url = 'bucket/prefix': This is no",
    ),
    "url of a web page": ("s3://", "https://", 5, "repositories[0].url = 'https://bucket/prefix': This is no"),
    "bucket in capitals": ("s3://bucket", "s3://Bucket", 5, "repositories[0].url = 's3://Bucket/prefix': 'Bucket'"),
    "no bucket": ("s3://bucket/prefix", "s3:///prefix", 5, "repositories[0].url = 's3:///prefix': '' cannot be"),
    "container with two hyphens": (
        "s3://bucket",
        "azure://a--b",
        5,
        "repositories[0].url = 'azure://a--b/prefix': 'a--b'",
    ),
    "prefix with ..": ("/prefix", "/a/../b", 5, "repositories[0].url = 's3://bucket/a/../b': 'a/../b' cannot"),
    "prefix with a blank": ("/prefix", "/a b", 5, "repositories[0].url = 's3://bucket/a b': 'a b' cannot"),
    "relative path": ("s3://bucket/prefix", "file://backups", 5, "repositories[0].url = 'file://backups': A local"),
    "root": ("s3://bucket/prefix", "file:///", 5, "repositories[0].url = 'file:///': A local repository is"),
    "connection left out": (
        "    connection: lifeboat_s3\n",
        "",
        4,
        "repositories[0].connection = nothing: s3://bucket",
    ),
    "connection of a folder": (
        "s3://bucket/prefix",
        "file:///b",
        6,
        "repositories[0].connection = 'lifeboat_s3': a local",
    ),
    "single recipient": (
        "[operations, escrow]",
        "[operations]",
        2,
        "recipients = ['operations']: backups must be sealed",
    ),
    "the same recipient": ("escrow]", "operations]", 2, "recipients[1] = 'operations': is also recipients[0], line 2"),
    "a recipient named twice": ("escrow]", "escrow, escrow]", 2, "recipients[2] = 'escrow': is also recipients[1]"),
    "the same database under two names": (
        DATABASES,
        DATABASES + "    - name: ledger\n      connection: platform_db\n",
        12,
        "sources.databases[1].connection = 'platform_db': is also sources.databases[0].connection, line 10",
    ),
    "the same tree under two names": (
        DATABASES,
        DATABASES + "  files:\n    - {name: a, path: /srv/a}\n    - {name: b, path: /srv//a/}\n",
        13,
        "sources.files[1].path = '/srv//a/': is also sources.files[0].path, line 12",
    ),
    "two mirrors in one place": (
        DATABASES,
        DATABASES + "  files:\n    - {name: a, path: /a, mirror: {plain: file:///m}}\n"
        "    - {name: b, path: /b, mirror: {plain: file:///m/}}\n",
        13,
        "sources.files[1].mirror.plain = 'file:///m/': is also sources.files[0].mirror.plain",
    ),
    "the same Redis under two names": (
        DATABASES,
        DATABASES + "  redis:\n    - {name: a, connection: r}\n    - {name: b, connection: r}\n",
        13,
        "sources.redis[1].connection = 'r': is also sources.redis[0].connection",
    ),
    "the same place in another spelling": (
        "    connection: lifeboat_s3\n",
        "    connection: lifeboat_s3\n  - {name: second, url: s3://bucket//prefix/, connection: b}\n",
        7,
        "repositories[1].url = 's3://bucket//prefix/': is also repositories[0].url, line 5",
    ),
    "a pattern given twice": (
        DATABASES,
        DATABASES + "  configuration:\n    - {name: a, root: /a, paths: [.env, b, .env]}\n",
        12,
        "sources.configuration[0].paths[2] = '.env': is also sources.configuration[0].paths[0]",
    ),
    "an address given twice": (
        "platform: SME",
        "platform: SME\nnotify:\n  email: {connection: smtp, to: [ops@sme.example, Ops@SME.example]}",
        3,
        "notify.email.to[1] = '…': is also notify.email.to[0]",
    ),
    "a channel given twice": (
        "platform: SME",
        "platform: SME\nnotify: {chat: [team, team]}",
        2,
        "notify.chat[1] = 'team': is also notify.chat[0]",
    ),
    "a service given twice": (
        "platform: SME",
        "platform: SME\napplication: {preset: systemd, services: [web, web]}",
        2,
        "application.services[1] = 'web': is also application.services[0]",
    ),
    "a service given twice, with two numbers": (
        "platform: SME",
        "platform: SME\napplication: {preset: kubernetes, project: a, services: [web=2, web=3]}",
        2,
        "application.services = ['web=2', 'web=3']: a service is named twice",
    ),
    "a service that holds data and uses it": (
        "platform: SME",
        "platform: SME\napplication: {preset: systemd, data_services: [redis], services: [web, redis]}",
        2,
        "application.services = ['web', 'redis']: redis would be stopped while data is put into it",
    ),
    "recipient in capitals": ("escrow]", "Escrow]", 2, "recipients[1] = 'Escrow': 'Escrow' cannot name"),
    "no repositories": (REPOSITORIES, "repositories: []\n", 3, "repositories = []: there must be at least one"),
    "repositories left out": (REPOSITORIES, "", 1, "repositories: is missing"),
    "no sources": (DATABASES, "databases: []\n", 7, "sources = a mapping: there must be at least one source"),
    "name with a blank": (
        "name: receivables",
        "name: re ceivables",
        9,
        "sources.databases[0].name = 're ceivables': 're",
    ),
    "name used twice": (
        "name: receivables",
        "name: primary",
        9,
        "sources.databases[0].name = 'primary': is also repositories[0].name, line 4",
    ),
    "zero days": (
        "platform: SME",
        "platform: SME\nretention: {daily: 0}",
        2,
        "retention.daily = 0: input should be greater",
    ),
    "days as a truth": (
        "platform: SME",
        "platform: SME\nretention: {daily: yes}",
        2,
        "retention.daily = True: input should be a",
    ),
    "hours as text": (
        "platform: SME",
        "platform: SME\nobjectives:\n  rto_hours: '4'",
        3,
        "objectives.rto_hours = '4': input should",
    ),
    "endless hours": (
        "platform: SME",
        "platform: SME\nobjectives: {rto_hours: .inf}",
        2,
        "objectives.rto_hours = inf: input should be a finite",
    ),
    "size no size": (
        "platform_db",
        "platform_db\n      stream_size: big",
        11,
        "sources.databases[0].stream_size = 'big': could not",
    ),
    "archive every day": (
        "lifeboat_s3",
        "lifeboat_s3\n    storage_class:\n      daily: GLACIER",
        8,
        "repositories[0].storage_class.daily = 'GLACIER': snapshots",
    ),
    "key given twice": ("url: s3", "name: second\n    url: s3", 5, "repositories[0].name: is given twice"),
    "own retention without days": (
        "lifeboat_s3",
        "lifeboat_s3\n    retention: {weekly: 2}",
        7,
        "repositories[0].retention.daily: is missing",
    ),
    "nobody to be told": (
        "platform: SME",
        "platform: SME\nnotify: {dead_man: {a: b}}",
        2,
        "notify = a mapping: nobody",
    ),
    "no mail address": (
        "platform: SME",
        "platform: SME\nnotify:\n  email:\n    connection: smtp\n    to: [ops]",
        5,
        "notify.email.to[0] = 'ops': This is no mail address.",
    ),
    "mail to nobody": (
        "platform: SME",
        "platform: SME\nnotify:\n  email: {connection: smtp, to: []}",
        3,
        "notify.email.to = []: there must be at least one.",
    ),
    "a chat's address in place of its connection": (
        "platform: SME",
        "platform: SME\nnotify:\n  chat: ['slack://token']",
        3,
        "notify.chat[0] = 'slack://token': string should match",
    ),
    "a status page of an unknown kind": (
        "platform: SME",
        "platform: SME\nnotify:\n  chat: [chat]\n  status_page:\n    connection: status\n    kind: cachet",
        6,
        "notify.status_page.kind = 'cachet': input should be 'statuspage' or 'webhook'.",
    ),
    "a status page without its page": (
        "platform: SME",
        "platform: SME\nnotify:\n  chat: [chat]\n  status_page: {connection: status, kind: statuspage}",
        4,
        "notify.status_page.page = nothing: is missing.",
    ),
    "a webhook with a page": (
        "platform: SME",
        "platform: SME\nnotify:\n  chat: [chat]\n  status_page: {connection: status, kind: webhook, page: a}",
        4,
        "notify.status_page.page = 'a': a webhook has no pages.",
    ),
    "mail to users without a mail server": (
        "platform: SME",
        "platform: SME\nnotify:\n  chat: [chat]\n  users: {to: [users@sme.example]}",
        4,
        "notify.users = a mapping: mail to users goes through `email:`, which is missing.",
    ),
    "mail to users in a phase there is not": (
        "platform: SME",
        "platform: SME\nnotify:\n  email: {connection: a, to: [a@b]}\n  users: {to: [a@b], phases: [done]}",
        4,
        "notify.users.phases[0] = 'done': input should be 'investigating'",
    ),
    "files named by a database that is not there": (
        DATABASES,
        DATABASES
        + "  files:\n    - name: uploads\n      path: /a\n      named_by: {database: ledger, sql: SELECT 1}\n",
        14,
        "sources.files[0].named_by.database = 'ledger': there is no such database among the sources",
    ),
    "no time to answer": (
        "platform: SME",
        "platform: SME\nrecovery:\n  answer_within_minutes: 0",
        3,
        "recovery.answer_within_minutes = 0: input should be greater",
    ),
    "contacts that are no texts": (
        "platform: SME",
        "platform: SME\nrecovery:\n  contacts: [{name: Ada}]",
        3,
        "recovery.contacts[0] = a mapping: input should be a valid string",
    ),
    "a list where a mapping belongs": (DATABASES, "- receivables\n", 7, "sources = ['receivables']: input should be"),
}


@pytest.mark.parametrize(("old", "new", "line", "said"), SPOILED.values(), ids=SPOILED.keys())
def test_what_is_wrong_is_said_with_line_value_and_remedy(file: Path, old: str, new: str, line: int, said: str) -> None:
    assert old in GOOD

    message = problems(file, GOOD.replace(old, new, 1))

    first, place, remedy = message.splitlines()
    assert first == "F is wrong in one place:"
    assert place.startswith(f"  F:{line}  {said}")
    assert remedy.strip()


def test_two_databases_of_one_connection_and_arguments_that_repeat_are_taken(file: Path) -> None:
    second = "    - {name: ledger, connection: platform_db, database: ledger, smoke_command: [./ask, -v, -v]}\n"
    file.write_text(f"application: {{stop: [[a, b, b]], start: [[a], [a]]}}\n{dedent(GOOD)}{second}")

    assert load_platform(file).names() == ("receivables", "ledger")


def test_all_problems_are_listed_at_once_in_the_order_of_their_lines(file: Path) -> None:
    message = problems(
        file,
        """\
        platfrom: SME
        recipients: [operations]
        repositories:
          - {name: one, url: "s3://bucket/a", connection: x}
          - {name: two, url: "s3://bucket/a/", connection: x, retention: {daily: -1}}
        sources:
          databases:
            - {name: one, connection: y}
        """,
    )

    assert [line.split()[0] for line in message.splitlines() if line.startswith("  F")] == [
        "F:1",  # platfrom
        "F:1",  # platform is missing
        "F:2",
        "F:5",  # the same place as one
        "F:5",
        "F:8",  # the name again
    ]
    assert "Did you mean 'platform'?" in message
    assert "wrong in 6 places" in message


SECRETS = {
    "password under an unknown key": ("connection: platform_db", "connection: db\n      password: hunter2"),
    "whole connection as id": ("connection: platform_db", "connection: postgres://user:hunter2@host/db"),
    "connection as JSON": ("connection: platform_db", """connection: '{"password": "hunter2"}'"""),
    "connection as a mapping": ("connection: platform_db", "connection: {password: hunter2}"),
    "credentials in a url": ("s3://bucket", "s3://key:hunter2@bucket"),
    "signature in a url": ("s3://bucket/prefix", "azure://backups?sig=hunter2"),
    "a webhook's address in place of its connection": (
        "platform: SME",
        "platform: SME\nnotify: {webhooks: ['https://hooks.example/x?token=hunter2']}",
    ),
    "connection string in a url": ("s3://bucket/prefix", "https://account?sig=hunter2@x"),
}


@pytest.mark.parametrize(("old", "new"), SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_written_into_the_file_is_not_repeated(file: Path, old: str, new: str) -> None:
    message = problems(file, GOOD.replace(old, new, 1))

    assert "hunter2" not in message


NOT_YAML = {
    "tab": ("platform: SME\n\trecipients: x\n", ":2 is not YAML"),
    "bad indentation": ("platform: SME\n recipients: x\n", ":2 is not YAML"),
    "open quote": ("platform: 'SME\n", ":2 is not YAML"),
    "unknown tag": ("platform: !vault x\n", ":1 is not YAML"),
    "python object": ("platform: !!python/object/apply:os.getcwd []\n", "platform = []"),
    "impossible date": ("platform:\n- 2026-13-45\n", ":2 is not YAML"),
    "loop": ("platform: &a [*a]\n", ":1 is not YAML: an alias refers to what contains it"),
    "mapping as a key": ("{a: 1}: 2\n", ":1 is not YAML: a key must be plain text"),
    "two documents": ("a: 1\n---\nb: 1\n", ":2 is not YAML"),
    "control character": ("platform: \x07\n", " is not YAML"),
    "empty": ("", " must be a mapping of settings, and is nothing"),
    "only a list": ("- a\n", " must be a mapping of settings, and is ['a']"),
}


@pytest.mark.parametrize(("text", "said"), NOT_YAML.values(), ids=NOT_YAML.keys())
def test_what_is_not_a_yaml_mapping_is_refused(file: Path, text: str, said: str) -> None:
    assert f"F{said}" in problems(file, text) or said in problems(file, text)


def test_what_is_not_text_is_refused(file: Path) -> None:
    file.write_bytes(b"platform: \xff\xfe")

    with pytest.raises(SettingsError, match="not UTF-8 text"):
        load_platform(file)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(SettingsError, match=r"There is no file .*platform\.yaml"):
        load_platform(file)


def test_an_alias_repeats_what_it_names(file: Path) -> None:
    file.write_text(GOOD.replace("lifeboat_s3", "&id lifeboat_s3").replace("platform_db", "*id"))

    assert load_platform(file).sources.databases[0].connection == "lifeboat_s3"


LOCATIONS = {
    "s3://bucket": Location("s3", "bucket", ""),
    "s3://bucket/": Location("s3", "bucket", ""),
    "s3://my.bucket-1/a/b=c/": Location("s3", "my.bucket-1", "a/b=c"),
    "azure://container/lifeboat": Location("azure", "container", "lifeboat"),
    "file:///backups/sme platform/": Location("file", "", "/backups/sme platform"),
}


@pytest.mark.parametrize("url", LOCATIONS, ids=LOCATIONS)
def test_a_url_is_taken_apart(url: str) -> None:
    assert parse_location(url) == LOCATIONS[url]


def test_sources_of_every_kind_are_found_by_their_names(file: Path) -> None:
    file.write_text(
        GOOD
        + """\
  files:
    - name: uploads
      path: /app/uploads
  configuration:
    - name: settings
      root: /opt/sme
      paths: [.env, k8s/*.yaml]
  redis:
    - name: sessions
      connection: platform_redis
"""
    )

    platform = load_platform(file)

    assert platform.names() == ("receivables", "uploads", "settings", "sessions")
    assert platform.names(Kind.FILES, Kind.REDIS) == ("uploads", "sessions")
    assert [platform.kind(name) for name in platform.names()] == [Kind.POSTGRES, Kind.FILES, Kind.CONFIG, Kind.REDIS]
    assert platform.file_tree("uploads").path == "/app/uploads"
    assert platform.configuration("settings").paths == (".env", "k8s/*.yaml")
    assert platform.redis("sessions").connection == "platform_redis"
    with pytest.raises(SettingsError, match="names no source 'upload'") as caught:
        platform.kind("upload")
    assert "Did you mean 'uploads'?" in caught.value.hint


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            "files:\n    - {name: uploads, path: app/uploads}",
            "sources.files[0].path = 'app/uploads': This is no absolute",
        ),
        (
            "files:\n    - {name: receivables, path: /app}",
            "sources.files[0].name = 'receivables': is also sources.data",
        ),
        (
            "configuration:\n    - {name: c, root: /opt, paths: []}",
            "sources.configuration[0].paths = []: there must be",
        ),
        ("redis:\n    - {name: r}", "sources.redis[0].connection: is missing."),
    ],
    ids=["relative path", "name taken by another kind", "no paths", "no connection"],
)
def test_what_is_wrong_with_other_kinds_of_sources_is_said_too(file: Path, section: str, said: str) -> None:
    assert f"F:11  {said}" in problems(file, GOOD + f"  {section}\n").replace("F:12", "F:11")


@pytest.mark.parametrize(
    ("said", "tiers"),
    {
        "nightly": ("nightly", "daily weekly monthly"),
        "weekly": ("weekly", "weekly monthly"),
        "monthly": ("monthly", "monthly"),
        "off, which YAML takes for false": ("off", ""),
    }.values(),
    ids=["nightly", "weekly", "monthly", "off"],
)
def test_how_often_snapshots_are_proven_says_for_which_tiers(file: Path, said: str, tiers: str) -> None:
    file.write_text(f"prove: {said}\n{dedent(GOOD)}")

    assert " ".join(tier for tier in Tier if load_platform(file).prove.cover(tier)) == tiers


@pytest.mark.parametrize(
    ("line", "problem"),
    {
        "a brake that lets nothing go": ("retention: {brake: 0}", "retention.brake = 0: input should be"),
        "a brake beyond everything": ("retention: {brake: 2.0}", "retention.brake = 2.0: input should be less"),
        "a grace shorter than a backup": (
            "retention: {grace_days: 0.1}",
            "retention.grace_days = 0.1: input should be",
        ),
        "a word nobody knows": ("prove: sometimes", "prove = 'sometimes': input should be 'nightly'"),
    }.values(),
    ids=["no brake", "too much", "no grace", "a word"],
)
def test_what_would_delete_carelessly_is_refused(file: Path, line: str, problem: str) -> None:
    assert problem in problems(file, f"{line}\n{dedent(GOOD)}")
