"""A child's way in: bodies from the stream, tokens from the pipe, joined into orders to run.

    stream ──► read() ──► bodies, in the order of their tokens ─┐
    token pipe ──► take() ──────────────────────────────────────┴──► the slot that took the token

A token is written after its body was handed to the kernel. So whoever holds a token finds the body in the stream or
already read; and every body before it whose token nobody here took was recalled, and is dropped.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from typing import Any

from .. import clock
from . import frames, tokens
from .page import START_UNTIL, Page


class Inbox:
    """The receiving side of one child. Not safe for threads: a child with several keeps a lock around it."""

    def __init__(self, stream: socket.socket, token_fd: int, page: Page) -> None:
        self.token_fd = token_fd
        self.moves: deque[tuple[int, int | None]] = deque()  # (survivor's number, fresh slot)
        self.flags: deque[int] = deque()  # numbers whose flag is raised; told to children with a loop only
        self.looks: deque[int] = deque()  # numbers of which the worker wants to know where they wait; likewise
        self._stream = stream
        self._page = page
        self._frames = frames.Frames()
        self._bodies: deque[list[Any]] = deque()

    def take(self) -> list[Any] | None:
        """Take the next order, if there is one and this child may start it."""
        if clock.now_ns() >= self._page.cells[START_UNTIL]:
            return None
        number = tokens.take(self.token_fd)
        if number is None:
            return None
        order = self._bodies.popleft() if self._bodies else None
        if order is None or order[1] != number:
            order = self._body(number)
        return order  # `Runner.open` looks once more, for it may wait for its turn

    def may_start(self) -> bool:
        """Has the instant after which nothing may start not come yet?"""
        return clock.now_ns() < self._page.start_until_ns

    def read(self, *, wait: bool = True) -> None:
        """Read what the stream has; ends this process when the worker has closed it. `wait`: until it has something."""
        try:
            data = self._stream.recv(256 * 1024, 0 if wait else socket.MSG_DONTWAIT)
        except OSError as error:
            if isinstance(error, BlockingIOError) or tokens.is_no_error(error):
                return
            raise
        if not data:
            os._exit(0)
        for frame in self._frames.feed(data):
            if frame[0] == frames.ORDER:
                self._bodies.append(frame)
            elif frame[0] == frames.MOVE:
                self.moves.append((frame[1], frame[2]))
            elif frame[0] == frames.FLAG:
                self.flags.append(frame[1])
            else:
                self.looks.append(frame[1])

    def wait(self, poll: select.poll) -> None:
        """Wait until something came. `poll` watches the stream; tokens are watched while they may be taken."""
        if self.may_start():
            poll.register(self.token_fd, select.POLLIN)
            ready = poll.poll()
            poll.unregister(self.token_fd)
        else:
            ready = poll.poll(20)  # nobody rings when the worker lets us start again: look
        if any(fd == self._stream.fileno() for fd, _ in ready):
            self.read()

    def _body(self, number: int) -> list[Any]:
        while True:
            while self._bodies:
                order = self._bodies.popleft()
                if order[1] == number:
                    return order
            self.read()
