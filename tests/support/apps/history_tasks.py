"""Tasks that write down all that they do, for histories to be judged by. `EXECUTION_LOG` names the file.

What each returns, or raises as its text, names the very run that made it: attempt, fence and pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator

from qworker import App, current
from support.history.executions import worker_of, write

app = App()


class Planned(Exception):
    """What a task raises when its plan says so."""


@app.on_child_start
def know_worker() -> None:
    """While it lives: what a child writes in the moment after its worker was killed would name nobody."""
    worker_of(os.getpid())


def token() -> str:
    """What only this run can have made."""
    return f"{current.attempt}.{current.fence}.{os.getpid()}"


def note(what: str, how: str = "", value: str = "") -> None:
    write(
        os.environ["EXECUTION_LOG"], what, id=current.id, attempt=current.attempt, fence=current.fence,
        how=how, value=value,
    )  # type: ignore[arg-type]  # fmt: skip


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Write the start, and the end however it comes; a kill writes none."""
    note("start")
    try:
        yield
    except Planned as error:
        note("end", "raised", str(error))
        raise
    except BaseException:
        note("end", "asked")
        raise
    note("end", "returned", token())


@app.task
def nap(seconds: float) -> str:
    """Sleeps, deaf to every flag."""
    with written():
        time.sleep(seconds)
    return token()


@app.task(pool="thread")
def thread_nap(seconds: float) -> str:
    """The same in a thread slot."""
    with written():
        time.sleep(seconds)
    return token()


@app.task
async def async_nap(seconds: float) -> str:
    """The same on the loop of an async child."""
    with written():
        await asyncio.sleep(seconds)
    return token()


@app.task(backoff=0.05)
def flaky(times: int, seconds: float) -> str:
    """Raises in its first attempts."""
    with written():
        time.sleep(seconds)
        if current.attempt <= times:
            raise Planned(token())
    return token()


@app.task(backoff=0.05)
def hangs(times: int) -> str:
    """Does not end by itself in its first attempts."""
    with written():
        if current.attempt <= times:
            time.sleep(600)
    return token()


@app.task
def polite(seconds: float) -> str:
    """Ends soon after it is asked to."""
    with written():
        current.sleep(seconds)
    return token()


@app.task
def dies(times: int) -> str:
    """Kills its child in its first attempts, and says so before."""
    with written():
        if current.attempt <= times:
            note("end", "dies")
            os.kill(os.getpid(), signal.SIGKILL)
    return token()
