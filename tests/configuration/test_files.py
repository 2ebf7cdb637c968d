"""Which files are found, and what is refused: an archive never silently lacks a file."""

from __future__ import annotations

import filecmp
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifeboat.configuration import files
from lifeboat.configuration.files import ConfigurationSource, FileList, list_files, read_listed, shown
from lifeboat.configuration.restoring import restore_to_folder
from lifeboat.errors import SourceRefused, SourceUnavailable
from tests.configuration.conftest import FILES, Place, somebody_else
from tests.other_user import as_other_user
from tests.processes import be_dumpable


def found(place: Place, *paths: str) -> FileList:
    return list_files(replace(place.source, paths=paths or place.source.paths))


def names(listed: FileList) -> list[str]:
    return [entry.path for entry in listed.entries if entry.what != "folder"]


def refusal(place: Place, *paths: str) -> str:
    with pytest.raises(SourceRefused) as caught:
        found(place, *paths)
    return caught.value.message


def test_files_and_patterns_are_found_below_the_root(place: Place) -> None:
    assert names(found(place)) == sorted(FILES)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("k8s", ["k8s/.hidden.yaml", "k8s/deep/deeper/x.yaml", "k8s/secret.yaml", "k8s/web.yaml"]),
        ("k8s/*.yaml", ["k8s/secret.yaml", "k8s/web.yaml"]),
        ("k8s/.*.yaml", ["k8s/.hidden.yaml"]),
        ("k8s/**/*.yaml", ["k8s/deep/deeper/x.yaml", "k8s/secret.yaml", "k8s/web.yaml"]),
        ("*.yml", ["docker-compose.yml"]),
        ("./k8s/[sw]*", ["k8s/secret.yaml", "k8s/web.yaml"]),
    ],
    ids=["folder", "pattern", "hidden", "any depth", "top", "class"],
)
def test_patterns_are_those_of_a_shell_and_a_folder_is_all_below_it(
    place: Place, pattern: str, expected: list[str]
) -> None:
    place.write("k8s/.hidden.yaml", "x")
    place.write("k8s/deep/deeper/x.yaml", "x")

    assert names(found(place, pattern)) == expected


def test_what_is_not_there_is_remarked_and_no_reason_to_stop(place: Place) -> None:
    listed = found(place, ".env", "nginx.conf", "helm/*.yaml")

    assert names(listed) == [".env"]
    assert [remark.split(":")[0] for remark in listed.remarks] == ["nginx.conf", "helm/*.yaml"]


def test_a_root_that_has_gone_or_holds_nothing_is_refused_as_suspicious(place: Place) -> None:
    with pytest.raises(SourceUnavailable, match=r"none of nginx\.conf is below"):
        found(place, "nginx.conf")

    with pytest.raises(SourceUnavailable, match="there is no folder"):
        list_files(replace(place.source, root=place.folder / "gone"))


def test_an_unreadable_file_is_refused_by_name_together_with_every_other(place: Place) -> None:
    (place.root / ".env").chmod(0)
    (place.root / "k8s" / "web.yaml").chmod(0)

    with somebody_else(place.root, place.root / "k8s", place.root / "monitoring"):
        said = refusal(place)

    assert ".env cannot be read: Permission denied" in said
    assert "k8s/web.yaml cannot be read: Permission denied" in said


def test_an_unreadable_folder_is_refused_and_not_taken_for_an_empty_one(place: Place) -> None:
    (place.root / "k8s").chmod(0)
    with somebody_else(place.root, place.root / "monitoring"):
        said = refusal(place, "monitoring/*.yml", "k8s/*.yaml")
    (place.root / "k8s").chmod(0o755)

    assert "k8s cannot be listed: Permission denied" in said


def test_a_huge_file_is_refused_with_the_limit_before_it_is_read(place: Place) -> None:
    os.truncate(place.write("k8s/core.yaml", ""), 2 * 1024**3)
    read_before = bytes_read()

    said = refusal(place)

    assert "2.0 GiB in all are more than the limit of 1.0 GiB. The largest: k8s/core.yaml with 2.0 GiB, " in said
    assert "can be a tree of `sources.files`" in said
    assert bytes_read() - read_before < 1024**2


def test_a_file_of_more_than_64_mebibytes_is_archived_and_comes_back(place: Place) -> None:
    place.write("k8s/core.yaml", "beginning")
    with (place.root / "k8s" / "core.yaml").open("r+b") as file:
        file.truncate(65 * 1024**2)
        file.seek(0, os.SEEK_END)
        file.write(b"end")

    place.archive()

    restored = restore_to_folder(place.vault(), place.snapshots()[0], place.folder / "new")
    assert "k8s/core.yaml" in restored.written
    assert filecmp.cmp(place.root / "k8s" / "core.yaml", place.folder / "new" / "k8s" / "core.yaml", shallow=False)


@pytest.mark.parametrize("pattern", ["closed/app.conf", "closed/*.conf", "**", "closed"])
def test_what_an_ordinary_user_may_not_look_at_is_refused_and_not_taken_for_missing(pattern: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "app.conf").touch()
        (root / "closed").mkdir()
        (root / "closed" / "app.conf").touch()
        (root / "closed" / "deeper").mkdir()
        for mode in (0o644, 0o600):  # listed and not entered; neither
            (root / "closed").chmod(mode)

            def act() -> list[str]:
                try:
                    listed = list_files(ConfigurationSource("settings", root, ("app.conf", pattern)))
                except SourceRefused as error:
                    return [error.message]
                return [*listed.remarks, "was archived"]

            said = "\n".join(as_other_user(act))
            assert "closed" in said
            assert "Permission denied" in said
            assert "was archived" not in said


def bytes_read() -> int:
    """What this process has read so far; it may look only while it is dumpable."""
    be_dumpable(True)
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    finally:
        be_dumpable(False)


def test_too_much_in_all_and_too_many_files_are_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_ALL", 100)
    monkeypatch.setattr(files, "MOST_FILES", 4)

    said = refusal(place)

    assert "5 files are more than the limit of 4." in said
    assert "in all are more than the limit of 100 B" in said


def test_a_file_that_changes_while_it_is_read_is_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    grow_while_read(place, monkeypatch, times=1)

    listed = found(place, ".env")

    assert listed.files[0].size == len(FILES[".env"]) + 1


def test_a_file_that_never_rests_is_named_and_worth_another_try(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    grow_while_read(place, monkeypatch, times=100)

    with pytest.raises(SourceUnavailable, match=r"\.env changed while it was read, 3 times") as caught:
        found(place, ".env")

    assert caught.value.transient


def grow_while_read(place: Place, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    plain, left = files.chunks_of, [times]

    def growing(descriptor: int) -> Iterator[bytes]:
        for chunk in plain(descriptor):
            if left[0] > 0:
                left[0] -= 1
                with (place.root / ".env").open("a") as file:
                    file.write("#")
            yield chunk

    monkeypatch.setattr(files, "chunks_of", growing)


def test_symlinks_are_archived_as_such_with_what_they_lead_to(place: Place) -> None:
    place.write("env/production.env", "A=1\n")
    (place.root / "now.env").symlink_to("env/production.env")
    (place.root / "absolute.env").symlink_to(place.root / "env" / "production.env")
    (place.root / "current").symlink_to("k8s")

    listed = found(place, "now.env", "absolute.env", "current/*.yaml")

    assert names(listed) == [
        "absolute.env", "current", "env/production.env", "k8s/secret.yaml", "k8s/web.yaml", "now.env",
    ]  # fmt: skip
    links = {entry.path: entry.link for entry in listed.entries if entry.what == "link"}
    assert links == {"absolute.env": "env/production.env", "current": "k8s", "now.env": "env/production.env"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "k8s/../../outside", "loop", "/"])
def test_a_symlink_is_not_followed_out_of_the_root_nor_round_in_a_circle(place: Place, target: str) -> None:
    (place.folder / "outside").write_text("secret")
    (place.root / "loop").symlink_to(target)

    said = refusal(place, ".env", "loop")

    assert "loop is a symlink that leads " + ("round in a circle" if target == "loop" else "out of the root") in said


def test_a_symlink_that_leads_to_nothing_is_archived_and_remarked(place: Place) -> None:
    (place.root / "k8s" / "next.yaml").symlink_to("v2.yaml")

    listed = found(place)

    assert "k8s/next.yaml" in names(listed)
    assert "k8s/next.yaml is a symlink that leads to nothing" in listed.remarks[0]


def test_a_folder_that_holds_a_symlink_to_itself_ends(place: Place) -> None:
    (place.root / "k8s" / "again").symlink_to("../k8s")

    assert names(found(place, "k8s")) == ["k8s/again", "k8s/secret.yaml", "k8s/web.yaml"]


def test_pipes_and_sockets_are_refused_without_waiting_for_them(place: Place) -> None:
    os.mkfifo(place.root / "k8s" / "pipe.yaml")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.root / "s"))

    said = refusal(place, "k8s/*.yaml", "s")

    assert "k8s/pipe.yaml is neither a file nor a folder" in said
    assert "s is neither a file nor a folder" in said


def test_names_that_are_not_utf_8_are_listed_and_printable(place: Place) -> None:
    strange = os.fsencode(place.root) + b"/k8s/caf\xe9\n.yaml"
    Path(os.fsdecode(strange)).write_text("x")

    listed = found(place)

    [entry] = [entry for entry in listed.files if "caf" in entry.path]
    assert os.fsencode(entry.path) == b"k8s/caf\xe9\n.yaml"
    assert shown(entry.path) == "k8s/caf\\xe9\\n.yaml"


def test_what_a_restore_keeps_and_has_not_finished_is_no_configuration(place: Place) -> None:
    for name in ("web.yaml.before-20261123T030000Z", "web.yaml.before-20261123T030000Z-2", ".12.lifeboat-part"):
        place.write(f"k8s/{name}", "x")

    assert names(found(place, "k8s")) == ["k8s/secret.yaml", "k8s/web.yaml"]


def test_files_that_look_as_they_did_are_not_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TRUSTED_AGE", -1)
    seen: Any = {}
    first = list_files(place.source, seen)
    monkeypatch.setattr(files, "_digest", lambda *_: pytest.fail("it was read"))

    assert list_files(place.source, seen) == first


def test_a_file_that_has_just_changed_is_read_again_even_if_it_looks_the_same(place: Place) -> None:
    seen: Any = {}

    list_files(place.source, seen)

    assert seen == {}  # written less than two seconds ago: its time stamps may not tell


def test_what_was_listed_must_still_be_there_when_it_is_read(place: Place) -> None:
    [entry] = found(place, ".env").files
    assert b"".join(read_listed(place.root, entry)) == FILES[".env"].encode()

    for text in ("DB_PASSWORD=hunter3\nWORKERS=4\n", "", FILES[".env"] * 2):
        place.write(".env", text)
        with pytest.raises(SourceUnavailable, match="has changed while it was archived"):
            list(read_listed(place.root, entry))
    (place.root / ".env").unlink()
    with pytest.raises(SourceUnavailable, match="cannot be read any more"):
        list(read_listed(place.root, entry))


def test_a_folder_swapped_for_a_symlink_is_not_followed(place: Place) -> None:
    (place.folder / "elsewhere").mkdir()
    (place.folder / "elsewhere" / "web.yaml").write_text(FILES["k8s/web.yaml"])
    listed = [e for e in found(place).files if e.path == "k8s/web.yaml"]
    (place.root / "k8s").rename(place.root / "k8s-old")
    (place.root / "k8s").symlink_to(place.folder / "elsewhere")

    with pytest.raises(SourceUnavailable):
        list(read_listed(place.root, listed[0]))
