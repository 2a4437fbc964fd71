"""Count what code does instead of how long it takes: bytecode instructions, calls into C, system calls, Redis commands.

    Counter ── sys.settrace, sys.setprofile ──► instructions and C calls, by thread and by whose code it is
    system_calls ── strace -c ────────────────► how often a process read, wrote or waited
    server_counts ── INFO ────────────────────► commands, bytes in, bytes out

The same work gives the same counts, on a busy machine and on a quiet one. What a worker does by the clock (renewals,
the patrol's look at the pages) is left out: how often it comes depends on how long the rest takes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import redis

import qworker

OURS, LIBRARY = "qworker", "redis-py"
_OURS_IN = os.path.dirname(qworker.__file__) + os.sep  # noqa: PTH120 - compared with the names that code objects have
_LIBRARY_IN = os.path.dirname(redis.__file__) + os.sep  # noqa: PTH120
# Whatever these call does not count either.
BY_THE_CLOCK = frozenset(
    f"{_OURS_IN}{name}.py"
    for name in ("pool/patrol", "worker/keeper", "worker/beacon", "worker/neighbours", "health", "worker/outage")
)

READS_AND_WRITES = frozenset(
    [
        "read",
        "readv",
        "write",
        "writev",
        "sendto",
        "sendmsg",
        "recvfrom",
        "recvmsg",
        "send",
        "recv",
        "preadv",
        "pwritev",
    ]
)
WAITS = frozenset(["epoll_wait", "epoll_pwait", "poll", "ppoll", "select", "pselect6"])


class Counter:
    """Counts the instructions and C calls of qworker and of redis-py, in all threads that begin after `start`."""

    def __init__(self) -> None:
        self.counts: Tally[str] = Tally()
        self._whose: dict[CodeType, str | None] = {}
        self._threads = threading.local()
        self._before: tuple[Any, Any, Any, Any] = (None, None, None, None)

    def start(self) -> None:
        """Begin, in this thread too."""
        self._before = sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()
        threading.settrace(self._call)
        threading.setprofile(self._c_call)
        sys.setprofile(self._c_call)
        sys.settrace(self._call)

    def stop(self) -> None:
        """Count no more in this thread, nor in those that begin from now on."""
        trace, profile, threads_trace, threads_profile = self._before
        sys.settrace(trace)
        sys.setprofile(profile)
        threading.settrace(threads_trace)
        threading.setprofile(threads_profile)

    def _label(self, code: CodeType) -> str | None:
        try:
            return self._whose[code]
        except KeyError:
            label = self._whose[code] = whose(code.co_filename)
            return label

    def _call(self, frame: FrameType, _event: str, _argument: object) -> Any:
        label = self._label(frame.f_code)
        here = self._threads.__dict__
        if label != "" and (label is None or here.get("muted", 0)):
            return None
        frame.f_trace_lines = False
        if label == "":
            here["muted"] = here.get("muted", 0) + 1
            return self._muted
        frame.f_trace_opcodes = True
        counting = here.get(label)
        if counting is None:
            counting = here[label] = self._counting(label)
        return counting

    def _counting(self, label: str) -> Callable[[FrameType, str, object], Any]:
        counts, key = self.counts, f"{threading.current_thread().name}: instructions in {label}"

        def local(_frame: FrameType, event: str, _argument: object) -> Any:
            if event == "opcode":
                counts[key] += 1
            return local

        return local

    def _muted(self, _frame: FrameType, event: str, _argument: object) -> Any:
        if event == "return":
            self._threads.__dict__["muted"] -= 1
        return self._muted

    def _c_call(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "c_call" and (label := self._label(frame.f_code)) and not self._threads.__dict__.get("muted", 0):
            self.counts[f"{threading.current_thread().name}: C calls in {label}"] += 1


def whose(filename: str) -> str | None:
    """Say whose code a file is: OURS, LIBRARY, "" for what runs by the clock, None for what is not counted."""
    if filename.startswith(_OURS_IN):
        return "" if filename in BY_THE_CLOCK else OURS
    if filename.startswith(_LIBRARY_IN):
        return LIBRARY
    return None


def server_counts(client: redis.Redis) -> dict[str, float]:
    """Return what the server has counted since its last CONFIG RESETSTAT, commands inside scripts included."""
    commands = client.info("commandstats")
    stats = client.info("stats")
    ours = ("cmdstat_info", "cmdstat_config", "cmdstat_client", "cmdstat_script", "cmdstat_flush", "cmdstat_hello")
    calls = sum(row["calls"] for name, row in commands.items() if not name.startswith(ours))
    return {
        "commands": calls,
        "bytes in": stats["total_net_input_bytes"],
        "bytes out": stats["total_net_output_bytes"],
    }


def strace_works() -> bool:
    """Whether strace is here and may look at processes that it starts."""
    if shutil.which("strace") is None:
        return False
    with tempfile.NamedTemporaryFile() as told:
        return (
            subprocess.run(["strace", "-c", "-o", told.name, "true"], capture_output=True, check=False).returncode == 0
        )


def under_strace(command: list[str], told: Path) -> list[str]:
    """Return a command line that counts the system calls of a command's first thread into a file.

    The tracer stands aside (-D), so that the command's own process is the one that was started.
    """
    return ["strace", "-D", "-c", "-o", str(told), *command]


def system_calls(told: Path, within_s: float = 10.0) -> dict[str, float]:
    """Return what strace has counted, once it has written it: it does after the process has ended."""
    ends = time.monotonic() + within_s
    while "total" not in (text := told.read_text() if told.exists() else ""):
        if time.monotonic() > ends:
            raise RuntimeError(f"strace wrote no summary into {told}")
        time.sleep(0.01)
    return summed(text)


def summed(table: str) -> dict[str, float]:
    """Read the table of strace -c: how many calls read or wrote, and how many waited."""
    found = {"reads and writes": 0.0, "waits": 0.0}
    for line in table.splitlines():
        fields = line.split()
        if len(fields) in (5, 6) and fields[-1] in READS_AND_WRITES | WAITS:
            found["waits" if fields[-1] in WAITS else "reads and writes"] += int(fields[3])
    return found
