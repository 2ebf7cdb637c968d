"""The archive of a set of configuration files: a tar that is the same, bit for bit, whenever they are the same.

Names, modes and owners are kept, times are not: touching a file changes nothing. `docs/format.md` has it in full.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator

from lifeboat.configuration.files import Entry, What, shown
from lifeboat.errors import IntegrityError, UnknownFormat
from lifeboat.streams import CHUNK

MEDIA_TYPE = "application/vnd.lifeboat.configuration+tar"
ARTIFACT = "configuration"
FORMAT = 1


def write_archive(
    entries: Iterable[Entry], open_file: Callable[[Entry], Iterator[bytes]], pad: bytes
) -> Iterator[bytes]:
    """Yield the archive of the entries. `pad` is secret: without it, the archive's digest would tell its contents."""
    yield tarfile.TarInfo.create_pax_global_header({"comment": f"lifeboat configuration {FORMAT} {pad.hex()}"})
    for entry in entries:
        info = tarfile.TarInfo(entry.path)
        info.type = _TYPES[entry.what]
        info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, 0
        info.size, info.linkname = entry.size, entry.link
        if entry.what == "file":
            # Readers pass over comments, so that any tar opens it; ours compares.
            info.pax_headers = {"comment": f"sha256 {entry.sha256}"}
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if entry.what == "file":
            yield from open_file(entry)
            yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield _END


def read_archive(chunks: Iterable[bytes]) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """Yield each entry with its bytes, which must be taken before the next; what is left of them is passed over.

    Raises `IntegrityError` when it is no such archive, at the latest at its end; nothing is certain before.
    """
    stream = _Stream(chunks)
    seen: set[str] = set()
    try:
        with _open_tar(stream) as tar:
            _check_format(tar.pax_headers.get("comment", ""))
            for info in tar:
                entry = _entry_of(info)
                if entry.path in seen:
                    raise _damaged(f"it has {shown(entry.path)} twice")
                seen.add(entry.path)
                data = _data_of(tar, info, entry)
                yield entry, data
                for _ in data:
                    pass
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        raise _damaged(type(error).__name__) from error
    stream.drain()


def inspect(chunks: Iterator[bytes]) -> None:
    """Read an archive to its end, and every file in it. Raises `IntegrityError` when its inside does not parse."""
    for _, _ in read_archive(chunks):
        pass


_END = bytes(2 * tarfile.BLOCKSIZE)
_TYPES: dict[What, bytes] = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "folder": tarfile.DIRTYPE}
_WHAT = {kind: what for what, kind in _TYPES.items()}
_FIRST_COMMENT = re.compile(r"lifeboat configuration (\d+) [0-9a-f]{64}")


def _check_format(comment: str) -> None:
    found = _FIRST_COMMENT.fullmatch(comment)
    if found is None:
        raise _damaged("it does not begin as one")
    if int(found[1]) != FORMAT:
        raise UnknownFormat(f"The archive has format {found[1]}; this Lifeboat reads format {FORMAT}.")


def _entry_of(info: tarfile.TarInfo) -> Entry:
    """What a header says. Whoever wrote the archive may have been deceived: nothing in it leads out of the root."""
    what = _WHAT.get(info.type)
    parts = info.name.split("/")
    if what is None or any(part in ("", ".", "..") for part in parts) or "\0" in info.name:
        raise _damaged(f"{shown(info.name)} is of a type, or in a place, that cannot be")
    if what == "link":
        way = os.path.normpath("/".join([*parts[:-1], info.linkname]))
        if info.linkname.startswith("/") or not info.linkname or way == ".." or way.startswith("../"):
            raise _damaged(f"the symlink {shown(info.name)} leads out of the root")
        return Entry(info.name, what, info.mode, info.uid, info.gid, link=info.linkname)
    if what == "folder":
        return Entry(info.name, what, info.mode, info.uid, info.gid)
    digest = info.pax_headers.get("comment", "").removeprefix("sha256 ")
    return Entry(info.name, what, info.mode, info.uid, info.gid, info.size, digest)


def _data_of(tar: tarfile.TarFile, info: tarfile.TarInfo, entry: Entry) -> Iterator[bytes]:
    file = tar.extractfile(info) if entry.what == "file" else None
    if file is None:
        return
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    if (size, digest.hexdigest()) != (entry.size, entry.sha256):
        raise _damaged(f"{shown(entry.path)} is not what it was when it was archived")


def _damaged(why: str) -> IntegrityError:
    return IntegrityError(f"This is no archive of configuration files: {why}.", hint="Use another snapshot.")


def _open_tar(stream: _Stream) -> tarfile.TarFile:
    # Of a file it needs only `read`, whatever the stubs say.
    return tarfile.open(mode="r|", fileobj=stream, encoding="utf-8", errors="surrogateescape")  # type: ignore[call-overload,no-any-return]


class _Stream:
    """Chunks as the file that tarfile reads from."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._waiting = bytearray()
        self._last = b""

    def read(self, count: int) -> bytes:
        while len(self._waiting) < count and (chunk := next(self._chunks, None)) is not None:
            self._waiting += chunk
        data = bytes(self._waiting[:count])
        del self._waiting[:count]
        self._last = (self._last + data)[-len(_END) :]
        return data

    def drain(self) -> None:
        """Read to where the stream ends: until then nobody knows whether all was as it was written."""
        while self.read(CHUNK):
            pass
        if self._last != _END:
            raise _damaged("its end is missing")
