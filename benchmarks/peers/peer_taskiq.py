"""taskiq with taskiq-redis: processes of an asyncio loop and a pool of threads each, over a Redis stream."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import base
import kinds
import work
from looped import LoopPeer
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

FUNCTIONS = {function.__name__: kinds.best(function) for function in work.TASKS}  # taskiq renames what it is given


def make() -> tuple[RedisStreamBroker, dict[str, Any]]:
    """Make a broker and its tasks: one for each loop, since its connections are bound to one."""
    own = RedisStreamBroker(base.URL, consumer_id="0", xread_count=100 if base.AHEAD else 1)
    own = own.with_serializer(ORJSONSerializer())
    if base.RESULTS:
        own = own.with_result_backend(RedisAsyncResultBackend(base.URL, result_ex_time=300))
    return own, {name: own.task(task_name=name)(function) for name, function in FUNCTIONS.items()}


broker, _ = make()


class TaskIQ(LoopPeer):
    name = "taskiq"
    distributions = ("taskiq", "taskiq-redis", "redis", "hiredis", "orjson", "uvloop")
    modes = ("process", "thread", "async")
    settings = (
        "RedisStreamBroker, which acknowledges and which its README shows first (its ListQueueBroker is quicker and "
        "loses what a killed worker holds), with consumer_id='0', for from '$' on it skips what was queued before its "
        "group was made; acknowledged when the result is saved, the default; RedisAsyncResultBackend with an "
        "expiry, as its README recommends; ORJSONSerializer (extra orjson); uvloop, which its worker finds by itself. "
        "process: --workers SLOTS, each with the default 100 --max-async-tasks, the no-op among them a coroutine, and "
        "--max-threadpool-threads 1 (guide/cli), 1 task and xread_count=1 for long among short. thread, "
        "async: one worker with SLOTS of each. results: ten "
        "wait_result(check_interval=0.001) at a time (default 0.2). results off: no result backend. no bulk submit, no "
        "cancel"
    )
    pace = 2_500
    cannot_stop = dict.fromkeys(modes, "it has no call that stops a task")
    not_soon_back = "back after idle_timeout, by default 10 minutes (README of taskiq-redis: RedisStreamBroker)"
    waiters = 10

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[dict[str, Any]]:
        client, tasks = make()
        await client.startup()
        try:
            yield tasks
        finally:
            await client.shutdown()

    async def asubmit(self, task: str, body: str) -> Any:
        return await (await self.client())[task].kiq(body)

    async def aresult(self, handle: Any) -> str:
        return (await handle.wait_result(check_interval=0.001, timeout=60)).return_value

    def command(self) -> list[str]:
        n = str(base.SLOTS)
        if base.MODE == "process":
            slots = ["--workers", n, "--max-threadpool-threads", "1", "--max-async-tasks", "100" if base.AHEAD else "1"]
        else:
            slots = ["--workers", "1", "--max-async-tasks", n, "--max-threadpool-threads", n]
        return [
            sys.executable, "-m", "taskiq", "worker", "peer_taskiq:broker",
            "--log-level", "WARNING", *slots,
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(TaskIQ())
