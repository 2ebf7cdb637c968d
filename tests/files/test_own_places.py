"""A tree or a set of configuration files that holds repositories, mirrors, the state or the keys of Lifeboat itself."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from lifeboat.errors import NotReady, SettingsError
from lifeboat.files.compare import entries_in
from lifeboat.files.ready import check_tree, check_tree_ready
from lifeboat.files.scan import scan
from lifeboat.files.source import TreeSource, check_root
from lifeboat.own_places import OwnPlace, identities
from tests.cli.conftest import Place
from tests.files.vaults import Tree
from tests.other_user import as_other_user

EVERYTHING = {
    "the repository first": "repository",
    "the mirror of uploads": "mirror",
    "Lifeboat's own state": "var/state",
    "the keyring": "etc/keys",
}


class AllInOne(Place):
    """A platform whose tree holds whatever Lifeboat has on this host."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "", ("lifeboat:identity", "lifeboat:signing"))
        self.tree = folder / "tree"
        for name in ("repository", "mirror", "etc", "invoices"):
            (self.tree / name).mkdir(parents=True)
        (self.tree / "invoices" / "one").write_bytes(b"an invoice")
        (self.tree / "etc" / "app.conf").write_bytes(b"colour = blue")
        keys = {"conn_type": "generic", "extra": {"keyring": str(self.tree / "etc" / "keys")}}
        (folder / ".env").write_text(f"AIRFLOW_CONN_LIFEBOAT_KEYS={json.dumps(keys)}\n")
        self.write_platform()
        self.run("init")

    def write_platform(self, exclude: str = "[]", paths: str = "[app.conf]") -> None:
        (self.folder / "platform.yaml").write_text(
            f"""\
platform: files
recipients: [operations, escrow]
state: {self.tree}/var/state
repositories: [{{name: first, url: "file://{self.tree}/repository"}}]
sources:
  files:
    - name: uploads
      path: {self.tree}
      exclude: {exclude}
      mirror: {{plain: "file://{self.tree}/mirror"}}
  configuration: [{{name: settings, root: {self.tree}/etc, paths: {paths}}}]
"""
        )


def test_whatever_is_lifeboats_own_in_a_tree_is_refused_with_the_place_and_the_remedy(tmp_path: Path) -> None:
    place = AllInOne(tmp_path)

    before = place.run("preflight", expect=1).err
    tried = place.run("backup", "uploads", expect=3).err

    for said in (before, tried):
        for what, where in EVERYTHING.items():
            assert f"{what} ({place.tree}/{where}, " in said
            assert f"'/{where}/'" in said
        assert "platform.yaml:4" in said
        assert "private keys too" in said
    assert list(place.tree.glob("repository/snapshots/*")) == []
    excludes = json.dumps([f"/{where}/" for where in EVERYTHING.values()])

    place.write_platform(exclude=excludes)
    place.run("preflight")
    place.run("backup", "uploads")

    listed = place.run("files", "ls", "uploads", "--json").json["entries"]
    assert [entry["path"] for entry in listed] == [".", "etc", "etc/app.conf", "invoices", "invoices/one", "var"]


def test_private_keys_are_not_archived_as_configuration(tmp_path: Path) -> None:
    place = AllInOne(tmp_path)
    place.write_platform(exclude="['*']", paths="[app.conf, keys/*]")

    said = place.run("preflight", expect=1).err

    assert "more is in the keyring" in said
    assert "which belongs into no archive" in said
    place.run("config", "archive", "settings", expect=1)
    assert list(place.tree.glob("repository/snapshots/settings/*")) == []
    place.write_platform(exclude="['*']")
    place.run("config", "archive", "settings")


def own(path: Path, what: str = "the repository first") -> tuple[OwnPlace, ...]:
    return (OwnPlace(what, path, "platform.yaml:4"),)


@pytest.mark.parametrize("way", ["plain", "by a link to it", "by a link to the tree", "not there yet"])
def test_a_place_within_a_tree_is_found_whatever_way_leads_there(tmp_path: Path, way: str) -> None:
    inside = tmp_path / "tree" / "deep" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "to it").symlink_to(inside)
    (tmp_path / "to the tree").symlink_to("tree")
    places = {
        "plain": inside,
        "by a link to it": tmp_path / "to it",
        "by a link to the tree": tmp_path / "to the tree" / "deep" / "inside",
        "not there yet": tmp_path / "tree" / "deep" / "later",
    }
    source = TreeSource("uploads", str(tmp_path / "tree"), tmp_path / "state", own=own(places[way]))

    with pytest.raises(SettingsError, match=r"is in the tree"):
        check_root(source, None)


def test_the_tree_itself_and_its_neighbours(tmp_path: Path) -> None:
    for name in ("tree", "tree two"):
        (tmp_path / name).mkdir()
    tree = str(tmp_path / "tree")

    with pytest.raises(SettingsError) as raised:
        check_root(TreeSource("uploads", tree, tmp_path, own=own(tmp_path / "tree")), None)

    assert "exclude" not in raised.value.hint
    for beside in (tmp_path / "tree two", tmp_path, tmp_path / "nowhere" / "at all"):
        check_root(TreeSource("uploads", tree, tmp_path, own=own(beside)), None)


def test_one_that_is_mounted_into_a_tree_is_named_and_not_entered(tmp_path: Path) -> None:
    """A second mount shows the same folder under another name."""
    mounted = tmp_path / "tree" / "mnt" / "copy"
    mounted.mkdir(parents=True)
    (mounted / "object").touch()
    (tmp_path / "tree" / "zz file").touch()

    found = {item.path: item.fault for item in scan(str(tmp_path / "tree"), None, identities(own(mounted)))}

    assert sorted(found) == [b"", b"mnt", b"mnt/copy", b"zz file"]
    assert found[b"mnt/copy"].startswith("it is the repository first (")


def test_a_repository_of_another_vault_is_remarked(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tree.root / "other" / "snapshots").mkdir(parents=True)
    tree.write("other/lifeboat.json", b"{}")
    tree.write("lifeboat.json", b"{}")

    remarks = check_tree_ready(tree.vault, tree.source)

    assert len(remarks) == 1
    assert f"other in {tree.root} is a repository of Lifeboat" in remarks[0]
    assert "exclude: ['/other/']" in remarks[0]
    assert [entry.name for entry in entries_in(tree.vault, tree.snapshot())][1] == "lifeboat.json"


def test_preflight_of_the_core_names_it_too(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tree.root / "repository").mkdir()
    source = TreeSource("uploads", str(tree.root), tmp_path / "state", own=own(tree.root / "repository"))

    with pytest.raises(NotReady, match=r"Add `exclude: \['/repository/'\]` to the tree"):
        check_tree_ready(tree.vault, source)


def test_a_place_that_this_user_may_not_enter_is_found_all_the_same() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        tree = Path(folder) / "tree"
        (tree / "closed" / "keys").mkdir(parents=True)
        (Path(folder) / "state").mkdir(mode=0o700)
        for path in (Path(folder), tree):
            path.chmod(0o755)
        (tree / "closed").chmod(0o700 if os.geteuid() == 0 else 0)
        state = Path(folder) / "state" / "lifeboat"
        source = TreeSource("uploads", str(tree), state, own=own(tree / "closed" / "keys", "the keyring"))

        def act() -> list[str]:
            try:
                check_tree(source)
            except SettingsError as error:
                return [error.message]
            return ["nothing was said"]

        said = as_other_user(act)
        (tree / "closed").chmod(0o755)

    assert "the keyring" in said[0]
