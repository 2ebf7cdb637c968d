"""What worker threads do for a run over a tree: a few things at a time, with a few more waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lifeboat.files.packing import GivenUp


class Work:
    """Things being done by several threads. The first failure ends it."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="files")
        self._beside = ThreadPoolExecutor(max(1, workers - 1), thread_name_prefix="files-beside")
        self._slots = threading.Semaphore(2 * workers)
        self._held = threading.Semaphore(2 * workers)
        self._outstanding = 0
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def submit(self, act: Callable[[], None]) -> None:
        """Have something done, waiting for room. Raises what anything before has raised."""
        self._acquire(self._slots)
        self._start(act, self._slots.release)

    def submit_beside(self, act: Callable[[], None]) -> None:
        """The same beside a thread that is at work itself: with one thread fewer."""
        self._acquire(self._slots)
        self._start(act, self._slots.release, self._beside)

    def submit_held(self, act: Callable[[], None]) -> None:
        """The same for something that goes on, by `again`, until it says `let_go`."""
        self._acquire(self._held)
        self._start(act, lambda: None)

    def again(self, act: Callable[[], None]) -> None:
        """Have something done that belongs to what is being done."""
        self._start(act, lambda: None)

    def let_go(self) -> None:
        """What was held has ended."""
        self._held.release()

    def wait(self) -> None:
        """Wait for all of it. Raises what any of it has raised."""
        with self._changed:
            self._changed.wait_for(lambda: not self._outstanding)
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        """Do nothing more of what waits."""
        with self._changed:
            self._failure = self._failure or GivenUp()

    def close(self) -> None:
        """End the threads, once what they are doing is done."""
        for pool in (self._pool, self._beside):
            pool.shutdown(wait=True, cancel_futures=True)

    def _acquire(self, slots: threading.Semaphore) -> None:
        while not slots.acquire(timeout=0.2):
            if self._failure:
                raise self._failure

    def _start(
        self, act: Callable[[], None], done: Callable[[], object], pool: ThreadPoolExecutor | None = None
    ) -> None:
        with self._changed:
            if self._failure:
                raise self._failure
            self._outstanding += 1
        (pool or self._pool).submit(self._do, act, done)

    def _do(self, act: Callable[[], None], done: Callable[[], object]) -> None:
        try:
            if not self._failure:
                act()
        except BaseException as error:  # noqa: BLE001 - raised by the next submit() or wait()
            with self._changed:
                self._failure = self._failure or error
        finally:
            done()
            with self._changed:
                self._outstanding -= 1
                self._changed.notify_all()
