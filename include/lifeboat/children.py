"""Child processes that never outlive their job and whose exit status always counts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from lifeboat.errors import EndedFromOutside, LifeboatError
from lifeboat.streams import CHUNK

STDERR_LINES = 200
"""How many of a program's last lines on standard error are kept for its error."""

Failure = Callable[[int, str], LifeboatError]
"""Makes the error of a program that ended badly, from its exit status and what it said last."""


class Children:
    """The processes of one job. Each leads a group of its own and dies with this process, even at kill -9.

    `kill` ends them all from outside, and may be called from any thread or signal handler; `give_up` does so when the
    job itself has failed. Nothing can be started afterwards. A part of the job that may fail alone has processes of its
    own, `within` those of the job.
    """

    def __init__(self, within: Children | None = None) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._inner: list[Children] = []
        self._killed = False
        self._given_up = False
        if within is not None:
            within._inner.append(self)
            self._killed = within._killed
            self._given_up = within._given_up

    @property
    def killed(self) -> bool:
        """Whether the job was ended from outside: then whatever it has found says nothing."""
        return self._killed

    @property
    def ended(self) -> bool:
        """Whether the job was ended from outside, or has given up."""
        return self._killed or self._given_up

    def refuse_killed(self) -> None:
        """Raise `EndedFromOutside` when the job was ended from outside."""
        if self._killed:
            raise EndedFromOutside("The job was ended from outside.", hint="Start it again.")

    def start(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        stdin: int | IO[bytes],
        stdout: int | IO[bytes],
        stderr: int | IO[bytes] = subprocess.PIPE,
        inherits: Sequence[IO[bytes]] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program. `env` is all of its environment; it finds the open files it `inherits` by `path_of`."""
        self.refuse_killed()
        if self._given_up:
            raise LifeboatError("Another part of the job has failed.", hint="Its error says what to do.")
        process = subprocess.Popen(
            [*_DIES_WITH_US, *map(str, command)],
            env=dict(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=[file.fileno() for file in inherits],
        )
        self._running.add(process)
        if self.ended:  # kill() came in between
            _kill_group(process)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a program's end and return its exit status (negative: the signal that ended it)."""
        status = process.wait()
        self._running.discard(process)
        return status

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End a program and everything it started, if it still runs."""
        if process.poll() is None:
            _kill_group(process)
        self.finish(process)

    def kill(self) -> None:
        """End every program of the job and everything they started, from outside."""
        self._killed = True
        self._kill_all()
        for inner in list(self._inner):
            inner.kill()

    def give_up(self) -> None:
        """End them all for a failure of the job itself, whose error is what is to be told."""
        self._given_up = True
        self._kill_all()
        for inner in list(self._inner):
            inner.give_up()

    def error_of(self, status: int, error: LifeboatError) -> LifeboatError:
        """The error of a program that ended badly: `error`, unless it was ended from outside."""
        self.refuse_killed()
        ended = status < 0 or _ENDED.search(error.message)
        return EndedFromOutside(error.message, hint=_ENDED_HINT) if ended else error

    def _kill_all(self) -> None:
        for process in list(self._running):
            _kill_group(process)


_ENDED = re.compile(r"pg_\w+: (terminated by user|error: a worker process died unexpectedly)$", re.MULTILINE)
"""What PostgreSQL's programs say, ending with status 1, when a signal has ended them or one of their workers."""

_ENDED_HINT = "Start it again. If this host ran out of memory, its kernel's log says so."


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


@contextlib.contextmanager
def memory_file() -> Iterator[IO[bytes]]:
    """A file that never touches a disk (memfd_create(2)), for programs that want a path."""
    with os.fdopen(os.memfd_create("lifeboat"), "wb", buffering=0) as file:
        yield file


def path_of(file: IO[bytes]) -> str:
    """The path of an open file for a program that is started with it among what it `inherits`.

    Its own, and not ours: where a process is not dumpable, as Airflow's tasks are, only root may look at its open files
    from another process (proc(5), prctl(2)).
    """
    return f"/proc/self/fd/{file.fileno()}"


def output_of(
    children: Children,
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    failure: Failure,
    inherits: Sequence[IO[bytes]] = (),
) -> Iterator[bytes]:
    """Yield what a program writes. It never just ends: an exit status other than 0 raises what `failure` makes, or
    `EndedFromOutside` where a signal has ended it.

    Closing the iterator early ends the program. `inherits` as for `Children.start`.
    """
    process = children.start(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, inherits=inherits)
    assert process.stdout is not None
    _enlarge(process.stdout)
    said = _LastWords(process)
    try:
        while chunk := process.stdout.read(CHUNK):
            yield chunk
        status = children.finish(process)
        if status:
            raise children.error_of(status, failure(status, said.text()))
    finally:
        children.stop(process)
        process.stdout.close()
        said.close()


def feed(
    children: Children,
    command: Sequence[str | Path],
    chunks: Iterable[bytes],
    *,
    env: Mapping[str, str],
    failure: Failure,
    hear: Callable[[bytes], None] | None = None,
    forgives: Callable[[str], bool] | None = None,
    inherits: Sequence[IO[bytes]] = (),
) -> None:
    """Write a stream to a program's input until the stream ends or the program has enough.

    A program that closes its input early and ends with status 0 has succeeded; with another status only if `forgives`
    accepts what it said last. `hear` is given every line that it says. One that a signal has ended raises
    `EndedFromOutside`. When `chunks` raises, the program is ended before it could take the stream for complete, and the
    error passes through. `inherits` as for `Children.start`.
    """
    process = children.start(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, inherits=inherits)
    assert process.stdin is not None
    _enlarge(process.stdin)
    said = _LastWords(process, hear)
    try:
        # A broken pipe is the program's own affair: its exit status says whether it had enough or failed.
        with contextlib.suppress(BrokenPipeError):
            for chunk in chunks:
                process.stdin.write(chunk)
            process.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        status = children.finish(process)
        if status < 0 or (status and not (forgives and forgives(said.text()))):
            raise children.error_of(status, failure(status, said.text()))
    finally:
        children.stop(process)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        said.close()


def filtered(
    children: Children,
    command: Sequence[str | Path],
    chunks: Iterable[bytes],
    *,
    env: Mapping[str, str],
    failure: Failure,
    inherits: Sequence[IO[bytes]] = (),
) -> Generator[bytes]:
    """Yield the lines that a program makes of a stream that is written to its input.

    As `output_of` for how it ends, and as `feed` when `chunks` raises.
    """
    process = children.start(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, inherits=inherits)
    assert process.stdin is not None
    assert process.stdout is not None
    said = _LastWords(process)
    with ThreadPoolExecutor(1, "feed") as pool:
        writing = pool.submit(_write_all, children, process, chunks)
        try:
            yield from process.stdout
            status = children.finish(process)
            writing.result()
            if status:
                raise children.error_of(status, failure(status, said.text()))
        finally:
            children.stop(process)
            process.stdout.close()
            said.close()


def _write_all(children: Children, process: subprocess.Popen[bytes], chunks: Iterable[bytes]) -> None:
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            for chunk in chunks:
                process.stdin.write(chunk)
    except BaseException:
        children.stop(process)
        raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def run(
    children: Children, command: Sequence[str | Path], *, env: Mapping[str, str], seconds: float
) -> tuple[int | None, str]:
    """Run a program; its exit status, None when it took longer and was ended, and the last of all it said.

    What it leaves running in the background may go on, and need not close its output. Raises `EndedFromOutside` where a
    signal has ended it.
    """
    with os.fdopen(os.memfd_create("output"), "r+b", buffering=0) as output:
        process = children.start(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            process.wait(timeout=seconds)
            status: int | None = children.finish(process)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            children.stop(process)
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    if status:
        children.refuse_killed()
    if status is not None and status < 0:
        raise EndedFromOutside(f"{command[0]} {how_it_ended(status)}.", hint=_ENDED_HINT)
    return status, "\n".join(lines[-STDERR_LINES:])


class _LastWords:
    """Reads a program's standard error beside its output, keeping the last lines."""

    def __init__(self, process: subprocess.Popen[bytes], hear: Callable[[bytes], None] | None = None) -> None:
        assert process.stderr is not None
        self._stderr = process.stderr
        self._hear = hear
        self._lines: deque[bytes] = deque(maxlen=STDERR_LINES)
        self._thread = threading.Thread(target=self._read, name="stderr", daemon=True)
        self._thread.start()

    def text(self) -> str:
        self._thread.join()
        return b"".join(self._lines).decode(errors="replace").strip()

    def close(self) -> None:
        self._thread.join()
        self._stderr.close()

    def _read(self) -> None:
        for line in self._stderr:
            self._lines.append(line)
            if self._hear is not None:
                self._hear(line)


# util-linux: the kernel ends the program when the thread that started it is gone. Python's own way, a function run
# between fork and exec, can deadlock in a process with threads.
_SETPRIV = shutil.which("setpriv")
_DIES_WITH_US = (_SETPRIV, "--pdeathsig", "KILL", "--") if _SETPRIV else ()


def _enlarge(pipe: IO[bytes]) -> None:
    """Ask for a pipe of 1 MiB, so that both ends wait less often; the kernel may refuse an ordinary user."""
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, CHUNK)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
