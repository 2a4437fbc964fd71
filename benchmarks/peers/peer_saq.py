"""SAQ, on its Redis queue."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import base
import uvloop
import work
from saq import Job, Queue
from saq.job import TERMINAL_STATUSES

AT_ONCE = 100  # calls under way at once in bulk; the queue itself lets 20 through at a time

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
        "concurrency": 10 if base.MODE == "process" else base.SLOTS,
        "startup": startup,
    }


class SAQ(base.Peer):
    name = "saq"
    distributions = ("saq", "redis", "hiredis", "uvloop")
    modes = ("process", "thread", "async")
    settings = (
        "async: concurrency=slots; process: --workers slots, each at the default concurrency of 10, the task blocking"
        " its loop; thread: plain functions, its thread pool made as large as the slots"
        " (saq-py.readthedocs.io: worker, settings, task); bulk is asyncio.gather of enqueue; results by refresh each"
        " 1 ms, many by queue.jobs as in its queue.map: its blocking refresh misses jobs that end as it begins;"
        " timeout=300 instead of 10 s; ttl=-1 where results are off; uvloop; log level warning"
    )
    pace = 2500

    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.queues: dict[asyncio.AbstractEventLoop, Queue] = {}

    def close(self) -> None:
        if self.loop in self.queues:
            self.loop.run_until_complete(self.queues[self.loop].disconnect())

    async def queue(self) -> Queue:
        """Return the queue of the running loop: every asyncio.run has a loop of its own."""
        loop = asyncio.get_running_loop()
        if loop not in self.queues:
            self.queues[loop] = make_queue()
            await self.queues[loop].connect()
        return self.queues[loop]

    def submit(self, task: str, body: str) -> Any:
        return self.loop.run_until_complete(self.asubmit(task, body))

    async def asubmit(self, task: str, body: str) -> Any:
        return await (await self.queue()).enqueue(task, body=body, timeout=300, ttl=600 if base.RESULTS else -1)

    def submit_many(self, task: str, bodies: list[str]) -> list[Any]:
        async def in_batches() -> list[Any]:
            jobs: list[Any] = []
            for start in range(0, len(bodies), AT_ONCE):
                batch = bodies[start : start + AT_ONCE]
                jobs += await asyncio.gather(*(self.asubmit(task, body) for body in batch))
            return jobs

        return self.loop.run_until_complete(in_batches())

    def result(self, handle: Job) -> str:
        self.loop.run_until_complete(asyncio.wait_for(_ended(handle, 0.001), 60))
        return handle.result

    def results(self, handles: list[Job]) -> list[str]:
        async def in_batches() -> list[str]:
            queue = await self.queue()
            results: list[str] = []
            while len(results) < len(handles):
                batch = handles[len(results) : len(results) + 20]
                await asyncio.wait_for(_ended(batch[0], 0.01), 60)
                for job in await queue.jobs(job.key for job in batch):
                    if job.status not in TERMINAL_STATUSES:
                        break
                    results.append(job.result)
            return results

        return self.loop.run_until_complete(in_batches())

    def cancel(self, handle: Job) -> None:
        self.loop.run_until_complete(handle.abort("cancelled by the bench"))

    def command(self) -> list[str]:
        workers = base.SLOTS if base.MODE == "process" else 1
        return [
            sys.executable, "-m", "saq", "peer_saq.settings", "--workers", str(workers),
        ]  # fmt: skip


async def _ended(job: Job, look_every_s: float) -> None:
    await job.refresh()
    while job.status not in TERMINAL_STATUSES:
        await asyncio.sleep(look_every_s)
        await job.refresh()


if __name__ == "__main__":
    base.run(SAQ())
