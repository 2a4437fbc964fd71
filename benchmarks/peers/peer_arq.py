"""arq: coroutines on one event loop; plain functions in an executor, as its documentation has it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import base
import uvloop
import work
from arq import create_pool, func
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job
from looped import LoopPeer

REDIS = RedisSettings.from_dsn(base.URL)

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # it asks the policy for its loop


def coroutine(function: Callable[[str], str]) -> Any:
    """Return the task as arq takes it: a coroutine that gets the worker's context."""
    asynchronous = work.ASYNC_TASKS.get(function.__name__) if base.MODE == "async" else None

    async def on_the_loop(ctx: dict[str, Any], body: str) -> str:
        return await asynchronous(body)

    async def in_the_executor(ctx: dict[str, Any], body: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(ctx["executor"], function, body)

    return func(
        on_the_loop if asynchronous else in_the_executor,
        name=function.__name__,
        keep_result=None if base.RESULTS else 0,
    )


async def on_startup(ctx: dict[str, Any]) -> None:
    ctx["executor"] = (ProcessPoolExecutor if base.MODE == "process" else ThreadPoolExecutor)(base.SLOTS)


async def on_shutdown(ctx: dict[str, Any]) -> None:
    ctx["executor"].shutdown(wait=False, cancel_futures=True)


class WorkerSettings:
    functions = [coroutine(function) for function in work.TASKS]  # noqa: RUF012 - as its documentation writes it
    redis_settings = REDIS
    # Its default of 10 keeps an executor of fewer fed; the executor's size is the number of slots.
    max_jobs = base.SLOTS if base.MODE == "async" else max(base.SLOTS, 10)
    poll_delay = 0.001
    allow_abort_jobs = base.MODE == "async"
    on_startup = on_startup
    on_shutdown = on_shutdown


LOGGING = {"version": 1, "loggers": {"arq": {"level": "WARNING"}}}


class Arq(LoopPeer):
    name = "arq"
    distributions = ("arq", "redis", "hiredis", "uvloop")
    modes = ("process", "thread", "async")
    settings = (
        "async: max_jobs=slots, allow_abort_jobs; process and thread: one worker with a ProcessPoolExecutor or"
        " ThreadPoolExecutor of so many (arq-docs.helpmanual.io: Synchronous Jobs; several workers on one queue mostly"
        " find each other's jobs), max_jobs at least its default of 10; poll_delay of the worker and of a result 1 ms"
        " instead of 500, of many results 10 ms; bulk is asyncio.gather of 100 enqueue_job; keep_result=0 where"
        " results are off; uvloop; log level warning"
    )
    pace = 1_000
    cannot_stop = dict.fromkeys(
        ("process", "thread"), "Job.abort() cancels the coroutine; what it started in an executor runs on"
    )
    not_soon_back = "back after job_timeout and 10 s, by default 310 s (arq.worker.Worker: in_progress_timeout_s)"
    at_once = 100  # each holds a connection

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[ArqRedis]:
        client = await create_pool(REDIS)
        try:
            yield client
        finally:
            await client.aclose()

    async def asubmit(self, task: str, body: str) -> Any:
        return await (await self.client()).enqueue_job(task, body)

    async def aresult(self, handle: Job) -> str:
        return await handle.result(60, poll_delay=0.001)

    def results(self, handles: list[Job]) -> list[str]:
        async def one_by_one() -> list[str]:
            return [await handle.result(60, poll_delay=0.01) for handle in handles]

        return self.run(one_by_one())

    def cancel(self, handle: Job) -> None:
        self.run(handle.abort(timeout=60, poll_delay=0.001))

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "arq", "peer_arq.WorkerSettings", "--custom-log-dict", "peer_arq.LOGGING",
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(Arq())
