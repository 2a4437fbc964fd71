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
    our_rounds: tuple[float, ...] = ()
    their_rounds: tuple[float, ...] = ()


def values(cell: dict[str, Any] | None, figure: str) -> list[float]:
    """Return what the rounds gave for a figure; nothing when they failed or it is not offered."""
    return [one[figure] for one in (cell or {}).get("rounds", []) if figure in one]


def beside(row: dict[str, dict[str, Any]], figure: dict[str, str], others: Iterable[str]) -> Beside | None:
    """Compare our median with the best of the others' in the same run; None when there is nothing to compare."""
    ours = values(row.get(OURS), figure["name"])
    if not ours:
        return None
    run, most = row[OURS]["run"], figure["best"] == "most"
    rounds = {
        name: theirs
        for name in others
        if name != OURS and row.get(name, {}).get("run") == run and (theirs := values(row[name], figure["name"]))
    }
    if not rounds:
        return None
    medians = {name: statistics.median(theirs) for name, theirs in rounds.items()}
    best = (max if most else min)(medians, key=lambda name: medians[name])
    median = statistics.median(ours)
    upper, lower = (median, medians[best]) if most else (medians[best], median)
    times = upper / lower if lower else float("inf")
    return Beside(median, best, medians[best], times, tuple(ours), tuple(rounds[best]))


@dataclass(frozen=True)
class Wanted:
    """A goal of ours beside what is: the number that it comes to, and in words."""

    scenario: str
    figure: str
    text: str
    target: float
    ours: float
    met: bool
    our_rounds: tuple[float, ...] = ()


def goals(data: dict[str, Any], name: str) -> list[Wanted]:
    """Return the goals of a scenario as far as its cells say whether they are met."""
    scenario, row, found = data["scenarios"][name], data["cells"][name], []
    figures = {figure["name"]: figure for figure in scenario["figures"]}
    for goal in scenario.get("goals", ()):
        figure = figures[goal["figure"]]
        ours = values(row.get(OURS), figure["name"])
        most = figure["best"] == "most"
        sign = "at least" if most else "at most"
        if not ours:
            continue
        if goal["of"] is None:
            target, text = goal["by"], f"{sign} {goal['by']:g}"
        else:
            other = beside(row, figure, group(data, goal["of"]))
            if other is None:
                continue
            best = other.name if other.name == goal["of"] else f"the best {goal['of']}, {other.name}"
            target, text = goal["by"] * other.theirs, f"{goal['by']:g} x {best}"
        median = statistics.median(ours)
        met = median >= target if most else median <= target
        found.append(Wanted(name, figure["name"], text, target, median, met, tuple(ours)))
    return found


def group(data: dict[str, Any], of: str) -> set[str]:
    """Return who is meant by `queue`, `pure Python queue`, `local pool`, or by one name."""
    local = {name for name, facts in data["contestants"].items() if facts.get("local")}
    native = {name for name, facts in data["contestants"].items() if facts.get("native")}
    queues = set(data["contestants"]) - local
    return {"queue": queues, "pure Python queue": queues - native, "local pool": local}.get(of, {of})


def ranked(row: dict[str, dict[str, Any]], figure: dict[str, str]) -> list[str]:
    """Return the contestants of a scenario, the best first; those without a figure last, by name."""
    sign = -1 if figure["best"] == "most" else 1

    def place(name: str) -> tuple[bool, float, str]:
        found = values(row[name], figure["name"])
        return not found, sign * statistics.median(found) if found else 0.0, name

    return sorted(row, key=place)
