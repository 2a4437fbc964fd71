"""How fast a worker empties a full queue of no-op tasks.

The queue is filled while no worker runs; the worker starts; the counter file is watched. The rate is that from the
first look that shows any task executed to the one that shows all, so the start of the worker is not in it.
The file of results also has the rate from a fifth of the tasks on ("settled"), by which one sees whether processes that
came up late are in the other.
"""

from __future__ import annotations

from functools import partial

from ..stage import SMALL, Shape, Stage
from .base import RATE, Scenario, needs_a_queue


def drain(stage: Stage, shape: Shape) -> dict[str, float]:
    """Fill, start, watch."""
    needs_a_queue(stage)
    adapter = stage.adapter(shape)
    watched = stage.run_filled(adapter, "noop", [SMALL] * stage.paced())
    return {"rate": watched.rate, "settled": watched.settled_rate}


def _scenario(name: str, title: str, shape: Shape, *, important: bool = False) -> Scenario:
    return Scenario(f"drain-{name}", f"Drain, {title}", RATE, partial(drain, shape=shape), important=important)


SCENARIOS = (
    _scenario("1", "1 process", Shape("process", 1)),
    _scenario("2", "2 processes", Shape("process", 2), important=True),
    _scenario("10", "10 processes", Shape("process", 10)),
    _scenario("threads", "10 threads", Shape("thread", 10)),
    _scenario("async", "100 coroutines", Shape("async", 100)),
    _scenario("2-no-results", "2 processes, results not stored", Shape("process", 2, results=False)),
    _scenario("async-no-results", "100 coroutines, results not stored", Shape("async", 100, results=False)),
)
