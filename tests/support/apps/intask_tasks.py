"""Tasks that use what a task can do about its own end: shields, guards, interrupts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from qworker import App, current

app = App()


def _note(path: str, text: str) -> None:
    with Path(path).open("a") as notes:
        notes.write(text + "\n")


@app.task
def shielded(path: str, seconds: float, block_s: float) -> str:
    """Stays in a shield for `block_s`, deaf, and goes on after it."""
    with current.shield(seconds):
        _note(path, "in")
        ends = time.monotonic() + block_s
        while time.monotonic() < ends:
            current.check()
            current.sleep(0.001)
            time.sleep(0.001)
        _note(path, "done")
    _note(path, "went on")
    time.sleep(60)
    return "ended by itself"


@app.task
async def shielded_coroutine(path: str, block_s: float) -> None:
    try:
        with current.shield(10):
            _note(path, "in")
            await asyncio.sleep(block_s)
            _note(path, "done")
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        _note(path, "cancelled")
        raise


@app.task
def shields_for_ever(path: str) -> None:
    """Runs out of its shield, and swallows what that brings."""
    with current.shield(0.3):
        _note(path, "in")
        time.sleep(60)
