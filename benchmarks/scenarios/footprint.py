"""What a contestant takes: bytes in Redis, memory of a worker, calls of an idle one, time to start."""

from __future__ import annotations

import time

from ..adapter import FailedError
from ..peers import work
from ..processes import cpu_seconds, pss_mib
from ..stage import SMALL, Shape, Stage
from .base import Figure, Goal, Scenario, needs_a_queue

QUEUED = 5_000
SETTLED_AFTER_S = 1.5
IDLE_FOR_S = 4.0
STARTED_WITHIN_S = 30.0
ENDED_IN_S = 1.5
RECORDED_S = 0.5
BUSY_FOR_S = 1.6
LOOK_EVERY_S = 0.1


def redis_bytes(stage: Stage) -> dict[str, float]:
    """Memory of the server per task with a body of 16 characters: queued, and ended with its result kept.

    Weighed when the producer has left, and then the worker. Ended ones: as many as run in a few seconds.
    """
    needs_a_queue(stage)
    count = stage.scaled(QUEUED)
    before = _used_after(stage, 100)
    queued = (_used_after(stage, count) - before) / count
    stage.clear()
    return {"bytes": queued, "ended": _bytes_of_ended(stage, min(QUEUED, stage.paced(ENDED_IN_S)))}


def _used_after(stage: Stage, count: int) -> int:
    """Queue so many tasks, and return the memory of the server when their producer is gone."""
    adapter = stage.adapter()
    adapter.order("fill", task="noop", count=count, body=SMALL)
    adapter.stop()
    return stage.server.used_memory_alone()


def _bytes_of_ended(stage: Stage, count: int) -> float:
    """Run 200 tasks, then more, each time to the end of their worker: what the later ones added, for each of them."""
    held = [_used_after_end(stage, number) for number in (200, count)]
    return (held[1] - held[0]) / count


def _used_after_end(stage: Stage, count: int) -> int:
    adapter = stage.adapter()
    adapter.order("fill", task="noop", count=count, body=SMALL)
    worker = stage.worker(adapter)
    stage.watch(work.counted(str(stage.counter)) + count, worker, timed=False)
    time.sleep(RECORDED_S)  # what was executed last is not yet recorded
    worker.stop()
    adapter.stop()
    return stage.server.used_memory_alone()


def busy(stage: Stage) -> dict[str, float]:
    """A worker with 2 processes in the middle of a full queue of no-op tasks: its memory, looked at several times."""
    needs_a_queue(stage)
    adapter = stage.adapter(Shape("process", 2))
    adapter.order("fill", task="noop", count=stage.paced(BUSY_FOR_S), body=SMALL)
    command = adapter.order("worker")["command"]
    adapter.stop()
    worker = stage.start_worker(adapter, command)
    stage.watch(1, worker, timed=False)
    seen = []
    ends = time.monotonic() + BUSY_FOR_S / 2
    while time.monotonic() < ends and not worker.ended:
        seen.append(pss_mib(worker.tree()))
        time.sleep(LOOK_EVERY_S)
    return {"pss": max(seen)}


def idle(stage: Stage) -> dict[str, float]:
    """A worker with 2 processes that has run some tasks and has nothing to do now."""
    needs_a_queue(stage)
    adapter, worker = stage.warm(Shape("process", 2))
    assert worker is not None
    stage.run_some(adapter, worker)
    adapter.stop()  # what the producer calls is not the worker's
    lasts_s = 1.0 if stage.quick else IDLE_FOR_S
    time.sleep(min(lasts_s, SETTLED_AFTER_S))
    tree = worker.tree()
    commands, messages, cpu_s, started = *stage.server.traffic(), cpu_seconds(tree), time.perf_counter()
    time.sleep(lasts_s)
    took_s = time.perf_counter() - started
    commands_after, messages_after = stage.server.traffic()
    if worker.ended:
        raise FailedError(f"the idle worker ended{worker.said()}")
    return {
        "pss": pss_mib(worker.tree()),
        "commands": (commands_after - commands) / took_s,
        "messages": (messages_after - messages) / took_s,
        "cpu": (cpu_seconds(tree) - cpu_s) / took_s * 100,
    }


def start_up(stage: Stage) -> dict[str, float]:
    """From the start of the worker's command to the execution of a task that waits for it."""
    needs_a_queue(stage)
    shape = Shape("process", 2)
    adapter = stage.adapter(shape)
    adapter.order("fill", task="noop", count=1, body=SMALL)
    command = adapter.order("worker")["command"]
    started = time.perf_counter()
    worker = stage.start_worker(adapter, command)
    while not work.counted(str(stage.counter)):
        if worker.ended or time.perf_counter() - started > STARTED_WITHIN_S:
            raise FailedError(f"no task was executed within {STARTED_WITHIN_S:g} s{worker.said()}")
        time.sleep(0.001)
    took_s = time.perf_counter() - started
    stage.keep(shape, adapter, worker)
    return {"seconds": took_s}


SCENARIOS = (
    Scenario(
        "redis-bytes", "Redis memory per task",
        (Figure("bytes", "bytes, queued", "least"), Figure("ended", "bytes, ended with its result", "least")),
        redis_bytes, important=True, goals=(Goal("bytes", 1.0, "queue"),), rounds=2,
    ),
    Scenario(
        "idle", "An idle worker with 2 processes",
        (
            Figure("pss", "MiB of memory (PSS)", "least"),
            Figure("commands", "Redis commands/s", "least"),
            Figure("messages", "messages to Redis/s", "least"),
            Figure("cpu", "% CPU", "least"),
        ),
        idle, important=True, goals=(Goal("pss", 1.0, "queue"), Goal("messages", 2.0), Goal("cpu", 1.0)), rounds=2,
        shares="start", late=True,
    ),
    Scenario(
        "busy", "A busy worker with 2 processes", (Figure("pss", "MiB of memory (PSS), most", "least"),), busy, rounds=2
    ),
    Scenario(
        "start", "Start of a worker to its first task", (Figure("seconds", "s", "least"),), start_up, shares="start"
    ),
)  # fmt: skip
