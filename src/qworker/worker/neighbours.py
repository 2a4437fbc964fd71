"""Watch the workers of this host: when one dies, its tasks are rescued at once, not after its lease.

A worker's record says which process it is: boot id, pid namespace, pid and the process's start time. Where all agree
with what is seen here, a pidfd tells of its death without polling; where the pid is gone or belongs to a younger
process, it has died already. Whatever cannot be seen for sure, and the workers of other hosts, are left to their
leases: what a living worker holds must never be rescued.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from pathlib import Path
from typing import NamedTuple

from ..broker.aio import AsyncBroker
from ..views import WorkerRecord
from .rescued import named
from .state import UNANSWERED, State


def boot_id() -> str:
    """Return what names this boot of this machine; empty where the system does not say."""
    return _read(Path("/proc/sys/kernel/random/boot_id"))


def pid_ns() -> str:
    """Return what names this pid namespace; empty where the system does not say."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def start_time(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot, or None if there is no such process.

    Field 22 of /proc/<pid>/stat (proc_pid_stat(5)); the command name before it may hold spaces and parentheses.
    """
    stat = _read(Path(f"/proc/{pid}/stat"))
    if not stat:
        return None
    fields = stat.rpartition(")")[2].split()
    # A zombie has ended: it only waits for its parent to read its status.
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()  # any process may have any bytes as its name
    except OSError:
        return ""


class Identity(NamedTuple):
    """Which process on which machine a worker is, as its record says."""

    host: str
    pid: int
    boot_id: str  # empty, as the next: the system does not say
    pid_ns: str
    start_time: int  # 0: the system does not say


def identity() -> Identity:
    """Return which process this one is."""
    pid = os.getpid()
    return Identity(socket.gethostname(), pid, boot_id(), pid_ns(), start_time(pid) or 0)


MOST_PID = 2**31 - 1  # the kernel's type for them holds no more
FIRST_S = 1.0  # for the look before the first claim
MOST_ELSEWHERE = 10_000  # workers come and go for months
MOST_WATCHED = 500  # each costs a descriptor, and anybody may write records


class Neighbours:
    """Watches the other workers of this host. Owned by the event loop."""

    def __init__(self, state: State, broker: AsyncBroker, me: Identity | None = None) -> None:
        self._state, self._broker = state, broker
        self._watched: dict[str, int] = {}  # worker id -> pidfd
        self._elsewhere: set[str] = set()  # workers that are not of this host
        self._rescues: set[asyncio.Task[None]] = set()
        self.me = me or identity()

    async def look(self) -> None:
        """Find workers of this host that are new or have died."""
        for record in await self._find_dead():
            self._died(record)

    async def rescue_first(self) -> None:
        """Put back what workers that died before this one started have left: its first claim then takes that first.

        Bounded: a server that does not answer must not keep the worker from starting.
        """
        try:
            async with asyncio.timeout(FIRST_S):
                for record in await self._find_dead():
                    await self._rescue(record)
        except TimeoutError:
            pass  # the next look finds them again

    async def _find_dead(self) -> list[WorkerRecord]:
        if len(self._elsewhere) > MOST_ELSEWHERE:
            self._elsewhere.clear()
        try:
            # What is known already is not asked for again: of fifty workers each would else read all others'.
            records = await self._broker.workers(but={self._state.id, *self._watched, *self._elsewhere})
        except UNANSWERED:
            return []  # looked again later
        self._elsewhere.update(record.id for record in records if not self._is_here(record))
        here = [record for record in records if record.id not in self._elsewhere]
        return [record for record in here if not self._watch(record)]

    def close(self) -> None:
        """Stop watching."""
        for rescue in self._rescues:
            rescue.cancel()
        loop = asyncio.get_running_loop()
        for fd in self._watched.values():
            loop.remove_reader(fd)
            os.close(fd)
        self._watched.clear()

    def _is_here(self, record: WorkerRecord) -> bool:
        # Where the system does not name its boot or its namespace, a pid says nothing. Nor does one that no process can
        # have: whoever may write to the server can write records.
        here = self.me.boot_id, self.me.pid_ns
        return all(here) and (record.boot_id, record.pid_ns) == here and 0 < record.pid <= MOST_PID

    def _watch(self, record: WorkerRecord) -> bool:
        """Watch a process for its end; False if it is certain that it has ended."""
        if record.id in self._watched or record.id == self._state.id:
            return True  # another one's record in its name: whether that process lives says nothing of this worker
        try:
            fd = os.pidfd_open(record.pid)
        except ProcessLookupError:
            return False
        except (OSError, AttributeError):
            return True  # no descriptor left, or no pidfds here: nothing is known
        # Read after the pidfd was opened, so that both are of the same process. None: it is hidden from this user
        # (hidepid), or a zombie, whose pidfd tells at once.
        started = start_time(record.pid)
        other = started is not None and record.start_time and started != record.start_time
        if other or _is_readable(fd):  # it has ended, and only waits to be reaped
            os.close(fd)
            return False
        if len(self._watched) >= MOST_WATCHED:
            os.close(fd)
            return True  # left to its lease; looked at again the next time
        self._watched[record.id] = fd
        asyncio.get_running_loop().add_reader(fd, self._on_exit, record)
        return True

    def _on_exit(self, record: WorkerRecord) -> None:
        fd = self._watched.pop(record.id)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        self._died(record)

    def _died(self, record: WorkerRecord) -> None:
        rescue = self._state.spawn(self._rescue(record))
        self._rescues.add(rescue)
        rescue.add_done_callback(self._rescues.discard)

    async def _rescue(self, record: WorkerRecord) -> None:
        """Put back what a dead worker held. Several neighbours may try: the first finds it, the others find nothing."""
        try:
            count, names = 0, []
            for queue in record.queues:
                found = await self._broker.rescue_worker(queue, record.id)
                count += found.tasks
                names += [(claim, f"{queue}:{local}") for claim, local in found.names]
            await self._broker.retire(record.id)
        except UNANSWERED:
            return  # its record stays, so the next look finds it again; at the latest its lease lapses
        if count:
            self._state.emit("worker.died", level="warning", worker=record.id, rescued=count, **named(names, count),
                             note="a worker of this host is gone; its tasks run again")  # fmt: skip
            self._state.counters["rescued"] += count
            self._state.wake.set()


def _is_readable(fd: int) -> bool:
    poll = select.poll()  # select itself takes no number beyond 1,023, and a worker with many children has such
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
