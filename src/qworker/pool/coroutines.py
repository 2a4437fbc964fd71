"""`async def` tasks in a slot: a loop of their own for as long as they run.

The one exception that qworker injects into running code is asyncio's own cancellation, here: a watcher in the task's
loop looks at the flag and cancels the task once, with the reason as its message. It also tells where the task
waits: when it was asked to end, and when the worker wants to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..shields import must_end
from .page import SlotCells
from .stacks import coroutine_stack

_LOOK_EVERY_S = 0.02


def run_coroutine(coroutine: Coroutine[Any, Any, Any], cells: SlotCells) -> Any:
    """Run a coroutine to its end; returns its value or raises what it raises."""
    cells.cancels = True
    with asyncio.Runner() as runner:
        return runner.run(_watched(coroutine, cells))


async def _watched(coroutine: Coroutine[Any, Any, Any], cells: SlotCells) -> Any:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    handle: asyncio.TimerHandle
    seen = cancelled = False

    def look() -> None:
        nonlocal handle, seen, cancelled
        asked = cells.asked()
        if (asked and not seen) or cells.stack_wanted():
            cells.tell_stack(coroutine_stack(task))
        seen = asked
        if not cancelled and must_end(cells):
            cancelled = True
            task.cancel(cells.reason())
        handle = loop.call_later(_LOOK_EVERY_S, look)

    handle = loop.call_later(_LOOK_EVERY_S, look)
    try:
        return await coroutine
    finally:
        handle.cancel()
