"""Tasks for the tests of `assert_stops`: good ones, and one for each fault that it finds."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from typing import Any

from qworker import App, current

app = App()
kept: list[Any] = []


@app.task
def steps(count: int, pause: float = 0.01) -> int:
    for _ in range(count):
        current.check()
        time.sleep(pause)
    return count


@app.task
def sleeps() -> None:
    current.sleep(30)


@app.task
def reads_guarded() -> None:
    here, there = socket.socketpair()
    with there, current.guard(here):
        here.recv(1)


@app.task
async def naps() -> None:
    await asyncio.sleep(30)


@app.task(interrupt=True)
def never_looks() -> None:
    while True:
        time.sleep(0.01)


@app.task
def has_no_checkpoint() -> None:
    time.sleep(0.01)


@app.task
def deaf_after_two() -> None:
    current.check()
    current.check()
    time.sleep(30)


@app.task
def slow_to_leave() -> None:
    try:
        current.sleep(30)
    finally:
        time.sleep(0.4)


@app.task
def leaves(what: str) -> None:
    try:
        current.sleep(30)
    finally:
        if what == "socket":
            kept.append(socket.socketpair())
        elif what == "thread":
            threading.Thread(target=time.sleep, args=(5,), name="left-behind", daemon=True).start()
        elif what == "process":
            kept.append(subprocess.Popen(["sleep", "60"]))


@app.task
def keeps_one_connection() -> None:
    """As a pool of connections does: it is there for the next run."""
    if not kept:
        kept.append(socket.socketpair())
    current.sleep(30)


@app.task
def fails() -> None:
    raise KeyError("no")


@app.task
def hangs() -> None:
    time.sleep(60)
