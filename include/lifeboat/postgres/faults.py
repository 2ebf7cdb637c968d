"""What PostgreSQL's errors mean to the person who has to act: kind, message, hint, and whether to try again.

By SQLSTATE, the code or its class (PostgreSQL manual, Appendix A). A refused login has none in libpq, and neither has
what a client program says: there the server's own words, in English, tell the code, and libpq's what never reached it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from lifeboat.discretion import discreet, discreet_context, discreet_words
from lifeboat.errors import LifeboatError, SourceError, SourceRefused, SourceUnavailable

if TYPE_CHECKING:
    from lifeboat.postgres.connection import PostgresServer


@dataclass(frozen=True)
class Fault:
    """What follows the name of the place in a message, what to do, and which kind of error it is."""

    what: str
    hint: str
    kind: type[SourceError] = SourceRefused

    @property
    def passing(self) -> bool:
        """Whether the same may succeed later, without anybody doing anything."""
        return self.kind.transient

    def hint_for(self, user: str) -> str:
        """What to do, for one who logs in as `user`."""
        return self.hint.format(user=user)


@contextmanager
def errors_explained(server: PostgresServer, database: str) -> Iterator[None]:
    """Turn psycopg's errors into ours, which name server and database, and never the password nor a row."""
    try:
        yield
    except psycopg.Error as error:
        explained = _explained(error, server, database)
        # Whoever writes a traceback, as Airflow does, writes the cause's words too.
        error.args = (words_of(error),)
        raise explained from error


def words_of(error: psycopg.Error) -> str:
    """What an error says, without rows; with its SQLSTATE, if it has one."""
    code = error.sqlstate
    if code is None:
        words = str(error).partition("\nMultiple connection attempts")[0]
        return discreet(words if "CONTEXT:" in words else " ".join(words.split()))
    context = error.diag.context or ""
    words = discreet_words(error.diag.message_primary or "", context=context, risky=code[:2] in _OF_ROWS)
    where = discreet_context(context)
    return f"{words} (SQLSTATE {code}{f', in {where}' if where else ''})"


def fault_of(error: psycopg.Error) -> Fault | None:
    """What an error means; None for one that means nothing in particular."""
    if error.sqlstate is not None:
        return _of_code(error.sqlstate)
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return None
    return _of_login(str(error)) or SILENT


def is_full(error: psycopg.Error) -> bool:
    """Whether the server, the user or the database has as many connections as it may."""
    return fault_of(error) is _FAULTS["53300"]


def is_of_the_database(error: LifeboatError) -> bool:
    """Whether another database of the same server may let us in."""
    cause = error.__cause__
    fault = fault_of(cause) if isinstance(cause, psycopg.Error) else None
    return fault in (_NO_DATABASE, _FAULTS["CLOSED"], _FAULTS["42501"])


def fault_said(said: str) -> Fault | None:
    """What the words of a client program mean; None for what means nothing in particular. Definitions say nothing."""
    code = _code_in(re.sub(r"Command was: .*?(?=\npg_\w+: |\Z)", "", discreet(said), flags=re.DOTALL))
    return _of_code(code) if code else None


def _explained(error: psycopg.Error, server: PostgresServer, database: str) -> LifeboatError:
    place, words, fault = f"{server}, database {database!r}", words_of(error), fault_of(error)
    if fault is None:
        return SourceError(f"{place}: {words}", hint="The server's log may tell more.")
    if fault is _NO_DATABASE:
        return fault.kind(f"There is no database {database!r} on {server}.", hint=fault.hint)
    return fault.kind(f"{place} {fault.what}: {words}", hint=fault.hint_for(server.user))


# ---- what codes mean ------------------------------------------------------------------------------------------------

SILENT = Fault("does not answer", "Is it running, and reachable from here?", SourceUnavailable)

_NO_DATABASE = Fault(
    "is not there",
    "Correct the name where it is given: in platform.yaml, in the connection, or on the command line.",
)
_LOGIN = Fault("refuses the login", "Correct user and password of the connection, or pg_hba.conf.")
_TLS = Fault("is not trusted", "Correct sslmode, sslrootcert or the host's name in the connection.")
_POOLER = Fault(
    "does not understand how we connect",
    "A pooler in between refuses this. Connect to the server itself, or let the pooler ignore that parameter.",
)
_TIMEOUT = "A time limit of the server, the database or the user ends our sessions: raise it for {user}."

_FAULTS: Mapping[str, Fault] = {
    "08": Fault("lost the connection", "Look at the network between, and at the server's log.", SourceUnavailable),
    "08P01": _POOLER,
    "TLS": _TLS,
    "OTHER": Fault(
        "is not of the kind that the connection asks for (target_session_attrs)",
        "Name the server that is, or wait until a standby has been promoted.",
        SourceUnavailable,
    ),
    "28": _LOGIN,
    "3D000": _NO_DATABASE,
    "25006": Fault(
        "is read-only",
        "It is a standby, or default_transaction_read_only is set: name the primary, or take that back for {user}.",
    ),
    "25P03": Fault("ended our session for being idle", _TIMEOUT),
    "25P04": Fault("ended our transaction", _TIMEOUT),
    "40001": Fault(
        "cancelled what we did",
        "On a standby, what the primary does cancels what reads for long: set hot_standby_feedback = on there, raise "
        "max_standby_streaming_delay, or name the primary.",
        SourceUnavailable,
    ),
    "40P01": Fault(
        "cancelled what we did", "Others changed the same at the same time; begin again.", SourceUnavailable
    ),
    "42501": Fault("does not permit it", "Grant {user} the privilege it lacks."),
    "53100": Fault("has no room left", "Make room on the server's disk."),
    "53200": Fault(
        "has no memory left",
        "Where it is shared memory, it is for locks: raise max_locks_per_transaction there and start it anew.",
    ),
    "53300": Fault(
        "takes no more connections",
        "Wait until others are gone, or raise the limit: max_connections of the server, CONNECTION LIMIT of {user} or "
        "of the database. `connections:` of the source says how many a backup may have.",
        SourceUnavailable,
    ),
    "53400": Fault("has reached a limit of its configuration", "Raise that limit there."),
    "54": Fault("has reached a limit of PostgreSQL", "The server's log may tell more."),
    "55006": Fault("is in use", "Wait until others are gone, or end their connections.", SourceUnavailable),
    "55P03": Fault("waited for a lock", "Somebody holds a lock on a table; see pg_locks there.", SourceUnavailable),
    "CLOSED": Fault("takes no connections", "ALTER DATABASE … ALLOW_CONNECTIONS true, once it may be opened."),
    "57014": Fault(
        "cancelled what we did",
        "Somebody has cancelled it, or a statement_timeout is set: raise that for {user}.",
        SourceUnavailable,
    ),
    "57P01": Fault("ended our session", "The server stops, or somebody ended it; begin again.", SourceUnavailable),
    "57P02": Fault("ended our session", "The server has crashed; its log says why. Begin again.", SourceUnavailable),
    "57P03": Fault("is not ready", "It starts, stops or recovers; try again when it is up.", SourceUnavailable),
    "57P04": Fault("was dropped while we were connected", "Find out who dropped it."),
    "57P05": Fault("ended our session for being idle", _TIMEOUT),
    "58": Fault("cannot read or write its files", "Look at its disk and its log, before anything else."),
    "XX001": Fault("is damaged", "Look at its disk and its log. Keep the snapshots there are: hold the last good one."),
    "XX002": Fault("has a damaged index", "Look at its disk and its log; REINDEX, and check with pg_amcheck."),
}
"""By code, or by its first two letters. Codes that are none of PostgreSQL's are ours, for what has none."""

_OF_ROWS = frozenset({"22", "23", "2F", "38", "39", "44", "P0", "HV", "XX"})
"""Classes of errors whose words may be of a row."""


def _of_code(code: str) -> Fault | None:
    return _FAULTS.get(code) or _FAULTS.get(code[:2])


# ---- what has no code -----------------------------------------------------------------------------------------------

_WORDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), code)
    for pattern, code in (
        (r"password authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects", "28000"),
        (r"\w+ authentication failed for user|role \".*\" is not permitted to log in", "28000"),
        (r"FATAL: +role \".*\" does not exist|authentication method requirement", "28000"),
        (r"FATAL: +database \".*\" does not exist", "3D000"),
        (r"is not currently accepting connections", "CLOSED"),
        (
            r"too many connections for|too many clients already|remaining connection slots|too many .*connections",
            "53300",
        ),
        (r"the database system is|not yet accepting connections", "57P03"),
        (r"unsupported startup parameter|unsupported frontend protocol", "08P01"),
        (r"conflict with recovery", "40001"),
        (r"out of (?:shared )?memory", "53200"),
        (r"[Nn]o space left on device", "53100"),
        (r"canceling statement due to lock timeout", "55P03"),
        (r"canceling statement due to|cancelling statement due to", "57014"),
        (r"due to idle-in-transaction timeout", "25P03"),
        (r"due to transaction timeout", "25P04"),
        (r"due to idle-session timeout", "57P05"),
        (r"due to administrator command", "57P01"),
        (r"because of crash of another server process", "57P02"),
        (r"deadlock detected", "40P01"),
        (r"in a read-only transaction|during recovery", "25006"),
        (r"(?:ERROR|FATAL): +(?:permission denied|must be )|query would be affected by row-level", "42501"),
        (r"invalid page in block|could not read block|invalid (?:primary|secondary) checkpoint", "XX001"),
        (r"session is (?:not )?read-only|server is (?:not )?in hot standby", "OTHER"),
        (r"does not support SSL|certificate verify failed|SSL error|root certificate", "TLS"),
        (r"certificate .* (?:match|not exist)", "TLS"),
        (r"server closed the connection|connection (?:is|was|has been) lost|no connection to the server", "08006"),
        (r"could not (?:receive data|send data|translate host name)|Connection (?:refused|reset|timed out)", "08006"),
        (r"failed to resolve host|server terminated|SSL SYSCALL|timeout expired|Broken pipe", "08006"),
    )
)


def _code_in(words: str) -> str | None:
    return next((code for pattern, code in _WORDS if pattern.search(words)), None)


_ATTEMPT = re.compile(r"(?m)^- (host: .*?, port: '\d*'), hostaddr: .*?: connection failed: ")


def _of_login(words: str) -> Fault | None:
    """What a failed login means. One host may have several addresses, of which one answers; of several hosts, any may
    be up later."""
    attempts = _ATTEMPT.split(words)
    hosts: dict[str, Fault] = {}
    for host, said in zip(attempts[1::2], attempts[2::2], strict=False):
        fault = _one_login(said)
        if fault is not None and (host not in hosts or not _never_arrived(said)):
            hosts[host] = fault
    found = [fault for fault in hosts.values() if fault.passing] or list(hosts.values())
    return found[0] if found else _one_login(words)


def _one_login(words: str) -> Fault | None:
    code = _code_in(words)
    if code is None or code == "08006":
        return _UNKNOWN if ":  " in words else SILENT
    return _of_code(code)


_UNKNOWN = Fault("does not let us in", "The server's log may tell more.", SourceUnavailable)


def _never_arrived(words: str) -> bool:
    return _code_in(words) in (None, "08006")


class _Quiet(logging.Filter):
    """psycopg warns of an error at the end of a session that failed; the first, which is ours to tell, is the cause."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("error ignored")


logging.getLogger("psycopg").addFilter(_Quiet())
