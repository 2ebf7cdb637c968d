"""Child processes that never outlive their job and whose exit status always counts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from lifeboat.errors import LifeboatError
from lifeboat.streams import CHUNK

STDERR_LINES = 200
"""How many of a program's last lines on standard error are kept for its error."""

Failure = Callable[[int, str], LifeboatError]
"""Makes the error of a program that ended badly, from its exit status and what it said last."""


class Children:
    """The processes of one job. Each leads a group of its own and dies with this process, even at kill -9.

    `kill` ends them all and may be called from any thread or signal handler; nothing can be started afterwards. A part
    of the job that may fail alone has processes of its own, `within` those of the job.
    """

    def __init__(self, within: Children | None = None) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._inner: list[Children] = []
        self._killed = False
        if within is not None:
            within._inner.append(self)
            self._killed = within._killed

    @property
    def killed(self) -> bool:
        """Whether the job was ended from outside, or ended itself."""
        return self._killed

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
        if self._killed:
            raise LifeboatError("The job was ended from outside.", hint="Start it again.")
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
        if self._killed:  # kill() came in between
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
        """End every program of the job and everything they started."""
        self._killed = True
        for process in list(self._running):
            _kill_group(process)
        for inner in list(self._inner):
            inner.kill()


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
    """Yield what a program writes. It never just ends: an exit status other than 0 raises what `failure` makes.

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
            raise failure(status, said.text())
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
    forgives: Callable[[str], bool] | None = None,
    inherits: Sequence[IO[bytes]] = (),
) -> None:
    """Write a stream to a program's input until the stream ends or the program has enough.

    A program that closes its input early and ends with status 0 has succeeded; with another status only if `forgives`
    accepts what it said. When `chunks` raises, the program is ended before it could take the stream for complete, and
    the error passes through. `inherits` as for `Children.start`.
    """
    process = children.start(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, inherits=inherits)
    assert process.stdin is not None
    _enlarge(process.stdin)
    said = _LastWords(process)
    try:
        # A broken pipe is the program's own affair: its exit status says whether it had enough or failed.
        with contextlib.suppress(BrokenPipeError):
            for chunk in chunks:
                process.stdin.write(chunk)
            process.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        status = children.finish(process)
        if status and not (forgives and forgives(said.text())):
            raise failure(status, said.text())
    finally:
        children.stop(process)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        said.close()


def run(
    children: Children, command: Sequence[str | Path], *, env: Mapping[str, str], seconds: float
) -> tuple[int | None, str]:
    """Run a program; its exit status, None when it took longer and was ended, and the last of all it said.

    What it leaves running in the background may go on, and need not close its output.
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
    return status, "\n".join(lines[-STDERR_LINES:])


class _LastWords:
    """Reads a program's standard error beside its output, keeping the last lines."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        self._stderr = process.stderr
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
        self._lines.extend(self._stderr)


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
