"""ArdiQ: a worker loop in Rust that calls coroutines on asyncio's loop; `--workers` for more processes."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import base
import kinds
import uvloop
import work
from ardiq import Ardiq
from looped import LoopPeer

THREADS = 1 if base.MODE == "process" else base.SLOTS
CONCURRENCY = base.SLOTS if base.MODE != "process" else 100 if base.AHEAD else 1

uvloop.install()  # `ardiq run` imports this module before it starts its loop
logging.getLogger("ardiq").setLevel(logging.WARNING)
app = Ardiq(
    redis_url=base.URL,
    queue_name="bench",
    concurrency=CONCURRENCY,
    **({} if base.AHEAD else {"prefetch": 1}),
    **({"idle_timeout_ms": int(base.LEASE_S * 1000)} if base.LEASE_S else {}),
    result_ttl_ms=300_000 if base.RESULTS else 0,
)
ALONE = {"linger"} if base.MODE == "process" else set()  # in a process of its own, which alone can be stopped
WRAPPED = {
    function.__name__: app.task(name=function.__name__, executor="process" if function.__name__ in ALONE else "thread")(
        kinds.best(function)
    )
    for function in work.TASKS
}


@app.lifespan
async def threads() -> AsyncIterator[None]:
    """Give functions that block a thread for each slot, instead of the `cores + 4` that asyncio gives a process."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    yield


class ArdiQ(LoopPeer):
    name = "ardiq"
    distributions = ("ardiq", "msgpack", "uvloop")
    modes = ("process", "thread", "async")
    settings = (
        "process: --workers SLOTS (guides/worker, 'Concurrency & scaling'), each with concurrency=100 for coroutines, "
        "the no-op among them (default 16, prefetch twice that; reference/configuration; 100 took a third less CPU per "
        "task here), and one thread for functions that block; long among short: concurrency=1, prefetch=1. "
        "thread, async: one worker, concurrency=SLOTS. uvloop in "
        "worker and client (not in its documentation). bulk: enqueue_many. results: 100 result(timeout) at a time. "
        "results off: result_ttl_ms=0 (reference/configuration). cancel: abort(), of coroutines, and of functions with "
        "executor=process, each in a process of its own (guides/aborting). lease: idle_timeout_ms"
    )
    pace = 15_000
    cannot_stop = dict.fromkeys(["thread"], "abort() leaves a function that runs in a thread running (guides/aborting)")
    lease = True
    native = True
    waiters = 100  # half the CPU of one after another; without a limit each opens a connection, until some time out

    async def asubmit(self, task: str, body: str) -> Any:
        return await WRAPPED[task].enqueue(body)

    async def asubmit_many(self, task: str, bodies: list[str]) -> list[Any]:
        return await app.enqueue_many([WRAPPED[task].prepare(body) for body in bodies])

    async def aresult(self, handle: Any) -> str:
        return (await handle.result(timeout=60)).value

    def cancel(self, handle: Any) -> None:
        self.run(handle.abort())

    def command(self) -> list[str]:
        workers = base.SLOTS if base.MODE == "process" else 1
        return [
            sys.executable, "-m", "ardiq", "run", "peer_ardiq:app",
            "--quiet", "--workers", str(workers),
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(ArdiQ())
