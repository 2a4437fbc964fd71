"""The execution log: what tasks did, written by their own code, past the queue.

    in a task:  write(path, "start", id=…, attempt=…, fence=…) ─► one write(2) to a file that is open with O_APPEND
    in a test:  read(path) ─► Executions(lines, torn)

A process may be killed in the middle of a line. So each line begins with a line feed of its own and ends with a mark:
what was torn spoils no neighbour, and is known for what it is.
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from .records import How, Line, What

MARK = ";"


class Executions(NamedTuple):
    """What is in the log: whole lines in the order of their writing, and the beginnings of those that were torn."""

    lines: tuple[Line, ...]
    torn: tuple[str, ...]


def now() -> float:
    """The clock of all histories on this host. It counts the time that the host is suspended, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write(path: str | Path, what: What, *, id: str, attempt: int, fence: int, how: How = "", value: str = "") -> None:  # noqa: A002
    """Append a line in one call, so that lines of many processes do not mix."""
    line = Line(what, id, attempt, fence, os.getpid(), worker_of(os.getpid()), now(), how, value)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text_of(line).encode())
    finally:
        os.close(fd)


def text_of(line: Line) -> str:
    """A line as it is written."""
    fields = (line.what, line.id, line.attempt, line.fence, line.pid, line.worker, f"{line.at:.6f}", line.how)
    return "\n" + " ".join([*(quote(str(field), safe=":") or "-" for field in fields), quote(line.value) + MARK])


def read(path: Path) -> Executions:
    """Read the whole log."""
    return parse(path.read_bytes().decode(errors="replace")) if path.exists() else Executions((), ())


def parse(text: str) -> Executions:
    """Take the text of a log apart."""
    lines, torn = [], []
    for part in text.split("\n"):
        fields = part[: -len(MARK)].split(" ")
        if part.endswith(MARK) and len(fields) == 9:
            what, local, attempt, fence, pid, worker, at, how = ("" if f == "-" else unquote(f) for f in fields[:8])
            lines.append(
                Line(what, local, int(attempt), int(fence), int(pid), worker, float(at), how, unquote(fields[8]))  # type: ignore[arg-type]
            )
        elif part:
            torn.append(part)
    return Executions(tuple(lines), tuple(torn))


class Tail:
    """Reads a log as it grows, each line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = ""

    def read(self) -> tuple[Line, ...]:
        """The whole lines that have come since the last call. Torn ones are left to `read`."""
        if not self._path.exists():
            return ()
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        # The last part may be in the middle of its writing: it is looked at again with what follows.
        whole, feed, last = (self._rest + data.decode(errors="replace")).rpartition("\n")
        if last.endswith(MARK):
            whole, feed, last = whole + feed + last, "", ""
        self._rest = feed + last
        return parse(whole).lines


@functools.cache
def worker_of(pid: int) -> str:
    """The pid of the worker above a child: the parent of the fork server that forked it."""
    return str(_parent_of(_parent_of(pid)))


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it has died since, and so will we
