"""A dump's table of contents, and which part of it is needed to have some of its tables alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lifeboat.errors import SourceRefused


@dataclass(frozen=True)
class Entry:
    """One definition in a dump, such as a TABLE or an INDEX, and the entries it cannot be without.

    `alters` is whether it only changes what another one makes.
    """

    number: int
    kind: str
    schema: str
    name: str
    needs: tuple[int, ...]
    alters: bool = False

    @property
    def label(self) -> str:
        """Schema and name, as people write them."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Part:
    """What of a dump makes up some tables: the numbers of its entries in their order, the tables themselves with all
    their partitions, the sequences they use, and what could not be taken along."""

    numbers: tuple[int, ...]
    tables: tuple[tuple[str, str], ...]
    sequences: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Early:
    """What can be built as soon as a table's rows are there: first, one after the other, constraints that have an
    index, and extended statistics; then the indexes, side by side."""

    alone: list[int]
    side_by_side: list[int]


def read_contents(script: str) -> tuple[Entry, ...]:
    """The entries of the script that `pg_restore --verbose --file=-` writes of a dump's definitions."""
    return _with_inherited_triggers(
        Entry(int(number), kind, schema, name, tuple(int(need) for need in needs.split()), bool(alters))
        for number, needs, name, kind, schema, alters in _ENTRY.findall(script)
    )


def to_restore_last(entries: Sequence[Entry]) -> frozenset[int]:
    """The entries that must come one by one after all others, and what needs them.

    An event trigger acts on all that is made after it. A partition's trigger that was switched off comes into being
    with that of its table, which `pg_restore --jobs` does not know. Of the indexes of a tree with several levels, two
    that are attached at the same time on different levels do not see each other, and one above both stays invalid.
    """
    last = {e.number for e in entries if e.kind == "EVENT TRIGGER" or (e.kind == "TRIGGER" and e.alters)}
    last |= _attached_on_several_levels(entries)
    grown = True
    while grown:
        more = {entry.number for entry in entries if last.intersection(entry.needs)} - last
        last |= more
        grown = bool(more)
    return frozenset(last)


def to_build_early(entries: Sequence[Entry], streams: Mapping[tuple[str, str], str]) -> Mapping[str, Early]:
    """What needs nothing but the rows of one table, by stream; `streams` are those of tables, by schema and name."""
    last = to_restore_last(entries)
    built = {entry.number for entry in entries if entry.kind in ("CONSTRAINT", "STATISTICS", "INDEX")}
    tables = {entry.number: streams.get((entry.schema, entry.name)) for entry in entries if entry.kind == "TABLE"}
    early: dict[str, Early] = {}
    for entry in _apart(entries):
        on = {tables[number] for number in entry.needs if number in tables}
        if len(on) == 1 and entry.number in built - last and not built.intersection(entry.needs):
            (stream,) = on
            if stream is not None:
                found = early.setdefault(stream, Early([], []))
                (found.side_by_side if entry.kind == "INDEX" else found.alone).append(entry.number)
    return early


def choose_part(entries: Sequence[Entry], names: Sequence[str]) -> Part:
    """What is needed to have the tables of these names, `name` or `schema.name`, with their partitions.

    Foreign keys, triggers and the like come along unless they need a table that was not chosen. Raises `SourceRefused`
    for a name that fits no table or several.
    """
    entries = _apart(entries)
    by_number = {entry.number: entry for entry in entries}
    chosen = _with_partitions(entries, {_find(entries, name).number for name in names})
    needed, own = _closure(by_number, chosen), set(chosen)
    notes = [
        f"{by_number[number].label} is there too, without rows, since definitions need it."
        for number in sorted(needed - chosen)
        if by_number[number].kind == "TABLE"
    ]
    left_out: dict[int, str] = {}
    grown = True
    while grown:
        grown = False
        for entry in entries:
            belongs = own if entry.kind in _ATTACHED else needed if entry.kind in _REMARKS else set()
            if entry.number in needed or not belongs.intersection(entry.needs):
                continue
            with_it = _closure(by_number, {entry.number})
            foreign = [by_number[n] for n in with_it - needed if by_number[n].kind in _RELATIONS]
            if foreign:
                others = ", ".join(sorted(other.label for other in foreign))
                left_out[entry.number] = f"The {entry.kind} {entry.name!r} was left out: it needs {others}."
            else:
                needed |= with_it
                own.add(entry.number)
                grown = True
    notes += [note for number, note in left_out.items() if by_number[number].kind in _WORTH_A_NOTE]
    there = [entry for entry in entries if entry.number in needed]
    return Part(
        tuple(entry.number for entry in there),
        tuple((entry.schema, entry.name) for entry in there if entry.number in chosen),
        tuple((entry.schema, entry.name) for entry in there if entry.kind == "SEQUENCE"),
        tuple(notes),
    )


def use_list(numbers: Collection[int]) -> bytes:
    """What `pg_restore --use-list` reads."""
    return "".join(f"{number};\n" for number in numbers).encode()


def all_numbers(listing: str) -> tuple[int, ...]:
    """The numbers of all entries that `pg_restore --list` has printed, in its order."""
    return tuple(int(number) for number in re.findall(r"^(\d+); ", listing, re.MULTILINE))


def _find(entries: Sequence[Entry], name: str) -> Entry:
    found = [e for e in entries if e.kind == "TABLE" and name in (e.name, e.label)]
    if len(found) != 1:
        places = ", ".join(entry.label for entry in found)
        raise SourceRefused(
            f"Several tables are called {name!r}: {places}." if found else f"The snapshot has no table {name!r}.",
            hint="Name the schema too." if found else "Write it as `name` or `schema.name`, without quotes.",
        )
    return found[0]


def _with_inherited_triggers(found: Iterable[Entry]) -> tuple[Entry, ...]:
    """The same, where what switches a partition's trigger on or off needs the trigger of the table it comes from.

    `pg_dump` leaves this out, though without it there is nothing to switch.
    """
    entries = tuple(found)
    tables = {entry.number: entry for entry in entries if entry.kind == "TABLE"}
    by_name = {(table.schema, table.name): table.number for table in tables.values()}
    above: dict[int, set[int]] = {}
    for entry in entries:
        if entry.kind == "TABLE ATTACH" and (child := by_name.get((entry.schema, entry.name))) is not None:
            above[child] = {number for number in entry.needs if number in tables} - {child}
    makers = [entry for entry in entries if entry.kind == "TRIGGER" and not entry.alters]

    def origins(entry: Entry) -> set[int]:
        own = [tables[n] for n in entry.needs if n in tables and entry.name.startswith(f"{tables[n].name} ")]
        names = {entry.name.removeprefix(f"{table.name} ") for table in own}
        ancestors: set[int] = set()
        waiting = [table.number for table in own]
        while waiting:
            more = above.get(waiting.pop(), set()) - ancestors
            ancestors |= more
            waiting += more
        made = {f"{tables[number].name} {name}" for number in ancestors for name in names}
        return {maker.number for maker in makers if maker.name in made and ancestors.intersection(maker.needs)}

    return tuple(
        replace(entry, needs=(*entry.needs, *sorted(origins(entry))))
        if entry.kind == "TRIGGER" and entry.alters
        else entry
        for entry in entries
    )


def _with_partitions(entries: Sequence[Entry], chosen: set[int]) -> set[int]:
    numbers = {(entry.schema, entry.name): entry.number for entry in entries if entry.kind == "TABLE"}
    attached = [(numbers[e.schema, e.name], e.needs) for e in entries if e.kind == "TABLE ATTACH"]
    found: set[int] = set()
    while chosen:
        found |= chosen
        chosen = {child for child, parents in attached if child not in found and chosen.intersection(parents)}
    return found


def _apart(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The same, with partitions and their indexes that can be without their parents: attaching them is an entry of its
    own."""
    kin: dict[int, set[int]] = {}
    for _, children, parents in _attachments(entries):
        for child in children:
            kin.setdefault(child, set()).update(parents)
    return tuple(
        replace(entry, needs=tuple(n for n in entry.needs if n not in kin.get(entry.number, ()))) for entry in entries
    )


def _attachments(entries: Sequence[Entry]) -> Iterator[tuple[Entry, set[int], set[int]]]:
    """What attaches partitions and their indexes: its entry, that of the child, and what it is attached to."""
    by_number = {entry.number: entry for entry in entries}
    for entry in entries:
        if entry.kind in ("TABLE ATTACH", "INDEX ATTACH"):
            there = [by_number[number] for number in entry.needs if number in by_number]
            # A constraint's name is that of its table and its own.
            children = {e.number for e in there if e.name == entry.name or e.name.endswith(f" {entry.name}")}
            yield entry, children, {e.number for e in there} - children


def _attached_on_several_levels(entries: Sequence[Entry]) -> set[int]:
    """The entries that attach indexes in trees where what they are attached to is attached itself."""
    found = [attachment for attachment in _attachments(entries) if attachment[0].kind == "INDEX ATTACH"]
    children = {child for _, its, _ in found for child in its}
    between = {parent for _, _, parents in found for parent in parents} & children
    concerned = between | {parent for _, its, parents in found if its & between for parent in parents}
    return {entry.number for entry, its, parents in found if (its | parents) & concerned}


def _closure(by_number: Mapping[int, Entry], numbers: Collection[int]) -> set[int]:
    """These entries and all that they need, as far as the dump has it."""
    found: set[int] = set()
    waiting = list(numbers)
    while waiting:
        number = waiting.pop()
        if number in by_number and number not in found:
            found.add(number)
            waiting += by_number[number].needs
    return found


# What belongs to a table without being needed by it, and what is said of anything.
_ATTACHED = frozenset(
    {"CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT", "FK CONSTRAINT", "INDEX", "INDEX ATTACH", "POLICY", "ROW SECURITY",
     "RULE", "SEQUENCE", "SEQUENCE OWNED BY", "STATISTICS", "TABLE ATTACH", "TRIGGER"}
)  # fmt: skip
_REMARKS = frozenset({"ACL", "COMMENT", "SECURITY LABEL"})
_RELATIONS = frozenset({"TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"})
_WORTH_A_NOTE = frozenset({"CHECK CONSTRAINT", "DEFAULT", "FK CONSTRAINT", "POLICY", "RULE", "TRIGGER"})

_ENTRY = re.compile(
    r"^-- TOC entry (\d+) \(class \d+ OID \d+\)\n(?:-- Dependencies:((?: \d+)+)\n)?"
    r"-- Name: (.*); Type: ([A-Z ]+); Schema: (.*); Owner: .*$(?:\n-- Data Pos: .*)?(?:\n--\n+(ALTER TABLE) )?",
    re.MULTILINE,
)
