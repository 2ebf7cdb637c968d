"""The connection parameters that libpq knows, by libpq's own word, and which client programs know them too.

What a connection asks for, such as a certificate that is checked, must hold for our sessions and for those of client
programs alike: whatever one of them could not obey is refused.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from functools import cache

from psycopg import pq
from psycopg.conninfo import make_conninfo

from lifeboat.errors import ClientMissing
from lifeboat.postgres.programs import Programs


@cache
def variables() -> Mapping[str, str]:
    """The parameters that have a variable of the environment, and which."""
    return {o.keyword.decode(): o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}


@cache
def for_connections() -> frozenset[str]:
    """The parameters that a connection may have besides those that have a field of their own."""
    return frozenset(o.keyword.decode() for o in pq.Conninfo.get_defaults()) - _FIELDS - for_nobody()


@cache
def for_nobody() -> frozenset[str]:
    """Those that no client program can be given: secrets, which an argument would show, and what is for debugging."""
    return frozenset(o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.dispchar) - {"password"}


_FIELDS = frozenset({"host", "port", "user", "password", "dbname"})


def asked_for(options: Mapping[str, str]) -> frozenset[str]:
    """The parameters that a connection has, or else the environment, which both we and our client programs obey."""
    return frozenset(options) | {name for name, variable in variables().items() if os.environ.get(variable)}


def programs_that_obey(installed: Sequence[Programs], options: Mapping[str, str]) -> Sequence[Programs]:
    """The programs that know all that is asked for. An older one's libpq passes over a variable that it does not know,
    without a word, and so over a demand. Raises `ClientMissing` when none of those there are knows it."""
    wanted = asked_for(options) - _FIELDS
    unknown = {programs: _unknown_to(programs, wanted) for programs in installed}
    obeying = [programs for programs in installed if not unknown[programs]]
    if installed and not obeying:
        newest = max(installed)
        raise ClientMissing(
            f"pg_dump {newest.version} in {newest.folder} does not know {', '.join(unknown[newest])}, which the "
            "connection asks for.",
            hint="Install newer client programs: without it, they would reach the server in another way than it says.",
        )
    return obeying


def _unknown_to(programs: Programs, names: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in sorted(names) if not _knows(programs, name))


@cache
def _knows(programs: Programs, name: str) -> bool:
    """Asked of the program, as its libpq may be newer than itself. Nothing is reached by this."""
    nowhere = make_conninfo(host="/nonexistent", **{name: ""}) if name != "service" else "service=nonexistent"
    said = subprocess.run(
        [programs.path("pg_dump"), "--no-password", f"--dbname={nowhere}"],
        env={"LC_ALL": "C", "PATH": os.environ.get("PATH", "")},
        capture_output=True,
        check=False,
    )
    return b"invalid connection option" not in said.stderr
