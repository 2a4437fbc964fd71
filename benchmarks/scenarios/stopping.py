"""How soon a running task sees that its caller stopped it, or is gone: in processes, threads and coroutines."""

from __future__ import annotations

from functools import partial

from ..adapter import CannotError, NotOfferedError
from ..figures import percentile
from ..stage import Shape, Stage
from .base import Figure, Goal, Scenario

LASTS_S = 2.0
LEAST, MOST = 4, 50
SLOTS = {"process": 2, "thread": 10, "async": 10}
WITHIN_S = 90.0


def cancel(stage: Stage, mode: str) -> dict[str, float]:
    """One at a time, each after it was seen to run: from the caller's call to the instant that the task notes, or its
    process's end.

    It notes that when it is interrupted, or when it finds that it was asked to end: it looks each half a millisecond.
    """
    if mode not in stage.facts["modes"]:
        raise NotOfferedError(f"no {mode} slots")
    if why := stage.facts["cannot_stop"].get(mode):
        raise CannotError(why)
    adapter = stage.adapter(Shape(mode, SLOTS[mode], stops=True))
    worker = stage.warm_worker(adapter)
    stage.times.touch()
    least = 2 if stage.quick else LEAST
    told = adapter.order("cancels", least=least, most=MOST, seconds=LASTS_S, worker=worker, within_s=WITHIN_S)
    found = {f"p{part}": percentile(told["seconds"], part) * 1e3 for part in (50, 95)}
    return {**found, "stopped": len(told["seconds"]), "killed": told["killed"]}


def _scenario(name: str, mode: str, title: str) -> Scenario:
    figures = (
        Figure("p50", "ms", "least"),
        Figure("p95", "ms", "least"),
        Figure("stopped", "stopped tasks a round"),
        Figure("killed", "of them killed", "least"),
    )
    return Scenario(name, title, figures, partial(cancel, mode=mode), goals=(Goal("p50", 1.0, "queue"),))


SCENARIOS = (
    _scenario("cancel", "async", "Stop of a running coroutine until it sees it"),
    _scenario("cancel-threads", "thread", "Stop of a task that runs in a thread until it sees it"),
    _scenario("cancel-processes", "process", "Stop of a task that runs in a process until it sees it, or is gone"),
)
