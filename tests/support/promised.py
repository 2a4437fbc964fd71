"""What the tests of the promises share: the hostile app bound to a server, and its execution log taken apart.

with bound(server.url) as tasks: tasks.nap.submit(0.1)
for run in runs(execution_log): run.id, run.start, run.end
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

PROMISES = "support.apps.promises:app"


@contextmanager
def bound(url: str, name: str = "support.apps.promises") -> Iterator[ModuleType]:
    """Import the hostile app (or another one) afresh, as a producer of this server."""
    before = os.environ.get("QWORKER_URL")
    os.environ["QWORKER_URL"] = url
    sys.modules.pop(name, None)
    try:
        module = importlib.import_module(name)
        try:
            yield module
        finally:
            module.app.close()
    finally:
        if before is None:
            del os.environ["QWORKER_URL"]
        else:
            os.environ["QWORKER_URL"] = before


@dataclass
class Run:
    """One start of a task, by its own account. Instants are of the monotonic clock, which processes share."""

    id: str
    attempt: int
    pid: int
    start: float
    end: float | None = None
    asked: float | None = None
    doubt: float | None = None
    certain: float | None = None


def runs(log: Path) -> list[Run]:
    """Every start, in the order of the starts."""
    found: list[Run] = []
    open_runs: dict[tuple[str, str, str], Run] = {}
    for line in log.read_text().splitlines():
        event, task, attempt, pid, when = line.split(" ")
        if event == "start":
            run = open_runs[task, attempt, pid] = Run(task, int(attempt), int(pid), float(when))
            found.append(run)
        else:
            setattr(open_runs[task, attempt, pid], event, float(when))
    return found


def starts(log: Path) -> dict[str, int]:
    """How often each task started."""
    counts: dict[str, int] = {}
    for run in runs(log):
        counts[run.id] = counts.get(run.id, 0) + 1
    return counts
