"""Look at processes as the kernel lists them: what is still there, whose it is, and what it is called. Linux.

`Stage` asks what is left of the demo, `Story` whether what hung is gone. A process belongs to the demo when it was
started with the demo's variable in its environment, or works in the demo's directory: a task's child in a session of
its own has both, whoever its parent is by now.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

__all__ = ["belonging_to", "command", "is_running", "kill"]

_PROC = Path("/proc")


def is_running(pid: int, thread: int | None = None) -> bool:
    """Whether a process, or one thread of it, is there and has not ended. A zombie has."""
    path = _PROC / str(pid) / "stat" if thread is None else _PROC / str(pid) / "task" / str(thread) / "stat"
    try:
        stat = path.read_bytes()
    except OSError:
        return False
    # The command name may hold spaces and brackets: the state is what comes after the last bracket.
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def belonging_to(directory: Path, *, mark: str) -> set[int]:
    """Return the processes, without this one, that have `mark=directory` in their environment or work in it."""
    wanted = f"{mark}={directory}".encode()
    found: set[int] = set()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            marked = wanted in (entry / "environ").read_bytes().split(b"\0")
            inside = Path(os.readlink(entry / "cwd")).is_relative_to(directory)  # noqa: PTH115 - may be gone by now
        except OSError:
            continue  # it ended while we looked, or is somebody else's
        if (marked or inside) and is_running(int(entry.name)):
            found.add(int(entry.name))
    return found


def command(pid: int) -> str:
    """Return the command line of a process, for a message."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "(gone)"
    return b" ".join(words).decode(errors="replace").strip()[:200]


def kill(pid: int) -> None:
    """kill -9 a process, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended by itself
