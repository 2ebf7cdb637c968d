"""`files`: looking into snapshots of trees, comparing them, and restoring files."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from lifeboat.assembly import tree_mirror, tree_source
from lifeboat.cli.desk import (
    AsOfOption,
    EnvFileOption,
    JsonOption,
    PlatformOption,
    ProvenOption,
    Wanted,
    choose,
    open_desk,
)
from lifeboat.cli.exit_codes import DEGRADED, OK
from lifeboat.cli.output import remark, say, say_json, showing_progress
from lifeboat.cli.records import snapshot_record
from lifeboat.errors import SettingsError
from lifeboat.files.compare import Difference, differences, entries_in, find_entries
from lifeboat.files.entries import Entry, EntryType, for_people
from lifeboat.files.mirror import mirror_tree
from lifeboat.files.restore import restore_tree
from lifeboat.progress import count_text, duration_text, size_text

files = typer.Typer(
    help="Look into snapshots of trees, compare them, and restore files.", no_args_is_help=True, rich_markup_mode="rich"
)

RepositoryOption = Annotated[
    str | None, typer.Option("--repository", metavar="NAME", help="Only what this repository has, read from there.")
]
Patterns = Annotated[
    list[str],
    typer.Argument(
        metavar="PATTERN...",
        help="A name at any depth such as '*.pdf', or a path from the root such as '2026/**'.",
    ),
]


@files.command("ls")
def list_files(
    wanted: Wanted,
    folder: Annotated[str, typer.Argument(help="A path in the tree; without it, all of the tree.")] = "",
    as_of: AsOfOption = None,
    repository: RepositoryOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what a snapshot has of a tree, or of a folder in it.

    JSON: `snapshot` as in `list`; `entries`, a list of `path`, `type`, `size`, `mode`, `user`, `group`, `modified`,
    `target` of a symbolic link, and `fault` where its contents are not there or not as they should be.
    """
    vault = open_desk(platform, env_file).vault(reading=True)
    snapshot, _ = choose(vault, wanted, as_of=as_of, repository=repository)
    entries = entries_in(vault, snapshot, folder, repository=repository)
    _show_entries(entries, as_json, {"snapshot": snapshot_record(snapshot)}, f"{snapshot.label} has nothing there.")


@files.command("find")
def find_files(
    wanted: Wanted,
    patterns: Patterns,
    as_of: AsOfOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search a snapshot of a tree by names. JSON as of `ls`."""
    vault = open_desk(platform, env_file).vault(reading=True)
    snapshot, _ = choose(vault, wanted, as_of=as_of)
    nothing = f"Nothing in {snapshot.label} fits {', '.join(patterns)}."
    _show_entries(find_entries(vault, snapshot, patterns), as_json, {"snapshot": snapshot_record(snapshot)}, nothing)


@files.command("diff")
def compare_files(
    older: Annotated[str, typer.Argument(metavar="OLDER", help="A snapshot's id, or its source/tier/id.")],
    newer: Annotated[str, typer.Argument(metavar="NEWER", help="The same, or the source for its newest snapshot.")],
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what differs between two snapshots of a tree.

    `+` is new, `-` is gone, `*` has other contents, `~` only other properties. JSON: `older`, `newer` as in `list`;
    `differences`, a list of `path`, `change` (`added`, `removed`, `changed`, `properties`), `older_size`, `newer_size`.
    """
    vault = open_desk(platform, env_file).vault(reading=True)
    first, second = choose(vault, older)[0], choose(vault, newer)[0]
    if first.manifest.source != second.manifest.source:
        raise SettingsError(
            f"{first.label} and {second.label} are of different sources.", hint="Name two snapshots of one."
        )
    found = differences(vault, first, second)
    if as_json:
        record = {"older": snapshot_record(first), "newer": snapshot_record(second)}
        say_json(record | {"differences": [_difference_record(difference) for difference in found]})
        return
    same = True
    for difference in found:
        same = False
        say(f"{_SIGNS[difference.change]} {difference.name}")
    if same:
        remark(f"Nothing differs between {first.label} and {second.label}.")


@files.command("restore")
def restore_files(
    wanted: Wanted,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="The folder to restore into.")],
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATTERN]...", help="Only what fits, and everything in a folder that fits."),
    ] = None,
    into_existing: Annotated[
        bool,
        typer.Option(
            "--into-existing",
            help="The folder is there: files in it that differ are replaced, one by one; nothing is removed.",
        ),
    ] = False,
    proven: ProvenOption = False,
    as_of: AsOfOption = None,
    repository: RepositoryOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a tree, or files of it, into a new folder, or over what is in a folder.

    A new folder appears once all is in it. What differs alone is fetched. JSON: `snapshot` as in `list`; `target`,
    `files`, `folders`, `others`, `size`, `written`, `right` (as they should be already), `fetched` (bytes), `faults`
    (reason by path), `notes`, `damaged` (reason by repository whose index was passed over), and `seconds` by phase.
    """
    desk = open_desk(platform, env_file)
    vault = desk.vault(reading=True)
    snapshot, _ = choose(vault, wanted, proven=proven, as_of=as_of, repository=repository)
    remark(f"Restoring {'files' if patterns else 'all'} of {snapshot.label} into {to}")
    with showing_progress() as progress:
        done = restore_tree(
            vault,
            snapshot,
            to,
            patterns=patterns or (),
            into_existing=into_existing,
            repository=repository,
            progress=progress,
            report=remark,
        )
    if as_json:
        names = ("files", "folders", "others", "size", "written", "right", "fetched", "faults", "notes", "damaged")
        record = {"snapshot": snapshot_record(snapshot), "target": str(to)}
        say_json(record | {name: getattr(done, name) for name in names} | {"seconds": done.seconds})
    else:
        for note in done.notes:
            remark(f"Note: {note}")
        took = duration_text(sum(done.seconds.values()))
        say(f"{count_text(done.files, 'file')} ({size_text(done.size)}) of {snapshot.label} are in {to}, in {took}.")
        if done.right:
            say(f"Right already: {done.right:,} files and links.")
    done.raise_faults()
    incomplete = done.damaged or done.differing or any("not in the snapshot" in note for note in done.notes)
    raise typer.Exit(DEGRADED if incomplete else OK)


@files.command("mirror")
def mirror_files(
    tree: Annotated[str, typer.Argument(help="The tree's name in platform.yaml.")],
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the plain, UNENCRYPTED mirror of a tree in line with what its last backup has seen.

    JSON: `prefix`, `put`, `copied`, `alike`, `removed` (numbers of files) and `left_out`, a list of texts.
    """
    desk = open_desk(platform, env_file)
    mirror = tree_mirror(desk.platform, tree, desk.lookup)
    if mirror is None:
        raise SettingsError(f"{tree} has no mirror.", hint="Add `mirror: {plain: file:///path}` to it.")
    done = mirror_tree(tree_source(desk.platform, tree, desk.lookup), mirror, now=datetime.now(UTC))
    if as_json:
        say_json(vars(done))
    else:
        said = f"{count_text(done.put, 'file')} put, {done.copied} copied, {done.alike} alike, {done.removed} removed"
        say(f"{mirror.repository.url}/{done.prefix}, which is not encrypted: {said}.")
        for text in done.left_out:
            remark(f"Warning: left out: {text}")
    raise typer.Exit(DEGRADED if done.left_out else OK)


_SIGNS = {"added": "+", "removed": "-", "changed": "*", "properties": "~"}
_LETTERS = {EntryType.FILE: "-", EntryType.FOLDER: "d", EntryType.SYMLINK: "l"}


def _show_entries(entries: Iterable[Entry], as_json: bool, record: dict[str, Any], nothing: str) -> None:
    if as_json:
        say_json(record | {"entries": [_entry_record(entry) for entry in entries]})
        return
    empty = True
    for entry in entries:
        empty = False
        owner = f"{entry.user or entry.uid}:{entry.group or entry.gid}"
        target = f" -> {for_people(entry.target)}" if entry.target else ""
        fault = f"  [{_fault(entry)}]" if _fault(entry) else ""
        kind = _LETTERS.get(entry.type, entry.type[0])
        say(f"{kind} {entry.mode:04o} {owner:<16} {entry.size:>12} {_modified(entry)} {entry.name}{target}{fault}")
    if empty:
        remark(nothing)


def _entry_record(entry: Entry) -> dict[str, Any]:
    return {
        "path": entry.name,
        "type": entry.type.value,
        "size": entry.size,
        "mode": f"{entry.mode:04o}",
        "user": entry.user or entry.uid,
        "group": entry.group or entry.gid,
        "modified": _modified(entry),
        "target": for_people(entry.target) or None,
        "fault": _fault(entry) or None,
    }


def _fault(entry: Entry) -> str:
    return entry.fault or entry.lacking or ("was being changed while it was read" if entry.changed else "")


def _modified(entry: Entry) -> str:
    try:
        return f"{datetime.fromtimestamp(entry.mtime / 1e9, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError):  # a time that no calendar has
        return f"{entry.mtime}ns"


def _difference_record(difference: Difference) -> dict[str, Any]:
    older, newer = difference.older, difference.newer
    return {
        "path": difference.name,
        "change": difference.change.value,
        "older_size": older.size if older else None,
        "newer_size": newer.size if newer else None,
    }
