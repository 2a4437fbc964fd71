"""Submit many, run them, and have every result back in the producer; the worker is warm."""

from __future__ import annotations

from functools import partial

from ..stage import SMALL, Shape, Stage
from .base import RATE, Goal, Scenario

SUBMITTED_FOR_S = 1.0  # as many as run in so long without results; with them it takes about thrice as long


def run_all(stage: Stage, shape: Shape, body: str = SMALL, count: int | None = None) -> dict[str, float]:
    """Time from the first submit to the last result in hand."""
    adapter = stage.adapter(shape)
    worker = stage.warm_worker(adapter)
    count = stage.paced(SUBMITTED_FOR_S) if count is None else stage.scaled(count)
    told = adapter.order("run_all", task="noop", count=count, body=body, worker=worker)
    return {"rate": count / told["seconds"]}


def _bodies(name: str, title: str, size: int, count: int) -> Scenario:
    measure = partial(run_all, shape=Shape("process", 2), body="x" * size, count=count)
    return Scenario(name, title, RATE, measure)


SCENARIOS = (
    Scenario(
        "results", "Submit + run + all results, 2 processes", RATE, partial(run_all, shape=Shape("process", 2)),
        important=True, goals=(Goal("rate", 4.0, "queue"), Goal("rate", 2.5, "processpool")),
    ),
    Scenario(
        "results-threads", "Submit + run + all results, 10 threads", RATE, partial(run_all, shape=Shape("thread", 10)),
    ),
    Scenario(
        "results-async", "Submit + run + all results, 100 coroutines", RATE,
        partial(run_all, shape=Shape("async", 100)),
    ),
    _bodies("bodies-10k", "Bodies and results of 10 KB, 2 processes", 10_000, 2_000),
    _bodies("bodies-1m", "Bodies and results of 1 MB, 2 processes", 1_000_000, 100),
)  # fmt: skip
