"""Virtual time: instants that only pass when nothing is left to do in the present one.

    universe.at(when, call, …) ─► heap ─► run(): the earliest event, and the clock jumps to it
    Node(universe, "w1")       ─► an asyncio loop of its own, as a process has: it can be frozen, thawed, and killed

`with universe:` makes `time.monotonic`, `time.time`, `qworker.clock`, `os.urandom` and the `random` module those of
the universe, so that the product's own code runs in it as it stands. One universe at a time; nothing in it waits for
anything real.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import random
import time
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from qworker import clock

START_S = 1_000.0  # monotonic
WALL_S = 1_700_000_000.0  # what the time of day is then
LIVELOCK = 200_000  # steps within one instant: nobody means to do so much at once


class Event:
    """Something that happens at an instant, unless it is cancelled before."""

    __slots__ = ("args", "at", "call")

    def __init__(self, at: float, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.at, self.args = at, args
        self.call: Callable[..., object] | None = call

    def cancel(self) -> None:
        self.call = None


class Universe:
    """One virtual clock and everything that is to happen. Its randomness comes from one seed."""

    def __init__(self, seed: int) -> None:
        self.now = START_S
        self.draw = random.Random(seed)
        self.troubles: list[str] = []  # what no code of the product should do: exceptions that nobody took
        self._heap: list[tuple[float, int, Event]] = []
        self._order = itertools.count()
        self._real: tuple[Any, ...] = ()

    def __enter__(self) -> Universe:
        self._real = (
            time.monotonic, time.monotonic_ns, time.time, clock.now, clock.now_ns, os.urandom, random.getstate()
        )  # fmt: skip
        time.monotonic = clock.now = lambda: self.now
        time.monotonic_ns = clock.now_ns = lambda: int(self.now * 1e9)
        time.time = lambda: WALL_S + self.now
        os.urandom = self.draw.randbytes
        random.seed(self.draw.random())
        return self

    def __exit__(self, *_: object) -> None:
        time.monotonic, time.monotonic_ns, time.time, clock.now, clock.now_ns, os.urandom, state = self._real
        random.setstate(state)

    def at(self, when: float, call: Callable[..., object], *args: Any) -> Event:
        """Have something happen at an instant, or now, if that has passed."""
        if when < self.now:
            when = self.now
        event = Event(when, call, args)
        heapq.heappush(self._heap, (when, next(self._order), event))
        return event

    def after(self, delay_s: float, call: Callable[..., object], *args: Any) -> Event:
        return self.at(self.now + delay_s, call, *args)

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass until an instant, or until `done`, which is asked whenever time is about to pass."""
        steps = 0
        heap, pop = self._heap, heapq.heappop
        while heap:
            at, _, event = heap[0]
            if at > self.now:
                if done():
                    return True
                if at > until:
                    break
                self.now, steps = at, 0
            pop(heap)
            if event.call is not None:
                steps += 1
                if steps > LIVELOCK:
                    raise AssertionError(f"nothing but the present: {event.call}")
                event.call(*event.args)
        self.now = max(self.now, until)
        return done()


class _Task(asyncio.Task[Any]):
    """A task whose hash is its number, so that a set of tasks has the same order in each life of a seed."""

    _numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number

    __eq__ = object.__eq__


class Node(asyncio.AbstractEventLoop):
    """The event loop of one process. Frozen, it takes notice of what happens, and does nothing; dead, not even that."""

    def __init__(self, universe: Universe, name: str) -> None:
        self.universe, self.name = universe, name
        self.frozen = self.dead = False
        self.signals: dict[int, Callable[[], object]] = {}
        self._ready: deque[asyncio.Handle] = deque()
        self._due = False

    def __repr__(self) -> str:
        return f"<Node {self.name}>"

    def start(self, main: Coroutine[Any, Any, Any], done: Callable[[asyncio.Task[Any]], object]) -> asyncio.Task[Any]:
        """Run a process's main coroutine."""
        task = self.create_task(main, name=f"main of {self.name}")
        task.add_done_callback(done)
        return task

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        self._wake()

    def kill(self) -> None:
        """End it as kill -9 does: nothing of it runs any more, no `finally` either."""
        self.dead = True
        self._ready.clear()

    def signal(self, number: int) -> None:
        """Deliver a signal, to be handled when the process runs."""
        if number in self.signals:
            self.call_soon(self.signals[number])

    def enter(self, call: Callable[[], Any]) -> Any:
        """Call something as code of this process."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            return call()
        finally:
            events._set_running_loop(before)

    def _wake(self) -> None:
        if not self._due and not self.frozen and self._ready:
            self._due = True
            self.universe.at(self.universe.now, self._turn)

    def _turn(self) -> None:
        self._due = False
        events._set_running_loop(self)
        try:
            ready = self._ready
            while ready and not self.frozen and not self.dead:
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
        finally:
            events._set_running_loop(None)

    def _timer(self, handle: asyncio.TimerHandle) -> None:
        if not handle._cancelled and not self.dead:
            self._ready.append(handle)
            self._wake()

    # ── what asyncio asks of a loop ──────────────────────────────────────────────────────────────────────────────

    def time(self) -> float:
        return self.universe.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.dead:
            self._ready.append(handle)
            self._wake()
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_at(self.universe.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.universe.at(when, self._timer, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # it is passed over when its time has come

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        return _Task(coro, loop=self, name=name, context=context)

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        self.signals[sig] = lambda: callback(*args)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.universe.troubles.append(f"{self.name}: {context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
