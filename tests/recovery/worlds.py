"""Cases of recoveries on vaults in memory, with receivers for what people are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lifeboat.connections import Connection
from lifeboat.recovery.clock import Clock
from lifeboat.recovery.journal import Journal, new_incident
from lifeboat.recovery.means import Means
from lifeboat.recovery.model import Assessment, Component, CopyFound, Mode, Request, State
from lifeboat.recovery.steps import Case
from lifeboat.repositories.memory import MemoryRepository
from lifeboat.settings import load_platform
from lifeboat.snapshot import Kind
from tests.files.vaults import vault_of
from tests.receivers import MailServer, StatusPageServer, WebServer

BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=70)
SNAPSHOT_BEGAN = BEGAN - timedelta(hours=5)

PLATFORM = """\
platform: SME Receivable Platform
recipients: [operations, escrow]
repositories:
  - {name: local, url: "file:///tmp/nothing"}
sources:
  databases:
    - {name: receivables, connection: sme_platform_db}
  files:
    - {name: uploads, path: /tmp/nothing}
"""
NOTIFY = """\
notify:
  email: {connection: lifeboat_smtp, to: [ops@sme.example], sender: lifeboat@sme.example}
  chat: [lifeboat_chat]
  webhooks: [lifeboat_webhook]
  status_page: {connection: lifeboat_status, kind: statuspage, page: page1}
  users: {to: [ada@sme.example, bo@sme.example]}
"""
REQUEST = Request(
    Mode.RECOVER, BEGAN, "The server room is under water", reason="A pipe burst", tell=("cy@sme.example",)
)

ASSESSMENT = Assessment(
    made=BEGAN + timedelta(minutes=5),
    components=(
        Component(
            "receivables",
            Kind.POSTGRES,
            "sme_platform_db",
            State.GONE,
            "The server does not answer.",
            snapshot="receivables/daily/20261124T020000Z-0a1b2c3d",
            began=SNAPSHOT_BEGAN,
            proven=SNAPSHOT_BEGAN,
            copies=(CopyFound("local", whole=True), CopyFound("s3", whole=False, remark="a byte is wrong")),
            lost_seconds=5 * 3600,
            newer=("receivables/daily/20261124T030000Z-00000000: no copy of it is whole",),
        ),
        Component(
            "uploads",
            Kind.FILES,
            "/tmp/nothing",
            State.EMPTY,
            "The folder is empty.",
            snapshot="uploads/daily/20261124T030000Z-0a1b2c3d",
            began=SNAPSHOT_BEGAN + timedelta(hours=1),
            copies=(CopyFound("local", whole=True),),
            lost_seconds=4 * 3600,
        ),
    ),
    skew_seconds=3600,
    expected_seconds=1800,
    keys="The key of operations unseals.",
    remarks=("uploads was never proven.",),
)


@dataclass
class World:
    """A vault in memory, what a case of it says to people, and the connections it finds."""

    folder: Path
    connections: dict[str, Connection]
    said: list[str] = field(default_factory=list)
    repository: MemoryRepository = field(default_factory=lambda: MemoryRepository("primary"))

    def __post_init__(self) -> None:
        self.vault = vault_of(self.repository)
        self.incident = new_incident(BEGAN)

    def case(self, *, notify: str = NOTIFY, **request: Any) -> Case:
        """The case of this incident, as whoever comes next would make it."""
        file = self.folder / "platform.yaml"
        file.write_text(PLATFORM + notify, "utf-8")
        means = Means(
            self.vault, load_platform(file), self.connections.get, installed=tuple, installed_redis=tuple,
            report=self.said.append,
        )  # fmt: skip
        made = Case(
            means,
            replace(REQUEST, **request),
            self.incident,
            Journal(self.vault, self.incident, report=self.said.append),
            Clock(BEGAN, 4),
        )
        made.journal.begin(made.request, by="maria")
        return made


def connections_of(mail: MailServer, web: WebServer, status: StatusPageServer) -> dict[str, Connection]:
    """Connections to the receivers, and one to a database, each with a secret."""

    def made(name: str, fields: Mapping[str, Any]) -> Connection:
        return Connection(name, **fields)

    chat = {"conn_type": "apprise", "extra": {"config": [{"path": f"json://{web.url[7:]}/chat-secret-token"}]}}
    found = {
        "lifeboat_smtp": mail.connection,
        "lifeboat_chat": chat,
        "lifeboat_webhook": {"conn_type": "http", "host": f"{web.url}/hook-secret-token", "password": "hook-password"},
        "lifeboat_status": {"conn_type": "http", "host": status.url, "password": status.token},
        "sme_platform_db": {"conn_type": "postgres", "host": "db", "login": "sme", "password": "hunter2-of-database"},
    }
    return {name: made(name, fields) for name, fields in found.items()}
