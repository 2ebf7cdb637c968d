"""The runbook with real names: what to do when the platform is gone, for whoever has it in hand, on paper if need be.

It is stored beside the backups, unsealed: it names keys, connections and people, and has no secrets.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from lifeboat import __version__, break_glass
from lifeboat.assembly import database_source
from lifeboat.connections import variable_of
from lifeboat.document import Code, Heading, Items, Paragraph, Part, Table, as_html, as_markdown
from lifeboat.errors import LifeboatError, ObjectExists, RepositoryError, SettingsError
from lifeboat.inventory import Copy, Inventory, take_inventory
from lifeboat.keys import Recipient
from lifeboat.presets import Step, commands_of
from lifeboat.progress import size_text
from lifeboat.recovery.clock import span_text
from lifeboat.recovery.expected import expected_seconds, measured_in, size_of
from lifeboat.recovery.means import Means
from lifeboat.retention import good
from lifeboat.settings import RepositorySettings
from lifeboat.snapshot import Kind, Tier
from lifeboat.vault import Member, Snapshot

KEPT = 3
"""How many runbooks stay in a repository; an older one tells what was so then."""

PREFIX = f"{break_glass.PREFIX}runbook-"


@dataclass(frozen=True)
class Stored:
    """The keys of a runbook that was put into repositories, what older ones were removed, and why something was not.

    `lacking` are reasons by repository.
    """

    keys: tuple[str, ...]
    removed: tuple[str, ...]
    lacking: Mapping[str, str]


def runbook_markdown(means: Means, now: datetime) -> str:
    """The runbook as Markdown. Raises `RepositoryError` only when no repository answers."""
    return as_markdown(_parts(_look(means, now)))


def runbook_html(means: Means, now: datetime) -> str:
    """The runbook as one page of HTML that needs nothing else, and prints well. Raises as `runbook_markdown`."""
    return as_html(f"Runbook: {means.platform.platform}", _parts(_look(means, now)))


def store_runbook(means: Means, now: datetime) -> Stored:
    """Put the runbook into `break-glass/` of every repository that answers, and remove all but the newest few.

    Objects are never overwritten, so that a name has its moment. May be repeated. Raises `RepositoryError` when no
    repository took it.
    """
    facts = _look(means, now)
    markdown = as_markdown(_parts(facts))
    page = as_html(f"Runbook: {means.platform.platform}", _parts(facts))
    stem = f"{PREFIX}{now:%Y%m%dT%H%M%SZ}-{hashlib.sha256(page.encode()).hexdigest()[:8]}"
    objects = {f"{stem}.md": markdown, f"{stem}.html": page}
    lacking = {name: error.message for name, error in means.vault.absent.items()}
    failures: list[LifeboatError] = []
    removed: list[str] = []
    for member in means.vault.present:
        try:
            for key, text in objects.items():
                with suppress(ObjectExists):  # whose name has a digest of the page
                    member.repository.put(key, [text.encode()])
        except RepositoryError as error:
            lacking[member.name] = error.message
            failures.append(error)
            continue
        try:
            there = sorted({info.key.rpartition(".")[0] for info in member.repository.list(PREFIX)})
            for old in there[:-KEPT]:
                for key in (f"{old}.md", f"{old}.html"):
                    member.repository.delete(key)
                removed.append(f"{member.name}:{old}")
        except RepositoryError as error:
            lacking[member.name] = f"An older runbook stays there: {error.message}"
    if len(failures) == len(means.vault.present):
        raise failures[0] if failures else RepositoryError("No repository answers, so the runbook cannot be kept.")
    return Stored(tuple(objects), tuple(removed), lacking)


# ---- what there is --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A source, and the snapshots that a recovery would go back to."""

    name: str
    kind: Kind
    place: str
    newest: Snapshot | None
    proven: Snapshot | None
    expected: float | None

    @property
    def best(self) -> Snapshot | None:
        return self.proven or self.newest

    @property
    def label(self) -> str:
        return self.best.label if self.best else f"{self.name}/daily/<no snapshot yet>"


@dataclass(frozen=True)
class _Facts:
    means: Means
    now: datetime
    inventory: Inventory
    sources: tuple[_Source, ...]

    def of(self, kind: Kind) -> list[_Source]:
        return [source for source in self.sources if source.kind is kind]


def _look(means: Means, now: datetime) -> _Facts:
    inventory = take_inventory(means.vault, now=now)
    if len(inventory.silent) == len({*(member.name for member in means.vault.members), *means.vault.absent}):
        raise RepositoryError(f"No repository can be listed: {dict(inventory.silent)}.")
    proofs = measured_in(inventory)
    sources = []
    for name in means.platform.names():
        kind = means.platform.kind(name)
        copies = [c for c in inventory.copies if c.source == name and good(c, now)]
        newest = _newest(inventory, copies)
        proven = _newest(inventory, [c for c in copies if c.standing.proven])
        best = proven or newest
        expected = expected_seconds(name, kind, size_of(best.manifest), proofs) if best else None
        sources.append(_Source(name, kind, _place(means, name, kind), newest, proven, expected))
    return _Facts(means, now, inventory, tuple(sources))


def _newest(inventory: Inventory, copies: Sequence[Copy]) -> Snapshot | None:
    snapshots = [inventory.snapshots[copy.place] for copy in copies]
    return max(snapshots, key=lambda snapshot: snapshot.age, default=None)


def _place(means: Means, name: str, kind: Kind) -> str:
    platform = means.platform
    match kind:
        case Kind.POSTGRES:
            return f"database {_database(means, name)}, connection {platform.database(name).connection}"
        case Kind.REDIS:
            return f"connection {platform.redis(name).connection}"
        case Kind.FILES:
            return platform.file_tree(name).path
        case Kind.CONFIG:
            settings = platform.configuration(name)
            return f"{settings.root}: {', '.join(settings.paths)}"


def _database(means: Means, name: str) -> str:
    """A database's name, as far as it is known here."""
    try:
        return database_source(means.platform, name, means.lookup).database
    except SettingsError:
        return means.platform.database(name).database or "<its name>"


# ---- what it says ---------------------------------------------------------------------------------------------------


def _parts(facts: _Facts) -> Iterator[Part]:
    platform = facts.means.platform
    objectives = platform.objectives
    yield Heading(1, f"Runbook: {platform.platform}")
    yield Paragraph(
        f"As of {facts.now:%Y-%m-%d %H:%M} UTC. The platform must be back within {objectives.rto_hours:g} hours, and "
        f"may lose at most {objectives.rpo_hours:g} hours of data. This page is made anew every day and stored beside "
        "the backups; newer snapshots than those it names may be there."
    )
    yield Paragraph("Write down the time now: the clock runs from when the platform failed.", good=False)
    yield from _people(facts)
    yield from _protected(facts)
    yield from _ways()
    yield from _needed(facts)
    yield from _steps(facts)
    yield from _without_lifeboat(facts)
    yield Heading(2, "platform.yaml", new_page=True)
    yield Paragraph("Without secrets, as it was when this page was made. Put it in its place when it is gone too.")
    yield Code(_platform_text(facts))


def _people(facts: _Facts) -> Iterator[Part]:
    recovery = facts.means.platform.recovery
    yield Heading(2, "Whom to call")
    if recovery.contacts:
        yield Items(recovery.contacts)
    else:
        yield Paragraph("Nobody is named: platform.yaml has no recovery.contacts.", good=False)
    who = ", ".join(recovery.approvers) or "anybody who may answer in Airflow"
    yield Paragraph(f"A recovery in Airflow is approved by {who}, within {recovery.answer_within_minutes} minutes.")


def _protected(facts: _Facts) -> Iterator[Part]:
    yield Heading(2, "What is protected, and what it goes back to")
    yield Table(
        ("source", "place", "newest snapshot", "newest proven", "size", "takes about"),
        tuple(
            (
                f"{source.name} ({source.kind.value})",
                source.place,
                source.newest.label if source.newest else "FAILED: none",
                source.proven.label if source.proven else "none",
                size_text(size_of(source.best.manifest)) if source.best else "",
                "not known" if source.expected is None else span_text(source.expected),
            )
            for source in facts.sources
        ),
    )
    known = [source.expected for source in facts.sources if source.expected is not None]
    if known:
        yield Paragraph(
            f"One after the other, the restores take about {span_text(sum(known))}, as proofs have measured."
        )
    members = {member.name: member for member in facts.means.vault.members}
    yield Table(
        ("repository", "place", "connection", "has", "answers"),
        tuple(
            (
                repository.name,
                repository.url,
                repository.connection or "none",
                _tiers(members.get(repository.name)),
                "no" if repository.name in facts.inventory.silent else "yes",
            )
            for repository in facts.means.platform.repositories
        ),
    )


def _tiers(member: Member | None) -> str:
    return ", ".join(tier.value for tier in Tier if member is not None and tier in member.tiers)


def _ways() -> Iterator[Part]:
    yield Heading(2, "Which way to go")
    yield Table(
        ("when", "then"),
        (
            ("Airflow answers", "Trigger the DAG disaster_recovery: it does all steps, and asks before it replaces."),
            ("Airflow is gone, Lifeboat can be installed", "lifeboat recover-platform does the same on a terminal."),
            ("One step only, or another order", "The commands of each step are below."),
            ("Lifeboat is gone too", "Python and one private key are enough: the last chapter."),
        ),
    )
    yield Paragraph("Look before anything else; this changes nothing:")
    yield Code("lifeboat recover-platform --mode assess")


def _needed(facts: _Facts) -> Iterator[Part]:
    means = facts.means
    yield Heading(2, "What you need", new_page=True)
    yield Paragraph("Connections, as variables of the environment or in a file .env in the folder you work in:")
    yield Table(("variable", "leads to", "form"), tuple(_connections(facts)))
    recipients, signers = means.vault.keyring.recipients, means.vault.keyring.signers
    recipient_names = means.vault.recipient_names
    names = ", ".join(recipient_names)
    yield Paragraph(f"Keys: a private key of ANY ONE of {names}, as <name>.identity, and a public <name>.signer.")
    yield Table(
        ("key", "role", "key id"),
        (
            *((name, "recipient: its identity opens backups", _key_id(recipients, name)) for name in recipient_names),
            *((signer.name, "signer: shows that backups are genuine", signer.key_id) for signer in signers),
        ),
    )
    yield Paragraph(f"Lifeboat {__version__}, its platform.yaml (at the end of this page), and then:")
    yield Code("lifeboat keys check\nlifeboat list\nlifeboat health")


def _key_id(recipients: Mapping[str, Recipient], name: str) -> str:
    return recipients[name].key_id.hex() if name in recipients else "not known on this host"


def _connections(facts: _Facts) -> Iterator[tuple[str, str, str]]:
    platform = facts.means.platform
    keys = '{"conn_type": "generic", "extra": {"keyring": "/path/to/folder"}}'
    yield variable_of(platform.keyring), "the folder of keys", keys
    for repository in platform.repositories:
        if repository.connection:
            form = {"s3": "aws://<key id>:<secret>@/", "azure": "wasb://<account>:<key>@"}[repository.location.scheme]
            yield variable_of(repository.connection), f"repository {repository.name}", form
    for database in platform.sources.databases:
        form = f"postgres://<user>:<password>@<host>:5432/{_database(facts.means, database.name)}"
        yield variable_of(database.connection), f"database server of {database.name}", form
    for redis in platform.sources.redis:
        yield variable_of(redis.connection), f"Redis of {redis.name}", "redis://<user>:<password>@<host>:6379/0"


def _steps(facts: _Facts) -> Iterator[Part]:
    yield Heading(2, "1. Assess damage", new_page=True)
    yield Paragraph("What still answers, what is lost, and which snapshots are whole and proven:")
    yield Code("lifeboat recover-platform --mode assess\nlifeboat list")
    yield Paragraph(
        "The commands below name the newest proven snapshot of each source, or the newest where none is proven. A "
        "newer one, from the table above, loses less data; lifeboat verify shows whether it is whole."
    )
    yield Heading(2, "2. Prepare environment")
    if facts.of(Kind.CONFIG):
        yield Paragraph("When the configuration is gone, step 5 comes first: the commands below may need it.")
    yield from _commands(facts, "prepare", "Provide empty servers and folders as before, and start the data services.")
    yield Heading(2, "3. Restore database")
    yield Paragraph("Into an empty server, under its own name; nothing that exists is touched:")
    databases = facts.of(Kind.POSTGRES)
    yield _lines(_line("restore", s.label, "--to-database", _database(facts.means, s.name)) for s in databases)
    yield Paragraph("Over one that still lives; what was live is kept, and lifeboat undo brings it back:")
    yield _lines(_line("replace", s.label, "--i-know-this-replaces-the-live-database") for s in databases)
    yield Heading(2, "4. Restore files")
    trees = facts.of(Kind.FILES)
    yield Paragraph("Where the folder is gone; where it is still there, add --into-existing:")
    yield _lines(_line("files", "restore", s.label, "--to", s.place) for s in trees)
    yield Heading(2, "5. Restore configuration")
    yield Paragraph("What is replaced is kept beside, as <name>.before-<time>:")
    sets = facts.of(Kind.CONFIG)
    yield _lines(_line("config", "restore", s.label, "--in-place") for s in sets)
    if redis := facts.of(Kind.REDIS):
        yield Heading(2, "Restore Redis")
        yield Paragraph("Into a running server. Keys of the same names are not overwritten unasked:")
        yield _lines(_line("redis", "restore", source.label) for source in redis)
    yield Heading(2, "6. Verify and start")
    yield from _commands(facts, "migrate", "There are no migrations in platform.yaml.")
    yield from _commands(facts, "start", "Start the application as usual; platform.yaml has no commands for it.")
    yield from _commands(facts, "smoke", "Log in, and look at the newest invoice; platform.yaml has no smoke commands.")
    yield Heading(2, "7. Notify stakeholders")
    yield from _stakeholders(facts)


def _commands(facts: _Facts, step: Step, otherwise: str) -> Iterator[Part]:
    settings = facts.means.platform.application
    commands = commands_of(settings, step) if settings is not None else ()
    if commands:
        yield Paragraph(_BEFORE[step])
        yield Code("\n".join(map(shlex.join, commands)))
    else:
        yield Paragraph(otherwise)


def _stakeholders(facts: _Facts) -> Iterator[Part]:
    notify = facts.means.platform.notify
    rows = []
    if notify is not None and notify.status_page is not None:
        rows.append(("status page", f"connection {notify.status_page.connection}"))
    if notify is not None and notify.users is not None:
        rows.append(("users", f"{len(notify.users.to)} mail addresses in platform.yaml"))
    if notify is not None and notify.email is not None:
        rows.append(("operations", ", ".join(notify.email.to)))
    if rows:
        yield Table(("who", "how"), tuple(rows))
    else:
        yield Paragraph("platform.yaml names nobody in notify.")
    yield Paragraph("Document the incident: both disaster_recovery and lifeboat recover-platform write its report.")


def _without_lifeboat(facts: _Facts) -> Iterator[Part]:
    yield Heading(2, "When Lifeboat itself is gone", new_page=True)
    yield Paragraph(
        "You need Python 3.11 or newer, a folder KEYS with one .identity and one .signer, and any one repository. Its "
        "break-glass/ has the program and a page that says more."
    )
    yield Code(f"pip install 'cryptography>=48' backports.zstd boto3 azure-storage-blob\n{_PROGRAM} --help")
    for repository in facts.means.platform.repositories:
        lines = [
            line
            for source in facts.sources
            if source.best is not None and repository.name in source.best.repositories
            for line in _broken_glass(facts, repository, source, source.best)
        ]
        yield Heading(3, f"From the repository {repository.name}")
        yield Code("\n".join(lines) or "# it has none of the snapshots that are named above")


def _broken_glass(facts: _Facts, repository: RepositorySettings, source: _Source, snapshot: Snapshot) -> Iterator[str]:
    program = shlex.split(_PROGRAM)
    place = [repository.location.prefix if repository.location.scheme == "file" else repository.url]
    place += [snapshot.label, "--keys", "KEYS", *_endpoint(facts, repository)]
    if source.kind in (Kind.CONFIG, Kind.FILES):
        yield shlex.join([*program, "extract", *place, "--to", f"{source.name}-restored"])
        return
    yield shlex.join([*program, "unseal", *place, "--to", f"{source.name}-unsealed"])
    if source.kind is Kind.POSTGRES:
        made = shlex.join([*program, "commands", *place, "--from", f"{source.name}-unsealed"])
        yield f"{made} > {source.name}.sh"
        yield f"bash {source.name}.sh"


def _endpoint(facts: _Facts, repository: RepositorySettings) -> list[str]:
    """The address of a store that is not Amazon's, which is no secret."""
    try:
        connection = facts.means.lookup(repository.connection) if repository.connection else None
    except SettingsError:
        connection = None
    address = connection.extra.get("endpoint_url") if connection else None
    is_plain = isinstance(address, str) and re.fullmatch(r"https?://[^@\s]+", address)
    return ["--endpoint-url", str(address)] if is_plain and repository.location.scheme == "s3" else []


def _platform_text(facts: _Facts) -> str:
    """As it is, without the addresses of users, which are nobody else's concern."""
    notify = facts.means.platform.notify
    try:
        text = facts.means.platform.file.read_text("utf-8")
        for address in notify.users.to if notify is not None and notify.users is not None else ():
            text = text.replace(address, "<address>")
        return text
    except OSError as error:
        return f"# {facts.means.platform.file} could not be read: {error.strerror}."


def _lines(lines: Iterable[str]) -> Code:
    return Code("\n".join(lines) or "# there is none")


def _line(*arguments: str) -> str:
    return shlex.join(["lifeboat", *arguments])


_PROGRAM = f"python3 restore-{__version__}.py"

_BEFORE: Mapping[Step, str] = {
    "prepare": "Start what holds the data:",
    "migrate": "Run the migrations:",
    "start": "Start the application:",
    "smoke": "And see whether it is well:",
}
