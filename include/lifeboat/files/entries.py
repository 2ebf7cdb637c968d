"""What an index says of one thing in a tree: a line of JSON, and the value it stands for.

Paths are bytes, relative to the tree's root, whose own path is empty. Names need not be UTF-8. Entries stand in the
order of their keys: a folder before what is in it, names in the order of their bytes.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

from lifeboat.errors import SealBroken


class EntryType(StrEnum):
    """What a thing in a tree is."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"


class Piece(NamedTuple):
    """A part of a file's contents: where it begins in a block of a pack, how long it is, and its keyed hash.

    One that is longer than the rest of its block goes on in the blocks that follow.
    """

    pack: int
    block: int
    offset: int
    length: int
    hash: str


class Extent(NamedTuple):
    """Bytes of a sparse file that are not a hole."""

    offset: int
    length: int


@dataclass(frozen=True)
class Entry:
    """One thing in a tree.

    `link` is the same for all names of one file. `extents` are those of a sparse file, whose pieces follow one another
    in them. `fault` says why its contents are not there, or not as they should be: `changed` is true when they were
    being written while they were read. `lacking` says what else of it is not there.
    """

    path: bytes
    type: EntryType
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    user: str | None = None
    group: str | None = None
    pieces: tuple[Piece, ...] = ()
    target: bytes = b""
    link: str | None = None
    extents: tuple[Extent, ...] | None = None
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    changed: bool = False
    fault: str = ""
    lacking: str = ""

    @property
    def name(self) -> str:
        """The path for people: bytes that are no UTF-8, and what a terminal would act on, are escaped."""
        return for_people(self.path) or "."

    @property
    def contents(self) -> tuple[Any, ...]:
        """What differs when the contents do, whichever packs they are in."""
        hashes = tuple((piece.length, piece.hash) for piece in self.pieces)
        return self.type, self.size, hashes, self.extents, self.target, self.device

    @property
    def properties(self) -> tuple[Any, ...]:
        """What differs when anything else of it does that a restore puts back."""
        return self.mode, self.uid, self.gid, self.mtime, tuple(sorted(self.xattrs.items()))


def for_people(path: bytes) -> str:
    """Bytes as they may be shown: those that are no UTF-8, and what a terminal would act on, are escaped."""
    text = path.decode("utf-8", "surrogateescape")
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def key_of(path: bytes) -> bytes:
    """What entries are ordered by."""
    return path.replace(b"/", b"\0")


def type_of(mode: int) -> EntryType:
    """The type that a `st_mode` stands for."""
    return _TYPES[stat.S_IFMT(mode)]


_TYPES = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.FOLDER,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFIFO: EntryType.FIFO,
    stat.S_IFSOCK: EntryType.SOCKET,
    stat.S_IFCHR: EntryType.CHARACTER_DEVICE,
    stat.S_IFBLK: EntryType.BLOCK_DEVICE,
}


# ---- writing --------------------------------------------------------------------------------------------------------

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def write_entry(
    path: bytes,
    info: os.stat_result,
    *,
    pieces: Sequence[Piece] = (),
    target: bytes = b"",
    extents: Sequence[Extent] | None = None,
    xattrs: Mapping[bytes, bytes] | None = None,
    changed: bool = False,
    fault: str = "",
    lacking: str = "",
) -> str:
    """The line of one entry, without its end."""
    mode = info.st_mode
    kind = type_of(mode)
    record: dict[str, Any] = {
        **_text("path", path),
        "type": kind.value,
        "mode": stat.S_IMODE(mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
        **_names(info.st_uid, info.st_gid),
        "mtime": info.st_mtime_ns,
    }
    if kind is EntryType.FILE:
        record["size"] = info.st_size
        record["pieces"] = pieces
    elif kind is EntryType.SYMLINK:
        record.update(_text("target", target))
    elif kind in (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE):
        record["device"] = [os.major(info.st_rdev), os.minor(info.st_rdev)]
    if info.st_nlink > 1 and kind is not EntryType.FOLDER:
        record["link"] = f"{info.st_dev:x}-{info.st_ino:x}"
    if extents is not None:
        record["extents"] = extents
    for name, value in (xattrs or {}).items():
        for field_name, text in _text("xattrs", name).items():
            record.setdefault(field_name, {})[text] = b64encode(value).decode("ascii")
    if changed:
        record["changed"] = True
    if fault:
        record["fault"] = fault
    if lacking:
        record["lacking"] = lacking
    return _encode(record)


def write_file(path: bytes, info: os.stat_result, piece: Piece) -> str:
    """The same line for a file of one name and one piece, of which there are many, in a third of the time."""
    try:
        text = _quote(path.decode("utf-8"))
    except UnicodeDecodeError:
        return write_entry(path, info, pieces=(piece,))
    pack, block, offset, length, digest = piece
    return (
        f'{{"path":{text},"type":"file","mode":{info.st_mode & 0o7777},{_owner(info.st_uid, info.st_gid)},'
        f'"mtime":{info.st_mtime_ns},"size":{info.st_size},"pieces":[[{pack},{block},{offset},{length},"{digest}"]]}}'
    )


_quote = json.encoder.encode_basestring


@cache
def _owner(uid: int, gid: int) -> str:
    return _encode({"uid": uid, "gid": gid, **_names(uid, gid)})[1:-1]


def _text(name: str, value: bytes) -> dict[str, str]:
    """Bytes as a field: as text where they are UTF-8, else in Base64 under another name."""
    try:
        return {name: value.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}64": b64encode(value).decode("ascii")}


@cache
def _names(uid: int, gid: int) -> dict[str, str]:
    """The names of a user and a group, where they have any here."""
    names = {}
    with suppress(KeyError, OSError):
        names["user"] = pwd.getpwuid(uid).pw_name
    with suppress(KeyError, OSError):
        names["group"] = grp.getgrgid(gid).gr_name
    # A name that a directory service spells in another encoding would be no name for a reader.
    return {what: name for what, name in names.items() if name.isprintable()}


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


# ---- reading --------------------------------------------------------------------------------------------------------


def read_entry(record: Mapping[str, Any]) -> Entry:
    """The entry in a parsed line. Raises `SealBroken` when it is none, or leads out of the tree."""
    try:
        path = _bytes(record, "path")
        check_path(path)
        extents = record.get("extents")
        return Entry(
            path=path,
            type=EntryType(record["type"]),
            mode=stat.S_IMODE(record["mode"]),
            uid=record["uid"],
            gid=record["gid"],
            mtime=record["mtime"],
            size=record.get("size", 0),
            user=record.get("user"),
            group=record.get("group"),
            pieces=tuple(Piece(*piece) for piece in record.get("pieces", ())),
            target=_bytes(record, "target") if record["type"] == "symlink" else b"",
            link=record.get("link"),
            extents=None if extents is None else tuple(Extent(*extent) for extent in extents),
            device=tuple(record.get("device", (0, 0))),
            xattrs=_xattrs(record),
            changed=record.get("changed", False),
            fault=record.get("fault", ""),
            lacking=record.get("lacking", ""),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SealBroken(f"The index has a line that is no entry: {error!r}.", hint="Report this as a bug.") from error


def _xattrs(record: Mapping[str, Any]) -> dict[bytes, bytes]:
    named = {name.encode(): b64decode(value) for name, value in record.get("xattrs", {}).items()}
    return named | {b64decode(name): b64decode(value) for name, value in record.get("xattrs64", {}).items()}


def check_path(path: bytes) -> None:
    """Raise `ValueError` unless a path stays in its tree."""
    if path and any(name in (b"", b".", b"..") or b"\0" in name for name in path.split(b"/")):
        raise ValueError(f"the path {path!r} leads out of the tree")


def _bytes(record: Mapping[str, Any], name: str) -> bytes:
    text = record.get(name)
    return b64decode(record[f"{name}64"], validate=True) if text is None else text.encode("utf-8")
