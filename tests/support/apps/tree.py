"""A user's tasks that open groups, submit others and wait for them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from qworker import App, context, current
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
    with app.group() as g:
        below = g.submit(polite, seconds, tag="below")
        note("opened", group=g.id, below=below.id)
        while below.status().state != "running":
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)


@app.task
def tells_its_time() -> dict[str, float | None]:
    """What it has left, and what its child has that asks for an hour, and one that is detached."""
    below = time_left.options(deadline=3600).submit()
    apart = time_left.options(detached=True, timeout=None).submit()
    return {"own": current.remaining(), "below": below.result(), "apart": apart.result()}


@app.task(timeout=None)
def time_left() -> float | None:
    return current.remaining()


@app.task
def submits_too_late() -> str:
    """Waits past its own deadline, deaf to it, and submits."""
    ends = time.monotonic() + (current.remaining() or 0)
    while time.monotonic() < ends + 0.01:
        time.sleep(0.01)
    try:
        add.submit(1, 2)
    except Exception as error:
        Path(gate_of()).write_text(f"{type(error).__name__}: {error}")
    return "late"


def gate_of() -> str:
    return os.environ["EXECUTION_LOG"] + ".gate"


@app.task
def adds_up(numbers: list[int]) -> int:
    """Splits in two until there is nothing left to split, in a group at each level."""
    if len(numbers) == 1:
        return numbers[0]
    half = len(numbers) // 2
    with app.group() as g:
        parts = [g.submit(adds_up, numbers[:half]), g.submit(adds_up, numbers[half:])]
    return sum(part.result() for part in parts)


@app.task(pool="process")
async def aadds_up(numbers: list[int]) -> int:
    """The same in coroutines."""
    if len(numbers) == 1:
        return numbers[0]
    half = len(numbers) // 2
    async with app.group() as g:
        parts = [await g.asubmit(aadds_up, numbers[:half]), await g.asubmit(aadds_up, numbers[half:])]
    return sum([await part for part in parts])


@app.task
def splits(levels: int, seconds: float) -> int:
    """Counts its leaves, which take so long, in a group at each level."""
    if levels == 0:
        note("leaf")
        current.sleep(seconds)
        return 1
    with app.group() as g:
        parts = [g.submit(splits, levels - 1, seconds) for _ in range(2)]
    return sum(part.result() for part in parts)


@app.task(pool="async")
async def asplits(levels: int, seconds: float) -> int:
    """The same in coroutines."""
    if levels == 0:
        note("leaf")
        await asyncio.sleep(seconds)
        return 1
    async with app.group() as g:
        parts = [await g.asubmit(asplits, levels - 1, seconds) for _ in range(2)]
    return sum([await part for part in parts])


@app.task(pool="thread")
def leaves_a_deaf_thread(gate: str) -> str:
    """Submits by plain `submit`, and has nothing more to do with it."""
    return deaf_thread.submit(gate).id


@app.task
def asks_another(url: str, namespace: str, grouped: bool) -> list[object]:
    """Has something computed on another server, plainly or in a group; tells what that knows of its groups."""
    with App(url, namespace=namespace) as other:
        if not grouped:
            return [*other.submit("support.apps.tree.where").result(timeout=20), other.namespace]
        with other.group() as g:
            part = g.submit("support.apps.tree.where")
        return [*part.result(), [g.id]]


@app.task
def where() -> list[object]:
    run = context.running()
    assert run is not None
    return [list(run.groups), run.deadline and run.deadline - time.monotonic()]


@app.task
def asks_its_own() -> list[object]:
    return where.submit().result(timeout=20)
