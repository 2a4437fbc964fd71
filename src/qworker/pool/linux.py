"""What the kernel does for the pool: subreapers, death signals, who descends from whom. Linux only.

Called by the fork server and by children at their start, and by the worker's Host for what a dead server left.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OOM_RAISE = 300
# Has a child with one slot interrupt its code. User code seldom has plans for real-time signals.
INTERRUPT_SIGNAL = getattr(signal, "SIGRTMIN", 34) + 8
_libc = ctypes.CDLL(None, use_errno=True)
_tgkill = getattr(_libc, "tgkill", None)  # glibc has it since 2.30, musl has not

# A thread of a child that gets it writes its Python stack into the stack pipe of the child.
STACK_SIGNAL = INTERRUPT_SIGNAL + 1
# Has the main thread of a child write, in Python, the stacks that the page asks for.
LOOK_SIGNAL = INTERRUPT_SIGNAL + 2


def check_platform() -> None:
    """Refuse to run where a child cannot be held: without pidfds and subreapers a stop would be a promise only."""
    if not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open"):
        raise ConfigError(
            f"qworker's pool needs Linux 5.3 or later (pidfd, PR_SET_CHILD_SUBREAPER); this is {sys.platform}. "
            "Run the worker in a Linux container; producers run anywhere."
        )


def need_descriptors(count: int) -> None:
    """Raise the OSError that would come in the middle of opening so many descriptors, before the first is opened."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.dup(opened[0]) if opened else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for fd in opened:
            os.close(fd)


def become_subreaper() -> None:
    """Adopt the orphans of everything below this process, so that they can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that forked this process ends; exit at once when that has already happened."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the call above, and then its signal never comes.
    if os.getppid() != parent:
        os._exit(1)


def volunteer_for_oom() -> None:
    """Let the kernel kill this process before the worker when memory runs out. Best effort."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(fd, str(min(1000, int(os.read(fd, 16)) + _OOM_RAISE)).encode())
        finally:
            os.close(fd)
    except (OSError, ValueError):
        pass  # a container may mount /proc read-only; the blame survives a worker's death anyhow


def signal_thread(pidfd: int, pid: int, thread: int, number: int) -> bool:
    """Signal one thread of a process, if it has a handler for that; a signal without one would end the process.

    `thread` is its native id. False: nothing was sent. Only the thread itself can walk its own Python frames safely,
    which is why the whole process is not good enough.
    """
    if not _has(pid, number, b"SigCgt:"):
        return False
    try:
        if _tgkill is None:
            if thread == pid:  # the kernel prefers the first thread by itself
                signal.pidfd_send_signal(pidfd, number)
            return thread == pid
        # Until a process is reaped its pid names nobody else; nothing can be reaped and born anew before the next line.
        signal.pidfd_send_signal(pidfd, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return bool(_tgkill(pid, thread, number) == 0)


def is_handling(pid: int, number: int) -> bool:
    """Is the signal on its way to the first thread of a process, or its handler running there?

    The kernel blocks a signal while its handler runs. Code that blocks it itself looks the same.
    """
    return _has(pid, number, b"SigPnd:", b"ShdPnd:", b"SigBlk:")


class Motion(NamedTuple):
    """How a thread has moved so far."""

    asleep: bool
    sleeps: int  # how often it gave up its processor by itself: to wait for something, such as the GIL
    ran_ticks: int  # of a hundredth of a second


def motion_of(pid: int, thread: int) -> Motion | None:
    """Look how a thread of a process moves; None: it is gone."""
    task = f"/proc/{pid}/task/{thread}"
    try:
        words = Path(f"{task}/stat").read_bytes().rpartition(b")")[2].split()
        status = Path(f"{task}/status").read_bytes()
        sleeps = int(status.partition(b"\nvoluntary_ctxt_switches:")[2].split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        return None
    return Motion(words[0] == b"S", sleeps, int(words[11]) + int(words[12]))


def thread_count() -> int:
    """Count the threads of this process, native ones included."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names are enough, and this is the cheapest way


def children_of_self() -> set[int]:
    """Return the pids of this process's children, whichever of its threads is their parent."""
    try:
        found: set[int] = set()
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208
            found.update(int(pid) for pid in Path(f"/proc/self/task/{thread}/children").read_bytes().split())
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return {pid for pid, parent in _parents().items() if parent == os.getpid()}
    return found


def session_of(pid: int) -> int | None:
    """Return the session of a process; None when it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def environment_of(pid: int) -> bytes:
    """Return the environment block that a process was started with; empty when it is gone or not ours."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _has(pid: int, number: int, *masks: bytes) -> bool:
    """Is the signal in one of these masks of a process's first thread? All threads share SigCgt: what has a handler.

    User code may have reset a handler, or have replaced the whole program.
    """
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(masks) and int(line.split()[1], 16) >> (number - 1) & 1:
                return True
    except (OSError, ValueError):
        pass
    return False


def _parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                # The command name may hold spaces and brackets: what counts comes after the last bracket.
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue  # it ended while we looked
            parents[int(name)] = int(fields[1])
    return parents


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {value}): {os.strerror(code)}")
