"""Tasks that use what a task can do about its own end: shields, guards, interrupts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import subprocess
import sys
import time
import weakref
from pathlib import Path

from qworker import App, TaskInterrupt, current, guards

app = App()


def _note(path: str, text: str) -> None:
    with Path(path).open("a") as notes:
        notes.write(text + "\n")


@app.task
def noop() -> None:
    return None


@app.task
def wait_for_file(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.002)
    return "found"


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
def spin(path: str) -> None:
    _note(path, "in")
    while True:
        pass


@app.task
def sleep(path: str) -> None:
    _note(path, "in")
    time.sleep(60)


@app.task
def print_for_ever(path: str) -> None:
    _note(path, "in")
    while True:
        print("x" * 2000)


@app.task
def nested(path: str) -> None:
    try:
        try:
            _note(path, "in")
            time.sleep(60)
        finally:
            ends = time.monotonic() + 0.3  # cleanup that takes longer than all repetitions of a signal
            while time.monotonic() < ends:
                pass
            _note(path, "inner")
    finally:
        _note(path, "outer")


@app.task
def shielded_spin(path: str, block_s: float) -> None:
    with current.shield(10):
        _note(path, "in")
        ends = time.monotonic() + block_s
        while time.monotonic() < ends:
            pass
        _note(path, "done")
    while True:
        pass


@app.task
def in_finalizer(path: str) -> None:
    class Slow:
        def __del__(self) -> None:
            _note(path, "in")
            time.sleep(0.3)
            _note(path, "finalized")

    Slow()
    time.sleep(60)


def _wait_for_nobody(connection: socket.socket, path: str) -> str:
    _note(path, "in")
    try:
        return f"read {connection.recv(1)!r}"
    except OSError:
        return "closed before it was read from"
    finally:
        _note(path, f"woke {time.monotonic()}")


@app.task
def receive(path: str) -> str:
    ours, theirs = socket.socketpair()
    with theirs, current.guard(ours):
        return _wait_for_nobody(ours, path)


@app.task
def receive_to_the_end(path: str) -> None:
    """Guards for the rest of the task, and raises an error of its own."""
    ours, theirs = socket.socketpair()
    current.guard(ours)
    with theirs:
        _wait_for_nobody(ours, path)
        raise ConnectionError("cut off")


@app.task
def wait_for_a_family(path: str) -> int:
    """A shell that ignores TERM, and its child, in a group of their own."""
    code = "trap '' TERM; sleep 300 & echo $! >&2; wait; wait"
    shell = subprocess.Popen(["sh", "-c", code], start_new_session=True, stderr=subprocess.PIPE)
    assert shell.stderr is not None
    with current.guard(shell):
        _note(path, f"{shell.pid} {shell.stderr.readline().decode().strip()}")
        return shell.wait()


@app.task
def query(path: str) -> None:
    database = sqlite3.connect(":memory:")
    with current.guard(database):
        _note(path, "in")
        database.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")


@app.task
def guarded_badly(path: str) -> None:
    def fail() -> None:
        raise OSError("no such luck")

    ours, theirs = socket.socketpair()
    with theirs, current.guard(ours), current.guard(fail), current.guard(sys.exit):
        _wait_for_nobody(ours, path)


@app.task
async def guarded_coroutine(path: str) -> None:
    closed = asyncio.Event()

    class Client:
        async def aclose(self) -> None:
            _note(path, f"closed in {asyncio.get_running_loop() is loop}")
            closed.set()

    loop = asyncio.get_running_loop()
    with current.guard(Client()):
        _note(path, "in")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.wait_for(closed.wait(), 5)
            raise


@app.task
def guard_and_leave() -> int:
    current.guard(lambda: None)
    return len(guards._guards)


@app.task
async def guard_and_leave_coroutine() -> int:
    return guard_and_leave()


@app.task
def count_guards() -> int:
    return len(guards._guards)


@app.task
async def wait_for_a_stubborn_process(path: str) -> None:
    shell = await asyncio.create_subprocess_exec("sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done", stdout=-1)
    assert shell.stdout is not None
    await shell.stdout.readline()
    with current.guard(shell):
        _note(path, str(shell.pid))
        try:
            await asyncio.sleep(60)
        finally:
            await shell.wait()


@app.task
def shields_for_ever(path: str) -> None:
    """Runs out of its shield, and swallows what that brings."""
    with current.shield(0.3):
        _note(path, "in")
        time.sleep(60)


class Burden:
    """Something large that a task holds."""


_burdens: weakref.WeakSet[Burden] = weakref.WeakSet()


@app.task
def shrug_with_a_burden(path: str) -> None:
    """Swallows its interruption, which came while it held something."""
    burden = Burden()
    _burdens.add(burden)
    with contextlib.suppress(TaskInterrupt):
        _note(path, "in")
        time.sleep(3600)


@app.task
def burdens() -> int:
    return len(_burdens)
