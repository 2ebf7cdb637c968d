"""The files at the top of the project."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from demo.stand import TAKES_UP

ROOT = Path(__file__).resolve().parents[1]


def test_docker_compose_is_well_formed_and_runs_what_a_deployment_needs() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())

    assert compose["services"].keys() == {"metadata", "init", "api-server", "scheduler", "dag-processor", "triggerer"}
    volumes = compose["volumes"].keys()
    for name, service in compose["services"].items():
        assert service["image"], name
        assert service.get("depends_on", {}).keys() <= compose["services"].keys(), name
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert source.startswith((".", "$")) or source in volumes, mount


def test_an_airflow_of_docker_compose_takes_up_what_a_dead_one_has_left_as_soon_as_the_tested_one() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())

    for name in ("scheduler", "api-server", "dag-processor", "triggerer"):
        environment = compose["services"][name]["environment"]
        assert {variable: environment.get(variable) for variable in TAKES_UP} == TAKES_UP, name


def test_every_command_of_make_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    for target in re.findall(r"^\.PHONY: (\S+)", makefile, re.MULTILINE):
        assert f"make {target}" in helped


def test_lock_files_pin_every_package_with_hashes_and_name_no_registry() -> None:
    for lock in (ROOT / "requirements.txt", *sorted((ROOT / "requirements").glob("*.txt"))):
        name, text = lock.name, lock.read_text()
        if name == "overrides.txt":  # what the others are made with
            continue
        packages = re.findall(r"^([a-z0-9][^\s#]*)", text, re.MULTILINE)
        assert packages, name
        assert all("==" in package for package in packages), name
        assert text.count("--hash=sha256:") >= len(packages), name
        assert "://" not in text, name


def test_a_host_that_restores_needs_no_airflow() -> None:
    assert "airflow" not in (ROOT / "requirements" / "restore.txt").read_text()
