"""What `pg_dump` said, as an error that knows whether trying again can help."""

from __future__ import annotations

from lifeboat.children import Failure, how_it_ended
from lifeboat.discretion import discreet
from lifeboat.errors import DumpFailed, LifeboatError, SourceError
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.faults import fault_said
from lifeboat.postgres.huge_rows import HINT, tells_of_huge_row


def dump_failed(server: PostgresServer, database: str, artifact: str) -> Failure:
    """Makes the error of a `pg_dump` that ended badly."""

    def failure(status: int, said: str) -> LifeboatError:
        words = f"{how_it_ended(status)}: {discreet(said)[:3000] or 'it said nothing'}"
        message = f"The dump of {database!r} on {server} ({artifact}) {words}"
        if tells_of_huge_row(said):
            return SourceError(message, hint=f"A row of that table has more than 1 GiB as text. {HINT}")
        fault = fault_said(said)
        # What the server refused in so many words, it will refuse again; a connection that was lost is another matter.
        answered = SourceError if "ERROR:  " in said else DumpFailed
        kind = answered if fault is None else DumpFailed if fault.passing else fault.kind
        hint = "The server's log may tell more." if fault is None else fault.hint_for(server.user)
        return kind(message, hint=f"Nothing of it was kept. {hint}")

    return failure
