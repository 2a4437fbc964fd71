"""Wait for a condition instead of sleeping.

`wait_until` is for tests that run in plain code, `await_until` for those inside an event loop. Both return what the
condition returned, so that a test can wait for a value and use it:

    child = wait_until(lambda: first_child(pid), description="the worker's first child")
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

# Often enough that a wait costs a test nothing, seldom enough that the cores are left to what it waits for.
FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.02


def wait_until(condition: Callable[[], T], *, timeout: float = 10.0, description: str) -> T:
    """Poll `condition` until it is truthy and return its value; fail naming `description` after `timeout` seconds."""
    ends = time.monotonic() + timeout
    pause_s = FIRST_PAUSE_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= ends:
            raise AssertionError(_complaint(description, timeout, value))
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


async def await_until(condition: Callable[[], T | Awaitable[T]], *, timeout: float = 10.0, description: str) -> T:
    """As `wait_until`, without blocking the event loop; the condition may be a coroutine function."""
    ends = time.monotonic() + timeout
    pause_s = FIRST_PAUSE_S
    while True:
        found = condition()
        value: T = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if time.monotonic() >= ends:
            raise AssertionError(_complaint(description, timeout, value))
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def _complaint(description: str, timeout: float, value: object) -> str:
    return f"waited {timeout:g} s for: {description} (last seen: {value!r})"
