"""The ideal scheduler: first in, first out, and no slot is ever idle while a task waits. Simulated, exactly."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def waits(durations: Sequence[float], slots: int) -> list[float]:
    """Return how long each task waits for its start, when all are there from the beginning: so also when it starts."""
    free_at = [0.0] * slots
    waited = []
    for duration in durations:
        start = heapq.heappop(free_at)
        waited.append(start)
        heapq.heappush(free_at, start + duration)
    return waited


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """Return how many of the given spans (start, end) overlap at most: how many slots there really were."""
    changes = sorted(change for start, end in spans for change in ((start, 1), (end, -1)))
    running = most = 0
    for _, change in changes:  # at the same instant, an end (-1) sorts before a start
        running += change
        most = max(most, running)
    return most
