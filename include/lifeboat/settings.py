"""What is protected, where it is kept and for how long: `platform.yaml`, checked line by line.

Secrets are never in it, only the ids of connections (see `connections.py`). The text of each field's `description` is
the remedy an error gives, so it is written to follow the words "Give".
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from lifeboat.archive_classes import too_slow
from lifeboat.errors import SettingsError
from lifeboat.files.scan import check_pattern
from lifeboat.located_yaml import KeyPath, LocatedYaml, parse_yaml, read_yaml
from lifeboat.recovery.model import Phase
from lifeboat.smoke import SmokeChecks, read_sql_checks
from lifeboat.snapshot import Kind, Tier, check_name


def platform_path(environ: Mapping[str, str]) -> Path:
    """Which platform.yaml to use: what LIFEBOAT_PLATFORM names, else the one beside this package."""
    chosen = environ.get("LIFEBOAT_PLATFORM")
    return Path(chosen) if chosen else Path(__file__).resolve().parent.parent / "platform.yaml"


def load_platform(file: Path) -> Platform:
    """The platform described in a file. Raises one `SettingsError` listing every problem, its line and remedy."""
    platform = _platform_of(read_yaml(file))
    _check_smoke_files(platform)
    return platform


def parse_platform(text: str, file: Path) -> Platform:
    """The platform described in a text that the file once had. Raises `SettingsError` as `load_platform`.

    Files that it names are not looked at: what is wrong with one of them must not keep all else from being known.
    """
    return _platform_of(parse_yaml(text, file))


def _platform_of(located: LocatedYaml) -> Platform:
    file = located.file
    if not isinstance(located.data, dict):
        raise SettingsError(
            f"{file} must be a mapping of settings, and is {_shown(located.data)}.",
            hint="Begin with `platform: <name>`; include/platform.yaml is an example.",
        )
    problems = list(_repetitions(located))
    try:
        platform = Platform.model_validate(located.data)
    except ValidationError as error:
        problems += [_problem(details) for details in error.errors(include_url=False)]
    if problems:
        raise _as_error(located, problems)
    platform._located = located
    return platform


# ---- locations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Location:
    """A repository's url, taken apart. For `file` the container is empty and the prefix is an absolute path."""

    scheme: str
    container: str
    prefix: str


def parse_location(url: str) -> Location:
    """Take a repository's url apart. Raises `SettingsError` saying what is wrong with it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    check = _SCHEMES.get(parts.scheme)
    if check is None:
        raise SettingsError("This is no repository's url.", hint=_URL_HINT)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingsError(
            "A repository's url has no credentials, parameters or fragment.",
            hint="Put credentials into the connection, and only its id into platform.yaml.",
        )
    return check(parts)


def _s3_location(parts: SplitResult) -> Location:
    # Amazon S3 User Guide, "Bucket naming rules"; the stores that imitate S3 keep to them.
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", parts.netloc):
        raise SettingsError(
            f"{parts.netloc!r} cannot be a bucket's name.",
            hint="A bucket has 3 to 63 lower-case letters, digits, dots and hyphens. " + _URL_HINT,
        )
    return Location("s3", parts.netloc, _prefix(parts.path))


def _azure_location(parts: SplitResult) -> Location:
    # Azure Storage documentation, "Naming and referencing containers, blobs, and metadata".
    if not re.fullmatch(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*", parts.netloc):
        raise SettingsError(
            f"{parts.netloc!r} cannot be a container's name.",
            hint="A container has 3 to 63 lower-case letters, digits and single hyphens. " + _URL_HINT,
        )
    return Location("azure", parts.netloc, _prefix(parts.path))


def _file_location(parts: SplitResult) -> Location:
    path = PurePosixPath(parts.path)
    if parts.netloc or not path.is_absolute() or path == PurePosixPath("/") or ".." in path.parts:
        raise SettingsError(
            "A local repository is an absolute path below the root.", hint="Write file:///path, with three slashes."
        )
    return Location("file", "", str(path))


def _prefix(path: str) -> str:
    prefix = path.strip("/")
    if prefix and not re.fullmatch(r"(?!.*(^|/)\.{0,2}(/|$))[A-Za-z0-9._/=-]+", prefix):
        raise SettingsError(
            f"{prefix!r} cannot be a repository's prefix.",
            hint="Use letters, digits, `.`, `_`, `-` and `=`, in parts divided by single slashes.",
        )
    return prefix


_SCHEMES = {"s3": _s3_location, "azure": _azure_location, "file": _file_location}
_URL_HINT = "Write s3://bucket/prefix, azure://container/prefix or file:///path."


# ---- models ---------------------------------------------------------------------------------------------------------


def _name(text: str) -> str:
    return check_name(text, "a source or repository")


def _check(rule: typing.Callable[[str], object]) -> AfterValidator:
    """A rule that raises `SettingsError`, as pydantic takes it."""

    def validate(text: str) -> str:
        try:
            rule(text)
        except SettingsError as error:
            raise _fault(error.message, error.hint) from None
        return text

    return AfterValidator(validate)


def _check_absolute(path: str) -> None:
    if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise SettingsError("This is no absolute path.", hint="Write it from the root, without `..`: /app/uploads.")


def _check_below(pattern: str) -> None:
    if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
        raise SettingsError("This is not below the root.", hint="Write it from the root's own folder: k8s/*.yaml.")


def _check_http(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError("This is no address to be asked.", hint="Write http://host:port/path.")
    if "@" in parts.netloc:
        raise SettingsError("An address has no credentials.", hint="Let the smoke command ask with credentials.")


def _check_address(text: str) -> None:
    if not re.fullmatch(r"[^@\s,;<>]+@[^@\s,;<>]+", text):
        raise SettingsError("This is no mail address.", hint="Write one address alone, such as operations@example.com.")


def _fault(message: str, remedy: str, at: KeyPath = ()) -> PydanticCustomError:
    # Braces in a template are placeholders to pydantic, so the text itself is handed over as one.
    return PydanticCustomError("lifeboat", "{text}", {"text": message, "remedy": remedy, "at": at})


def _two_recipients(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) < 2:
        raise _fault(
            "backups must be sealed for at least two different recipients: losing the private key of a single one "
            "would lose every backup.",
            "Add the offline one: `recipients: [operations, escrow]`.",
        )
    return names


def _not_empty(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    # Not `min_length`, which pydantic also reports of a list whose items are all wrong.
    if not items:
        raise _fault("there must be at least one.", "A platform without any is not protected at all.")
    return items


_Item = typing.TypeVar("_Item")
_Source = typing.TypeVar("_Source", "DatabaseSettings", "FileTreeSettings", "ConfigurationSettings", "RedisSettings")
_Slug = Annotated[str, _check(_name)]
_Count = Annotated[int, Field(strict=True, gt=0)]
_CountOrNone = Annotated[int, Field(strict=True, ge=0)]
_Hours = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Commands = tuple[Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_not_empty)], ...]
_ConnectionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
_Action = Literal["stop", "go on"]
# A name that begins with a hyphen would be taken for an option.
_Service = Annotated[str, Field(pattern=r"^[A-Za-z0-9@_][A-Za-z0-9@_./:-]*(=[0-9]+)?$")]


def _word_for_off(value: Any) -> Any:
    # YAML reads a bare `off` as false.
    return "off" if value is False else value


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Objectives(_Settings):
    """What the business can bear."""

    rto_hours: _Hours = Field(default=4, description="the hours the platform may be down, such as 4")
    rpo_hours: _Hours = Field(default=24, description="the hours of data that may be lost, such as 24")


class Retention(_Settings):
    """How many days, weeks and months of snapshots are kept."""

    daily: _Count = Field(default=30, description="a whole number of days, at least 1")
    weekly: _Count = Field(default=12, description="a whole number of weeks, at least 1")
    monthly: _Count = Field(default=12, description="a whole number of months, at least 1")
    brake: Annotated[float, Field(strict=True, gt=0, le=1)] = Field(
        default=0.25, description="the share of a source's snapshots that may vanish at once, such as 0.25"
    )
    grace_days: Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)] = Field(
        default=3, description="the days after which leftovers are swept, at least 1"
    )

    def counts(self) -> Mapping[Tier, int]:
        """How many periods are kept in each tier."""
        return {Tier.DAILY: self.daily, Tier.WEEKLY: self.weekly, Tier.MONTHLY: self.monthly}


class Proofs(StrEnum):
    """How often snapshots are proven. More often contains less often."""

    NIGHTLY = "nightly"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    OFF = "off"

    def cover(self, tier: Tier) -> bool:
        """Whether what goes into a tier, daily ones included, is proven."""
        return self is not Proofs.OFF and list(Proofs).index(self) <= list(Tier).index(tier)


class OwnRetention(_Settings):
    """What one repository keeps instead. A tier that is not named is not kept there."""

    daily: _Count = Field(description="a whole number of days, at least 1")
    weekly: _CountOrNone = Field(default=0, description="a whole number of weeks; 0 keeps none")
    monthly: _CountOrNone = Field(default=0, description="a whole number of months; 0 keeps none")

    def counts(self) -> Mapping[Tier, int]:
        """How many periods are kept in each tier."""
        return {Tier.DAILY: self.daily, Tier.WEEKLY: self.weekly, Tier.MONTHLY: self.monthly}


class StorageClasses(_Settings):
    """The provider's storage class for each tier; its default where none is named."""

    daily: str | None = Field(default=None, description="a storage class of the provider, such as STANDARD or Hot")
    weekly: str | None = Field(default=None, description="a storage class of the provider, such as STANDARD_IA or Cool")
    monthly: str | None = Field(default=None, description="a storage class of the provider, such as GLACIER or Archive")

    def by_tier(self) -> Mapping[Tier, str]:
        """Those that are named."""
        return {tier: name for tier in Tier if (name := getattr(self, tier.value)) is not None}


class RepositorySettings(_Settings):
    """One place where snapshots are kept."""

    name: _Slug = Field(description="a short name for messages, such as primary")
    url: Annotated[str, _check(parse_location)] = Field(
        description="s3://bucket/prefix, azure://container/prefix or file:///path"
    )
    connection: _ConnectionId | None = Field(default=None, description="the id of a connection, such as lifeboat_s3")
    required: bool = Field(default=True, strict=True, description="true when every snapshot must be there, else false")
    storage_class: StorageClasses = Field(default=StorageClasses(), description="a storage class for each tier")
    retention: OwnRetention | None = Field(default=None, description="what this repository keeps, such as {daily: 7}")
    object_lock: Literal["governance", "compliance"] | None = Field(
        default=None, description="governance or compliance, in a bucket or container that locks objects"
    )
    encryption: Literal["AES256", "aws:kms"] | None = Field(
        default=None, description="AES256 or aws:kms, where a bucket's policy demands that the store encrypts"
    )
    encryption_key: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="the id or ARN of a KMS key, with `encryption: aws:kms`"
    )

    @property
    def location(self) -> Location:
        """The url, taken apart."""
        return parse_location(self.url)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> RepositorySettings:
        local = self.location.scheme == "file"
        if self.connection is None and not local:
            raise _fault(
                f"{self.url} needs credentials.",
                "Add `connection: <id>` to this repository.",
                at=("connection",),
            )
        if self.connection is not None and local:
            raise _fault("a local repository takes no connection.", "Remove this line.", at=("connection",))
        if local and self.object_lock:
            raise _fault("a local repository cannot lock objects.", "Remove this line.", at=("object_lock",))
        if self.encryption and self.location.scheme != "s3":
            raise _fault("only S3 is told how to encrypt.", "Remove this line.", at=("encryption",))
        if self.encryption_key and self.encryption != "aws:kms":
            raise _fault(
                "a key is for the encryption aws:kms.",
                "Add `encryption: aws:kms`, or remove this.",
                at=("encryption_key",),
            )
        for tier, storage_class in self.storage_class.by_tier().items():
            at = ("storage_class", tier.value)
            if local:
                raise _fault("a local repository has no storage classes.", "Remove this line.", at=at)
            if tier is Tier.DAILY and storage_class.upper() in _ARCHIVES:
                raise _fault(
                    f"snapshots in {storage_class} cannot be read back the same night, and daily ones are.",
                    "Keep archive classes for `monthly`.",
                    at=at,
                )
        return self


_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE", "ARCHIVE")


class DatabaseSettings(_Settings):
    """One PostgreSQL database."""

    name: _Slug = Field(description="a short name for the source, such as receivables")
    connection: _ConnectionId = Field(description="the id of a PostgreSQL connection, such as platform_db")
    database: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the database's name where it is not the connection's own"
    )
    content_hash: bool = Field(
        default=False, strict=True, description="true to hash every row as evidence (slower), else false"
    )
    stream_size: ByteSize | None = Field(
        None, gt=0, description="the bytes of rows a stream is to have, such as 256 MiB"
    )
    connections: int | None = Field(
        None, ge=3, description="how many connections a backup may have at a time, 3 or more, such as 5"
    )
    smoke_checks: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="a file of SQL checks beside platform.yaml, such as smoke_checks.yaml"
    )
    smoke_command: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] | None = Field(
        None, description="a program and its arguments as a list, such as [./smoke.sh, --quick]"
    )
    smoke_url: Annotated[str, _check(_check_http)] | None = Field(
        None, description="an address that must answer, such as http://127.0.0.1:8000/health"
    )


class MirrorSettings(_Settings):
    """A copy of a tree that is not encrypted, to be browsed."""

    plain: Annotated[str, _check(parse_location)] = Field(
        description="a place of its own, s3://bucket/prefix, azure://container/prefix or file:///path; unencrypted"
    )
    connection: _ConnectionId | None = Field(default=None, description="the id of a connection, such as lifeboat_s3")
    layout: typing.Literal["rolling", "dated"] = Field(
        default="rolling", description="rolling, one copy that is kept up to date, or dated, one for each day"
    )
    grace_days: _Count = Field(default=7, description="the days that what has vanished stays, such as 7")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> MirrorSettings:
        if (self.connection is None) != (parse_location(self.plain).scheme == "file"):
            raise _fault(
                "a store needs a connection, and a folder has none.", "Add or remove `connection:`.", at=("connection",)
            )
        return self


class NamedBySettings(_Settings):
    """Where the files of a tree are named: in a database, by a query."""

    database: _Slug = Field(description="the name of one of the databases above, such as receivables")
    sql: Annotated[str, Field(min_length=1)] = Field(
        description="a query for their paths, below the tree's folder or absolute, such as SELECT path FROM documents"
    )


class FileTreeSettings(_Settings):
    """One tree of files."""

    name: _Slug = Field(description="a short name for the source, such as uploads")
    path: Annotated[str, _check(_check_absolute)] = Field(description="the tree's folder, such as /app/uploads")
    exclude: tuple[Annotated[str, _check(check_pattern)], ...] = Field(
        default=(), description="a list of patterns of what to leave out, such as [cache/, '*.tmp']"
    )
    may_vanish_percent: Annotated[int, Field(strict=True, ge=0, le=100)] = Field(
        default=50, description="the percentage of files that may be gone before a backup is refused, such as 50"
    )
    mirror: MirrorSettings | None = Field(
        default=None, description="a mirror, beginning with `plain:`; it is not encrypted"
    )
    named_by: NamedBySettings | None = Field(
        default=None, description="a database and a query that names the files, beginning with `database:`"
    )


class ConfigurationSettings(_Settings):
    """One set of configuration files."""

    name: _Slug = Field(description="a short name for the source, such as configuration")
    root: Annotated[str, _check(_check_absolute)] = Field(
        description="the folder they are in, such as /opt/sme-platform"
    )
    paths: Annotated[
        tuple[Annotated[str, Field(min_length=1), _check(_check_below)], ...], AfterValidator(_not_empty)
    ] = Field(description="a list of files and patterns below the root, such as [.env, k8s/*.yaml]")


class RedisSettings(_Settings):
    """One Redis instance."""

    name: _Slug = Field(description="a short name for the source, such as sessions")
    connection: _ConnectionId = Field(description="the id of a Redis connection, such as platform_redis")


class Sources(_Settings):
    """Everything that is protected."""

    databases: tuple[DatabaseSettings, ...] = Field(
        default=(), description="a list of databases, each with a name and a connection"
    )
    files: tuple[FileTreeSettings, ...] = Field(default=(), description="a list of trees, each with a name and a path")
    configuration: tuple[ConfigurationSettings, ...] = Field(
        default=(), description="a list of sets of files, each with a name, a root and paths"
    )
    redis: tuple[RedisSettings, ...] = Field(
        default=(), description="a list of Redis instances, each with a name and a connection"
    )

    @model_validator(mode="after")
    def _protects_something(self) -> Sources:
        if not any(getattr(self, section) for section in SECTIONS.values()):
            raise _fault(
                "there must be at least one source.",
                f"Begin with one of: {', '.join(SECTIONS.values())}. A platform without any is not protected at all.",
            )
        return self

    @model_validator(mode="after")
    def _names_files_in_what_there_is(self) -> Sources:
        known = [database.name for database in self.databases]
        for index, tree in enumerate(self.files):
            if tree.named_by is not None and tree.named_by.database not in known:
                raise _fault(
                    "there is no such database among the sources.",
                    f"Name one of: {', '.join(known) or 'none is there'}.",
                    at=("files", index, "named_by", "database"),
                )
        return self


SECTIONS: Mapping[Kind, str] = {
    Kind.POSTGRES: "databases",
    Kind.FILES: "files",
    Kind.CONFIG: "configuration",
    Kind.REDIS: "redis",
}
"""Where in `sources` the sources of each kind are named."""


class Preset(StrEnum):
    """What runs the platform's services, and so which commands prepare, stop and start them."""

    DOCKER_COMPOSE = "docker-compose"
    SYSTEMD = "systemd"
    KUBERNETES = "kubernetes"


class TimeLimits(_Settings):
    """Seconds that a command of a step may take, where it is not `timeout`; for `answer`, that servers may take."""

    prepare: _Seconds | None = Field(default=None, description="the seconds a command may take, such as 600")
    answer: _Seconds | None = Field(default=None, description="the seconds until servers must answer, such as 300")
    stop: _Seconds | None = Field(default=None, description="the seconds a command may take, such as 120")
    migrate: _Seconds | None = Field(default=None, description="the seconds a command may take, such as 1800")
    start: _Seconds | None = Field(default=None, description="the seconds a command may take, such as 120")
    smoke: _Seconds | None = Field(default=None, description="the seconds a command may take, such as 60")


class FailureActions(_Settings):
    """What becomes of a recovery when a command of a step fails."""

    prepare: _Action = Field(default="stop", description="stop or go on")
    migrate: _Action = Field(default="stop", description="stop or go on")
    start: _Action = Field(default="stop", description="stop or go on")
    smoke: _Action = Field(default="stop", description="stop or go on")


class ApplicationSettings(_Settings):
    """How the platform's applications are made ready, stopped while data is replaced, started again, and tried."""

    preset: Preset | None = Field(
        default=None, description="docker-compose, systemd or kubernetes; it makes commands that are not given"
    )
    project: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="the folder of docker-compose.yml, or the namespace in Kubernetes"
    )
    data_services: tuple[_Service, ...] = Field(
        default=(), description="a list of the services that hold data, such as [postgres, redis]"
    )
    services: tuple[_Service, ...] = Field(
        default=(), description="a list of the services that use the data, such as [web, worker]"
    )
    prepare: _Commands = Field(
        default=(), description="a list of commands, each a list of texts: [[systemctl, start, postgresql]]"
    )
    stop: _Commands = Field(default=(), description="a list of commands, each a list of texts: [[docker, stop, web]]")
    migrate: _Commands = Field(
        default=(), description="a list of commands, each a list of texts: [[/opt/app/migrate, --all]]"
    )
    start: _Commands = Field(default=(), description="a list of commands, each a list of texts: [[docker, start, web]]")
    smoke: _Commands = Field(default=(), description="a list of commands, each a list of texts: [[/opt/app/login]]")
    smoke_url: Annotated[str, _check(_check_http)] | None = Field(
        default=None, description="an address that must answer, such as http://127.0.0.1:8000/health"
    )
    timeout: _Seconds = Field(default=120, description="the seconds a command may take, such as 120")
    time_limits: TimeLimits = Field(default=TimeLimits(), description="seconds by step, such as {migrate: 1800}")
    on_failure: FailureActions = Field(default=FailureActions(), description="stop or go on by step")

    def seconds(self, step: str) -> float:
        """How long a command of a step may take."""
        limit: float | None = getattr(self.time_limits, step)
        return self.timeout if limit is None else limit

    @model_validator(mode="after")
    def _starts_what_it_stops(self) -> ApplicationSettings:
        if self.stop and not self.start and not (self.preset and self.services):
            raise _fault(
                "what is stopped would never be started again.", "Add `start:` with the commands for it.", at=("stop",)
            )
        return self

    @model_validator(mode="after")
    def _fits_its_preset(self) -> ApplicationSettings:
        if self.preset is None:
            for name in ("project", "data_services", "services"):
                if getattr(self, name):
                    raise _fault("this is for a preset.", "Add `preset:`, or remove this line.", at=(name,))
            return self
        if self.preset is Preset.SYSTEMD and self.project:
            raise _fault("systemd has no projects.", "Remove this line.", at=("project",))
        if self.preset is Preset.KUBERNETES and not self.project:
            raise _fault("Kubernetes needs the namespace.", "Add `project: <namespace>`.", at=("project",))
        if self.preset is Preset.DOCKER_COMPOSE and not PurePosixPath(self.project or "").is_absolute():
            raise _fault(
                "Docker Compose needs the folder of docker-compose.yml, from the root.",
                "Add `project: /opt/sme-platform`.",
                at=("project",),
            )
        if not self.services and not (self.stop and self.start):
            raise _fault(
                "the preset has nothing to stop and start.", "Add `services:` with their names.", at=("preset",)
            )
        if both := sorted({*self.services} & {*self.data_services}) if self.preset is not Preset.KUBERNETES else ():
            raise _fault(
                f"{', '.join(both)} would be stopped while data is put into it.",
                "Name what holds data only there.",
                at=("services",),
            )
        replicated = [name.partition("=")[0] for name in self.services]
        if len(set(replicated)) < len(set(self.services)):
            raise _fault("a service is named twice.", "Name each once.", at=("services",))
        for name in (*self.services, *self.data_services):
            if "=" in name and self.preset is not Preset.KUBERNETES:
                raise _fault(f"{name!r} is no service's name.", "Replicas are for Kubernetes.", at=("services",))
        return self


class RecoverySettings(_Settings):
    """Who is asked, and called, when the platform must be brought back."""

    contacts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="a list of texts, such as ['Ada, database, +1 555 0100']"
    )
    approvers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="a list of the users of Airflow who may approve a recovery, such as [ada, grace]"
    )
    answer_within_minutes: _Count = Field(
        default=60, description="the minutes in which somebody must have answered, such as 60"
    )


class EmailSettings(_Settings):
    """Who gets mail, and through which server."""

    connection: _ConnectionId = Field(description="the id of an SMTP connection, such as lifeboat_smtp")
    to: Annotated[tuple[Annotated[str, _check(_check_address)], ...], AfterValidator(_not_empty)] = Field(
        description="a list of addresses, such as [operations@example.com]"
    )
    sender: Annotated[str, _check(_check_address)] | None = Field(
        None, description="the sender's address, where the connection's `from_email` does not say it"
    )


class StatusPageSettings(_Settings):
    """The page that tells users how the platform is."""

    connection: _ConnectionId = Field(description="the id of an HTTP connection, such as lifeboat_status")
    kind: Literal["statuspage", "webhook"] = Field(
        description="statuspage for what speaks the API of Atlassian Statuspage, or webhook for a document by POST"
    )
    page: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        None, description="the page's id, as the service's API names it"
    )

    @model_validator(mode="after")
    def _names_its_page(self) -> StatusPageSettings:
        if (self.kind == "statuspage") != (self.page is not None):
            if self.page is None:
                raise _fault("is missing.", "Give the page's id: `page: abc123`.", at=("page",))
            raise _fault("a webhook has no pages.", "Remove this line.", at=("page",))
        return self


class UsersSettings(_Settings):
    """The users of the platform who get mail while it is recovered."""

    to: Annotated[tuple[Annotated[str, _check(_check_address)], ...], AfterValidator(_not_empty)] = Field(
        description="a list of addresses, such as [users@example.com]; nobody sees the others'"
    )
    phases: Annotated[tuple[Phase, ...], AfterValidator(_not_empty)] = Field(
        default=(Phase.IDENTIFIED, Phase.RESOLVED),
        description=f"those of {', '.join(Phase)} at which they get mail",
    )


class NotifySettings(_Settings):
    """Who is told when something fails, recovers, is degraded or late."""

    email: EmailSettings | None = Field(None, description="a connection and addresses, beginning with `connection:`")
    chat: tuple[_ConnectionId, ...] = Field(
        default=(), description="a list of ids of Apprise connections, such as [lifeboat_chat]"
    )
    webhooks: tuple[_ConnectionId, ...] = Field(
        default=(), description="a list of ids of HTTP connections, such as [lifeboat_webhook]"
    )
    dead_man: Mapping[str, _ConnectionId] = Field(
        default={}, description="a DAG and the id of an HTTP connection in each line, such as restore: ping_restore"
    )
    status_page: StatusPageSettings | None = Field(
        None, description="the page that tells users how the platform is, beginning with `connection:`"
    )
    users: UsersSettings | None = Field(
        None, description="the users who get mail while the platform is recovered, beginning with `to:`"
    )

    @model_validator(mode="after")
    def _tells_somebody(self) -> NotifySettings:
        if not (self.email or self.chat or self.webhooks):
            raise _fault(
                "nobody would be told of a failure.", "Add `email:`, `chat:` or `webhooks:`, or remove `notify:`."
            )
        if self.users and not self.email:
            raise _fault("mail to users goes through `email:`, which is missing.", "Add `email:`.", at=("users",))
        return self


class Platform(_Settings):
    """All of platform.yaml."""

    platform: Annotated[str, Field(min_length=1)] = Field(description="the platform's name")
    objectives: Objectives = Field(default=Objectives(), description="rto_hours and rpo_hours")
    retention: Retention = Field(default=Retention(), description="numbers for daily, weekly and monthly")
    prove: Annotated[Proofs, BeforeValidator(_word_for_off)] = Field(
        default=Proofs.WEEKLY, description="nightly, weekly, monthly or off"
    )
    recipients: Annotated[tuple[_Slug, ...], AfterValidator(_two_recipients)] = Field(
        description="at least two names of recipients, such as [operations, escrow]"
    )
    keyring: _ConnectionId = Field(
        default="lifeboat_keys", description="the id of the connection that leads to the keys"
    )
    repositories: Annotated[tuple[RepositorySettings, ...], AfterValidator(_not_empty)] = Field(
        description="at least one repository, each with a name and a url"
    )
    replicate_at_most: ByteSize | None = Field(
        default=None, gt=0, description="the bytes a second that copying between repositories may take, such as 20 MiB"
    )
    sources: Sources = Field(description="what to protect, beginning with `databases:` or `files:`")
    application: ApplicationSettings | None = Field(None, description="commands, beginning with `preset:` or `stop:`")
    recovery: RecoverySettings = Field(
        default=RecoverySettings(), description="contacts, approvers and answer_within_minutes"
    )
    notify: NotifySettings | None = Field(None, description="whom to tell, beginning with `email:`")
    state: Annotated[str, _check(_check_absolute)] = Field(
        default="/var/lib/lifeboat", description="a folder of this host for what can be found out again, and saves work"
    )

    _located: LocatedYaml = PrivateAttr(LocatedYaml(Path("platform.yaml"), {}, {}, {}))

    @property
    def file(self) -> Path:
        """Where it was read from."""
        return self._located.file

    def place(self, *path: str | int) -> str:
        """`file:line` of a setting, for messages about what it leads to."""
        return self._located.place(path)

    def remarks(self) -> tuple[str, ...]:
        """What is allowed, and yet should be known: storage classes that are slower than the platform may be down."""
        return tuple(
            f"{self.place('repositories', index, 'storage_class', tier.value)}: snapshots in {storage_class} take "
            f"{words} to be thawed, and the platform may be down for {self.objectives.rto_hours:g} hours. They are for "
            "keeping, not for recovery."
            for index, repository in enumerate(self.repositories)
            for tier, storage_class in repository.storage_class.by_tier().items()
            if (words := too_slow(storage_class, self.objectives.rto_hours))
        )

    def smoke_checks(self, name: str) -> SmokeChecks:
        """What is asked of a restored database of this name. Paths are taken from the folder of platform.yaml."""
        settings, folder = self.database(name), self._located.file.parent
        program, *arguments = settings.smoke_command or ("",)
        if "/" in program:
            program = str((folder / program).absolute())
        return SmokeChecks(
            sql=read_sql_checks(folder / settings.smoke_checks) if settings.smoke_checks else (),
            command=(program, *arguments) if program else (),
            url=settings.smoke_url,
        )

    def names(self, *kinds: Kind) -> tuple[str, ...]:
        """The sources of these kinds, or of every kind."""
        return tuple(s.name for kind in kinds or SECTIONS for s in getattr(self.sources, SECTIONS[kind]))

    def kind(self, name: str) -> Kind:
        """What the source of this name is. Raises `SettingsError` naming those there are."""
        for kind in SECTIONS:
            if name in self.names(kind):
                return kind
        raise self._no_such(name, "source", self.names())

    def database(self, name: str) -> DatabaseSettings:
        """The database of this name. Raises `SettingsError` naming those there are."""
        return self._named(self.sources.databases, name, "database")

    def file_tree(self, name: str) -> FileTreeSettings:
        """The tree of files of this name. Raises `SettingsError` naming those there are."""
        return self._named(self.sources.files, name, "tree of files")

    def configuration(self, name: str) -> ConfigurationSettings:
        """The set of configuration files of this name. Raises `SettingsError` naming those there are."""
        return self._named(self.sources.configuration, name, "set of configuration files")

    def redis(self, name: str) -> RedisSettings:
        """The Redis instance of this name. Raises `SettingsError` naming those there are."""
        return self._named(self.sources.redis, name, "Redis instance")

    def _named(self, sources: tuple[_Source, ...], name: str, what: str) -> _Source:
        by_name = {source.name: source for source in sources}
        if name not in by_name:
            raise self._no_such(name, what, by_name)
        return by_name[name]

    def _no_such(self, name: str, what: str, known: typing.Iterable[str]) -> SettingsError:
        named = ", ".join(known) or "none"
        return SettingsError(
            f"{self._located.file} names no {what} {name!r}.",
            hint=f"{_did_you_mean(name, named.split(', '))}It names: {named}.",
        )


# ---- problems -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    path: KeyPath
    what: str
    remedy: str
    line: int | None = None


def _as_error(located: LocatedYaml, problems: list[_Problem]) -> SettingsError:
    lines = []
    for problem in sorted(problems, key=lambda p: p.line or located.line(p.path)):
        place = f"{located.file}:{problem.line}" if problem.line else located.place(problem.path)
        lines.append(f"  {place}  {_dotted(problem.path)}{problem.what}\n      {problem.remedy}")
    count = "one place" if len(lines) == 1 else f"{len(lines)} places"
    return SettingsError("\n".join([f"{located.file} is wrong in {count}:", *lines]), hint="Correct it there.")


def _check_smoke_files(platform: Platform) -> None:
    """Read the files of smoke checks, so that what is wrong in them is found now and not at the next restore test."""
    for index, database in enumerate(platform.sources.databases):
        path = ("sources", "databases", index, "smoke_checks")
        if database.smoke_checks and not (platform._located.file.parent / database.smoke_checks).is_file():
            missing = f" = {_shown(database.smoke_checks)}: there is no such file beside {platform._located.file.name}."
            raise _as_error(platform._located, [_Problem(path, missing, "Write it, or correct its name.")])
        platform.smoke_checks(database.name)


def _problem(details: ErrorDetails) -> _Problem:
    path: KeyPath = details["loc"]
    context = details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            # The value is not shown: people try to put passwords into this file.
            known = _model_at(path[:-1]).model_fields
            return _Problem(
                path, ": there is no such key.", f"{_did_you_mean(str(path[-1]), known)}Known here: {', '.join(known)}."
            )
        case "missing":
            return _Problem(path, ": is missing.", _remedy(path))
        case "lifeboat":
            at: KeyPath = context["at"]
            value = _shown(_inside(details["input"], at))
            return _Problem(path + at, f" = {value}: {context['text']}", context["remedy"])
    message = details["msg"]
    return _Problem(path, f" = {_shown(details['input'])}: {message[0].lower()}{message[1:]}.", _remedy(path))


def _repetitions(located: LocatedYaml) -> Iterator[_Problem]:
    """Keys given twice in one mapping, things named twice in one list, and what two sources or repositories share."""
    for path, line in located.duplicates.items():
        yield _Problem(path, ": is given twice.", "Keep one of the two; YAML would take the last in silence.", line)
    seen: dict[tuple[object, ...], KeyPath] = {}
    for path, key, remedy in (*_shared_by_none(located.data), *_listed(located.data, ())):
        first = seen.setdefault(key, path)
        if first != path:
            yield _Problem(
                path,
                f" = {_shown(_inside(located.data, path))}: is also {_dotted(first)}, line {located.line(first)}.",
                remedy,
            )


_Unique = tuple[KeyPath, tuple[object, ...], str]
"""A place, what must be there only once, and what to do where it is not."""


def _shared_by_none(data: Any) -> Iterator[_Unique]:
    """What no two sources or repositories may have in common: a name, a place, a database."""
    for section in (("repositories",), *(("sources", section) for section in SECTIONS.values())):
        items = _inside(data, section)
        for index in range(len(items) if isinstance(items, list) else 0):
            here: KeyPath = (*section, index)
            if isinstance(name := _inside(data, (*here, "name")), str):
                yield (*here, "name"), (name,), "Give each source and repository a name of its own."
            for field, remedy in _OWN.get(section[-1], {}).items():
                path = (*here, *field.split("."))
                value, database = _inside(data, path), _inside(data, (*here, "database"))
                if isinstance(value, str):
                    yield path, (section, field, re.sub("/+", "/", value).rstrip("/"), database), remedy


_OWN: Mapping[str, Mapping[str, str]] = {
    "repositories": {"url": "Give each repository a place of its own; two copies in one place are one copy."},
    "databases": {"connection": "Name each database once, or another `database:` there; one would be dumped twice."},
    "redis": {"connection": "Name each Redis instance once; the same one would be backed up twice."},
    "files": {
        "path": "Name each tree once; the same files would be stored twice.",
        "mirror.plain": "Give each mirror a place of its own; one would remove what the other has put there.",
    },
}
"""What else each source and repository must have alone, by section and field, and what to do."""


def _listed(data: Any, path: KeyPath) -> Iterator[_Unique]:
    """The texts of every list, each of which is to be there once; those of commands are arguments, and may repeat."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key != "smoke_command":
                yield from _listed(value, (*path, key))
    for index, item in enumerate(data if isinstance(data, list) else ()):
        if isinstance(item, dict):
            yield from _listed(item, (*path, index))
        elif isinstance(item, str):
            spelt = item.casefold() if "@" in item else item
            yield (*path, index), (*path, spelt), "Name each once."


def _inside(data: Any, path: KeyPath) -> Any:
    """The value at a path, None where the document does not go that far."""
    for part in path:
        if isinstance(data, BaseModel):
            data = getattr(data, str(part), None)
        elif isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _remedy(path: KeyPath) -> str:
    """What belongs at a path, in the words of its description; for the whole file where nothing is known."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    field = _model_at(path[:-1]).model_fields.get(str(path[-1])) if path else None
    return f"Give {field.description}." if field else "include/platform.yaml is an example."


def _model_at(path: KeyPath) -> type[_Settings]:
    """The model that describes the mapping at a path."""
    model: type[_Settings] = Platform
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[_Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, _Settings):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


def _dotted(path: KeyPath) -> str:
    """`repositories[1].url`, as people write it."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _shown(value: Any) -> str:
    """A value as a message may show it: short, and without what looks like credentials."""
    if isinstance(value, dict | BaseModel):
        return "a mapping"
    if isinstance(value, list | tuple) and any(isinstance(item, dict | list) for item in value):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, str) and ("@" in value or "{" in value or "?" in value):
        scheme, found, _ = value.partition("://")
        return f"'{scheme}://…'" if found else "'…'"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
