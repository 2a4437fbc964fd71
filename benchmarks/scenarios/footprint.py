"""What a contestant takes: bytes in Redis, memory and calls of an idle worker, time to start."""

from __future__ import annotations

import time

from ..adapter import FailedError
from ..peers import work
from ..processes import cpu_seconds, pss_mib
from ..stage import SMALL, Shape, Stage
from .base import Figure, Scenario, needs_a_queue

QUEUED = 20_000
SETTLED_AFTER_S = 3.0
IDLE_FOR_S = 10.0
STARTED_WITHIN_S = 30.0


def redis_bytes(stage: Stage) -> dict[str, float]:
    """Memory of the server per queued task with a body of 16 characters, when the producer has left."""
    needs_a_queue(stage)
    count = stage.scaled(QUEUED)
    before = _used_after(stage, 100)
    return {"bytes": (_used_after(stage, count) - before) / count}


def _used_after(stage: Stage, count: int) -> int:
    """Queue so many tasks, and return the memory of the server when their producer is gone."""
    adapter = stage.adapter()
    adapter.order("fill", task="noop", count=count, body=SMALL)
    adapter.stop()
    return stage.server.used_memory_alone()


def idle(stage: Stage) -> dict[str, float]:
    """A worker with 2 processes that has run some tasks and has nothing to do now."""
    needs_a_queue(stage)
    adapter = stage.adapter(Shape("process", 2))
    worker = stage.warm_worker(adapter)
    assert worker is not None
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
    adapter = stage.adapter(Shape("process", 2))
    adapter.order("fill", task="noop", count=1, body=SMALL)
    command = adapter.order("worker")["command"]
    started = time.perf_counter()
    worker = stage.start_worker(adapter, command)
    while not work.counted(str(stage.counter)):
        if worker.ended or time.perf_counter() - started > STARTED_WITHIN_S:
            raise FailedError(f"no task was executed within {STARTED_WITHIN_S:g} s{worker.said()}")
        time.sleep(0.001)
    return {"seconds": time.perf_counter() - started}


SCENARIOS = (
    Scenario(
        "redis-bytes", "Redis memory per queued task", (Figure("bytes", "bytes", "least"),), redis_bytes,
        important=True, rounds=1,
    ),
    Scenario(
        "idle", "An idle worker with 2 processes",
        (
            Figure("pss", "MiB of memory (PSS)", "least"),
            Figure("commands", "Redis commands/s", "least"),
            Figure("messages", "messages to Redis/s", "least"),
            Figure("cpu", "% CPU", "least"),
        ),
        idle, important=True, rounds=1,
    ),
    Scenario("start", "Start of a worker to its first task", (Figure("seconds", "s", "least"),), start_up),
)  # fmt: skip
