"""The commands that prepare, stop and start a platform: those given by hand, or those its preset makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from lifeboat.settings import ApplicationSettings, Preset

Step = Literal["prepare", "stop", "migrate", "start", "smoke"]
"""The steps that are carried out by commands."""

Command = tuple[str, ...]
"""A program and its arguments."""


def commands_of(
    settings: ApplicationSettings, step: Step, services: Sequence[str] | None = None
) -> tuple[Command, ...]:
    """The commands of a step, in their order. `services` chooses among those that a preset stops and starts.

    Where commands are given by hand, they count, and are for all services.
    """
    given: tuple[Command, ...] = getattr(settings, step)
    make = _MAKERS.get((settings.preset, step)) if settings.preset else None
    if given or make is None:
        return given
    if step == "prepare":
        names: Sequence[str] = settings.data_services
    else:
        wanted = {name_of(service) for service in services or settings.services}
        names = [name for name in settings.services if name_of(name) in wanted]
    return tuple(make(settings, names)) if names else ()


def services_of(settings: ApplicationSettings) -> tuple[str, ...]:
    """The names of the services that can be started one by one; none where commands are given by hand."""
    return () if settings.start else tuple(map(name_of, settings.services))


def name_of(service: str) -> str:
    """A service's name, without the number of replicas that may follow it."""
    return service.partition("=")[0]


def _compose(*arguments: str) -> _Maker:
    """One command for all. `up` makes containers that are not there; what they depend on is left alone."""

    def make(settings: ApplicationSettings, names: Sequence[str]) -> Iterator[Command]:
        yield ("docker", "compose", "--project-directory", str(settings.project), *arguments, *names)

    return make


def _systemd(verb: str) -> _Maker:
    def make(_: ApplicationSettings, names: Sequence[str]) -> Iterator[Command]:
        yield ("systemctl", verb, *names)

    return make


def _scaled(kind: str, step: Literal["prepare", "stop", "start"]) -> _Maker:
    """By hand nobody scales to another number than before; so it is named with the service: `web=3`, or is 1."""

    def make(settings: ApplicationSettings, names: Sequence[str]) -> Iterator[Command]:
        kubectl = ("kubectl", "--namespace", str(settings.project))
        for service in names:
            name, _, replicas = service.partition("=")
            what = name if "/" in name else f"{kind}/{name}"
            wanted = "0" if step == "stop" else replicas or "1"
            yield (*kubectl, "scale", what, f"--replicas={wanted}")
            yield (*kubectl, "rollout", "status", what, f"--timeout={settings.seconds(step):g}s")

    return make


_Maker = Callable[[ApplicationSettings, Sequence[str]], Iterator[Command]]

_MAKERS: Mapping[tuple[Preset, Step], _Maker] = {
    (Preset.DOCKER_COMPOSE, "prepare"): _compose("up", "--detach"),
    (Preset.DOCKER_COMPOSE, "stop"): _compose("stop"),
    (Preset.DOCKER_COMPOSE, "start"): _compose("up", "--detach", "--no-deps"),
    (Preset.SYSTEMD, "prepare"): _systemd("start"),
    (Preset.SYSTEMD, "stop"): _systemd("stop"),
    (Preset.SYSTEMD, "start"): _systemd("start"),
    (Preset.KUBERNETES, "prepare"): _scaled("statefulset", "prepare"),
    (Preset.KUBERNETES, "stop"): _scaled("deployment", "stop"),
    (Preset.KUBERNETES, "start"): _scaled("deployment", "start"),
}
