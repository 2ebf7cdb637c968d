"""Programs and what they are handed."""

from __future__ import annotations

import os

from lifeboat.children import Children, memory_file, output_of, path_of
from lifeboat.errors import LifeboatError
from tests.other_user import as_other_user


def failed(status: int, said: str) -> LifeboatError:
    return LifeboatError(f"status {status}: {said}")


def test_a_program_reads_an_open_file_it_is_handed_where_only_root_could_look_into_our_process() -> None:
    def read_it() -> list[str]:
        with memory_file() as file:
            file.write(b"rows")
            chunks = output_of(
                Children(), ["cat", path_of(file)], env=dict(os.environ), failure=failed, inherits=[file]
            )
            return [b"".join(chunks).decode()]

    assert as_other_user(read_it) == ["rows"]
