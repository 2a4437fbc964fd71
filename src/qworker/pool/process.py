"""One child's process: what its Host knows of it, and the signals that are sent to it.

    Host ── Process(order, fds) ──► fork server        Kid, Recorder ── kill, interrupt, signal_thread ──► pidfd

A child is signalled through its pidfd, which never names another process. Owned by the worker's event loop.
"""

from __future__ import annotations

import os
import signal
from typing import Protocol

import msgpack

from . import linux, orders
from .orders import Plan


class Parent(Protocol):
    """Who asked for a child hears of it."""

    def born(self, pid: int) -> None:
        """The process exists; it says READY itself."""

    def ended(self, detail: str, *, host_died: bool) -> None:
        """The process, and what its tasks left behind, is gone. `detail`: "signal 9", "exit status 1"."""


class Process:
    """One child, as the Host knows it."""

    def __init__(self, id_: int, parent: Parent, plan: Plan, fds: tuple[int, ...]) -> None:
        self.id = id_
        self.parent = parent
        self.fds = fds  # its ends, until they are sent
        self.order = msgpack.packb([orders.CHILD, id_, plan.slots, plan.cells, plan.threads, plan.title, plan.loop])
        self.server = 0  # which fork server it was ordered from; 0: none yet
        self.pid = 0
        self.pidfd: int | None = None
        self.kill_asked = False
        self.gone = False  # the process has died; what it left may not be swept yet
        self.ended = False

    def close_fds(self) -> None:
        """Close this process's copies of the child's ends."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()

    def kill(self) -> None:
        """KILL it, if it is born. Call `Host.kill`, which also remembers it for one that is not."""
        self._signal(signal.SIGKILL)

    def dump(self) -> bool:
        """Have its first thread write the stacks of all, whatever it is doing. False: nothing was sent."""
        return self.signal_thread(self.pid, signal.SIGUSR2)

    def is_dumping(self) -> bool:
        """Is a dump still to be written, or being written?"""
        return linux.is_handling(self.pid, signal.SIGUSR2)

    def interrupt(self) -> None:
        """With one slot: have it raise TaskInterrupt in what it runs, if the page says that it was asked to end."""
        self._signal(linux.INTERRUPT_SIGNAL)

    def signal_thread(self, thread: int, number: int) -> bool:
        """Signal one thread (its native id), if the child has a handler for that signal. False: nothing was sent."""
        if self.pidfd is None or self.gone:
            return False
        return linux.signal_thread(self.pidfd, self.pid, thread, number)

    def _signal(self, number: int) -> None:
        if self.pidfd is not None:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass  # it is dead already; its end is on the way
