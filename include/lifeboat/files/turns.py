"""Threads that do many short things: in turn where each is quick, side by side where they wait for a slow disk.

What takes microseconds is slowed down by others that do the same: each call gives the interpreter away and has to get
it back. What waits milliseconds for a cold disk or another host is not.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SLOW = 0.0005
"""Seconds for one thing from which several are done side by side."""

YOUNG = 50_000
"""New objects after which a run looks for garbage; most of what it makes lives until it is written down."""


class Turns:
    """Lets threads in, one at a time as long as what they do is quick."""

    def __init__(self, *, slow: float = SLOW) -> None:
        self._slow = slow
        self._quick = True
        self._lock = threading.Lock()

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """A turn to do so many things, during which no other thread has one while they are quick."""
        alone = self._quick
        if alone:
            self._lock.acquire()
        began = time.monotonic()
        try:
            yield
            self._quick = time.monotonic() - began < self._slow * count
        finally:
            if alone:
                self._lock.release()


@contextmanager
def little_garbage() -> Iterator[None]:
    """Within, the interpreter looks for garbage less often, and never at what is there already."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG, before[1], before[2])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
