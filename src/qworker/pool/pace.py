"""How long tasks take, by name, and so how many may be in a child ahead of its slots. Pure.

A child is given work for a few milliseconds: enough to keep it busy while the worker does other things, little enough
that what waits behind a task that turns out to be long is quickly taken back. A name that was never seen counts as
long, so its first one goes alone.
"""

from __future__ import annotations

from typing import Final

AHEAD_S: Final = 0.005
# Slots that started together end together, within less than the worker needs to hear of it and send more.
CROWD_AHEAD_S: Final = 0.020
# What the way there and back costs a child, beside the task itself.
_PER_ORDER_S: Final = 0.000_015
_NAMES_MAX: Final = 4096
_WEIGHT: Final = 0.2


class Pace:
    """Expected run times of tasks."""

    def __init__(self) -> None:
        self._expected: dict[str, float] = {}

    def expected_s(self, name: str) -> float:
        """Return how long a slot is expected to be busy with a task of this name."""
        return self._expected.get(name, AHEAD_S)

    def learn(self, name: str, ran_s: float) -> None:
        """A task of this name ran for so long."""
        expected = self._expected
        before = expected.get(name)
        seen = ran_s + _PER_ORDER_S
        if before is None:
            if len(expected) >= _NAMES_MAX:  # names made at run time: forget, and learn those again that come
                expected.clear()
            expected[name] = seen
        else:
            expected[name] = before + (seen - before) * _WEIGHT
