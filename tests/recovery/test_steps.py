"""A platform is brought back step by step: what is gone straight away, what is alive only once that was agreed."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from lifeboat.errors import IntegrityError, NotReady, RestoreFailed
from lifeboat.postgres.connection import PostgresServer
from lifeboat.recovery.left import folder_identity
from lifeboat.recovery.model import Mode, Outcome, State
from lifeboat.recovery.practice import remove_leftovers
from lifeboat.recovery.steps import prepare, put_in_place, restore, undo, verify
from tests.fixtures_postgres import CHECK_THAT_NO_LONGER_HOLDS, new_name, psql
from tests.fixtures_redis import RedisServers
from tests.recovery.ruins import BEGAN, CONFIGURATION, ORDERS, UPLOADS, Ruins

pytestmark = pytest.mark.slow


@pytest.fixture
def ruins(tmp_path: Path, postgres: PostgresServer, redis_servers: RedisServers) -> Ruins:
    redis = redis_servers.start("redis-8.2").server
    return Ruins(tmp_path, postgres, new_name("platform"), redis).build()


def test_a_platform_of_which_nothing_is_left_is_brought_back_without_asking_for_live_data(ruins: Ruins) -> None:
    ruins.destroy()

    recovered = ruins.recover(replaces_live=False)

    ruins.check_whole()
    assert recovered.verified.well, recovered.verified.failed
    assert ruins.log == ["prepare", "stop", "migrate", "start", "smoke"]
    assert ruins.databases() == {ruins.database}
    ended = recovered.case.journal.last("end", Outcome.DONE)
    assert ended is not None
    assert ended.words == "The platform is recovered."
    assert any("of 4 h used" in line for line in ruins.said)


def test_what_is_alive_is_not_touched_until_that_was_agreed(ruins: Ruins) -> None:
    ruins.spoil()
    case = ruins.case()
    assessment = ruins.assess(case)
    assert {c.source: c.state for c in assessment.components} == dict.fromkeys(
        ("orders", "uploads", "configuration", "sessions"), State.ALIVE
    )

    prepare(case, assessment)
    restored = [restore(case, assessment, component.source) for component in assessment.components]
    with pytest.raises(NotReady, match="nobody has agreed") as refused:
        put_in_place(case, assessment, restored, replaces_live=False)

    assert refused.value.message.count("nobody has agreed") == 4
    assert ruins.notes() == {"spoiled": ORDERS}
    assert ruins.files()["logo.png"] == b"spoiled"
    assert ruins.configuration()[".env"] == "DB_PASSWORD=spoiled\n"
    assert ruins.sessions()["session:0"] == "spoiled"
    assert "stop" not in ruins.log


def test_what_is_alive_is_replaced_once_that_was_agreed_and_kept_where_that_is_possible(ruins: Ruins) -> None:
    ruins.spoil()

    recovered = ruins.recover(replaces_live=True)

    ruins.check_whole()
    assert recovered.verified.well
    assert recovered.verified.undo_helps
    kept = recovered.of("orders").facts["kept"]
    assert ruins.notes(kept) == {"spoiled": ORDERS}
    (before,) = ruins.root.glob(".env.before-*")
    assert before.read_text() == "DB_PASSWORD=spoiled\n"
    assert ruins.files()["since.pdf"] == b"uploaded since"
    assert recovered.of("uploads").facts["fetched"] < 310_000


def test_what_was_live_before_comes_back_when_the_platform_is_not_well(ruins: Ruins) -> None:
    ruins.spoil()
    (ruins.folder / "smoke").touch()

    recovered = ruins.recover(replaces_live=True)
    assert not recovered.verified.well
    assert recovered.verified.undo_helps
    assert [check.name for check in recovered.verified.checks if not check.passed] == ["command sh"]
    back = undo(recovered.case, recovered.placed)
    again = undo(recovered.case, back)

    assert ruins.notes() == {"spoiled": ORDERS}
    assert ruins.configuration()[".env"] == "DB_PASSWORD=spoiled\n"
    waiting = {one.source: one.waiting for one in again}["orders"]
    assert ruins.notes(waiting) == {"then": ORDERS}
    assert ruins.databases() == {ruins.database, waiting}
    (files,) = (one for one in back if one.source == "uploads")
    assert any("cannot be put back" in note for note in files.notes)
    assert ruins.log[-2:] == ["stop", "start"]


def test_a_database_that_was_put_back_can_be_replaced_again_in_the_same_incident(ruins: Ruins) -> None:
    ruins.spoil()
    case = ruins.case()
    recovered = ruins.carry_out(case, replaces_live=True)
    back = undo(case, recovered.placed)

    (orders,) = (one for one in back if one.source == "orders")
    (placed,) = put_in_place(case, recovered.assessment, [orders], replaces_live=True)

    assert ruins.notes() == {"then": ORDERS}
    assert placed.waiting == ""
    assert ruins.notes(placed.facts["kept"]) == {"spoiled": ORDERS}


def test_replaced_databases_go_at_the_end_when_that_was_asked_for(ruins: Ruins) -> None:
    ruins.spoil()

    ruins.recover(replaces_live=True, drop_replaced=True)

    assert ruins.databases() == {ruins.database}
    assert ruins.notes() == {"then": ORDERS}


def test_replaced_databases_stay_when_the_platform_is_not_well(ruins: Ruins) -> None:
    ruins.spoil()
    (ruins.folder / "smoke").touch()

    recovered = ruins.recover(replaces_live=True, drop_replaced=True)

    assert ruins.notes(recovered.of("orders").facts["kept"]) == {"spoiled": ORDERS}


def test_only_the_components_that_were_asked_for_are_brought_back(ruins: Ruins) -> None:
    ruins.destroy("uploads", "sessions")

    ruins.recover(components=("uploads",))

    assert ruins.files() == UPLOADS
    assert ruins.sessions() == {}
    assert ruins.databases() == {ruins.database}


def test_a_finished_step_is_recognised_and_repeats_nothing(ruins: Ruins) -> None:
    ruins.destroy()
    case = ruins.case()
    assessment = ruins.assess(case)
    prepare(case, assessment)
    first = [restore(case, assessment, component.source) for component in assessment.components]
    before = ruins.databases()
    ruins.said.clear()

    second = [restore(ruins.case(), assessment, component.source) for component in assessment.components]

    assert [one.record() for one in second] == [one.record() for one in first]
    assert ruins.databases() == before
    assert not [line for line in ruins.said if line.startswith(("rows and indexes:", "files:", "load:"))]


def test_a_database_that_lacks_objects_is_brought_back_with_all_rows_and_never_said_to_be_well(ruins: Ruins) -> None:
    psql(ruins.server, ruins.database, "-c", CHECK_THAT_NO_LONGER_HOLDS)
    ruins.back_up_database_again()
    ruins.destroy("orders")
    case = ruins.case(components=("orders",), began=BEGAN + timedelta(hours=1))
    assessment = ruins.assess(case)
    prepare(case, assessment)

    first = restore(case, assessment, "orders")
    again = restore(case, assessment, "orders")
    placed = put_in_place(case, assessment, [again], replaces_live=False)
    verified = verify(case, assessment, placed)

    assert again.facts["oid"] == first.facts["oid"]
    assert [one["kind"] for one in again.facts["not_rebuilt"]] == ["CHECK CONSTRAINT"]
    assert [check.name for check in verified.checks if not check.passed] == ["orders: all objects are there"]
    assert psql(ruins.server, ruins.database, "-c", "SELECT count(*) FROM a_orders").strip() == "10"


def test_the_journal_alone_is_not_believed(ruins: Ruins) -> None:
    ruins.destroy()
    case = ruins.case()
    assessment = ruins.assess(case)
    prepare(case, assessment)
    first = {c.source: restore(case, assessment, c.source) for c in assessment.components}
    with ruins.server.visit(first["orders"].waiting) as connection:
        connection.execute("DELETE FROM orders WHERE id < 5")
    (ruins.uploads / "logo.png").unlink()
    (ruins.root / ".env").unlink()
    with ruins.client() as client:
        client.delete("session:3")

    second = {c.source: restore(case, assessment, c.source) for c in assessment.components}
    put_in_place(case, assessment, tuple(second.values()), replaces_live=False)

    ruins.check_whole()
    assert second["orders"].waiting != first["orders"].waiting


def test_a_place_that_came_to_life_after_the_assessment_is_not_touched(ruins: Ruins) -> None:
    ruins.destroy()
    case = ruins.case()
    assessment = ruins.assess(case)
    ruins.uploads.mkdir()
    (ruins.uploads / "new.pdf").write_bytes(b"somebody's")
    ruins.make_database("somebody's")
    with ruins.client() as client:
        client.set("session:0", "somebody's")

    with pytest.raises(NotReady, match="was gone when it was assessed, and is alive now"):
        restore(case, assessment, "uploads")
    with pytest.raises(NotReady, match="was empty when it was assessed, and is alive now"):
        restore(case, assessment, "sessions")
    restored = restore(case, assessment, "orders")
    with pytest.raises(NotReady, match="nobody has agreed"):
        put_in_place(case, assessment, [restored], replaces_live=False)

    assert ruins.files() == {"new.pdf": b"somebody's"}
    assert ruins.sessions() == {"session:0": "somebody's"}
    assert ruins.notes() == {"somebody's": ORDERS}


@pytest.mark.parametrize("source", ["uploads", "configuration"])
def test_another_target_than_was_assessed_is_not_replaced(ruins: Ruins, source: str) -> None:
    ruins.spoil()
    case = ruins.case()
    assessment = ruins.assess(case)
    restored = [restore(case, assessment, source)]
    place = ruins.uploads if source == "uploads" else ruins.root
    shutil.copytree(place, f"{place}.copy")
    shutil.move(place, f"{place}.moved")
    shutil.move(f"{place}.copy", place)

    with pytest.raises(NotReady, match=r"is now device .*Nothing was touched there"):
        put_in_place(case, assessment, restored, replaces_live=True)

    assert "stop" not in ruins.log
    assert ruins.files()["logo.png"] == b"spoiled"


def test_another_server_under_the_same_connection_is_not_replaced(ruins: Ruins, clusters: object) -> None:
    ruins.spoil()
    case = ruins.case()
    assessment = ruins.assess(case)
    restored = [restore(case, assessment, "orders")]
    other = clusters.get(16).server  # type: ignore[attr-defined]
    with other.visit("postgres") as admin:
        admin.execute(f'CREATE DATABASE "{ruins.database}"'.encode())
    server, ruins.server = ruins.server, other
    ruins.write_platform()

    with pytest.raises((NotReady, RestoreFailed), match=r"is now system|not on .* any more"):
        put_in_place(ruins.case(), assessment, restored, replaces_live=True)

    ruins.server = server
    assert ruins.notes() == {"spoiled": ORDERS}


# ---- commands that fail ---------------------------------------------------------------------------------------------


def test_a_service_that_will_not_stop_leaves_everything_as_it_was_and_the_step_goes_on_once_it_does(
    ruins: Ruins,
) -> None:
    ruins.spoil()
    (ruins.folder / "stop").touch()
    case = ruins.case()
    assessment = ruins.assess(case)
    prepare(case, assessment)
    restored = [restore(case, assessment, component.source) for component in assessment.components]

    with pytest.raises(RestoreFailed, match="The command to stop ended with status 1"):
        put_in_place(case, assessment, restored, replaces_live=True)
    assert ruins.notes() == {"spoiled": ORDERS}
    assert ruins.files()["logo.png"] == b"spoiled"

    (ruins.folder / "stop").unlink()
    put_in_place(case, assessment, restored, replaces_live=True)
    ruins.check_whole()


@pytest.mark.parametrize("step", ["prepare", "migrate", "start"])
def test_a_command_that_fails_stops_the_recovery_which_then_goes_on(ruins: Ruins, step: str) -> None:
    ruins.destroy()
    (ruins.folder / step).touch()

    with pytest.raises(RestoreFailed, match=f"The command to {step} ended with status 1"):
        ruins.recover()
    (ruins.folder / step).unlink()
    recovered = ruins.recover()

    assert recovered.verified.well, recovered.verified.failed
    ruins.check_whole()
    assert ruins.databases() == {ruins.database}
    failed = recovered.case.journal.last(step, Outcome.FAILED)
    assert failed is not None
    assert "ended with status 1" in failed.words


@pytest.mark.parametrize("step", ["prepare", "migrate", "start", "smoke"])
def test_a_recovery_goes_on_after_a_command_that_fails_where_that_is_said(ruins: Ruins, step: str) -> None:
    ruins.write_platform(on_failure={step: "go on"})
    ruins.destroy()
    (ruins.folder / step).touch()

    recovered = ruins.recover()

    assert recovered.verified.well
    ruins.check_whole()
    assert any("as platform.yaml says" in line for line in (*ruins.said, *recovered.verified.notes))


def test_a_command_that_takes_too_long_is_ended(ruins: Ruins) -> None:
    ruins.write_platform(migrate=[["sleep", "60"]], time_limits={"migrate": 0.5})
    ruins.destroy()

    with pytest.raises(RestoreFailed, match="The command to migrate took more than"):
        ruins.recover()


def test_what_commands_say_is_heard_at_once_and_without_secrets(ruins: Ruins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_TOKEN", "do-not-tell")
    script = f'echo one; echo "token $APP_TOKEN, password {ruins.server.password}"; env; sleep 0.3; echo two'
    ruins.write_platform(prepare=[["sh", "-c", script]])
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", "postgres://user:also-secret@host/db")

    case = ruins.case()
    prepare(case, ruins.assess(case))

    said = "\n".join(ruins.said)
    assert "  one\n  token ***, password ***\n" in said
    assert "  two" in said
    assert "do-not-tell" not in said
    assert ruins.server.password not in said
    assert "also-secret" not in said


# ---- room, and servers that do not answer ---------------------------------------------------------------------------


def test_a_target_without_room_is_told_before_anything_is_restored(
    ruins: Ruins, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lifeboat.recovery import steps

    ruins.destroy()
    case = ruins.case()
    assessment = ruins.assess(case)
    monkeypatch.setattr(steps, "free_bytes", lambda *_: 1000)

    with pytest.raises(NotReady, match="has room for 1000 B"):
        prepare(case, assessment)

    assert ruins.databases() == set()


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], object]]:
    """A disk of 288 KiB, which can be made larger. Only root can have one."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=288k", "none", folder], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=2m", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def seemingly_small_disk(folder: Path) -> Iterator[Callable[[], object]]:
    """A folder of which the system says that it has hardly any room."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=60, f_frsize=4096))
        yield patch.undo


@contextmanager
def small_files(folder: Path) -> Iterator[Callable[[], object]]:
    """A folder in which no file may be larger than 200 kB, until that is allowed."""
    folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


Limit = Callable[[Path], AbstractContextManager[Callable[[], object]]]
AS_ROOT = [small_disk] if os.geteuid() == 0 else []


@pytest.mark.parametrize("limit", [seemingly_small_disk, *AS_ROOT])
def test_a_disk_without_room_for_the_files_is_told_before_anything_is_restored(ruins: Ruins, limit: Limit) -> None:
    ruins.destroy("uploads")
    with limit(ruins.uploads):
        case = ruins.case()
        assessment = ruins.assess(case)
        with pytest.raises(NotReady, match=r"uploads has room for 2\d\d\.. KiB, and 4\d\d\.. KiB are needed"):
            prepare(case, assessment)
        assert list(ruins.uploads.iterdir()) == []


@pytest.mark.parametrize("limit", [small_files, *AS_ROOT])
def test_a_disk_that_fills_up_fails_the_restore_which_goes_on_once_there_is_room(ruins: Ruins, limit: Limit) -> None:
    ruins.destroy("uploads")
    case = ruins.case()
    with limit(ruins.uploads) as make_room:
        assessment = ruins.assess(case)
        begun = {"identity": folder_identity(ruins.uploads), "moment": datetime.now(UTC).isoformat()}
        begun["snapshot"] = assessment.component("uploads").snapshot
        case.journal.write("restore", Outcome.BEGUN, "killed at its very beginning", "uploads", begun)
        prepare(case, assessment)

        with pytest.raises(RestoreFailed, match=r"No space left on device|File too large"):
            restore(case, assessment, "uploads")
        make_room()
        restored = restore(case, assessment, "uploads")

        assert ruins.files() == UPLOADS
        assert restored.facts["fetched"] < sum(map(len, UPLOADS.values()))


def test_a_database_server_that_does_not_answer_is_waited_for_and_then_told(ruins: Ruins) -> None:
    ruins.destroy()
    case = ruins.case()
    assessment = ruins.assess(case)
    port = ruins.server.port
    ruins.server = PostgresServer(ruins.server.host, 1, ruins.server.user, ruins.server.password)
    ruins.write_platform(time_limits={"answer": 1})

    with pytest.raises(NotReady, match="Not every server answers") as silent:
        prepare(ruins.case(), assessment)

    assert "orders: " in silent.value.message
    ruins.server = PostgresServer(ruins.server.host, port, ruins.server.user, ruins.server.password)
    ruins.write_platform()
    assert ruins.recover().verified.well


# ---- practice -------------------------------------------------------------------------------------------------------


@pytest.fixture
def scratch(ruins: Ruins) -> Iterator[Path]:
    """A folder that PostgreSQL's user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ruins-") as folder:
        ruins.scratch = Path(folder)
        ruins.scratch.chmod(0o755)
        yield ruins.scratch


def test_a_practice_goes_through_all_steps_on_scratch_targets_and_touches_nothing_live(
    ruins: Ruins, scratch: Path
) -> None:
    from lifeboat.recovery.steps import clear_practice

    ruins.spoil()
    before = (ruins.notes(), ruins.files(), ruins.configuration(), ruins.sessions(), ruins.databases())

    recovered = ruins.recover(mode=Mode.PRACTICE)
    assert recovered.verified.well, recovered.verified.failed
    names = {check.name for check in recovered.verified.checks}
    assert {"orders: in its place", "orders: as its evidence says", "uploads: nothing is missing"} <= names
    made = {path.name for path in scratch.iterdir()}
    again = verify(recovered.case, recovered.assessment, recovered.placed)
    removed = clear_practice(recovered.case)

    assert again.well
    assert (ruins.notes(), ruins.files(), ruins.configuration(), ruins.sessions(), ruins.databases()) == before
    assert ruins.log == []
    assert any("not run in a practice" in line for line in ruins.said)
    assert made == set(removed)
    assert list(scratch.iterdir()) == []
    assert clear_practice(recovered.case) == ()


def test_a_practice_does_not_follow_a_link_that_somebody_has_put_in_the_place_of_its_folder(
    ruins: Ruins, scratch: Path
) -> None:
    from lifeboat.recovery.steps import clear_practice

    case = ruins.case(mode=Mode.PRACTICE, components=("configuration",))
    link = scratch / f"lifeboat-practice-{case.incident}"
    (ruins.folder / "precious").mkdir()
    link.symlink_to(ruins.folder / "precious")

    with pytest.raises(NotReady, match="it is somebody else's"):
        ruins.carry_out(case)

    assert clear_practice(case) == ()
    assert list((ruins.folder / "precious").iterdir()) == []


def test_configuration_of_the_platform_is_private_in_a_practice_too(ruins: Ruins, scratch: Path) -> None:
    from lifeboat.recovery.steps import clear_practice

    recovered = ruins.recover(mode=Mode.PRACTICE, components=("configuration",))

    (folder,) = scratch.glob("lifeboat-practice-*")
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "configuration" / ".env").read_text() == CONFIGURATION[".env"]
    clear_practice(recovered.case)


def test_rows_and_files_that_do_not_fit_are_told_and_are_no_failure(ruins: Ruins) -> None:
    ruins.named_by = {"database": "orders", "sql": "SELECT note || '.pdf' FROM orders UNION SELECT 'logo.png'"}
    ruins.write_platform()
    ruins.destroy()

    recovered = ruins.recover()

    assert recovered.verified.well, recovered.verified.failed
    orphans = recovered.verified.orphans["uploads"]
    assert (orphans["missing"], orphans["unnamed"]) == (1, len(UPLOADS) - 1)
    assert orphans["first_missing"] == ["then.pdf"]
    assert any("1 file that rows of orders name is missing" in note for note in recovered.verified.notes)


# ---- copies that are damaged or missing -----------------------------------------------------------------------------


def test_each_source_comes_from_the_next_repository_when_a_copy_is_damaged(ruins: Ruins) -> None:
    ruins.destroy()
    case = ruins.case()
    assessment = ruins.assess(case)
    for file in (ruins.folder / "near").rglob("*"):
        if file.is_file() and ("/packs/" in str(file) or file.name.endswith(".sealed")):
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.chmod(0o600)
            file.write_bytes(data)

    recovered = ruins.carry_out(case, assessment=assessment)

    ruins.check_whole()
    assert recovered.verified.well, recovered.verified.failed
    assert recovered.of("orders").repository == "far"
    assert recovered.of("configuration").repository == "far"
    assert recovered.of("sessions").repository == "far"
    assert any("near is damaged" in line for line in ruins.said)


def test_files_that_no_repository_has_any_more_are_told_and_hold_nothing_up(ruins: Ruins) -> None:
    ruins.destroy("uploads")
    case = ruins.case(components=("uploads",))
    assessment = ruins.assess(case)
    packs = sorted((ruins.folder / "near").glob("packs/**/*"), key=lambda p: p.stat().st_size)
    smallest = next(pack for pack in packs if pack.is_file())
    for name in ("near", "far"):
        damaged = ruins.folder / name / smallest.relative_to(ruins.folder / "near")
        damaged.chmod(0o600)
        damaged.write_bytes(b"")

    recovered = ruins.carry_out(case, assessment=assessment)

    uploads = recovered.of("uploads")
    assert uploads.facts["faults"] > 0
    assert any("could not be restored" in note for note in uploads.notes)
    assert any("could not be restored" in note for note in recovered.verified.notes)
    assert recovered.verified.well


def test_without_any_whole_copy_nothing_is_begun(ruins: Ruins) -> None:
    ruins.destroy("configuration")
    case = ruins.case(components=("configuration",))
    assessment = ruins.assess(case)
    for name in ("near", "far"):
        for file in (ruins.folder / name / "snapshots" / "configuration").rglob("*.sealed"):
            file.chmod(0o600)
            file.write_bytes(file.read_bytes()[:-20])

    with pytest.raises(IntegrityError, match="No repository has a whole copy"):
        ruins.carry_out(case, assessment=assessment)

    assert not list(ruins.root.rglob("*"))


def test_what_a_practice_that_was_given_up_has_left_is_swept_a_day_later(tmp_path: Path) -> None:
    for name, hours in (("old", 25), ("young", 23)):
        folder = tmp_path / f"lifeboat-practice-{name}"
        (folder / "configuration").mkdir(parents=True)
        when = datetime.now(UTC).timestamp() - hours * 3600
        os.utime(folder, (when, when))

    removed = remove_leftovers(tmp_path)

    assert removed == ("lifeboat-practice-old",)
    assert [path.name for path in tmp_path.iterdir()] == ["lifeboat-practice-young"]
