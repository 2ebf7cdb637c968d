"""A platform is backed up, looked at, checked and restored with the command line alone, Airflow being blocked."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg.sql
import pytest

from demo.storage import S3Server
from lifeboat.postgres.cluster import TemporaryCluster
from lifeboat.postgres.connection import PostgresServer
from tests.cli.conftest import Place, damage, postgres_uri
from tests.fixtures_postgres import CHECK_THAT_NO_LONGER_HOLDS, PROGRAMS, new_name, psql
from tests.processes import children_of, wait_until


@pytest.mark.slow
@pytest.mark.ordinary
def test_everything_is_restored_with_the_command_line_alone(place: Place, postgres: PostgresServer) -> None:
    made = place.run_alone("init")
    assert "form the vault" in made.out
    assert "Move " in made.err
    assert "Ready: odd" in place.run_alone("preflight").out

    backed_up = place.run_alone("backup", "odd", "--json").json
    snapshot = backed_up["snapshot"]
    assert backed_up["lacking"] == {}
    assert (snapshot["source"], snapshot["tier"], snapshot["complete"]) == ("odd", "daily", True)
    assert snapshot["repositories"] == ["s3", "local"]

    listing = place.run_alone("list", "--json").json
    assert listing == {"snapshots": [snapshot | {"proven": False, "tested": None}], "problems": []}
    assert snapshot["id"] in place.run_alone("list", "odd").out

    shown = place.run_alone("show", snapshot["id"], "--json").json
    assert {"dump", "rows-0001", "globals", "evidence"} < {artifact["name"] for artifact in shown["artifacts"]}
    assert shown["facts"]["database"] == place.database
    assert "evidence" in place.run_alone("show", f"odd/daily/{snapshot['id']}").out

    verified = place.run_alone("verify", "odd", "--json").json
    assert verified["lacking"] == []
    assert [(r["repository"], r["whole"], r["unsealed"]) for r in verified["repositories"]] == [
        ("s3", True, True),
        ("local", True, True),
    ]

    with TemporaryCluster(PROGRAMS[17]) as empty:
        variables = {"AIRFLOW_CONN_EMPTY": postgres_uri(empty.server, "")}
        restored = place.run_alone(
            "restore", "odd", "--to-database", "odd again", "--connection", "empty", "--json", **variables
        ).json

        assert restored["rows"] == shown["facts"]["rows"] > 0
        assert restored["tables"] == shown["facts"]["tables"]
        assert contents(empty.server, "odd again") == contents(postgres, place.database)


def test_a_snapshot_is_restored_beside_the_original_on_its_own_server(ready: Place, postgres: PostgresServer) -> None:
    ready.run("backup", "odd")
    beside = new_name("cli beside")

    restored = ready.run("restore", "odd", "--to-database", beside, "--jobs", "1")

    assert f"is restored as '{beside}'" in restored.out
    assert contents(postgres, beside) == contents(postgres, ready.database)
    again = ready.run("restore", "odd", "--to-database", beside, expect=1)
    assert "There already is a database" in again.err
    assert contents(postgres, beside) == contents(postgres, ready.database)


def test_init_may_be_repeated_and_changes_nothing(place: Place) -> None:
    first = place.run("init")
    (place.keyring / "escrow.identity").unlink()  # as it has been told to
    keys = {path.name: path.read_bytes() for path in place.keyring.iterdir()}

    second = place.run("init")

    assert {path.name: path.read_bytes() for path in place.keyring.iterdir()} == keys
    assert second.out == first.out.splitlines(keepends=True)[-1]  # the same vault, and nothing made
    assert "Next step" not in second.err


def test_init_makes_private_keys_that_only_their_owner_can_read(ready: Place) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in ready.keyring.iterdir()}

    assert modes == {
        "operations.identity": 0o600,
        "operations.recipient": 0o644,
        "escrow.identity": 0o600,
        "escrow.recipient": 0o644,
        "backup-host.signing": 0o600,
        "backup-host.signer": 0o644,
    }
    assert ready.keyring.stat().st_mode & 0o777 == 0o700


def test_a_repository_added_later_joins_the_vault_and_is_filled(ready: Place) -> None:
    ready.run("backup", "odd")
    file = ready.folder / "platform.yaml"
    (ready.folder / "second").mkdir()
    text = file.read_text().replace("sources:", f"  - {{name: second, url: file://{ready.folder}/second}}\nsources:")
    file.write_text(text)
    assert "has no lifeboat.json" in ready.run("list", expect=6).err

    ready.run("init")
    assert ready.run("verify", "odd", expect=6).out.count("whole") == 2
    copied = ready.run("replicate", "--json").json["replications"][0]

    assert list(copied["copied"]) == ["second"]
    assert copied["lacking"] == {}
    assert ready.run("verify", "odd", "--repository", "second").out.count("whole") == 1


def test_keys_are_made_listed_and_shown_by_their_public_halves(ready: Place) -> None:
    ready.run("keys", "new", "escrow-2027")

    listed = ready.run("keys", "list", "--json").json["keys"]
    assert {(key["name"], key["role"]) for key in listed} >= {("escrow-2027", "recipient"), ("escrow-2027", "identity")}
    assert ready.run("keys", "show", "escrow-2027").out.startswith("lifeboat:recipient:mlkem768-x25519:")
    assert "already has a recipient" in ready.run("keys", "new", "escrow-2027", expect=3).err
    assert "no recipient 'nobody'" in ready.run("keys", "show", "nobody", expect=3).err


def test_a_partial_backup_is_marked_and_not_taken_for_a_whole_one(ready: Place) -> None:
    whole = ready.run("backup", "odd", "--json").json["snapshot"]["id"]
    tables = ready.run("backup", "odd", "--tables", "app.customers, payments", "--json").json["snapshot"]
    schema = ready.run("backup", "odd", "--schema-only", "--json").json["snapshot"]

    assert not tables["complete"]
    assert not schema["complete"]
    listed = ready.run("list").out
    assert "tables app.customers, payments" in listed
    assert "definitions" in listed
    restored = ready.run("restore", "odd", "--to-database", new_name("cli whole"), "--json").json
    assert restored["snapshot"]["id"] == whole
    refused = ready.run("restore", schema["id"], "--to-database", new_name("cli partial"), expect=3)
    assert "not a snapshot of a whole PostgreSQL database" in refused.err


def test_a_backup_with_one_repository_down_is_degraded_and_healed_later(ready: Place, s3_server: S3Server) -> None:
    down = {"AIRFLOW_CONN_LIFEBOAT_S3": json.dumps(s3_server.connection | {"extra": unreachable()})}

    backed_up = ready.run("backup", "odd", expect=6, **down)
    assert "s3 does not have it" in backed_up.err
    assert "s3:" in ready.run("list", expect=6, **down).err
    assert "s3" in ready.run("preflight", expect=6, **down).err
    assert "s3: does not have it" in ready.run("verify", "odd", expect=6, **down).out
    assert "s3 still lacks it" in ready.run("replicate", expect=6, **down).err

    ready.run("replicate")
    assert ready.run("verify", "odd").out.count("whole") == 2


def test_a_flipped_bit_is_found_and_named_with_its_repository(ready: Place) -> None:
    ready.run("backup", "odd")
    artifact = next(ready.local.glob("snapshots/odd/daily/*/dump.sealed"))
    damage(artifact, artifact.stat().st_size // 2)

    verified = ready.run("verify", "odd", "--json", expect=5).json

    by_name = {r["repository"]: r for r in verified["repositories"]}
    assert by_name["s3"]["whole"]
    assert list(by_name["local"]["faults"]) == ["dump"]
    ready.run("verify", "odd", "--repository", "s3")
    assert "NOT WHOLE" in ready.run("verify", "odd", "--repository", "local", expect=5).out
    assert {c["whole"] for c in ready.run("health", "--json", expect=6).json["copies"]} == {True, False}
    refused = ready.run("restore", "odd", "--to-database", new_name("cli no"), "--repository", "local", expect=5)
    assert "dump" in refused.err


def test_what_was_found_damaged_is_mended_by_replicating(ready: Place) -> None:
    ready.run("backup", "odd")
    artifact = next(ready.local.glob("snapshots/odd/daily/*/dump.sealed"))
    damage(artifact, artifact.stat().st_size // 2)
    ready.run("verify", "odd", expect=5)

    done = ready.run("replicate", "odd", "--json").json["replications"][0]

    assert "dump" in done["copied"]["local"]
    assert done["lacking"] == {}
    assert ready.run("verify", "odd").out.count("whole") == 2
    assert ready.run("replicate", "odd", "--json").json["replications"][0]["copied"] == {}


def test_a_forged_manifest_is_found(ready: Place) -> None:
    snapshot = ready.run("backup", "odd", "--json").json["snapshot"]["id"]
    manifest = next(ready.local.glob("snapshots/odd/daily/*/manifest.json"))
    envelope = json.loads(manifest.read_bytes())
    envelope["payload"] = envelope["payload"][:-8] + "AAAAAAA="
    manifest.chmod(0o600)
    manifest.write_text(json.dumps(envelope))

    assert "was altered after it was signed" in ready.run("verify", snapshot, expect=5).err
    assert "was altered after it was signed" in ready.run("list", expect=6).err

    # And with no honest copy left:
    only_local = ready.folder / "only-local.yaml"
    text = (ready.folder / "platform.yaml").read_text()
    only_local.write_text(text[: text.index("  - name: s3")] + text[text.index("  - name: local") :])
    forged = ready.run("show", snapshot, "--platform", str(only_local), expect=5)
    assert "no manifest that can be read and trusted" in forged.err


def test_what_is_left_after_a_disaster_is_enough(ready: Place, postgres: PostgresServer) -> None:
    ready.run("backup", "odd")
    # A new host: one repository's connection is lost, and of the keys only what escrow kept.
    (ready.folder / "new host").mkdir(mode=0o700)
    for name in ("escrow.identity", "backup-host.signer"):
        shutil.copy(ready.keyring / name, ready.folder / "new host" / name)
    kept = ready.folder / "kept.env"
    kept.write_text(
        f"AIRFLOW_CONN_ODD_DB={postgres_uri(postgres, ready.database)}\n"
        f"AIRFLOW_CONN_LIFEBOAT_KEYS=generic://?keyring={ready.folder}/new%20host\n"
    )
    beside = new_name("cli disaster")

    listed = ready.run("list", "--env-file", str(kept), expect=6)
    assert "AIRFLOW_CONN_LIFEBOAT_S3" in listed.err or "names the connection 'lifeboat_s3'" in listed.err
    ready.run("restore", "odd", "--to-database", beside, "--env-file", str(kept))

    assert contents(postgres, beside) == contents(postgres, ready.database)
    refused = ready.run("backup", "odd", "--env-file", str(kept), expect=3)
    assert "AIRFLOW_CONN_LIFEBOAT_S3" in refused.err


def test_a_wrong_identity_opens_nothing(ready: Place) -> None:
    ready.run("backup", "odd")
    for name in ("operations", "escrow"):
        (ready.keyring / f"{name}.identity").unlink()
    ready.run("keys", "new", "stranger")

    refused = ready.run("restore", "odd", "--to-database", new_name("cli stranger"), expect=3)

    assert "identit" in refused.err
    assert "no identity to unseal it" in ready.run("verify", "odd").out


def test_what_is_not_there_is_not_found(ready: Place) -> None:
    assert "There is no snapshot of nothing" in ready.run("show", "nothing", expect=4).err
    ready.run("verify", "20200101T000000Z-00000000", expect=4)
    ready.run("restore", "odd/weekly/20200101T000000Z-00000000", "--to-database", "x", expect=4)
    assert "is not a snapshot id" in ready.run("show", "20200101T000000Z", expect=3).err
    assert "names no source 'ood'" in ready.run("backup", "ood", expect=3).err
    assert ready.run("list").out.count("\n") == 1  # the headings


def test_a_database_that_does_not_answer_is_a_passing_fault(ready: Place, postgres: PostgresServer) -> None:
    away = PostgresServer(postgres.host, closed_port(), postgres.user, postgres.password)

    failed = ready.run("backup", "odd", expect=75, AIRFLOW_CONN_ODD_DB=postgres_uri(away, ready.database))

    assert "does not answer" in failed.err


def test_a_refused_login_and_a_missing_table_fail_for_good(ready: Place, postgres: PostgresServer) -> None:
    wrong = PostgresServer(postgres.host, postgres.port, postgres.user, "not the password")

    refused = ready.run("backup", "odd", expect=1, AIRFLOW_CONN_ODD_DB=postgres_uri(wrong, ready.database))
    assert "refuses the login" in refused.err
    assert "not the password" not in refused.err
    assert "no table 'nonesuch'" in ready.run("backup", "odd", "--tables", "nonesuch", expect=1).err
    assert not list(ready.local.glob("snapshots/**/manifest.json"))


def test_preflight_lists_all_obstacles_at_once(ready: Place, postgres: PostgresServer) -> None:
    (ready.keyring / "backup-host.signing").unlink()
    wrong = postgres_uri(postgres, "no such database")

    looked = ready.run("preflight", expect=1, AIRFLOW_CONN_ODD_DB=wrong)
    record = ready.run("preflight", "--json", expect=1, AIRFLOW_CONN_ODD_DB=wrong).json
    unset = ready.run("preflight", expect=1, AIRFLOW_CONN_LIFEBOAT_S3=" ", AIRFLOW_CONN_ODD_DB=wrong)

    assert "no signing key" in looked.err
    assert "There is no database 'no such database'" in looked.err
    assert not record["ready"]
    assert "no signing key" in record["obstacles"][0]
    assert "AIRFLOW_CONN_LIFEBOAT_S3" in unset.err
    assert "There is no database 'no such database'" in unset.err


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda signal: signal.name)
def test_a_backup_that_is_ended_leaves_no_snapshot_and_nothing_running(
    ready: Place, postgres: PostgresServer, ended_by: signal.Signals
) -> None:
    waiting = b"SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    with postgres.visit("postgres") as admin, postgres.visit(ready.database) as other, other.transaction():
        # The partitioned table itself has no rows to look at: only pg_dump waits for it.
        other.execute("LOCK TABLE ONLY app.payments IN ACCESS EXCLUSIVE MODE")
        backup = ready.start("backup", "odd")
        wait_until(lambda: admin.execute(waiting, [ready.database]).fetchone() != (0,))
        children = children_of(backup.pid)

        backup.send_signal(ended_by)
        _, err = backup.communicate(timeout=20)

        assert children
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))

    assert backup.returncode == (130 if ended_by != signal.SIGKILL else -9)
    assert ("Interrupted." in err) == (ended_by != signal.SIGKILL)
    assert ready.run("list", "--json").json == {"snapshots": [], "problems": []}
    ready.run("backup", "odd")
    assert len(ready.run("list", "--json").json["snapshots"]) == 1


@pytest.mark.slow
def test_a_restore_that_lacks_what_no_dump_holds_does_not_say_that_all_is_as_it_was(
    ready: Place, postgres: PostgresServer
) -> None:
    psql(postgres, ready.database, "-c", "CREATE EXTENSION IF NOT EXISTS hstore; CREATE TABLE public.licences (id int)")
    psql(postgres, ready.database, "-c", "INSERT INTO public.licences VALUES (1)")
    psql(postgres, ready.database, "-c", "ALTER EXTENSION hstore ADD TABLE public.licences")
    try:
        ready.run("backup", "odd")
        told = ready.run("restore", "odd", "--to-database", new_name("cli licences"))
    finally:
        psql(postgres, ready.database, "-c", "ALTER EXTENSION hstore DROP TABLE public.licences")
        psql(postgres, ready.database, "-c", "DROP TABLE public.licences")

    assert "as the source had them, but for what no dump holds" in told.out
    assert "public.licences" in told.err


@pytest.fixture
def limits(ready: Place, postgres: PostgresServer) -> Iterator[None]:
    """The database has a CHECK that its rows do not meet any more; as it was, afterwards."""
    psql(postgres, ready.database, "-c", f"SET search_path = public; {CHECK_THAT_NO_LONGER_HOLDS}")
    yield
    drop = "DROP TABLE public.a_orders, public.z_limits; DROP FUNCTION public.allowed"
    psql(postgres, ready.database, "-c", drop)


@pytest.mark.slow
def test_a_restore_that_lacks_objects_lists_them_and_ends_with_a_code_of_its_own(
    ready: Place, postgres: PostgresServer, limits: None
) -> None:
    place = ready
    place.run("backup", "odd")
    beside = new_name("cli incomplete")

    told = place.run("restore", "odd", "--to-database", beside, expect=7)
    record = place.run("restore", "odd", "--to-database", new_name("cli incomplete"), "--json", expect=7).json
    place.run("restore", "odd", "--to-database", new_name("cli whole"), "--all-or-nothing", expect=1)

    assert "as the source had" not in told.out
    assert "a_orders_amount_check" in told.out
    assert "ADD CONSTRAINT" in told.err
    assert [one["kind"] for one in record["not_rebuilt"]] == ["CHECK CONSTRAINT"]
    assert psql(postgres, beside, "-c", "SELECT count(*) FROM public.a_orders").strip() == "10"


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL], ids=lambda signal: signal.name)
def test_a_restore_that_is_ended_leaves_nothing_running(
    ready: Place, postgres: PostgresServer, ended_by: signal.Signals
) -> None:
    ready.run("backup", "odd")
    target = new_name("cli ended")
    restore = ready.start("restore", "odd", "--to-database", target)
    wait_until(lambda: bool(children_of(restore.pid, "pg_restore")))
    children = children_of(restore.pid, "pg_restore")
    for child in children:
        os.kill(child, signal.SIGSTOP)  # so that it does not end by itself when its input does

    restore.send_signal(ended_by)
    restore.communicate(timeout=20)

    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    with postgres.visit("postgres") as admin:
        left = admin.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [target]
        ).fetchone()
    assert (left is None) == (ended_by == signal.SIGTERM)
    if left is not None:  # nobody can clean up after kill -9 but the next one
        assert "it is not whole" in left[0]
        again = ready.run("restore", "odd", "--to-database", target)
        assert f"removing {target!r}, which a restore that was cut short has left" in again.err
        assert contents(postgres, target) == contents(postgres, ready.database)


def test_bars_are_drawn_on_a_terminal_and_the_result_stays_on_its_own_stream(
    ready: Place, postgres: PostgresServer
) -> None:
    ready.run("backup", "odd")
    ours, theirs = pty.openpty()
    try:
        drawn = ready.start(
            "restore",
            "odd",
            "--to-database",
            new_name("cli drawn"),
            "--json",
            stderr=theirs,
            TERM="xterm",
            COLUMNS="100",
        )
        os.close(theirs)
        shown = b"".join(read_terminal(ours)).decode()
        out, _ = drawn.communicate(timeout=60)
    finally:
        os.close(ours)

    assert drawn.returncode == 0, shown
    assert json.loads(out)["rows"] > 0
    assert "\x1b[?25l" in shown  # the cursor is hidden while bars move
    assert "\x1b[?25h" in shown  # and is back afterwards
    assert re.search(r"dump .*━+.* (B|KiB|MiB)", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown))


def read_terminal(terminal: int) -> Iterator[bytes]:
    """What is written on a terminal, until its last writer is gone."""
    with suppress(OSError):  # that is how Linux says so
        while data := os.read(terminal, 65536):
            yield data


def contents(server: PostgresServer, database: str) -> dict[str, tuple[int, str]]:
    """Rows and a digest of the rows of every table, by plain SQL."""
    with server.visit(database) as connection:
        connection.execute("SET search_path = pg_catalog")
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        found = {}
        for table in tables:
            query = "SELECT count(*), coalesce(md5(string_agg(t::text, ';' ORDER BY t::text)), '') FROM {} t"
            row = connection.execute(
                psycopg.sql.SQL(query).format(psycopg.sql.Identifier(*table))  # type: ignore[arg-type] # a literal
            ).fetchone()
            assert row is not None
            found[".".join(table)] = row
        return found


def unreachable() -> dict[str, object]:
    fast = {"connect_timeout": 1, "retries": {"total_max_attempts": 1}}
    return {"endpoint_url": f"http://127.0.0.1:{closed_port()}", "region_name": "us-east-1", "config_kwargs": fast}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
