"""What a producer submits in a chaos run: batches of every kind of task, drawn from a seed.

plan(seed, tasks) ─► [Batch]     the same seed, the same batches
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from .client import Batch

MOST_PER_BATCH = 64
# How often each kind comes, in tasks of a thousand. What hangs, dies or is stopped costs a child or a second each, so
# that a few of them are plenty.
SHARES = {
    "short": 640,
    "thread": 120,
    "coroutine": 60,
    "long": 30,
    "flaky": 60,
    "failing": 30,
    "cancelled": 20,
    "stopped": 10,
    "hangs": 4,
    "timed out": 2,
    "dies": 3,
    "poison": 1,
    "once": 10,
    "deadline": 7,
    "refused": 3,
}


def plan(seed: int, tasks: int, queues: Sequence[str] = ("default",)) -> list[Batch]:
    """Draw batches of so many tasks in all, for these queues by turns."""
    draw = random.Random(seed)
    kinds = draw.choices(list(SHARES), weights=list(SHARES.values()), k=tasks)
    left = {kind: kinds.count(kind) for kind in SHARES}
    batches: list[Batch] = []
    while any(left.values()):
        # By how many batches are left, so that no kind is left over for the end.
        (kind,) = draw.choices(list(left), weights=[left[kind] / _most(kind) for kind in left])
        count = min(left[kind], draw.randint(1, _most(kind)))
        left[kind] -= count
        batch = _batch(draw, kind, count, first=len(batches))
        batches.append(dataclasses.replace(batch, queue=queues[len(batches) % len(queues)]))
    return batches


def _most(kind: str) -> int:
    """Bulk comes in bulk, the rest in ones and twos."""
    return MOST_PER_BATCH if kind in ("short", "thread", "coroutine", "flaky") else 3


def _batch(draw: random.Random, kind: str, count: int, *, first: int) -> Batch:
    given = kind == "refused" or draw.random() < 0.3
    ids = tuple(f"given-{first}-{n}" for n in range(count)) if given else ()
    short = draw.choice((0.0, 0.001, 0.004))
    retried = {"retries": 3, "jitter": False}
    match kind:
        case "short":
            return Batch(kind, "nap", (short,), count, ids=ids)
        case "thread":
            return Batch(kind, "thread_nap", (short,), count, pool="thread", ids=ids)
        case "coroutine":
            return Batch(kind, "async_nap", (short,), count, pool="async", ids=ids)
        case "long":
            return Batch(kind, "nap", (draw.uniform(0.05, 0.3),), count, ids=ids)
        case "flaky":
            return Batch(kind, "flaky", (draw.randint(1, 3), short), count, retried, ids=ids)
        case "failing":
            return Batch(kind, "flaky", (99, short), count, {"retries": draw.randint(0, 1)}, ids=ids)
        case "cancelled":
            delay = {"delay": 30} if draw.random() < 0.5 else {}
            return Batch(kind, "nap", (0.01,), count, delay, ids=ids, stop="cancel")
        case "stopped":
            # Before all others, so that they run when they are stopped.
            return Batch(kind, "polite", (60.0,), count, {"grace": 0.5, "priority": "high"}, ids=ids, stop="stop")
        case "hangs":
            return Batch(kind, "hangs", (1,), count, {**retried, "timeout": 0.5, "grace": 0.1}, ids=ids)
        case "timed out":
            return Batch(kind, "hangs", (99,), count, {"timeout": 0.5, "grace": 0.1}, ids=ids)
        case "dies":
            return Batch(kind, "dies", (draw.randint(1, 2),), count, ids=ids)
        case "poison":
            return Batch(kind, "dies", (99,), count, {"max_crashes": draw.randint(1, 3)}, ids=ids)
        case "once":
            return Batch(kind, "nap", (draw.uniform(0.0, 0.1),), count, {"delivery": "at_most_once"}, ids=ids)
        case "deadline":
            # Behind all others: some of them are in time.
            options = {"deadline": draw.choice((0.2, 1.0, 5.0)), "priority": "low"}
            return Batch(kind, "nap", (short,), count, options, ids=ids)
        case _:
            # A delay beyond the deadline: refused where it is submitted, as a whole.
            return Batch(kind, "nap", (0.0,), count, {"delay": 60, "deadline": 1}, ids=ids)
