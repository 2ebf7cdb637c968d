"""Whether a request for a recovery makes sense, before anything is looked at: every wrong combination at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from lifeboat.errors import SettingsError
from lifeboat.presets import services_of
from lifeboat.recovery.model import Mode, Point, Request
from lifeboat.settings import Platform
from lifeboat.snapshot import Kind, SnapshotId, Tier

CLOCKS_DIFFER = timedelta(minutes=2)
"""How far the clock of whoever asks may be ahead of this host's."""

LONGEST_TITLE = 120
"""Characters of an incident's title: it becomes the subject of mails and the name of a status page's entry."""

Problem = tuple[str, str, str]
"""The field, what is wrong with it, and what to do."""


def check_request(platform: Platform, request: Request, now: datetime) -> None:
    """Raise one `SettingsError` with everything that is wrong with a request, each with its remedy."""
    problems = [
        *_of_incident(request, now),
        *_of_components(platform, request),
        *_of_point(platform, request, now),
        *_of_targets(platform, request),
        *_of_the_rest(platform, request),
    ]
    if problems:
        count = "one place" if len(problems) == 1 else f"{len(problems)} places"
        lines = "".join(f"\n  {field}: {what}\n      {remedy}" for field, what, remedy in problems)
        raise SettingsError(f"The request is wrong in {count}:{lines}", hint="Correct it and ask again.")


def parse_label(label: str) -> tuple[str, Tier, SnapshotId]:
    """Source, tier and id that a snapshot's label names. Raises `SettingsError`."""
    parts = label.split("/")
    if len(parts) != 3 or parts[1] not in list(Tier):
        raise SettingsError(
            f"{label!r} is no snapshot's label.",
            hint="Write source/tier/id, such as orders/daily/20261123T020000Z-6f3a9c21; `lifeboat list` shows them.",
        )
    return parts[0], Tier(parts[1]), SnapshotId.parse(parts[2])


def sources_of(platform: Platform, request: Request) -> tuple[str, ...]:
    """The sources that are to be brought back, in the order of platform.yaml."""
    return tuple(name for name in platform.names() if name in request.components or not request.components)


# ---- one part after the other ---------------------------------------------------------------------------------------


def _of_incident(request: Request, now: datetime) -> Iterator[Problem]:
    if not request.title.strip():
        yield "title", "it is empty.", "Say in a few words what has happened, such as `The database server is gone`."
    elif len(request.title) > LONGEST_TITLE or not request.title.isprintable():
        yield "title", "it is too long, or more than a line.", f"Use one line of at most {LONGEST_TITLE} characters."
    if request.began.tzinfo is None:
        yield "began", f"{request.began} says no time zone.", "Write it as 2026-11-23T02:00+00:00."
    elif request.began > now + CLOCKS_DIFFER:
        yield (
            "began",
            f"the incident cannot have begun in the future, at {request.began:%Y-%m-%d %H:%M %Z}; it is now "
            f"{now:%Y-%m-%d %H:%M %Z}.",
            "Give the time at which the platform failed; the 4 hours, or what platform.yaml allows, run from there.",
        )


def _of_components(platform: Platform, request: Request) -> Iterator[Problem]:
    known = ", ".join(platform.names())
    for name in request.components:
        if name not in platform.names():
            yield "components", f"platform.yaml names no source {name!r}.", f"It names: {known}."
    for name in _repeated(request.components):
        yield "components", f"{name!r} is named twice.", "Name each source once."


def _of_point(platform: Platform, request: Request, now: datetime) -> Iterator[Problem]:
    if request.point is Point.AS_OF:
        yield from _of_time(request.as_of, now)
    elif request.as_of is not None:
        yield (
            "as_of",
            f"a time is given, and the recovery point is {request.point.value!r}.",
            f"Choose {Point.AS_OF.value!r}, or leave the time empty.",
        )
    if request.point is Point.SNAPSHOTS and not request.snapshots:
        yield "snapshots", "none is named.", "Name at least one, as source/tier/id, or choose another recovery point."
    elif request.point is not Point.SNAPSHOTS and request.snapshots:
        yield (
            "snapshots",
            f"some are named, and the recovery point is {request.point.value!r}.",
            f"Choose {Point.SNAPSHOTS.value!r}, or leave them out.",
        )
    labelled = []
    for label in request.snapshots:
        try:
            source, _, _ = parse_label(label)
        except SettingsError as error:
            yield "snapshots", error.message, error.hint
            continue
        labelled.append(source)
        if source not in platform.names():
            yield "snapshots", f"{label} is of no source that platform.yaml names.", f"{', '.join(platform.names())}."
        elif source not in sources_of(platform, request):
            yield (
                "snapshots",
                f"{label} is named, and {source} is not among the components.",
                "Add it there, or leave the snapshot out.",
            )
    for source in _repeated(labelled):
        yield "snapshots", f"two of {source} are named.", "Name one snapshot of each source."
    names = [repository.name for repository in platform.repositories]
    if request.repository is not None and request.repository not in names:
        yield (
            "repository",
            f"platform.yaml names no repository {request.repository!r}.",
            f"It names: {', '.join(names)}.",
        )


def _of_time(as_of: datetime | None, now: datetime) -> Iterator[Problem]:
    if as_of is None:
        yield "as_of", "the time is missing.", "Give the time at which all was still well, or another recovery point."
    elif as_of.tzinfo is None:
        yield "as_of", f"{as_of} says no time zone.", "Write it as 2026-11-23T02:00+00:00."
    elif as_of > now + CLOCKS_DIFFER:
        yield "as_of", f"{as_of:%Y-%m-%d %H:%M %Z} is in the future.", "Give a time that has passed."


def _of_targets(platform: Platform, request: Request) -> Iterator[Problem]:
    if request.targets and request.mode is Mode.PRACTICE:
        yield "targets", "a practice has scratch targets of its own.", "Leave them out, or choose another mode."
    for source, target in request.targets.items():
        if source not in platform.names():
            known = ", ".join(platform.names())
            yield "targets", f"platform.yaml names no source {source!r}.", f"It names: {known}."
        elif source not in sources_of(platform, request):
            yield "targets", f"{source} is not among the components.", "Add it there, or leave its target out."
        elif platform.kind(source) in (Kind.FILES, Kind.CONFIG):
            yield from _of_folder(platform, source, target)
        elif not re.fullmatch(r"[A-Za-z0-9_.-]+", target):
            # What people paste here is the connection itself, with its password: it is not repeated.
            yield "targets", f"what is given for {source} is no connection's id.", "Give one such as platform_db_new."
    for target in _repeated(request.targets.values()):
        if "/" in target:
            yield "targets", f"two sources have the target {target!r}.", "Give each a folder of its own."


def _of_folder(platform: Platform, source: str, target: str) -> Iterator[Problem]:
    folder = PurePosixPath(target)
    if not folder.is_absolute() or ".." in folder.parts or folder == PurePosixPath("/"):
        yield "targets", f"{target!r}, given for {source}, is no absolute folder.", "Give one such as /srv/new/uploads."
        return
    whole_folder = platform.kind(source) is Kind.FILES  # of configuration, only the files it names are touched
    for repository in platform.repositories:
        if repository.location.scheme != "file":
            continue
        place = PurePosixPath(repository.location.prefix)
        if folder.is_relative_to(place) or (whole_folder and place.is_relative_to(folder)):
            yield (
                "targets",
                f"{target!r}, given for {source}, and the repository {repository.name} are one within the other.",
                "Choose another folder: the backups themselves are in this one.",
            )


def _of_the_rest(platform: Platform, request: Request) -> Iterator[Problem]:
    if request.drop_replaced and request.mode is not Mode.RECOVER:
        yield (
            "drop_replaced",
            f"nothing is replaced in the mode {request.mode.value!r}.",
            f"Choose it for {Mode.RECOVER.value!r} only.",
        )
    settings = platform.application
    known = services_of(settings) if settings is not None else ()
    by_hand = settings is not None and settings.start
    for service in request.services:
        if service not in known:
            why = "its commands are for all services" if by_hand else "it names none"
            named = f"It names: {', '.join(known)}." if known else f"Leave the field empty: {why}."
            yield "services", f"platform.yaml names no service {service!r} that can be started alone.", named
    for field, names in {"services": request.services, "tell": request.tell}.items():
        for name in _repeated(names):
            yield field, f"{name!r} is named twice.", "Name each once."
    for address in request.tell:
        if not re.fullmatch(r"[^@\s,;<>]+@[^@\s,;<>]+", address):
            yield "tell", f"{address!r} is no mail address.", "Give one address alone, such as operations@example.com."


def _repeated(items: Iterable[str]) -> list[str]:
    return [item for item, count in Counter(items).items() if count > 1]
