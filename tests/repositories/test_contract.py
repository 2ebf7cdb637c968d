"""Every promise of the repository contract, for every kind of repository."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from lifeboat.errors import ObjectExists, ObjectNotFound, RepositoryError, RepositoryRefused, SettingsError
from lifeboat.repositories.contract import Repository, ThawState, Timed
from lifeboat.repositories.parts import MIB
from tests.repositories.conftest import PART, Kind

SEVERAL_PARTS = 2 * PART + 12_345


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def in_chunks(data: bytes, size: int = 700_001) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(repository: Repository, key: str, **span: int | None) -> bytes:
    return b"".join(repository.get(key, **span))


def keys(repository: Repository, prefix: str = "") -> list[str]:
    return [info.key for info in repository.list(prefix)]


class Interrupted(Exception):
    """Raised by a stream on purpose."""


def interrupted(data: bytes, error: BaseException) -> Iterator[bytes]:
    yield from in_chunks(data)
    raise error


# ---- putting and getting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, SEVERAL_PARTS])
def test_what_was_put_reads_back_byte_for_byte(repository: Repository, size: int):
    data = some_bytes(size)

    info = repository.put("a/b.dump", in_chunks(data))

    assert info.size == size
    assert read(repository, "a/b.dump") == data


@pytest.mark.parametrize("size", [5, SEVERAL_PARTS], ids=["one part", "several parts"])
def test_a_put_says_of_the_object_what_the_store_then_says(repository: Repository, size: int):
    before = datetime.now(UTC)

    made = repository.put("a/b", in_chunks(some_bytes(size)))
    found = repository.describe("a/b")

    assert (made.key, made.size, made.thaw_state) == (found.key, found.size, found.thaw_state)
    assert found.thaw_state is ThawState.READABLE
    assert found.modified.tzinfo is UTC
    assert abs(found.modified - before) < timedelta(seconds=30)


def test_empty_chunks_change_nothing(repository: Repository):
    repository.put("a", [b"", b"one", b"", b"two", b""])

    assert read(repository, "a") == b"onetwo"


def test_a_get_gives_chunks_of_at_most_a_mebibyte(repository: Repository):
    repository.put("a", [some_bytes(3 * MIB + 7)])

    assert max(len(chunk) for chunk in repository.get("a")) <= MIB


RANGES = [
    (0, 1),
    (0, 10),
    (3, 4),
    (9, 1),
    (7, None),
    (0, None),
    (7, 100),
    (10, None),
    (10, 1),
    (50, 10),
    (50, None),
    (3, 0),
]


def test_a_range_gives_what_there_is_of_it(repository: Repository):
    data = b"0123456789"
    repository.put("a", [data])

    given = {(start, length): read(repository, "a", start=start, length=length) for start, length in RANGES}

    assert given == {(start, length): data[start:][:length] for start, length in RANGES}


def test_a_range_may_span_parts(repository: Repository):
    data = some_bytes(SEVERAL_PARTS)
    repository.put("a", in_chunks(data))

    assert read(repository, "a", start=PART - 3, length=PART + 6) == data[PART - 3 : 2 * PART + 3]


def test_a_range_of_an_empty_object_is_empty(repository: Repository):
    repository.put("a", [])

    assert read(repository, "a", start=0, length=10) == b""


def test_a_get_that_is_given_up_midway_harms_nothing(repository: Repository):
    data = some_bytes(SEVERAL_PARTS)
    repository.put("a", in_chunks(data))

    chunks = repository.get("a")
    next(chunks)
    del chunks

    assert read(repository, "a") == data


# ---- create-only ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, SEVERAL_PARTS], ids=["one part", "several parts"])
def test_an_existing_object_is_never_changed(repository: Repository, size: int):
    repository.put("a", [b"the first"])

    with pytest.raises(ObjectExists, match="a"):
        repository.put("a", in_chunks(some_bytes(size)))

    assert read(repository, "a") == b"the first"
    assert keys(repository) == ["a"]


@pytest.mark.parametrize("size", [5, PART + 5], ids=["one part", "several parts"])
def test_of_simultaneous_puts_of_one_key_one_wins(repository: Repository, kind: Kind, size: int):
    streams = [bytes([n]) * size for n in range(6)]
    together = threading.Barrier(len(streams))

    def put(data: bytes) -> bool:
        together.wait()
        try:
            repository.put("a", in_chunks(data))
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(len(streams)) as pool:
        won = list(pool.map(put, streams))

    winners = [data for data, success in zip(streams, won, strict=True) if success]
    assert read(repository, "a") in winners
    arbitrated = kind.honours_create_only if size <= PART else kind.arbitrates_completes
    assert len(winners) == 1 or not arbitrated


def test_the_probe_tells_stores_that_honour_conditions_from_those_that_do_not(repository: Repository, kind: Kind):
    repository.put("lifeboat.json", [b'{"format": 1}'])

    assert repository.honours_create_only("lifeboat.json") is kind.honours_create_only

    assert read(repository, "lifeboat.json") == b'{"format": 1}'
    assert keys(repository) == ["lifeboat.json"]


# ---- streams that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, SEVERAL_PARTS], ids=["at once", "in the first part", "in a later part"])
def test_a_stream_that_raises_leaves_nothing_and_its_error_passes_through(repository: Repository, size: int):
    error = Interrupted("on purpose")

    with pytest.raises(Interrupted) as raised:
        repository.put("a/b", interrupted(some_bytes(size), error))

    assert raised.value is error
    assert keys(repository) == []
    with pytest.raises(ObjectNotFound):
        repository.describe("a/b")


def test_a_put_that_failed_can_be_repeated(repository: Repository):
    data = some_bytes(SEVERAL_PARTS)
    with pytest.raises(Interrupted):
        repository.put("a/b", interrupted(data, Interrupted()))

    repository.put("a/b", in_chunks(data))

    assert read(repository, "a/b") == data


def test_an_interrupt_from_the_keyboard_leaves_nothing(repository: Repository):
    with pytest.raises(KeyboardInterrupt):
        repository.put("a", interrupted(some_bytes(SEVERAL_PARTS), KeyboardInterrupt()))

    assert keys(repository) == []


def test_an_unfinished_put_is_in_no_listing_and_cannot_be_read(repository: Repository):
    seen: list[list[str]] = []

    def stream() -> Iterator[bytes]:
        yield from in_chunks(some_bytes(SEVERAL_PARTS))
        seen.append(keys(repository))
        with pytest.raises(ObjectNotFound):
            read(repository, "a/b")
        yield b"end"

    repository.put("a/b", stream())

    assert seen == [[]]
    assert keys(repository) == ["a/b"]


# ---- objects that are not there -------------------------------------------------------------------------------------

OPERATIONS = {
    "get": lambda repository, key: list(repository.get(key)),
    "get a range": lambda repository, key: list(repository.get(key, start=5, length=5)),
    "get nothing": lambda repository, key: list(repository.get(key, length=0)),
    "describe": lambda repository, key: repository.describe(key),
    "copy": lambda repository, key: repository.copy(key, "target"),
    "thaw": lambda repository, key: repository.thaw(key, days=1),
    "probe": lambda repository, key: repository.honours_create_only(key),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_what_is_not_there_is_not_found(repository: Repository, kind: Kind, operation):
    repository.put("here", [b"x"])
    below = ObjectNotFound if kind.finds_nothing_below_objects else RepositoryRefused

    for key, error in {"missing": ObjectNotFound, "here/missing": below, "missing/below": ObjectNotFound}.items():
        with pytest.raises(error, match=key):
            operation(repository, key)

    assert keys(repository) == ["here"]


def test_a_get_raises_while_iterating(repository: Repository):
    chunks = repository.get("missing")

    with pytest.raises(ObjectNotFound):
        next(chunks)


def test_deleting_may_be_repeated(repository: Repository):
    repository.put("a/b/c", [b"x"])
    repository.put("a/d", [b"y"])

    repository.delete("a/b/c")
    repository.delete("a/b/c")
    repository.delete("never/there")

    assert keys(repository) == ["a/d"]


def test_a_deleted_key_can_be_used_again(repository: Repository):
    repository.put("a/b", [b"old"])
    repository.delete("a/b")

    repository.put("a/b", [b"new"])

    assert read(repository, "a/b") == b"new"


WRITING = {
    "put": lambda repository, key: repository.put(key, [b"x"]),
    "copy to": lambda repository, key: repository.copy("here", key),
    "delete": lambda repository, key: repository.delete(key),
}
BAD_KEYS = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "./a", "a b", "ä", "a\n", "a\\b", "a~", "x" * 901]


@pytest.mark.parametrize("operation", [*OPERATIONS.values(), *WRITING.values()], ids=[*OPERATIONS, *WRITING])
def test_a_malformed_key_is_refused_before_anything_is_touched(repository: Repository, operation):
    repository.put("here", [b"x"])

    for key in BAD_KEYS:
        with pytest.raises(SettingsError, match="key"):
            operation(repository, key)

    assert keys(repository) == ["here"]


# ---- listing --------------------------------------------------------------------------------------------------------

# Folder by folder is another order than by key: `-` and `.` come before `/`, and `0` and `=` after it.
IN_KEY_ORDER = ["A", "B/x", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a/c", "a0", "a=b", "b/1/2/3", "c", "z_"]
IN_KEY_ORDER = [key for key in IN_KEY_ORDER if key != "a/b"]  # a disk cannot hold both `a/b` and `a/b/c`


def test_objects_are_listed_in_key_order_across_pages(repository: Repository):
    for key in random.Random(1).sample(IN_KEY_ORDER, len(IN_KEY_ORDER)):
        repository.put(key, [key.encode()])

    assert keys(repository) == sorted(IN_KEY_ORDER) == IN_KEY_ORDER


PREFIXES = ["", "a", "a/", "a/b", "a/b/", "a/b/c", "b/1/2", "z", "nothing", "a/nothing/", "../", "a//", "/a"]


def test_a_prefix_is_the_beginning_of_a_key_and_need_not_be_a_folder(repository: Repository):
    for key in IN_KEY_ORDER:
        repository.put(key, [b"x"])

    listed = {prefix: keys(repository, prefix) for prefix in PREFIXES}

    assert listed == {prefix: [key for key in IN_KEY_ORDER if key.startswith(prefix)] for prefix in PREFIXES}


def test_a_listing_says_what_describe_says(repository: Repository):
    repository.put("a/b", [b"hello"])

    (listed,) = repository.list("a/")
    described = repository.describe("a/b")

    assert (listed.key, listed.size, listed.storage_class) == ("a/b", 5, described.storage_class)
    assert listed.thaw_state is described.thaw_state
    assert listed.modified.tzinfo is UTC
    assert abs(listed.modified - described.modified) < timedelta(seconds=1)


def test_an_empty_repository_lists_nothing(repository: Repository):
    assert keys(repository) == []


def test_the_time_is_told_by_the_stores_own_clock(repository: Repository):
    assert isinstance(repository, Timed)
    repository.put("snapshots/a", [b"a"])
    time = repository.time()

    assert time is not None
    assert abs(time - datetime.now(UTC)) < timedelta(minutes=5)
    assert keys(repository, "") == ["snapshots/a"]


@pytest.mark.slow
def test_a_listing_has_no_limit(repository: Repository):
    wanted = [f"packs/{n:05d}" for n in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: repository.put(key, [b"x"]), wanted))

    assert keys(repository, "packs/") == wanted


# ---- copying --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, PART, SEVERAL_PARTS])
def test_a_copy_is_the_same_and_stands_alone(repository: Repository, size: int):
    data = some_bytes(size)
    repository.put("daily/a", in_chunks(data))

    info = repository.copy("daily/a", "weekly/a")
    repository.delete("daily/a")

    assert (info.key, info.size) == ("weekly/a", size)
    assert read(repository, "weekly/a") == data
    assert keys(repository) == ["weekly/a"]


def test_a_copy_is_as_young_as_it_is(repository: Repository):
    repository.put("a", [b"x"])
    before = datetime.now(UTC) - timedelta(seconds=2)

    repository.copy("a", "b")

    assert repository.describe("b").modified > before


def test_a_copy_never_changes_an_existing_object(repository: Repository):
    repository.put("a", [b"one"])
    repository.put("b", [b"two"])

    with pytest.raises(ObjectExists, match="b"):
        repository.copy("a", "b")

    assert read(repository, "b") == b"two"


def test_of_simultaneous_copies_to_one_key_one_wins(repository: Repository, kind: Kind):
    sources = [f"source/{n}" for n in range(4)]
    for source in sources:
        repository.put(source, [source.encode()])
    together = threading.Barrier(len(sources))

    def copy(source: str) -> bool:
        together.wait()
        try:
            repository.copy(source, "target")
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(len(sources)) as pool:
        won = list(pool.map(copy, sources))

    assert any(won)
    assert sum(won) == 1 or not kind.arbitrates_completes


# ---- the rest -------------------------------------------------------------------------------------------------------


def test_a_repository_serves_several_threads(repository: Repository, kind: Kind):
    def work(n: int) -> bool:
        data = some_bytes(50_000 + n, seed=n)
        repository.put(f"t/{n}", in_chunks(data, 10_000))
        listed = f"t/{n}" in keys(repository, "t/")
        return read(repository, f"t/{n}") == data and (listed or not kind.lists_beside_puts)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))
    assert sorted(keys(repository, "t/")) == sorted(f"t/{n}" for n in range(16))


def test_deletes_beside_puts_in_one_folder_disturb_neither(repository: Repository):
    def work(n: int) -> None:
        for round_ in range(5):
            repository.put(f"deep/er/{n}-{round_}", [b"x"])
            repository.delete(f"deep/er/{n}-{round_}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    assert keys(repository) == []


def test_thawing_what_is_readable_changes_nothing(repository: Repository):
    repository.put("a", [b"x"])

    assert repository.thaw("a", days=3) is ThawState.READABLE
    assert read(repository, "a") == b"x"


def test_free_bytes_are_known_where_there_is_an_end(repository: Repository, kind: Kind):
    free = repository.free_bytes()

    assert (free is not None and free > 0) is kind.knows_free_bytes


def test_it_is_a_repository_with_a_name_and_a_place(repository: Repository):
    assert isinstance(repository, Repository)
    assert repository.name
    assert "://" in repository.url


def test_an_object_too_large_to_probe_with_is_refused(repository: Repository, kind: Kind):
    if kind.name in {"memory", "local", "local-as-nfs"}:  # these probe without moving bytes
        return
    repository.put("a", [some_bytes(2 * MIB)])

    with pytest.raises(RepositoryError, match="too large"):
        repository.honours_create_only("a")
