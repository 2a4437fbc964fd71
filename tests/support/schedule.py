"""An ideal scheduler to hold a real one against: pure functions over durations and over what tasks recorded.

runs ──► cost_between() ──► what this machine, as busy as it was, needed between two tasks of a slot
runs ──► longest_idle() ──► for how long a slot stood free while something waited, in one stretch

When each task would have started, had every free slot known at once what waits, is said by benchmarks/ideal.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """What one task recorded: where it ran, and from when to when (monotonic seconds)."""

    worker: str
    start: float
    end: float
    slot: int = 0


def cost_between(spans: Iterable[Span]) -> float:
    """The mean pause between two tasks of one slot, without the longest twentieth.

    Those may be the scheduler's fault, and must show; the others are what the machine takes for each task, and on one
    that has other things to do, that is a lot.
    """
    by_slot: dict[int, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        by_slot.setdefault(span.slot, []).append(span)
    pauses = sorted(b.start - a.end for line in by_slot.values() for a, b in itertools.pairwise(line))
    usual = pauses[: len(pauses) * 19 // 20]
    return sum(usual) / len(usual)


def makespan(starts: Sequence[float], durations: Sequence[float]) -> float:
    """From the start of the first to the end of the last."""
    return max(start + duration for start, duration in zip(starts, durations, strict=True)) - min(starts)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def longest_idle(spans: Sequence[Span], slots: Mapping[str, int], *, submitted: float, serving: float) -> float:
    """The longest stretch, after `serving`, in which a worker had a free slot while a submitted task had not started.

    Where such a task waited meanwhile (in the queue, or in the window of another worker) makes no difference.
    """
    changes = [(span.start, 1, span.worker) for span in spans] + [(span.end, -1, span.worker) for span in spans]
    running = dict.fromkeys(slots, 0)
    waiting = len(spans)
    now = max(submitted, serving)
    idle_since = None
    longest = 0.0
    for when, change, worker in sorted(changes):
        idle = waiting > 0 and any(running[name] < slots[name] for name in slots)
        if idle and when > now:
            idle_since = now if idle_since is None else idle_since
            longest = max(longest, when - idle_since)
        elif not idle:
            idle_since = None
        now = max(now, when)
        running[worker] += change
        waiting -= change == 1
    return longest
