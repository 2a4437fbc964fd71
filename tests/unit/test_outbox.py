"""A child's way out: a frame is told whole or its child ends, and an outcome is told before its slot is let go."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import threading
from collections.abc import Callable

import pytest

from qworker.pool import frames
from qworker.pool.outbox import Outbox
from support.interrupts import raises_at

OUTCOME = frames.pack_outcome(7, (frames.RETURNED, b"an outcome", 0.1, True, None))
LINE = frames.pack_frame(frames.OUTPUT, 7, "stdout", "a line", None)
LONG_LINE = frames.pack_frame(frames.OUTPUT, 7, "stdout", "x" * select.PIPE_BUF, None)
NEXT = frames.pack_frame(frames.GONE, 8)


class HandlerError(Exception):
    """What a signal's handler of user code raises."""


def told_by_a_child(sends: Callable[[Outbox], None]) -> tuple[bytes, int]:
    """Have a process send, and return what came of it and its exit status."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            sends(Outbox(write))
        finally:
            os._exit(3)  # it went on
    os.close(write)
    told = b""
    while data := os.read(read, 65_536):
        told += data
    os.close(read)
    return told, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("frame", [OUTCOME, (LONG_LINE,)], ids=["an outcome", "more than a pipe takes at once"])
def test_nothing_is_sent_after_a_frame_that_may_be_torn(frame: tuple[bytes, ...]) -> None:
    def sends(outbox: Outbox) -> None:
        def half(fd: int, data: bytes) -> int:
            os.write(fd, data[:5])
            raise HandlerError

        outbox._write = half
        try:
            outbox.send(*frame)
        finally:
            outbox._write = os.write
            outbox.send(NEXT)

    told, status = told_by_a_child(sends)

    assert told == frame[0][:5]
    assert status == 70


@pytest.mark.parametrize("error", [HandlerError(), TimeoutError(), OSError("no device")], ids=repr)
def test_the_error_of_a_handler_that_costs_a_line_is_its_callers_and_no_reason_to_end(error: Exception) -> None:
    def sends(outbox: Outbox) -> None:
        def raising(fd: int, data: bytes) -> int:
            raise error

        outbox._write = raising
        with pytest.raises(type(error)):
            outbox.send(LINE)
        outbox._write = os.write
        outbox.send(NEXT)

    assert told_by_a_child(sends) == (NEXT, 3)


def test_a_torn_frame_ends_the_child_also_where_it_cannot_tell_why() -> None:
    def sends(outbox: Outbox) -> None:
        def half(fd: int, data: bytes) -> int:
            os.write(fd, data[:5])
            raise HandlerError

        sys.__stderr__ = FullDisk()  # type: ignore[misc,assignment]
        outbox._write = half
        try:
            outbox.send(*OUTCOME)
        finally:
            outbox._write = os.write
            outbox.send(NEXT)

    assert told_by_a_child(sends) == (OUTCOME[0][:5], 70)


class FullDisk(io.StringIO):
    """A log that takes nothing any more."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_handler_that_raises_at_any_moment_leaves_no_lock_behind() -> None:
    read, write = os.pipe()
    outbox = Outbox(write)
    codes = {Outbox.send.__code__}
    at = 1
    while raises_at(lambda: outbox.send(LINE), codes, at, HandlerError):
        assert not outbox._lock._is_owned(), at  # type: ignore[attr-defined]
        at += 1

    outbox.send(*OUTCOME, through=True)
    assert os.read(read, 1 << 20).endswith(OUTCOME[0])
    assert at > 5
    os.close(read)
    os.close(write)


def test_an_outcome_that_another_thread_sends_is_in_the_pipe_before_its_sender_goes_on() -> None:
    read, write = os.pipe()
    outbox = Outbox(write)
    is_writing, may_write, returned = (threading.Event() for _ in range(3))

    def slowly(fd: int, data: bytes) -> int:
        is_writing.set()
        may_write.wait(10)
        return os.write(fd, data)

    def second() -> None:
        is_writing.wait(10)
        outbox.send(*OUTCOME, through=True)
        returned.set()

    outbox._write = slowly
    threads = [threading.Thread(target=outbox.send, args=(LINE,)), threading.Thread(target=second)]
    for thread in threads:
        thread.start()

    assert not returned.wait(0.1)
    may_write.set()
    for thread in threads:
        thread.join(10)
    assert returned.is_set()
    assert os.read(read, 65_536) == LINE + OUTCOME[0]
    os.close(read)
    os.close(write)
