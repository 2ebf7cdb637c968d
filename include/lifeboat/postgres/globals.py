"""What `pg_dumpall --globals-only` wrote: which roles and tablespaces a server lacks, and what creates the roles."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

_NAME = r'("(?:[^"]|"")+"|\S+)'
_CREATED = re.compile(rf"CREATE ROLE {_NAME}\Z")
_ALTERED = re.compile(rf"(?:ALTER ROLE|COMMENT ON ROLE) {_NAME} ")
_GRANTED = re.compile(rf'GRANT (?!\S+ ON TABLESPACE )(?:"(?:[^"]|"")*"|[^"])+? TO {_NAME}')
_GRANTOR = re.compile(rf" GRANTED BY {_NAME}\Z")
_TABLESPACE = re.compile(rf"CREATE TABLESPACE {_NAME} ")


def missing_roles(script: str, existing: Collection[str]) -> tuple[str, ...]:
    """Roles the script creates that are not in `existing`, in its order."""
    return _missing(_CREATED, script, existing)


def missing_tablespaces(script: str, existing: Collection[str]) -> tuple[str, ...]:
    """Tablespaces the script creates that are not in `existing`, in its order."""
    return _missing(_TABLESPACE, script, existing)


def statements_for(script: str, roles: Sequence[str]) -> Iterator[str]:
    """The script's statements that create and describe these roles and make them members of others; no others."""
    for statement in split_statements(script):
        granted = _GRANTED.match(statement)
        found = _CREATED.match(statement) or _ALTERED.match(statement) or granted
        if found and name_of(found[1]) in roles:
            # Who granted a membership may not exist here, and is of no consequence.
            yield _GRANTOR.sub("", statement) if granted else statement


def split_statements(script: str) -> Iterator[str]:
    """The SQL statements of a script, without comments, psql's own commands and the semicolons."""
    statement: list[str] = []
    for token in _TOKENS.finditer(script):
        text = token[0]
        if text == ";":
            if whole := "".join(statement).strip():
                yield whole
            statement = []
        elif not text.startswith("--") and not (text.startswith("\\") and len(text) > 1):
            statement.append(text)


_TOKENS = re.compile(
    r"""
      --[^\n]*                     # a comment
    | (?m:^)\\[^\n]*               # a command of psql, such as \restrict
    | E'(?:[^'\\]|''|\\.)*'        # an escaped string
    | '(?:[^']|'')*'               # a string
    | "(?:[^"]|"")*"               # a quoted name
    | ;
    | [^;'"\\E-]+ | .              # anything else
    """,
    re.VERBOSE | re.DOTALL,
)


def _missing(pattern: re.Pattern[str], script: str, existing: Collection[str]) -> tuple[str, ...]:
    found = (pattern.match(statement) for statement in split_statements(script))
    names = (name_of(match[1]) for match in found if match)
    return tuple(name for name in names if name not in existing)


def name_of(token: str) -> str:
    """A name of the script, without its quotes."""
    return token[1:-1].replace('""', '"') if token.startswith('"') else token
