"""A slot of paper: what a task's `current` sees of its child, without any child.

with occupied(FakeSlot()) as slot:      # this thread is a task from here on
    slot.event.set()                    # … and is asked to end
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from qworker import context
from qworker.context import Run


class FakeSlot(context.Nowhere):
    """Asked to end, for the reason "stop", once its event is set; notes the shields that it is told of."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.told: list[float] = []

    def asked(self) -> bool:
        return self.event.is_set()

    def reason(self) -> str:
        return "stop"

    def wait_asked(self, timeout_s: float) -> bool:
        return self.event.wait(timeout_s)

    def shield(self, until: float) -> None:
        self.told.append(until)


@contextmanager
def occupied(slot: FakeSlot) -> Iterator[FakeSlot]:
    """Make this thread the task of a slot, as a child does; afterwards it is outside of any child again."""
    token = context.enter(Run("q:1", "t", 1, 1, 1, 0, slot))
    try:
        yield slot
    finally:
        context.leave(token)
        context._in_child = False
