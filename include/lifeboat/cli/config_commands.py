"""`config`: looking into archives of configuration files, comparing them, putting them back."""

from __future__ import annotations

import fnmatch
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from lifeboat.assembly import configuration_source
from lifeboat.cli.desk import (
    AsOfOption,
    Desk,
    EnvFileOption,
    JsonOption,
    PlatformOption,
    ProvenOption,
    Wanted,
    choose,
    open_desk,
)
from lifeboat.cli.exit_codes import DEGRADED, OK
from lifeboat.cli.output import remark, say, say_json, say_table
from lifeboat.cli.records import snapshot_record
from lifeboat.configuration.archive import ARTIFACT, read_archive
from lifeboat.configuration.archiving import archive_configuration, changed_names
from lifeboat.configuration.contents import contents_of_snapshot, contents_on_disk
from lifeboat.configuration.difference import changes_of, difference
from lifeboat.configuration.files import list_files, shown
from lifeboat.configuration.restoring import require_configuration, restore_in_place, restore_to_folder
from lifeboat.errors import WrongIdentity
from lifeboat.progress import count_text, size_text
from lifeboat.vault import Snapshot, Vault

config = typer.Typer(
    help="Look into archives of configuration files, compare them, put them back.", no_args_is_help=True
)

RepositoryOption = Annotated[
    str | None, typer.Option("--repository", metavar="NAME", help="Only what this repository has, read from there.")
]


@config.command()
def archive(
    source: Annotated[str, typer.Argument(help="The set's name in platform.yaml.")],
    again: Annotated[bool, typer.Option("--again", help="A new archive even when nothing has changed.")] = False,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Archive a set now if it has changed, and say what has, without secrets.

    JSON: `snapshot` as in `list`; `changed`; `lines`; `remarks`; `lacking`, the reason by repository.
    """
    desk = open_desk(platform, env_file)
    vault = desk.vault()
    archived = archive_configuration(
        vault, configuration_source(desk.platform, source, desk.lookup), began=datetime.now(UTC), again=again
    )
    lines = changes_of(vault, archived) if archived.changed else ()
    if as_json:
        record = snapshot_record(archived.snapshot)
        remarks = list(archived.listed.remarks)
        told = {"changed": archived.changed, "lines": list(lines), "remarks": remarks}
        say_json({"snapshot": record, **told, "lacking": dict(archived.lacking)})
    else:
        for text in archived.listed.remarks:
            remark(f"Warning: {text}")
        label, where = archived.snapshot.label, ", ".join(archived.snapshot.repositories)
        say(f"{label} is in {where}." if archived.changed else f"Nothing has changed since {label}, in {where}.")
        for line in lines:
            say(line)
        for name, reason in archived.lacking.items():
            remark(f"Warning: {name} does not have it: {reason} `lifeboat replicate` copies it there.")
    raise typer.Exit(DEGRADED if desk.required(archived.lacking) else OK)


@config.command("ls")
def list_archive(
    wanted: Wanted,
    pattern: Annotated[str, typer.Argument(help="Only paths that fit, such as `k8s/*`.")] = "*",
    as_of: AsOfOption = None,
    repository: RepositoryOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the files of an archive.

    JSON: `snapshot` as in `list`; `entries`, a list of `path`, `what` (file, link or folder), `mode`, `owner`, `size`,
    `link`.
    """
    vault, snapshot = _chosen(open_desk(platform, env_file), wanted, as_of=as_of, repository=repository)
    chunks = vault.read(snapshot, ARTIFACT, repository=repository)
    entries = [entry for entry, _ in read_archive(chunks) if fnmatch.fnmatchcase(entry.path, pattern)]
    if as_json:
        records = [
            {
                "path": shown(e.path),
                "what": e.what,
                "mode": f"{e.mode:04o}",
                "owner": f"{e.uid}:{e.gid}",
                "size": e.size,
                "link": shown(e.link),
            }
            for e in entries
        ]
        say_json({"snapshot": snapshot_record(snapshot), "entries": records})
        return
    rows = [
        [
            f"{e.mode:04o}",
            f"{e.uid}:{e.gid}",
            size_text(e.size) if e.what == "file" else e.what,
            shown(e.path) + (f" -> {shown(e.link)}" if e.link else ""),
        ]
        for e in entries
    ]
    nothing = f"Nothing in {snapshot.label} fits {pattern}."
    say_table(["mode", "owner", "size", "path"], rows, right=["size"], nothing=nothing)


@config.command("diff")
def show_difference(
    wanted: Wanted,
    other: Annotated[
        str | None, typer.Argument(metavar="[SNAPSHOT]", help="A later one; without it, the files as they are now.")
    ] = None,
    as_of: AsOfOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what has changed since an archive, with secrets hidden. Without an identity, only which files.

    JSON: `snapshot` as in `list`; `lines`, none when nothing has changed.
    """
    desk = open_desk(platform, env_file)
    vault, snapshot = _chosen(desk, wanted, as_of=as_of)
    if other is not None:
        later = _chosen(desk, other)[1]
        lines = difference(contents_of_snapshot(vault, snapshot), contents_of_snapshot(vault, later))
    else:
        source = configuration_source(desk.platform, snapshot.manifest.source, desk.lookup)
        try:
            lines = difference(contents_of_snapshot(vault, snapshot), contents_on_disk(source))
        except WrongIdentity:
            if vault.keyring.signing_key is None:
                raise
            remark("Note: there is no identity that opens the archive, so only names can be told.")
            lines = tuple(changed_names(vault.keyring, snapshot, list_files(source)))
    if as_json:
        say_json({"snapshot": snapshot_record(snapshot), "lines": list(lines)})
        return
    for line in lines or (f"Nothing differs from {snapshot.label}.",):
        say(line)


@config.command()
def restore(
    wanted: Wanted,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="A folder that does not exist yet, or is empty.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Over the files themselves; what is replaced is kept beside.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATH", help="Only this file, folder or pattern; repeatable.")
    ] = None,
    proven: ProvenOption = False,
    as_of: AsOfOption = None,
    repository: RepositoryOption = None,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore configuration files into a folder, or in place with what was there kept as `<name>.before-<time>`.

    JSON: `snapshot` as in `list`; `target`; `written` and `unchanged`, lists of paths; `kept`, a name by path.
    """
    desk = open_desk(platform, env_file)
    if (to is None) != in_place:
        raise typer.BadParameter("Give either `--to FOLDER` or `--in-place`.")
    vault, snapshot = _chosen(desk, wanted, proven=proven, as_of=as_of, repository=repository)
    patterns = tuple(only or ())
    if to is not None:
        restored = restore_to_folder(vault, snapshot, to, only=patterns, repository=repository)
    else:
        root = configuration_source(desk.platform, snapshot.manifest.source, desk.lookup).root
        now = datetime.now(UTC)
        restored = restore_in_place(vault, snapshot, root, now=now, only=patterns, repository=repository)
    if as_json:
        lists = {"written": [shown(p) for p in restored.written], "unchanged": [shown(p) for p in restored.unchanged]}
        kept = {shown(path): shown(name) for path, name in restored.kept}
        say_json({"snapshot": snapshot_record(snapshot), "target": str(restored.target), **lists, "kept": kept})
        return
    for note in restored.notes:
        remark(f"Note: {note}")
    say(f"{snapshot.label} is restored to {restored.target}: {count_text(len(restored.written), 'file')} written.")
    if restored.unchanged:
        say(f"{count_text(len(restored.unchanged), 'file')} already as archived, and left alone.")
    for path, name in restored.kept:
        say(f"What was {shown(path)} is kept as {shown(name)}.")


def _chosen(
    desk: Desk,
    wanted: str,
    *,
    proven: bool = False,
    as_of: datetime | None = None,
    repository: str | None = None,
) -> tuple[Vault, Snapshot]:
    vault = desk.vault(reading=True)
    snapshot, _ = choose(vault, wanted, proven=proven, as_of=as_of, repository=repository)
    require_configuration(snapshot)
    return vault, snapshot
