"""Tasks that try to break a promise. What they did is in an execution log that the queue knows nothing of.

A line of the log: event, id, attempt, pid, instant on the monotonic clock. `tame` names a file: while it exists, the
worst of them do no harm, so that a test can see that they came back.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from qworker import App, current

app = App()


def note(event: str) -> None:
    """Append a line to the execution log, in one write, so that lines of many processes do not mix."""
    line = f"{event} {current.id} {current.attempt} {os.getpid()} {time.monotonic():.4f}\n"
    fd = os.open(os.environ["EXECUTION_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


@app.task
def nap(seconds: float, value: object = None) -> object:
    """Sleeps, deaf to every flag."""
    note("start")
    time.sleep(seconds)
    note("end")
    return value


@app.task(pool="thread")
def thread_nap(seconds: float, value: object = None) -> object:
    """The same in a thread slot."""
    note("start")
    time.sleep(seconds)
    note("end")
    return value


@app.task
def polite(seconds: float) -> str:
    """Polls its flag, and notes the instant at which it saw it."""
    note("start")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not current.asked:
        time.sleep(0.005)
    note("asked" if current.asked else "end")
    current.check()
    return "done"


@app.task(retries=3, backoff=0.1, jitter=False)
def fails_once() -> str:
    note("start")
    if current.attempt == 1:
        raise RuntimeError("the first attempt fails")
    return "second"


@app.task(retries=3, backoff=30, jitter=False)
def fails_slowly() -> None:
    note("start")
    raise RuntimeError("not today")


@app.task
def dies(times: int, then_s: float = 0.0) -> str:
    """Kills its child at its first attempts, then runs for a while."""
    note("start")
    if (current.attempt or 0) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(then_s)
    note("end")
    return "lived"


@app.task(pool="thread")
def dies_in_thread(after_s: float) -> None:
    """Kills its child, and whoever else is in it, each time."""
    note("start")
    time.sleep(after_s)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(pool="thread", timeout=None)
def waits_for(path: str) -> str:
    """Runs in a thread slot until a file exists."""
    note("start")
    while not Path(path).exists():
        time.sleep(0.01)
    note("end")
    return "found"


@app.task(timeout=None, retries=1, backoff=0, jitter=False)
def until_let_go(gate: str, fail_first: bool = False) -> list[int]:
    """Runs until there is a file for its process beside `gate`; returns which attempt that was, under which fence."""
    note("start")
    if fail_first and current.attempt == 1:
        raise RuntimeError("the first attempt fails")
    while not Path(f"{gate}-{os.getpid()}").exists():
        time.sleep(0.01)
    note("end")
    return [current.attempt, current.fence]


@app.task
def tells_doubt() -> str:
    """Goes on until its lease was in doubt and is certain again, and notes both; ends early only if it is asked to."""
    note("start")
    for doubt, event in ((True, "doubt"), (False, "certain")):
        while current.lease_uncertain != doubt:
            current.check()
            time.sleep(0.005)
        note(event)
    note("end")
    return "went on"


@app.task(timeout=None)
def deaf_with_grandchild(pid_file: str, tame: str) -> str:
    """Ignores TERM, and has a grandchild in a session of its own that does, too."""
    note("start")
    if Path(tame).exists():
        return "tame"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    grandchild = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    Path(pid_file).write_text(str(grandchild.pid))
    time.sleep(3600)
    return "outlived its drain"


@app.task(pool="thread", timeout=None)
def deaf_thread(tame: str) -> str:
    note("start")
    while not Path(tame).exists():
        time.sleep(0.05)
    return "tame"


@app.task(pool="thread", timeout=None)
def holds_the_gil(tame: str) -> str:
    note("start")
    if not Path(tame).exists():
        re.match(r"(a+)+$", "a" * 64 + "b")
    return "tame"


@app.task
def echo(value: object) -> object:
    return value


@app.task
def says(text: str) -> None:
    print(text)


@app.task
def raises(text: str) -> None:
    raise ValueError(text)
