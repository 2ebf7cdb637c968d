"""Whatever goes wrong at the source or the target is told clearly, and leaves nothing half-done."""

from __future__ import annotations

import os
import re
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from psycopg import sql

from lifeboat.children import Children
from lifeboat.errors import (
    ClientMissing,
    EndedFromOutside,
    EvidenceMismatch,
    NotReady,
    RestoreFailed,
    SealBroken,
    SourceError,
    SourceRefused,
    SourceUnavailable,
)
from lifeboat.postgres import dump as dumping
from lifeboat.postgres import waiting
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.dump import DatabaseDump, check_database, dump_database
from lifeboat.postgres.evidence import Evidence
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.selection import Selection
from tests.fixtures_postgres import PROGRAMS, Clusters, new_name
from tests.postgres.artifacts import Kept, restore
from tests.processes import children_of, wait_until

pytestmark = pytest.mark.slow

STREAM_SIZE = 1024 * 1024

SHOP = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.invoices AS SELECT n AS id, repeat(md5(n::text), 40) AS note FROM generate_series(1, 9000) n;
    CREATE TABLE shop.customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
    INSERT INTO shop.customers (name) VALUES ('Ada'), ('Grace');
    CREATE MATERIALIZED VIEW shop.totals AS SELECT count(*) FROM shop.invoices;
"""


def make_shop(server: PostgresServer, name: str) -> str:
    """A database with a table of some 12 MB, which so is a stream of its own, and a small one."""
    with server.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with server.visit(name) as connection:
        connection.execute(SHOP.encode())
    return name


@pytest.fixture(scope="module")
def shop(postgres: PostgresServer) -> str:
    return make_shop(postgres, new_name("shop"))


@dataclass(frozen=True)
class Dumped:
    """The shop's artifacts and what came with them."""

    kept: Kept
    dump: DatabaseDump


@pytest.fixture(scope="module")
def dumped(postgres: PostgresServer, shop: str, installed: tuple[Programs, ...]) -> Dumped:
    kept = Kept()
    dump = dump_database(postgres, shop, kept, installed=installed, content_hash=True, stream_size=STREAM_SIZE)
    assert kept.tables == ("rows-0001",)
    return Dumped(kept, dump)


@pytest.fixture(scope="module")
def mortal_cluster() -> Iterator[TemporaryCluster]:
    """A server to be killed."""
    with TemporaryCluster(PROGRAMS[17]) as cluster:
        make_shop(cluster.server, "shop")
        yield cluster


@pytest.fixture
def mortal(mortal_cluster: TemporaryCluster) -> Iterator[TemporaryCluster]:
    yield mortal_cluster
    mortal_cluster.stop(how=signal.SIGQUIT)
    mortal_cluster.start()


# ---- the dump -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal_sent", "told"), [(signal.SIGKILL, "signal 9"), (signal.SIGTERM, "signal 15|terminated by user")]
)
def test_a_dump_program_that_is_killed_fails_the_dump(
    postgres: PostgresServer, shop: str, installed: tuple[Programs, ...], signal_sent: signal.Signals, told: str
) -> None:
    kept = Kept(once("rows-0001", lambda: kill("pg_dump", signal_sent)))

    with pytest.raises(EndedFromOutside, match=told) as failed:
        dump_database(postgres, shop, kept, installed=installed, stream_size=STREAM_SIZE)

    assert f"{shop!r} on {postgres}" in failed.value.message
    assert "rows-0001" not in kept.artifacts
    assert children_of(os.getpid(), "pg_dump") == []


def test_a_dump_that_fails_does_not_wait_for_its_rows_to_be_counted(
    postgres: PostgresServer, shop: str, installed: tuple[Programs, ...]
) -> None:
    kept = Kept(once("rows-0001", lambda: kill("pg_dump", signal.SIGKILL)))

    with postgres.visit(shop) as other, other.transaction():
        # Counting waits for the index; pg_dump does not.
        other.execute("REINDEX INDEX shop.customers_pkey")
        with pytest.raises(EndedFromOutside, match="signal 9"):
            dump_database(postgres, shop, kept, installed=installed, stream_size=STREAM_SIZE)


def test_a_job_that_is_ended_from_outside_ends_its_dump(
    postgres: PostgresServer, shop: str, installed: tuple[Programs, ...]
) -> None:
    children = Children()
    kept = Kept(once("rows-0001", children.kill))

    with pytest.raises(EndedFromOutside, match="The job was ended from outside"):
        dump_database(postgres, shop, kept, installed=installed, stream_size=STREAM_SIZE, children=children)

    assert children_of(os.getpid(), "pg_dump") == []


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL], ids=lambda how: how.name)
def test_a_server_that_dies_midway_is_a_passing_fault_that_names_it(
    mortal: TemporaryCluster, installed: tuple[Programs, ...], how: signal.Signals
) -> None:
    kept = Kept(once("rows-0001", lambda: end_at_once(mortal, how)))

    with pytest.raises(SourceError) as failed:
        dump_database(mortal.server, "shop", kept, installed=installed, stream_size=STREAM_SIZE, content_hash=True)

    assert failed.value.transient
    assert f"{mortal.server.host}:{mortal.server.port}" in failed.value.message
    assert "rows-0001" not in kept.artifacts


def test_a_server_that_is_gone_is_a_passing_fault_that_names_it(
    mortal: TemporaryCluster, installed: tuple[Programs, ...]
) -> None:
    mortal.stop()

    with pytest.raises(SourceUnavailable, match="does not answer") as failed:
        check_database(mortal.server, "shop", installed)

    assert failed.value.transient
    assert f"127.0.0.1:{mortal.server.port}" in failed.value.message


def test_a_wrong_password_is_refused_for_good_and_never_shown(
    postgres: PostgresServer, shop: str, installed: tuple[Programs, ...]
) -> None:
    wrong = replace(postgres, password="pa55 w'rd")

    with pytest.raises(SourceRefused, match="refuses the login") as refused:
        check_database(wrong, shop, installed)

    assert not refused.value.transient
    assert f"postgres@127.0.0.1:{postgres.port}" in refused.value.message
    told = "".join(traceback.format_exception(refused.value)) + repr(wrong) + repr(refused.value.__dict__)
    assert "pa55" not in told


def test_no_program_is_given_the_password_as_an_argument(
    postgres: PostgresServer, shop: str, installed: tuple[Programs, ...]
) -> None:
    commands: list[str] = []

    def look() -> None:
        commands.extend(Path(f"/proc/{pid}/cmdline").read_text() for pid in children_of(os.getpid(), "pg_dump"))

    dump_database(postgres, shop, Kept(once("rows-0001", look)), installed=installed, stream_size=STREAM_SIZE)

    assert commands
    assert not [command for command in commands if postgres.password in command]


@pytest.mark.parametrize("major", [17, 18])
def test_programs_older_than_the_server_are_refused_with_the_remedy(clusters: Clusters, major: int) -> None:
    older = (PROGRAMS[16],)

    with pytest.raises(ClientMissing, match=f"PostgreSQL {major};.* only {PROGRAMS[16].version} in ") as refused:
        check_database(clusters.get(major).server, "postgres", older)

    assert f"Install postgresql-client-{major}" in refused.value.hint
    assert not refused.value.transient


def test_no_programs_at_all_are_refused_with_the_remedy(postgres: PostgresServer) -> None:
    with pytest.raises(ClientMissing, match="there are none") as refused:
        check_database(postgres, "postgres", ())

    assert "postgresql-client-17" in refused.value.hint


def test_a_database_that_does_not_exist_is_refused_by_name(
    postgres: PostgresServer, installed: tuple[Programs, ...]
) -> None:
    with pytest.raises(SourceRefused, match=f"There is no database 'nonesuch' on {postgres}") as refused:
        dump_database(postgres, "nonesuch", Kept(), installed=installed)

    assert not refused.value.transient


# ---- what a user may read -------------------------------------------------------------------------------------------


@pytest.fixture
def reader(postgres: PostgresServer) -> tuple[PostgresServer, str]:
    """A user who may read everything in a small database, and that database."""
    user, database = new_name("reader"), make_shop(postgres, new_name("shop"))
    with postgres.visit(database) as admin:
        admin.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'reader'".encode())
        admin.execute(f"GRANT USAGE ON SCHEMA shop TO {user}".encode())
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA shop TO {user}".encode())
        admin.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA shop TO {user}".encode())
    return replace(postgres, user=user, password="reader"), database


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        ("REVOKE SELECT ON shop.customers FROM {}", "shop.customers (no SELECT)."),
        ("REVOKE SELECT ON shop.totals FROM {}", "shop.totals (no SELECT)."),
        ("REVOKE SELECT ON shop.customers_id_seq FROM {}", "shop.customers_id_seq (no SELECT)."),
        ("ALTER TABLE shop.customers ENABLE ROW LEVEL SECURITY", "shop.customers (row-level security hides rows"),
        ('CREATE SCHEMA "H R"; CREATE TABLE "H R".pay ()', '"H R".pay (no USAGE on its schema).'),
        (
            "REVOKE SELECT ON shop.customers, shop.invoices FROM {}",
            "shop.customers (no SELECT), shop.invoices (no SELECT).",
        ),
    ],
    ids=["a table", "a materialized view", "a sequence", "rows", "a schema", "two tables"],
)
def test_what_the_user_cannot_read_whole_is_named_before_anything_is_stored(
    postgres: PostgresServer,
    reader: tuple[PostgresServer, str],
    installed: tuple[Programs, ...],
    statements: str,
    told: str,
) -> None:
    server, database = reader
    with postgres.visit(database) as admin:
        admin.execute(statements.format(server.user).encode())
    kept = Kept()

    with pytest.raises(SourceRefused) as refused:
        dump_database(server, database, kept, installed=installed)

    assert told in refused.value.message
    assert f"{server.user} cannot read all of {database!r}" in refused.value.message
    assert not refused.value.transient
    assert kept.media_types == {}


def test_a_user_who_is_no_superuser_but_may_read_everything_makes_a_whole_dump(
    postgres: PostgresServer, reader: tuple[PostgresServer, str], installed: tuple[Programs, ...]
) -> None:
    server, database = reader
    with postgres.visit(database) as admin:
        admin.execute("ALTER TABLE shop.customers ENABLE ROW LEVEL SECURITY")
        admin.execute(f"ALTER ROLE {server.user} BYPASSRLS".encode())
    kept, target = Kept(), new_name("target")

    dump = dump_database(server, database, kept, installed=installed, content_hash=True)
    report = restore(kept, dump, postgres, target, installed)

    assert report.evidence.tables == dump.evidence.tables
    assert not dump.role_passwords
    assert b"SCRAM" not in kept.artifacts["globals"]


def test_a_table_that_is_not_asked_for_may_be_unreadable(
    postgres: PostgresServer, reader: tuple[PostgresServer, str], installed: tuple[Programs, ...]
) -> None:
    server, database = reader
    with postgres.visit(database) as admin:
        admin.execute(f"REVOKE SELECT ON shop.invoices FROM {server.user}".encode())

    dump = dump_database(server, database, Kept(), installed=installed, selection=Selection(("customers",)))

    assert [table.label for table in dump.evidence.tables] == ["shop.customers"]


def test_large_objects_the_user_cannot_read_are_told_before_anything_is_stored(
    postgres: PostgresServer, reader: tuple[PostgresServer, str], installed: tuple[Programs, ...]
) -> None:
    server, database = reader
    with postgres.visit(database) as admin:
        admin.execute("SELECT lo_from_bytea(0, 'x')")
    kept = Kept()

    with pytest.raises(SourceRefused, match="large object"):
        dump_database(server, database, kept, installed=installed)

    assert kept.media_types == {}


@pytest.mark.parametrize(
    "statement",
    ["LOCK TABLE shop.customers", "LOCK TABLE shop.invoices", "REINDEX INDEX shop.customers_pkey"],
)
def test_a_lock_that_stays_is_a_passing_fault(
    postgres: PostgresServer,
    shop: str,
    installed: tuple[Programs, ...],
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
) -> None:
    monkeypatch.setattr(dumping, "LOCK_TIMEOUT_SECONDS", 0.3)

    with postgres.visit(shop) as other, other.transaction():
        other.execute(statement.encode())
        with pytest.raises(SourceUnavailable, match="lock timeout") as failed:
            dump_database(postgres, shop, Kept(), installed=installed)

    assert failed.value.transient
    assert "holds a lock" in failed.value.hint


def test_a_dump_says_for_which_table_and_for_whom_it_waits_and_goes_on_when_it_is_free(
    postgres: PostgresServer, shop: str, installed: tuple[Programs, ...]
) -> None:
    said: list[str] = []
    with postgres.visit(shop, autocommit=False) as other:
        other.execute("SET application_name = 'somebody'")
        other.execute("/* a secret */ LOCK TABLE shop.customers")

        def hear(text: str) -> None:
            said.append(text)
            other.rollback()

        dump_database(postgres, shop, Kept(), installed=installed, report=hear)

        holder = (
            rf"pid {other.info.backend_pid} \(postgres, somebody, idle in transaction, its transaction since .* UTC\)"
        )
    assert re.fullmatch(rf"Waiting: shop.customers is locked by {holder}\.", said[0])


def test_a_look_before_a_dump_names_who_has_locked_a_table(
    postgres: PostgresServer, shop: str, installed: tuple[Programs, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST_LOOK", 0)

    with postgres.visit(shop) as other, other.transaction():
        other.execute("LOCK TABLE shop.customers")
        with pytest.raises(SourceUnavailable, match="lock timeout") as failed:
            check_database(postgres, shop, installed)
        holder = f"pid {other.info.backend_pid} (postgres, lifeboat, idle in transaction, "

    assert f"shop.customers is locked by {holder}" in failed.value.message
    assert failed.value.transient


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "two words",
        "o'clock",
        'a "quoted" name',
        "dbname=postgres host=elsewhere",
        "postgresql://elsewhere/postgres",
        "back\\slash",
        "-rf",
        "100%s {0} $1",
        "ünïcode 船",
        "two\nlines",
    ],
)
def test_a_database_of_any_name_is_dumped_and_restored(
    postgres: PostgresServer, installed: tuple[Programs, ...], name: str
) -> None:
    with postgres.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with postgres.visit(name) as connection:
        connection.execute("CREATE TABLE marks AS SELECT 1 AS mark; CREATE INDEX ON marks (mark)")
    kept = Kept()

    dump = dump_database(postgres, name, kept, installed=installed, content_hash=True)
    report = restore(kept, dump, postgres, f"{name} 2", installed)

    assert dump.evidence.database.name == name
    assert report.evidence.tables == dump.evidence.tables != ()


# ---- the restore ----------------------------------------------------------------------------------------------------


@contextmanager
def server_unchanged(server: PostgresServer) -> Iterator[None]:
    """Databases, roles and programs are afterwards what they were before."""

    def everything() -> list[tuple[str, ...]]:
        with server.visit("postgres") as admin:
            return admin.execute("SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles").fetchall()

    before = sorted(everything())
    yield
    assert sorted(everything()) == before
    assert children_of(os.getpid(), "pg_restore") == []


@pytest.mark.parametrize("artifact", ["globals", "dump", "rows-0001"])
def test_a_stream_that_breaks_midway_leaves_no_database(
    postgres: PostgresServer, installed: tuple[Programs, ...], dumped: Dumped, artifact: str
) -> None:
    broken = Altered(dumped.kept, artifact, lambda data: breaking(data[: len(data) // 2]))

    with (
        server_unchanged(postgres),
        pytest.raises(SealBroken, match="cut short on purpose"),
    ):
        restore(broken, dumped.dump, postgres, new_name("target"), installed)


@pytest.mark.parametrize("artifact", ["dump", "rows-0001"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.9])
def test_an_archive_that_just_ends_leaves_no_database(
    postgres: PostgresServer, installed: tuple[Programs, ...], dumped: Dumped, artifact: str, part: float
) -> None:
    cut = Altered(dumped.kept, artifact, lambda data: iter([data[: int(len(data) * part)]]))

    with server_unchanged(postgres), pytest.raises(RestoreFailed) as failed:
        restore(cut, dumped.dump, postgres, new_name("target"), installed)

    assert f"Restoring {artifact} into" in failed.value.message


@pytest.mark.parametrize(
    ("how", "told"), [(signal.SIGKILL, "signal 9"), (signal.SIGTERM, "signal 15|terminated by user")]
)
def test_a_restore_program_that_is_killed_is_a_passing_fault_and_leaves_no_database(
    postgres: PostgresServer, installed: tuple[Programs, ...], dumped: Dumped, how: signal.Signals, told: str
) -> None:
    def killing(data: bytes) -> Iterator[bytes]:
        yield data[:1_000_000]
        kill("pg_restore", how)
        yield data[1_000_000:]

    with server_unchanged(postgres), pytest.raises(EndedFromOutside, match=told):
        restore(Altered(dumped.kept, "rows-0001", killing), dumped.dump, postgres, new_name("target"), installed)


def test_a_server_that_dies_during_a_restore_is_told_with_what_is_left_there(
    mortal: TemporaryCluster, installed: tuple[Programs, ...], dumped: Dumped
) -> None:
    def stopping(data: bytes) -> Iterator[bytes]:
        yield data[:1_000_000]
        mortal.stop(how=signal.SIGQUIT)
        yield data[1_000_000:]

    with pytest.raises(RestoreFailed) as failed:
        restore(Altered(dumped.kept, "rows-0001", stopping), dumped.dump, mortal.server, "half made", installed)

    assert str(mortal.server) in failed.value.message
    assert 'DROP DATABASE "half made"' in failed.value.hint
    assert "The restore failed: Restoring " in failed.value.message
    assert failed.value.transient


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda e: with_table(e, "customers", rows=3), "The table shop.customers has 2 rows, and had 3."),
        (lambda e: with_table(e, "customers", rows=1), "The table shop.customers has 2 rows, and had 1."),
        (lambda e: with_table(e, "customers", content="7"), "shop.customers has as many rows as it had, 2, but not"),
        (lambda e: with_table(e, "customers", name="clients"), "The table shop.clients is missing."),
        (lambda e: with_table(e, "customers", name="clients"), "The table shop.customers was not in the snapshot."),
        (
            lambda e: replace(e, sequences=tuple(replace(s, last_value=9) for s in e.sequences)),
            "The sequence shop.customers_id_seq stands at 2, before 9.",
        ),
        (lambda e: replace(e, objects=dict(e.objects) | {"triggers": 1}), "There are 0 triggers, and were 1."),
        (lambda e: replace(e, large_objects=1), "There are 0 large objects, and were 1."),
    ],
    ids=["a row less", "a row more", "another row", "a table less", "a table more", "a sequence", "a trigger", "lobs"],
)
def test_a_restored_database_that_differs_is_removed_and_the_difference_told(
    postgres: PostgresServer,
    installed: tuple[Programs, ...],
    dumped: Dumped,
    alter: Callable[[Evidence], Evidence],
    told: str,
) -> None:
    altered = replace(dumped.dump, evidence=alter(dumped.dump.evidence))

    with server_unchanged(postgres), pytest.raises(EvidenceMismatch) as differs:
        restore(dumped.kept, altered, postgres, new_name("target"), installed)

    assert told in differs.value.message
    assert not differs.value.transient


def test_an_owner_that_exists_nowhere_is_named_and_nothing_is_made(
    postgres: PostgresServer, installed: tuple[Programs, ...], dumped: Dumped
) -> None:
    orphan = replace(dumped.dump.evidence, database=replace(dumped.dump.evidence.database, owner="nobody at all"))

    with server_unchanged(postgres), pytest.raises(RestoreFailed, match="nobody at all"):
        restore(dumped.kept, replace(dumped.dump, evidence=orphan), postgres, new_name("target"), installed)


def test_a_dump_made_by_newer_programs_is_refused_before_anything_is_made(
    postgres: PostgresServer, dumped: Dumped
) -> None:
    with server_unchanged(postgres), pytest.raises(ClientMissing, match=r"made by pg_dump 17.* needs pg_restore 17"):
        restore(dumped.kept, dumped.dump, postgres, new_name("target"), (PROGRAMS[16],))


class Altered(Kept):
    """What was kept, with one artifact read otherwise."""

    def __init__(self, kept: Kept, artifact: str, read: Callable[[bytes], Iterator[bytes]]) -> None:
        super().__init__()
        self.artifacts = kept.artifacts
        self._artifact = artifact
        self._read = read

    def open(self, name: str) -> Iterator[bytes]:
        return self._read(self.artifacts[name]) if name == self._artifact else super().open(name)


def breaking(data: bytes) -> Iterator[bytes]:
    yield data
    raise SealBroken("It was cut short on purpose.")


def with_table(evidence: Evidence, table: str, **changes: object) -> Evidence:
    tables = (replace(t, **changes) if t.name == table else t for t in evidence.tables)  # type: ignore[arg-type]
    return replace(evidence, tables=tuple(tables))


def once(artifact: str, act: Callable[[], object]) -> Callable[[str], None]:
    """Act at the first chunk of an artifact."""
    done: list[str] = []

    def hear(name: str) -> None:
        if name == artifact and not done:
            done.append(name)
            act()

    return hear


def end_at_once(cluster: TemporaryCluster, how: signal.Signals) -> None:
    """End a server and all its processes: a signal reaches the first alone, and at SIGKILL the others could go on."""
    first = int((cluster.data / "postmaster.pid").read_text().split()[0])
    others = children_of(first)
    cluster.stop(how=how)
    for process in others:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def kill(program: str, how: signal.Signals) -> None:
    running = children_of(os.getpid(), program)
    assert running
    for process in running:
        os.kill(process, how)
    wait_until(lambda: not children_of(os.getpid(), program))


def test_an_extension_the_target_lacks_is_named_and_no_database_is_left(
    clusters: Clusters, installed: tuple[Programs, ...]
) -> None:
    source, target = new_name("extended"), new_name("target")
    with clusters.get(17).server.visit("postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(source)))
    with clusters.get(17).server.visit(source) as connection:
        connection.execute("CREATE EXTENSION pgcrypto")
    kept = Kept()
    dump = dump_database(clusters.get(17).server, source, kept, installed=installed)

    with pytest.raises(NotReady, match="has not got the extension pgcrypto"):
        restore(kept, dump, clusters.get(18).server, target, installed)

    with clusters.get(18).server.visit("postgres") as admin:
        assert admin.execute("SELECT FROM pg_database WHERE datname = %s", [target]).fetchone() is None
