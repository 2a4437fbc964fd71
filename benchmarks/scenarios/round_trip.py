"""From the call of submit to the result in hand, one task at a time, alone and beside a steady load."""

from __future__ import annotations

import time
from functools import partial

from ..adapter import Adapter, FailedError, NotOfferedError
from ..figures import percentile
from ..peers import work
from ..processes import Process
from ..stage import SMALL, Shape, Stage
from .base import Figure, Goal, Scenario

MEASURED_FOR_S = 1.0
LEAST, MOST = 40, 2_000  # round trips; the fewest are of those who poll, and vary little
LOAD_PER_S = 300
LOAD_WITHIN_S = 30.0

FIGURES = tuple(Figure(name, "ms", "least") for name in ("p50", "p95", "p99"))
LOADED = (*FIGURES, Figure("load", "tasks/s in all"))


def alone(stage: Stage, shape: Shape) -> dict[str, float]:
    """Nothing else is queued."""
    return _figures(_measure(stage, *stage.warm(shape)))


def loaded(stage: Stage, shape: Shape) -> dict[str, float]:
    """Another producer submits no-op tasks all the while, at a pace that every contestant can keep up with."""
    if stage.facts["local"]:
        raise NotOfferedError("a local pool: no second producer")
    adapter, worker = stage.warm(shape)
    filler = stage.adapter(shape)
    before = work.counted(str(stage.counter))
    filler.begin("steady", task="noop", body=SMALL, per_second=LOAD_PER_S, seconds=600)
    _wait_for_load(stage, filler, before)
    before, started = work.counted(str(stage.counter)), time.perf_counter()
    seconds = _measure(stage, adapter, worker)
    ran, took_s = work.counted(str(stage.counter)) - before, time.perf_counter() - started
    if filler.process.ended:
        raise FailedError(f"the producer of the load ended{filler.process.said()}")
    filler.process.kill()
    return {**_figures(seconds), "load": ran / took_s}


def _measure(stage: Stage, adapter: Adapter, worker: Process | None) -> list[float]:
    """Return what each round trip took: as many as fit into the time."""
    least, most = (5, 100) if stage.quick else (LEAST, MOST)
    told = adapter.order(
        "round_trips", task="noop", body=SMALL, worker=worker, least=least, most=most, seconds=MEASURED_FOR_S
    )
    seconds: list[float] = told["seconds"]
    return seconds


def _figures(seconds: list[float]) -> dict[str, float]:
    return {figure.name: percentile(seconds, float(figure.name[1:])) * 1e3 for figure in FIGURES}


def _wait_for_load(stage: Stage, filler: Adapter, before: int) -> None:
    ends = time.monotonic() + LOAD_WITHIN_S
    while work.counted(str(stage.counter)) == before:
        if filler.process.ended or time.monotonic() > ends:
            raise FailedError(f"nothing of the load was executed{filler.process.said()}")
        time.sleep(0.01)


SCENARIOS = (
    Scenario(
        "round-trip", "Round trip, 2 processes, idle", FIGURES, partial(alone, shape=Shape("process", 2)),
        important=True, goals=(Goal("p50", 0.75, "queue"), Goal("p50", 2.0, "processpool")), shares="process",
    ),
    Scenario(
        "round-trip-threads", "Round trip, 10 threads, idle", FIGURES, partial(alone, shape=Shape("thread", 10)),
        shares="thread",
    ),
    Scenario(
        "round-trip-async", "Round trip, 100 coroutines, idle", FIGURES, partial(alone, shape=Shape("async", 100)),
        shares="async",
    ),
    Scenario(
        "round-trip-loaded", f"Round trip, 2 processes, beside {LOAD_PER_S} no-ops per second", LOADED,
        partial(loaded, shape=Shape("process", 2)), shares="process",
    ),
)  # fmt: skip
