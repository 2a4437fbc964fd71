"""Coroutines that split themselves and await their parts: many to a loop, and each in a process of its own."""

from __future__ import annotations

import asyncio

from qworker import App, PoolExhausted

app = App()


@app.task
async def by_await(levels: int) -> int:
    """Counts its leaves."""
    if levels == 0:
        return 1
    parts = [await by_await.asubmit(levels - 1) for _ in range(2)]
    return sum([await part for part in parts])


@app.task(pool="process")
async def by_await_in_process(levels: int) -> int:
    if levels == 0:
        return 1
    parts = [await by_await_in_process.asubmit(levels - 1) for _ in range(2)]
    return sum([await part for part in parts])


@app.task(pool="async")
def by_result(levels: int) -> int:
    """A plain function among coroutines: in a thread of their child."""
    if levels == 0:
        return 1
    parts = [by_result.submit(levels - 1) for _ in range(2)]
    return sum(part.result() for part in parts)


@app.task
async def chain_or_less(levels: int) -> int:
    """Waits for one that waits for one …; content with what there is room for."""
    if not levels:
        return 0
    try:
        return 1 + await (await chain_or_less.asubmit(levels - 1))
    except PoolExhausted:
        return 0


@app.task
async def gather_many(count: int) -> int:
    return sum(await asyncio.gather(*[await leaf.asubmit(n) for n in range(count)]))


@app.task
async def leaf(n: int) -> int:
    return n


@app.task
async def by_executor(levels: int) -> int:
    """Waits in threads of the loop's executor, which know of no task."""
    if levels == 0:
        return 1
    parts = [await by_executor.asubmit(levels - 1) for _ in range(2)]
    loop = asyncio.get_running_loop()
    return sum(await asyncio.gather(*[loop.run_in_executor(None, part.result) for part in parts]))
