"""streaQ: asyncio workers over Redis streams; plain functions in threads; `--workers` for more processes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import base
import kinds
import work
from looped import LoopPeer
from streaq import Worker


def make() -> tuple[Worker[None], dict[str, Any]]:
    """Make a worker and its tasks: one for each loop, since its connections are bound to one."""
    own = Worker(
        redis_url=base.URL,
        concurrency=base.SLOTS if base.MODE != "process" else 32 if base.AHEAD else 1,
        sync_concurrency=1 if base.MODE == "process" else base.SLOTS,
        anyio_kwargs={"use_uvloop": True},
        **({"idle_timeout": base.LEASE_S} if base.LEASE_S else {}),
    )
    return own, {
        function.__name__: own.task(name=function.__name__, silent=True, ttl=300 if base.RESULTS else 0)(
            kinds.best(function)
        )
        for function in work.TASKS
    }


worker, _ = make()


class StreaQ(LoopPeer):
    name = "streaq"
    distributions = ("streaq", "coredis", "uvloop")
    modes = ("process", "thread", "async")
    settings = (
        "process: --workers SLOTS, each with concurrency=32 (default 16), as in its benchmarks/README, and the same "
        "prefetch, the no-op a coroutine; sync_concurrency=1 for functions that block; long among short: "
        "concurrency=1. thread, async: one worker, "
        "concurrency=SLOTS. anyio's use_uvloop; silent=True, as every contestant's log is quiet. bulk: enqueue_many. "
        "results: ten result(timeout) at a time. results off: ttl=0. cancel: abort(timeout=0), coroutines only. lease: "
        "idle_timeout"
    )
    pace = 1_300
    cannot_stop = dict.fromkeys(("process", "thread"), "abort() leaves a function that runs in a thread running")
    lease = True
    waiters = 10

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[Worker[None], dict[str, Any]]]:
        own, tasks = make()
        async with own:
            yield own, tasks

    async def asubmit(self, task: str, body: str) -> Any:
        _, tasks = await self.client()
        return await tasks[task].enqueue(body)

    async def asubmit_many(self, task: str, bodies: list[str]) -> list[Any]:
        own, tasks = await self.client()
        handles = [tasks[task].enqueue(body) for body in bodies]
        await own.enqueue_many(handles)
        return handles

    async def aresult(self, handle: Any) -> str:
        return (await handle.result(timeout=60)).result

    def cancel(self, handle: Any) -> None:
        self.run(handle.abort(timeout=0))

    def command(self) -> list[str]:
        workers = base.SLOTS if base.MODE == "process" else 1
        return [
            sys.executable, "-m", "streaq", "run", "peer_streaq:worker",
            "--workers", str(workers),
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(StreaQ())
