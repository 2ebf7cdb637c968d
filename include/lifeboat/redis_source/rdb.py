"""The inside of an RDB, read as it streams by: keys by database and type, its checksum, its proper end.

Values are walked over, never kept. Formats up to Redis 8.2 (RDB 12) and Valkey 9.1 (RDB 80) are known, by
redis/src/rdb.c and valkey/src/rdb.c. Of what a newer server writes, only checksum and end are checked; it says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from lifeboat.errors import IntegrityError
from lifeboat.redis_source.crc64 import Crc64

SOON = 24 * 3600
"""Seconds ahead for which a key's moment of expiry is kept, so that a later count knows what must have gone."""


@dataclass(frozen=True)
class DatabaseCount:
    """Keys of one database by type (`string`, `list`, `set`, `zset`, `hash`, `stream`, or a module's name).

    `expiring` of them have a time to live. `announced` is how many the server said there would be, if it did.
    """

    types: Mapping[str, int]
    expiring: int = 0
    announced: int | None = None

    @property
    def keys(self) -> int:
        """All keys."""
        return sum(self.types.values())


@dataclass(frozen=True)
class RdbContents:
    """What an RDB holds. `uncounted` says why its keys could not be counted; then there are no databases here.

    `soon` counts keys that expire within `SOON`, by database, type and second of the epoch.
    """

    flavour: str
    version: int
    checksummed: bool
    size: int
    databases: Mapping[int, DatabaseCount] = field(default_factory=dict)
    functions: int = 0
    modules: tuple[str, ...] = ()
    server_version: str = ""
    uncounted: str = ""
    soon: Mapping[tuple[int, str, int], int] = field(default_factory=dict)

    @property
    def keys(self) -> int:
        """All keys of all databases."""
        return sum(database.keys for database in self.databases.values())


def read_rdb(chunks: Iterable[bytes], *, now: float = 0.0) -> RdbContents:
    """Read an RDB to its end. Raises `IntegrityError` when it is damaged, cut short, or something else.

    With `now`, in seconds of the epoch, what expires before `now` + `SOON` is noted in `soon`.
    """
    return _Reader(chunks, now).read()


def read_drained(chunks: Iterator[bytes]) -> None:
    """Check an RDB as an `Inspector` does."""
    read_rdb(chunks)


class _Unknown(Exception):
    """A type or opcode of a newer server."""


_NAMES = {
    0: "string", 1: "list", 2: "set", 3: "zset", 4: "hash", 5: "zset", 9: "hash", 10: "list", 11: "set", 12: "zset",
    13: "hash", 14: "list", 15: "stream", 16: "hash", 17: "zset", 18: "list", 19: "stream", 20: "set", 21: "stream",
    22: "hash", 24: "hash", 25: "hash",
}  # fmt: skip

_ONE_STRING = frozenset({0, 9, 10, 11, 12, 13, 16, 17, 20})
_MODULE = 7
_MODULE_NAME = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_CHECKSUM = 8


class _Reader:
    """Pulls chunks as it needs them. Lengths and strings are as rdb.c's `rdbLoadLenByRef` and `rdbLoadString`."""

    def __init__(self, chunks: Iterable[bytes], now: float) -> None:
        self._chunks = iter(chunks)
        self._until = int((now + SOON) * 1000) if now else 0
        self._buffer = b""
        self._at = 0
        self._ended = False
        self._last = b""  # the end of what has come, not yet in the checksum
        self._crc = Crc64()
        self._size = 0
        self._types: dict[int, Counter[str]] = {}
        self._expiring: Counter[int] = Counter()
        self._announced: dict[int, int] = {}
        self._soon: Counter[tuple[int, str, int]] = Counter()
        self._functions = 0
        self._modules: set[str] = set()
        self._server_version = ""
        self._valkey = False

    def read(self) -> RdbContents:
        flavour, version = self._magic()
        uncounted = ""
        try:
            self._body()
        except _Unknown as reason:
            uncounted = f"byte {self._size - len(self._buffer) + self._at}: {reason}"
        self._to_the_end(version, parsed=not uncounted)
        databases = {
            number: DatabaseCount(dict(sorted(types.items())), self._expiring[number], self._announced.get(number))
            for number, types in sorted(self._types.items())
        }
        stored = int.from_bytes(self._last[-_CHECKSUM:], "little") if version >= 5 else 0
        return RdbContents(
            flavour,
            version,
            stored != 0,
            self._size,
            {} if uncounted else databases,
            self._functions,
            tuple(sorted(self._modules)),
            self._server_version,
            uncounted,
            self._soon,
        )

    def _magic(self) -> tuple[str, int]:
        head = self._take(9)
        for magic, flavour in ((b"REDIS", "redis"), (b"VALKEY", "valkey")):
            if head.startswith(magic) and head[len(magic) :].isdigit():
                self._valkey = flavour == "valkey"
                return flavour, int(head[len(magic) :])
        raise IntegrityError("It is no RDB: it does not begin like one.", hint="Use another snapshot.")

    def _to_the_end(self, version: int, *, parsed: bool) -> None:
        """Check what follows the last key: the mark of the end, the checksum, and nothing more."""
        if parsed and version >= 5:
            self._take(_CHECKSUM)
        if parsed and (self._at < len(self._buffer) or self._more()):
            self._damaged("bytes follow its end")
        while self._more():
            self._at = len(self._buffer)
        if version < 5:
            return
        last = self._last
        if len(last) <= _CHECKSUM or last[-_CHECKSUM - 1] != 0xFF:
            self._damaged("it is cut short")
        self._crc.update(last[:-_CHECKSUM])
        stored = int.from_bytes(last[-_CHECKSUM:], "little")
        if stored not in (0, self._crc.value):  # 0: the server has `rdbchecksum no`
            self._damaged("its checksum is wrong")

    def _body(self) -> None:
        database, expires = 0, 0
        types = self._types.setdefault(0, Counter())
        while True:
            opcode = self._byte()
            if opcode <= 25:
                self._skip_string()
                name = self._skip_value(opcode)
                types[name] += 1
                if expires:
                    self._expiring[database] += 1
                    if expires < self._until:
                        self._soon[database, name, expires // 1000] += 1
                    expires = 0
            elif opcode == 252:
                expires = max(1, int.from_bytes(self._take(8), "little", signed=True))
            elif opcode == 253:
                expires = max(1, int.from_bytes(self._take(4), "little", signed=True) * 1000)
            elif opcode == 254:
                database = self._length()
                types = self._types.setdefault(database, Counter())
            elif opcode == 255:
                if not self._types[0] and 0 not in self._announced:
                    del self._types[0]
                return
            elif opcode == 251:
                self._announced[database] = self._length()
                self._length()
            else:
                self._skip_record(opcode)

    def _skip_record(self, opcode: int) -> None:
        match opcode:
            case 250:
                name, value = self._short_string(), self._short_string()
                if name in (b"redis-ver", b"valkey-ver"):
                    self._server_version = value.decode(errors="replace")
            case 249:
                self._byte()
            case 248:
                self._length()
            case 247:
                self._modules.add(self._module_name())
                self._skip_module_value()
            case 245:
                self._functions += 1
                self._skip_string()
            case 244:
                for _ in range(3):
                    self._length()
            case _:
                raise _Unknown(f"opcode {opcode}")

    def _skip_value(self, kind: int) -> str:
        if kind in _ONE_STRING:
            self._skip_string()
        elif kind in (1, 2, 14):
            self._skip_strings(self._length())
        elif kind == 4:
            self._skip_strings(2 * self._length())
        elif kind == 5:
            for _ in range(self._length()):
                self._skip_string()
                self._skip(8)
        elif kind == 18:
            for _ in range(self._length()):
                self._length()
                self._skip_string()
        elif kind in (15, 19, 21):
            self._skip_stream(kind)
        elif kind == 22 and self._valkey:  # in Redis 22 and 23 were only in release candidates of 7.4
            for _ in range(self._length()):
                self._skip_strings(2)
                self._skip(8)
        elif kind == 24:
            self._skip(8)
            for _ in range(self._length()):
                self._length()
                self._skip_strings(2)
        elif kind == 25:
            self._skip(8)
            self._skip_string()
        elif kind == 3:
            for _ in range(self._length()):
                self._skip_string()
                digits = self._byte()
                self._skip(digits if digits < 253 else 0)
        elif kind == _MODULE:
            name = self._module_name()
            self._modules.add(name)
            self._skip_module_value()
            return name
        else:
            raise _Unknown(f"type {kind}")
        return _NAMES[kind]

    def _skip_stream(self, kind: int) -> None:
        self._skip_strings(2 * self._length())
        for _ in range(3 if kind == 15 else 8):
            self._length()
        for _ in range(self._length()):  # consumer groups
            self._skip_string()
            for _ in range(2 if kind == 15 else 3):
                self._length()
            for _ in range(self._length()):  # entries not yet acknowledged
                self._skip(16 + 8)
                self._length()
            for _ in range(self._length()):  # consumers
                self._skip_string()
                self._skip(8 if kind < 21 else 16)
                self._skip(16 * self._length())

    def _skip_module_value(self) -> None:
        while (opcode := self._length()) != 0:
            match opcode:
                case 1 | 2:
                    self._length()
                case 3:
                    self._skip(4)
                case 4:
                    self._skip(8)
                case 5:
                    self._skip_string()
                case _:
                    self._damaged(f"a module's value has the part {opcode}")

    def _module_name(self) -> str:
        number = self._length()
        return "".join(_MODULE_NAME[number >> shift & 63] for shift in range(58, 9, -6))

    # ---- lengths and strings ----------------------------------------------------------------------------------------

    def _byte(self) -> int:
        if self._at >= len(self._buffer):
            self._need(1)
        value = self._buffer[self._at]
        self._at += 1
        return value

    def _length(self) -> int:
        first = self._byte()
        if first < 0x40:
            return first
        if first < 0x80:
            return (first & 0x3F) << 8 | self._byte()
        if first in (0x80, 0x81):
            return int.from_bytes(self._take(4 if first == 0x80 else 8), "big")
        return self._damaged(f"a length begins with {first:#x}")

    def _skip_strings(self, count: int) -> None:
        for _ in range(count):
            self._skip_string()

    def _skip_string(self) -> None:
        first = self._byte()
        if first < 0x40:
            self._skip(first)
        elif first < 0x80:
            self._skip((first & 0x3F) << 8 | self._byte())
        elif first in (0x80, 0x81):
            self._skip(int.from_bytes(self._take(4 if first == 0x80 else 8), "big"))
        elif 0xC0 <= first < 0xC3:
            self._skip(1 << (first - 0xC0))
        elif first == 0xC3:
            packed = self._length()
            self._length()
            self._skip(packed)
        else:
            self._damaged(f"a string begins with {first:#x}")

    def _short_string(self) -> bytes:
        """A string of the header; nothing when it is a number or compressed."""
        first = self._byte()
        if first < 0x40:
            return self._take(first)
        self._at -= 1
        self._skip_string()
        return b""

    def _skip(self, count: int) -> None:
        self._at += count
        while self._at > len(self._buffer):
            beyond = self._at - len(self._buffer)
            if not self._more():
                self._damaged("it is cut short")
            self._at = beyond

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._buffer):
            self._need(count)
        taken = self._buffer[self._at : self._at + count]
        self._at += count
        return taken

    def _need(self, count: int) -> None:
        """Have at least `count` more bytes at hand."""
        while len(self._buffer) - self._at < count:
            rest = self._buffer[self._at :]
            if not self._more():
                self._damaged("it is cut short")
            self._buffer, self._at = rest + self._buffer, 0

    def _more(self) -> bool:
        """Put the next chunk in the place of the buffer; False at the end."""
        for chunk in self._chunks:
            if chunk:
                arrived = self._last + chunk
                self._crc.update(arrived[: -_CHECKSUM - 1])
                self._last = arrived[-_CHECKSUM - 1 :]
                self._size += len(chunk)
                self._buffer, self._at = chunk, 0
                return True
        return False

    def _damaged(self, how: str) -> NoReturn:
        where = self._size - len(self._buffer) + min(self._at, len(self._buffer))
        raise IntegrityError(f"It is no whole RDB: {how} (at byte {where}).", hint="Use another snapshot.")
