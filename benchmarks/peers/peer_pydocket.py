"""Docket (pydocket): asyncio workers of coroutines alone, over Redis streams."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Any

import base
import kinds
import uvloop
import work
from docket import Docket, Worker
from looped import LoopPeer

CONCURRENCY = base.SLOTS if base.MODE != "process" else 50 if base.AHEAD else 1
URL = f"{base.URL}?max_connections={2 * CONCURRENCY + 100}"
TTL = timedelta(minutes=15) if base.RESULTS else timedelta(0)
# It has no supervisor of its own: so many of the command, and a signal to it goes to each.
MANY = """
pids=; i=0
while [ $i -lt "$0" ]; do "$@" & pids="$pids $!"; i=$((i + 1)); done
trap 'kill $pids' TERM INT
wait; wait
"""


def coroutine(function: Callable[[str], str]) -> Callable[[str], Coroutine[Any, Any, str]]:
    """Make the coroutine that Docket wants: what blocks goes to a thread, as in any program of asyncio."""
    given = kinds.best(function)

    async def task(body: str) -> str:
        return await asyncio.to_thread(function, body)

    if given is not function:
        task = given
    task.__name__ = function.__name__
    return task


TASKS = [coroutine(function) for function in work.TASKS]
BY_NAME = {task.__name__: task for task in TASKS}


class PyDocket(LoopPeer):
    name = "pydocket"
    distributions = ("pydocket", "redis", "hiredis", "uvloop")
    modes = ("process", "async")
    settings = (
        "process: SLOTS workers (it has no supervisor, a shell starts them), each with concurrency=50 (default 10), as "
        "in its docs/production, 'CLI Usage', and 1 for long among short; what blocks is in "
        "asyncio.to_thread, for its tasks are coroutines alone. "
        "async: one worker, concurrency=SLOTS. the Worker is started in code (docs/production, 'Core Settings'), with "
        "the check interval of 100 ms of that page, for the command line cannot be given execution_ttl or uvloop. "
        "max_connections above the concurrency, as that page says ('Redis Connection Pools'; 100 tasks at once fail on "
        "the default). bulk: add_many. results: ten get_result(timeout) at a time. results off: execution_ttl=0, 'for "
        "maximum throughput' (docs/production, 'Fire-and-Forget Mode'). cancel: Docket.cancel. lease: "
        "redelivery_timeout"
    )
    pace = 1_000
    cannot_stop = dict.fromkeys(["process"], "cancel() leaves what runs in asyncio.to_thread running")
    not_soon_back = "back after redelivery_timeout, by default 5 minutes (docs/production; docket.Worker)"
    lease = True
    waiters = 10

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Docket]:
        async with Docket(name="bench", url=URL, execution_ttl=TTL) as docket:
            for task in TASKS:
                docket.register(task)
            yield docket

    async def asubmit(self, task: str, body: str) -> Any:
        docket = await self.client()
        return await docket.add(BY_NAME[task])(body)

    async def asubmit_many(self, task: str, bodies: list[str]) -> list[Any]:
        docket = await self.client()
        return await docket.add_many([docket.call(BY_NAME[task])(body) for body in bodies])

    async def aresult(self, handle: Any) -> str:
        return await handle.get_result(timeout=timedelta(seconds=60))

    def cancel(self, handle: Any) -> None:
        self.run(self._cancel(handle.key))

    async def _cancel(self, key: str) -> None:
        docket = await self.client()
        await docket.cancel(key)

    def command(self) -> list[str]:
        one = [sys.executable, __file__, "worker"]
        if base.MODE == "async" or base.SLOTS == 1:
            return one
        return ["sh", "-c", MANY, str(base.SLOTS), *one]


async def serve() -> None:
    """Be a worker."""
    async with Docket(name="bench", url=URL, execution_ttl=TTL) as docket:
        for task in TASKS:
            docket.register(task)
        lease = {"redelivery_timeout": timedelta(seconds=base.LEASE_S)} if base.LEASE_S else {}
        async with Worker(
            docket, concurrency=CONCURRENCY, minimum_check_interval=timedelta(milliseconds=100), **lease
        ) as worker:
            await worker.run_forever()


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        uvloop.run(serve())
    else:
        base.run(PyDocket())
