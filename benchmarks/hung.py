"""The tasks that benchmarks/kill.py has killed: asleep, busy, stuck in C, and deaf with a grandchild."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

from qworker import App

app = App(namespace="bench")


@app.task
def asleep() -> None:
    """Sleep, deaf to its flag."""
    time.sleep(3600)


@app.task
def busy() -> None:
    """Compute for ever."""
    while True:
        pass


@app.task
def in_c() -> None:
    """Hold the interpreter in a regular expression that backtracks for ever."""
    re.match(r"(a+)+$", "a" * 64 + "b")


@app.task
def deaf(pid_file: str) -> None:
    """Ignore TERM, and have a child that ignores it in a session of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    child = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
    with open(pid_file, "w") as file:  # noqa: PTH123 - as a user would
        file.write(str(child.pid))
    time.sleep(3600)


@app.task
def now_ns() -> int:
    """Say when it started, on the clock that all processes of a host share."""
    return time.monotonic_ns()


@app.task
def rest(seconds: float) -> str:
    """Be the sibling that nothing may disturb."""
    time.sleep(seconds)
    return "rested"
