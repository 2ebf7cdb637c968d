"""The commands that prepare, stop and start a platform come from platform.yaml, by hand or by a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lifeboat.errors import SettingsError
from lifeboat.presets import commands_of, services_of
from lifeboat.settings import ApplicationSettings, load_platform

COMPOSE = {
    "preset": "docker-compose",
    "project": "/opt/sme",
    "data_services": ["postgres", "redis"],
    "services": ["web", "worker"],
}
SYSTEMD = {"preset": "systemd", "data_services": ["postgresql"], "services": ["sme-web", "sme-worker@1"]}
KUBERNETES = {
    "preset": "kubernetes",
    "project": "sme",
    "data_services": ["postgres"],
    "services": ["web=3", "statefulset/worker"],
}
IN_COMPOSE = ("docker", "compose", "--project-directory", "/opt/sme")
IN_SME = ("kubectl", "--namespace", "sme")


def application(**settings: Any) -> ApplicationSettings:
    return ApplicationSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "step", "commands"),
    [
        (COMPOSE, "prepare", [(*IN_COMPOSE, "up", "--detach", "postgres", "redis")]),
        (COMPOSE, "stop", [(*IN_COMPOSE, "stop", "web", "worker")]),
        (COMPOSE, "start", [(*IN_COMPOSE, "up", "--detach", "--no-deps", "web", "worker")]),
        (COMPOSE, "migrate", []),
        (SYSTEMD, "prepare", [("systemctl", "start", "postgresql")]),
        (SYSTEMD, "stop", [("systemctl", "stop", "sme-web", "sme-worker@1")]),
        (SYSTEMD, "start", [("systemctl", "start", "sme-web", "sme-worker@1")]),
        (
            KUBERNETES,
            "prepare",
            [
                (*IN_SME, "scale", "statefulset/postgres", "--replicas=1"),
                (*IN_SME, "rollout", "status", "statefulset/postgres", "--timeout=120s"),
            ],
        ),
        (
            KUBERNETES,
            "start",
            [
                (*IN_SME, "scale", "deployment/web", "--replicas=3"),
                (*IN_SME, "rollout", "status", "deployment/web", "--timeout=120s"),
                (*IN_SME, "scale", "statefulset/worker", "--replicas=1"),
                (*IN_SME, "rollout", "status", "statefulset/worker", "--timeout=120s"),
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_preset_makes_the_commands_of_its_kind(settings: Any, step: Any, commands: list[tuple[str, ...]]) -> None:
    assert list(commands_of(application(**settings), step)) == commands


def test_stopping_in_kubernetes_scales_to_nothing() -> None:
    stopped = [command[4:] for command in commands_of(application(**KUBERNETES), "stop") if "scale" in command]

    assert stopped == [("deployment/web", "--replicas=0"), ("statefulset/worker", "--replicas=0")]


@pytest.mark.parametrize("chosen", ["web", "web=3"])
def test_only_the_services_that_were_chosen_are_started(chosen: str) -> None:
    (scale, _) = commands_of(application(**KUBERNETES), "start", [chosen])

    assert scale[4:] == ("deployment/web", "--replicas=3")
    assert services_of(application(**KUBERNETES)) == ("web", "statefulset/worker")


def test_what_is_given_by_hand_counts_instead_of_the_preset() -> None:
    settings = application(**COMPOSE, start=[["/opt/sme/up"]])

    assert commands_of(settings, "start", ["web"]) == (("/opt/sme/up",),)
    assert commands_of(settings, "stop")[0][-2:] == ("web", "worker")
    assert services_of(settings) == ()


def test_the_settings_of_before_stay_as_they_were() -> None:
    settings = application(stop=[["docker", "stop", "web"]], start=[["docker", "start", "web"]], timeout=30)

    assert commands_of(settings, "stop") == (("docker", "stop", "web"),)
    assert commands_of(settings, "prepare") == ()
    assert settings.seconds("migrate") == 30


def test_a_step_has_a_time_limit_of_its_own_or_that_of_all() -> None:
    settings = application(**COMPOSE, timeout=60, time_limits={"migrate": 1800})

    assert (settings.seconds("migrate"), settings.seconds("stop"), settings.seconds("answer")) == (1800, 60, 60)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "podman"}, "application.preset"),
        ({"preset": "docker-compose", "services": ["web"]}, "Docker Compose needs the folder"),
        (COMPOSE | {"project": "sme"}, "Docker Compose needs the folder"),
        (COMPOSE | {"services": []}, "nothing to stop and start"),
        (COMPOSE | {"services": ["web=3"]}, "Replicas are for Kubernetes"),
        (COMPOSE | {"services": ["--all"]}, "application.services"),
        (SYSTEMD | {"project": "sme"}, "systemd has no projects"),
        ({k: v for k, v in KUBERNETES.items() if k != "project"}, "Kubernetes needs the namespace"),
        ({"services": ["web"]}, "this is for a preset"),
        ({"stop": [["true"]]}, "would never be started again"),
        ({"on_failure": {"stop": "go on"}}, "there is no such key"),
        ({"on_failure": {"smoke": "ignore"}}, "Give stop or go on"),
        ({"time_limits": {"migrate": 0}}, "Give the seconds a command may take"),
        ({"time_limits": {"migrations": 5}}, "Did you mean 'migrate'?"),
        ({"smoke_url": "ftp://host"}, "no address to be asked"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_line_and_remedy(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    platform = {
        "platform": "SME",
        "recipients": ["operations", "escrow"],
        "repositories": [{"name": "local", "url": "file:///backups"}],
        "application": settings,
        "sources": {"files": [{"name": "uploads", "path": "/app/uploads"}]},
    }
    (tmp_path / "platform.yaml").write_text(yaml.safe_dump(platform))

    with pytest.raises(SettingsError) as wrong:
        load_platform(tmp_path / "platform.yaml")

    assert said in wrong.value.message
    assert "platform.yaml:" in wrong.value.message
