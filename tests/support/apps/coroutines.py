"""A user's coroutine functions for the end-to-end tests, and a plain one beside them."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

from qworker import App, current

app = App()
_open = 0


@app.task
async def nap(seconds: float) -> int:
    """How many ran in this child when it woke up."""
    global _open
    _open += 1
    try:
        await asyncio.sleep(seconds)
        return _open
    finally:
        _open -= 1


@app.task
async def note(path: str) -> None:
    """Tells a file where it runs, and waits to be ended."""
    with Path(path).open("a") as lines:
        lines.write(f"{os.getpid()} {current.attempt}\n")
    await asyncio.sleep(3600)


@app.task(pool="process")
async def alone() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


@app.task
def plain() -> str:
    return threading.current_thread().name


@app.task(timeout=0.5, grace=0.5)
async def deaf(gate: str) -> None:
    """Swallows every cancellation until the gate is open."""
    while not Path(gate).exists():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass
