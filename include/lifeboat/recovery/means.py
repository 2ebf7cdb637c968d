"""What a recovery works with: vault, settings, connections, programs, and the targets that sources are brought back to.

Built in two places, from Airflow's hooks and from the command line; nothing is asked of any target here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lifeboat.assembly import configuration_source, database_source, postgres_server, redis_server, redis_source
from lifeboat.backup import DatabaseSource
from lifeboat.children import Children
from lifeboat.configuration.files import ConfigurationSource
from lifeboat.connections import Lookup, require_connection
from lifeboat.postgres.programs import Programs
from lifeboat.progress import Report
from lifeboat.recovery.model import Request
from lifeboat.redis_source.backup import RedisSource
from lifeboat.redis_source.programs import RedisProgram
from lifeboat.settings import Platform
from lifeboat.vault import Progress, Vault


@dataclass(frozen=True)
class Means:
    """Everything a step may need. `report` hears lines for people; scratch data is put below `base`."""

    vault: Vault
    platform: Platform
    lookup: Lookup
    installed: Callable[[], Sequence[Programs]]
    installed_redis: Callable[[], Sequence[RedisProgram]]
    children: Children = field(default_factory=Children)
    progress: Progress | None = None
    report: Report = lambda _: None
    base: Path | None = None

    def server_of(self, source: str, request: Request) -> DatabaseSource:
        """The server and the database that a source is brought back to: its own, or those of the request's connection.

        A connection that names no database means one of the source's own name. Raises `SettingsError`.
        """
        target = request.targets.get(source)
        if target is None:
            return database_source(self.platform, source, self.lookup)
        settings = self.platform.database(source)
        connection = require_connection(self.lookup, target, f"the target of {source}")
        database = connection.schema or settings.database
        if not database:
            database = database_source(self.platform, source, self.lookup).database
        return DatabaseSource(source, postgres_server(connection), database, settings.content_hash)

    def redis_of(self, source: str, request: Request) -> RedisSource:
        """The Redis that a source is brought back to. Raises `SettingsError`."""
        target = request.targets.get(source)
        if target is None:
            return redis_source(self.platform, source, self.lookup)
        self.platform.redis(source)  # raises for one that there is not
        return RedisSource(source, redis_server(require_connection(self.lookup, target, f"the target of {source}")))

    def tree_of(self, source: str, request: Request) -> Path:
        """The folder that a tree of files is brought back to. Raises `SettingsError`."""
        return Path(request.targets.get(source) or self.platform.file_tree(source).path)

    def root_of(self, source: str, request: Request) -> ConfigurationSource:
        """The folder that a set of configuration files is brought back to, with the set's paths.

        Raises `SettingsError`.
        """
        found = configuration_source(self.platform, source, self.lookup)
        target = request.targets.get(source)
        return found if target is None else replace(found, root=Path(target))
