"""The ideal scheduler: first in, first out, and no slot is ever idle while a task waits. Simulated, exactly."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def waits(durations: Sequence[float], slots: int) -> list[float]:
    """Return how long each task waits for its start, when all are there from the beginning."""
    free_at = [0.0] * slots
    waited = []
    for duration in durations:
        start = heapq.heappop(free_at)
        waited.append(start)
        heapq.heappush(free_at, start + duration)
    return waited
