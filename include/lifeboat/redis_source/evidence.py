"""What a Redis source held: counted in the RDB itself, and beside it what the server said just before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lifeboat.errors import UnknownFormat
from lifeboat.redis_source.connection import RedisServer, cluster_refused
from lifeboat.redis_source.rdb import DatabaseCount, RdbContents

FORMAT = 1


@dataclass(frozen=True)
class ServerFacts:
    """What a server says of itself. `keys` are by database, about now: some may have expired, some come."""

    flavour: str
    version: str
    role: str
    keys: Mapping[int, int]
    used_memory: int
    maxmemory: int
    maxmemory_policy: str
    append_only: bool
    last_save_failed: bool


@dataclass(frozen=True)
class RedisEvidence:
    """What a snapshot holds, and how sure that is.

    `contents` is exact: it was counted in the very RDB that was stored, which is of the moment `replication_id` and
    `offset`. `before` and `after` are the server's own counts, taken around that moment, so they bracket it only while
    nothing is written and nothing expires.
    """

    server_version: str
    contents: RdbContents
    replication_id: str
    offset: int
    before: Mapping[int, int]
    after: Mapping[int, int]
    used_memory: int
    remarks: tuple[str, ...] = field(default=())

    def to_json(self) -> bytes:
        """The evidence as it is sealed."""
        contents = self.contents
        record = {
            "format": FORMAT,
            "server_version": self.server_version,
            "flavour": contents.flavour,
            "rdb_version": contents.version,
            "checksummed": contents.checksummed,
            "size": contents.size,
            "databases": {
                str(number): {"types": dict(d.types), "expiring": d.expiring, "announced": d.announced}
                for number, d in contents.databases.items()
            },
            "functions": contents.functions,
            "modules": list(contents.modules),
            "uncounted": contents.uncounted,
            "replication_id": self.replication_id,
            "offset": self.offset,
            "before": {str(number): keys for number, keys in self.before.items()},
            "after": {str(number): keys for number, keys in self.after.items()},
            "used_memory": self.used_memory,
            "remarks": list(self.remarks),
        }
        return json.dumps(record, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> RedisEvidence:
        """The evidence that was sealed. Raises `UnknownFormat`; `ValueError`, `KeyError`, `TypeError` for others."""
        record = json.loads(data)
        if record["format"] != FORMAT:
            raise UnknownFormat(
                f"The evidence has format {record['format']}; this Lifeboat reads {FORMAT}.",
                hint="Use a newer Lifeboat.",
            )
        contents = RdbContents(
            flavour=record["flavour"],
            version=record["rdb_version"],
            checksummed=record["checksummed"],
            size=record["size"],
            databases={
                int(number): DatabaseCount(d["types"], d["expiring"], d["announced"])
                for number, d in sorted(record["databases"].items(), key=lambda entry: int(entry[0]))
            },
            functions=record["functions"],
            modules=tuple(record["modules"]),
            server_version=record["server_version"],
            uncounted=record["uncounted"],
        )
        return cls(
            record["server_version"],
            contents,
            record["replication_id"],
            record["offset"],
            {int(number): keys for number, keys in record["before"].items()},
            {int(number): keys for number, keys in record["after"].items()},
            record["used_memory"],
            tuple(record["remarks"]),
        )


def ask_facts(server: RedisServer) -> ServerFacts:
    """Ask a server about itself, with INFO alone. Raises `SourceError` kinds, also for Redis Cluster and Sentinel."""
    with server.client() as client:
        info = client.info()
    if int(info.get("cluster_enabled", 0)):
        raise cluster_refused(server)
    return facts_of(info)


def facts_of(info: Mapping[str, Any]) -> ServerFacts:
    """What INFO says, as we need it."""
    valkey = info.get("server_name") == "valkey"
    return ServerFacts(
        flavour="valkey" if valkey else "redis",
        version=str(info["valkey_version" if valkey else "redis_version"]),
        role=str(info.get("role", "master")),
        keys={int(name[2:]): int(entry["keys"]) for name, entry in info.items() if _is_database(name)},
        used_memory=int(info.get("used_memory", 0)),
        maxmemory=int(info.get("maxmemory", 0)),
        maxmemory_policy=str(info.get("maxmemory_policy", "noeviction")),
        append_only=bool(int(info.get("aof_enabled", 0))),
        last_save_failed=info.get("rdb_last_bgsave_status", "ok") != "ok",
    )


def differences(evidence: RedisEvidence) -> tuple[str, ...]:
    """Where what was counted and what the server announced for that very moment do not agree."""
    return tuple(
        f"database {number}: {database.keys} keys were sent, and the server announced {database.announced}"
        for number, database in evidence.contents.databases.items()
        if database.announced is not None and database.announced != database.keys
    )


def _is_database(name: str) -> bool:
    return name.startswith("db") and name[2:].isdigit()
