"""Ask about the progress of tasks that were submitted elsewhere: what their workers push goes to another client.

    Future.add_progress_callback ─► Client.follow ─► Following ──HMGET, once a second──► Future.tell

Owned by the client's I/O thread, but for `add`, which any thread may call. A task is followed for as long as the
registry knows a future of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from .. import codec, ids
from ..errors import DecodeError
from .broker import Broker
from .registry import Registry

EVERY_S = 1.0
MOST_PER_CALL = 256


class Following:
    """The ids whose progress is asked for."""

    def __init__(self, look: Broker, registry: Registry) -> None:
        self._look, self._registry = look, registry
        self._ids: set[str] = set()
        self._at = float("inf")  # when to ask next

    def add(self, id: str) -> None:  # noqa: A002 - the public word
        """Ask about this one from now on, at once for the first time."""
        self._ids.add(id)
        self._at = 0.0

    def next(self) -> float:
        """Return when something is to be asked; infinity for never."""
        return self._at

    def ask(self, now: float, ask_of: Callable[[str, Callable[[], object]], object]) -> None:
        """Ask about all of them, if it is time. `ask_of` asks of one queue."""
        if now < self._at:
            return
        self._at = float("inf")
        followed = list(self._ids)
        self._ids.difference_update(id_ for id_ in followed if not self._registry.futures(id_))
        if self._ids:
            self._at = now + EVERY_S
        for queue, locals_ in ids.by_queue(self._ids & set(followed)):
            for start in range(0, len(locals_), MOST_PER_CALL):
                ask_of(queue, partial(self._ask_some, queue, locals_[start : start + MOST_PER_CALL]))

    def _ask_some(self, queue: str, locals_: Sequence[str]) -> None:
        self._tell(self._look.progress(queue, locals_))

    def _tell(self, found: Iterable[bytes | None]) -> None:
        for packed in found:
            try:
                told = None if packed is None else codec.unpack_told(packed)
            except DecodeError:
                continue  # nobody of ours wrote it
            if told is not None and told.progress is not None:
                for future in self._registry.futures(told.id):
                    future.tell(told.progress)
