"""The demo's tasks, in a module as any user would write one: the work, and what goes wrong in it.

`qworker start qworker.demo.tasks:app` serves it. Each task first notes that it starts (notes.py), because the demo
counts starts by itself.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from .. import App, current
from . import corpus
from .notes import note

app = App()

FOR_EVER_S = 86_400.0


# The work.


@app.task(timeout=60)
def parse(path: str) -> dict[str, int]:
    """CPU: parse a source file and count what is in it."""
    note("start")
    return corpus.count(Path(path))


@app.task(timeout=60, pool="thread")
def hash_and_copy(path: str, to: str) -> str:
    """I/O: copy a file and return its hash."""
    note("start")
    return corpus.copy_hashed(Path(path), Path(to))


@app.task(timeout=60)
def census(paths: list[str], seconds: float) -> dict[str, int]:
    """Add up the sizes of some files, at the pace of a slow disk: long enough to be killed in the middle of it."""
    note("start")
    ends = time.monotonic() + seconds
    total = corpus.add(corpus.measure(Path(path)) for path in paths)
    current.sleep(max(0.0, ends - time.monotonic()))
    return total


# Code that never ends.


@app.task(timeout=1, grace=1)
def sleep_for_ever() -> None:
    """Blocked in a system call."""
    note("start")
    time.sleep(FOR_EVER_S)


@app.task(timeout=1, grace=1)
def spin_for_ever() -> None:
    """A busy loop in Python."""
    note("start")
    while True:
        pass


@app.task(timeout=1, grace=1)
def regex_for_ever() -> None:
    """A busy loop in C that holds the GIL: no Python code of this process runs any more, no signal handler either."""
    note("start")
    re.match(r"(a+)+$", "a" * 64 + "!")


@app.task(timeout=1, grace=1)
def deaf_with_child() -> None:
    """Ignores TERM, and has a child in a session of its own, which a kill of this process does not reach."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleeper = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep({FOR_EVER_S})"
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", sleeper], start_new_session=True)
    note("child", other=child.pid)
    note("start")
    while True:
        time.sleep(FOR_EVER_S)


@app.task(timeout=1, grace=1, pool="thread")
def sleep_in_a_thread() -> None:
    """What nobody can kill: a thread. Its outcome comes in time, its code stays for dessert."""
    note("start")
    time.sleep(FOR_EVER_S)


@app.task(timeout=1, grace=5)
def notice_the_timeout() -> None:
    """Runs too long, too, but looks up: `current.sleep` raises TaskInterrupt once it is asked to end."""
    note("start")
    try:
        current.sleep(FOR_EVER_S)
    finally:
        note("end")


# Tasks that somebody stops.


@app.task(timeout=60)
def polite() -> None:
    """Asks, between two steps, whether it should end."""
    note("start")
    try:
        while True:
            current.check()
            time.sleep(0.002)
    finally:
        note("end")


@app.task(timeout=60, pool="thread")
def polite_in_a_thread() -> None:
    """The same, beside others in its process."""
    note("start")
    try:
        while True:
            current.check()
            time.sleep(0.002)
    finally:
        note("end")


@app.task(timeout=60)
def stubborn() -> None:
    """Never asks."""
    note("start")
    time.sleep(FOR_EVER_S)


@app.task(priority="low")
def never_to_start() -> None:
    """Cancelled while it waits, so this note must never be written."""
    note("start")


# Tasks that fail.


@app.task(timeout=30, retries=3, backoff=0.1)
def flaky(good_attempt: int) -> int:
    """Fails at first, as what talks to a server that is being restarted does."""
    note("start")
    if current.attempt < good_attempt:
        note("raise")
        raise ConnectionResetError(f"attempt {current.attempt}: connection reset by peer")
    return current.attempt


@app.task(timeout=30, retries=1, backoff=0.1)
def broken(number: int) -> float:
    """Fails for good."""
    note("start")
    try:
        return number / 0
    finally:
        note("raise")
