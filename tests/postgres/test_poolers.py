"""Through a pooler that keeps sessions apart a backup works; one that shares them out is refused before anything."""

from __future__ import annotations

from dataclasses import replace

import pytest
from psycopg import sql

from lifeboat.errors import SourceRefused
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import check_database, dump_database
from lifeboat.postgres.programs import Programs
from tests.fixtures_postgres import new_name
from tests.pooler import Pooler
from tests.postgres.artifacts import Kept, restore

pytestmark = pytest.mark.slow


@pytest.fixture
def shop(postgres: PostgresServer) -> str:
    name = new_name("pooled")
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with postgres.visit(name) as connection:
        connection.execute("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n")
    return name


def test_a_backup_and_a_restore_go_through_a_pool_of_sessions(
    postgres: PostgresServer, installed: tuple[Programs, ...], shop: str
) -> None:
    kept = Kept()

    with Pooler(postgres, "session") as pooler:
        check_database(pooler.server, shop, installed)
        dump = dump_database(pooler.server, shop, kept, installed=installed, content_hash=True, stream_size=1)
        report = restore(kept, dump, pooler.server, new_name("back"), installed)

    assert pooler.server.known.pooled
    assert report.evidence.rows == 1000


def test_a_pool_of_transactions_is_refused_before_its_sessions_are_set_to_anything(
    postgres: PostgresServer, installed: tuple[Programs, ...], shop: str
) -> None:
    with Pooler(postgres, "transaction") as pooler:
        with pytest.raises(SourceRefused, match="pooler that shares its sessions out") as refused:
            check_database(pooler.server, shop, installed)
        with pooler.server.visit(shop) as application:
            path = application.execute("SHOW search_path").fetchone()

    assert "pool_mode = session" in refused.value.hint
    assert path == ('"$user", public',)


def test_a_pooler_that_comes_in_between_later_is_found_out(
    postgres: PostgresServer, installed: tuple[Programs, ...], shop: str
) -> None:
    with Pooler(postgres, "session") as pooler:
        server = replace(pooler.server)
        server.known.version, server.known.may_silence = 170000, True  # as sessions with the server itself found it

        dump = dump_database(server, shop, Kept(), installed=installed)

    assert server.known.pooled
    assert dump.evidence.rows == 1000
