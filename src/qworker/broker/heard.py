"""What a client has heard: pushes are taken apart, and futures told, in whichever thread has read them.

    push ─► take ─┬─ an outcome ───────────► settle ─► futures      `told_later`, where Ctrl-C may come between
                  ├─ the id of a large one ─► large ──┐
                  ├─ progress ─► futures              ├─► asked for by the I/O thread
                  └─ cannot be read ───────► missed ──┘

Nothing here decodes values or runs callbacks. A future is awaited until it has been told: whatever ends that in the
middle, the next answer about its task tells it again.
"""

from __future__ import annotations

import logging
from collections import deque

from .. import codec, uninterrupted
from ..errors import DecodeError
from ..model import Outcome
from .registry import Registry

_log = logging.getLogger("qworker.client")


class Heard:
    """What is told to the futures of one client, and what of it is still to do for the I/O thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.large: set[str] = set()  # ids whose outcomes are too large for a push
        self.missed = False  # a push was lost, or a connection on which there may have been some: ask about everything
        self._later: deque[Outcome] = deque()

    @property
    def waits(self) -> bool:
        """Whether there is something for the I/O thread to do."""
        return bool(self.large or self.missed or self._later)

    def take(self, message: bytes) -> None:
        """Take a push, in any thread."""
        try:
            entries = codec.read_pushed(message)
        except DecodeError as error:
            _log.warning("a push that cannot be read was dropped, and what it told of is asked for: %s", error)
            self.missed = True
            return
        alone = uninterrupted.may_be_interrupted()
        for entry in entries:
            if isinstance(entry, str):
                self.large.add(entry)
            elif isinstance(entry, Outcome):
                self.settle(entry.id, entry, alone=alone)
            elif entry.progress is not None:
                for future in self._registry.futures(entry.id):
                    future.tell(entry.progress)

    def settle(self, id: str, outcome: Outcome, *, alone: bool = False) -> None:  # noqa: A002 - the public word
        """Tell the futures of an id what came of its task. `alone`: in the main thread, which leaves some to others."""
        entries = self._registry.entries(id)
        for entry in entries:
            future = entry()
            if future is None:
                continue
            if not alone:
                future.settle(outcome)
            elif not future.settle_alone(outcome):
                self._later.append(outcome)
                return
        self._registry.leave(id, entries)

    def settle_later(self) -> None:
        """In the I/O thread: tell what the main thread had better not."""
        while self._later:
            outcome = self._later.popleft()
            self.settle(outcome.id, outcome)

    def learn(self, outcome: Outcome) -> None:
        """Tell the futures of a task what the caller has asked for, in his thread, and return when they are told."""
        entries = self._registry.entries(outcome.id)
        for entry in entries:
            if (future := entry()) is not None:
                future.learn(outcome)
        self._registry.leave(outcome.id, entries)
