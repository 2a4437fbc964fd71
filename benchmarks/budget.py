"""How a run stays within its time: who has another round of what, and when a hang is one.

Everybody has a first round of everything. Another round of everything follows as long as one fits into the time that is
left. When none fits any more, what decides comes first: the scenarios that have goals, by qworker and those that were
best; and then as much of the rest as fits. So all figures have several rounds, and what decides the most.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from .adapter import FailedError
from .comparison import OURS, group, ranked, values
from .scenarios import Scenario

HANGS_AFTER_S = 100.0  # the longest measurement takes 85: a crash, seen to its cap
BEST = 2  # so many of the others decide what the best of them is


class Budget:
    """The minutes of a run. `None`: no limit."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = None if minutes is None else clock() + minutes * 60

    def allows(self, seconds: float) -> bool:
        """Whether so much fits into what is left."""
        return self._ends is None or self._clock() + seconds <= self._ends


def deciding(scenario: Scenario, data: dict[str, Any]) -> set[str]:
    """Return whose rounds say whether a goal of this scenario is met: ours, and the best of whom it is held against."""
    if not scenario.goals:
        return set()
    row, found = data["cells"].get(scenario.name, {}), {OURS}
    figures = {figure["name"]: figure for figure in data["scenarios"][scenario.name]["figures"]}
    for goal in scenario.goals:
        figure = figures[goal.figure]
        others = group(data, goal.of) - {OURS} if goal.of else set()
        found |= set([name for name in ranked(row, figure) if name in others and values(row[name], goal.figure)][:BEST])
    return found


@contextlib.contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Fail what is done within when it takes longer, wherever it waits. For the main thread.

    Raises:
        FailedError: it took too long.
    """

    def late(_number: int, _frame: FrameType | None) -> None:
        raise FailedError(f"it was not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
