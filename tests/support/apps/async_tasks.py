"""Coroutine tasks for the tests of async slots: the well-behaved, the deaf, and those that leave something behind."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qworker import App, current
from qworker.pool import tokens

app = App()
_kept: set[asyncio.Task[None]] = set()
_reads: list[None] = []


@app.task
async def echo(value: object) -> object:
    return value


@app.task
async def stumble() -> None:
    """From now on every third read of what the worker sends fails and leaves no reason."""
    recv = socket.socket.recv

    def unlucky(read: Callable[..., bytes], *args: Any) -> bytes:
        _reads.append(None)
        if len(_reads) % 3 == 0:
            raise OSError(0, "Error")
        return read(*args)

    def unlucky_recv(self: socket.socket, size: int, *flags: int) -> bytes:
        return unlucky(recv, self, size, *flags) if size == 256 * 1024 else recv(self, size, *flags)

    socket.socket.recv = unlucky_recv  # type: ignore[method-assign,assignment]
    tokens.os = SimpleNamespace(read=lambda *args: unlucky(os.read, *args))  # type: ignore[attr-defined]


@app.task
async def stumbled() -> int:
    return len(_reads) // 3


@app.task
async def nap(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@app.task
async def wait_for_ever() -> None:
    await asyncio.sleep(3600)


@app.task
async def who(seconds: float) -> list[str]:
    """Who `current` is, before and after others ran, in a helper task and in a helper thread."""
    ids = [current.id]
    await asyncio.sleep(seconds)
    ids.append(current.id)
    ids.append(await asyncio.create_task(_own_id()))
    ids.append(await asyncio.to_thread(lambda: current.id))
    print("told")
    return ids


async def _own_id() -> str:
    await asyncio.sleep(0)
    return current.id


@app.task
async def polls() -> None:
    while True:
        current.check()
        await asyncio.sleep(0.01)


@app.task
async def shielded(seconds: float) -> None:
    with current.shield(10):
        await asyncio.sleep(seconds)
        print("the shield is left")
    await asyncio.sleep(3600)


@app.task
async def begins_with_a_shield() -> None:
    with current.shield(10):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            print("cut short under its shield")
            raise


@app.task
async def takes_its_time(seconds: float) -> str:
    """Asks for the reason, cleans up, and returns all the same."""
    try:
        print("began")
        await asyncio.sleep(3600)
    except asyncio.CancelledError as error:
        await asyncio.sleep(seconds)
        return str(error)
    return "never"


@app.task
async def deaf(gate: str) -> None:
    """Swallows every cancellation until the gate is open."""
    while not Path(gate).exists():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass


@app.task
async def block(seconds: float) -> None:
    time.sleep(seconds)  # it blocks the loop: that is the point


@app.task
def plain(seconds: float) -> str:
    time.sleep(seconds)
    return threading.current_thread().name


@app.task
def plain_deaf(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.002)


@app.task
async def leave_helper(path: str) -> None:
    """Returns at once; what it started tells a file how it ended."""

    async def helper() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as error:
            await asyncio.sleep(0.05)
            Path(path).write_text(str(error))
            raise

    _kept.add(asyncio.create_task(helper()))
    await asyncio.sleep(0)


@app.task
async def leave_daemon(path: str) -> None:
    """Starts what shall outlive it."""

    async def daemon() -> None:
        await asyncio.sleep(0.1)
        Path(path).write_text("it goes on")

    _kept.add(asyncio.create_task(daemon(), context=contextvars.Context()))


@app.task
async def call_in_thread(gate: str) -> None:
    """The thread runs on, whatever becomes of who waits for it."""

    def work() -> None:
        print("began")
        while not Path(gate).exists():
            time.sleep(0.002)

    await asyncio.to_thread(work)


@app.task
async def exit_in_helper() -> None:
    async def helper() -> None:
        sys.exit(3)

    await asyncio.create_task(helper())


@app.task
async def stop_loop() -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    return "stopped"


@app.task
async def fork_and_wait() -> int:
    """The copy waits on the loop that it has a copy of."""
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(3600)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    return status


@app.task
async def cancels_everything(turns: int) -> None:
    """Cancels whatever it finds on the loop, as some programs do that think it theirs."""
    for _ in range(turns):
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)


class _Strange:
    """An awaitable of a user's own that answers to no name, and cannot be cancelled with a message."""

    def __await__(self):
        return self

    def __next__(self):
        return _Uncancellable(loop=asyncio.get_running_loop())

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"no {name} here")


class _Uncancellable(asyncio.futures._PyFuture):
    _asyncio_future_blocking = True

    def cancel(self) -> bool:  # type: ignore[override]  # that of long ago: without a message
        raise AssertionError("nobody calls it so")


@app.task
async def strange() -> None:
    await _Strange()


@app.task
async def guards_in_a_thread(path: str) -> None:
    """A helper thread guards something whose closer hangs; then the task ends while it does."""

    def hang() -> None:
        Path(path).touch()
        time.sleep(1.5)

    await asyncio.to_thread(current.guard, hang)
    Path(f"{path}.guarded").touch()
    try:
        await asyncio.sleep(3600)
    finally:
        while not Path(path).exists():
            await asyncio.sleep(0.01)
