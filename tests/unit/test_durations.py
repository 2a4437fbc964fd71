"""Durations as people write and read them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from qworker import durations
from qworker.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (30, 30.0),
        (0, 0.0),
        (1.5, 1.5),
        (timedelta(minutes=1, milliseconds=1), 60.001),
        ("30", 30.0),
        ("30s", 30.0),
        ("10m", 600.0),
        ("10 min", 600.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        (" 2d ", 172_800.0),
        ("1w", 604_800.0),
    ],
)
def test_a_duration_is_read_from_whatever_people_write(written, seconds):
    assert durations.seconds(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written", ["", "x", "1x", "h", "1h30", "-1", -1, "1m-", "nan", float("nan"), float("inf"), "inf", "1e99", 10**400,
                None, True, [1], timedelta(seconds=-1), timedelta.max, "101 years", 36526 * 86400]
)  # fmt: skip
def test_what_is_no_duration_is_refused_as_it_was_written(written):
    with pytest.raises(ConfigError, match=r"is not a duration: ") as caught:
        durations.seconds(written)

    assert str(caught.value).startswith(ascii(written)[:57])


def test_the_refusal_says_how_to_write_one():
    with pytest.raises(
        ConfigError, match=r"^'10 minutes' is not a duration: write it as 30, 30s, 10m, 1h30m or 250ms$"
    ):
        durations.seconds("10 minutes")


def test_milliseconds_are_whole_and_a_positive_duration_never_becomes_nothing():
    assert durations.milliseconds(0) == 0
    assert durations.milliseconds(0.0001) == 1
    assert durations.milliseconds(0.1 + 0.2) == 300
    assert durations.milliseconds("1.5s") == 1500


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.000035, "35 µs"),
        (0.00096, "1.0 ms"),
        (0.0042, "4.2 ms"),
        (0.042, "42 ms"),
        (0.25, "0.2 s"),
        (4.2, "4.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (3599.6, "1 h"),
        (7500, "2 h 5 min"),
        (86_399, "1 d"),
        (90_000, "1 d 1 h"),
        (1e7, "115 d 18 h"),
        (-3, "-3.0 s"),
    ],
)
def test_a_duration_is_shown_with_the_two_units_that_matter(seconds, text):
    assert durations.text(seconds) == text
