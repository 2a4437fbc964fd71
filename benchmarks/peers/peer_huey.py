"""Huey, on its blocking Redis storage."""

from __future__ import annotations

import sys
from typing import Any

import base
import redis
import work
from huey import RedisHuey

# Of redis-py's defaults, 100 connections are too few for 100 threads, and 5 s too short for a wait for a result.
pool = redis.ConnectionPool.from_url(base.URL, max_connections=100 + 2 * base.SLOTS, socket_timeout=None)
huey = RedisHuey("bench", connection_pool=pool, results=base.RESULTS, notify_result=base.RESULTS)
WRAPPED = {function.__name__: huey.task()(function) for function in work.TASKS}


class Huey(base.Peer):
    name = "huey"
    distributions = ("huey", "redis", "hiredis")
    modes = ("process", "thread")
    settings = (
        "-k process or thread, -w slots, blocking Redis storage (huey.readthedocs.io: consumer, api);"
        " notify_result=True, its low-latency way to wait for a result; results=False where results are off;"
        " --no-periodic; --quiet"
    )
    pace = 3_000
    cannot_stop = dict.fromkeys(
        modes, "revoke() is looked at before a task runs, not later (huey.readthedocs.io: guide)"
    )
    not_soon_back = (
        "lost: taken off the queue before it runs, and nothing else knows of it (Huey.execute, Storage.dequeue)"
    )

    def submit(self, task: str, body: str) -> Any:
        return WRAPPED[task](body)

    def result(self, handle: Any) -> str:
        return handle.get(blocking=True, timeout=60)

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "huey.bin.huey_consumer", "peer_huey.huey",
            "--worker-type", base.MODE, "--workers", str(base.SLOTS), "--no-periodic", "--quiet",
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(Huey())
