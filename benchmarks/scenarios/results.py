"""Submit many, run them, and have every result back in the producer; the worker is warm."""

from __future__ import annotations

from functools import partial

from ..stage import SMALL, Shape, Stage
from .base import RATE, Goal, Scenario

LASTS_S = 1.0
LEAST, FIRST = 100, 100  # the first ones say about how many fit into the time; more at once go faster
FASTER = 2


def run_all(stage: Stage, shape: Shape) -> dict[str, float]:
    """Time from the first submit to the last result in hand."""
    adapter, worker = stage.warm(shape)
    run = partial(adapter.order, "run_all", task="noop", body=SMALL, worker=worker)
    first = FIRST / run(count=FIRST)["seconds"]
    count = stage.lasting(LASTS_S, first * FASTER, LEAST, round(stage.facts["pace"] * LASTS_S))
    return {"rate": count / run(count=count)["seconds"]}


def bodies(stage: Stage, size: int, first: int, most: int) -> dict[str, float]:
    """The same with large bodies, which come back as results."""
    adapter, worker = stage.warm(PROCESSES)
    run = partial(adapter.order, "run_all", task="noop", body="x" * size, worker=worker)
    count = stage.lasting(LASTS_S, first / run(count=first)["seconds"], first, most)
    return {"rate": count / run(count=count)["seconds"]}


PROCESSES, THREADS, COROUTINES = Shape("process", 2), Shape("thread", 10), Shape("async", 100)


SCENARIOS = (
    Scenario(
        "results", "Submit + run + all results, 2 processes", RATE, partial(run_all, shape=PROCESSES),
        important=True, shares="process", goals=(Goal("rate", 4.0, "queue"), Goal("rate", 2.5, "processpool")),
    ),
    Scenario(
        "results-threads", "Submit + run + all results, 10 threads", RATE, partial(run_all, shape=THREADS),
        shares="thread",
    ),
    Scenario(
        "results-async", "Submit + run + all results, 100 coroutines", RATE,
        partial(run_all, shape=COROUTINES), shares="async",
    ),
    Scenario(
        "bodies-10k", "Bodies and results of 10 KB, 2 processes", RATE,
        partial(bodies, size=10_000, first=50, most=2_000), shares="process", late=True,
    ),
    Scenario(
        "bodies-1m", "Bodies and results of 1 MB, 2 processes", RATE,
        partial(bodies, size=1_000_000, first=10, most=100), shares="process", late=True,
    ),
)  # fmt: skip
