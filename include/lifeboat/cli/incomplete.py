"""How commands tell of a restore that is incomplete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lifeboat.cli.exit_codes import DEGRADED, INCOMPLETE, OK
from lifeboat.cli.output import remark, say_table

if TYPE_CHECKING:
    from lifeboat.postgres.rebuilding import NotRebuilt
    from lifeboat.postgres.restore import RestoreReport
    from lifeboat.postgres.side_schema import SideSchema

AllOrNothingOption = Annotated[
    bool,
    typer.Option("--all-or-nothing", help="Keep nothing when one object cannot be rebuilt; without it, rows are kept."),
]


def outcome_code(report: RestoreReport | SideSchema) -> int:
    """The exit code of a restore that has come to its end."""
    return INCOMPLETE if report.not_rebuilt else DEGRADED if report.damaged else OK


def say_not_rebuilt(not_rebuilt: Sequence[NotRebuilt]) -> None:
    """List what is missing, with the server's answers; and what would make it, to be run once its cause is mended."""
    rows = [["ROWS LOST" if one.rows_are_lost else one.kind, one.name, one.answer] for one in not_rebuilt]
    say_table(["not rebuilt", "name", "the server's answer"], rows)
    remark("What would make them, once the cause is mended:")
    for one in not_rebuilt:
        remark(one.statement)
