"""All stacks of one child at once, for the log: what USR2 asks for.

    USR2 ─► Pool.dump_stacks ─► Dump.ask ─► signal to the first thread
                                told(text) ◄── pipe ◄── faulthandler, of all threads

faulthandler writes word by word, so what several children wrote into one file would come mixed: each has a pipe of its
own, and its dump goes into the log as one event. A dump is whole when the thread that was signalled has left the
handler, which the kernel knows; nothing is guessed from a silence. A child that cannot be signalled yet (it is not
born, or has no handler) is asked again, and whatever has come within two seconds must do.

Owned by the pool, on the worker's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from typing import Final

from .process import Process

_LOOK_S: Final = 0.01
_ASK_AGAIN_S: Final = 0.1  # faulthandler writes nothing while another thread of the child is in its handler
_PATIENCE_S: Final = 2.0
_TEXT_MAX: Final = 1024 * 1024
# The pipe is that large while a dump is under way, where the kernel allows it: a dump that finds it full is cut short.
_PIPE_MAX: Final = 1024 * 1024


class Dump:
    """The pipe through which one child writes the stacks of all its threads, and the one dump that is under way."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self._read, self._theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._told: Callable[[str], None] | None = None
        self._text = bytearray()
        self._until = self._again_at = 0.0
        self._size = fcntl.fcntl(self._read, fcntl.F_GETPIPE_SZ)
        self._look_later: asyncio.TimerHandle | None = None

    def detach(self) -> int:
        """Return the child's end, which is the caller's from now on."""
        fd, self._theirs = self._theirs, -1
        return fd

    def ask(self, told: Callable[[str], None]) -> None:
        """Have it write its stacks, whatever it is doing, and tell them; "": it wrote nothing. One dump at a time."""
        if self._told is not None:
            return
        self._receive()  # somebody else's, who signalled the child directly
        self._text.clear()
        self._told = told
        self._until = time.monotonic() + _PATIENCE_S
        self._again_at = 0.0
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._read, fcntl.F_SETPIPE_SZ, _PIPE_MAX)
        asyncio.get_running_loop().add_reader(self._read, self._receive)
        self._look()

    def close(self) -> None:
        """The child is gone: what it has written is all."""
        if self._told is not None:
            self._end()
        if self._theirs >= 0:
            os.close(self._theirs)
        os.close(self._read)

    def _look(self) -> None:
        assert self.process is not None
        now = time.monotonic()
        whole = not self.process.is_dumping()
        self._receive()  # after that look: what was written before it is here now
        if now >= self._until or (whole and self._text):
            self._end()
            return
        if whole and now >= self._again_at and self.process.dump():
            self._again_at = now + _ASK_AGAIN_S
        self._look_later = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _end(self) -> None:
        assert self._told is not None
        self._receive()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._read)
        if self._look_later is not None:
            self._look_later.cancel()
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._read, fcntl.F_SETPIPE_SZ, self._size)
        told, self._told = self._told, None
        told(self._text.decode("utf-8", "backslashreplace"))

    def _receive(self) -> None:
        """Take what has come. What is too much is read too, or the child would not get on with it."""
        while True:
            try:
                data = os.read(self._read, _PIPE_MAX)
            except BlockingIOError:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self._read)
                return
            self._text += data[: max(0, _TEXT_MAX - len(self._text))]
