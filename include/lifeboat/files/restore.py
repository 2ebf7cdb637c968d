"""Restoring files: all of a tree or some of it, into a new folder or over what is there, fetching only what differs."""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lifeboat.aside import MadeAside
from lifeboat.copies import Copies, passed_over, tell_of_damage
from lifeboat.errors import (
    EvidenceMismatch,
    IntegrityError,
    LifeboatError,
    ObjectNotFound,
    RepositoryError,
    RestoreFailed,
    SettingsError,
    WrongIdentity,
)
from lifeboat.files.building import Building, Together, Want, holes_are_empty, spread
from lifeboat.files.entries import Entry, EntryType, Extent, Piece
from lifeboat.files.index import Index, index_of
from lifeboat.files.placing import Place, owner_here
from lifeboat.files.reading import read_extents
from lifeboat.files.scan import check_pattern, exclude
from lifeboat.files.turns import Turns, little_garbage
from lifeboat.files.unfinished import marked
from lifeboat.files.unpacking import Source, stretches
from lifeboat.progress import PhaseClock, Report
from lifeboat.snapshot import Kind
from lifeboat.stored import drain
from lifeboat.vault import Progress, Snapshot, Vault

WINDOW = 10_000
"""Files that are planned together: where their contents are close to one another, they are fetched together."""

AT_ONCE = 4
"""Stretches of packs that are fetched at the same time."""

TOGETHER = 1024 * 1024
"""Bytes of small files that are made together."""


@dataclass
class TreeRestore:
    """What restoring has done.

    `written` things were made, `right` ones were as they should be already; `fetched` are bytes of contents. `faults`
    say by path what could not be restored; `lost` are those of them whose contents no repository gave, and `broken`
    those of these that are damaged or gone. `notes` say what of others could not be put back, such as the owners, modes
    and times that `differing` counts, or was not in the snapshot, `damaged` by repository which index is not whole.
    """

    target: Path
    files: int = 0
    folders: int = 0
    others: int = 0
    size: int = 0
    lost: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    differing: int = 0
    written: int = 0
    right: int = 0
    fetched: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def hindered(self) -> bool:
        """Whether something lies with the target and not with single entries or with the repositories."""
        return any(self.faults[name] not in _OF_AN_ENTRY for name in self.faults.keys() - set(self.lost))

    def raise_faults(self) -> None:
        """Raise `RestoreFailed` naming some of what could not be restored, if there is any.

        It is an `EvidenceMismatch` when contents are not what was written.
        """
        if self.faults:
            some = "".join(f"\n  {name}: {reason}" for name, reason in list(self.faults.items())[:10])
            kind = EvidenceMismatch if self.broken else RestoreFailed
            raise kind(
                f"{len(self.faults)} of {self.files + self.folders + self.others} things could not be restored; "
                f"{self.target} has all others.{some}",
                hint="Restore these from another repository or snapshot: `lifeboat files restore` takes names.",
            )


TOO_SPARSE = "with its holes it is longer than files can be there"

_OF_AN_ENTRY = {TOO_SPARSE} | {
    os.strerror(number)
    for number in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EOVERFLOW, errno.ENOTSUP, errno.EISDIR)
}
"""What is said of an entry that a place cannot have, however often it is tried."""


def restore_tree(
    vault: Vault,
    snapshot: Snapshot,
    target: Path,
    *,
    patterns: Sequence[str] = (),
    only: Callable[[Entry], bool] | None = None,
    into_existing: bool = False,
    repository: str | None = None,
    index_from: str | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> TreeRestore:
    """Restore a tree, or what fits any of the `patterns`, with all properties that this process may set.

    `only` chooses among them. Into a new folder, which appears once all is in it; or, with `into_existing`, over what
    is in a folder: what has the right contents already is not fetched, each file changes at once, and nothing goes.
    Contents come from `repository` alone or from any; the index from there, from `index_from`, or from the first copy
    that has it right: one that has not is told of and attested, as when a database is restored. What cannot be restored
    is in the result's `faults`, and everything else is restored. Raises `RestoreFailed` when nothing fits,
    `SettingsError` for a target that must not be used, `IntegrityError`, `RepositoryError` when no index can be read.
    """
    check_files(snapshot)
    for pattern in patterns:
        check_pattern(pattern)

    def restore(index_from: str) -> TreeRestore:
        return _restore_by(
            index_from, vault, snapshot, target, patterns, only, into_existing, repository, progress, report
        )

    if named := repository or index_from:
        return restore(named)
    copies = Copies(vault, snapshot)
    done = copies.first_whole(restore, lambda name, error: tell_of_damage(vault, snapshot, name, error, report))
    if done is None:
        raise copies.failure()
    notes = [*done.notes, *passed_over(copies.unreadable)]
    return replace(done, notes=notes, damaged=dict(copies.damaged), seconds=copies.seconds | done.seconds)


def _restore_by(
    index_from: str,
    vault: Vault,
    snapshot: Snapshot,
    target: Path,
    patterns: Sequence[str],
    only: Callable[[Entry], bool] | None,
    into_existing: bool,
    repository: str | None,
    progress: Progress | None,
    report: Report | None,
) -> TreeRestore:
    """Restore what the index in one repository says."""
    clock = PhaseClock(report)
    with ExitStack() as stack:
        with clock.phase("index"):
            index = index_of(vault, snapshot, repository=index_from)
        source = Source(vault, snapshot, index, repository=repository)
        result = TreeRestore(target)
        run_name = secrets.token_hex(4)
        if into_existing:
            folder = target
            result.notes += stack.enter_context(marked(target, run_name))
        else:
            aside = stack.enter_context(_made_aside(target))
            folder = aside.folder
            result.notes += aside.notes
        with clock.phase("files"):
            place = Place(str(folder), is_new=not into_existing, run=run_name)
            run = _Run(index, source, place, patterns, only, result, progress)
            with little_garbage():
                run.restore()
        if patterns and not result.files + result.folders + result.others:
            raise RestoreFailed(
                f"Nothing in {snapshot.label} fits {', '.join(patterns)}.", hint="`lifeboat files find` searches."
            )
    return replace(result, seconds=clock.seconds)


def check_files(snapshot: Snapshot) -> None:
    """Raise `SettingsError` unless a snapshot is of a tree of files."""
    if snapshot.manifest.kind is not Kind.FILES:
        raise SettingsError(
            f"{snapshot.label} is no snapshot of files, but of a {snapshot.manifest.kind} source.",
            hint="`lifeboat list` shows what there is.",
        )


@contextmanager
def _made_aside(target: Path) -> Iterator[MadeAside]:
    """A new folder beside the target. Raises `SettingsError` for a target that is there, or cannot be made."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise SettingsError(
            f"{target} exists already, and is not an empty folder.",
            hint="Name a new folder, or say that files in it may be replaced: `--into-existing`.",
        )
    aside = MadeAside(target)
    try:
        aside.__enter__()
    except OSError as error:
        raise SettingsError(
            f"{target} cannot be made: {error.strerror}.", hint="Name a folder that this user can make."
        ) from error
    with ExitStack() as stack:
        stack.push(aside)
        yield aside


class _Run:
    def __init__(
        self,
        index: Index,
        source: Source,
        place: Place,
        patterns: Sequence[str],
        only: Callable[[Entry], bool] | None,
        result: TreeRestore,
        progress: Progress | None,
    ) -> None:
        self._index = index
        self._source = source
        self._place = place
        self._fits = exclude(patterns)
        self._only = only
        self._result = result
        self._progress = progress
        self._lock = threading.Lock()
        self._folders: list[Entry] = []
        self._links: dict[str, bytes] = {}
        self._other_names: list[tuple[Entry, bytes]] = []
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="restore")
        self._running: set[Future[None]] = set()
        self._making = Turns()

    def restore(self) -> None:
        """Go through the index, window by window; links and properties of folders come last."""
        try:
            window: list[Entry] = []
            for entry in self._wanted():
                if entry.type is EntryType.FILE:
                    window.append(entry)
                    if len(window) >= WINDOW:
                        self._restore_files(window)
                        window = []
                elif entry.type is not EntryType.FOLDER:
                    self._restore_other(entry)
            self._restore_files(window)
            self._join(0)
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for entry, first in self._other_names:
            self._try(entry, partial(self._make_link, entry, first))
        for entry in reversed(self._folders):
            self._try(entry, partial(self._place.set_properties, entry))
        self._result.notes += [f"{reason} ({count} times)" for reason, count in self._place.notes.items()]
        self._result.differing = self._place.differing

    def _wanted(self) -> Iterator[Entry]:
        """Yield what is to be restored, folders on the way to it made; a wanted folder means everything in it."""
        chain: list[tuple[Entry, bool]] = []  # the folders that the present entry is in, and whether each is made
        inside: bytes | None = None
        result = self._result
        for entry in self._index.entries:
            while chain and not _holds(chain[-1][0].path, entry.path):
                chain.pop()
            is_folder = entry.type is EntryType.FOLDER
            if inside is not None and not _holds(inside, entry.path):
                inside = None
            wanted = self._fits is None or inside is not None or self._fits(os.fsdecode(entry.path), is_folder)
            if wanted and is_folder and inside is None:
                inside = entry.path
            if is_folder:
                chain.append((entry, False))
            if not wanted or (self._only is not None and not self._only(entry)):
                continue
            if not self._make_chain(entry, chain):
                continue
            if is_folder:
                result.folders += 1
            elif entry.type is EntryType.FILE:
                result.files += 1
                result.size += entry.size
            else:
                result.others += 1
            if entry.fault and is_folder:
                self._note(entry, f"what is in it is not in the snapshot: {entry.fault}")
            if entry.lacking:
                self._note(entry, f"not in the snapshot: {entry.lacking}")
            yield entry

    def _make_chain(self, entry: Entry, chain: list[tuple[Entry, bool]]) -> bool:
        for level, (folder, made) in enumerate(chain):
            if not made:
                try:
                    is_new = self._place.make_folder(folder.path)
                except OSError as error:
                    self._fault(entry, f"no folder can be made of {folder.name!r}: {error.strerror}")
                    self._result.files += 1
                    return False
                chain[level] = folder, True
                # A folder that is merely on the way, and was there before, is somebody else's.
                if is_new or self._fits is None or folder.path == entry.path:
                    self._folders.append(folder)
        return True

    # ---- files ------------------------------------------------------------------------------------------------------

    def _restore_files(self, entries: list[Entry]) -> None:
        wants: dict[Piece, list[Want]] = {}
        by_pack: dict[int, list[Piece]] = {}
        # Whatever is there already is read, several at a time.
        decided = map(self._needed, entries) if self._place.is_new else self._pool.map(self._needed, entries)
        for entry, needed in zip(entries, decided, strict=True):
            if not needed:
                continue
            at_once = len(entry.pieces) == 1 and entry.extents is None
            building = None if at_once else self._begin(entry)
            if building is None and not at_once:
                continue  # without contents, or not to be made
            position = 0
            for piece in entry.pieces:
                if piece not in wants:
                    by_pack.setdefault(piece.pack, []).append(piece)
                wants.setdefault(piece, []).append(Want(entry, position, building))
                position += piece.length
        for number, pieces in sorted(by_pack.items()):
            try:
                stored = self._source.pack(number)
            except LifeboatError as error:
                self._lost(pieces, wants, error)
                continue
            for group in stretches(stored, pieces):
                self._submit(partial(self._fetch, number, group, wants))

    def _needed(self, entry: Entry) -> bool:
        """Whether a file's contents are to be fetched; those of an empty, faulty or finished one are not."""
        if entry.fault:
            self._note(entry, f"its contents are not in the snapshot: {entry.fault}")
            return False
        if entry.changed:
            self._note(entry, "it was being changed while it was backed up")
        if entry.link is not None:
            with self._lock:
                first = self._links.setdefault(entry.link, entry.path)
                if first != entry.path:
                    self._other_names.append((entry, first))
                    return False
        if not self._place.is_new and self._is_right(entry):
            with self._lock:
                self._result.right += 1
            return False
        if not entry.pieces and not entry.size:
            self._try(entry, partial(self._place.make_file, entry, b""))
            self._wrote()
            return False
        return True

    def _is_right(self, entry: Entry) -> bool:
        """Whether a file has its contents already; its properties are put right then, if they are not."""
        try:
            there = self._place.look(entry.path)
            if there is None or not stat.S_ISREG(there.st_mode) or there.st_size != entry.size:
                return False
            if (there.st_nlink > 1) != (entry.link is not None):
                return False  # its other names are not to change with it
            with self._place.opened(entry.path) as file:
                if not self._has_contents(entry, file):
                    return False
        except OSError:
            return False
        if (stat.S_IMODE(there.st_mode), there.st_mtime_ns) != (entry.mode, entry.mtime) or (
            os.geteuid() == 0 and (there.st_uid, there.st_gid) != owner_here(entry)
        ):
            self._try(entry, partial(self._place.set_properties, entry))
        return True

    def _has_contents(self, entry: Entry, file: int) -> bool:
        ranges = entry.extents if entry.extents is not None else (Extent(0, entry.size),)
        if sum(piece.length for piece in entry.pieces) != sum(extent.length for extent in ranges):
            return False
        position = 0
        for piece in entry.pieces:
            digest = hmac.new(self._index.hash_key, digestmod="sha256")
            for data in read_extents(file, ranges, position, piece.length):
                digest.update(data)
            if digest.digest()[:20].hex() != piece.hash:
                return False
            position += piece.length
        return entry.extents is None or holes_are_empty(file, entry)

    def _begin(self, entry: Entry) -> Building | None:
        stack = ExitStack()
        try:
            file = stack.enter_context(self._place.new_file(entry))
            os.truncate(file, entry.size)
        except OSError as error:
            with suppress(OSError):
                stack.__exit__(type(error), error, error.__traceback__)
            too_sparse = error.errno == errno.EFBIG and entry.extents is not None
            self._fault(entry, TOO_SPARSE if too_sparse else error.strerror or str(error))
            return None
        building = Building(entry, stack, file, len(entry.pieces))
        if not entry.pieces:
            self._finish(building)
            return None
        return building

    def _fetch(self, number: int, group: list[Piece], wants: dict[Piece, list[Want]]) -> None:
        done: set[Piece] = set()
        small = Together()

        def place(piece: Piece, chunks: Iterable[bytes]) -> None:
            if piece in done:
                drain(chunks)
                return
            if all(want.building is None for want in wants[piece]):
                small.add(b"".join(chunks), wants[piece])
                if small.size >= TOGETHER:
                    self._make(small.taken())
            else:
                self._put(chunks, wants[piece])
            done.add(piece)

        try:
            self._source.take(number, group, place)
        except (IntegrityError, RepositoryError) as error:
            self._make(small.taken())
            self._lost_or_alone(number, [piece for piece in group if piece not in done], wants, error)
        else:
            self._make(small.taken())

    def _lost_or_alone(
        self, number: int, pieces: list[Piece], wants: dict[Piece, list[Want]], error: LifeboatError
    ) -> None:
        """A group is not given by any repository: its pieces are tried one by one, so that only some are lost."""
        if len(pieces) == 1:
            self._lost(pieces, wants, error)
            return
        for piece in pieces:
            self._fetch(number, [piece], wants)

    def _make(self, files: Sequence[tuple[bytes, list[Want]]]) -> None:
        """Make small files of their contents."""
        with self._making.take(len(files)):
            for data, wants in files:
                for want in wants:
                    self._try(want.entry, partial(self._place.make_file, want.entry, data))
                    self._wrote(want.entry.size)

    def _put(self, chunks: Iterable[bytes], wants: list[Want]) -> None:
        if len(wants) == 1 and wants[0].building is not None:
            self._write_at(wants[0], chunks)
            return
        data = b"".join(chunks)
        for want in wants:
            if want.building is not None:
                self._write_at(want, [data])
            else:
                self._try(want.entry, partial(self._place.make_file, want.entry, data))
                self._wrote(want.entry.size)

    def _write_at(self, want: Want, chunks: Iterable[bytes]) -> None:
        building, position = want.building, want.position
        assert building is not None
        entry = want.entry
        ranges = entry.extents if entry.extents is not None else (Extent(0, entry.size),)
        for chunk in chunks:
            try:
                for offset, part in spread(ranges, position, chunk):
                    while part:
                        written = os.pwrite(building.file, part, offset)
                        part, offset = part[written:], offset + written
            except OSError as error:
                building.fault = error.strerror or str(error)
            position += len(chunk)
        self._piece_done(building)

    def _piece_done(self, building: Building) -> None:
        with self._lock:
            building.left -= 1
            last = not building.left
        if last:
            self._finish(building)

    def _finish(self, building: Building) -> None:
        entry = building.entry
        try:
            if building.fault:
                building.stack.__exit__(OSError, OSError(building.fault), None)
                self._fault(entry, building.fault)
            else:
                building.stack.close()
                self._wrote(entry.size)
        except OSError as error:
            self._fault(entry, building.fault or error.strerror or str(error))

    def _lost(self, pieces: Iterable[Piece], wants: dict[Piece, list[Want]], error: LifeboatError) -> None:
        for piece in pieces:
            for want in wants[piece]:
                if want.building is not None:
                    want.building.fault = error.message
                    self._piece_done(want.building)
                else:
                    self._fault(want.entry, error.message)
                with self._lock:
                    self._result.lost.append(want.entry.name)
                    if isinstance(error, IntegrityError | ObjectNotFound) and not isinstance(error, WrongIdentity):
                        self._result.broken.append(want.entry.name)

    # ---- all others -------------------------------------------------------------------------------------------------

    def _restore_other(self, entry: Entry) -> None:
        if entry.fault:
            self._note(entry, f"it is not in the snapshot: {entry.fault}")
            return
        if entry.link is not None and entry.type is not EntryType.SOCKET:
            first = self._links.setdefault(entry.link, entry.path)
            if first != entry.path:
                self._other_names.append((entry, first))
                return
        self._try(entry, partial(self._make_other, entry))

    def _make_other(self, entry: Entry) -> None:
        there = None if self._place.is_new else self._place.look(entry.path)
        is_link = there is not None and stat.S_ISLNK(there.st_mode) and entry.type is EntryType.SYMLINK
        if is_link and self._place.target_of(entry.path) == entry.target:
            self._result.right += 1
            return
        self._place.make_other(entry)
        self._result.written += 1

    def _make_link(self, entry: Entry, first: bytes) -> None:
        one, other = self._place.look(first), self._place.look(entry.path)
        if one is None and entry.type is not EntryType.FILE:
            self._place.make_other(entry)
            return
        if one is None:
            raise FileNotFoundError(0, f"its other name {os.fsdecode(first)!a} was not restored")
        if other is not None and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
            self._result.right += 1
            return
        self._place.make_link(entry, first)
        self._result.written += 1

    def _try(self, entry: Entry, act: Callable[[], None]) -> None:
        try:
            act()
        except (OSError, ValueError, OverflowError) as error:
            self._fault(entry, getattr(error, "strerror", None) or str(error))

    def _fault(self, entry: Entry, reason: str) -> None:
        with self._lock:
            self._result.faults[entry.name] = reason

    def _note(self, entry: Entry, reason: str) -> None:
        with self._lock:
            self._result.notes.append(f"{entry.name}: {reason}")

    def _wrote(self, size: int = 0) -> None:
        with self._lock:
            self._result.written += 1
            self._result.fetched += size
            fetched = self._result.fetched
        if self._progress:
            self._progress("files", fetched)

    # ---- threads ----------------------------------------------------------------------------------------------------

    def _submit(self, act: Callable[[], None]) -> None:
        self._join(2 * AT_ONCE)
        self._running.add(self._pool.submit(act))

    def _join(self, most: int) -> None:
        """Wait until at most so many are running. Raises what any of them has raised."""
        while len(self._running) > most:
            finished, self._running = wait(self._running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()


def _holds(folder: bytes, path: bytes) -> bool:
    return not folder or path.startswith(folder + b"/")
