"""Restoring configuration: all of it or nothing, what was there is kept, and nothing outside is touched."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lifeboat.attestation import Verdict, attestations_of
from lifeboat.configuration import proving, restoring
from lifeboat.configuration.archive import ARTIFACT, MEDIA_TYPE
from lifeboat.configuration.proving import prove_configuration
from lifeboat.configuration.restoring import Restored, restore_in_place, restore_to_folder
from lifeboat.errors import IntegrityError, KeyringError, RestoreFailed, SettingsError, WrongIdentity
from lifeboat.keys import Keyring, write_key
from lifeboat.snapshot import Kind, artifact_key
from lifeboat.vault import Snapshot
from tests.configuration.conftest import (
    ESCROW,
    FILES,
    KEYRING,
    NOW,
    OPERATIONS,
    SEALING_ONLY,
    SIGNING,
    Place,
    tree,
)  # fmt: skip
from tests.files.test_unfinished import steps

STAMP = "20261123T030000Z"


def to_folder(place: Place, **options: Any) -> Restored:
    return restore_to_folder(place.vault(), place.snapshots()[-1], place.folder / "new", **options)


def in_place(place: Place, **options: Any) -> Restored:
    return restore_in_place(place.vault(), place.snapshots()[0], place.root, **{"now": NOW} | options)


# ---- into a folder --------------------------------------------------------------------------------------------------


def test_everything_comes_back_into_a_new_folder(place: Place) -> None:
    (place.root / "k8s" / "now.yaml").symlink_to("web.yaml")
    (place.root / "k8s").chmod(0o750)
    strange = os.fsdecode(b"k8s/caf\xe9.yaml")
    place.write(strange, "x")
    place.archive()

    restored = to_folder(place)

    assert tree(place.folder / "new") == tree(place.root)
    assert (place.folder / "new" / "k8s").stat().st_mode & 0o7777 == 0o750
    assert strange in restored.written
    assert (place.folder / "new").stat().st_mode & 0o077 == 0


def test_owners_come_back_where_root_restores(place: Place) -> None:
    if os.geteuid() == 0:
        os.chown(place.root / ".env", 1234, 2345)
    place.archive()

    to_folder(place)

    status, original = (place.folder / "new" / ".env").stat(), (place.root / ".env").stat()
    assert (status.st_uid, status.st_gid) == (original.st_uid, original.st_gid)


def test_single_files_and_patterns_come_back_alone(place: Place) -> None:
    (place.root / "k8s").chmod(0o750)
    place.archive()

    restored = to_folder(place, only=[".env", "k8s/s*"])

    assert restored.written == (".env", "k8s/secret.yaml")
    assert tree(place.folder / "new").keys() == {".env", "k8s/secret.yaml"}
    assert (place.folder / "new" / "k8s").stat().st_mode & 0o7777 == 0o750


def test_what_the_snapshot_does_not_have_is_refused_and_nothing_is_made(place: Place) -> None:
    place.archive()

    with pytest.raises(SettingsError, match=r"has nothing that is called nginx\.conf"):
        to_folder(place, only=[".env", "nginx.conf"])

    assert sorted(path.name for path in place.folder.iterdir()) == ["far", "near", "platform"]


def test_an_empty_folder_is_filled_and_any_other_refused(place: Place) -> None:
    place.archive()
    (place.folder / "new").mkdir()
    to_folder(place)

    with pytest.raises(SettingsError, match="exists and is not empty"):
        to_folder(place)
    (place.folder / "link").symlink_to(place.folder / "near")
    with pytest.raises(SettingsError, match="exists and is not empty"):
        restore_to_folder(place.vault(), place.snapshots()[0], place.folder / "link")


def test_without_an_identity_nothing_is_restored(place: Place) -> None:
    snapshot = place.archive().snapshot

    with pytest.raises(WrongIdentity):
        restore_to_folder(place.vault(SEALING_ONLY), snapshot, place.folder / "new")

    assert not (place.folder / "new").exists()


def test_a_damaged_copy_is_passed_over_and_a_snapshot_damaged_everywhere_leaves_nothing(place: Place) -> None:
    snapshot = place.archive().snapshot
    damage(place, snapshot, "near")
    with pytest.raises(IntegrityError):
        to_folder(place, repository="near")
    assert not list(place.folder.glob("*new*"))

    to_folder(place, repository="far")

    assert tree(place.folder / "new") == tree(place.root)


def damage(place: Place, snapshot: Snapshot, repository: str) -> None:
    manifest = snapshot.manifest
    file = place.folder / repository / artifact_key(manifest.source, snapshot.tier, snapshot.id, ARTIFACT)
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)


# ---- in place -------------------------------------------------------------------------------------------------------


def test_in_place_what_is_replaced_is_kept_and_what_is_right_is_left_alone(place: Place) -> None:
    original = tree(place.root)
    place.archive()
    place.write(".env", "broken")
    (place.root / "k8s" / "web.yaml").unlink()
    place.write("k8s/extra.yaml", "mine")
    untouched = (place.root / "docker-compose.yml").stat()

    restored = in_place(place)

    assert restored.written == (".env", "k8s/web.yaml")
    assert restored.kept == ((".env", f".env.before-{STAMP}"),)
    assert set(restored.unchanged) == set(FILES) - {".env", "k8s/web.yaml"}
    now = tree(place.root)
    assert now.pop(f".env.before-{STAMP}")[0] == "broken"
    assert now.pop("k8s/extra.yaml")[0] == "mine"
    assert now == original
    after = (place.root / "docker-compose.yml").stat()
    assert (after.st_ino, after.st_mtime_ns) == (untouched.st_ino, untouched.st_mtime_ns)


def test_what_was_kept_is_never_overwritten_nor_archived(place: Place) -> None:
    place.archive()
    for text in ("first", "second"):
        place.write(".env", text)
        in_place(place)

    assert (place.root / f".env.before-{STAMP}").read_text() == "first"
    assert (place.root / f".env.before-{STAMP}-2").read_text() == "second"
    assert not place.archive(began=NOW + timedelta(hours=1)).changed


def test_modes_and_symlinks_are_put_back_too(place: Place) -> None:
    (place.root / "k8s" / "now.yaml").symlink_to("web.yaml")
    original = tree(place.root)
    place.archive()
    (place.root / ".env").chmod(0o666)
    (place.root / "k8s" / "now.yaml").unlink()
    (place.root / "k8s" / "now.yaml").symlink_to("secret.yaml")

    restored = in_place(place)

    assert {path for path, _ in restored.kept} == {".env", "k8s/now.yaml"}
    assert {k: v for k, v in tree(place.root).items() if "before" not in k} == original


def test_single_files_are_put_back_in_place(place: Place) -> None:
    place.archive()
    place.write(".env", "a")
    place.write("docker-compose.yml", "b")

    in_place(place, only=[".env"])

    assert (place.root / ".env").read_text() == FILES[".env"]
    assert (place.root / "docker-compose.yml").read_text() == "b"


def test_in_place_of_a_root_that_has_gone_it_is_made_anew(place: Place) -> None:
    original = tree(place.root)
    place.archive()
    place.root.rename(place.folder / "moved")

    in_place(place)

    assert tree(place.root) == original


@pytest.mark.parametrize("way", ["k8s", ".env"])
def test_a_planted_symlink_is_never_followed(place: Place, way: str) -> None:
    place.archive()
    outside = place.folder / "outside"
    outside.mkdir()
    (outside / "web.yaml").write_text("precious")
    if way == "k8s":
        (place.root / "k8s").rename(place.folder / "k8s")
        (place.root / "k8s").symlink_to(outside)
        with pytest.raises(RestoreFailed, match="a symlink stands where a folder was"):
            in_place(place)
    else:
        (place.root / ".env").unlink()
        (place.root / ".env").symlink_to(outside / "web.yaml")
        in_place(place)
        assert (place.root / ".env").read_text() == FILES[".env"]
        assert not (place.root / ".env").is_symlink()

    assert tree(outside) == {"web.yaml": ("precious", 0o644)}


def test_a_folder_where_a_file_belongs_stops_it_before_anything_is_replaced(place: Place) -> None:
    place.archive()
    place.write(".env", "mine")
    (place.root / "k8s" / "web.yaml").unlink()
    (place.root / "k8s" / "web.yaml").mkdir()

    with pytest.raises(RestoreFailed, match=r"A folder stands where a file was: k8s/web\.yaml"):
        in_place(place)

    assert (place.root / ".env").read_text() == "mine"
    assert not list(place.root.rglob("*.lifeboat-part"))


def test_a_hostile_archive_writes_nothing_anywhere(place: Place) -> None:
    """Signed and sealed by a trusted host, which was deceived or taken over."""
    info = tarfile.TarInfo("../escaped")
    info.size, info.pax_headers = 1, {"comment": f"sha256 {hashlib.sha256(b'x').hexdigest()}"}
    start = tarfile.TarInfo.create_pax_global_header({"comment": f"lifeboat configuration 1 {bytes(32).hex()}"})
    data = start + info.tobuf(tarfile.PAX_FORMAT) + b"x".ljust(512, b"\0") + bytes(1024)
    writer = place.vault().begin("configuration", Kind.CONFIG, began=NOW)
    writer(ARTIFACT, [data], media_type=MEDIA_TYPE)
    writer.commit({"files": 1})

    for restore in (to_folder, in_place):
        with pytest.raises(IntegrityError):
            restore(place)

    assert not list(place.folder.rglob("escaped"))


def test_a_snapshot_of_anything_else_is_refused(place: Place) -> None:
    writer = place.vault().begin("configuration", Kind.FILES, began=NOW)
    writer(ARTIFACT, [b"x"], media_type="text/plain")
    writer.commit({})

    with pytest.raises(SettingsError, match="snapshot of a files source, not of configuration files"):
        in_place(place)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/include"]
from tests.configuration import conftest
from lifeboat.keys import Keyring
from lifeboat.configuration import restoring
from lifeboat.configuration.files import ConfigurationSource

folder, left = Path(sys.argv[2]), int(sys.argv[3])

def killing(call):
    def called(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return called

for name in ("open", "link", "replace", "fsync", "symlink", "mkdir", "unlink", "fchmod"):
    setattr(os, name, killing(getattr(os, name)))
place = conftest.Place(folder, ConfigurationSource("configuration", folder / "platform", conftest.PATHS))
vault = place.vault(Keyring.from_folder(folder / "keys"))
[snapshot] = vault.list().snapshots
left = int(sys.argv[3])
restoring.restore_in_place(vault, snapshot, place.root, now=conftest.NOW)
"""


@pytest.mark.slow
def test_killed_at_any_step_no_file_is_ever_missing_or_half_and_the_next_restore_ends_it(place: Place) -> None:
    for key in (OPERATIONS, OPERATIONS.recipient, ESCROW.recipient, SIGNING, SIGNING.signer):
        write_key(place.folder / "keys", key)
    original = tree(place.root)
    place.archive()
    checkout, killed = str(Path(__file__).parents[2]), 0
    for step in range(1, 600, 11):
        for path in FILES:
            place.write(path, f"broken before step {step}")
        done = subprocess.run(
            [sys.executable, "-c", KILLED, checkout, str(place.folder), str(step)], capture_output=True, text=True
        )
        now = tree(place.root)
        for path in FILES:
            assert now[path][0] in (original[path][0], f"broken before step {step}"), f"step {step}"
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        in_place(place)
        now = tree(place.root)
        assert not [path for path in now if path.endswith(".lifeboat-part")]
        kept = [text for path, (text, _) in now.items() if ".before-" in path]
        assert kept.count(f"broken before step {step}") >= len(FILES), f"something was lost at step {step}"
    assert killed > 8


def test_a_folder_that_was_not_finished_is_removed_by_the_next_restore(place: Place) -> None:
    place.archive()
    said: list[str] = []

    for step in steps(("mkdir", "fsync"), lambda: to_folder(place)):
        done = restore_to_folder(place.vault(), place.snapshots()[0], place.folder / f"next {step}")
        assert not [path for path in place.folder.iterdir() if path.name.startswith(".")]
        said += done.notes

    assert len(said) > 3
    assert all("which a restore that was ended had left, is removed" in note for note in said)


# ---- proving --------------------------------------------------------------------------------------------------------


def test_a_whole_archive_is_proven_and_attested_and_leaves_nothing_behind(place: Place) -> None:
    (place.root / "k8s" / "now.yaml").symlink_to("web.yaml")
    snapshot = place.archive().snapshot
    base = place.folder / "scratch"
    base.mkdir()

    proof = prove_configuration(place.vault(), snapshot, base=base)

    assert proof.proven
    assert (proof.repository, proof.checks[0].found) == ("near", "5 files, all the same")
    assert list(base.iterdir()) == []
    [attestation] = attestations_of(place.vault(), snapshot)
    assert (attestation.verdict, attestation.repository) == (Verdict.PROVEN, "near")
    assert not any(name in str(attestation.details) for name in FILES)


def test_a_damaged_copy_is_attested_and_the_next_one_proven(place: Place) -> None:
    snapshot = place.archive().snapshot
    damage(place, snapshot, "near")

    proof = prove_configuration(place.vault(), snapshot)

    assert proof.proven
    assert (proof.repository, list(proof.damaged)) == ("far", ["near"])
    assert [a.verdict for a in attestations_of(place.vault(), snapshot)] == [Verdict.FAILED, Verdict.PROVEN]


def test_a_snapshot_damaged_everywhere_is_not_proven(place: Place) -> None:
    snapshot = place.archive().snapshot
    for name in ("near", "far"):
        damage(place, snapshot, name)

    proof = prove_configuration(place.vault(), snapshot)

    assert not proof.proven
    assert "No repository has a whole copy" in proof.reason


def test_a_restore_that_went_wrong_is_found_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = place.archive().snapshot
    plain = restoring.restore_to_folder

    def careless(vault: Any, snapshot: Any, folder: Path, **options: Any) -> Any:
        restored = plain(vault, snapshot, folder, **options)
        (folder / "k8s" / "web.yaml").write_text("other")
        (folder / ".env").chmod(0o644)
        (folder / "docker-compose.yml").unlink()
        return restored

    monkeypatch.setattr(proving, "restore_to_folder", careless)

    proof = prove_configuration(place.vault(), snapshot)

    assert not proof.proven
    assert proof.reason == (
        "What was restored differs: .env differs; docker-compose.yml is missing; k8s/web.yaml differs"
    )
    [attestation] = attestations_of(place.vault(), snapshot)
    assert attestation.verdict is Verdict.FAILED


def test_proving_needs_a_signing_key_and_an_identity(place: Place) -> None:
    snapshot = place.archive().snapshot

    with pytest.raises(KeyringError):
        prove_configuration(place.vault(Keyring(KEYRING.recipients, KEYRING.identities, KEYRING.signers)), snapshot)
    with pytest.raises(WrongIdentity):
        prove_configuration(place.vault(SEALING_ONLY), snapshot)

    assert attestations_of(place.vault(), snapshot) == ()
