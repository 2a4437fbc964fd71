"""Fault points: named places at which a process is killed, frozen or cut off on purpose, to see what follows.

    QWORKER_FAULT=claim.sent:cut,child.after_fn:kill9:3 ─► read once, at import ─► only what it names is wrapped

The third word says at which passing of its point a fault happens (the first, if it is left out): once, counted over all
processes of a worker. Without the variable every function here returns what it was given, and nothing is ever asked.
Calls to the server pass through broker/faulty.py; what else has a point says so by a decorator.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar, cast

from .errors import ConfigError

VARIABLE: Final = "QWORKER_FAULT"
# A file where each fault that happened is written down; beside it, with the point's name, how often each was passed.
TALLY: Final = "QWORKER_FAULT_TALLY"

Passing = TypeVar("Passing", bound=Callable[..., Any])


class Point(NamedTuple):
    """A place in the code: which process passes it, and whether a call to the server is under way there."""

    process: str
    call: bool = False


def _call(name: str, process: str = "worker") -> dict[str, Point]:
    """A call has two: it was written, and not answered; it was answered, and nobody has read it."""
    return {f"{name}.{half}": Point(process, call=True) for half in ("sent", "reply")}


POINTS: Final[Mapping[str, Point]] = {
    **_call("submit", "producer"),
    **_call("claim"),
    **_call("start"),  # a renewal that records that tasks have started
    **_call("renew"),
    **_call("settle"),
    **_call("release"),  # a settle that gives back what never started
    **_call("rescue"),
    "dispatch": Point("worker"),  # before a window's tasks go to their pool
    "spawn.sent": Point("worker"),  # a child was ordered from the fork server
    "spawn.forked": Point("fork server"),  # it is there, and the worker has not been told
    "child.before_fn": Point("child"),
    "child.after_fn": Point("child"),  # the function has ended, and nobody knows
    "child.mid_frame": Point("child"),  # half of an outcome is in the pipe
    "stop.begin": Point("worker"),  # before the flag of a task is raised that is to stop
    "stop.end": Point("worker"),  # that task has ended, and it is not recorded
    "drain.begin": Point("worker"),
    "drain.end": Point("worker"),  # everything is recorded, and the worker is still listed
}
ACTIONS: Final = ("kill9", "kill9_parent", "stop", "exit0", "sleep", "raise", "cut", "dup")


class Fault(NamedTuple):
    """What happens at which passing of a point."""

    point: str
    action: str
    nth: int = 1
    sleep_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.point}:{self.action}{f'={self.sleep_s:g}' if self.action == 'sleep' else ''}:{self.nth}"


class FaultPoint(RuntimeError):
    """What the action `raise` raises."""


def senseless(point: str, action: str) -> str:
    """Say why an action makes no sense at a point; empty if it does."""
    process, call = POINTS[point]
    if action == "kill9_parent" and process in ("worker", "producer"):
        return f"the parent of a {process} is whoever started it, and no part of qworker"
    if action == "cut" and not (call or point == "child.mid_frame"):
        return "no connection is in use there"
    if action == "dup" and not call:
        return "nothing is sent there that could arrive twice: a pipe between two processes neither loses nor repeats"
    return ""


def parse(text: str) -> tuple[Fault, ...]:
    """Read a value of the variable.

    Raises:
        ConfigError: it cannot be used; the message says what can.
    """
    return (
        tuple(_parse(word.strip()) for word in text.split(",")) if text.strip() else ()
    )  # one wrong, and none is armed


def _parse(word: str) -> Fault:
    point, _, rest = word.partition(":")
    action, _, nth = rest.partition(":")
    action, _, seconds = action.partition("=")
    told = f"{VARIABLE}: {word!a}"
    if point not in POINTS:
        raise ConfigError(f"{told}: there is no fault point {point!a}; there are {', '.join(POINTS)}")
    if action not in ACTIONS:
        raise ConfigError(
            f"{told}: expected point:action or point:action:nth; actions are {', '.join(ACTIONS)}, as in sleep=0.5"
        )
    if why := senseless(point, action):
        raise ConfigError(f"{told}: {why}")
    try:
        found = Fault(point, action, int(nth or 1), float(seconds or 0))
    except ValueError:
        raise ConfigError(f"{told}: expected a number, as in child.after_fn:sleep=0.5:3") from None
    if found.nth < 1 or (action == "sleep") != (0 < found.sleep_s < float("inf")):
        raise ConfigError(f"{told}: points are counted from 1, and sleep (only that) has seconds, as in sleep=0.5")
    return found


def check() -> None:
    """Raise the ConfigError of a value that cannot be used."""
    if _wrong:
        raise ConfigError(_wrong)


def before(point: str, when: Callable[..., bool] | None = None) -> Callable[[Passing], Passing]:
    """Have a function pass a point before it begins; `when`: only if this says so of its arguments."""
    return _around(point, when, first=True)


def after(point: str) -> Callable[[Passing], Passing]:
    """Have a function pass a point once it has returned."""
    return _around(point, None, first=False)


def _around(point: str, when: Callable[..., bool] | None, *, first: bool) -> Callable[[Passing], Passing]:
    if not is_armed(point):
        return lambda fn: fn

    def wrap(fn: Passing) -> Passing:
        @functools.wraps(fn)
        def passing(*args: Any, **kwargs: Any) -> Any:
            if not first:
                found = fn(*args, **kwargs)
                reach(point)
                return found
            if when is None or when(*args, **kwargs):
                reach(point)
            return fn(*args, **kwargs)

        return cast("Passing", passing)

    return wrap


def torn(point: str, write: Callable[[int, bytes], int], when: Callable[[bytes], bool]) -> Callable[[int, bytes], int]:
    """Have a `write` pass a point in the middle of what it writes, where `when` says so of that."""
    if not is_armed(point):
        return write

    def write_halves(fd: int, data: bytes) -> int:
        if not when(data):
            return write(fd, data)
        half = write(fd, data[: len(data) // 2])
        if reach(point) == "cut":
            os.close(fd)
        return half + write(fd, data[half:])

    return write_halves


def is_armed(point: str) -> bool:
    """Say whether any fault waits at a point."""
    return any(fault.point == point for fault in ARMED)


def reach(point: str) -> str:
    """Pass a point, and do what is to be done there. Returns the action; `cut` and `dup` are left to the caller."""
    waiting = [fault for fault in ARMED if fault.point == point]
    if not waiting:
        return ""
    passed = _written(f"{os.environ[TALLY]}.{point}", b".")
    for fault in waiting:
        if fault.nth == passed:
            _do(fault)
            return fault.action
    return ""


def _do(fault: Fault) -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    _written(os.environ[TALLY], f"{fault.point} {fault.action} {os.getpid()} {now:.6f}\n".encode())
    if fault.action == "kill9":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "kill9_parent":
        os.kill(os.getppid(), signal.SIGKILL)
    elif fault.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.action == "exit0":
        os._exit(0)
    elif fault.action == "sleep":
        time.sleep(fault.sleep_s)
    elif fault.action == "raise":
        raise FaultPoint(f"{VARIABLE}: {fault}")


def _written(path: str, data: bytes) -> int:
    """Append to a file that processes share, and return where this ended: with one byte each, how many there were."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        return os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        os.close(fd)


ARMED: tuple[Fault, ...] = ()
_wrong = ""
try:
    ARMED = parse(os.environ.get(VARIABLE, ""))
except ConfigError as error:
    _wrong = str(error)
if ARMED:
    import tempfile

    # All that is started from here finds it, and counts with this process.
    os.environ.setdefault(TALLY, f"{tempfile.gettempdir()}/qworker-fault-{os.getpid()}-{time.monotonic_ns()}")
