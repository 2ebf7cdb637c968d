"""Backing a tree up: what has changed is packed, and an index of everything makes the snapshot.

Looking, reading, compressing, sealing and storing overlap, in bounded memory whatever the size of the tree.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from lifeboat.errors import IntegrityError, RepositoryError, SourceUnavailable
from lifeboat.files.attributes import Attributes, attributes_by_name, attributes_of
from lifeboat.files.entries import Extent, Piece, write_entry, write_file
from lifeboat.files.index import INDEX, INDEX_MEDIA_TYPE, index_of, write_index
from lifeboat.files.large import PIECE, Large, clipped
from lifeboat.files.packing import BLOCK, Packer, make_block
from lifeboat.files.reading import (
    ATTEMPTS,
    LARGE,
    Read,
    extents_of,
    open_file,
    read_extents,
    read_file,
    resized,
    same,
    too_thin,
)
from lifeboat.files.scan import Found, exclude, scan
from lifeboat.files.source import TreeSource, check_root, refuse_vanished
from lifeboat.files.state import HALF, SEVERAL, UNTRUSTED, Known, Row, State, open_state, signed
from lifeboat.files.turns import SLOW, little_garbage
from lifeboat.files.work import Work
from lifeboat.marks import marked_packs
from lifeboat.outcome import BackupOutcome, lacking
from lifeboat.own_places import identities
from lifeboat.packs import packs_in
from lifeboat.snapshot import Kind, Tier
from lifeboat.vault import Progress, Snapshot, SnapshotWriter, Vault

BATCH_FILES, BATCH_FOLDERS = 1000, 32
"""Small files that are read together at most, and folders that are open for them."""

ROWS = 1000
"""Entries without contents that are written down at a time."""

RECENT = 100_000
"""Contents of this run that are remembered, so that copies of a file are stored once."""


@dataclass
class Tally:
    """What was found and done."""

    files: int = 0
    folders: int = 0
    others: int = 0
    size: int = 0
    read_files: int = 0
    read_size: int = 0
    unreadable: int = 0
    changed: int = 0
    vanished: int = 0
    hidden: int = 0
    holes: int = 0
    examples: list[str] = field(default_factory=list)

    def counting_holes(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the lines of entries, having counted the bytes that take no room in a restore."""
        for line in lines:
            if '"extents":' in line:
                record = json.loads(line)
                self.holes += record["size"] - sum(length for _, length in record["extents"])
            yield line

    def facts(self, source: TreeSource, packer: Packer) -> dict[str, object]:
        """What a manifest says of it."""
        return {
            "path": source.path,
            "files": self.files,
            "folders": self.folders,
            "others": self.others,
            "size": self.size,
            "holes": self.holes,
            "read_files": self.read_files,
            "read_size": self.read_size,
            "stored_packs": packer.stored_packs,
            "stored_size": packer.stored_bytes,
            "unreadable": self.unreadable,
            "changed_while_read": self.changed,
            "partial": bool(self.unreadable or self.changed),
        }


def back_up_tree(
    vault: Vault,
    source: TreeSource,
    *,
    began: datetime,
    scheduled_for: datetime | None = None,
    allow_vanished: bool = False,
    progress: Progress | None = None,
    report: Callable[[str], None] | None = None,
) -> BackupOutcome:
    """Store what has changed of a tree in every repository, and a snapshot of all of it.

    A run that has already finished, by its `scheduled_for`, is found again and not repeated; one that was killed is
    continued. What cannot be read is listed in the index, counted in the facts, and told to `report`. Raises
    `SourceError` when the root cannot be read and, unless `allow_vanished`, when most of the tree has gone since the
    last snapshot; `RepositoryError`, `KeyringError`.
    """
    earlier = vault.list(source.name, Tier.DAILY).snapshots
    for made in earlier:
        if scheduled_for is not None and made.manifest.scheduled_for == scheduled_for and not made.misdated:
            return BackupOutcome(made, True, lacking(vault, made, {}))
    last = earlier[-1] if earlier else None
    check_root(source, last, allow_vanished)
    with open_state(source.state / "files", source.name) as state:
        hash_key = _prepare(state, vault, source, earlier)
        writer = vault.begin(source.name, Kind.FILES, began=began, scheduled_for=scheduled_for, progress=progress)
        run = _Run(source, state, writer, bytes.fromhex(hash_key), progress)
        with little_garbage():
            run.pack_changes()
        if not allow_vanished:
            refuse_vanished(source, last, files=run.tally.files, hidden=run.tally.hidden)
        run.forget_vanished()
        needed = state.needed()
        packs = [stored for stored in state.packs() if stored.number in needed]
        writer(
            INDEX,
            write_index(source.path, hash_key, packs, run.tally.counting_holes(state.lines())),
            media_type=INDEX_MEDIA_TYPE,
        )
        snapshot = writer.commit(run.tally.facts(source, run.packer), [stored.pack for stored in packs])
    if report is not None:
        for example in run.tally.examples:
            report(example)
    return BackupOutcome(snapshot, False, lacking(vault, snapshot, writer.failures))


# ---- what is remembered ---------------------------------------------------------------------------------------------


def _prepare(state: State, vault: Vault, source: TreeSource, earlier: tuple[Snapshot, ...]) -> str:
    """Bring the state in line with the vault; returns the key of the tree's hashes."""
    about = state.about()
    if (about.get("vault"), about.get("source")) != (vault.id, source.name):
        _begin_anew(state, vault, source, earlier)
        about = state.about()
    there: dict[str, int] = {}
    marked: set[str] = set()
    for member in vault.present:
        try:
            marked |= marked_packs(member.repository, source.name)
            there.update(packs_in(member.repository, source.name))
        except RepositoryError:
            continue  # noticed again when the snapshot is written there
    # A marked pack may be swept before the snapshot exists: what was in it is stored anew.
    state.forget_packs(
        s.number for s in state.packs() if s.pack.id in marked or there.get(s.pack.id) != s.pack.sealed_size
    )
    return about["hash_key"]


def _begin_anew(state: State, vault: Vault, source: TreeSource, earlier: tuple[Snapshot, ...]) -> None:
    """Take over key, packs and contents of the newest index that can be opened, else begin with a key of its own."""
    about = {"vault": vault.id, "source": source.name}
    for snapshot in reversed(earlier[-3:] if vault.keyring.identities else ()):
        try:
            index = index_of(vault, snapshot)
            state.begin({**about, "hash_key": index.hash_key.hex()})
            state.record([], packs=index.packs.values())
            waiting: list[Piece] = []
            for entry in index.entries:
                waiting += entry.pieces
                if len(waiting) >= ROWS:
                    state.record([], waiting)
                    waiting.clear()
            state.record([], waiting)
            return
        except (IntegrityError, RepositoryError):
            continue
    state.begin({**about, "hash_key": secrets.token_hex(32)})


# ---- one run --------------------------------------------------------------------------------------------------------


_Placed = tuple[Found, Read, str, int, int]
"""A file that was read, its hash, and where its contents begin and how long they are."""


class _Run:
    """One pass over a tree: everything is looked at, what has changed is read and packed, and all is written down."""

    def __init__(
        self, source: TreeSource, state: State, writer: SnapshotWriter, hash_key: bytes, progress: Progress | None
    ) -> None:
        self.tally = Tally()
        workers = min(8, max(2, os.cpu_count() or 1))
        self.packer = Packer(writer, state, at_once=2)
        self._source = source
        self._state = state
        self._hash_key = hash_key
        self._progress = progress
        self._work = Work(workers)
        self._is_quick = True
        self._closed = b""
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._vanished: list[bytes] = []
        self._batch: list[Found] = []
        self._batch_size = 0
        self._batch_folders: set[int] = set()
        self._linked: dict[tuple[int, int], bytes] = {}
        self._later: list[tuple[Found, bytes]] = []
        self._search = state.has_contents()
        self._recent: dict[str, Piece] = {}

    def pack_changes(self) -> None:
        """Look at everything, and store what has changed."""
        try:
            self._walk()
            self._flush_batch()
            self._work.wait()
            self._take_orphans()
            self.packer.finish()
        except BaseException:
            self._work.stop()
            self.packer.abandon()
            raise
        finally:
            self._work.close()
        for found, first in self._later:
            self._link(found, first)
        self._write_rows(self._rows)

    def _take_orphans(self) -> None:
        """Read what has another name by its own, where that has vanished meanwhile."""
        while self._later and (gone := set(self._vanished)) and (orphans := [o for o in self._later if o[1] in gone]):
            self._later = [other for other in self._later if other[1] not in gone]
            for found, _ in orphans:
                self._linked.pop((found.info.st_dev, found.info.st_ino), None)
            for found, _ in orphans:
                self._take(found)
            self._flush_batch()
            self._work.wait()

    def forget_vanished(self) -> None:
        """Forget what is not in the tree any more."""
        self._state.remove(self._vanished)

    def _walk(self) -> None:
        tally = self.tally
        known = self._state.known()
        here = next(known, None)
        try:
            for found in scan(self._source.path, exclude(self._source.exclude), identities(self._source.own)):
                key = found.key
                while here is not None and here.key < key:
                    self._gone(here)
                    here = next(known, None)
                info = found.info
                if stat.S_ISREG(info.st_mode):
                    tally.files += 1
                    tally.size += info.st_size
                elif stat.S_ISDIR(info.st_mode):
                    tally.folders += 1
                else:
                    tally.others += 1
                if here is not None and here.key == key:
                    before, here = here, next(known, None)
                    if (
                        info.st_mtime_ns == before.mtime
                        and info.st_ctime_ns == before.ctime
                        and info.st_size == before.size
                        and info.st_ino == before.inode
                        and info.st_dev == before.device
                        and not found.fault
                    ) or _is_oddly_known(found, before):
                        continue
                self._take(found)
        except OSError as error:
            raise SourceUnavailable(
                f"{self._source.name}: {self._source.path} cannot be read: {error.strerror}.",
                hint="Look at the folder and its mount, then try again.",
            ) from error
        while here is not None:
            self._gone(here)
            here = next(known, None)

    def _gone(self, known: Known) -> None:
        self._vanished.append(known.key)
        self.tally.vanished += 1
        if self._closed and known.key.startswith(self._closed):
            self.tally.hidden += 1

    def _take(self, found: Found) -> None:
        """Have something new or changed read and written down."""
        info = found.info
        if found.fault:
            self._closed = found.key + b"\0"  # of what is nothing but a name nobody knows whether it is a folder
            self._refused(found, found.fault)
        elif not stat.S_ISREG(info.st_mode):
            self._take_other(found)
        elif (
            info.st_nlink > 1 and (first := self._linked.setdefault((info.st_dev, info.st_ino), found.key)) != found.key
        ):
            self._later.append((found, first))
        elif info.st_size >= LARGE:
            self._work.submit_held(lambda: self._begin_large(found))
        else:
            if (
                self._batch_size + info.st_size > BLOCK
                or len(self._batch) >= BATCH_FILES
                or len(self._batch_folders) >= BATCH_FOLDERS
            ):
                self._flush_batch()  # so that a batch of small files is one full block
            self._batch.append(found)
            self._batch_size += info.st_size
            self._batch_folders.add(id(found.folder))

    def _take_other(self, found: Found) -> None:
        target = b""
        try:
            if stat.S_ISLNK(found.info.st_mode):
                target = os.fsencode(os.readlink(found.name, dir_fd=found.folder.fd))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):  # it has vanished, or become something else
                self._vanished.append(found.key)
            else:
                self._refused(found, error.strerror or str(error))
            return
        opened, device = found.opened, found.info.st_dev
        has = attributes_by_name(found) if opened is None else attributes_of(opened.fd, device)
        if has.lacking:
            self._note(found, has.lacking)
        line = write_entry(found.path, found.info, target=target, xattrs=has.values, lacking=has.lacking)
        self._add_row(_row(found, found.info, None, line, trusted=not has.lacking))

    def _refused(self, found: Found, reason: str) -> None:
        """Write down something of which no more is known than its name and why."""
        self._note(found, reason)
        self._add_row(_row(found, found.info, None, write_entry(found.path, found.info, fault=reason), trusted=False))

    def _add_row(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS:
            self._write_rows(self._rows)

    def _write_rows(self, rows: list[Row]) -> None:
        self._state.record(rows)
        rows.clear()

    # ---- small files ------------------------------------------------------------------------------------------------

    def _flush_batch(self) -> None:
        if self._batch:
            batch = self._batch
            self._batch, self._batch_size = [], 0
            self._batch_folders.clear()
            if self._is_quick:  # then reading in several threads takes longer: each call would wait for the interpreter
                read = self._read_batch(batch)
                self._work.submit_beside(lambda: self._pack_batch(*read))
            else:
                self._work.submit(lambda: self._pack_batch(*self._read_batch(batch)))

    def _pack_batch(self, plain: list[bytes], placed: list[_Placed], rows: list[Row], files: int, size: int) -> None:
        """Put what was new in some files into blocks."""
        if placed:
            whole = b"".join(plain)
            plain.clear()
            blocks = [make_block(whole[at : at + BLOCK]) for at in range(0, len(whole), BLOCK)]

            def packed(pack: int, first: int) -> tuple[list[Row], list[Piece]]:
                pieces = {}
                for found, read, digest, at, length in placed:
                    piece = Piece(pack, first + at // BLOCK, at % BLOCK, length, digest)
                    rows.append(_file_row(found, read, (piece,)))
                    pieces[digest] = piece
                with self._lock:
                    if len(self._recent) < RECENT:
                        self._recent.update(pieces)
                return rows, list(pieces.values())

            self.packer.add(blocks, packed)
        else:
            self._state.record(rows)
        self._count(files, size)

    def _read_batch(self, batch: list[Found]) -> tuple[list[bytes], list[_Placed], list[Row], int, int]:
        """What is new in some files, the files that have it and where, rows of all others; how many and how large."""
        began = time.monotonic()
        key, search = self._hash_key, self._search
        plain: list[bytes] = []
        position = 0
        placed: list[_Placed] = []
        rows: list[Row] = []
        here: dict[str, int] = {}
        size = 0
        for found in batch:
            read = read_file(found)
            if read is None:
                self._vanished.append(found.key)
                continue
            if read.fault or read.changed:
                self._note(found, read.fault or "it was being changed while it was read", changed=read.changed)
            elif read.lacking:
                self._note(found, read.lacking)
            data, read.data = read.data, b""
            if not data:
                rows.append(_file_row(found, read, ()))
                continue
            size += len(data)
            digest = hmac.digest(key, data, "sha256")[:20].hex()
            piece = self._recent.get(digest) or (self._state.find(digest) if search else None)
            if piece is not None:
                rows.append(_file_row(found, read, (piece,)))
                continue
            if digest not in here:
                here[digest] = position
                plain.append(data)
                position += len(data)
            placed.append((found, read, digest, here[digest], len(data)))
        self._is_quick = time.monotonic() - began < SLOW * len(batch)
        return plain, placed, rows, len(batch), size

    # ---- large files ------------------------------------------------------------------------------------------------

    def _begin_large(self, found: Found, attempt: int = 1) -> None:
        try:
            file = open_file(found)
        except FileNotFoundError:
            self._vanished.append(found.key)
            return self._work.let_go()
        except OSError as error:
            self._unreadable(found, error.strerror or str(error))
            return self._work.let_go()
        try:
            info = os.fstat(file)
            extents = extents_of(file, info)
            ranges = (Extent(0, info.st_size),) if extents is None else extents
            large = Large(found, file, info, extents, ranges, attempt)
            fault = too_thin(info, large.length) if stat.S_ISREG(info.st_mode) else "it was replaced while it was read"
        except OSError as error:
            fault = error.strerror or str(error)
        if fault:
            os.close(file)
            self._unreadable(found, fault)
            return self._work.let_go()
        starts = range(0, large.length, PIECE)
        large.pieces = [None] * len(starts)
        large.left = len(starts)
        if not starts:  # nothing but a hole
            return self._end_large(large)
        for index, start in enumerate(starts):
            self._work.again(partial(self._pack_piece, large, index, start))
        return None

    def _pack_piece(self, large: Large, index: int, start: int) -> None:
        length = min(PIECE, large.length - start)
        try:
            piece = self._known_piece(large, start, length)
            if piece is None:
                piece = self._store_piece(large, start, length)
            large.pieces[index] = piece
        except OSError as error:
            large.fault = large.fault or error.strerror or str(error)
        finally:
            with self._lock:
                large.left -= 1
                last = not large.left
        if last:
            self._end_large(large)

    def _known_piece(self, large: Large, start: int, length: int) -> Piece | None:
        """Where the contents of a part of a large file are already; it is read only if they may be somewhere."""
        if length > BLOCK and not self._state.has_length(length):
            return None
        digest = hmac.new(self._hash_key, digestmod="sha256")
        for data in read_extents(large.file, large.ranges, start, length):
            digest.update(data)
        return self._state.find(digest.digest()[:20].hex())

    def _store_piece(self, large: Large, start: int, length: int) -> Piece | None:
        digest = hmac.new(self._hash_key, digestmod="sha256")
        read = 0
        made: list[Piece] = []

        def chunks() -> Iterator[bytes]:
            nonlocal read
            for data in read_extents(large.file, large.ranges, start, length):
                digest.update(data)
                read += len(data)
                yield data

        def pieces(pack: int) -> list[Piece]:
            made.append(Piece(pack, 0, 0, read, digest.digest()[:20].hex()))
            return made

        self.packer.add_alone(chunks(), pieces)
        return made[0] if read else None

    def _end_large(self, large: Large) -> None:
        found = large.found
        try:
            after = os.fstat(large.file)
            has = attributes_of(large.file, after.st_dev)
            unchanged = same(large.info, after) and large.whole
        except OSError as error:
            large.fault = large.fault or error.strerror or str(error)
        finally:
            os.close(large.file)
        if large.fault:
            self._unreadable(found, large.fault)
        elif not unchanged and large.attempt < ATTEMPTS:
            self._begin_large(found, large.attempt + 1)
            return
        else:
            self._record_large(large, has, unchanged=unchanged)
        self._work.let_go()

    def _record_large(self, large: Large, has: Attributes, *, unchanged: bool) -> None:
        found = large.found
        pieces = large.read_pieces()
        info = large.info
        extents = large.extents
        if not unchanged:
            self._note(found, "it was being changed while it was read", changed=True)
            if not large.whole:
                length = sum(piece.length for piece in pieces)
                extents = None if extents is None else clipped(extents, length)
                info = resized(info, length if extents is None else sum(extents[-1]) if extents else 0)
        elif has.lacking:
            self._note(found, has.lacking)
        line = write_entry(
            found.path,
            info,
            pieces=pieces,
            extents=extents,
            xattrs=has.values,
            changed=not unchanged,
            lacking=has.lacking,
        )
        trusted = unchanged and not has.lacking
        self._state.record([_row(found, info, _pack_of(pieces), line, trusted=trusted)])
        self._count(1, large.length)

    # ---- both -------------------------------------------------------------------------------------------------------

    def _link(self, found: Found, first: bytes) -> None:
        """Write down another name of a file, whose contents are where those of its first name are."""
        line = self._state.line(first)
        if line is None:
            self._vanished.append(found.key)  # the next snapshot has it under this name
            return
        record = json.loads(line)
        record.pop("path", record.pop("path64", None))
        named = json.loads(write_entry(found.path, found.info))
        line = json.dumps(named | record, ensure_ascii=False, separators=(",", ":"))
        pieces = [Piece(*piece) for piece in record["pieces"]]
        trusted = not record.keys() & {"changed", "fault", "lacking"}
        self._add_row(_row(found, found.info, _pack_of(pieces), line, trusted=trusted))

    def _unreadable(self, found: Found, reason: str) -> None:
        self._note(found, reason)
        line = write_entry(found.path, found.info, fault=reason)
        self._state.record([_row(found, found.info, None, line, trusted=False)])

    def _note(self, found: Found, reason: str, *, changed: bool = False) -> None:
        with self._lock:
            if changed:
                self.tally.changed += 1
            else:
                self.tally.unreadable += 1
            if len(self.tally.examples) < 20:
                self.tally.examples.append(f"{os.fsdecode(found.path)!a}: {reason}")

    def _count(self, files: int, size: int) -> None:
        with self._lock:
            self.tally.read_files += files
            self.tally.read_size += size
            read = self.tally.read_size
        if self._progress:
            self._progress(self._source.name, read)


def _row(found: Found, info: os.stat_result, pack: int | None, line: str, *, trusted: bool = True) -> Row:
    changed = info.st_ctime_ns if trusted else UNTRUSTED
    row = Row(found.key, info.st_size, info.st_mtime_ns, changed, info.st_ino, info.st_dev, pack, line)
    return row if not _is_odd(info) else _fitting(row)


def _is_odd(info: os.stat_result) -> bool:
    """Whether a look has numbers that the state has no room for, such as a time after 2262."""
    return not (
        -HALF <= info.st_mtime_ns < HALF
        and -HALF <= info.st_ctime_ns < HALF
        and info.st_ino < HALF
        and info.st_dev < HALF
    )


def _fitting(row: Row) -> Row:
    return row._replace(
        mtime=signed(row.mtime), ctime=signed(row.ctime), inode=signed(row.inode), device=signed(row.device)
    )


def _is_oddly_known(found: Found, before: Known) -> bool:
    """Whether something with such numbers is as it was, which a plain comparison cannot tell."""
    return _is_odd(found.info) and not found.fault and _row(found, found.info, None, "")[:6] == before


def _file_row(found: Found, read: Read, pieces: tuple[Piece, ...]) -> Row:
    if pieces and read.info.st_nlink == 1 and not (read.xattrs or read.changed or read.fault or read.lacking):
        line = write_file(found.path, read.info, pieces[0])
    else:
        line = write_entry(
            found.path,
            read.info,
            pieces=pieces,
            xattrs=read.xattrs,
            changed=read.changed,
            fault=read.fault,
            lacking=read.lacking,
        )
    return _row(found, read.info, pieces[0].pack if pieces else None, line, trusted=read.trusted)


def _pack_of(pieces: Sequence[Piece]) -> int | None:
    packs = {piece.pack for piece in pieces}
    return None if not packs else packs.pop() if len(packs) == 1 else SEVERAL
