"""Tasks that take down what runs them, for each kind of slot: their child, their worker, or by filling its memory.

Those without `pool=` run in whatever `--pool` says; the coroutines are for async slots.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from qworker import App
from support.apps.promises import note

app = App()
HOARD = []


@app.task
def nap(seconds: float) -> str:
    """An innocent."""
    note("start")
    time.sleep(seconds)
    note("end")
    return "slept"


@app.task
async def async_nap(seconds: float) -> str:
    """One in a coroutine."""
    note("start")
    await asyncio.sleep(seconds)
    note("end")
    return "slept"


@app.task(timeout=60)
def poison(what: str, after_s: float) -> None:
    """Runs for a while, then does it."""
    note("start")
    time.sleep(after_s)
    do(what)


@app.task(timeout=60)
async def async_poison(what: str, after_s: float) -> None:
    """The same in a coroutine."""
    note("start")
    await asyncio.sleep(after_s)
    do(what)


def do(what: str) -> None:
    """Kill this child, or its worker, or have the kernel find that this child has too much."""
    if what == "child":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "worker":
        stat = Path(f"/proc/{os.getppid()}/stat").read_text()
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
        time.sleep(60)
    else:
        while True:
            HOARD.append(b"x" * (8 << 20))
