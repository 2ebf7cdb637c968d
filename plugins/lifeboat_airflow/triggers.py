"""What tasks wait for without a worker, and what starts runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent

from lifeboat.configuration.archiving import fingerprint_in, marks_of, newest_snapshot
from lifeboat.configuration.files import FileList, Seen, list_files
from lifeboat.errors import LifeboatError
from lifeboat.repositories.contract import ThawState
from lifeboat.thawing import Thaw, thaw_state
from lifeboat_airflow.hooks import VaultHook
from lifeboat_airflow.records import find_snapshot


class SnapshotThawedTrigger(BaseTrigger):
    """Fires when all of a snapshot can be read from a repository; looks every so many seconds, until a moment.

    The event's `error` is empty then, and otherwise says why it fires nevertheless. Passing faults are waited out.
    """

    def __init__(self, *, snapshot: str, repository: str, every: float, until: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.snapshot = snapshot
        self.repository = repository
        self.every = every
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What Airflow makes it from again, in the triggerer."""
        names = ("snapshot", "repository", "every", "until")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, and sleep, and look again."""
        until = datetime.fromisoformat(self.until)
        seen = "nothing was seen of it"
        while True:
            try:
                # In a thread: the core blocks, and the triggerer has other triggers to serve.
                thaw = await asyncio.to_thread(self._look)
                seen = thaw.progress
                if thaw.state is ThawState.READABLE:
                    yield self._event("")
                    return
            except LifeboatError as error:
                if not error.transient:
                    yield self._event(str(error))
                    return
                seen = error.message
            self.log.info("%s: %s", self.snapshot, seen)
            left = (until - datetime.now(UTC)).total_seconds()
            if left <= 0:
                yield self._event(
                    f"Not all of {self.snapshot} can be read in time: {seen}.\n"
                    "Hint: Clear the task to go on waiting; nothing is asked for twice."
                )
                return
            await asyncio.sleep(min(self.every, left))

    def _event(self, error: str) -> TriggerEvent:
        return TriggerEvent({"repository": self.repository, "error": error})  # type: ignore[no-untyped-call]

    def _look(self) -> Thaw:
        vault = VaultHook().open(reading=True)
        return thaw_state(vault, find_snapshot(vault, self.snapshot), repository=self.repository)


HANDED_ON = 3.0
"""Seconds until an event that was given out is surely in Airflow's database: the triggerer hands on once a second."""


class ConfigurationChangedTrigger(BaseEventTrigger):
    """Fires once for every change of a set of configuration files: of contents, names, modes or owners, not of times.

    Looks every `every` seconds, and waits until nothing has changed for `settle` seconds, but for `at_most` seconds.
    The last state it has told is kept in Airflow's asset state store, so that a triggerer that is started anew neither
    misses what has changed meanwhile nor tells it twice; nor, at first, what the vault has already. Faults are logged,
    and do not end the watch.
    """

    def __init__(self, *, source: str, every: float = 10.0, settle: float = 5.0, at_most: float = 20.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.source = source
        self.every = every
        self.settle = settle
        self.at_most = at_most
        self._seen: Seen = {}
        self._last: tuple[FileList, str] | None = None
        self._complaint = ""
        self._new = True

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What Airflow makes it from again, in the triggerer."""
        names = ("source", "every", "settle", "at_most")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, tell, remember, and sleep, for ever: a watch that ends is not begun anew."""
        while True:
            try:
                told = await self._told()
                now = await asyncio.to_thread(self._look)
                if now != told:
                    now = await self._settled(now)
                if now != told:
                    # The vault, which may be slow to answer, is asked once: later this trigger knows what it has told.
                    if not self._new or not await asyncio.to_thread(self._is_archived, now):
                        self.log.info("%s has changed.", self.source)
                        yield TriggerEvent({"source": self.source, "fingerprint": now})  # type: ignore[no-untyped-call]
                        # Remembered only then: whoever is killed in between tells it again, and nothing is lost.
                        await asyncio.sleep(HANDED_ON)
                    await self._remember(now)
                self._new = False
                self._complaint = ""
            except (LifeboatError, AirflowException, OSError) as error:
                self._complain(str(error))
            await asyncio.sleep(self.every)

    async def _told(self) -> str:
        assert self.asset_state_store is not None  # Airflow gives one to every trigger that watches an asset
        return str(await self.asset_state_store.aget("fingerprint", ""))

    async def _remember(self, fingerprint: str) -> None:
        assert self.asset_state_store is not None
        await self.asset_state_store.aset("fingerprint", fingerprint)

    async def _settled(self, now: str) -> str:
        waited = 0.0
        while waited < self.at_most:
            await asyncio.sleep(self.settle)
            waited += self.settle
            before, now = now, await asyncio.to_thread(self._look)
            if now == before:
                break
        return now

    def _look(self) -> str:
        """The fingerprint of what the files hold now. Keyed, since Airflow's database need not be secret."""
        hook = VaultHook()
        listed = list_files(hook.configuration(self.source), self._seen)
        if self._last is None or self._last[0].entries != listed.entries:
            self._last = listed, marks_of(hook.keyring(), self.source, listed).fingerprint
        return self._last[1]

    def _is_archived(self, fingerprint: str) -> bool:
        try:
            newest = newest_snapshot(VaultHook().open(reading=True), self.source)
        except LifeboatError:
            return False  # then the run says what is wrong
        return newest is not None and fingerprint_in(newest) == fingerprint

    def _complain(self, text: str) -> None:
        if text != self._complaint:  # once, not every few seconds
            self.log.warning("%s cannot be watched now: %s", self.source, text)
        self._complaint = text
