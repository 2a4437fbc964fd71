"""Medians, ranges, percentiles and ratios, and how they are written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What several rounds of one figure come to."""

    median: float
    low: float
    high: float


def summary(values: Sequence[float]) -> Summary:
    """Sum up the rounds of one figure."""
    return Summary(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which so many percent of the values are, between two of them by proportion."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * part / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def number(value: float) -> str:
    """Write a number with three digits that matter, and thousands apart: 24,300, 12.3, 0.85."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 3
    return f"{value:.{decimals}f}"


def range_of(values: Sequence[float]) -> str:
    """Write the median and, when there are several rounds, their range: `24,300 (22,900-25,100)`."""
    found = summary(values)
    if len(values) == 1:
        return number(found.median)
    return f"{number(found.median)} ({number(found.low)}-{number(found.high)})"


def rounds_of(values: Sequence[float]) -> str:
    """Write the median, the range and how many rounds there were: `24,300 (22,900-25,100) n=3`."""
    return f"{range_of(values)} n={len(values)}"
