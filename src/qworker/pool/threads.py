"""The slots of a thread child: M threads that run orders, a main thread that hears the worker, and a pulse.

    main thread: stream, tokens while a slot is idle ──► idle slot
    slot thread: takes its next order itself ──► run ──► outcome ──► next, or idle
    pulse thread: a store every 50 ms, while anything runs: the worker sees by it that Python runs here

A slot whose attempt was told as a survivor never takes another order: the worker opens a fresh slot in its stead, and
its thread ends with the survivor's code.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from types import FunctionType
from typing import Any, Final

from . import frames, last_words
from .inbox import Inbox
from .page import Page
from .slots import Runner

_PULSE_S: Final = 0.05


class ThreadLoop:
    """All slots of one thread child."""

    def __init__(
        self, slots: int, inbox: Inbox, runner: Runner, send: Callable[..., None], page: Page, stream_fd: int
    ) -> None:
        self._inbox = inbox
        self._runner = runner
        self._send = send
        self._page = page
        self._lock = threading.Lock()  # guards inbox, idle, current
        self._idle: list[SimpleQueue[list[Any]]] = []
        self._current: dict[int, int] = {}  # number -> slot, of what runs and is no survivor
        self._running = 0  # survivors included
        self._went_idle = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._went_busy = threading.Event()
        self._stream_fd = stream_fd
        self._slots = slots

    def serve(self) -> None:
        """Run orders until the worker closes the stream, which ends the process."""
        threading.Thread(target=self._pulse, name="qworker-pulse", daemon=True).start()
        for slot in range(self._slots):
            self._open(slot)
        while True:
            with self._lock:
                watch_tokens = bool(self._idle) and self._inbox.may_start()
                waiting = bool(self._idle) and not watch_tokens
            poll = select.poll()
            poll.register(self._stream_fd, select.POLLIN)
            poll.register(self._went_idle, select.POLLIN)
            if watch_tokens:
                poll.register(self._inbox.token_fd, select.POLLIN)
            # While nothing may start, nobody rings when that ends: look every 20 ms.
            for fd, _ in poll.poll(20 if waiting else None):
                if fd == self._went_idle:
                    os.eventfd_read(fd)
                elif fd == self._stream_fd:
                    with self._lock:
                        # A slot that took a token may have read all of it since the poll: waiting here for more, with
                        # the lock held, would stop every slot.
                        self._inbox.read(wait=False)
                        self._move()
                else:
                    self._hand_out()

    def _open(self, slot: int) -> None:
        # A function of its own name: by that frame the flight recorder tells whose stack it got.
        target = FunctionType(_slot.__code__.replace(co_name=f"slot_{slot}"), globals())
        threading.Thread(target=target, args=(self, slot), name=f"qworker-slot-{slot}", daemon=True).start()

    def run_slot(self, slot: int) -> None:
        """Be the thread of a slot."""
        try:
            self._serve_slot(slot)
        except BaseException:
            # A fault of ours, or no memory left. A slot that is gone without a word would hold its order for ever:
            # a child that is gone does not.
            last_words.end()

    def _serve_slot(self, slot: int) -> None:
        given: SimpleQueue[list[Any]] = SimpleQueue()
        while True:
            order = self._next(slot, given)
            number = order[1]
            frame, cells = self._runner.run(order, slot, alone=False)
            with self._lock:
                self._running -= 1
                survived = self._current.pop(number, None) is None
            if survived:
                # What it came to is nobody's outcome any more; that it is gone is worth telling. Its slot is cleared
                # first: once that is told, it may be given to another attempt, whose number would go.
                cells.clear()
                self._send(frames.pack_frame(frames.GONE, number), through=True)
                return
            self._send(*frame, through=True)
            cells.clear()

    def _next(self, slot: int, given: SimpleQueue[list[Any]]) -> list[Any]:
        with self._lock:
            order = self._inbox.take()
            self._move()  # the body may have come with a word about another slot
            if order is not None:
                self._begin(order, slot)
                return order
            self._idle.append(given)
            if len(self._idle) == 1:
                os.eventfd_write(self._went_idle, 1)
        order = given.get()
        with self._lock:
            self._begin(order, slot)
        return order

    def _begin(self, order: list[Any], slot: int) -> None:
        self._current[order[1]] = slot
        self._running += 1
        # Before the number is in the page: nobody may take the silence of an idle child for a wedged one.
        self._page.beat()
        if not self._went_busy.is_set():
            self._went_busy.set()

    def _hand_out(self) -> None:
        with self._lock:
            while self._idle:
                order = self._inbox.take()
                if order is None:
                    break
                self._idle.pop().put(order)
            self._move()

    def _move(self) -> None:
        """Give the place of survivors to fresh slots. One that has just ended told its outcome: it is none."""
        while self._inbox.moves:
            number, fresh = self._inbox.moves.popleft()
            if self._current.pop(number, None) is not None and fresh is not None:
                self._open(fresh)

    def _pulse(self) -> None:
        while True:
            self._went_busy.wait()
            self._page.beat()
            with self._lock:
                if not self._running:
                    self._went_busy.clear()
                    continue
            time.sleep(_PULSE_S)


def _slot(loop: ThreadLoop, slot: int) -> None:
    loop.run_slot(slot)
