"""Archiving: a change makes one sealed snapshot, no change makes none, and a fault never makes half of one."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from lifeboat.backup import inspectors
from lifeboat.configuration import archiving, files
from lifeboat.configuration.archive import ARTIFACT, inspect, read_archive, write_archive
from lifeboat.configuration.archiving import archive_configuration, changed_names, check_configuration, marks_of
from lifeboat.configuration.files import list_files, read_listed
from lifeboat.errors import IntegrityError, KeyringError, NotReady, SourceRefused, SourceUnavailable, UnknownFormat
from lifeboat.keys import Keyring, SigningKey, write_key
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.snapshot import Kind, artifact_key
from lifeboat.vault import Member, Snapshot, Vault
from tests.configuration.conftest import ESCROW, FILES, KEYRING, NOW, OPERATIONS, SEALING_ONLY, SIGNING, Place
from tests.core.storage_faults import FailingRepository

PAD = bytes(32)


def archive_of(place: Place, pad: bytes = PAD) -> bytes:
    listed = list_files(place.source)
    return b"".join(write_archive(listed.entries, lambda entry: read_listed(place.root, entry), pad))


def plain(vault: Vault, snapshot: Snapshot) -> dict[str, str]:
    """What a snapshot holds, by path."""
    chunks = vault.read(snapshot, ARTIFACT)
    return {e.path: b"".join(data).decode() for e, data in read_archive(chunks) if e.what == "file"}


# ---- what makes a snapshot ------------------------------------------------------------------------------------------


def test_a_first_run_archives_everything_into_every_repository(place: Place) -> None:
    archived = place.archive()

    assert archived.changed
    assert archived.snapshot.manifest.kind is Kind.CONFIG
    assert archived.snapshot.repositories == ("near", "far")
    assert archived.snapshot.manifest.facts["files"] == len(FILES)
    assert plain(place.vault(), archived.snapshot) == FILES


def test_identical_content_makes_no_new_snapshot_and_a_touch_changes_nothing(place: Place) -> None:
    first = place.archive()
    os.utime(place.root / ".env", (0, 0))
    (place.root / ".env").rename(place.root / "x")
    (place.root / "x").rename(place.root / ".env")

    second = place.archive(began=NOW + timedelta(hours=1))

    assert (second.changed, second.snapshot) == (False, first.snapshot)
    assert len(place.snapshots()) == 1


CHANGES = {
    "one byte": lambda root: (root / ".env").write_text(FILES[".env"].replace("4", "5")),
    "a mode": lambda root: (root / ".env").chmod(0o640),
    "a new file": lambda root: (root / "k8s" / "new.yaml").write_text(""),
    "a file gone": lambda root: (root / "k8s" / "web.yaml").unlink(),
    "a name": lambda root: (root / "k8s" / "web.yaml").rename(root / "k8s" / "wob.yaml"),
    "a symlink instead": lambda root: _linked(root / "k8s" / "web.yaml"),
}


def _linked(file: Path) -> None:
    file.rename(file.with_name("w.yaml"))
    file.symlink_to("w.yaml")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_makes_one_snapshot(place: Place, change: Any) -> None:
    first = place.archive()
    change(place.root)

    second = place.archive(began=NOW + timedelta(hours=1))
    third = place.archive(began=NOW + timedelta(hours=2))

    assert second.changed
    assert second.previous == first.snapshot
    assert (third.changed, third.snapshot) == (False, second.snapshot)
    assert len(place.snapshots()) == 2


def test_a_retry_of_the_run_that_made_a_snapshot_still_says_what_changed(place: Place) -> None:
    first = place.archive(scheduled_for=NOW)
    place.write(".env", "A=1")
    later = NOW + timedelta(hours=1)
    second, again = (place.archive(began=later, scheduled_for=later) for _ in range(2))

    assert again == second
    assert again.previous == first.snapshot
    assert len(place.snapshots()) == 2


def test_it_can_be_archived_again_although_nothing_has_changed(place: Place) -> None:
    place.archive()

    assert place.archive(began=NOW + timedelta(hours=1), again=True).changed
    assert len(place.snapshots()) == 2


def test_an_archive_whose_bytes_have_gone_from_everywhere_is_made_again(place: Place) -> None:
    snapshot = place.archive().snapshot
    key = artifact_key(snapshot.manifest.source, snapshot.tier, snapshot.id, ARTIFACT)
    (place.folder / "near" / key).unlink()
    assert not place.archive(began=NOW + timedelta(hours=1)).changed

    (place.folder / "far" / key).unlink()

    assert place.archive(began=NOW + timedelta(hours=2)).changed


def test_the_archive_is_the_same_bit_for_bit_when_the_files_are(place: Place) -> None:
    first = archive_of(place)
    for path in place.root.rglob("*"):
        os.utime(path, (1, 1))

    assert archive_of(place) == first


def test_any_tar_opens_the_archive_without_a_word(place: Place) -> None:
    (place.root / "k8s" / "now.yaml").symlink_to("web.yaml")
    target = place.folder / "by hand"
    target.mkdir()

    done = subprocess.run(["tar", "-xf", "-"], cwd=target, input=archive_of(place), capture_output=True, check=True)

    assert done.stderr == b""
    assert {str(p.relative_to(target)): p.read_text() for p in target.rglob("*") if p.is_file()} == FILES | {
        "k8s/now.yaml": FILES["k8s/web.yaml"]
    }


# ---- what a reader of the bucket learns -----------------------------------------------------------------------------


def test_nothing_stored_tells_what_a_short_password_is(place: Place) -> None:
    snapshot = place.archive().snapshot
    stored = b"".join(path.read_bytes() for path in place.folder.glob("*ar/**/*") if path.is_file())
    record = json.dumps([snapshot.manifest.facts, [a.plain_sha256 for a in snapshot.manifest.artifacts]])

    assert b"hunter2" not in stored
    assert not any(name in record for name in FILES)
    listed = list_files(place.source)
    guesses = [digest for entry in listed.files for digest in (entry.sha256, entry.sha256[:16])]
    guesses += [hashlib.sha256(archive_of(place, pad)).hexdigest() for pad in (PAD, b"")]
    assert not any(guess in record for guess in guesses)


def test_the_marks_are_another_hosts_own_and_another_sets_own(place: Place) -> None:
    listed = list_files(place.source)
    other = replace(KEYRING, signing_key=SigningKey.generate("other"))

    found = [marks_of(KEYRING, "a", listed), marks_of(KEYRING, "b", listed), marks_of(other, "a", listed)]

    for one, two in itertools.combinations(found, 2):
        assert one.fingerprint != two.fingerprint
        assert not set(one.files.items()) & set(two.files.items())


def test_a_host_without_any_identity_archives_and_knows_which_files_changed(place: Place) -> None:
    vault = place.vault(SEALING_ONLY)
    first = archive_configuration(vault, place.source, began=NOW).snapshot
    place.write(".env", "A=1")
    place.write("k8s/new.yaml", "")
    (place.root / "k8s" / "web.yaml").unlink()

    lines = changed_names(SEALING_ONLY, first, list_files(place.source))

    assert lines == ["changed: .env", "added: k8s/new.yaml", "removed: 1, whose names only the sealed archive tells"]


def test_without_a_signing_key_nothing_is_archived(place: Place) -> None:
    vault = place.vault(Keyring(KEYRING.recipients, KEYRING.identities, KEYRING.signers))

    with pytest.raises(KeyringError, match="no signing key"):
        archive_configuration(vault, place.source, began=NOW)


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_preflight_names_every_obstacle_at_once(place: Place) -> None:
    os.truncate(place.write("k8s/core.yaml", ""), 1024**3)
    vault = place.vault(Keyring(KEYRING.recipients, (), KEYRING.signers))

    with pytest.raises(NotReady) as caught:
        check_configuration(vault, place.source)

    assert "k8s/core.yaml with 1.0 GiB" in caught.value.message
    assert "no signing key" in caught.value.message


def test_preflight_remarks_a_private_key_wherever_it_stands_in_a_file(place: Place) -> None:
    keys = {"conn_type": "generic", "extra": {"keys": {"operations.identity": OPERATIONS.text}}}
    place.write(".env", f"COLOUR=blue\nAIRFLOW_CONN_LIFEBOAT_KEYS={json.dumps(keys)}\n")
    place.write("k8s/web.yaml", f"recipient: {OPERATIONS.recipient.text}\n")  # a public half

    (remark,) = check_configuration(place.vault(), place.source)

    assert ".env holds a private key of Lifeboat's own" in remark
    assert OPERATIONS.text not in remark


def test_preflight_remarks_a_path_that_is_not_there(place: Place) -> None:
    source = replace(place.source, paths=(*place.source.paths, "nginx.conf"))

    assert check_configuration(place.vault(), source) == (f"nginx.conf: there is no such file below {place.root}.",)


def test_what_cannot_be_archived_whole_is_not_archived_at_all(place: Place) -> None:
    (place.root / "k8s" / "x.yaml").symlink_to("/etc/passwd")

    with pytest.raises(SourceRefused, match=r"k8s/x\.yaml"):
        place.archive()

    assert place.snapshots() == ()


def test_a_file_that_changes_between_listing_and_archiving_is_archived_as_it_then_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_after_listing(place, monkeypatch, times=1)

    archived = place.archive()

    assert plain(place.vault(), archived.snapshot)[".env"] == "A=0\n"
    assert len(place.snapshots()) == 1


def test_a_file_that_changes_every_time_is_refused_and_leaves_no_snapshot(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_after_listing(place, monkeypatch, times=100)
    monkeypatch.setattr(archiving.time, "sleep", lambda _: None)

    with pytest.raises(SourceUnavailable, match=r"\.env has changed while it was archived"):
        place.archive()

    assert place.snapshots() == ()
    assert not list(place.folder.glob("*ar/**/*.sealed"))


def change_after_listing(place: Place, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    count = itertools.count()

    def listing(*arguments: Any) -> files.FileList:
        listed = list_files(*arguments)
        if (number := next(count)) < times:
            place.write(".env", f"A={number}\n")
        return listed

    monkeypatch.setattr(archiving, "list_files", listing)


def test_one_of_two_repositories_down_degrades_the_archive_and_replication_heals_it(place: Place) -> None:
    def fails(_: int, method: str, key: str) -> bool:
        return method == "put"

    far = FailingRepository(LocalDiskRepository(place.folder / "far", "far"), fails)
    vault = Vault.open([place.members()[0], Member(far)], KEYRING, ["operations", "escrow"])

    archived = archive_configuration(vault, place.source, began=NOW)
    again = archive_configuration(vault, place.source, began=NOW)

    assert archived.changed
    assert archived.snapshot.repositories == ("near",)
    assert archived.lacking.keys() == {"far"}
    assert (again.changed, again.lacking.keys()) == (False, {"far"})
    assert place.vault().replicate(again.snapshot).lacking == {}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/include"]
from tests.configuration import conftest
from lifeboat.configuration.files import ConfigurationSource
from lifeboat.keys import Keyring
from lifeboat.configuration.archiving import archive_configuration
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.vault import Member, Vault

folder, left = Path(sys.argv[2]), int(sys.argv[3])

class Killing:
    # Kills its own process at the left-th call, before or in the middle of it.
    def __init__(self, inner): self._inner = inner
    def __getattr__(self, name):
        found = getattr(self._inner, name)
        return self._killing(found) if name in ("put", "list", "get", "describe") else found
    def _killing(self, call):
        def called(*arguments, **options):
            global left
            left -= 1
            if left == 0:
                if len(arguments) > 1 and not isinstance(arguments[1], list):
                    arguments = (arguments[0], self._cut(arguments[1]), *arguments[2:])
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return called
    def _cut(self, chunks):
        for chunk in chunks:
            yield chunk[: len(chunk) // 2]
            os.kill(os.getpid(), signal.SIGKILL)

keyring = Keyring.from_folder(folder / "keys")
members = [Member(Killing(LocalDiskRepository(folder / name, name))) for name in ("near", "far")]
vault = Vault.open(members, keyring, ["operations", "escrow"])
source = ConfigurationSource("configuration", folder / "platform", conftest.PATHS)
archive_configuration(vault, source, began=conftest.NOW)
print("finished")
"""


def test_killed_at_any_step_it_leaves_a_whole_snapshot_or_none_and_the_next_run_makes_it_good(place: Place) -> None:
    for key in (OPERATIONS, OPERATIONS.recipient, ESCROW.recipient, SIGNING, SIGNING.signer):
        write_key(place.folder / "keys", key)
    checkout = str(Path(__file__).parents[2])
    outcomes = []
    for step in range(1, 40):
        place.write(".env", f"STEP={step}\n")
        for name in ("near", "far"):
            shutil.rmtree(place.folder / name)
            (place.folder / name).mkdir()
        Vault.create(place.members())
        done = subprocess.run(
            [sys.executable, "-c", KILLED, checkout, str(place.folder), str(step)], capture_output=True, text=True
        )
        outcomes.append(done.returncode)
        for snapshot in place.snapshots():
            assert plain(place.vault(), snapshot).keys() == FILES.keys(), f"a broken snapshot after step {step}"
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        archived = place.archive(began=NOW + timedelta(minutes=step))
        assert plain(place.vault(), archived.snapshot)[".env"] == f"STEP={step}\n"
        assert place.vault().replicate(archived.snapshot).lacking == {}
    assert outcomes[-1] == 0, "it was never let run to its end"
    assert len(outcomes) > 6


# ---- damaged and hostile archives -----------------------------------------------------------------------------------


def test_a_snapshot_is_verified_inside_and_out(place: Place) -> None:
    snapshot = place.archive().snapshot

    for name in ("near", "far"):
        assert place.vault().verify(snapshot, name, inspectors=inspectors(())).faults == {}


def hostile(name: str, **changes: Any) -> bytes:
    """An archive with one file that has gone wrong."""
    info = tarfile.TarInfo(name)
    info.size, info.pax_headers = 1, {"comment": f"sha256 {hashlib.sha256(b'x').hexdigest()}"}
    for key, value in changes.items():
        setattr(info, key, value)
    body = b"x".ljust(512, b"\0") if info.isreg() else b""
    start = tarfile.TarInfo.create_pax_global_header({"comment": f"lifeboat configuration 1 {PAD.hex()}"})
    return start + info.tobuf(tarfile.PAX_FORMAT) + body + bytes(1024)


HOSTILE = {
    "upwards": hostile("../x"),
    "upwards within": hostile("k8s/../../x"),
    "absolute": hostile("/etc/x"),
    "empty part": hostile("a//b"),
    "device": hostile("x", type=tarfile.CHRTYPE, size=0),
    "hard link": hostile("x", type=tarfile.LNKTYPE, linkname="/etc/passwd", size=0),
    "symlink upwards": hostile("k8s/x", type=tarfile.SYMTYPE, linkname="../../x", size=0),
    "absolute symlink": hostile("x", type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0),
    "other content": hostile("x", pax_headers={"comment": "sha256 00"}),
    "no digest": hostile("x", pax_headers={}),
    "not one": b"no archive at all" * 100,
    "nothing": b"",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_an_archive_that_leads_out_of_the_root_or_lies_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        inspect(iter([data]))


def test_an_archive_cut_short_anywhere_is_refused(place: Place) -> None:
    data = archive_of(place)

    for length in range(0, len(data) - 1024, 512):
        with pytest.raises(IntegrityError):
            inspect(iter([data[:length]]))


def test_an_archive_of_a_later_format_is_refused_politely(place: Place) -> None:
    data = archive_of(place).replace(b"lifeboat configuration 1", b"lifeboat configuration 2")

    with pytest.raises(UnknownFormat, match="format 2"):
        inspect(iter([data]))


def test_names_that_are_not_utf_8_come_back_as_they_were(place: Place) -> None:
    name = os.fsdecode(b"k8s/caf\xe9.yaml")
    place.write(name, "x")

    entries = [e.path for e, _ in read_archive(_pieces(archive_of(place)))]

    assert name in entries
    with tarfile.open(fileobj=BytesIO(archive_of(place)), encoding="utf-8", errors="surrogateescape") as tar:
        assert name in tar.getnames()


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 100):
        yield data[start : start + 100]
