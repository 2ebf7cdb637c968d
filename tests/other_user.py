"""Another user of the machine: a real one where root runs the tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

NOBODY = 65534
SOMEBODY_ELSE = os.geteuid() + 1


def as_other_user(act: Callable[[], Iterable[str]]) -> list[str]:
    """What a function says in a process of its own, whose user is bound by permissions: not root, where root tests."""
    reading_end, writing_end = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            said = "\n".join(act())
        except BaseException as error:  # noqa: BLE001 - told to the parent
            said = repr(error)
        os.write(writing_end, said.encode())
        os._exit(0)
    os.close(writing_end)
    with os.fdopen(reading_end) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said.split("\n")
