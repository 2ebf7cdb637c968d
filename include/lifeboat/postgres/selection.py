"""What of a database is meant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """What of a database is dumped: everything, or some tables (`name` or `schema.name`, each once), or definitions."""

    tables: tuple[str, ...] = ()
    schema_only: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", tuple(dict.fromkeys(self.tables)))

    @property
    def complete(self) -> bool:
        """Whether it is everything."""
        return not self.tables and not self.schema_only


EVERYTHING = Selection()
"""All of a database."""
