"""From platform.yaml and Airflow's connections to the core's objects."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from botocore.config import Config

from lifeboat.assembly import (
    configuration_source,
    database_source,
    open_keyring,
    open_vault,
    postgres_server,
    redis_source,
    tree_mirror,
)
from lifeboat.backup import DatabaseSource
from lifeboat.configuration.files import ConfigurationSource
from lifeboat.connections import Connection, require_connection
from lifeboat.files.mirror import Mirror
from lifeboat.keys import Keyring
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.programs import Programs, extra_folders, find_programs
from lifeboat.provider_clients import S3_CONFIG
from lifeboat.redis_source.backup import RedisSource
from lifeboat.redis_source.programs import RedisProgram, find_redis
from lifeboat.settings import Platform, RepositorySettings
from lifeboat.vault import Vault
from lifeboat_airflow.last_good import Loaded, load

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class PlatformHook(BaseHook):
    """The platform that LIFEBOAT_PLATFORM names, with its connections looked up where Airflow has them."""

    @cached_property
    def loaded(self) -> Loaded:
        """The platform, and what is wrong with its file. Raises `SettingsError`."""
        return load()

    @property
    def platform(self) -> Platform:
        """What platform.yaml says, or said before it was wrong. Raises `SettingsError`."""
        return self.loaded.platform

    def lookup(self, conn_id: str) -> Connection | None:
        """The connection of this id; None when Airflow has none."""
        try:
            return Connection.of(self.get_connection(conn_id))
        except AirflowNotFoundException:
            return None

    def configuration(self, name: str) -> ConfigurationSource:
        """The set of configuration files of this name. Raises `SettingsError`."""
        return configuration_source(self.platform, name, self.lookup)

    def keyring(self) -> Keyring:
        """The keys at hand, without asking any repository. Raises `KeyringError`, `SettingsError`."""
        return open_keyring(self.platform, self.lookup)


class VaultHook(PlatformHook):
    """Opens the vault."""

    def open(self, *, reading: bool = False) -> Vault:
        """The vault, as `lifeboat.assembly.open_vault` opens it, and with the same errors."""
        return open_vault(self.platform, self.lookup, clients=self._s3_client, reading=reading)

    def mirror(self, name: str) -> Mirror | None:
        """The plain mirror of a tree, where it has one. Raises `SettingsError`."""
        return tree_mirror(self.platform, name, self.lookup, clients=self._s3_client)

    def _s3_client(self, settings: RepositorySettings) -> S3Client | None:
        """S3 through Airflow's own hook, which can assume roles.

        Azure is left to the core: it looks for credentials in the same order, and sets the time limits that Airflow's
        hook has no way to set.
        """
        if settings.location.scheme != "s3" or settings.connection is None:
            return None
        connection = self.lookup(settings.connection)
        if connection is None or connection.conn_type != "aws":
            return None  # the core says what is wrong, and where
        config = Config(**{**S3_CONFIG, **connection.extra.get("config_kwargs", {})})
        return S3Hook(settings.connection, config=config).get_conn()


class PostgresSourceHook(PlatformHook):
    """Finds the PostgreSQL databases that platform.yaml protects, and the client programs to dump them with."""

    def source(self, name: str) -> DatabaseSource:
        """The database of this name. Nothing is asked of it yet. Raises `SettingsError`."""
        return database_source(self.platform, name, self.with_token)

    def server(self, conn_id: str, place: str) -> PostgresServer:
        """The server of the connection that is named at `place`. Nothing is asked of it yet. Raises `SettingsError`."""
        return postgres_server(require_connection(self.with_token, conn_id, place))

    def programs(self) -> tuple[Programs, ...]:
        """The installed client programs; LIFEBOAT_PG_BIN names folders to look into first."""
        return find_programs(extra_folders(os.environ.get("LIFEBOAT_PG_BIN")))

    def with_token(self, conn_id: str) -> Connection | None:
        """The connection; one that asks for an IAM token (`"iam": true`) has a fresh one as its password."""
        connection = self.lookup(conn_id)
        if connection is None or str(connection.extra.get("iam", "false")).lower() != "true":
            return connection
        login, token, port = PostgresHook(conn_id).get_iam_token(self.get_connection(conn_id))
        extra = {key: value for key, value in connection.extra.items() if key != "iam"}
        return replace(connection, login=login, password=token, port=port, extra=extra)


class RedisSourceHook(PlatformHook):
    """Finds the Redis instances that platform.yaml protects, and the server programs to prove snapshots with."""

    def source(self, name: str) -> RedisSource:
        """The Redis of this name. Nothing is asked of it yet. Raises `SettingsError`."""
        return redis_source(self.platform, name, self.lookup)

    def programs(self) -> tuple[RedisProgram, ...]:
        """The installed server programs; LIFEBOAT_REDIS_BIN names folders to look into first."""
        return find_redis(extra_folders(os.environ.get("LIFEBOAT_REDIS_BIN")))
