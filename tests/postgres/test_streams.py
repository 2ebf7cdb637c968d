"""How a database's tables are cut into streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lifeboat.postgres.dump import LEAST_STREAM, STREAMS, cut_into_streams
from lifeboat.postgres.evidence import TableToRead

MIB = 1024**2
SIZES = st.lists(st.integers(0, 4096 * MIB), max_size=200)


def tables(sizes: list[int]) -> list[TableToRead]:
    return [TableToRead(oid, "public", f"t{oid}", size) for oid, size in enumerate(sizes)]


@given(SIZES)
def test_no_table_is_in_two_streams(sizes: list[int]) -> None:
    cut = [table.oid for stream in cut_into_streams(tables(sizes)) for table in stream]

    assert len(cut) == len(set(cut))


@given(SIZES)
def test_there_are_never_many_streams_and_none_is_small(sizes: list[int]) -> None:
    streams = cut_into_streams(tables(sizes))

    assert len(streams) <= STREAMS
    assert all(sum(table.size for table in stream) >= LEAST_STREAM for stream in streams)


@given(SIZES)
def test_what_is_left_in_the_main_stream_is_less_than_a_stream_apart_from_small_tables(sizes: list[int]) -> None:
    all_tables = tables(sizes)
    cut = {table.oid for stream in cut_into_streams(all_tables) for table in stream}

    size = max(sum(sizes) // STREAMS, LEAST_STREAM)
    left = sum(table.size for table in all_tables if table.oid not in cut)
    small = sum(table.size for table in all_tables if table.size * 64 < size)
    assert left < size + small


def test_a_large_table_is_alone_and_smaller_ones_are_together() -> None:
    streams = cut_into_streams(tables([500 * MIB, 40 * MIB, 300 * MIB, 30 * MIB, 20 * MIB, 0]))

    assert [[table.size // MIB for table in stream] for stream in streams] == [[500], [300], [40, 30]]
