"""`prune`, `promote`, `hold`, `accept` and `replicate --all`, on real storage."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from lifeboat.assembly import open_vault
from lifeboat.attestation import Verdict, attest
from lifeboat.connections import connections_in
from lifeboat.env_file import read_env_file
from lifeboat.settings import load_platform
from lifeboat.snapshot import Kind, Tier
from lifeboat.vault import Snapshot, Vault
from tests.cli.conftest import Place, damage

pytestmark = pytest.mark.slow

TODAY = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0)


def vault_of(place: Place) -> Vault:
    environ = {**read_env_file(place.folder / ".env")}
    return open_vault(load_platform(place.folder / "platform.yaml"), connections_in(environ))


def backed_up(place: Place, days: int, *, age: int = 2) -> list[Snapshot]:
    """Snapshots of so many nights, the last of them so many days ago."""
    vault, made = vault_of(place), []
    for ago in range(days + age - 1, age - 1, -1):
        writer = vault.begin("odd", Kind.POSTGRES, began=TODAY - timedelta(days=ago))
        writer("dump", [b"rows"], media_type="application/octet-stream")
        made.append(writer.commit({}))
    return made


@pytest.fixture
def keeping(ready: Place) -> Place:
    """A platform that keeps three days in S3 and two on the local disk."""
    file = ready.folder / "platform.yaml"
    state = f"state: {ready.folder}/state\nprove: off\n"
    text = f"{state}retention: {{daily: 3, weekly: 1, monthly: 1, brake: 1.0}}\n{file.read_text()}"
    file.write_text(
        text.replace(
            f"    url: file://{ready.local}\n", f"    url: file://{ready.local}\n    retention: {{daily: 2}}\n"
        )
    )
    return ready


def ids(place: Place, repository: str, tier: Tier = Tier.DAILY) -> list[str]:
    listing = place.run("list", "--json").json["snapshots"]
    return [s["id"] for s in listing if repository in s["repositories"] and s["tier"] == tier]


def test_a_dry_run_tells_of_every_copy_why_it_stays_or_goes_and_changes_nothing(keeping: Place) -> None:
    made = backed_up(keeping, 6)

    told = keeping.run("prune", "--dry-run", "--json").json
    shown = keeping.run("prune", "--dry-run")

    assert len(told["plan"]) == 12
    assert all(line["reasons"] for line in told["plan"])
    assert {line["snapshot"] for line in told["plan"]} == {s.label for s in made}
    assert all(str(s.id) in shown.out for s in made)
    assert "day " in shown.out
    assert "nothing was removed" in shown.out
    assert len(ids(keeping, "s3")) == 6


def test_what_was_put_just_now_stays_however_old_its_date_is(keeping: Place) -> None:
    backed_up(keeping, 6)

    pruned = keeping.run("prune", "--json").json

    assert pruned["removed"] == []
    assert "made or put here within 24 hours" in keeping.run("prune", "--dry-run").out


def test_what_is_promised_no_longer_goes_and_the_bytes_are_told(
    keeping: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeboat.retention.RECENT", timedelta(0))
    made = backed_up(keeping, 6)

    pruned = keeping.run("prune", "--json").json

    gone = {one["what"] for one in pruned["removed"] if one["repository"] == "local"}
    assert made[0].label in gone
    assert pruned["bytes_freed"]["local"]["daily"] > 0
    assert pruned["failed"] == []
    assert {str(s.id) for s in made[3:]} <= set(ids(keeping, "s3"))
    assert keeping.run("prune").out.startswith("Nothing is due. Looked at: ")


def test_a_held_snapshot_stays_and_the_end_of_the_hold_is_said_with_a_reason(
    keeping: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeboat.retention.RECENT", timedelta(0))
    made = backed_up(keeping, 8)
    label = made[0].label

    held = keeping.run("hold", label, "--reason", "for the auditors", "--until", "2999-01-01", "--json").json
    assert (held["said"], held["reason"], held["lacking"]) == ("held", "for the auditors", {})
    keeping.run("prune")
    assert str(made[0].id) in ids(keeping, "s3")
    assert "held: for the auditors" in keeping.run("prune", "--dry-run").out

    assert "is held no longer" in keeping.run("hold", label, "--end", "--reason", "they are gone").out
    keeping.run("prune")
    assert str(made[0].id) not in ids(keeping, "s3")
    keeping.run("hold", str(made[-1].id), "--end", "--reason", "nothing", expect=3)
    keeping.run("hold", str(made[-1].id), "--reason", "late", "--until", "2001-01-01", expect=3)
    keeping.run("hold", str(made[-1].id), "--reason", " ", expect=3)


def test_a_suspect_snapshot_is_accepted_with_a_reason(keeping: Place) -> None:
    [made] = backed_up(keeping, 1)
    attest(vault_of(keeping), made, Verdict.SUSPECT, details={"reason": "half as large"})
    assert "suspect until somebody accepts it: half as large" in keeping.run("prune", "--dry-run").out

    assert "is accepted" in keeping.run("accept", made.label, "--reason", "we archived").out

    assert "suspect" not in keeping.run("prune", "--dry-run").out
    keeping.run("accept", made.label, "--reason", "again", expect=3)


def test_much_at_once_goes_only_with_the_ugly_flag(keeping: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeboat.retention.RECENT", timedelta(0))
    file = keeping.folder / "platform.yaml"
    file.write_text(file.read_text().replace("brake: 1.0", "brake: 0.1"))
    made = backed_up(keeping, 12)

    refused = keeping.run("prune", expect=1)
    assert "--remove-much-at-once-although-it-cannot-be-undone" in refused.err
    assert len(ids(keeping, "s3")) == 12

    keeping.run("prune", "--remove-much-at-once-although-it-cannot-be-undone")
    assert len(ids(keeping, "s3")) < 12
    assert str(made[-1].id) in ids(keeping, "s3")


def test_a_week_is_promoted_by_hand_and_once(keeping: Place) -> None:
    backed_up(keeping, 14)

    done = keeping.run("promote", "weekly", "--json").json["promotions"]
    again = keeping.run("promote", "weekly", "--json").json["promotions"]

    assert len(done[0]["promoted"]) == 1
    assert "is not proven, only read back" in done[0]["warnings"][0]
    assert again[0]["promoted"] == {}
    assert len(ids(keeping, "s3", Tier.WEEKLY)) == 1
    assert ids(keeping, "local", Tier.WEEKLY) == []
    keeping.run("promote", "yearly", expect=2)


def test_a_repository_that_was_emptied_is_filled_again_from_the_others(keeping: Place) -> None:
    made = backed_up(keeping, 5)
    shutil.rmtree(keeping.local / "snapshots")

    done = keeping.run("replicate", "--all", "--json").json["replications"]

    assert {one["snapshot"]["id"] for one in done} == {str(s.id) for s in made[-2:]}
    assert ids(keeping, "local") == [str(s.id) for s in made[-2:]]
    keeping.run("verify", made[-1].label)


def test_leftovers_are_swept_on_request(keeping: Place) -> None:
    vault = vault_of(keeping)
    backed_up(keeping, 1)
    vault.begin("odd", Kind.POSTGRES, began=TODAY)("dump", [b"rows"], media_type="application/octet-stream")

    assert keeping.run("prune", "--leftovers", "--json").json["removed"] == []


def test_health_shows_every_copy_and_ends_with_six_when_one_is_owed(keeping: Place) -> None:
    [made] = backed_up(keeping, 1)
    shown = keeping.run("health")
    assert shown.out.count(made.label) == 2
    assert keeping.run("health", "--json").json["sound"] is True

    shutil.rmtree(keeping.local / "snapshots")

    assert "OWED" in keeping.run("health", expect=6).out


def test_what_was_read_back_by_hand_is_attested_well_or_damaged(keeping: Place) -> None:
    [made] = backed_up(keeping, 1)
    keeping.run("verify", made.label)
    assert all(copy["read_back"] for copy in keeping.run("health", "--json").json["copies"])

    damage(next(keeping.local.glob("snapshots/odd/daily/*/dump.sealed")), 50)
    keeping.run("verify", made.label, "--repository", "local", expect=5)

    health = keeping.run("health", "--json", expect=6).json
    assert {copy["repository"]: copy["owed"] for copy in health["copies"]} == {"s3": False, "local": True}


def test_the_doctor_gives_remedies(keeping: Place) -> None:
    told = keeping.run("doctor", "--json").json["repositories"]

    assert told.keys() == {"s3", "local"}
    assert all(one["remedy"] for findings in told.values() for one in findings if one["level"] != "good")
    assert "Turn versioning on" in keeping.run("doctor").out
