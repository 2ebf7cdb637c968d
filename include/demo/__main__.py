"""The demo: `python -m demo run` backs up, restores and compares; `up` leaves Airflow's pages open, `down` ends it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from demo.comparison import Contents, contents
from demo.configuration import set_in
from demo.mail import mail_catcher
from demo.ordinary import ASKED_BY_ROOT, find_workplace, is_root, make_workplace, remove_workplace
from demo.runs import await_run, failures, trigger
from demo.stand import DATABASE, ROOT, Platform, airflow, application, platform, serving
from demo.storage import ServerFailed, free_ports
from demo.uploads import tree_contents
from demo.webapp import PASSWORD
from lifeboat.assembly import open_vault
from lifeboat.connections import connections_in
from lifeboat.env_file import read_env_file
from lifeboat.errors import LifeboatError
from lifeboat.recovery import practice
from lifeboat.recovery.journal import incidents
from lifeboat.settings import load_platform

FOLDER = ROOT / ".demo"
DAGS = ("nightly_database_backup", "daily_file_sync", "redis_backup", "config_archive")
SOURCE = "receivables"
RESTORED = f"{DATABASE}_restored"
MARK = "LIFEBOAT_DEMO"
"""A variable that everything the demo starts inherits, so that what is left over can be found."""

console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def run() -> int:
    """The whole story once, on servers of its own; 0 only if all of it held and nothing is left running."""
    began = time.monotonic()
    mark = os.environ[MARK] = secrets.token_hex(8)
    with _folder("run") as folder:
        held = _story(folder)
        left = _left_over(mark)
        if left:
            console.print(f"[red]These processes were left over, and are ended now: {left}")
        minutes, seconds = divmod(round(time.monotonic() - began), 60)
        if held and not left:
            text = "RECOVERED: database, files, configuration and Redis hold exactly what the originals hold."
            console.print(Panel(f"[bold green]{text}[/] ({minutes} min {seconds} s in all)", expand=False))
            shutil.rmtree(folder)
            return 0
        console.print(Panel(f"[bold red]NOT RECOVERED.[/] What the servers wrote is in {folder}.", expand=False))
        return 1


def serve() -> int:
    """The platform and Airflow until a signal ends them, with where they are in `up.json`."""
    os.environ[MARK] = secrets.token_hex(8)
    with (
        _folder("up") as folder,
        mail_catcher(folder / "mail") as smtp,
        platform(folder, smtp=smtp) as stand,
        application(stand) as login,
        _without_practices(stand),
        airflow(stand, scheduled_runs=True) as web,
    ):
        record = {"pid": os.getpid(), "url": web.url, "user": web.user, "password": web.password}
        record |= {"site": stand.site, "login": login}
        _write_whole(_record_file(), json.dumps(record))
        signal.pause()
    return 0


def up() -> int:
    """Start `serve` in the background and wait until Airflow answers."""
    if (record := _running()) is None:
        FOLDER.mkdir(exist_ok=True)
        _record_file().unlink(missing_ok=True)
        log = FOLDER / "up.log"
        console.print(
            "Starting PostgreSQL, Redis, the S3 store, a web application and Airflow; this takes about a minute."
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "demo", "serve"], stdout=output, stderr=output, start_new_session=True
            )
        while (record := _running()) is None:
            if process.poll() is not None:
                console.print(f"[red]It did not start:[/]\n{log.read_text()[-3000:]}")
                return 1
            time.sleep(0.5)
    chosen = f"--platform {FOLDER}/up/platform.yaml --env-file {FOLDER}/up/.env"
    console.print(
        f"Airflow is at {record['url']}, user {record['user']}, password {record['password']}", soft_wrap=True
    )
    console.print(
        f"The platform's own application is at {record['site']}, login {record['login']}, password {PASSWORD}",
        soft_wrap=True,
    )
    console.print(f"On a terminal: {_python()} -m lifeboat list {chosen}", soft_wrap=True)
    console.print(f"Alerts are mailed into {FOLDER}/up/mail; `lifeboat notify --test` sends one.", soft_wrap=True)
    console.print("`make down` ends it.")
    return 0


def down() -> int:
    """End what `up` has started."""
    record = _running()
    if record is None:
        console.print("Nothing is running.")
        return 0
    process = int(record["pid"])
    os.kill(process, signal.SIGTERM)
    while _alive(process):
        time.sleep(0.2)
    _record_file().unlink(missing_ok=True)
    shutil.rmtree(FOLDER / "up", ignore_errors=True)
    console.print("Ended.")
    return 0


def by_an_ordinary_user(command: str) -> int:
    """The same where root asks: as nobody, since what root runs shows nothing of what others may not do.

    What failed stays, for its logs to be read; so does what goes on running.
    """
    purpose = "demo" if command == "run" else "up"
    place = find_workplace(purpose)
    if command == "down" and place is None:
        console.print("Nothing is running.")
        return 0
    if place is None or command == "run" or (command == "up" and _running(place.project / ".demo") is None):
        console.print("Asked by root: all of it runs as the user nobody, in a copy of this project.")
        place = make_workplace(purpose)
    status = place.run("-m", "demo", command)
    if status == 0 and command != "up":
        remove_workplace(purpose)
    return status


@contextlib.contextmanager
def _without_practices(stand: Platform) -> Iterator[None]:
    """Remove at the end what practices that Airflow was at have made: their servers outlive whoever started them."""
    try:
        yield
    finally:
        lookup = connections_in(read_env_file(stand.folder / ".env"))
        for incident in incidents(open_vault(load_platform(stand.folder / "platform.yaml"), lookup)):
            practice.remove(incident.id)


def _python() -> str:
    """What a person types to run this Python on the demo's platform, as whom it belongs to."""
    if user := os.environ.get(ASKED_BY_ROOT):
        return f"cd / && runuser -u {user} -- env PYTHONPATH={ROOT}/include {sys.executable}"
    return "PYTHONPATH=include .venv/bin/python"


def _story(folder: Path) -> bool:
    with platform(folder) as stand:
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
            with _step(
                "Start Airflow, and load a receivables database meanwhile: 100,000 invoices with their payments, and "
                "a web application for them"
            ):
                original = pool.submit(_load, stand, stack)
                web = stack.enter_context(airflow(stand, scheduled_runs=False))
                original.result()
            with _step(f"Run the DAGs {', '.join(DAGS)}"):
                begun = {dag: trigger(web, dag) for dag in DAGS}
                failed = [dag for dag, run_id in begun.items() if not await_run(web, dag, run_id, console.print)]
            for dag in failed:
                console.print(failures(web, dag, begun[dag]), markup=False)
            if failed:
                return False
        console.print(stand.lifeboat("list"), markup=False, soft_wrap=True)
        with _step(f"Restore the database beside the original, as {RESTORED}"):
            stand.lifeboat("restore", SOURCE, "--to-database", RESTORED)
        with _step("Restore files and configuration into new folders, and prove Redis in a scratch server"):
            restored = folder / "restored"
            stand.lifeboat("files", "restore", "uploads", "--to", str(restored / "uploads"))
            stand.lifeboat("config", "restore", "configuration", "--to", str(restored / "configuration"))
            stand.lifeboat("prove", "sessions")  # ends badly unless every key was counted again
        with _step("Compare databases by plain SQL, and folders file by file"):
            same = _compare(original.result(), contents(stand.postgres, RESTORED), contents(stand.postgres, DATABASE))
            for name, kept in {"uploads": folder / "uploads", "configuration": folder / "sme-platform"}.items():
                same = _compare_folders(name, kept, restored / name) and same
        with _step("Log in to the web application as it was restored, and open an invoice and its document"):
            return _works(stand, restored) and same


def _compare_folders(name: str, original: Path, restored: Path) -> bool:
    """Say whether two folders hold the same; contents, modes, symlinks and empty folders."""
    ours, theirs = tree_contents(original), tree_contents(restored)
    console.print(f"{name}: {len(ours):,} files and folders, {_sameness(ours == theirs)}")
    return ours == theirs


def _load(stand: Platform, stack: contextlib.ExitStack) -> Contents:
    stack.enter_context(application(stand))
    return contents(stand.postgres, DATABASE)


def _works(stand: Platform, restored: Path) -> bool:
    """Whether a person could work with what was restored: by its configuration, its database and its uploads."""
    folder = restored / "configuration"
    settings = read_env_file(folder / ".env")
    set_in(folder / ".env", "DATABASE_URL", settings["DATABASE_URL"].removesuffix(DATABASE) + RESTORED)
    set_in(folder / ".env", "UPLOADS", str(restored / "uploads"))
    set_in(folder / ".env", "PORT", str(free_ports(1)[0]))
    with serving(stand, folder):
        smoke = stand.web("smoke", folder)
    console.print(f"[red]{smoke.stderr}" if smoke.returncode else f"{settings['SMOKE_USER']} can work with it")
    return smoke.returncode == 0


def _compare(original: Contents, restored: Contents, untouched: Contents) -> bool:
    """Print both side by side; True when the restored one is the same, and the original still what it was."""
    table = Table("", title="The original and what was restored", title_justify="left")
    table.add_column("original", justify="right")
    table.add_column("restored", justify="right")
    table.add_column("content")
    for name in sorted(original.tables.keys() | restored.tables.keys()):
        ours, theirs = original.tables.get(name), restored.tables.get(name)
        table.add_row(name, _rows(ours), _rows(theirs), _sameness(ours == theirs))
    table.add_section()
    for name, digest in original.others.items():
        table.add_row(name, digest[:8], restored.others[name][:8], _sameness(digest == restored.others[name]))
    console.print(table)
    if original != untouched:
        console.print("[red]The original is not what it was.")
    return original == restored == untouched


def _rows(entry: tuple[int, str] | None) -> str:
    return "missing" if entry is None else f"{entry[0]:,} rows"


def _sameness(same: bool) -> str:
    return "[green]the same[/]" if same else "[bold red]DIFFERS[/]"


@contextlib.contextmanager
def _step(title: str) -> Iterator[None]:
    console.print(f"[bold]{title}[/]")
    began = time.monotonic()
    yield
    console.print(f"  done in {time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def _folder(name: str) -> Iterator[Path]:
    """A new, private folder; what an earlier run left in it is gone."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    yield folder


def _record_file(folder: Path = FOLDER) -> Path:
    return folder / "up.json"


def _running(folder: Path = FOLDER) -> dict[str, str] | None:
    """What `serve` has written into a folder, when its process still runs."""
    try:
        record: dict[str, str] = json.loads(_record_file(folder).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if _alive(int(record["pid"])) else None


def _alive(process: int) -> bool:
    """Whether this is a process of `serve`; a number may have been given to another one since."""
    try:
        return b"demo\0serve" in Path(f"/proc/{process}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def _left_over(mark: str) -> list[str]:
    """End every process that carries the mark, apart from this one, and say what they were."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        process = int(environment.parent.name)
        with contextlib.suppress(OSError):
            if process != os.getpid() and f"{MARK}={mark}".encode() in environment.read_bytes():
                found.append((environment.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
                os.kill(process, signal.SIGKILL)
    return found


def _write_whole(file: Path, text: str) -> None:
    part = file.with_suffix(".part")
    part.touch(0o600)
    part.write_text(text, "utf-8")
    part.rename(file)


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Run one command, with signals that unwind what was started."""
    for name in [name for name in os.environ if name.startswith(("AIRFLOW", "LIFEBOAT_PLATFORM"))]:
        del os.environ[name]
    signal.signal(signal.SIGTERM, _end)
    commands = {"run": run, "serve": serve, "up": up, "down": down}
    try:
        return by_an_ordinary_user(sys.argv[1]) if is_root() else commands[sys.argv[1]]()
    except (ServerFailed, LifeboatError, subprocess.CalledProcessError) as error:
        console.print(f"[bold red]Failed:[/] {error}", soft_wrap=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
