"""What a future was told of its task's progress, and who wants to hear of it.

    inbox, or a question ─► Future.tell ─► Reports ─► progress callbacks, on the callbacks' thread

Made for a future when the first progress comes or somebody asks to be told: most futures have none. The newest progress
is what counts: callbacks that are slower than it comes miss what is between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from . import callbacks
from .model import Progress

__all__ = ["Reports"]

_log = logging.getLogger("qworker.client")


class Reports:
    """The progress of one future. `tell` is called by the I/O thread, `run_callbacks` by the callbacks' thread."""

    def __init__(self) -> None:
        self.last: Progress | None = None
        self._called: Progress | None = None  # with which the callbacks were called last
        self._callbacks: list[Callable[[Progress], object]] = []

    def tell(self, progress: Progress) -> None:
        """Take the newest progress."""
        self.last = progress
        if self._callbacks and progress != self._called:
            callbacks.run(self)

    def add(self, fn: Callable[[Progress], object]) -> None:
        """Have `fn` called with each progress that comes from now on."""
        self._callbacks.append(fn)

    def run_callbacks(self) -> None:
        """Call the callbacks, unless they know this progress."""
        progress = self.last
        if progress is None or progress == self._called:
            return
        self._called = progress
        for fn in list(self._callbacks):
            try:
                fn(progress)
            except Exception:
                _log.exception("a progress callback raised; the others are called all the same")
