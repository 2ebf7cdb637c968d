"""The runbook names what there is, has no secrets, and its commands, typed as they stand, bring everything back."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from psycopg import sql
from typer.main import get_command

from lifeboat import __version__
from lifeboat.cli.app import app_for
from lifeboat.errors import RepositoryError, RepositoryUnavailable
from lifeboat.postgres.connection import PostgresServer
from lifeboat.recovery.runbook import KEPT, runbook_html, runbook_markdown, store_runbook
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.vault import Member, Vault
from tests.break_glass.alone import Stranger
from tests.core.storage_faults import FailingRepository
from tests.fixtures_redis import RedisServers
from tests.recovery.places import NOW, Place, make_place

INCLUDE = str(Path(__file__).parents[2] / "include")


@pytest.fixture
def place(tmp_path: Path, postgres: PostgresServer, redis_servers: RedisServers) -> Place:
    return make_place(tmp_path, postgres, redis_servers.start)


@pytest.fixture
def small(tmp_path: Path, postgres: PostgresServer) -> Place:
    """The same without Redis."""
    return make_place(tmp_path, postgres, None)


def code(markdown: str) -> list[str]:
    """Every line that is to be typed."""
    blocks = re.findall(r"^```\n(.*?)\n```$", markdown, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def lifeboat(place: Place, *arguments: str) -> str:
    """Run a command in a process of its own, with the platform's connections in a `.env` file."""
    (place.folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in place.variables.items()))
    environment = {"PATH": os.environ["PATH"], "HOME": str(place.folder), "PYTHONPATH": INCLUDE}
    done = subprocess.run(
        [sys.executable, "-m", "lifeboat", *arguments],
        cwd=place.folder,
        env=environment | {"LIFEBOAT_PLATFORM": "platform.yaml"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def test_it_names_what_there_is_and_no_secret(place: Place) -> None:
    made, later = place.back_up_all(30), place.back_up_all(5)
    for snapshot in made.values():
        place.prove(snapshot, seconds=300)

    text = runbook_markdown(place.means, NOW)

    plain = text.replace("\\", "")
    for name in place.platform.names():
        assert made[name].label in plain
        assert later[name].label in plain
    for said in (
        "Ada Lovelace, database, +1 555 0100",
        "within 4 hours, and may lose at most 24 hours",
        f"database {place.database}, connection platform_db",
        f"file://{place.folder}/near",
        "AIRFLOW_CONN_PLATFORM_REDIS | Redis of sessions",
        place.means.vault.keyring.recipients["escrow"].key_id.hex(),
        "the restores take about 20 min",
        "Trigger the DAG disaster_recovery",
    ):
        assert said in plain, said
    for secret in (
        place.server.password,
        "a%20password",
        "a password",
        "hunter2",
        "lifeboat:identity",
        "lifeboat:sign",
    ):
        assert secret not in text, secret


def test_the_steps_are_those_of_the_guide_in_its_words(small: Place) -> None:
    steps = [line for line in runbook_markdown(small.means, NOW).splitlines() if re.match(r"## \d\.", line)]

    assert steps == [
        "## 1. Assess damage",
        "## 2. Prepare environment",
        "## 3. Restore database",
        "## 4. Restore files",
        "## 5. Restore configuration",
        "## 6. Verify and start",
        "## 7. Notify stakeholders",
    ]


@pytest.mark.slow
def test_the_commands_typed_as_they_stand_bring_everything_back(place: Place) -> None:
    place.back_up_all(5)
    lines = code(runbook_markdown(place.means, NOW))
    before = {path: path.read_bytes() for folder in (place.uploads, place.root) for path in folder.rglob("*.*")}
    with place.server.visit("postgres") as admin:
        admin.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(place.database)))
    assert place.redis is not None
    with place.redis.client() as client:
        client.flushall()
    shutil.rmtree(place.uploads)
    for file in place.root.iterdir():
        file.unlink()

    commands = [shlex.split(line) for line in lines if line.startswith("lifeboat ")]
    chosen = [words[1:] for words in commands if "restore" in words]
    assert len(chosen) == 4
    for words in chosen:
        lifeboat(place, *words)

    with place.server.visit(place.database) as connection:
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (30,)
    with place.redis.client() as client:
        assert client.dbsize() == 7
    assert {path: path.read_bytes() for path in before} == before


def test_every_command_and_option_it_names_is_there(place: Place) -> None:
    lines = [shlex.split(line)[1:] for line in code(runbook_markdown(place.means, NOW)) if line.startswith("lifeboat ")]

    for words in lines:
        command = get_command(app_for(words[0]))
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


@pytest.mark.slow
def test_the_commands_for_the_day_lifeboat_is_gone_do_so_too(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place.back_up_all(5)
    lines = code(runbook_markdown(place.means, NOW))
    stranger = Stranger(tmp_path_factory.mktemp("stranger"))
    shutil.copytree(place.folder / "keys", stranger.folder / "KEYS")
    program = f"python3 restore-{__version__}.py "

    mine = [line.removeprefix(program) for line in lines if line.startswith(program) and f"{place.folder}/far " in line]
    for line in mine:
        arguments, _, script = line.partition(" > ")
        done = stranger.run(*shlex.split(arguments))
        if script:
            (stranger.folder / script).write_bytes(done.out)

    for folder, name in ((place.uploads, "uploads"), (place.root, "configuration")):
        there = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        back = stranger.folder / f"{name}-restored"
        assert {path.relative_to(back): path.read_bytes() for path in back.rglob("*.*")} == there
    assert b"pg_restore" in (stranger.folder / "receivables.sh").read_bytes()
    assert any("rdb" in path.name for path in (stranger.folder / "sessions-unsealed").iterdir())


def test_a_platform_without_snapshots_contacts_or_an_answering_server_has_one_too(small: Place) -> None:
    file = small.folder / "platform.yaml"
    file.write_text(file.read_text().partition("recovery:")[0])
    small.variables["AIRFLOW_CONN_PLATFORM_DB"] = "postgres://u:pw@127.0.0.1:1/ledger"

    text = runbook_markdown(small.means, NOW)

    assert "**Nobody is named" in text
    assert "FAILED: none" in text
    assert "lifeboat restore 'receivables/daily/<no snapshot yet>' --to-database ledger" in text
    assert "pw" not in text


def test_users_addresses_are_not_printed(small: Place) -> None:
    file = small.folder / "platform.yaml"
    file.write_text(
        file.read_text()
        + "notify:\n  email: {connection: smtp, to: [ops@sme.example]}\n"
        + "  users: {to: [grace@customer.example]}\n"
    )

    text = runbook_markdown(small.means, NOW)

    assert "ops@sme.example" in text
    assert "grace@customer.example" not in text
    assert "to: [<address>]" in text


def test_the_page_needs_nothing_else_is_well_formed_and_prints(small: Place) -> None:
    small.back_up_all()

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.seen: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen.append(tag)
            assert not {name for name, _ in attrs} & {"src", "href"}, "it leads elsewhere"
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    tags = Tags()
    page = runbook_html(small.means, NOW)
    tags.feed(page)

    assert not tags.open
    assert {"h1", "table", "pre"} <= set(tags.seen)
    assert "script" not in tags.seen
    assert "@page" in page
    assert 'class="page"' in page


def test_it_is_stored_in_every_repository_and_only_the_newest_few_stay(small: Place) -> None:
    small.back_up_all()
    stored = [store_runbook(small.means, NOW + timedelta(days=day)) for day in range(KEPT + 2)]

    for name in ("near", "far"):
        there = sorted(path.stem for path in (small.folder / name / "break-glass").glob("runbook-*.html"))
        assert len(there) == KEPT
        assert there[-1] == Path(stored[-1].keys[0]).stem
        newest = small.folder / name / stored[-1].keys[0]
        assert newest.read_text() == runbook_markdown(small.means, NOW + timedelta(days=KEPT + 1))
    assert len(stored[-1].removed) == 2
    assert not stored[-1].lacking


def test_storing_it_twice_at_once_is_no_error(small: Place) -> None:
    first, again = store_runbook(small.means, NOW), store_runbook(small.means, NOW)

    assert first.keys == again.keys
    assert not again.lacking


def test_a_repository_that_is_away_or_keeps_old_ones_is_told_and_the_others_have_it(small: Place) -> None:
    def fails(_: int, method: str, key: str) -> bool:
        return method == "delete" or (method == "put" and "break-glass" in key and broken)

    means = small.means
    near, far = (LocalDiskRepository(small.folder / name, name) for name in ("near", "far"))
    vault = Vault.open(
        [Member(near), Member(FailingRepository(far, fails))], means.vault.keyring, means.vault.recipient_names
    )
    means = type(means)(vault, means.platform, means.lookup, means.installed, means.installed_redis)

    broken = True
    away = store_runbook(means, NOW)
    broken = False
    kept = [store_runbook(means, NOW + timedelta(days=1 + day)) for day in range(KEPT + 1)][-1]

    assert "failed on purpose" in away.lacking["far"]
    assert kept.lacking["far"].startswith("An older runbook stays there")
    assert len(list((small.folder / "near" / "break-glass").glob("runbook-*.md"))) == KEPT
    broken, means.vault.absent["near"] = True, RepositoryUnavailable("near is away.")
    with pytest.raises(RepositoryError, match="failed on purpose"):
        store_runbook(means, NOW)


def test_the_command_prints_and_stores_it(small: Place) -> None:
    small.back_up_all()

    assert lifeboat(small, "runbook").startswith("# Runbook: SME Receivable Platform\n")
    assert lifeboat(small, "runbook", "--html").startswith("<!DOCTYPE html>")
    assert lifeboat(small, "runbook", "--store").count("Put break-glass/runbook-") == 2

    assert len(list((small.folder / "far" / "break-glass").iterdir())) == 2
