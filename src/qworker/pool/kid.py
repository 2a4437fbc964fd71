"""One child as the worker sees it: its stream, its tokens, its page, and the orders that are in it.

    give(entries) ──► body frames ──► stream, then ──► tokens            take_back() ◄── tokens
    read() ◄── frames ◄── stream                                          seen() ◄── page

Owned by its pool. Nothing here decides anything; nothing here blocks: what the stream does not take now waits in
`_unsent`, and a token is written only when the whole body before it has been taken by the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Any, Final

from .. import clock
from ..model import Order, Reason
from . import frames, tokens
from .dumps import Dump
from .host import Host
from .ladder import NEVER
from .orders import Plan
from .page import Page
from .process import Process
from .stack_pipe import Stacks

# Room in the kernel for a few milliseconds of bodies; where the limit is lower, the kernel takes what it allows.
_SEND_BUFFER: Final = 1024 * 1024
# More orders than this are never in one child: their tokens always fit the pipe.
ORDERS_MAX: Final = 512
# A child with more orders than this says much: it is read once in a while, so that it need not wake the worker, which
# would take its processor, at each of the outcomes that come together. What it says meanwhile is safe in the pipe.
_CROWD: Final = 8
_PAUSE_S: Final = 0.001
_MUCH: Final = 4096  # bytes; behind so many there may be more than the pipe holds


class Role(Enum):
    """What a child is for, now."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"  # takes nothing new; another one has its place
    DYING = "dying"  # was killed or told to end


class Entry:
    """An order in the pool. What is the same for all at first is the class's: of most it never changes."""

    kid: Kid | None = None
    seen = False  # in a slot, by a scan
    began = 0.0  # when its code started, as a scan read it; 0: not read yet
    quiet_until = 0.0  # unless it is asked to end, nothing is due before this
    lent = False  # it runs in the place of a task that waits: in no place of the pool
    permit_wanted = False  # of one that starts on permit: the worker has been asked
    permitted = False  # and has said yes

    def __init__(self, order: Order, expected_s: float, now: float) -> None:
        self.order = order
        self.expected_s = expected_s
        self.put_at = self.given_at = now  # given: to the child that it is in, or was in last

    @property
    def deadline(self) -> float:
        """The instant (monotonic) after which nothing starts it, if its host stays awake; NEVER: there is none."""
        order = self.order
        if order.deadline_s is None:
            return NEVER
        return time.monotonic() + (order.handed + order.deadline_s - clock.now())

    @property
    def forbidden(self) -> bool:
        """Must it not start yet?"""
        return self.order.on_permit and not self.permitted

    def overdue(self, now: float) -> bool:
        """Has its deadline passed?"""
        return now >= self.deadline


class Kid:
    """A child process and everything that the worker holds of it."""

    def __init__(self, plan: Plan, start_until_ns: int) -> None:
        self.plan = plan
        self.role = Role.STARTING
        self.ready = False
        self.ready_at = 0.0
        self.pid = 0
        self.process: Process | None = None
        self.page = Page.create(plan.cells, start_until_ns)
        self.entries: dict[int, Entry] = {}
        self.given = 0  # orders, in all its life
        self.expected_s = 0.0  # of all its entries
        self.alone = False  # it has a suspect, and takes nobody else
        self.extra = False  # made for one suspect or for lent orders, beside the places of the pool
        self.lent = False  # made for lent orders
        self.idle_since = 0.0  # of a lent one: when its last order ended
        self.killed = False
        self.after: Kid | None = None  # its predecessor, which may still be dying
        self.progressed_at = 0.0  # when an order last went in or an outcome came out
        self.stalled = False  # behind what runs now nothing may wait
        self.condemned: set[int] = set()  # the attempts for which it is killed
        self.quarantined: dict[int, tuple[int, int | None]] = {}  # survivor's number -> its slot, the fresh one
        self.wedged = False  # its Python does not run, though tasks do
        self.fault = ""  # why it is to be ended as if it had crashed
        self.recycle_at: float | None = None  # what still runs then is asked to end
        self.slots_used = set(range(plan.slots))  # slots whose threads take orders
        self.silent_since: float | None = None  # when its pulse was first seen to be old
        self.missing: dict[int, float] = {}  # the orders that are nowhere in it -> when that was seen first
        self.stacks = Stacks(self.page)
        self.dump = Dump()
        self._stream, self._theirs = socket.socketpair()
        self._stream.setblocking(False)
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._out, self._theirs_out = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._out, False)
        self._token_read, self._token_write = tokens.open_pipe()
        self._frames = frames.Frames()
        self._unsent: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._on_readable: Callable[[Kid], None]
        self._writing = False
        self._closed = False

    def start(self, host: Host, parent: Any) -> None:
        """Have the process made, and listen to it. `parent` hears of its birth and end (process.Parent)."""
        shared = (os.dup(self._token_read), os.dup(self.page.fd))
        out, self._theirs_out = self._theirs_out, -1
        ends = (self._theirs.detach(), *shared, self.stacks.detach(), self.dump.detach(), out)
        self.process = self.stacks.process = self.dump.process = host.launch(self.plan, ends, parent)

    def listen(self, on_readable: Callable[[Kid], None]) -> None:
        """Call `on_readable(kid)` whenever it has said something."""
        self._on_readable = on_readable
        self._listen()

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._out, self._on_readable, self)

    @property
    def idle(self) -> bool:
        """Has it nothing to run?"""
        return not self.entries

    def fill(self, line: deque[Entry], most: int, ahead_s: float, now: float) -> int:
        """Give it up to `most` orders from the front of `line`; returns how many.

        One for each slot always; beyond that, while the next is expected to find a slot within `ahead_s`: its slots
        share what waits, so of hundreds one is free soon, however long their tasks are.
        """
        count = len(self.entries)
        expected_s = self.expected_s
        slots = self.plan.slots
        batch: list[Entry] = []
        while line and len(batch) < most:
            # Before it go `count + 1 - slots` ends of tasks that take `expected_s / count` each, in `slots` slots.
            soon = (count + 1 - slots) * expected_s < ahead_s * slots * count
            if count >= slots and (self.stalled or count >= ORDERS_MAX or not soon):
                break
            entry = line.popleft()
            batch.append(entry)
            count += 1
            expected_s += entry.expected_s
        if batch:
            self.give(batch, now)
        return len(batch)

    def give(self, entries: Sequence[Entry], now: float) -> None:
        """Send orders."""
        numbers = []
        bodies = []
        inside, pack = self.entries, frames.pack_order
        for entry in entries:
            entry.kid = self
            entry.given_at = now
            self.expected_s += entry.expected_s
            order = entry.order
            number = order[0]
            inside[number] = entry
            numbers.append(number)
            if len(order.blob) < frames.APART:
                bodies.append(pack(order))
                continue
            head, blob, tail = frames.pack_large_order(order)
            self._unsent += ((memoryview(b"".join((*bodies, head))), ()), (memoryview(blob), ()))
            bodies = [tail]
        self.given += len(entries)
        self.progressed_at = now
        self._post(b"".join(bodies), numbers)

    def take_back(self) -> list[Entry]:
        """Take back every order that it has not taken: who reads the token owns the task. In the order given."""
        numbers = tokens.take_all(self._token_read)
        for _, unwritten in self._unsent:
            numbers.extend(unwritten)
        # The bodies stay on their way (one may be half sent); the child drops those whose tokens never come.
        self._unsent = deque((data, ()) for data, _ in self._unsent)
        taken = [self.remove(number) for number in numbers]
        return [entry for entry in taken if entry is not None]

    def remove(self, number: int) -> Entry | None:
        """An order is no longer in it."""
        entry = self.entries.pop(number, None)
        if entry is not None:
            entry.kid = None
            entry.seen = False
            self.expected_s = self.expected_s - entry.expected_s if self.entries else 0.0
        return entry

    def read(self) -> Iterator[list[Any]]:
        """Return the frames that are there now; to iterate over them raises BrokenStream at what no child writes."""
        data = frames.receive(self._out)
        if data and len(data) == frames.PIPE:
            return self._read_much(data)
        if data == b"":
            self._loop.remove_reader(self._out)  # its end comes by its pidfd
        elif data and len(data) < _MUCH and self.plan.slots > 1 and len(self.entries) > _CROWD:
            self._loop.remove_reader(self._out)
            self._loop.call_later(_PAUSE_S, self._listen)
        return map(frames.checked, self._frames.feed(data)) if data else iter(())

    def _read_much(self, data: bytes) -> Iterator[list[Any]]:
        """Yield the frames of a child that fills its pipe; it is made larger, so that they wait for each other less."""
        frames.enlarge(self._out)
        yield from map(frames.checked, self._frames.feed(data))
        for _ in range(1, frames.ENLARGED // frames.PIPE):
            more = frames.receive(self._out)
            if not more:
                break
            yield from map(frames.checked, self._frames.feed(more))

    def drain(self) -> Iterator[list[Any]]:
        """Yield every frame that its pipe holds."""
        while data := frames.receive(self._out):
            yield from map(frames.checked, self._frames.feed(data))

    def seen(self) -> Iterator[tuple[int, int, int]]:
        """Yield (slot, number, started_ns) of every slot that an attempt owns."""
        page = self.page
        numbers, starts = page.numbers(), page.starts()
        for slot, (number, started_ns, still) in enumerate(zip(numbers, starts, page.numbers(), strict=True)):
            if number != still:
                number, started_ns = page.seen(slot)  # it changed hands between the looks
            if number:
                yield slot, number, started_ns

    def oldest_unstarted_at(self, marked: int) -> float:
        """Return when the order was given that waits longest in it, while `marked` of its orders are in slots.

        Tokens are taken in the order given, so it is the first behind those.
        """
        waiting = islice(self.entries.values(), marked, None)
        return next((entry.given_at for entry in waiting), NEVER)

    def slot_of(self, number: int) -> int | None:
        """Return the slot that an attempt owns, now."""
        try:
            return self.page.numbers().index(number)
        except ValueError:
            return None

    def raise_flag(self, slot: int, number: int, reason: Reason) -> None:
        """Ask an attempt to end. One that wants to be interrupted gets its signal, once; the page says who is meant.

        A loop is told, likewise: it has better things to do than to look.
        """
        if not self.page.raise_flag(slot, number, reason):
            return
        if self.plan.loop:
            self._post(frames.pack_frame(frames.FLAG, number))
        entry = self.entries.get(number)
        if entry is not None and entry.order.interrupt and not self.plan.threads and self.process is not None:
            self.process.interrupt()

    def want_stack(self, slot: int, number: int) -> None:
        """Have an attempt tell where it waits, if it is a coroutine."""
        if self.plan.loop:
            self._post(frames.pack_frame(frames.LOOK, number))
        else:
            self.page.want_stack(slot, number)

    def quarantine(self, number: int, slot: int) -> None:
        """The attempt in `slot` is a survivor now. Unless the child drains, a fresh slot takes its place."""
        taken = self.slots_used | {old for old, _ in self.quarantined.values()}
        fresh = None
        if self.role is Role.SERVING:
            fresh = next((index for index in range(self.plan.cells) if index not in taken), None)
        self.quarantined[number] = (slot, fresh)
        self.slots_used.discard(slot)
        if fresh is not None:
            self.slots_used.add(fresh)
        self._post(frames.pack_frame(frames.MOVE, number, fresh))

    def survivor_gone(self, number: int, *, healthy: bool) -> bool:
        """Its code has ended; False when it is none of ours. `healthy`: it told an outcome, so its thread goes on.

        That is the outcome that crossed with our word: its child knows of no survivor and opened no fresh slot.
        """
        if number not in self.quarantined:
            return False
        slot, fresh = self.quarantined.pop(number)
        if healthy:
            self.slots_used.add(slot)
            if fresh is not None:
                self.slots_used.discard(fresh)
        return True

    def hang_up(self) -> None:
        """End the stream on our side: an idle child ends by that. What it still had to say can be read."""
        self._unsent.clear()
        self._stop_writing()
        with contextlib.suppress(OSError):  # it is dead already
            self._stream.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go of everything; the process is gone."""
        if self._closed:
            return
        self._closed = True
        self._stop_writing()
        self._loop.remove_reader(self._out)
        self._stream.close()
        self._theirs.close()
        os.close(self._out)
        if self._theirs_out >= 0:
            os.close(self._theirs_out)
        os.close(self._token_read)
        os.close(self._token_write)
        self.stacks.close()
        self.dump.close()
        self.page.close()
        # It names its parent, which names this: with its buffers a child would wait for the garbage collector.
        self.process = self.stacks.process = self.dump.process = None

    def _post(self, data: bytes, numbers: Sequence[int] = ()) -> None:
        self._unsent.append((memoryview(data), numbers))
        if not self._writing:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                data, numbers = self._unsent[0]
                if data:
                    sent = self._stream.send(data)
                    if sent < len(data):
                        self._unsent[0] = (data[sent:], numbers)
                        continue
                while numbers:
                    some, numbers = numbers[: tokens.PER_WRITE], numbers[tokens.PER_WRITE :]
                    tokens.give(self._token_write, some)
                self._unsent.popleft()
        except (BlockingIOError, InterruptedError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._stream, self._flush)
            return
        except OSError:
            pass  # it died, and its end is on the way: then what could not be sent is taken back
        self._stop_writing()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._stream)
