"""The tasks that every contestant runs: plain functions, the same code for all, wrapped by each adapter in its own way.

A task that has run says so in a file that all processes of a worker share (BENCH_COUNTER): 8 bytes for each process,
in a place of its own, so that neither locks nor Redis are in the figure. What counts is thus what was *executed*, for
every queue alike, never what a queue says of itself.

    BENCH_COUNTER ─ [n of process 1][n of process 2]…  ◄── tick()            harness ── sum ──► how many have run
    BENCH_TIMES ── "key started ended" lines, appended ◄── timed tasks       harness ── waits of each task

Only the standard library, so that it runs in every contestant's environment.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable

CELLS = 4096
_lock = threading.Lock()
_cell: tuple[int, mmap.mmap, int] | None = None  # the process that opened it, the file, its place in it
_ticks = 0


def make_counter(path: str) -> None:
    """Make an empty counter file."""
    with open(path, "wb") as stream:
        stream.truncate(CELLS * 8)


def counted(path: str) -> int:
    """Return how many tasks have run, in all processes together."""
    with open(path, "rb") as stream:
        (used,) = struct.unpack("=q", stream.read(8))
        return sum(struct.unpack(f"={used}q", stream.read(used * 8)))


def tick() -> None:
    """Count one executed task."""
    global _cell, _ticks
    with _lock:
        if _cell is None or _cell[0] != os.getpid():
            _cell, _ticks = _open(), 0
        _ticks += 1
        struct.pack_into("=q", _cell[1], _cell[2], _ticks)


def _open() -> tuple[int, mmap.mmap, int]:
    fd = os.open(os.environ["BENCH_COUNTER"], os.O_RDWR)
    try:
        cells = mmap.mmap(fd, CELLS * 8)
        fcntl.flock(fd, fcntl.LOCK_EX)
        used = struct.unpack_from("=q", cells, 0)[0] + 1  # the first cell holds how many are taken
        if used >= CELLS:
            raise RuntimeError(f"more than {CELLS - 1} processes ran tasks on one counter")
        struct.pack_into("=q", cells, 0, used)
        fcntl.flock(fd, fcntl.LOCK_UN)  # the mapping holds the file open, and with it the lock
    finally:
        os.close(fd)
    return os.getpid(), cells, used * 8


def note(key: str, started: float, ended: float) -> None:
    """Append when a task ran (seconds on the machine's monotonic clock) to BENCH_TIMES: one write, never torn."""
    fd = os.open(os.environ["BENCH_TIMES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, f"{key} {started:.6f} {ended:.6f}\n".encode())
    finally:
        os.close(fd)


# ── the tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def noop(body: str) -> str:
    """Do nothing, and give back what it got: a small string, or 10 KB, or 1 MB."""
    tick()
    return body


async def noop_async(body: str) -> str:
    tick()
    return body


def nap(body: str) -> str:
    """Sleep for so many seconds."""
    time.sleep(float(body))
    tick()
    return body


async def nap_async(body: str) -> str:
    await asyncio.sleep(float(body))
    tick()
    return body


def burn(body: str) -> str:
    """Add up so many numbers: CPU work of a length that is measured beforehand, the same loop for all."""
    add_up(int(body))
    tick()
    return body


def add_up(numbers: int) -> int:
    """Keep the processor busy."""
    total = 0
    for number in range(numbers):
        total += number
    return total


def timed(body: str) -> str:
    """`key seconds`: sleep for so long, and note when it ran."""
    key, seconds = body.split()
    started = time.monotonic()
    time.sleep(float(seconds))
    note(key, started, time.monotonic())
    tick()
    return body


def linger(body: str) -> str:
    """`key`: wait until something interrupts it from outside."""
    return listen(body, lambda: False)


def listen(body: str, asked: Callable[[], bool]) -> str:
    """`key`: note when it began and where, wait until it is asked to end or interrupted, and note when it saw that."""
    note(f"{body}-began", time.monotonic(), os.getpid())
    try:
        while not asked():
            time.sleep(0.000_5)
    finally:
        note(f"{body}-saw", time.monotonic(), 0)
    return body


async def linger_async(body: str) -> str:
    note(f"{body}-began", time.monotonic(), os.getpid())
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note(f"{body}-saw", time.monotonic(), 0)
        raise
    return body


def once(body: str) -> str:
    """`key`: sleep for a minute, and the next time end at once: what a lost worker ran is seen to run again."""
    if first(body):
        time.sleep(60)
    tick()
    return body


async def once_async(body: str) -> str:
    if first(body):
        await asyncio.sleep(60)
    tick()
    return body


def first(key: str) -> bool:
    """Whether nobody was here before with this key."""
    try:
        os.close(os.open(f"{os.environ['BENCH_TIMES']}.{key}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


TASKS = (noop, nap, burn, timed, linger, once)
ASYNC_TASKS = {"noop": noop_async, "nap": nap_async, "linger": linger_async, "once": once_async}
