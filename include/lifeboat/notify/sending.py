"""Handing a message to every channel, again to those that do not take it, and saying who took it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from lifeboat.errors import LifeboatError
from lifeboat.notify.alert import Alert
from lifeboat.notify.channels import Channel
from lifeboat.notify.rendering import Message, render

SOON: Sequence[float] = (2, 8)
"""Seconds between tries where somebody waits, such as a worker's slot: given up within a minute."""

PATIENTLY: Sequence[float] = (2, 8, 30, 60, 120, 300, 300, 600, 600, 900, 900)
"""Seconds between tries where nobody waits: given up after about an hour."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Delivery:
    """Which channels took a message, and why the others did not."""

    taken: tuple[str, ...] = ()
    failed: Mapping[str, LifeboatError] = field(default_factory=dict)


def deliver(
    alert: Alert,
    channels: Sequence[Channel],
    *,
    waits: Sequence[float] = SOON,
    report: Report = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Delivery:
    """Send an alert through all channels at the same time, and again after each wait to those that may take it yet.

    Never raises: a channel that is down is a line for `report` and an entry in `failed`.
    """
    message = render(alert)
    taken: list[str] = []
    failed: dict[str, LifeboatError] = {}
    left = list(channels)
    for wait in (*waits, None):
        if not left:
            break
        with ThreadPoolExecutor(len(left)) as pool:
            errors = list(pool.map(lambda channel: _try(channel, message), left))
        again: list[Channel] = []
        for channel, error in zip(left, errors, strict=True):
            if error is None:
                taken.append(channel.name)
                failed.pop(channel.name, None)
                report(f"Told through {channel.name}: {message.subject}")
                continue
            failed[channel.name] = error
            may_help = error.transient and wait is not None
            report(
                f"NOT told through {channel.name}: {error.message}{f' Trying again in {wait:g} s.' if may_help else ''}"
            )
            if may_help:
                again.append(channel)
        left = again
        if left and wait is not None:
            sleep(wait)
    return Delivery(tuple(taken), failed)


def _try(channel: Channel, message: Message) -> LifeboatError | None:
    try:
        channel.send(message)
    except LifeboatError as error:
        return error
    except Exception as error:  # noqa: BLE001 - whatever a library raises must not keep the others from being tried
        return LifeboatError(f"{channel.name} failed with {type(error).__name__}.", hint="Look at its connection.")
    return None
