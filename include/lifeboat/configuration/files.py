"""Which files belong to a set of configuration files, and what they hold now.

What is not there is remarked. What is there and cannot be archived is refused, all of it named at once: an archive that
silently lacks a file is worse than none.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lifeboat.configuration.below import chunks_of, opened_below, split
from lifeboat.errors import SourceError, SourceRefused, SourceUnavailable
from lifeboat.own_places import OwnPlace, within
from lifeboat.progress import size_text

LONGEST_ALL = 1024**3
"""Bytes of all files of a set together: each change archives all of them anew."""

MOST_FILES = 5000
"""How many files a set has at most."""

NAMED = 3
"""How many of the largest files an error names."""

MOST_LINKS = 40
"""How many symlinks lead from one to the next, as in the kernel."""

TRIES = 3
"""How often a file is read that changes while it is read."""

TRUSTED_AGE = 2.0
"""Seconds that a file must not have changed for its time stamps to tell whether it does afterwards."""

PART_SUFFIX = ".lifeboat-part"
"""What a file that is being restored is called until it is whole."""

KEPT = re.compile(r"\.before-\d{8}T\d{6}Z(-\d+)?$")
"""How the name ends under which a restore has kept what it replaced."""

What = Literal["file", "link", "folder"]


@dataclass(frozen=True)
class ConfigurationSource:
    """Files and patterns below a folder, archived under the name `name`; `own` are Lifeboat's places on this host."""

    name: str
    root: Path
    paths: tuple[str, ...]
    own: tuple[OwnPlace, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A file, symlink or folder, by its path below the root; bytes of it that are not UTF-8 are escaped (PEP 383).

    `size` and `sha256` are a file's; `link` is where a symlink leads to, from where it stands.
    """

    path: str
    what: What
    mode: int
    uid: int
    gid: int
    size: int = 0
    sha256: str = ""
    link: str = ""


@dataclass(frozen=True)
class FileList:
    """What a set of configuration files holds, by path, and what was looked for in vain."""

    entries: tuple[Entry, ...]
    remarks: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Entry, ...]:
        """Without symlinks and folders."""
        return tuple(entry for entry in self.entries if entry.what == "file")


Seen = MutableMapping[str, tuple[tuple[int, ...], str]]
"""By path: a file's time stamps and place on disk, and the digest it had then. What looks the same is not read."""


def list_files(source: ConfigurationSource, seen: Seen | None = None) -> FileList:
    """What the set holds now, every file read and digested, apart from those that look as they did in `seen`.

    Raises `SourceUnavailable` without the root or any file, or when a file never stands still; `SourceRefused` naming
    all that is there and cannot be archived.
    """
    found = _find(source)
    entries, obstacles = list(found.entries.values()), [*found.obstacles, *_own_in(source, found.entries)]
    files = [entry for entry in entries if entry.what == "file"]
    if len(files) > MOST_FILES:
        obstacles.append(f"{len(files)} files are more than the limit of {MOST_FILES}.")
    total = sum(entry.size for entry in files)
    if total > LONGEST_ALL:
        obstacles.append(_too_much(files, total))
    restless: list[str] = []
    for index, entry in enumerate(entries):
        if entry.what == "file" and len(files) <= MOST_FILES and total <= LONGEST_ALL:
            try:
                entries[index] = _digested(source.root, entry, seen)
            except _Restless:
                restless.append(entry.path)
            except _Obstacle as obstacle:
                obstacles.append(f"{shown(entry.path)} {obstacle}")
    if obstacles:
        raise _refusal(source, obstacles)
    if restless:
        raise SourceUnavailable(
            f"{source.name}: {', '.join(map(shown, restless))} changed while it was read, {TRIES} times.",
            hint="Try again when whatever writes it has come to rest; a log or a database is no configuration.",
        )
    if not files:
        raise SourceUnavailable(
            f"{source.name}: none of {', '.join(source.paths)} is below {source.root}.",
            hint="If a mount has gone, bring it back; otherwise correct `root` and `paths` in platform.yaml.",
        )
    return FileList(tuple(sorted(entries, key=lambda entry: os.fsencode(entry.path))), found.remarks)


def read_listed(root: Path, entry: Entry) -> Iterator[bytes]:
    """Yield the bytes of a file that was listed. Raises `SourceUnavailable` when they are others by now."""
    digest, size = hashlib.sha256(), 0
    try:
        with opened_below(root, entry.path) as descriptor:
            for chunk in chunks_of(descriptor):
                size += len(chunk)
                if size > entry.size:
                    break
                digest.update(chunk)
                yield chunk
    except OSError as error:
        raise SourceUnavailable(f"{shown(entry.path)} cannot be read any more: {error.strerror}.") from error
    if (size, digest.hexdigest()) != (entry.size, entry.sha256):
        raise SourceUnavailable(f"{shown(entry.path)} has changed while it was archived.", hint="Try again.")


def shown(path: str) -> str:
    """A path as it can be printed: what is not UTF-8, or no printable character, is escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# ---- finding --------------------------------------------------------------------------------------------------------


class _Obstacle(Exception):
    """Why something that is there cannot be archived; reads on after its path."""


class _Restless(Exception):
    pass


@dataclass
class _Found:
    entries: dict[str, Entry] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    obstacles: list[str] = field(default_factory=list)


def _find(source: ConfigurationSource) -> _Found:
    if not source.root.is_dir():
        raise SourceUnavailable(
            f"{source.name}: there is no folder {source.root}.",
            hint="If a mount has gone, bring it back; otherwise correct `root` in platform.yaml.",
        )
    search = _Search(source.root)
    for pattern in source.paths:
        before = search.met
        search.look_for(pattern)
        if search.met == before and not search.found.obstacles:
            search.remark(f"{pattern}: there is no such file below {source.root}.")
    return search.found


class _Search:
    """Looks for files below a root. Symlinks are followed as long as they stay below it, and archived as such."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.roots = tuple({str(root), os.path.realpath(root)})
        self.found = _Found()
        self.met = 0

    def remark(self, text: str) -> None:
        self.found.remarks = (*self.found.remarks, text)

    def look_for(self, pattern: str) -> None:
        parts = [part for part in pattern.split("/") if part not in ("", ".")]
        for path in self._matching(parts, ""):
            self._take(path, set())

    def _matching(self, parts: list[str], folder: str) -> Iterator[str]:
        """Yield every path that fits; hidden names only where the pattern says so, as in a shell."""
        if not parts:
            yield folder
            return
        head, rest = parts[0], parts[1:]
        if head == "**":
            yield from self._matching(rest or ["*"], folder)
            for name in self._names(folder):
                if not name.startswith(".") and self._is_own_folder(_join(folder, name)):
                    yield from self._matching(parts, _join(folder, name))
        elif _MAGIC.search(head):
            for name in self._names(folder):
                if fnmatch.fnmatchcase(name, head) and name.startswith(".") == head.startswith("."):
                    yield from self._matching(rest, _join(folder, name))
        elif self._is_there(_join(folder, head)):
            yield from self._matching(rest, _join(folder, head))

    def _take(self, path: str, visited: set[str]) -> None:
        """Add a path: all below it when it is a folder."""
        if _is_ours(path):
            return
        try:
            reached = self._reach(path)
        except _Obstacle as obstacle:
            self._obstruct(path, str(obstacle))
            return
        except OSError as error:
            self._obstruct(path, f"cannot be read: {error.strerror}.")
            return
        self.met += 1
        if reached is None:
            self.remark(f"{shown(path)} is a symlink that leads to nothing; only the symlink itself is archived.")
            return
        if reached.what == "folder" and reached.path not in visited:  # a symlink may lead back to where it stands
            for name in self._names(path):
                self._take(_join(path, name), visited | {reached.path})

    def _reach(self, path: str) -> Entry | None:
        """Add whatever lies on the way to a path, and return its end; None when a symlink leads to nothing."""
        done, left, links = "", path.split("/"), 0
        entry: Entry | None = None
        while left:
            part = left.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                if not done:
                    raise _Obstacle(
                        "is a symlink that leads out of the root. Archive where it leads to as its own set."
                    )
                done = split(done)[0]
                continue
            here = _join(done, part)
            try:
                status = os.lstat(self.root / here)
            except (FileNotFoundError, NotADirectoryError):
                return None
            entry = _entry(here, status)
            if entry is None:
                raise _Obstacle("is neither a file nor a folder but a device, a pipe or a socket.")
            if entry.what != "link":
                self.found.entries[here] = entry
                done = here
                continue
            links += 1
            if links > MOST_LINKS:
                raise _Obstacle("is a symlink that leads round in a circle.")
            target = self._below_root(str((self.root / here).readlink()), done)
            self.found.entries[here] = Entry(here, "link", 0o777, entry.uid, entry.gid, link=target)
            left = target.split("/") + left
        return entry if entry is not None else Entry("", "folder", 0, 0, 0)

    def _below_root(self, target: str, folder: str) -> str:
        """Where a symlink in a folder leads to, from there; an absolute one below the root is made relative."""
        if not target.startswith("/"):
            return target
        for root in self.roots:
            if target == root or target.startswith(root.rstrip("/") + "/"):
                return os.path.relpath(target[len(root) :].lstrip("/") or ".", folder or ".")
        raise _Obstacle("is a symlink that leads out of the root. Archive where it leads to as its own set.")

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(path.name for path in (self.root / folder).iterdir() if not _is_ours(path.name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._obstruct(folder or ".", f"cannot be listed: {error.strerror}.")
            return []

    def _is_own_folder(self, path: str) -> bool:
        status = self._look(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def _is_there(self, path: str) -> bool:
        return self._look(path) is not None

    def _look(self, path: str) -> os.stat_result | None:
        """What is there under a path, if anything; what nobody lets us look at is an obstacle, and not nothing."""
        try:
            return os.lstat(self.root / path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._obstruct(path, f"cannot be looked at: {error.strerror}.")
            return None

    def _obstruct(self, path: str, why: str) -> None:
        text = f"{shown(path)} {why}"
        if text not in self.found.obstacles:
            self.found.obstacles.append(text)


_MAGIC = re.compile(r"[*?\[]")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_ours(path: str) -> bool:
    """Whether a restore has put it there: what it has kept, or not finished."""
    return path.endswith(PART_SUFFIX) or KEPT.search(path) is not None


def _entry(path: str, status: os.stat_result) -> Entry | None:
    kinds: Mapping[int, What] = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "folder"}
    what = kinds.get(stat.S_IFMT(status.st_mode))
    if what is None:
        return None
    size = status.st_size if what == "file" else 0
    return Entry(path, what, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, size)


def _own_in(source: ConfigurationSource, found: Mapping[str, Entry]) -> Iterator[str]:
    """What is found in places of Lifeboat's own: private keys above all."""
    for own in source.own:
        below = within(source.root, own.path)
        if own.holds_keys and below is None and within(own.path, source.root) is not None:
            below = "."
        if below is None:
            continue
        inside = [path for path in found if below == "." or path.startswith(f"{below}/")]
        if inside:
            more = f" and {len(inside) - 1} more" if len(inside) > 1 else ""
            yield f"{shown(inside[0])}{more} is in {own}, which belongs into no archive."


# ---- reading --------------------------------------------------------------------------------------------------------


def _digested(root: Path, entry: Entry, seen: Seen | None) -> Entry:
    for attempt in range(TRIES):
        if attempt:
            time.sleep(0.2 * attempt)
        try:
            with opened_below(root, entry.path) as descriptor:
                status = os.fstat(descriptor)
                now = _entry(entry.path, status)
                if now is None or now.what != "file":
                    raise _Restless
                if now.size > LONGEST_ALL:
                    raise _Obstacle(f"has {size_text(now.size)}: the limit is {size_text(LONGEST_ALL)} in all.")
                known = seen.get(entry.path) if seen is not None else None
                if known is not None and known[0] == _looks(status):
                    return _with_digest(now, now.size, known[1])
                if (digest := _digest(descriptor, now.size)) and _looks(os.fstat(descriptor)) == _looks(status):
                    if seen is not None and time.time() - max(status.st_mtime, status.st_ctime) > TRUSTED_AGE:
                        seen[entry.path] = _looks(status), digest
                    return _with_digest(now, now.size, digest)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                continue  # replaced at this very moment, or gone: then it is not found the next time
            raise _Obstacle(f"cannot be read: {error.strerror}.") from error
    raise _Restless


def _too_much(files: Sequence[Entry], total: int) -> str:
    largest = sorted(files, key=lambda entry: -entry.size)[:NAMED]
    named = ", ".join(f"{shown(entry.path)} with {size_text(entry.size)}" for entry in largest)
    return (
        f"{size_text(total)} in all are more than the limit of {size_text(LONGEST_ALL)}. The largest: {named}. "
        "What is no configuration can be a tree of `sources.files`, which has no limit."
    )


def _digest(descriptor: int, size: int) -> str:
    """The digest of an open file; empty when it has not as many bytes as it had."""
    digest, count = hashlib.sha256(), 0
    for chunk in chunks_of(descriptor):
        count += len(chunk)
        if count > size:
            return ""
        digest.update(chunk)
    return digest.hexdigest() if count == size else ""


def _looks(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _with_digest(entry: Entry, size: int, digest: str) -> Entry:
    return Entry(entry.path, "file", entry.mode, entry.uid, entry.gid, size, digest)


def _refusal(source: ConfigurationSource, obstacles: list[str]) -> SourceError:
    lines = "".join(f"\n- {obstacle}" for obstacle in obstacles)
    return SourceRefused(
        f"{source.name} ({source.root}) cannot be archived whole, and is not archived in part:{lines}",
        hint="Let Lifeboat read them, or leave them out of `paths` in platform.yaml.",
    )
