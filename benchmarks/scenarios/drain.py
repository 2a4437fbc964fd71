"""How fast a worker empties a full queue of no-op tasks.

The queue is filled while no worker runs; the worker starts; the counter file is watched. The rate is that from the
first look that shows any task executed to the one that shows all, so the start of the worker is not in it.
Ten processes come up one after the other, and the first ones run tasks meanwhile: there the rate from a fifth of the
tasks on ("settled") stands beside it. The file of results has that of the others, too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..stage import RUN_LASTS_S, SMALL, Shape, Stage
from .base import RATE, Figure, Goal, Scenario, needs_a_queue

SETTLED = (*RATE, Figure("settled", "tasks/s from a fifth on"))


def drain(stage: Stage, shape: Shape, lasts_s: float) -> dict[str, float]:
    """Fill, start, watch."""
    needs_a_queue(stage)
    adapter = stage.adapter(shape)
    watched = stage.run_filled(adapter, "noop", [SMALL] * stage.paced(lasts_s))
    return {"rate": watched.rate, "settled": watched.settled_rate}


def _scenario(
    name: str, title: str, shape: Shape, figures: tuple[Figure, ...] = RATE, lasts_s: float = RUN_LASTS_S, **more: Any
) -> Scenario:
    return Scenario(f"drain-{name}", f"Drain, {title}", figures, partial(drain, shape=shape, lasts_s=lasts_s), **more)


SCENARIOS = (
    _scenario("1", "1 process", Shape("process", 1)),
    _scenario(
        "2", "2 processes", Shape("process", 2), lasts_s=1.0, important=True,
        goals=(Goal("rate", 3.0, "queue"), Goal("rate", 10.0, "pure Python queue")),
    ),
    _scenario("10", "10 processes", Shape("process", 10), SETTLED, lasts_s=1.5),
    _scenario("threads", "10 threads", Shape("thread", 10)),
    _scenario("async", "100 coroutines", Shape("async", 100)),
    _scenario("2-no-results", "2 processes, results not stored", Shape("process", 2, results=False)),
    _scenario("threads-no-results", "10 threads, results not stored", Shape("thread", 10, results=False)),
    _scenario("async-no-results", "100 coroutines, results not stored", Shape("async", 100, results=False)),
)  # fmt: skip
