"""What is quick is done by one thread at a time, what waits for a slow disk by several."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lifeboat.files import sync
from lifeboat.files.reading import Read, read_file
from lifeboat.files.scan import Found
from lifeboat.files.turns import Turns, little_garbage
from tests.files.vaults import Tree, picture


def most_at_once(turns: Turns, act: Callable[[], None]) -> int:
    """How many threads had a turn at the same time, of four that want eight each."""
    inside, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal inside, most
        for _ in range(8):
            with turns.take(10):
                with lock:
                    inside += 1
                    most = max(most, inside)
                act()
                with lock:
                    inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    return most


def test_what_is_quick_is_done_one_at_a_time() -> None:
    assert most_at_once(Turns(slow=1.0), lambda: time.sleep(0.001)) == 1


def test_what_is_slow_is_done_side_by_side() -> None:
    assert most_at_once(Turns(slow=0.0001), lambda: time.sleep(0.005)) > 1


def test_a_turn_that_fails_ends() -> None:
    turns = Turns()

    for _ in range(2):
        with pytest.raises(ZeroDivisionError), turns.take(1):
            raise ZeroDivisionError


def many(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    for number in range(40):
        for name in range(5):
            tree.write(f"{number:02}/{name}", b"%d of %d" % (name, number) * 400)
    return tree


def test_files_on_a_slow_disk_are_read_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: set[str] = set()

    def slowly(found: Found) -> Read | None:
        readers.add(threading.current_thread().name)
        time.sleep(0.002)
        return read_file(found)

    monkeypatch.setattr(sync, "read_file", slowly)
    monkeypatch.setattr(sync, "BATCH_FOLDERS", 2)
    tree = many(tmp_path)

    snapshot = tree.snapshot()

    assert len(readers) > 2
    assert picture(tree.restore(snapshot)) == picture(tree.root)


def test_the_search_for_garbage_is_as_it_was_after_a_run() -> None:
    before = gc.get_threshold()

    with little_garbage():
        within = gc.get_threshold()

    assert within[0] > before[0]
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
