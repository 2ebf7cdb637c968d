"""What PostgreSQL says, without the rows that it quotes: the one place that decides which words may be shown.

A server's message may hold anything that a row holds: in its details and contexts, in a value that it found wrong, and,
where a function raised it, in every word. So details and contexts go, values go, and of what came out of a function
or out of rows only messages of known kinds stay, which name no more than tables, columns and constraints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LEFT_OUT = "(its words are left out: they may quote a row; the server's log has them)"
"""What stands for a message that may not be shown."""


def discreet(said: str) -> str:
    """What a client program, such as `pg_restore`, said, without rows and without passwords of definitions.

    It is read message by message: each begins with the name of a program, and whatever else it has belongs to it.
    """
    return "\n".join(filter(None, (_discreet_message(message) for message in _messages(said))))


def without_rows(text: str) -> str:
    """What may be stored unsealed of an error that Lifeboat has made: as `discreet`, whatever else it has gone through.

    Errors are discreet where they are made; this is for what others have said in between.
    """
    kept, quoting = [], False
    for line in text.splitlines():
        quoting = bool(_ROWS.match(line)) or (quoting and not _BEGINS.match(line))
        if not quoting:
            kept.append(_TO.sub(" …", _without_context(line)))
    return "\n".join(_without_values(line) for line in kept)


def discreet_words(words: str, *, context: str = "", risky: bool = False) -> str:
    """A server's primary message. `context` is where it came from; `risky` is one that is of a row by its kind."""
    if _RAISED.search(context) or "\n" in words.strip():
        return LEFT_OUT
    words = _without_values(" ".join(words.split()))
    return words if not (context or risky) or _OF_NAMES.fullmatch(words) else LEFT_OUT


def discreet_context(context: str) -> str:
    """Where a message came from: the function, or the table and the line, and nothing else; empty where unknown."""
    found = _WHERE.match(context.strip())
    return found[0] if found else ""


# ---- how messages are made up ---------------------------------------------------------------------------------------

_BEGINS = re.compile(r"(?:pg_\w+|psql|vacuumdb|reindexdb): ")
_SERVER = re.compile(
    r"(?s)(?P<lead>[^\n]*?\b\w+):  (?P<words>.*)"
)  # libpq puts two spaces after the severity, and nobody else
_FIELD = re.compile(r"(?P<name>DETAIL|HINT|CONTEXT|QUERY|LOCATION|STATEMENT|LINE \d+|Command was): ?(?P<text>.*)")
_ROWS = re.compile(r"(?:DETAIL|CONTEXT|QUERY|STATEMENT|LINE \d+):")
_RAISED = re.compile(r"\bRAISE\b|PL/(?!pgSQL)")

_WHERE = re.compile(
    r'PL/pgSQL function [\w."$]{1,200}\([\w .,"\[\]]{0,400}\) line \d+ at [\w /()]{1,60}$'
    r'|SQL function "[^"\n]{1,63}" (?:statement \d+|during \w+)$'
    r'|COPY [\w."$ ]{1,130}, line \d+',
    re.MULTILINE,
)


def _messages(said: str) -> Iterator[list[str]]:
    message: list[str] = []
    for line in said.splitlines():
        if _BEGINS.match(line) and message:
            yield message
            message = []
        message.append(line)
    if message:
        yield message


def _discreet_message(lines: list[str]) -> str:
    fields = _fields(lines)
    context = fields.get("CONTEXT", "")
    first = fields[""]
    found = None if _COMMAND.search(first) else _SERVER.fullmatch(first)
    if _COMMAND.search(first):
        first = _without_strings(first)
    elif found:
        first = f"{found['lead']}:  {discreet_words(found['words'], context=context)}"
    else:  # a program's own words
        first = _without_values(first)
    kept = [first]
    if where := discreet_context(context):
        kept.append(f"CONTEXT:  {where}")
    if "HINT" in fields and not context:
        kept.append(f"HINT: {_without_values(fields['HINT'])}")
    if "Command was" in fields:
        kept.append(f"Command was: {_without_strings(fields['Command was'])}")
    return "\n".join(kept)


def _fields(lines: list[str]) -> dict[str, str]:
    """A message's first words under the empty name, and its fields; a field that comes twice is told by its first."""
    name, fields = "", {"": [lines[0]]}
    for line in lines[1:]:
        field = _FIELD.fullmatch(line) if name != "Command was" else None
        if field is not None:
            name = field["name"]
            fields.setdefault(name, []).append(field["text"])
        else:
            fields[name].append(line)
    return {name: "\n".join(texts) for name, texts in fields.items()}


def _without_context(line: str) -> str:
    return re.sub(r"\s*\b(?:CONTEXT|DETAIL):  .*", "", line)


# ---- values ---------------------------------------------------------------------------------------------------------

_TO = re.compile(r"(?<= TO) .*")
_VALUES = (
    (re.compile(r'(?s): ".*"$'), ": …"),
    (re.compile(r'\b([Vv]alue) ".*?"(?= )'), r"\1 …"),
    (re.compile(r"\b(byte sequence)(?: 0x[0-9a-f]{2})+"), r"\1 …"),
    (re.compile(r"(: )0x[0-9a-f]{2}(?: 0x[0-9a-f]{2})*"), r"\1…"),
    (re.compile(r"(?<!\w)'(?:[^']|'')*'(?!\w)"), "'…'"),
)


def _without_values(words: str) -> str:
    for pattern, instead in _VALUES:
        words = pattern.sub(instead, words)
    return words


_COMMAND = re.compile(r"(?:Command|Query) was: ")
_SECRET = re.compile(r"USER MAPPING|SUBSCRIPTION|SERVER|FOREIGN|PASSWORD")


def _without_strings(command: str) -> str:
    """A definition as it is, but of those that hold passwords only the words around them."""
    return re.sub(r"'(?:[^']|'')*'", "'…'", command) if _SECRET.search(command) else command


# ---- what names no more than things of the database -----------------------------------------------------------------

_NAME = r'(?:"[^"\n]{1,130}"|[\w.$]{1,130})'
_TYPE = r'[\w ."\[\]()]{1,130}'
_THING = (
    r"(?:relation|column|function|procedure|type|schema|role|table|view|sequence|index|constraint|trigger|collation"
    r"|extension|language|database|server|materialized view|foreign table|aggregate|domain|operator class|publication"
    r"|text search configuration|text search dictionary|event trigger|parameter|large object|operator"
    r"|foreign-data wrapper|user mapping|tablespace|policy|rule)"
)
_OF_NAMES = re.compile(
    "|".join(
        (
            rf"{_THING} {_NAME}(?: (?:of|for|on) {_THING} {_NAME})? (?:does not exist|already exists|is not unique)",
            rf"(?:function|aggregate|procedure) {_NAME}\({_TYPE}?(?:, {_TYPE})*\) "
            r"(?:does not exist|is not unique|already exists)",
            rf"operator does not exist: {_TYPE} \S{{1,63}} {_TYPE}",
            rf"column reference {_NAME} is ambiguous",
            rf"permission denied (?:for|to) [\w ]{{1,60}}(?: {_NAME})?",
            rf"must be (?:owner|member|superuser|able)[\w ]{{0,60}}(?: {_NAME})?",
            rf"duplicate key value violates unique constraint {_NAME}",
            rf"conflicting key value violates exclusion constraint {_NAME}",
            rf"could not create (?:unique index|exclusion constraint) {_NAME}",
            rf"new row for relation {_NAME} violates (?:check constraint {_NAME}|partition constraint)",
            rf"(?:check|partition) constraint {_NAME} of relation {_NAME} is violated by some row",
            rf"check constraint {_NAME} is violated by some row",
            rf"null value in column {_NAME} of relation {_NAME} violates not-null constraint",
            rf"column {_NAME} of (?:relation|table) {_NAME} contains "
            r"(?:null values|values that violate the new constraint)",
            rf"value for domain {_TYPE} violates check constraint {_NAME}",
            rf"domain {_TYPE} does not allow null values",
            rf"(?:insert or update|update or delete) on table {_NAME} violates foreign key constraint "
            rf"{_NAME}(?: on table {_NAME})?",
            rf"no partition of relation {_NAME} found for row",
            rf"new row violates [\w -]{{1,40}}(?: {_NAME})? for (?:table|view) {_NAME}",
            rf"invalid input (?:syntax for type|value for enum) {_TYPE}(?:: …)?",
            r"(?:malformed (?:array|range|record) literal|date/time field value out of range)(?:: …)?",
            rf"value too long for type {_TYPE}",
            rf"value … is out of range for type {_TYPE}",
            r"[\w ]{1,40} out of range",
            r"numeric field overflow|division by zero|deadlock detected|stack depth limit exceeded",
            rf"missing data for column {_NAME}|extra data after last expected column|unexpected EOF in COPY data",
            rf"invalid byte sequence for encoding {_NAME}(?:: …)?",
            r"unsupported Unicode escape sequence",
            r"out of (?:shared )?memory|too many clients already",
            r"canceling (?:statement|autovacuum task) due to [\w -]{1,60}|terminating connection [\w -]{1,60}",
            r"could not (?:extend|write to|write|open|read|access|sync|fsync) file [^:]{1,130}(?:: [\w ]{1,60})?",
            r"cannot execute [A-Z ]{1,60} (?:in a read-only transaction|during recovery)",
            rf"unrecognized configuration parameter {_NAME}",
            r"cache lookup failed for [\w ]{1,40} \d+",
            rf"materialized view {_NAME} has not been populated",
            rf"could not connect to server {_NAME}",
            r"invalid memory alloc request size \d+",
            r"new encoding \(\w+\) is incompatible with the encoding of the template database \(\w+\)",
        )
    )
)
