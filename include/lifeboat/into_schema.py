"""Some tables of a snapshot beside the live ones, in a new schema of the live database, to compare and to take from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Unpack

from lifeboat.backup import RestoreOptions, read_evidence, restore_snapshot
from lifeboat.errors import SettingsError
from lifeboat.postgres.connection import PostgresServer
from lifeboat.postgres.programs import Programs
from lifeboat.postgres.rebuilding import refuse_lost_rows
from lifeboat.postgres.restore import temporary
from lifeboat.postgres.selection import Selection
from lifeboat.postgres.side_schema import SideSchema, check_schema_free, copy_into_schema
from lifeboat.postgres.swap import check_target
from lifeboat.postgres.unfinished import name_beside
from lifeboat.vault import Snapshot, Vault


def restore_into_schema(
    vault: Vault,
    snapshot: Snapshot,
    server: PostgresServer,
    live: str,
    schema: str,
    tables: Sequence[str],
    *,
    installed: Sequence[Programs],
    now: datetime,
    other_server: bool = False,
    **how: Unpack[RestoreOptions],
) -> SideSchema:
    """Restore some tables, named `name` or `schema.name`, beside `live`, compare them, and copy them into its new
    `schema`. What `live` has is not touched, and the database made for that is removed at the end.

    Raises as `check_target`, `restore_snapshot` and `copy_into_schema`; then `live` is as it was. May be repeated.
    """
    if not tables:
        raise SettingsError("Which tables are wanted in the new schema was not said.", hint="Name them: `tables`.")
    tell = how.get("report") or (lambda _: None)
    evidence = read_evidence(vault, snapshot, repository=how.get("repository"))
    for remark in check_target(server, live, evidence, other_server=other_server, added_to=True):
        tell(remark)
    check_schema_free(server, live, schema)
    side = name_beside(server, live, now, tell)
    restored = restore_snapshot(
        vault,
        snapshot,
        server,
        side,
        installed=installed,
        selection=Selection(tuple(tables)),
        statistics=False,
        **how,
    )
    with temporary(server, side):
        refuse_lost_rows(restored.not_rebuilt)
        made = copy_into_schema(
            server, live, side, schema, installed=installed, children=how.get("children"), report=tell
        )
    return replace(
        made,
        notes=(*restored.notes, *made.notes),
        damaged=restored.damaged,
        not_rebuilt=restored.not_rebuilt,
    )
