"""A user's tasks for the end-to-end tests. Each start is written to a file that the queue knows nothing of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from qworker import App, Retry, current

app = App()


def note(event: str, **fields: object) -> None:
    """Append a line to the execution log, in one write, so that lines of many processes do not mix."""
    path = os.environ.get("EXECUTION_LOG")
    if path:
        line = f"{event} {current.id} {current.attempt} {os.getpid()} {time.monotonic():.4f} {fields}\n"
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def echo(value: object) -> object:
    return value


@app.task
def noop() -> None:
    return None


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def nap(seconds: float, tag: str = "") -> str:
    """Sleeps, deaf to every flag."""
    note("start", tag=tag)
    time.sleep(seconds)
    note("end", tag=tag)
    return tag


@app.task
def polite(seconds: float) -> str:
    """Runs for a while, polling its flag."""
    note("start")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        current.check()
        time.sleep(0.005)
    return "done"


@app.task
def polite_or_fail(seconds: float) -> str:
    """As `polite`; less than no time is an error."""
    if seconds < 0:
        raise ValueError("negative")
    return polite(seconds)


@app.task
def sleepy_echo(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task(timeout=1, grace=1)
def sleep_for_ever() -> None:
    note("start")
    time.sleep(3600)


@app.task(timeout=1, grace=1)
def busy_loop() -> None:
    note("start")
    while True:
        pass


@app.task(timeout=1, grace=1)
def stuck_in_c() -> None:
    note("start")
    re.match(r"(a+)+$", "a" * 64 + "b")


@app.task(timeout=1, grace=1)
def deaf_with_grandchild(pid_file: str) -> None:
    note("start")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    with open(pid_file, "w") as stream:  # noqa: PTH123
        stream.write(str(child.pid))
    time.sleep(3600)


@app.task
def fail(text: str = "no") -> None:
    raise ValueError(text)


@app.task(retries=3, backoff=0.05, jitter=False)
def flaky(failures: int) -> int:
    note("start")
    if current.attempt <= failures:
        raise RuntimeError(f"attempt {current.attempt} fails")
    return current.attempt


@app.task(retries=5)
def asks_for_retry(times: int, delay: float) -> int:
    if current.attempt <= times:
        raise Retry(delay=delay)
    return current.attempt


@app.task
def kill_my_child() -> None:
    note("start")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def kill_my_worker() -> None:
    """Kills the process that started the fork server that started this child."""
    note("start")
    stat = Path(f"/proc/{os.getppid()}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
    time.sleep(60)


@app.task
def talk() -> None:
    print("hello from a task")
    logging.getLogger("user.code").warning("logged %d", 7)


@app.task
async def async_nap(seconds: float) -> str:
    note("start")
    await asyncio.sleep(seconds)
    note("end")
    return "slept"


@app.task(pool="thread")
def in_thread(seconds: float = 0.0) -> str:
    note("start")
    time.sleep(seconds)
    return threading.current_thread().name


@app.task(result_ttl=0)
def forget_value() -> int:
    return 7


@app.task
def unencodable() -> object:
    return (item for item in ())


@app.task
def huge(size: int) -> bytes:
    return b"x" * size


@app.task(delivery="at_most_once")
def once(seconds: float) -> None:
    note("start")
    time.sleep(seconds)


@app.task
def who() -> tuple[str, int, int]:
    return str(current.id), int(current.attempt or 0), int(current.fence or 0)


@app.task
def swallow_interrupt(seconds: float) -> str:
    """Catches what it can and returns a value after it was asked to end."""
    note("start")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with contextlib.suppress(BaseException):
            current.check()
        if current.asked:
            return "late value"
        time.sleep(0.005)
    return "never asked"


@app.task(grace=1)
def rows(count: int, pause: float, hang_at: int = -1) -> int:
    """Goes through rows that a later attempt need not do again; hangs at one of them, in its first attempt."""
    note("start")
    for row in current.iterate(range(count), key=str):
        if row == hang_at and current.attempt == 1:
            note("hangs")
            time.sleep(3600)
        time.sleep(pause)
        note("row", row=row)
        current.progress(row + 1, count, f"row {row}")
    return count


@app.task(pool="thread")
def rows_in_thread(count: int, pause: float) -> int:
    return rows(count, pause)


@app.task
async def rows_async(count: int, pause: float) -> int:
    note("start")
    for row in current.iterate(range(count), key=str):
        await asyncio.sleep(pause)
        note("row", row=row)
        current.progress(row + 1, count)
    return count


@app.task
def tell(steps: int, pause: float) -> str:
    """Tells how far it is, and runs a little longer."""
    note("start")
    for step in range(steps):
        current.progress(step + 1, steps, f"step {step + 1}")
        print(f"line {step + 1}")
        current.sleep(pause)
    return "told"
