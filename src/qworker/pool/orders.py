"""What a worker and its fork server say to each other, in messages of one socket.

    worker ── [IMPORT, …] [CHILD, id, plan] + descriptors ──► fork server
    worker ◄─ [FACTS, …]  [BORN, id, pid] + pidfd  [EXIT, id, status] ── fork server

Both ends import this, and nothing of each other: a worker has no use for what runs in children.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# worker → fork server
IMPORT: Final = 0  # [IMPORT, targets, cwd, allow]
CHILD: Final = 1  # [CHILD, id, slots, cells, threads, title, loop] + Ends
WARM: Final = 2  # [WARM]: import what tasks need that submit others, for the children to come
# fork server → worker
FACTS: Final = 0  # [FACTS, url, namespace, spawn, warning, needs]
FAILED: Final = 1  # [FAILED, text]
BORN: Final = 2  # [BORN, id, pid] + pidfd
EXIT: Final = 3  # [EXIT, id, status]: exit status ≥ 0, minus the signal, or a text; told after the sweep
NAMES: Final = 4  # [NAMES, names, async names]: some of the tasks, before FACTS: a message has to fit the socket

MESSAGE_MAX: Final = 128 * 1024

Ends = tuple[int, int, int, int, int, int]  # a child's descriptors: stream, token, page, stack and dump pipe, out


@dataclass(frozen=True, slots=True)
class Plan:
    """What a child is to be, as the worker orders it."""

    slots: int
    cells: int  # slots of its page: some more, for those that replace survivors' slots
    threads: bool  # slots share the process; else the one slot is the main thread
    title: str
    loop: bool = False  # and they are coroutines on one event loop, not threads
