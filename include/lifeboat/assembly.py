"""From settings and connections to working objects: the one place that builds them, for Airflow's hooks and the CLI."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifeboat.connections import Connection, Lookup, require_connection, variable_of
from lifeboat.errors import LifeboatError, SettingsError
from lifeboat.keys import Keyring
from lifeboat.own_places import OwnPlace
from lifeboat.presets import commands_of
from lifeboat.provider_clients import azure_client, s3_client
from lifeboat.record_cache import RecordCache
from lifeboat.repositories.contract import Repository
from lifeboat.retention import Policy
from lifeboat.settings import EmailSettings, Platform, RepositorySettings, parse_location
from lifeboat.snapshot import Tier
from lifeboat.streams import Throttle
from lifeboat.vault import Member, Vault

# What is built for one kind of source alone is imported with it: no command needs all of them.
if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient
    from mypy_boto3_s3 import S3Client

    from lifeboat.backup import DatabaseSource
    from lifeboat.configuration.files import ConfigurationSource
    from lifeboat.files.mirror import Mirror
    from lifeboat.files.source import TreeSource
    from lifeboat.in_place import Application, Smoke
    from lifeboat.notify.channels import Channel, Mail
    from lifeboat.postgres.connection import PostgresServer
    from lifeboat.recovery.status_page import StatusPage
    from lifeboat.redis_source.backup import RedisSource
    from lifeboat.redis_source.connection import RedisServer

DAYS: Mapping[Tier, int] = {Tier.DAILY: 1, Tier.WEEKLY: 7, Tier.MONTHLY: 30}
"""The days a period has at least; a lock that outlasts what was promised would only cost."""

Clients = Callable[[RepositorySettings], "S3Client | ContainerClient | None"]
"""Gives a provider's client that exists already, such as one Airflow's own hook has built; None to have it built."""


def open_vault(
    platform: Platform, lookup: Lookup, *, clients: Clients = lambda _: None, reading: bool = False
) -> Vault:
    """The vault of a platform: all its repositories, with the keys at hand.

    With `reading`, a repository whose connection is missing or unusable is left out and named in `absent`, as one that
    does not answer is: what can still be read in a disaster must be. Raises `SettingsError`, `KeyringError`,
    `RepositoryError`.
    """
    members: list[Member] = []
    unusable: dict[str, LifeboatError] = {}
    for index, settings in enumerate(platform.repositories):
        try:
            members.append(open_member(platform, index, lookup, clients=clients))
        except SettingsError as error:
            if not reading:
                raise
            unusable[settings.name] = error
    if not members:
        raise next(iter(unusable.values()))
    vault = Vault.open(members, open_keyring(platform, lookup), platform.recipients)
    vault.throttle = Throttle(platform.replicate_at_most) if platform.replicate_at_most else None
    vault.cache = RecordCache(Path(platform.state) / "records")
    vault.absent.update(unusable)
    return vault


def open_member(platform: Platform, index: int, lookup: Lookup, *, clients: Clients = lambda _: None) -> Member:
    """The platform's repository at `index`, with its part in the vault. Nothing is asked of it yet."""
    settings = platform.repositories[index]
    client = clients(settings)
    connection = None
    if settings.connection is not None and client is None:
        connection = require_connection(
            lookup, settings.connection, platform.place("repositories", index, "connection")
        )
    repository = open_repository(settings, connection, client=client)
    counts = policy_of(platform).counts[settings.name]
    tiers = frozenset(tier for tier, count in counts.items() if count)
    locks = locks_of(counts) if settings.object_lock else {}
    return Member(repository, settings.required, settings.storage_class.by_tier(), tiers, locks)


def locks_of(counts: Mapping[Tier, int]) -> Mapping[Tier, timedelta]:
    """For how long objects are locked by tier: as long as they are promised, less the day on which they go."""
    return {tier: timedelta(days=max(1, count * DAYS[tier] - 1)) for tier, count in counts.items() if count}


def policy_of(platform: Platform) -> Policy:
    """How much of each tier each repository keeps. Raises `SettingsError`."""
    counts = {r.name: (r.retention or platform.retention).counts() for r in platform.repositories}
    return Policy(counts, platform.retention.brake)


def open_repository(settings: RepositorySettings, connection: Connection | None, *, client: Any = None) -> Repository:
    """The repository that settings describe: through `client` where one is given, else through the connection."""
    location = settings.location
    if location.scheme == "file":
        from lifeboat.repositories.local import LocalDiskRepository

        return LocalDiskRepository(Path(location.prefix), settings.name)
    if location.scheme == "s3":
        from lifeboat.repositories.s3 import S3Repository
        from lifeboat.repositories.s3_requests import Encryption

        if client is None:
            assert connection is not None  # settings are refused without
            client = s3_client(connection)
        lock_mode = settings.object_lock.upper() if settings.object_lock else None
        encryption = Encryption(settings.encryption, settings.encryption_key) if settings.encryption else None
        return S3Repository(
            client, location.container, location.prefix, settings.name, lock_mode=lock_mode, encryption=encryption
        )
    from lifeboat.repositories.azure import AzureBlobRepository

    if client is None:
        assert connection is not None
        client = azure_client(connection).get_container_client(location.container)
    azure_mode = {None: None, "governance": "Unlocked", "compliance": "Locked"}[settings.object_lock]
    return AzureBlobRepository(client, location.prefix, settings.name, lock_mode=azure_mode)


def database_source(platform: Platform, name: str, lookup: Lookup) -> DatabaseSource:
    """The database that platform.yaml protects under this name. Nothing is asked of it yet. Raises `SettingsError`."""
    from lifeboat.backup import DatabaseSource

    settings = platform.database(name)
    index = platform.sources.databases.index(settings)
    place = platform.place("sources", "databases", index, "connection")
    connection = require_connection(lookup, settings.connection, place)
    database = settings.database or connection.schema
    if not database:
        raise SettingsError(
            f"{place}: neither the connection {connection.conn_id!r} nor the source {name!r} names a database.",
            hint="Add `database: <name>` to the source.",
        )
    return DatabaseSource(
        name, postgres_server(connection), database, settings.content_hash, settings.stream_size, settings.connections
    )


def databases_named_twice(platform: Platform, lookup: Lookup) -> tuple[str, ...]:
    """Remarks on sources that are one database by two connections; platform.yaml alone does not show it."""
    first: dict[tuple[str, int, str], str] = {}
    said = []
    for settings in platform.sources.databases:
        with suppress(SettingsError):  # said of that source alone
            source = database_source(platform, settings.name, lookup)
            place = source.server.host, source.server.port, source.database
            if (other := first.setdefault(place, source.name)) != source.name:
                said.append(f"{source.name} is the same database as {other}: it is dumped twice every night.")
    return tuple(said)


def own_places(platform: Platform, lookup: Lookup) -> tuple[OwnPlace, ...]:
    """The folders of this host that platform.yaml and the keyring's connection name as Lifeboat's own."""
    places = [OwnPlace("Lifeboat's own state", Path(platform.state), platform.place("state"))]
    for index, repository in enumerate(platform.repositories):
        if repository.location.scheme == "file":
            setting = platform.place("repositories", index, "url")
            places.append(OwnPlace(f"the repository {repository.name}", Path(repository.location.prefix), setting))
    for index, tree in enumerate(platform.sources.files):
        if tree.mirror and (location := parse_location(tree.mirror.plain)).scheme == "file":
            setting = platform.place("sources", "files", index, "mirror", "plain")
            places.append(OwnPlace(f"the mirror of {tree.name}", Path(location.prefix), setting))
    with suppress(SettingsError):  # said where keys are needed
        connection = require_connection(lookup, platform.keyring, platform.place("keyring"))
        folder, _ = keyring_place(connection)
        if folder is not None:
            places.append(OwnPlace("the keyring", folder, variable_of(connection.conn_id), holds_keys=True))
    return tuple(places)


def tree_source(platform: Platform, name: str, lookup: Lookup) -> TreeSource:
    """The tree that platform.yaml protects under this name. Raises `SettingsError`."""
    from lifeboat.files.source import TreeSource

    settings = platform.file_tree(name)
    vanishing = settings.may_vanish_percent / 100
    own = own_places(platform, lookup)
    return TreeSource(name, settings.path, Path(platform.state), settings.exclude, vanishing, own)


def tree_mirror(platform: Platform, name: str, lookup: Lookup, *, clients: Clients = lambda _: None) -> Mirror | None:
    """The plain mirror of a tree; None where it has none. Raises `SettingsError`, also for a place inside the vault."""
    from lifeboat.files.mirror import Mirror

    settings = platform.file_tree(name).mirror
    if settings is None:
        return None
    index = [tree.name for tree in platform.sources.files].index(name)
    place = platform.place("sources", "files", index, "mirror", "plain")
    mine = settings.plain.rstrip("/") + "/"
    for repository in platform.repositories:
        theirs = repository.url.rstrip("/") + "/"
        if mine.startswith(theirs) or theirs.startswith(mine):
            raise SettingsError(
                f"{place}: the mirror's place and the repository {repository.name} are one within the other.",
                hint="Give the mirror a place of its own: it is not encrypted, and changes what it has.",
            )
    as_repository = RepositorySettings(name="mirror", url=settings.plain, connection=settings.connection)
    client = clients(as_repository)
    connection = None
    if settings.connection is not None and client is None:
        connection = require_connection(lookup, settings.connection, place)
    store = open_repository(as_repository, connection, client=client)
    return Mirror(store, settings.layout == "dated", timedelta(days=settings.grace_days))


def configuration_source(platform: Platform, name: str, lookup: Lookup) -> ConfigurationSource:
    """The set of configuration files that platform.yaml protects under this name. Raises `SettingsError`."""
    from lifeboat.configuration.files import ConfigurationSource

    settings = platform.configuration(name)
    return ConfigurationSource(name, Path(settings.root), settings.paths, own_places(platform, lookup))


def application_of(platform: Platform) -> Application | None:
    """What stops and starts the platform's applications; None where platform.yaml does not say."""
    from lifeboat.in_place import Application

    settings = platform.application
    if settings is None:
        return None
    seconds = max(settings.seconds("stop"), settings.seconds("start"))
    return Application(commands_of(settings, "stop"), commands_of(settings, "start"), seconds)


def smoke_of(platform: Platform, name: str) -> Smoke | None:
    """The smoke checks of a database that can be asked of it before it is live; None where there are none.

    The address is left out: there, the live one answers.
    """
    from lifeboat.smoke import run_checks

    checks = replace(platform.smoke_checks(name), url=None)
    if not checks.sql and not checks.command:
        return None

    def ask(server: PostgresServer, database: str) -> Sequence[str]:
        results = run_checks(server, database, checks)
        return [f"{r.name}: expected {r.expected}, found {r.found}." for r in results if not r.passed]

    return ask


def channels_of(platform: Platform, lookup: Lookup) -> tuple[Channel, ...]:
    """Every channel to people that platform.yaml names; one that cannot be made is there as `Unusable`."""
    from lifeboat.notify.channels import Chat, Unusable, Webhook

    settings = platform.notify
    if settings is None:
        return ()

    def made(name: str, conn_type: str, make: Callable[[Connection], Channel], *path: str | int) -> Channel:
        try:
            return make(_of_type(conn_type, name, lookup, platform.place("notify", *path)))
        except SettingsError as error:
            return Unusable("email" if conn_type == "smtp" else name, error)

    email = settings.email
    channels = [made(email.connection, "smtp", partial(_mail, email), "email", "connection")] if email else []
    channels += [made(name, "apprise", Chat, "chat", index) for index, name in enumerate(settings.chat)]
    channels += [made(name, "http", Webhook, "webhooks", index) for index, name in enumerate(settings.webhooks)]
    return tuple(channels)


def status_page_of(platform: Platform, lookup: Lookup) -> StatusPage | None:
    """The page that tells users how the platform is; None where there is none. Raises `SettingsError`."""
    from lifeboat.recovery.status_page import StatusPage

    settings = platform.notify.status_page if platform.notify else None
    if settings is None:
        return None
    place = platform.place("notify", "status_page", "connection")
    return StatusPage(_of_type("http", settings.connection, lookup, place), settings.kind, settings.page or "")


def users_mail(platform: Platform, lookup: Lookup, to: Sequence[str]) -> Mail:
    """Mail to users, of whom none sees another's address. Raises `SettingsError`."""
    settings = platform.notify.email if platform.notify else None
    if settings is None:
        raise SettingsError(
            "Mail to users goes through `notify.email` of platform.yaml, which is missing.",
            hint="Add it: a connection and the addresses of operations.",
        )
    connection = _of_type("smtp", settings.connection, lookup, platform.place("notify", "email", "connection"))
    return replace(_mail(settings, connection), to=tuple(to), hidden=True, name="mail to users")


def _of_type(conn_type: str, name: str, lookup: Lookup, place: str) -> Connection:
    connection = require_connection(lookup, name, place)
    if connection.conn_type.rstrip("s") != conn_type:  # `https` is what a URI makes of `http`
        raise SettingsError(
            f"The connection {name!r} is of type {connection.conn_type!r}; this needs {conn_type!r}.",
            hint=f"Correct {variable_of(name)}, or name another connection in platform.yaml.",
        )
    return connection


def _mail(settings: EmailSettings, connection: Connection) -> Mail:
    from lifeboat.notify.channels import Mail

    sender = settings.sender or connection.extra.get("from_email")
    if not sender:
        raise SettingsError(
            f"Neither platform.yaml nor {variable_of(connection.conn_id)} says from whom mail comes.",
            hint="Add `sender: lifeboat@example.com` below `email:`.",
        )
    return Mail(connection, settings.to, str(sender))


def postgres_server(connection: Connection) -> PostgresServer:
    """The server a connection of type `postgres` leads to. Raises `SettingsError`."""
    from lifeboat.postgres.connection import PostgresServer
    from lifeboat.postgres.parameters import for_connections, for_nobody

    variable = variable_of(connection.conn_id)
    if connection.conn_type != "postgres":
        raise SettingsError(
            f"The connection {connection.conn_id!r} is of type {connection.conn_type!r}; "
            "a database needs one of type 'postgres'.",
            hint=f"Correct {variable}, or name another connection in platform.yaml.",
        )
    if not connection.host or not connection.login:
        raise SettingsError(
            f"{variable} lacks {'a host' if not connection.host else 'a user'}.",
            hint="Write it as postgres://user:password@host:5432/database, percent-encoded.",
        )
    if str(connection.extra.get("iam", "false")).lower() == "true":
        raise SettingsError(
            f"{variable} asks for an IAM token, which only Airflow gets by itself.",
            hint="Give a user with a password for use without Airflow.",
        )
    if refused := connection.extra.keys() & for_nobody():
        raise SettingsError(
            f"{variable} has {', '.join(sorted(refused))}, which pg_dump could only be given for all to see.",
            hint="Use a key without a passphrase that only Lifeboat can read, or a password.",
        )
    unknown = connection.extra.keys() - for_connections() - _AIRFLOW_OPTIONS - {_MAINTENANCE}
    if unknown:
        raise SettingsError(
            f"{variable} has options that PostgreSQL does not know: {', '.join(sorted(unknown))}.",
            hint="They are libpq's connection parameters, such as sslmode.",
        )
    options = {
        name: str(value) for name, value in connection.extra.items() if name not in _AIRFLOW_OPTIONS | {_MAINTENANCE}
    }
    maintenance = str(connection.extra.get(_MAINTENANCE) or "postgres")
    return PostgresServer(
        connection.host, connection.port or 5432, connection.login, connection.password or "", options, maintenance
    )


def redis_source(platform: Platform, name: str, lookup: Lookup) -> RedisSource:
    """The Redis that platform.yaml protects under this name. Nothing is asked of it yet. Raises `SettingsError`."""
    from lifeboat.redis_source.backup import RedisSource

    settings = platform.redis(name)
    place = platform.place("sources", "redis", platform.sources.redis.index(settings), "connection")
    return RedisSource(name, redis_server(require_connection(lookup, settings.connection, place)))


def redis_server(connection: Connection) -> RedisServer:
    """The server a connection of type `redis` leads to, in the form of Airflow's Redis hook. Raises `SettingsError`.

    All its databases are meant, whatever `db` says. TLS is asked for by `ssl` in the extra, or by the type `rediss`.
    """
    from lifeboat.redis_source.connection import RedisServer, Tls

    variable = variable_of(connection.conn_id)
    if connection.conn_type not in ("redis", "rediss"):
        raise SettingsError(
            f"The connection {connection.conn_id!r} is of type {connection.conn_type!r}; "
            "Redis needs one of type 'redis'.",
            hint=f"Correct {variable}, or name another connection in platform.yaml.",
        )
    if not connection.host:
        raise SettingsError(f"{variable} lacks a host.", hint="Write it as redis://user:password@host:6379/0.")
    if unknown := connection.extra.keys() - _REDIS_OPTIONS:
        raise SettingsError(
            f"{variable} has options that are not known here: {', '.join(sorted(unknown))}.",
            hint=f"Known are {', '.join(sorted(_REDIS_OPTIONS))}.",
        )
    extra = connection.extra
    tls = None
    if connection.conn_type == "rediss" or _is_true(extra.get("ssl", False)):
        verify = str(extra.get("ssl_cert_reqs", "required")).lower() in ("required", "cert_required", "2")
        tls = Tls(
            ca=extra.get("ssl_ca_certs") or None,
            certificate=extra.get("ssl_certfile") or None,
            key=extra.get("ssl_keyfile") or None,
            verify=verify,
            check_hostname=_is_true(extra.get("ssl_check_hostname", True)),
        )
    return RedisServer(connection.host, connection.port or 6379, connection.login, connection.password, tls)


def open_keyring(platform: Platform, lookup: Lookup) -> Keyring:
    """The keys at hand: those in the folder that the keyring's connection names, or in the connection itself."""
    connection = require_connection(lookup, platform.keyring, platform.place("keyring"))
    folder, texts = keyring_place(connection)
    return Keyring.from_texts(texts.items()) if folder is None else Keyring.from_folder(folder)


def keyring_place(connection: Connection) -> tuple[Path | None, dict[str, str]]:
    """Where a connection leads to keys: a folder, or the keys themselves by file name. Raises `SettingsError`.

    Its extra has `keyring`, an absolute path, or `keys`, such as `{"operations.recipient": "lifeboat:recipient:…"}`.
    """
    variable = variable_of(connection.conn_id)
    folder, keys = connection.extra.get("keyring"), connection.extra.get("keys")
    if isinstance(keys, str):  # a parameter of a URI, as a task is given it
        keys = _json_or_none(keys)
    if folder and not keys:
        if not Path(folder).is_absolute():
            raise SettingsError(f"{variable}: the keyring {folder!r} is not an absolute path.", hint=_KEYRING_HINT)
        return Path(folder), {}
    if isinstance(keys, dict) and not folder and all(isinstance(text, str) for text in keys.values()):
        return None, keys
    raise SettingsError(f"{variable} must have either `keyring` or `keys` in its extra.", hint=_KEYRING_HINT)


_KEYRING_HINT = (
    'Set it to {"conn_type": "generic", "extra": {"keyring": "/path/to/folder"}}, '
    'or give the keys themselves: {"keys": {"operations.recipient": "lifeboat:recipient:…"}}.'
)


# What Airflow's Redis hook knows.
_REDIS_OPTIONS = frozenset(
    {"db", "ssl", "ssl_cert_reqs", "ssl_ca_certs", "ssl_keyfile", "ssl_certfile", "ssl_check_hostname"}
)

# Where to log in for what is of the server as a whole; no parameter of libpq's.
_MAINTENANCE = "maintenance_database"

# What Airflow's PostgreSQL hook keeps for itself of a connection's extra.
_AIRFLOW_OPTIONS = frozenset(
    {"iam", "redshift", "redshift-serverless", "cursor", "cluster-identifier", "workgroup-name", "aws_conn_id",
     "azure_conn_id", "sqlalchemy_scheme", "sqlalchemy_query"}
)  # fmt: skip


def _is_true(value: object) -> bool:
    return str(value).lower() in ("true", "1", "yes")


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
