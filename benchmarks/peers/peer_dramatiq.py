"""Dramatiq, on its Redis broker and Redis result backend."""

from __future__ import annotations

import sys
from typing import Any

import base
import dramatiq
import redis
import work
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

THREADS = 1 if base.MODE == "process" else base.SLOTS
PREFETCH = max(32, 2 * THREADS) if base.AHEAD else 1

# Of redis-py's defaults, 100 connections are too few for 100 threads, and 5 s too short for a wait for a result.
client = redis.Redis.from_url(base.URL, max_connections=100 + 2 * THREADS, socket_timeout=None)
broker = RedisBroker(client=client)
if base.RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(client=client), store_results=True))
if base.MODE == "async":
    broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)


def declare(function: Any) -> Any:
    if base.MODE == "async":
        function = work.ASYNC_TASKS.get(function.__name__, function)
    return dramatiq.actor(function, actor_name=function.__name__)


WRAPPED = {function.__name__: declare(function) for function in work.TASKS}


class Dramatiq(base.Peer):
    name = "dramatiq"
    distributions = ("dramatiq", "redis", "hiredis")
    modes = ("process", "thread", "async")
    settings = (
        "process: --processes slots --threads 1; thread: --processes 1 --threads slots; async: the same and its AsyncIO"
        f" middleware; dramatiq_queue_prefetch={PREFETCH} a process (its changelog, 1.5; by default twice the threads,"
        " with which a process of one thread sleeps between fetches), 1 for long among short; Results on"
        " RedisBackend, which it recommends"
        " (dramatiq.io/guide.html, reference), and none where results are off; --skip-logging"
    )
    pace = 3_500

    def submit(self, task: str, body: str) -> Any:
        return WRAPPED[task].send(body)

    def result(self, handle: Any) -> str:
        return handle.get_result(block=True, timeout=60_000)

    def command(self) -> list[str]:
        processes = base.SLOTS if base.MODE == "process" else 1
        return [
            "env", f"dramatiq_queue_prefetch={PREFETCH}", sys.executable, "-m", "dramatiq", "peer_dramatiq",
            "--processes", str(processes), "--threads", str(THREADS), "--skip-logging",
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(Dramatiq())
