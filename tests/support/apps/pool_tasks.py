"""Tasks for the tests of the pool: the well-behaved, the stubborn and the deadly."""

from __future__ import annotations

import asyncio
import decimal
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
hooks_run = []


@app.on_child_start
def _remember() -> None:
    hooks_run.append(os.getpid())


@app.task
def noop() -> None:
    return None


@app.task
def echo(value: object) -> object:
    return value


@app.task
def size_of(value: bytes) -> int:
    return len(value)


@app.task
def make(size: int) -> bytes:
    return b"x" * size


@app.task
def who() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "sid": os.getsid(0),
        "hooks": list(hooks_run),
        "attempt": current.attempt,
        "id": current.id,
        "name": current.name,
        "fence": current.fence,
        "redis": "redis" in sys.modules,
        "thread": threading.current_thread().name,
    }


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task(retry_for=(KeyError,))
def fail_choosy(kind: str) -> None:
    raise {"key": KeyError, "value": ValueError}[kind]("no")


@app.task
def leave() -> None:
    sys.exit(3)


@app.task
def again() -> None:
    raise Retry("later", delay=1.5)


@app.task
def unsendable() -> object:
    return {"deep": [1, lambda: None]}


@app.task
def talk(lines: int, text: str) -> int:
    for _ in range(lines):
        print(text)
    print("no newline", end="")
    print("to stderr", file=sys.stderr)
    logging.getLogger("mine").info("logged %d", 7)
    current.log.info("with fields", size=3)
    return lines


@app.task
def helper_prints() -> None:
    thread = threading.Thread(target=print, args=("from a helper",))
    thread.start()
    thread.join()


@app.task
def nap(seconds: float, path: str = "") -> str:
    """Sleeps, deaf to every flag; tells a file when it started."""
    if path:
        Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)
    return "rested"


@app.task
def polite(seconds: float) -> str:
    current.progress(1, 4, "first quarter")
    current.sleep(seconds)
    return "done"


@app.task
def slow_to_leave(after_ask_s: float) -> str:
    """Notices the flag, takes its time, and returns a value all the same."""
    while not current.asked:
        time.sleep(0.002)
    asked_at = time.monotonic()
    time.sleep(after_ask_s)
    return f"{current.reason} {asked_at}"


@app.task
def busy_loop() -> None:
    while True:
        pass


@app.task
def regex() -> None:
    """Holds the GIL in C, for longer than anybody waits."""
    re.match(r"(a+)+$", "a" * 40 + "b")


@app.task
def stubborn(path: str) -> None:
    """Ignores TERM, and has a sleeping grandchild in a session of its own that ignores it, too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    grandchild = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    Path(path).write_text(str(grandchild.pid))
    time.sleep(3600)


@app.task
def die(number: int) -> None:
    os.kill(os.getpid(), number)


@app.task
def exit_now(status: int) -> None:
    os._exit(status)


@app.task
def hang_up(seconds: float) -> None:
    """Closes whatever connects its process to others, and runs on for a while."""
    os.closerange(3, 4096)
    time.sleep(seconds)


@app.task
def fork_and_return() -> int:
    """The copy returns into qworker's loop; only the original may tell an outcome."""
    pid = os.fork()
    if pid == 0:
        return -1
    os.waitpid(pid, 0)
    return pid


@app.task
def scribble() -> None:
    """Writes nonsense to every pipe and socket that it finds."""
    for name in list(Path("/proc/self/fd").iterdir()):
        try:
            if int(name.name) > 2 and str(name.readlink()).startswith(("pipe:", "socket:")):
                os.write(int(name.name), b"\xc1 nonsense")
        except OSError:
            pass
    time.sleep(3600)


@app.task
async def gather(value: int) -> int:
    values = await asyncio.gather(*(asyncio.sleep(0.001, value) for _ in range(3)))
    return sum(values)


@app.task
async def wait_for_ever() -> None:
    await asyncio.sleep(3600)


@app.task
def wait_for_file(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.002)
    return "found"


@app.task
def started_at(path: str = "") -> int:
    return time.monotonic_ns()


@app.task
def tell_and_hang(lines: int) -> None:
    """Says how far it is, and is heard of no more."""
    current.progress(3, 10, "third of ten")
    for line in range(lines):
        print(f"line {line}")
    time.sleep(3600)


@app.task
def leave_in_time(after_ask_s: float) -> None:
    """Says that it is there, and leaves some time after it was asked to."""
    current.progress(1)
    while not current.asked:
        time.sleep(0.002)
    time.sleep(after_ask_s)


@app.task
def hang_in_finally() -> None:
    """Notices the ask, and gets stuck while it tidies up."""
    try:
        while True:
            current.check()
            time.sleep(0.002)
    finally:
        _tidy_up_for_ever()


def _tidy_up_for_ever() -> None:
    time.sleep(3600)


@app.task
def dive(depth: int) -> None:
    """Hangs below so many frames, and says when."""
    _dive(depth)


def _dive(depth: int) -> None:
    if depth > 1:
        _dive(depth - 1)
    else:
        print("at the bottom")
        time.sleep(3600)


@app.task
def shrug_off_signals() -> None:
    """As some daemonizing code does: every signal gets its default action back."""
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    print("shrugged")
    time.sleep(3600)


@app.task
async def hold_on() -> None:
    """Waits in a helper's coroutine, and once more when it is cancelled."""
    try:
        await _wait_for_nothing()
    except asyncio.CancelledError:
        await asyncio.create_task(_wait_on())


async def _wait_for_nothing() -> None:
    print("waiting")
    await asyncio.get_running_loop().create_future()


async def _wait_on() -> None:
    await asyncio.Event().wait()


@app.task
async def block_the_loop() -> None:
    """As nobody should: the loop stands still, and all that waits on it."""
    current.progress(1)
    time.sleep(3600)


@app.task
def set_precision(digits: int) -> int:
    """Returns decimal's precision as it was found, which is kept in a context variable."""
    found = decimal.getcontext().prec
    decimal.getcontext().prec = digits
    return found


def _key(value: int) -> int:
    return -value


@app.task
def sort_for_ever() -> None:
    """C code that calls Python code all the time."""
    while True:
        sorted(range(50), key=_key)


@app.task
def hook_for_ever() -> None:
    """Json with hooks: C code calls Python code, which is called by C code."""
    import json

    text = json.dumps([{"a": index} for index in range(50)])
    while True:
        json.loads(text, object_hook=lambda found: _key(found["a"]))


@app.task
async def turn_for_ever() -> None:
    """An event loop that never rests, and whose callbacks are called from C code."""
    while True:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(20)))


@app.task
async def sort_on_the_loop() -> None:
    """A loop that stands still in Python code."""
    sort_for_ever.fn()


@app.task
def receive() -> None:
    """A system call that the kernel goes on with after a signal, in C code that does not look at signals meanwhile."""
    import ctypes

    ours, _theirs = os.pipe()
    ctypes.CDLL(None).read(ours, ctypes.create_string_buffer(1), 1)
