"""Proving an archive of configuration files: it is really restored into a scratch folder, and compared."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lifeboat.attestation import require_signing_key
from lifeboat.children import Children
from lifeboat.configuration.archive import ARTIFACT, read_archive
from lifeboat.configuration.files import ConfigurationSource, Entry, list_files, shown
from lifeboat.configuration.restoring import require_configuration, restore_to_folder
from lifeboat.errors import (
    LifeboatError,
    RestoreFailed,
)
from lifeboat.own_files import remove_left
from lifeboat.progress import PhaseClock, Report, count_text
from lifeboat.proof import Proof, prove_copies
from lifeboat.smoke import CheckResult
from lifeboat.vault import Snapshot, Vault

PREFIX = "lifeboat-configuration-"
"""What the name of every scratch folder begins with; the process's number follows."""

COMPARED = "files, symlinks and folders"
"""What the comparison is called among the checks."""


def prove_configuration(
    vault: Vault,
    snapshot: Snapshot,
    *,
    repository: str | None = None,
    base: Path | None = None,
    report: Report | None = None,
) -> Proof:
    """Restore an archive into a scratch folder below `base`, compare it with the archive's own list, and attest.

    From `repository`, or from the first that has a whole copy; a damaged copy is attested as such. The scratch folder
    is this user's alone and goes again; by default it is in memory where the host has that, since secrets are in it.
    What merely prevents proving it is raised, and nothing attested, as by `prove_snapshot`. May be repeated.
    """
    require_signing_key(vault)
    require_configuration(snapshot)
    clock, began, started = PhaseClock(report), datetime.now(UTC), time.monotonic()
    scratch = base or _scratch_base()
    remove_scratch_folders(scratch)

    def of_copy_in(name: str) -> Proof:
        return _of_copy_in(vault, snapshot, name, scratch, clock, began)

    return prove_copies(vault, snapshot, of_copy_in, repository, clock, began, started, Children())


def remove_scratch_folders(base: Path | None = None) -> tuple[str, ...]:
    """Remove what this user's restore tests that were killed have left, secrets among it; the names."""
    return remove_left(base or _scratch_base(), PREFIX)


def _of_copy_in(
    vault: Vault, snapshot: Snapshot, repository: str, base: Path, clock: PhaseClock, began: datetime
) -> Proof:
    proof = Proof(snapshot, repository, began, clock.seconds)
    with clock.phase("read the archive"):
        archived = [entry for entry, _ in read_archive(vault.read(snapshot, ARTIFACT, repository=repository))]
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=base) as scratch:
        folder = Path(scratch) / "restored"
        try:
            with clock.phase("restore"):
                restore_to_folder(vault, snapshot, folder, repository=repository)
            since = time.monotonic()
            with clock.phase("compare"):
                differing = _differing(archived, folder)
        except RestoreFailed as error:
            return replace(proof, reason=error.message)
    expected = int(snapshot.manifest.facts.get("files", 0))
    files = sum(entry.what == "file" for entry in archived)
    if files != expected:
        differing.append(f"{count_text(files, 'file')}, where the manifest says {expected}")
    found = "; ".join(differing) if differing else f"{count_text(files, 'file')}, all the same"
    seconds = round(time.monotonic() - since, 3)
    check = CheckResult(COMPARED, not differing, seconds, f"{count_text(expected, 'file')}, all the same", found)
    held = count_text(files, "file")
    return replace(proof, held=held, checks=(check,), reason=f"What was restored differs: {found}" if differing else "")


def _differing(archived: list[Entry], folder: Path) -> list[str]:
    """What on disk is not as the archive lists it: names, contents, modes, symlinks, and owners where root restores."""
    try:
        listed = list_files(ConfigurationSource("restored", folder, (".",))).entries
    except LifeboatError as error:
        return [error.message]
    there = {entry.path: _comparable(entry) for entry in listed}
    wanted = {entry.path: _comparable(entry) for entry in archived}
    return [
        f"{shown(path)} {'is missing' if path not in there else 'differs' if path in wanted else 'is too many'}"
        for path in sorted(wanted.keys() | there.keys())
        if wanted.get(path) != there.get(path)
    ]


def _comparable(entry: Entry) -> Entry:
    # Owners are given back by root alone; the rest belongs to whoever restores.
    return entry if os.geteuid() == 0 else replace(entry, uid=0, gid=0)


def _scratch_base() -> Path:
    memory = Path("/dev/shm")  # noqa: S108 - the folder made there is this user's alone
    return memory if memory.is_dir() else Path(tempfile.gettempdir())
