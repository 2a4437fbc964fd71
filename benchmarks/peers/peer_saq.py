"""SAQ, on its Redis queue."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import base
import uvloop
import work
from looped import LoopPeer
from saq import Job, Queue
from saq.job import TERMINAL_STATUSES, Status

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # it asks the policy for its loop


def make_queue() -> Queue:
    return Queue.from_url(base.URL)


def task(function: Callable[[str], str]) -> tuple[str, Any]:
    """Return the task as SAQ takes it: it gets the context, and keyword arguments."""
    asynchronous = work.ASYNC_TASKS.get(function.__name__) if base.MODE == "async" else None

    async def awaited(ctx: Any, *, body: str) -> str:
        return await asynchronous(body)

    async def blocking(ctx: Any, *, body: str) -> str:
        return function(body)

    def plain(ctx: Any, *, body: str) -> str:  # which SAQ runs in a thread
        return function(body)

    return function.__name__, awaited if asynchronous else blocking if base.MODE == "process" else plain


async def startup(ctx: dict[str, Any]) -> None:
    ctx["worker"].pool = ThreadPoolExecutor(base.SLOTS)  # the one that it makes has at most cores + 4 threads


def settings() -> dict[str, Any]:
    return {
        "queue": make_queue(),
        "functions": [task(function) for function in work.TASKS],
        "concurrency": base.SLOTS if base.MODE != "process" else 10 if base.AHEAD else 1,
        "startup": startup,
    }


class SAQ(LoopPeer):
    name = "saq"
    distributions = ("saq", "redis", "hiredis", "uvloop")
    modes = ("process", "thread", "async")
    settings = (
        "async: concurrency=slots; process: --workers slots, each at the default concurrency of 10, and 1 "
        "for long among"
        " short, the task blocking its loop; thread: plain functions, its thread pool made as large as the slots"
        " (saq-py.readthedocs.io: worker, settings, task); bulk is asyncio.gather of enqueue; results by refresh each"
        " 1 ms, many by queue.jobs as in its queue.map: its blocking refresh misses jobs that end as it begins"
        " (the first sweep of a worker ends as 'swept' what it is just starting: tasks that warm it up may get lost);"
        " timeout=300 instead of 10 s; ttl=-1 where results are off; uvloop; log level warning"
    )
    pace = 2_500
    cannot_stop: ClassVar[dict[str, str]] = {
        "process": "abort() cancels coroutines, and one that blocks its loop is not interrupted by that",
        "thread": "abort() cancels coroutines; a plain function runs on in its thread",
    }
    not_soon_back = (
        "back after its timeout, here 300 s, at the next sweep, one a minute; by default it ends as aborted then, as a "
        "job has one try (settings of Job: timeout, retries; queue.sweep)"
    )
    at_once = 100  # the queue itself lets 20 through at a time

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Queue]:
        queue = make_queue()
        await queue.connect()
        try:
            yield queue
        finally:
            await queue.disconnect()

    async def asubmit(self, task: str, body: str) -> Any:
        return await (await self.client()).enqueue(task, body=body, timeout=300, ttl=600 if base.RESULTS else -1)

    async def aresult(self, handle: Job) -> str:
        await asyncio.wait_for(_ended(handle, 0.001), 60)
        return _value(handle)

    def results(self, handles: list[Job]) -> list[str]:
        async def in_batches() -> list[str]:
            queue = await self.client()
            results: list[str] = []
            while len(results) < len(handles):
                batch = handles[len(results) : len(results) + 20]
                await asyncio.wait_for(_ended(batch[0], 0.01), 60)
                for job in await queue.jobs(job.key for job in batch):
                    if job.status not in TERMINAL_STATUSES:
                        break
                    results.append(_value(job))
            return results

        return self.run(in_batches())

    def cancel(self, handle: Job) -> None:
        self.run(handle.abort("cancelled by the bench"))

    def command(self) -> list[str]:
        workers = base.SLOTS if base.MODE == "process" else 1
        return [
            sys.executable, "-m", "saq", "peer_saq.settings", "--workers", str(workers),
        ]  # fmt: skip


def _value(job: Job) -> str:
    if job.status is not Status.COMPLETE:
        raise RuntimeError(f"SAQ ended a task as {job.status}: {job.error}")
    return job.result


async def _ended(job: Job, look_every_s: float) -> None:
    await job.refresh()
    while job.status not in TERMINAL_STATUSES:
        await asyncio.sleep(look_every_s)
        await job.refresh()


if __name__ == "__main__":
    base.run(SAQ())
