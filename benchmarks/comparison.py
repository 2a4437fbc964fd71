"""Who is best at what: the cells of one scenario side by side, and how often qworker is as good as the next one.

Only cells of one run are compared: a ratio of figures from two runs would show the machine's mood as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

OURS = "qworker"


@dataclass(frozen=True)
class Beside:
    """A figure of ours beside the best of some others; `times` over 1 means that ours is better."""

    ours: float
    name: str
    theirs: float
    times: float


def values(cell: dict[str, Any] | None, figure: str) -> list[float]:
    """Return what the rounds gave for a figure; nothing when they failed or it is not offered."""
    return [one[figure] for one in (cell or {}).get("rounds", []) if figure in one]


def beside(row: dict[str, dict[str, Any]], figure: dict[str, str], others: Iterable[str]) -> Beside | None:
    """Compare our median with the best of the others' in the same run; None when there is nothing to compare."""
    ours = values(row.get(OURS), figure["name"])
    if not ours:
        return None
    run, most = row[OURS]["run"], figure["best"] == "most"
    medians = {
        name: statistics.median(theirs)
        for name in others
        if name != OURS and row.get(name, {}).get("run") == run and (theirs := values(row[name], figure["name"]))
    }
    if not medians:
        return None
    best = (max if most else min)(medians, key=lambda name: medians[name])
    median = statistics.median(ours)
    upper, lower = (median, medians[best]) if most else (medians[best], median)
    return Beside(median, best, medians[best], upper / lower if lower else float("inf"))


def ranked(row: dict[str, dict[str, Any]], figure: dict[str, str]) -> list[str]:
    """Return the contestants of a scenario, the best first; those without a figure last, by name."""
    sign = -1 if figure["best"] == "most" else 1

    def place(name: str) -> tuple[bool, float, str]:
        found = values(row[name], figure["name"])
        return not found, sign * statistics.median(found) if found else 0.0, name

    return sorted(row, key=place)
