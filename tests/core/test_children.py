"""Programs: what they are handed, and what their end says of what they were to do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

import pytest

from lifeboat.children import Children, feed, memory_file, output_of, path_of, run
from lifeboat.errors import EndedFromOutside, LifeboatError, RestoreFailed
from tests.other_user import as_other_user
from tests.processes import children_of, wait_until


def failure(status: int, said: str) -> LifeboatError:
    return RestoreFailed(f"ended with {status}: {said}", hint="Give up.")


def read_all(children: Children, command: Sequence[str]) -> object:
    return list(output_of(children, command, env=os.environ, failure=failure))


def feed_all(children: Children, command: Sequence[str]) -> object:
    return feed(children, command, [b"some"], env=os.environ, failure=failure, forgives=lambda _: True)


def run_it(children: Children, command: Sequence[str]) -> object:
    return run(children, command, env=os.environ, seconds=3600)


Way = Callable[[Children, Sequence[str]], object]

WAYS = pytest.mark.parametrize("way", [read_all, feed_all, run_it])


@WAYS
@pytest.mark.parametrize("number", [9, 15])
def test_a_program_that_a_signal_ends_is_a_passing_fault(way: Way, number: int) -> None:
    with pytest.raises(EndedFromOutside) as ended:
        way(Children(), ["sh", "-c", f"kill -{number} $$"])

    assert ended.value.transient


@pytest.mark.parametrize(
    "said", ["pg_restore: terminated by user", "pg_restore: error: a worker process died unexpectedly"]
)
def test_so_is_one_of_postgresql_that_says_so_itself(said: str) -> None:
    with pytest.raises(EndedFromOutside):
        read_all(Children(), ["sh", "-c", f"echo '{said}' >&2; exit 1"])


def test_a_program_that_fails_by_itself_is_a_fault_of_its_own() -> None:
    with pytest.raises(RestoreFailed, match="ended with 1: it is broken"):
        read_all(Children(), ["sh", "-c", "echo it is broken >&2; exit 1"])


@WAYS
def test_whatever_fails_once_its_job_is_ended_from_outside_is_a_passing_fault(way: Way) -> None:
    children = Children()
    threading.Thread(
        target=lambda: (wait_until(lambda: children_of(os.getpid(), "sleep") != []), children.kill())
    ).start()

    with pytest.raises(EndedFromOutside, match="The job was ended from outside"):
        way(Children(within=children), ["sleep", "3600"])
    with pytest.raises(EndedFromOutside, match="The job was ended from outside"):
        way(children, ["true"])


def test_a_job_that_gives_up_for_a_failure_of_its_own_is_not_ended_from_outside() -> None:
    children = Children()
    inner = Children(within=children)

    children.give_up()

    assert (children.killed, children.ended, inner.ended) == (False, True, True)
    with pytest.raises(LifeboatError, match="Another part of the job has failed") as failed:
        read_all(inner, ["true"])
    assert not failed.value.transient


def test_a_program_reads_an_open_file_it_is_handed_where_only_root_could_look_into_our_process() -> None:
    def read_it() -> list[str]:
        with memory_file() as file:
            file.write(b"rows")
            command = ["cat", path_of(file)]
            chunks = output_of(Children(), command, env=dict(os.environ), failure=failure, inherits=[file])
            return [b"".join(chunks).decode()]

    assert as_other_user(read_it) == ["rows"]
