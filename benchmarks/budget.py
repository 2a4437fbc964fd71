"""How a run stays within its time: what each scenario may take, who gets more rounds, and when a hang is one.

Everybody has one round of every scenario. Then the time that is left for the scenario goes to more rounds: qworker's,
and those of the others in the order of what they did in the first one, as many as fit. So the medians that are compared
have their rounds, and whoever is far behind costs the run little. What was left out is in the file, and on the page.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from .adapter import FailedError

HANGS_AFTER_S = 100.0  # the longest measurement takes 85: a crash, seen to its cap


class Budget:
    """The minutes of a run, shared out by weight. `None`: no limit."""

    def __init__(self, minutes: float | None, weights: Sequence[float], clock: Callable[[], float] = time.monotonic):
        self._left = list(weights)
        self._clock = clock
        self._ends = None if minutes is None else clock() + minutes * 60

    def share(self) -> float | None:
        """Return the seconds of the next scenario: of what is left, its part."""
        weight, of = self._left[0], sum(self._left)
        del self._left[0]
        return None if self._ends is None else max(0.0, self._ends - self._clock()) * weight / of


def affordable(ranked: Sequence[str], took_s: Mapping[str, float], left_s: float | None, rounds: int) -> list[str]:
    """Return who gets this many more rounds: from the first on, until the time is up."""
    if left_s is None:
        return list(ranked)
    chosen = []
    for contestant in ranked:
        left_s -= took_s[contestant] * rounds
        if left_s < 0:
            break
        chosen.append(contestant)
    return chosen


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
