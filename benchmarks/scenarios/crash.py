"""A worker is lost with all its processes while its slots are full; a second worker is there. When is all done?"""

from __future__ import annotations

import time

from ..adapter import FailedError
from ..peers import work
from ..stage import Shape, Stage
from .base import Figure, Goal, Scenario, needs_a_queue

NAP_S = 8.0
IN_FLIGHT_AFTER_S = 2.0  # all tasks were handed out by then, to the only worker that is there
SECOND_READY_AFTER_S = 4.0
CAP_S = 75.0  # some come back after a minute


def lost(stage: Stage) -> dict[str, float]:
    """From the kill until every task has ended, the 8 s that the tasks themselves sleep included."""
    needs_a_queue(stage)
    mode = next(mode for mode in ("async", "thread", "process") if mode in stage.facts["modes"])
    slots = 10 if mode == "process" else 100
    adapter = stage.adapter(Shape(mode, slots))
    worker = stage.warm_worker(adapter)
    assert worker is not None
    before = work.counted(str(stage.counter))
    adapter.order("fill", task="nap", count=slots, body=str(NAP_S))
    time.sleep(IN_FLIGHT_AFTER_S)
    second = stage.worker(adapter)
    time.sleep(SECOND_READY_AFTER_S)
    worker.kill()
    killed = time.perf_counter()
    while (ended := work.counted(str(stage.counter)) - before) < slots:
        if second.ended:
            raise FailedError(f"the second worker ended{second.said()}")
        if time.perf_counter() - killed > CAP_S:
            raise FailedError(f"{ended} of {slots} tasks had ended {CAP_S:g} s after the kill")
        time.sleep(0.01)
    return {"seconds": time.perf_counter() - killed, "tasks": slots}


SCENARIOS = (
    Scenario(
        "crash", f"Worker killed -9 with 100 tasks of {NAP_S:g} s in flight: all have ended after",
        (Figure("seconds", "s", "least"), Figure("tasks", "tasks")), lost,
        goals=(Goal("seconds", 0.5, "queue"),), rounds=1,
    ),
)  # fmt: skip
