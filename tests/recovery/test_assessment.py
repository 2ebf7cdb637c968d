"""Assessing the damage of real servers: what is left, what it goes back to, and what stands in the way."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg import sql

from demo.storage import S3Server, free_ports
from lifeboat.assembly import open_member
from lifeboat.attestation import Verdict, attest
from lifeboat.connections import connections_in
from lifeboat.keys import CLASSIC, Identity, write_key
from lifeboat.postgres.connection import PostgresServer
from lifeboat.promotion import copy_into
from lifeboat.recovery.assessment import HEADINGS, assess, assessment_markdown, assessment_rows, identity_of
from lifeboat.recovery.left import look_at
from lifeboat.recovery.model import Assessment, Mode, Point, State
from lifeboat.snapshot import Kind, Tier
from lifeboat.thawing import thaw_snapshot
from lifeboat.vault import Vault
from tests.custody.test_thawing import until_readable
from tests.fixtures_redis import RedisServers
from tests.fixtures_storage import BUCKET
from tests.recovery.places import HOUR, NOW, Place, make_place, request


@pytest.fixture
def place(tmp_path: Path, postgres: PostgresServer, redis_servers: RedisServers) -> Place:
    return make_place(tmp_path, postgres, redis_servers.start)


@pytest.fixture
def small(tmp_path: Path, postgres: PostgresServer) -> Place:
    """The same without Redis."""
    return make_place(tmp_path, postgres, None)


def assessed(place: Place, **fields: object) -> Assessment:
    return assess(place.means, request(**fields), NOW)


# ---- what is left ---------------------------------------------------------------------------------------------------


def test_a_whole_platform_is_alive_and_goes_back_to_its_newest_snapshots(place: Place) -> None:
    made = place.back_up_all()
    for snapshot in made.values():
        place.prove(snapshot, seconds=120)
    before = place.alive()

    found = assessed(place, point=Point.LATEST_PROVEN)

    assert place.alive() == before
    assert found.obstacles == ()
    assert {c.source: c.snapshot for c in found.components} == {s: m.label for s, m in made.items()}
    assert {c.state for c in found.components} == {State.ALIVE}
    assert all(c.replaces and c.proven and c.identity for c in found.components)
    assert [copy.whole for c in found.components for copy in c.copies] == [True] * 8
    database, uploads, configuration, sessions = found.components
    assert "1 table" in database.found
    assert uploads.found.startswith("30 files")
    assert configuration.found == "2 files"
    assert "7 keys" in sessions.found
    assert found.expected_seconds == 480
    assert found.skew_seconds == 1.5 * 3600
    assert database.lost_seconds == found.lost_seconds == 9 * 3600
    assert configuration.lost_seconds is None
    assert found.keys == "The keys at hand (operations) open every chosen snapshot."
    assert Assessment.of_record(found.record()) == found


def test_a_platform_that_is_gone_is_told_place_by_place(place: Place) -> None:
    made = place.back_up_all()
    place.variables["AIRFLOW_CONN_PLATFORM_DB"] = f"postgres://u:pw@127.0.0.1:{free_ports(1)[0]}/gone"
    assert place.redis is not None
    place.redis.stop(kill=True)
    shutil.rmtree(place.uploads)
    shutil.rmtree(place.root)

    found = assessed(place)

    assert {c.state for c in found.components} == {State.GONE}
    assert {c.identity for c in found.components} == {""}
    assert not any(c.replaces for c in found.components)
    assert {c.source: c.snapshot for c in found.components} == {s: m.label for s, m in made.items()}
    assert found.obstacles == ()
    assert "pw" not in str(found.record())


def test_places_that_are_there_and_hold_nothing_are_empty(place: Place) -> None:
    place.back_up_all()
    with place.server.visit("postgres") as admin:
        admin.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(place.database)))
    assert place.redis is not None
    with place.redis.client() as client:
        client.flushall()
    for folder in (place.uploads, place.root):
        shutil.rmtree(folder)
        folder.mkdir()
    (place.uploads / "lost+found").mkdir()

    found = assessed(place)

    assert {c.state for c in found.components} == {State.EMPTY}
    assert "without this database" in found.component("receivables").found
    assert all(c.identity for c in found.components)
    assert found.obstacles == ()


def test_a_database_without_any_table_is_empty_and_one_with_a_view_alone_is_not(small: Place) -> None:
    with small.server.visit(small.database) as connection:
        connection.execute("DROP TABLE documents")
    assert look_at(small.means, "receivables", request()).state is State.EMPTY

    with small.server.visit(small.database) as connection:
        connection.execute("CREATE VIEW one AS SELECT 1")

    assert look_at(small.means, "receivables", request()).state is State.ALIVE


def test_a_server_that_lets_nobody_in_is_taken_for_alive(place: Place) -> None:
    place.back_up_all()
    server = place.server
    place.variables["AIRFLOW_CONN_PLATFORM_DB"] = (
        f"postgres://nobody:wrong@{server.host}:{server.port}/{place.database}"
    )
    place.variables["AIRFLOW_CONN_PLATFORM_REDIS"] = place.variables["AIRFLOW_CONN_PLATFORM_REDIS"].replace(
        "password", "mistake"
    )

    found = assessed(place)

    assert found.component("receivables").state is found.component("sessions").state is State.ALIVE
    assert any("receivables: " in text and "refuses the login" in text for text in found.obstacles)
    assert any("sessions: " in text and "refused the user name or password" in text for text in found.obstacles)
    assert "wrong" not in str(found.record())
    assert "mistake" not in str(found.record())


def test_a_missing_connection_is_an_obstacle_with_its_variable(small: Place) -> None:
    small.back_up_all()
    del small.variables["AIRFLOW_CONN_PLATFORM_DB"]

    found = assessed(small)

    assert any("AIRFLOW_CONN_PLATFORM_DB" in text for text in found.obstacles)
    assert found.component("uploads").state is State.ALIVE


def test_a_tree_of_which_hardly_any_file_is_left_is_told_of(small: Place) -> None:
    small.back_up_all()
    for file in sorted((small.uploads / "invoices").iterdir())[3:]:
        file.unlink()

    found = assessed(small)

    assert found.component("uploads").state is State.ALIVE
    assert "Of uploads, 3 files are left of 30." in found.remarks


def test_what_is_no_folder_or_leads_nowhere_is_an_obstacle(small: Place) -> None:
    small.back_up_all()
    shutil.rmtree(small.uploads)
    shutil.rmtree(small.root)
    small.uploads.write_text("a file")
    small.root.symlink_to("nowhere")

    found = assessed(small)

    assert any("is no folder" in text for text in found.obstacles)
    assert any("symlink that leads nowhere" in text for text in found.obstacles)


def test_another_target_is_looked_at_instead(small: Place, tmp_path: Path) -> None:
    small.back_up_all()

    found = assessed(small, mode=Mode.RECOVER, targets={"uploads": str(tmp_path / "elsewhere")})

    uploads = found.component("uploads")
    assert (uploads.place, uploads.state) == (str(tmp_path / "elsewhere"), State.GONE)
    assert small.uploads.is_dir()


def test_a_practice_looks_at_nothing_that_is_live(place: Place) -> None:
    made = place.back_up_all()
    place.variables["AIRFLOW_CONN_PLATFORM_DB"] = "postgres://u:pw@127.0.0.1:1/never_asked"

    found = assessed(place, mode=Mode.PRACTICE)

    assert {c.identity for c in found.components} == {""}
    assert not any(c.replaces for c in found.components)
    assert all("practice" in c.found for c in found.components)
    assert {c.snapshot for c in found.components} == {m.label for m in made.values()}
    assert found.obstacles == ()


def test_the_identity_is_of_the_place_and_not_of_its_name(place: Place) -> None:
    means, asked = place.means, request()
    before = {source: identity_of(means, source, asked) for source in place.platform.names()}
    assert before == {source: identity_of(means, source, asked) for source in before}

    place.uploads.rename(place.folder / "moved")
    place.uploads.mkdir()
    assert place.redis is not None
    place.redis.stop()
    place.redis.start()

    after = {source: identity_of(means, source, asked) for source in before}
    assert {source for source in before if before[source] != after[source]} == {"uploads", "sessions"}


# ---- what it goes back to -------------------------------------------------------------------------------------------


def test_without_any_snapshot_each_source_is_an_obstacle(small: Place) -> None:
    found = assessed(small)

    assert [c.problem for c in found.components] == [
        f"There is no snapshot of {source} in any repository that answers." for source in small.platform.names()
    ]
    assert len(found.obstacles) == 3
    assert "| receivables | none |" in assessment_markdown(found, request(), small.platform)


def test_only_the_components_that_are_asked_for_are_looked_at(small: Place) -> None:
    small.back_up("uploads", 5)

    found = assessed(small, components=("uploads",))

    assert [c.source for c in found.components] == ["uploads"]
    assert found.obstacles == ()


@pytest.mark.parametrize("source", ["receivables", "uploads"])
def test_a_newest_snapshot_that_is_corrupt_here_and_missing_there_is_passed_over(small: Place, source: str) -> None:
    made = small.back_up_all(30)
    newest = small.back_up(source, 2)
    largest = max(newest.manifest.artifacts, key=lambda artifact: artifact.sealed_size)
    small.damage("near", newest, largest.name)
    small.lose("far", newest)

    found = assessed(small)

    component = found.component(source)
    assert component.snapshot == made[source].label
    assert len(component.newer) == 1
    assert component.newer[0].startswith(f"{newest.label}: it is whole nowhere: near: it is damaged")
    assert "far: it is not there" in component.newer[0]
    assert found.obstacles == ()


def test_a_copy_that_is_cut_short_is_seen_in_the_listing_and_the_other_one_is_taken(small: Place) -> None:
    made = small.back_up_all()["receivables"]
    artifact = small.folder_of("near", made) / "dump.sealed"
    artifact.chmod(0o600)
    artifact.write_bytes(artifact.read_bytes()[:-10])

    found = assessed(small).component("receivables")

    near, far = found.copies
    assert found.snapshot == made.label
    assert (near.whole, far.whole) == (False, True)
    assert "dump has" in near.remark


def test_a_missing_pack_makes_a_copy_of_files_useless(small: Place) -> None:
    made = small.back_up_all()["uploads"]
    for pack in (small.folder / "near" / "packs").rglob("*"):
        if pack.is_file():
            pack.unlink()

    found = assessed(small).component("uploads")

    assert found.snapshot == made.label
    assert [(c.repository, c.whole) for c in found.copies] == [("near", False), ("far", True)]
    assert "1 pack of files missing" in found.copies[0].remark


def test_a_flipped_bit_in_a_pack_is_found_by_reading_it(small: Place) -> None:
    (small.uploads / "large").write_bytes(os.urandom(9_000_000))  # a pack of its own
    small.back_up_all()
    packs = [path for path in (small.folder / "near" / "packs").rglob("*") if path.is_file()]
    pack = max(packs, key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[-100] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)

    near, far = assessed(small).component("uploads").copies

    assert (near.whole, far.whole) == (False, True)
    assert near.remark.startswith("it is damaged")


def test_one_repository_alone_is_looked_at_when_it_is_asked_for(small: Place) -> None:
    made = small.back_up_all()
    small.lose("far", made["receivables"])

    found = assessed(small, repository="far")

    assert found.component("receivables").problem.endswith("it is not in far.")
    assert [c.repository for c in found.component("uploads").copies] == ["far"]


def test_a_repository_that_is_away_is_told_and_the_other_one_serves(small: Place) -> None:
    made = small.back_up_all()
    (small.folder / "far").rename(small.folder / "unmounted")

    found = assessed(small)

    assert found.component("receivables").snapshot == made["receivables"].label
    assert any(text.startswith("The repository far does not answer") for text in found.remarks)
    assert found.obstacles == ()


def test_a_key_that_opens_nothing_is_an_obstacle_and_no_reason_for_an_older_snapshot(small: Place) -> None:
    small.back_up_all(30)
    newest = small.back_up("receivables", 2)
    (small.folder / "keys" / "operations.identity").unlink()
    write_key(small.folder / "keys", Identity.generate("stranger", CLASSIC))

    found = assessed(small)

    assert found.component("receivables").snapshot == newest.label
    assert found.keys.startswith("The keys at hand (stranger) do not open ")
    assert len([text for text in found.obstacles if "No identity at hand opens" in text]) == 3


def test_without_any_private_key_nothing_can_be_unsealed(small: Place) -> None:
    small.back_up_all()
    (small.folder / "keys" / "operations.identity").unlink()

    found = assessed(small)

    assert found.keys == "There is no private key at hand, so that nothing can be unsealed."
    assert len(found.obstacles) == 3


def test_without_a_signer_no_snapshot_is_believed(small: Place) -> None:
    small.back_up_all()
    (small.folder / "keys" / "host.signer").unlink()

    found = assessed(small)

    assert all(c.problem for c in found.components)
    assert any("is of no use" in text for text in found.remarks)


def test_suspect_and_failed_snapshots_are_passed_over_until_they_are_named(small: Place) -> None:
    good, failed, suspect = (small.back_up("receivables", hours) for hours in (6, 4, 2))
    attest(small.vault, failed, Verdict.FAILED, details={"reason": "rows are missing", "proven": False})
    attest(small.vault, suspect, Verdict.SUSPECT, details={"reasons": ["it is half as large"]})

    found = assessed(small, components=("receivables",)).component("receivables")
    named = assessed(small, components=("receivables",), point=Point.SNAPSHOTS, snapshots=(suspect.label,))

    assert found.snapshot == good.label
    assert [text.partition(": ")[2][:13] for text in found.newer] == ["it is suspect", "its restore t"]
    assert named.component("receivables").snapshot == suspect.label
    assert any("was asked for, although it is suspect" in text for text in named.remarks)


def test_a_named_snapshot_that_is_not_there_is_not_replaced_by_another(small: Place) -> None:
    made = small.back_up_all()
    missing = made["receivables"].label.replace(str(made["receivables"].id), "20200101T000000Z-00000000")

    found = assessed(small, point=Point.SNAPSHOTS, snapshots=(missing,))

    assert found.component("receivables").snapshot == ""
    assert found.component("receivables").problem == f"{missing} is in no repository that answers."
    assert found.component("uploads").snapshot == made["uploads"].label


def test_a_named_snapshot_that_is_whole_nowhere_is_an_obstacle(small: Place) -> None:
    made = small.back_up_all()["receivables"]
    for repository in ("near", "far"):
        small.damage(repository, made, "dump")

    found = assessed(small, point=Point.SNAPSHOTS, snapshots=(made.label,))

    assert found.component("receivables").snapshot == made.label
    assert any(text.startswith(f"{made.label} is whole in no repository") for text in found.obstacles)


def test_as_of_a_time_before_the_first_snapshot_says_which_is_the_first(small: Place) -> None:
    made = small.back_up_all()

    found = assessed(small, point=Point.AS_OF, as_of=NOW - timedelta(days=9))

    assert found.component("uploads").problem.endswith(f"began later; the first is {made['uploads'].label}.")


def test_what_was_backed_up_after_the_incident_is_passed_over_and_told(small: Place) -> None:
    before = small.back_up("receivables", 5)
    after = small.back_up("receivables", 0.5)

    found = assessed(small, components=("receivables",)).component("receivables")

    assert found.snapshot == before.label
    assert found.newer == (f"{after.label}: it began after the incident and may hold what it has done",)


def test_a_snapshot_from_after_the_incident_is_taken_with_a_remark_where_there_is_no_other(small: Place) -> None:
    after = small.back_up("receivables", 0.5)

    found = assessed(small, components=("receivables",))

    assert found.component("receivables").lost_seconds == 0
    assert f"{after.label} began after the incident and may hold what it has done." in found.remarks


def test_more_data_lost_than_may_be_is_told(small: Place) -> None:
    small.back_up("receivables", 31)

    found = assessed(small, components=("receivables",))

    assert "receivables loses 1 d 6 h, more than the 1 d that may be lost." in found.remarks


def test_what_no_proof_has_measured_is_told(small: Place) -> None:
    made = small.back_up_all()
    small.prove(made["uploads"], seconds=90)

    found = assessed(small)

    assert found.component("uploads").expected_seconds == found.expected_seconds == 90
    assert found.component("receivables").expected_seconds is None
    assert "How long receivables takes is not known: no proof has measured it." in found.remarks


def test_configuration_loses_what_was_archived_after_the_chosen_archive(small: Place) -> None:
    old = small.back_up("configuration", 90)
    small.back_up("configuration", 3)

    found = assessed(small, components=("configuration",), point=Point.SNAPSHOTS, snapshots=(old.label,))

    assert found.component("configuration").lost_seconds == 2 * 3600


@pytest.fixture
def glacier(small: Place, ministack: S3Server) -> Place:
    """The place with one repository alone, in S3, where monthly snapshots are archived."""
    file = small.folder / "platform.yaml"
    text = file.read_text()
    start, end = text.index("repositories:"), text.index("state:")
    url = f"s3://{BUCKET}/recovery/{uuid.uuid4().hex}"
    only = f"repositories:\n  - {{name: s3, url: '{url}', connection: s3, storage_class: {{monthly: GLACIER}}}}\n"
    file.write_text(text[:start] + only + text[end:])
    small.variables["AIRFLOW_CONN_S3"] = json.dumps(ministack.connection)
    Vault.create([open_member(small.platform, 0, connections_in(small.variables))])
    return small


def test_a_snapshot_in_archive_storage_must_be_thawed_first_and_its_time_counts(glacier: Place) -> None:
    vault = glacier.vault
    writer = vault.begin("uploads", Kind.FILES, began=NOW - 5 * HOUR, tier=Tier.MONTHLY)
    writer("index", [b"sealed and archived"], media_type="application/octet-stream")
    made = writer.commit({"files": 1, "size": 19})
    attest(vault, made, Verdict.PROVEN, repository="s3", details={"seconds_in_all": 60, "size": 19, "proven": True})

    before = assessed(glacier, components=("uploads",))
    thaw_snapshot(glacier.vault, made)
    meanwhile = assessed(glacier, components=("uploads",))
    until_readable(glacier.vault, made)
    after = assessed(glacier, components=("uploads",))

    [copy] = before.components[0].copies
    assert (copy.whole, copy.thawing) == (True, "3 to 5 hours")
    assert "was not asked for yet" in copy.remark
    assert before.expected_seconds == 5 * 3600 + 60
    assert before.obstacles[0].startswith(
        f"{made.label} must be thawed first, which takes 3 to 5 hours: `lifeboat thaw"
    )
    assert "nothing can be read yet" in before.keys
    assert "it is thawing" in meanwhile.components[0].copies[0].remark
    assert after.obstacles == ()
    assert after.expected_seconds == 60
    assert after.components[0].copies[0].thawing == ""


def test_of_one_snapshot_in_two_tiers_the_one_that_can_be_read_now_is_taken(glacier: Place) -> None:
    made = glacier.back_up("receivables", 5)
    copy_into(glacier.vault, made, Tier.MONTHLY)

    found = assessed(glacier, components=("receivables",))

    assert found.component("receivables").snapshot == made.label
    assert found.obstacles == ()


# ---- how it is said -------------------------------------------------------------------------------------------------


def test_the_markdown_says_the_most_important_first(small: Place) -> None:
    made = small.back_up_all()
    for snapshot in made.values():
        small.prove(snapshot, seconds=600)
    asked = request(Mode.RECOVER, Point.LATEST_PROVEN, reason="the disk failed")

    text = assessment_markdown(assess(small.means, asked, NOW), asked, small.platform)

    lines = text.splitlines()
    assert lines[0] == "# Assessment: The server is gone"
    assert "1 h of 4 h used, 3 h left, done at about" in lines[2]
    assert lines[4] == "**Nothing stands in the way.**"
    assert lines[6] == "**ALIVE, and would be replaced after a second approval: receivables, uploads, configuration.**"
    assert made["receivables"].label.replace("_", "\\_") in text
    assert "At most 9 h of data are lost, of 1 d that may be." in text
    assert "hunter2" not in text


def test_the_rows_fit_their_headings(small: Place) -> None:
    small.back_up("uploads", 5)

    rows = assessment_rows(assessed(small))

    assert {len(row) for row in rows} == {len(HEADINGS)}
    assert rows[0][2:] == ("nothing", "", "", "everything", "not known", "no repository")


def test_kinds_are_those_of_platform_yaml_even_without_a_snapshot(place: Place) -> None:
    kinds = [c.kind for c in assessed(place).components]

    assert kinds == [Kind.POSTGRES, Kind.FILES, Kind.CONFIG, Kind.REDIS]
