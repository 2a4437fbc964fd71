"""A user's tasks that open groups, submit others and wait for them."""

from __future__ import annotations

import time
from pathlib import Path

from qworker import App, current
from support.apps.basic import note

app = App()


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def fail(text: str = "no") -> None:
    raise ValueError(text)


@app.task
def polite(seconds: float, tag: str = "") -> str:
    note("start", tag=tag)
    current.sleep(seconds)
    return tag


@app.task
def deaf(seconds: float) -> None:
    note("start")
    time.sleep(seconds)


@app.task(pool="thread", grace=0.2)
def deaf_thread(gate: str) -> None:
    """Runs on in its thread until a file is there, whatever it is told."""
    note("start")
    while not Path(gate).exists():
        time.sleep(0.02)


@app.task(retries=100, backoff=0.01, jitter=False)
def fails_again_and_again() -> None:
    note("start")
    raise ValueError("once more")


@app.task
def submits(seconds: float, count: int) -> list[str]:
    """Submits by plain `submit`, and does not wait."""
    note("start", tag="parent")
    return [polite.submit(seconds, tag="below").id for _ in range(count)]


@app.task
def opens_a_group(seconds: float, count: int) -> str:
    """Opens a group and is in its block for as long as its tasks run."""
    note("start", tag="parent")
    with app.group(name="inner") as g:
        for _ in range(count):
            g.submit(polite, seconds, tag="below")
    return g.id


@app.task
def dies_in_a_group(seconds: float) -> None:
    import os
    import signal

    with app.group() as g:
        below = g.submit(polite, seconds, tag="below")
        note("opened", group=g.id, below=below.id)
        while below.status().state != "running":
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
