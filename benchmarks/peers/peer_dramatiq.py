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
from dramatiq_abort import Abortable, abort
from dramatiq_abort.backends import RedisBackend as AbortBackend

THREADS = 1 if base.MODE == "process" else base.SLOTS
PREFETCH = max(32, 2 * THREADS) if base.AHEAD else 1

# Of redis-py's defaults, 100 connections are too few for 100 threads, and 5 s too short for a wait for a result.
client = redis.Redis.from_url(base.URL, max_connections=100 + 2 * THREADS, socket_timeout=None)
# Of a hundred thousand commands, a hundred look for lost workers; where that is measured at a lease, each does.
tuned = {"heartbeat_timeout": int(base.LEASE_S * 1000), "maintenance_chance": 1_000_000} if base.LEASE_S else {}
broker = RedisBroker(client=client, **tuned)
if base.RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(client=client), store_results=True))
if base.MODE == "async":
    broker.add_middleware(AsyncIO())
if base.STOPS:
    broker.add_middleware(Abortable(backend=AbortBackend(client=client)))
dramatiq.set_broker(broker)


def declare(function: Any) -> Any:
    if base.MODE == "async":
        function = work.ASYNC_TASKS.get(function.__name__, function)
    return dramatiq.actor(function, actor_name=function.__name__)


WRAPPED = {function.__name__: declare(function) for function in work.TASKS}


class Dramatiq(base.Peer):
    name = "dramatiq"
    distributions = ("dramatiq", "dramatiq-abort", "redis", "hiredis")
    modes = ("process", "thread", "async")
    settings = (
        "process: --processes slots --threads 1; thread: --processes 1 --threads slots; async: the same and its AsyncIO"
        f" middleware; dramatiq_queue_prefetch={PREFETCH} a process (its changelog, 1.5; by default twice the threads,"
        " with which a process of one thread sleeps between fetches), 1 for long among short; Results on"
        " RedisBackend, which it recommends"
        " (dramatiq.io/guide.html, reference), and none where results are off; --skip-logging. stop: abort() of"
        " dramatiq-abort, a middleware that is there for that alone. lease: heartbeat_timeout, and maintenance_chance"
        " such that each command does the maintenance (reference: RedisBroker)"
    )
    pace = 3_500
    lease = True
    not_soon_back = (
        "back after heartbeat_timeout, by default a minute, and then as soon as one of a thousand commands does the "
        "maintenance (reference: RedisBroker, maintenance_chance)"
    )

    def submit(self, task: str, body: str) -> Any:
        return WRAPPED[task].send(body)

    def result(self, handle: Any) -> str:
        return handle.get_result(block=True, timeout=60_000)

    def cancel(self, handle: Any) -> None:
        abort(handle.message_id)

    def command(self) -> list[str]:
        processes = base.SLOTS if base.MODE == "process" else 1
        return [
            "env", f"dramatiq_queue_prefetch={PREFETCH}", sys.executable, "-m", "dramatiq", "peer_dramatiq",
            "--processes", str(processes), "--threads", str(THREADS), "--skip-logging",
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(Dramatiq())
