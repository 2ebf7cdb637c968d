"""Progress is said now and then, in units people read."""

import pytest

from lifeboat.progress import ProgressLog, count_text, duration_text, size_text

SIZES = {
    0: "0 B",
    1023: "1023 B",
    1024: "1.0 KiB",
    1536: "1.5 KiB",
    1024**2 - 1: "1.0 MiB",
    1024**3 * 3 // 2: "1.5 GiB",
    10 * 1024**4: "10.0 TiB",
    5000 * 1024**5: "5000.0 PiB",
}


@pytest.mark.parametrize("count", SIZES)
def test_a_size_is_shown_with_its_unit(count: int) -> None:
    assert size_text(count) == SIZES[count]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (360000, "100:00:00")]
)
def test_a_duration_is_shown_in_hours_minutes_and_seconds(seconds: float, shown: str) -> None:
    assert duration_text(seconds) == shown


def test_things_are_counted_in_words() -> None:
    assert [count_text(n, "row") for n in (0, 1, 1500000)] == ["0 rows", "1 row", "1,500,000 rows"]


def test_each_artifact_is_spoken_of_every_ten_seconds_with_bytes_rate_and_elapsed_time() -> None:
    now = 100.0
    lines: list[str] = []
    log = ProgressLog(lines.append, clock=lambda: now)

    for second in range(25):
        now = 100.0 + second
        log("dump", second * 1024**2)
        log("globals", 5)

    assert lines == [
        "dump: 10.0 MiB, 1.0 MiB/s, 0:00:10",
        "globals: 5 B, 0 B/s, 0:00:10",
        "dump: 20.0 MiB, 1.0 MiB/s, 0:00:20",
        "globals: 5 B, 0 B/s, 0:00:20",
    ]
