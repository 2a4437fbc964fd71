"""The demo's own witness: what the tasks write down themselves, line by line, in one file.

    a task ─► note("start") ─► one write with O_APPEND ─► notes.log ─► Notes.read, in the demo's process

A line is written before the task does anything else, in one system call on a file opened for appending, so lines of
many processes never mix and a process that is killed an instant later has been there. It is how the demo knows which
task started where and how often without asking the queue.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from .. import current

__all__ = ["DIRECTORY", "FILE", "WORKER", "Note", "Notes", "note"]

# Set by the stage for each worker, inherited by all that descends from it: where to write, and whose child it is.
DIRECTORY, WORKER = "QWDEMO_DIR", "QWDEMO_WORKER"
FILE = "notes.log"

_files: dict[int, int] = {}  # pid -> descriptor: a child opens its own


@dataclass(frozen=True, slots=True)
class Note:
    """One line. `at_s` is on the monotonic clock, which all processes of a machine share."""

    at_s: float
    what: str  # start, raise, end, child
    id: str
    attempt: int
    worker: str
    pid: int
    thread: int
    other: int = 0  # child: the pid of the process that the task started


def note(what: str, *, other: int = 0) -> None:
    """Write down that this happens to the current task, now."""
    fd = _files.get(os.getpid())
    if fd is None:
        path = Path(os.environ[DIRECTORY]) / FILE
        fd = _files[os.getpid()] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    where = f"{os.environ[WORKER]} {os.getpid()} {threading.get_native_id()}"
    os.write(fd, f"{time.monotonic_ns()} {what} {current.id} {current.attempt} {where} {other}\n".encode())


class Notes:
    """All notes so far. Owned by one thread of the demo's process, which calls `read` now and then."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._path.touch()
        self._offset = 0
        self.all: list[Note] = []
        self.starts: defaultdict[str, list[Note]] = defaultdict(list)

    def read(self) -> list[Note]:
        """Read what is new, and return it."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        lines = content[: content.rfind(b"\n") + 1]
        self._offset += len(lines)
        new = [_parse(line) for line in lines.decode().splitlines()]
        self.all += new
        for written in new:
            if written.what == "start":
                self.starts[written.id].append(written)
        return new

    def of(self, id: str) -> list[Note]:  # noqa: A002 - the public word
        """Return what a task wrote."""
        return [written for written in self.all if written.id == id]


def _parse(line: str) -> Note:
    at_ns, what, task, attempt, worker, pid, thread, other = line.split(" ")
    return Note(int(at_ns) / 1e9, what, task, int(attempt), worker, int(pid), int(thread), int(other))
